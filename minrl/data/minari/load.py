"""Data sets in Minari's layout: where they lie, what their metadata says, and loading them.

Shapes: E episodes, O and A flat widths.
"""

import difflib
import json
import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gymnasium.spaces import flatten_space

from minrl.data.cache import cached, fingerprint
from minrl.data.convert import Allocate, Arrays, Block, assemble
from minrl.data.d4rl.spaces import Stated
from minrl.data.environment import EnvironmentInfo, from_spec, make_environment
from minrl.data.episode import Episodes
from minrl.data.minari.attributes import read_attributes
from minrl.data.minari.download import fetch
from minrl.data.minari.hdf5 import read_hdf5
from minrl.data.spaces import AnySpace, from_json, to_json

SHIPPED = Path(__file__).parent.parent / "shipped"
MAIN = "main_data.hdf5"
# A set may be a person's own recordings: nothing is to be deleted on our word.
_RESTORE = ", restore it from where the set came from"


@dataclass(frozen=True)
class Metadata:
    """What `metadata.json` says, or the attributes of an older set's file."""

    data: Path  # the folder that holds it
    main: Path  # the HDF5 file, where the format is HDF5
    format: str
    episodes: int
    steps: int
    observation_space: AnySpace
    action_space: AnySpace
    environment: EnvironmentInfo | None
    reference_scores: tuple[float, float] | None


def minari_folder() -> Path:
    """$MINARI_DATASETS_PATH, else Minari's own ~/.minari/datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def find(dataset_id: str) -> Path | None:
    """The folder of a set: among the local ones first, then among those that ship with the package."""
    return next(
        (root / dataset_id for root in (minari_folder(), SHIPPED) if (root / dataset_id / "data").is_dir()),
        None,
    )


def local_ids() -> list[str]:
    """Every set that `minari:` finds without a network."""
    return sorted({found for root in (minari_folder(), SHIPPED) for found in _ids(root, "")})


def _ids(root: Path, prefix: str) -> Iterator[str]:
    try:
        folders = sorted(entry.name for entry in (root / prefix).iterdir() if entry.is_dir())
    except OSError:
        return
    if prefix and "data" in folders:
        yield prefix
        return
    for name in folders:
        if not name.startswith("."):
            yield from _ids(root, f"{prefix}/{name}" if prefix else name)


def nearest(name: str, known: list[str]) -> str:
    """'did you mean' and the known names, as the end of a message."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    hint = f"did you mean {close[0]}? " if close else ""
    shown = ", ".join(known[:12]) + (f" and {len(known) - 12} more" if len(known) > 12 else "")
    return f"{hint}local sets: {shown or 'none'}"


def load_minari(dataset_id: str, *, cache: bool, download: bool, given: Stated | None = None) -> Episodes:
    """Load a set by its Minari id; raise ValueError, one line, when it is nowhere to be had or its data are faulty."""
    folder = find(dataset_id)
    if folder is None:
        here = f"data set minari:{dataset_id} is not in {minari_folder()}"
        folder = fetch(dataset_id, minari_folder(), here, nearest(dataset_id, local_ids()), download=download)
    return load_folder(folder / "data", f"minari:{dataset_id}", cache=cache, given=given)


def load_folder(
    data: Path,
    name: str,
    *,
    cache: bool,
    given: Stated | None = None,
    file: str = MAIN,
    folder: Path | None = None,
) -> Episodes:
    """Load a set in Minari's layout by its data folder; `given` says spaces and environment in place of the set.

    `folder` takes the converted arrays, in place of the cache.
    """
    given = given or Stated()
    metadata = read_metadata(data, given, file)
    # The spaces say which column is which: another order of keys must not find columns of the old order.
    layout = [to_json(space) for space in (metadata.observation_space, metadata.action_space)]
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
    """Read `metadata.json`, or what stands for it in a set from before Minari 0.5.

    Raises ValueError naming the file and what it lacks.
    """
    given = given or Stated()
    file = data / "metadata.json"
    try:
        raw: dict[str, Any] = json.loads(file.read_text())
    except FileNotFoundError:
        if not (data / main).is_file():
            raise ValueError(f"{file} is missing: the set is incomplete{_RESTORE}") from None
        file = data / main
        raw = read_attributes(file, given)
    except (OSError, ValueError) as error:
        raise ValueError(f"{file} cannot be read: {error}") from error
    try:
        environment = _environment(raw)
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
    except (ValueError, TypeError) as error:
        raise ValueError(f"{file}: {error}") from error


def _environment(raw: dict[str, Any]) -> EnvironmentInfo | None:
    text = raw.get("eval_env_spec") or raw.get("env_spec")
    return None if text is None else from_spec(text)


def _space(raw: dict[str, Any], field: str, environment: EnvironmentInfo | None, file: Path) -> AnySpace:
    """Return the space that the set states, or that of the environment: the user's, else the set's own."""
    if field in raw:
        return from_json(raw[field])
    if environment is None:
        from minrl.data.trust import checked  # which imports this package

        spec = raw.get("env_spec")  # the space of the recording, which an evaluation environment need not share
        if spec is None:
            raise KeyError(field)
        environment = checked(from_spec(spec), str(file))
    with closing(make_environment(environment)) as made:
        space: AnySpace = getattr(made, field)
    flattened = field.removesuffix("_space") in raw.get("flattened", ())
    return flatten_space(space) if flattened else space


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
    return assemble(
        lambda: _blocks(metadata),
        steps=metadata.steps,
        episodes=metadata.episodes,
        observation_space=spaces[0],
        action_space=spaces[1],
        where=str(metadata.data),
        allocate=allocate,
    )


def _blocks(metadata: Metadata) -> Iterator[Block]:
    spaces = metadata.observation_space, metadata.action_space
    if metadata.format == "hdf5":
        return read_hdf5(metadata.main, *spaces, episodes=metadata.episodes)
    if metadata.format in ("arrow", "parquet"):
        from minrl.data.minari.arrow import read_arrow

        return read_arrow(metadata.data, *spaces, format=metadata.format, episodes=metadata.episodes)
    raise ValueError(f"{metadata.data}: data_format {metadata.format!r} is none of hdf5, arrow, parquet")
