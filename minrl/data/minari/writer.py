"""Writer of Minari's HDF5 layout, for episodes that are recorded and for sets in memory or in mapped files.

Shapes: T steps of one episode, O and A flat widths.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import numpy.typing as npt

from minrl.data.episode import Episodes
from minrl.data.mapped import BYTES_AT_ONCE
from minrl.data.minari.folders import MAIN, NewSet, set_metadata
from minrl.data.spaces import AnySpace, unflatten

_LEAVES = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)


@dataclass(frozen=True)
class RecordedEpisode:
    """T actions and rewards, T + 1 observations, and how the last step ended the episode."""

    seed: int
    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    terminated: bool
    truncated: bool
    action_masks: list[npt.NDArray[np.bool_]] | None = None  # before each action

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        assert steps > 0
        assert len(self.actions) == steps
        assert len(self.observations) == steps + 1


class EpisodeWriter:
    """Writer of a set's HDF5 file, one group for each episode.

    Args:
        file: to write to.
        observation_space, action_space: as stored.
        reward_type: of the stored rewards.
        compress: gzip each array.
    """

    def __init__(
        self,
        file: Path,
        observation_space: AnySpace,
        action_space: AnySpace,
        *,
        reward_type: npt.DTypeLike = np.float64,
        compress: bool = False,
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.reward_type, self.compress = reward_type, compress
        self.episodes = self.steps = 0
        # The 1.10 layout indexes a one-chunk array within its header, where the default spends kilobytes on a tree, and
        # has checksums of all but the values, which have theirs from the fletcher32 filter: readers see a flipped bit.
        self.file = h5py.File(file, "w", libver=("v110", "v110"))

    def add(self, episode: RecordedEpisode) -> None:
        """Append an episode of samples of the environment's spaces."""
        group = self._open(episode.rewards, episode.terminated, episode.truncated)
        group.attrs["seed"] = episode.seed
        self._write(group, "observations", self.observation_space, episode.observations)
        self._write(group, "actions", self.action_space, episode.actions)
        if episode.action_masks is not None:
            self._array(group, "infos/action_masks", np.stack(episode.action_masks))

    def copy(self, episodes: Episodes, index: int) -> None:
        """Append an episode of a set whose spaces have no parts, in pieces, so that memory does not grow with it."""
        begin, end = int(episodes.offsets[index]), int(episodes.offsets[index + 1])
        steps = end - begin
        group = self._open(
            episodes.rewards[begin:end], bool(episodes.terminated[index]), bool(episodes.truncated[index])
        )
        if episodes.action_masks is not None:
            self._array(group, "infos/action_masks", np.asarray(episodes.action_masks[begin:end]))
        row_bytes = episodes.observations[:1].nbytes + episodes.actions[:1].nbytes
        size = max(1, BYTES_AT_ONCE // max(1, row_bytes))
        for name, space, rows, last in (
            ("observations", self.observation_space, episodes.observations, episodes.final_observations[index]),
            ("actions", self.action_space, episodes.actions, None),
        ):
            first = unflatten(space, rows[begin : begin + 1], bounded=False)
            shape = (steps + (last is not None), *first.shape[1:])
            chunks = (min(shape[0], size), *shape[1:])
            stored = group.create_dataset(name, shape, first.dtype, chunks=chunks, fletcher32=True)
            for row in range(0, steps, size):
                stop = min(row + size, steps)
                stored[row:stop] = unflatten(space, rows[begin + row : begin + stop], bounded=False)
            if last is not None:
                stored[steps:] = unflatten(space, last[None], bounded=False)

    def close(self) -> None:
        """Close the file."""
        self.file.close()

    def _open(self, rewards: npt.ArrayLike, terminated: bool, truncated: bool) -> h5py.Group:
        """Begin an episode with its rewards (T,) and flags."""
        values = np.asarray(rewards).astype(self.reward_type)
        group = self.file.create_group(f"episode_{self.episodes}")
        group.attrs.update({"id": self.episodes, "total_steps": len(values)})
        self._array(group, "rewards", values)
        for name, flag in (("terminations", terminated), ("truncations", truncated)):
            flags = np.zeros(len(values), np.bool_)
            flags[-1] = flag
            self._array(group, name, flags)
        self.episodes += 1
        self.steps += len(values)
        return group

    def _write(self, group: h5py.Group, name: str, space: AnySpace, values: list[Any]) -> None:
        if isinstance(space, gym.spaces.Dict):
            for key, part in space.items():
                self._write(group.require_group(name), key, part, [value[key] for value in values])
        elif isinstance(space, gym.spaces.Tuple):
            for index, part in enumerate(space):
                self._write(group.require_group(name), f"_index_{index}", part, [value[index] for value in values])
        else:
            stacked = np.asarray(values, space.dtype)
            if stacked.shape[1:] != space.shape:
                raise ValueError(
                    f"{group.name}/{name}: the environment gave shape {stacked.shape[1:]}, its space says {space.shape}"
                )
            self._array(group, name, stacked)

    def _array(self, group: h5py.Group, name: str, values: npt.NDArray[Any]) -> None:
        options: dict[str, Any] = {"fletcher32": True} if values.size else {}
        if self.compress:
            options |= {"chunks": values.shape, "compression": "gzip", "compression_opts": 9, "shuffle": True}
        elif values.size:
            rows = max(1, BYTES_AT_ONCE // values[:1].nbytes)
            options["chunks"] = (min(len(values), rows), *values.shape[1:])
        group.create_dataset(name, data=values, **options)


@contextmanager
def record_set(
    dataset_id: str,
    environment: gym.Env[Any, Any],
    *,
    float32: bool = False,
    compress: bool = False,
    overwrite: bool = False,
    metadata: Mapping[str, Any] | None = None,
) -> Iterator[EpisodeWriter]:
    """Yield a writer for episodes of an environment; all of them appear under the id at the end, or none.

    Args:
        dataset_id: Minari's id, `[namespace/]name-v0`.
        environment: whose spaces and spec are recorded.
        float32: store float64 boxes and rewards as float32, and say so in the recorded spaces.
        compress: gzip each array.
        overwrite: replace a data set of this name; it stays in place until the new one is complete.
        metadata: further entries of metadata.json: author (a list), description, ref_min_score, ...

    Raises:
        ValueError: for a malformed or existing id, a space that Minari or minrl cannot hold, reserved metadata.
    """
    new_set = NewSet(dataset_id, overwrite=overwrite)
    spaces = [_stored(space, float32) for space in (environment.observation_space, environment.action_space)]
    spec = _spec(environment)
    entries = set_metadata(dataset_id, *spaces)
    entries |= {"env_spec": spec, "eval_env_spec": spec, "requirements": _requirements(environment)}
    if reserved := sorted(entries.keys() & (metadata or {}).keys()):
        raise ValueError(f"metadata {', '.join(reserved)}: written by the collection itself, not to be given")
    with new_set:
        kind = np.float32 if float32 else np.float64
        with closing(EpisodeWriter(new_set.data / MAIN, *spaces, reward_type=kind, compress=compress)) as writer:
            yield writer
        new_set.write_metadata({**entries, **(metadata or {})}, episodes=writer.episodes, steps=writer.steps)


def _stored(space: AnySpace, float32: bool) -> AnySpace:
    """Return the space as stored: the environment's, with its float64 boxes as float32 if `float32`."""
    if isinstance(space, gym.spaces.Dict):
        # Pairs keep the order of the keys.
        return gym.spaces.Dict([(key, _stored(part, float32)) for key, part in space.items()])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([_stored(part, float32) for part in space])
    if not isinstance(space, _LEAVES):
        raise ValueError(f"a {type(space).__name__} space cannot be collected; Box, Discrete, Multi*, Dict, Tuple can")
    if float32 and isinstance(space, gym.spaces.Box) and space.dtype == np.float64:
        with np.errstate(over="ignore"):  # bounds beyond float32 become infinite
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return gym.spaces.Box(low, high, dtype=np.float32)
    return space


def _spec(environment: gym.Env[Any, Any]) -> str:
    """Return the environment's spec as JSON, from which `gymnasium.make` builds it again."""
    if environment.spec is None:
        raise ValueError("the environment has no spec; make it with gymnasium.make")
    spec = copy.deepcopy(environment.spec)
    # Gymnasium writes no callables: name a class or function by its module, as a registered string does.
    if isinstance(spec.entry_point, (type, FunctionType)):
        spec.entry_point = f"{spec.entry_point.__module__}:{spec.entry_point.__qualname__}"
    try:
        return str(spec.to_json())
    except (TypeError, ValueError) as error:
        raise ValueError(f"the options of {spec.id} cannot be recorded as JSON: {error}") from error


def _requirements(environment: gym.Env[Any, Any]) -> list[str]:
    """List releases that the recorded values depend on: Gymnasium, the environment's package, its physics engine."""
    owners = packages_distributions().get(type(environment.unwrapped).__module__.split(".")[0], [])
    physics = ["mujoco"] if hasattr(environment.unwrapped, "model") and find_spec("mujoco") else []
    return [f"{package}=={version(package)}" for package in dict.fromkeys(["gymnasium", *owners, *physics])]
