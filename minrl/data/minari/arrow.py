"""Reader of Minari's arrow and parquet storage, one folder per episode.

Shapes: T steps of one episode; the files hold T + 1 rows, the last of which pads all but the observation.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from minrl.data.convert import EpisodeBlock, Place, check_finite, checked_block_masks, flatten_block, last_flags
from minrl.data.limits import MOST_UNPACKED, SMALL
from minrl.data.masks.action_masks import mask_size
from minrl.data.minari.images import decode_frames
from minrl.data.spaces import AnySpace, Leaf, as_rows, block_dtype
from minrl.system.extras import install_hint
from minrl.system.messages import faults_of, one_line
from minrl.system.text_files import read_text

_ROWS_AT_ONCE = 4096
_COLUMNS = ["observations", "actions", "rewards", "terminations", "truncations"]


def read_arrow(
    data: Path, observation_space: AnySpace, action_space: AnySpace, *, format: str, episodes: int
) -> Iterator[EpisodeBlock]:
    """Yield the episodes of a Minari arrow or parquet folder, a block each; ValueError names a fault's place."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise ValueError(f"{data} is stored as {format}: {install_hint('arrow')} to read it") from None
    for episode in range(episodes):
        with faults_of(f"{data}, episode {episode}"):
            yield _block(data, format, episode, observation_space, action_space)


def _block(data: Path, format: str, episode: int, observation_space: AnySpace, action_space: AnySpace) -> EpisodeBlock:
    table = _table(data / str(episode), format, data)
    steps = table.num_rows - 1
    _check_rows(data / str(episode), episode, table.num_rows)
    lengths = np.array([steps])
    place = Place(str(data), episode)

    def read(field: str, leaf: Leaf, count: int) -> Any:
        where = f"{data}, episode {episode}: {field}"
        with faults_of(where):
            return _leaf(table.column(field), leaf, count, where)

    observations = flatten_block(
        observation_space,
        lambda leaf: read("observations", leaf, steps + 1),
        lengths + 1,
        field="observations",
        place=place,
        dtype=block_dtype(observation_space),
    )
    actions = flatten_block(
        action_space, lambda leaf: read("actions", leaf, steps), lengths, field="actions", place=place, dtype=None
    )
    rewards = np.asarray(table.column("rewards"), dtype=np.float32)[:-1]
    check_finite(rewards, lengths, field="rewards", place=place)
    terminated, truncated = (
        last_flags(np.asarray(table.column(field), dtype=np.bool_)[:-1], lengths, field=field, place=place)
        for field in ("terminations", "truncations")
    )
    masks = None
    if size := _mask_size(table, action_space):
        leaf = Leaf(("action_masks",), spaces.MultiBinary(size), slice(0, size))
        masks = checked_block_masks(action_space, read("infos", leaf, steps), actions, lengths, place)
    return EpisodeBlock(lengths, observations[:-1], observations[-1:], actions, rewards, terminated, truncated, masks)


def _mask_size(table: Any, action_space: AnySpace) -> int:
    """Return the flags of the action masks among the infos, 0 if there are none."""
    if "infos" not in table.column_names:
        return 0
    names = [field.name for field in table.schema.field("infos").type]
    return mask_size(action_space) if "action_masks" in names else 0


def _table(folder: Path, format: str, data: Path) -> Any:
    """Read all rows of one episode; Minari's own reader takes record batches for episodes and cuts long ones.

    Batches are read one by one, as a few bytes may stand for any number of equal rows, and every offset within them is
    checked, which Arrow itself leaves to its callers.
    """
    import pyarrow
    import pyarrow.dataset

    if not folder.is_dir():
        raise ValueError(f"{folder} is missing: fewer episodes than the metadata says")
    files = [file for file in sorted(folder.iterdir()) if not file.name.startswith(("_", ".", "metadata.json"))]
    if not all(file.is_file() for file in files):
        raise ValueError(f"{folder} holds something else than files")
    allowed = SMALL + MOST_UNPACKED * sum(file.stat().st_size for file in files)
    try:
        source = pyarrow.dataset.dataset([str(file) for file in files], format=format)
        batches, size = [], 0
        columns = [*_COLUMNS, *(["infos"] if "infos" in source.schema.names else [])]
        for batch in source.scanner(columns=columns, batch_size=_ROWS_AT_ONCE, use_threads=False).to_batches():
            batch.validate(full=True)
            batches.append(batch)
            size += batch.nbytes
            if size > allowed:
                raise ValueError(f"{folder} unpacks to more than {MOST_UNPACKED:,} times its files, so it is not read")
        return pyarrow.Table.from_batches(batches)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"{folder} cannot be read: {one_line(error, 200)}") from error


def _check_rows(folder: Path, episode: int, rows: int) -> None:
    if rows < 2:
        raise ValueError(f"{folder.parent}, episode {episode}: no steps")
    try:
        expected = json.loads(read_text(folder / "metadata.json")).get("total_steps")
    except (OSError, ValueError, AttributeError, RecursionError):
        return
    if expected is not None and int(expected) != rows - 1:
        raise ValueError(
            f"{folder.parent}, episode {episode}: {rows} observations for total_steps = {expected}, expected one more"
        )


def _leaf(column: Any, leaf: Leaf, rows: int, where: str) -> Any:
    import pyarrow
    import pyarrow.compute

    array = column.combine_chunks()
    if isinstance(array, pyarrow.ChunkedArray):
        array = pyarrow.concat_arrays(array.chunks)
    try:
        for key in leaf.keys:
            array = pyarrow.compute.struct_field(array, str(key))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{where} has no part {'/'.join(map(str, leaf.keys))}") from error
    array = array.slice(0, rows)
    if isinstance(leaf.space, spaces.Text):
        return array.to_pylist()
    if pyarrow.types.is_binary(array.type):
        return decode_frames(array.to_pylist(), leaf, where)
    values = array.flatten() if pyarrow.types.is_fixed_size_list(array.type) else array
    if len(values) != rows * leaf.raw_width or array.null_count:
        raise ValueError(
            f"{where} has {len(values)} values, the declared space {leaf.space} needs {rows * leaf.raw_width}"
        )
    return as_rows(leaf, np.asarray(values).reshape(rows, leaf.raw_width))
