"""A new set of some columns of another's observations, so that a task needs memory: positions without velocities.

Shapes: N steps and E episodes of a set, O flat width of its observations, K columns that are kept.
"""

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from minrl.data.environment import EnvironmentInfo, make_environment
from minrl.data.episode import Episodes
from minrl.data.load import load, main_file
from minrl.data.minari.folders import MAIN, TOTALS, NewSet, find, set_metadata
from minrl.data.minari.writer import EpisodeWriter
from minrl.data.space_match import mismatch
from minrl.system.digests import KEY
from minrl.system.messages import one_line
from minrl.system.text_files import read_text

_RANGE = re.compile(r"(\d+)(?:-(\d+))?")
# Of the other observations, not of these.
_NOT_KEPT = TOTALS | {KEY, "env_spec", "eval_env_spec"}


def parse_columns(words: Iterable[str]) -> list[int]:
    """Read columns such as `0 2 5-8` or `0-4`, both ends included, counted from 0.

    Raises:
        ValueError: for anything else, or a column that is named twice.
    """
    found: list[int] = []
    for word in words:
        parts = _RANGE.fullmatch(word)
        if parts is None or (last := int(parts[2] or parts[1])) < int(parts[1]) or last > 10**6:
            raise ValueError(f"columns are numbers or ranges, such as 0 2 5-8, got {word!r}")
        found += range(int(parts[1]), last + 1)
    if not found or len(set(found)) < len(found):
        raise ValueError(f"name each column once and at least one, got {' '.join(map(str, found)) or 'none'}")
    return found


def select_columns(
    source: str, columns: Sequence[int], dataset_id: str, environment: EnvironmentInfo | None = None
) -> Episodes:
    """Write a set with the observation columns `columns` of the set `source`; return it as loaded.

    Actions, rewards, ends of episodes, action masks, reference scores and the other entries of its metadata are kept.
    An observation with parts becomes one Box of its flat columns.

    Args:
        source: any name that `load` takes.
        columns: (K,), of the flat observation (O,), in the order in which they are stored.
        dataset_id: Minari's id of the new set, with or without `minari:`.
        environment: that shows these columns, for evaluations; None for a set without one.

    Raises:
        ValueError: for a column that the set does not have, an environment of other spaces, or a taken id.
    """
    whole = load(source)
    flat = spaces.flatten_space(whole.observation_space)
    width = whole.observations.shape[1]
    if not isinstance(flat, spaces.Box):
        raise ValueError(f"{source}: observations of {one_line(whole.observation_space)} have no columns")
    if not columns or not all(0 <= column < width for column in columns):
        raise ValueError(f"{source}: columns lie from 0 to {width - 1}, got {' '.join(map(str, columns))}")
    keep = np.array(columns)
    kind: Any = flat.dtype.type
    space = spaces.Box(flat.low.reshape(-1)[keep], flat.high.reshape(-1)[keep], dtype=kind)
    if environment is not None:
        _check_environment(environment, space, whole)
    new_set = NewSet(dataset_id.removeprefix("minari:"))
    part = replace(
        whole,
        observations=whole.observations[:, keep],
        final_observations=whole.final_observations[:, keep],
        observation_space=space,
        environment=environment,
    )
    try:
        with new_set:
            _write(new_set, part, dataset_id.removeprefix("minari:"), source, columns)
    except OSError as error:
        raise ValueError(f"{new_set.target} cannot be written: {error.strerror or error}") from error
    return load(f"minari:{dataset_id.removeprefix('minari:')}")


def _write(new_set: NewSet, part: Episodes, dataset_id: str, source: str, columns: Sequence[int]) -> None:
    """Write the set's files."""
    stored = part.observation_space, part.action_space
    with closing(EpisodeWriter(new_set.data / MAIN, *stored)) as writer:
        for index in range(part.num_episodes):
            writer.copy(part, index)
    metadata = {key: value for key, value in _metadata_of(source).items() if key not in _NOT_KEPT}
    metadata |= set_metadata(dataset_id, *stored)
    metadata |= {"source_dataset": source, "source_columns": list(columns)}
    if part.environment is not None:
        metadata["env_spec"] = metadata["eval_env_spec"] = part.environment.to_spec()
    if part.reference_scores is not None:
        metadata["ref_min_score"], metadata["ref_max_score"] = part.reference_scores
    new_set.write_metadata(metadata, episodes=part.num_episodes, steps=part.num_steps)


def _metadata_of(source: str) -> dict[str, Any]:
    """Return the entries of a Minari set's metadata.json; none of another set."""
    kind, _, name = source.partition(":")
    folder = None
    if kind == "minari":
        found = find(name.strip("/"))
        folder = None if found is None else found / "data"
    elif kind == "hdf5":
        folder = main_file(Path(name).expanduser()).parent
    if folder is None or not (folder / "metadata.json").is_file():
        return {}
    values: dict[str, Any] = json.loads(read_text(folder / "metadata.json"))
    return values


def _check_environment(environment: EnvironmentInfo, space: spaces.Box, whole: Episodes) -> None:
    """Raise ValueError unless the environment shows these columns and takes the set's actions."""
    with closing(make_environment(environment)) as made:
        for kind, ours, theirs in (
            ("observation", space, made.observation_space),
            ("action", whole.action_space, made.action_space),
        ):
            if mismatch(ours, theirs, kind) is not None:  # type: ignore[arg-type]
                raise ValueError(
                    f"{environment.id} has the {kind} space {one_line(theirs)}, the new set {one_line(ours)}"
                )
