"""Limits on the memory that a data set may take, in proportion to its files."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from minrl.data.spaces import AnySpace, leaves
from minrl.system.trust import trusts_files

# Bytes that any array may have, and the largest ratio of unpacked to stored bytes beyond that (deflate: 1032).
SMALL, MOST_UNPACKED = 1 << 24, 1000


def check_size(
    steps: int, episodes: int, observation_space: AnySpace, action_space: AnySpace, files: Iterable[Path], where: str
) -> None:
    """Check that a set of `steps` steps may come from `files`, before anything is allocated.

    Flattened and before one-hot encoding it may take 4 x `SMALL` bytes and `MOST_UNPACKED` times the bytes of the
    files beyond that, encoded eight times as much; a file of `--trust` may take anything.

    Raises:
        ValueError: that begins with `where`.
    """
    if steps < 1 or episodes < 1 or episodes > steps:
        raise ValueError(f"{where}: {episodes:,} episodes with {steps:,} steps are no data set")
    if trusts_files():
        return
    parts = [*leaves(observation_space), *leaves(action_space)]
    rows = steps + episodes
    stored = sum(file.stat().st_size for file in files)
    allowed = 4 * SMALL + MOST_UNPACKED * stored
    raw = rows * (4 + sum(part.raw_width * np.dtype(part.raw_dtype).itemsize for part in parts))
    encoded = 4 * rows * sum(part.columns.stop - part.columns.start for part in parts)
    if raw > allowed or encoded > 8 * allowed:
        raise ValueError(
            f"{where}: {steps:,} steps of {observation_space} and {action_space} take {max(raw, encoded):,} bytes, "
            f"their files hold {stored:,}: if that is right, load them with --trust (in Python MINRL_TRUST=1)"
        )
