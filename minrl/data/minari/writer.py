"""Writing a Minari data set: to a hidden folder under Minari's root, moved to its name when it is complete.

Shapes: T steps of one episode.
"""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, TracebackType
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
from minari.dataset.minari_dataset import parse_dataset_id
from minari.serialization import serialize_space
from minari.storage.datasets_root_dir import get_dataset_path

LEAVES = (gym.spaces.Box, gym.spaces.Discrete, gym.spaces.MultiDiscrete, gym.spaces.MultiBinary)


@dataclass(frozen=True)
class RecordedEpisode:
    """T actions and rewards, T + 1 observations, and how the last step ended the episode."""

    seed: int
    observations: list[Any]
    actions: list[Any]
    rewards: list[float]
    terminated: bool
    truncated: bool

    def __post_init__(self) -> None:
        steps = len(self.rewards)
        assert steps > 0
        assert len(self.actions) == steps
        assert len(self.observations) == steps + 1


class MinariWriter:
    """`with MinariWriter(...) as writer: writer.add(episode)`: all episodes under the name, or nothing.

    Args:
        name: Minari's id, `[namespace/]name-v0`.
        environment: whose spaces and spec are recorded.
        float32: store float64 boxes and rewards as float32, and say so in the recorded spaces.
        compress: gzip each array.
        overwrite: replace a data set of this name; it stays in place until the new one is complete.
        metadata: further entries of metadata.json: author (a list), description, ref_min_score, ...

    Raises:
        ValueError: a malformed or existing name, a space that Minari or minrl cannot hold, reserved metadata.
    """

    def __init__(
        self,
        name: str,
        environment: gym.Env[Any, Any],
        *,
        float32: bool = False,
        compress: bool = False,
        overwrite: bool = False,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        self.target = target_folder(name, overwrite)
        self.observation_space = storage_space(environment.observation_space, float32)
        self.action_space = storage_space(environment.action_space, float32)
        self.reward_type = np.float32 if float32 else np.float64
        self.compress = compress
        self.episodes = self.steps = 0
        self.metadata = describe(name, environment, self.observation_space, self.action_space)
        reserved = sorted(self.metadata.keys() & (metadata or {}).keys())
        if reserved:
            raise ValueError(f"metadata {', '.join(reserved)}: written by the collection itself, not to be given")
        self.metadata.update(metadata or {})

    def __enter__(self) -> MinariWriter:
        root = get_dataset_path()
        # Minari passes over names that begin with a dot.
        self.folder = Path(tempfile.mkdtemp(prefix=".collecting-", dir=root))
        (self.folder / "set" / "data").mkdir(parents=True)
        # The 1.10 layout indexes a one-chunk array within its header; the default spends kilobytes on a tree.
        file = self.folder / "set" / "data" / "main_data.hdf5"
        self.file = h5py.File(file, "w", libver=("v110", "v110"))
        return self

    def add(self, episode: RecordedEpisode) -> None:
        group = self.file.create_group(f"episode_{self.episodes}")
        steps = len(episode.rewards)
        group.attrs.update({"id": self.episodes, "seed": episode.seed, "total_steps": steps})
        self.write(group, "observations", self.observation_space, episode.observations)
        self.write(group, "actions", self.action_space, episode.actions)
        self.array(group, "rewards", np.asarray(episode.rewards, self.reward_type))
        for name, flag in (("terminations", episode.terminated), ("truncations", episode.truncated)):
            flags = np.zeros(steps, np.bool_)
            flags[-1] = flag
            self.array(group, name, flags)
        self.episodes += 1
        self.steps += steps

    def write(self, group: h5py.Group, name: str, space: gym.Space[Any], values: list[Any]) -> None:
        if isinstance(space, gym.spaces.Dict):
            for key, inner in space.items():
                self.write(group.require_group(name), key, inner, [value[key] for value in values])
        elif isinstance(space, gym.spaces.Tuple):
            for index, inner in enumerate(space):
                self.write(group.require_group(name), f"_index_{index}", inner, [value[index] for value in values])
        else:
            stacked = np.asarray(values, space.dtype)
            if stacked.shape[1:] != space.shape:
                raise ValueError(
                    f"{group.name}/{name}: the environment gave shape {stacked.shape[1:]}, its space says {space.shape}"
                )
            self.array(group, name, stacked)

    def array(self, group: h5py.Group, name: str, values: np.ndarray) -> None:
        options: dict[str, Any] = {}
        if self.compress:
            options = {"chunks": values.shape, "compression": "gzip", "compression_opts": 9, "shuffle": True}
        group.create_dataset(name, data=values, **options)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.file.close()
            if kind is None:
                self.finish()
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def finish(self) -> None:
        data = self.folder / "set" / "data"
        size = (data / "main_data.hdf5").stat().st_size
        totals = {
            "total_episodes": self.episodes,
            "total_steps": self.steps,
            "dataset_size": round(size / 1e6, 1),
        }
        (data / "metadata.json").write_text(json.dumps(self.metadata | totals))
        make_namespaces(self.target.parent)
        replaced = self.folder / "replaced"
        try:
            if self.target.exists():
                self.target.rename(replaced)
            (self.folder / "set").rename(self.target)
        except BaseException:
            if replaced.exists() and not self.target.exists():
                replaced.rename(self.target)
            raise


def target_folder(name: str, overwrite: bool) -> Path:
    """Where Minari looks for `name`, which must be well formed and, unless it may be replaced, new."""
    try:
        parse_dataset_id(name)
        wrong = "//" in name
    except (ValueError, TypeError):
        wrong = True
    if wrong:
        raise ValueError(
            f"data set name {name!r}: give [namespace/]name-v0, such as hopper/mine-v0 (letters, "
            f"digits, _ and -; a namespace has two characters or more)"
        )
    target = Path(get_dataset_path(name))
    if (target / "data").is_dir() and not overwrite:
        raise ValueError(f"data set {name} exists already in {target}; give another name, or overwrite it")
    if target.exists() and not (target / "data").is_dir():
        raise ValueError(f"{target} exists and is no data set; give another name")
    return target


def make_namespaces(folder: Path) -> None:
    """Each folder between Minari's root and the data set, with the file that makes it a namespace."""
    root = get_dataset_path()
    folder.mkdir(parents=True, exist_ok=True)
    while folder != root:
        marker = folder / "namespace_metadata.json"
        if not marker.exists():
            marker.write_text("{}")
        folder = folder.parent


def storage_space(space: gym.Space[Any], float32: bool) -> gym.Space[Any]:
    """The space as stored: the environment's own, its float64 boxes made float32 where that is wanted."""
    if isinstance(space, gym.spaces.Dict):
        # Pairs keep the order of the keys.
        return gym.spaces.Dict([(key, storage_space(inner, float32)) for key, inner in space.items()])
    if isinstance(space, gym.spaces.Tuple):
        return gym.spaces.Tuple([storage_space(inner, float32) for inner in space])
    if not isinstance(space, LEAVES):
        raise ValueError(f"a {type(space).__name__} space cannot be collected; Box, Discrete, Multi*, Dict, Tuple can")
    if float32 and isinstance(space, gym.spaces.Box) and space.dtype == np.float64:
        with np.errstate(over="ignore"):  # bounds beyond float32 become infinite
            low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return gym.spaces.Box(low, high, dtype=np.float32)
    return space


def describe(
    name: str, environment: gym.Env[Any, Any], observations: gym.Space[Any], actions: gym.Space[Any]
) -> dict[str, Any]:
    """The entries of metadata.json that are known before the first step."""
    spec = specification(environment)
    return {
        "dataset_id": name,
        "data_format": "hdf5",
        "jpeg_encoding": False,
        "observation_space": serialize_space(observations),
        "action_space": serialize_space(actions),
        "env_spec": spec,
        "eval_env_spec": spec,
        "requirements": requirements(environment),
        "minari_version": version("minari"),
    }


def specification(environment: gym.Env[Any, Any]) -> str:
    """The environment's spec as JSON, from which `gymnasium.make` builds it again."""
    if environment.spec is None:
        raise ValueError("the environment has no spec; make it with gymnasium.make")
    spec = copy.deepcopy(environment.spec)
    # Gymnasium writes no callables; one that has a module is named by it, as a registered string would.
    if isinstance(spec.entry_point, (type, FunctionType)):
        spec.entry_point = f"{spec.entry_point.__module__}:{spec.entry_point.__qualname__}"
    try:
        return str(spec.to_json())
    except (TypeError, ValueError) as error:
        raise ValueError(f"the options of {spec.id} cannot be recorded as JSON: {error}") from error


def requirements(environment: gym.Env[Any, Any]) -> list[str]:
    """Releases that the recorded numbers depend on: Gymnasium, the environment's own package, its physics."""
    owners = packages_distributions().get(type(environment.unwrapped).__module__.split(".")[0], [])
    physics = ["mujoco"] if hasattr(environment.unwrapped, "model") and find_spec("mujoco") else []
    return [f"{package}=={version(package)}" for package in dict.fromkeys(["gymnasium", *owners, *physics])]
