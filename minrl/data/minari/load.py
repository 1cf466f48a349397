"""Loading of data sets in Minari's layout, and their metadata."""

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.spaces import flatten_space

from minrl.data.cache import cached, fingerprint
from minrl.data.convert import Allocate, Arrays, EpisodeBlock, assemble
from minrl.data.d4rl.spaces import Stated
from minrl.data.environment import EnvironmentInfo, from_spec, make_environment
from minrl.data.episode import Episodes
from minrl.data.hdf5_file import open_hdf5
from minrl.data.limits import check_size
from minrl.data.masks.action_masks import mask_size
from minrl.data.minari.attributes import read_attributes
from minrl.data.minari.download import fetch
from minrl.data.minari.folders import MAIN, TOTALS, find, local_ids, minari_folder
from minrl.data.minari.hdf5 import MASKS, read_hdf5
from minrl.data.space_text import from_json, to_json
from minrl.data.spaces import AnySpace
from minrl.system.digests import checked
from minrl.system.messages import faults_of
from minrl.system.names import did_you_mean
from minrl.system.text_files import read_text

# A set may be somebody's own recordings: never advise to delete it.
_RESTORE = ", restore it from where the set came from"


@dataclass(frozen=True)
class Metadata:
    """Contents of `metadata.json`, or of the attributes of an older set's file."""

    data: Path  # the folder that holds it
    main: Path  # the HDF5 file, where the format is HDF5
    format: str
    episodes: int
    steps: int
    observation_space: AnySpace
    action_space: AnySpace
    environment: EnvironmentInfo | None
    reference_scores: tuple[float, float] | None


def load_minari(dataset_id: str, *, cache: bool, download: bool, given: Stated | None = None) -> Episodes:
    """Load a set by its Minari id; raise ValueError, one line, if it cannot be found or its data are faulty."""
    folder = find(dataset_id)
    if folder is None:
        here = f"data set minari:{dataset_id} is not in {minari_folder()}"
        folder = fetch(dataset_id, minari_folder(), here, _local_sets(dataset_id), download=download)
    return load_folder(folder / "data", f"minari:{dataset_id}", cache=cache, given=given)


def _local_sets(dataset_id: str) -> str:
    """Return the local set with the nearest name, and a list of local sets, for messages."""
    known = local_ids()
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"{did_you_mean(dataset_id, known)} local sets: {shown or 'none'}".strip()


def load_folder(
    data: Path,
    name: str,
    *,
    cache: bool,
    given: Stated | None = None,
    file: str = MAIN,
    folder: Path | None = None,
) -> Episodes:
    """Load a set in Minari's layout by its data folder; `given` replaces its spaces and environment.

    `folder` takes the converted arrays in place of the cache.
    """
    given = given or Stated()
    metadata = read_metadata(data, given, file)
    # The spaces are part of the key, as another order of their keys means other columns.
    layout = [to_json(space) for space in (metadata.observation_space, metadata.action_space)]
    layout += [MASKS] if _has_masks(metadata) else []  # of which a cache from before they were read has none
    with faults_of(str(data)):
        arrays = cached(
            fingerprint(_source_files(metadata), *layout),
            lambda allocate: _convert(metadata, allocate),
            enabled=cache,
            folder=folder,
        )
    return Episodes(
        name=name,
        observation_space=metadata.observation_space,
        action_space=metadata.action_space,
        environment=given.environment or metadata.environment,
        reference_scores=metadata.reference_scores,
        **arrays,
    )


def read_metadata(data: Path, given: Stated | None = None, main: str = MAIN) -> Metadata:
    """Read `metadata.json`, or the attributes of a set from before Minari 0.5.

    Raises ValueError naming the file and what it lacks.
    """
    given = given or Stated()
    file = data / "metadata.json"
    raw: dict[str, Any]
    if file.exists():
        with faults_of(str(file)):
            raw = dict(checked(json.loads(read_text(file)), TOTALS))
    elif (data / main).is_file():
        file = data / main
        raw = read_attributes(file, given)
    else:
        raise ValueError(f"{file} is missing: the set is incomplete{_RESTORE}")
    with faults_of(str(file)):
        return _metadata(raw, given, data, main, file)


def _metadata(raw: dict[str, Any], given: Stated, data: Path, main: str, file: Path) -> Metadata:
    try:
        environment = _environment(raw, file)
        spaces = [
            said or _space(raw, field, given.environment, file)
            for field, said in (("observation_space", given.observation_space), ("action_space", given.action_space))
        ]
        low, high = raw.get("ref_min_score"), raw.get("ref_max_score")
        return Metadata(
            data=data,
            main=data / main,
            format=str(raw.get("data_format", "hdf5")),
            episodes=int(raw["total_episodes"]),
            steps=int(raw["total_steps"]),
            observation_space=spaces[0],
            action_space=spaces[1],
            environment=environment,
            reference_scores=None if low is None or high is None else (float(low), float(high)),
        )
    except KeyError as error:
        raise ValueError(f"{file}: the entry {error} is missing") from error


def _environment(raw: dict[str, Any], file: Path) -> EnvironmentInfo | None:
    text = raw.get("eval_env_spec") or raw.get("env_spec")
    return None if text is None else from_spec(text, str(file))


def _space(raw: dict[str, Any], field: str, environment: EnvironmentInfo | None, file: Path) -> AnySpace:
    """Return the space that the set states, or that of its environment: the user's, else the set's own."""
    if field in raw:
        return from_json(raw[field])
    if environment is None:
        spec = raw.get("env_spec")  # the space of the recording, which an evaluation environment need not share
        if spec is None:
            raise KeyError(field)
        environment = from_spec(spec, str(file))
    with closing(make_environment(environment)) as made:
        space: AnySpace = getattr(made, field)
    flattened = field.removesuffix("_space") in raw.get("flattened", ())
    return flatten_space(space) if flattened else space


def _has_masks(metadata: Metadata) -> bool:
    if metadata.format != "hdf5" or not mask_size(metadata.action_space) or not metadata.main.is_file():
        return False
    with faults_of(str(metadata.main)), open_hdf5(metadata.main) as file:
        return MASKS in file


def _source_files(metadata: Metadata) -> list[Path]:
    if metadata.format != "hdf5":
        return sorted(file for file in metadata.data.rglob("*") if file.is_file())
    if not metadata.main.is_file():
        raise ValueError(f"{metadata.main} is missing: the set is incomplete{_RESTORE}")
    said = metadata.data / "metadata.json"
    files = sorted(metadata.data.glob("*.hdf5")) if metadata.main.name == MAIN else [metadata.main]
    return [*([said] if said.is_file() else []), *files]


def _convert(metadata: Metadata, allocate: Allocate) -> Arrays:
    spaces = metadata.observation_space, metadata.action_space
    if metadata.episodes < 1:
        raise ValueError(f"{metadata.data}: the set has no episodes")
    check_size(metadata.steps, metadata.episodes, *spaces, _source_files(metadata), str(metadata.data))
    return assemble(
        lambda: _blocks(metadata),
        steps=metadata.steps,
        episodes=metadata.episodes,
        observation_space=spaces[0],
        action_space=spaces[1],
        where=str(metadata.data),
        allocate=allocate,
    )


def _blocks(metadata: Metadata) -> Iterator[EpisodeBlock]:
    spaces = metadata.observation_space, metadata.action_space
    if metadata.format == "hdf5":
        return read_hdf5(metadata.main, *spaces, episodes=metadata.episodes)
    if metadata.format in ("arrow", "parquet"):
        from minrl.data.minari.arrow import read_arrow

        return read_arrow(metadata.data, *spaces, format=metadata.format, episodes=metadata.episodes)
    raise ValueError(f"{metadata.data}: data_format {metadata.format!r} is none of hdf5, arrow, parquet")
