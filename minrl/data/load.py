"""`load`: any data set by its name."""

from pathlib import Path

from minrl.data.d4rl.load import load_d4rl, load_file
from minrl.data.d4rl.spaces import stated
from minrl.data.environment import EnvironmentInfo
from minrl.data.episode import Episodes
from minrl.data.minari.attributes import is_episodic
from minrl.data.minari.folders import MAIN
from minrl.data.minari.load import load_folder, load_minari
from minrl.data.spaces import AnySpace

_FORMS = "minari:NAME, d4rl:NAME or hdf5:FILE"


def load(
    name: str,
    *,
    cache: bool = True,
    download: bool = True,
    observation_space: AnySpace | str | None = None,
    action_space: AnySpace | str | None = None,
    environment: EnvironmentInfo | str | None = None,
) -> Episodes:
    """Load "minari:NAME", "d4rl:NAME" or "hdf5:FILE" as whole trajectories.

    The set is converted once to flat arrays in $MINRL_CACHE (default ~/.cache/minrl) and memory-mapped from then on;
    `cache=False` converts in memory. `download=False` never uses the network.

    Args:
        name: of the set.
        cache: keep the converted arrays.
        download: download a set that is not on this machine.
        observation_space: of the recorded arrays, or text such as "Box(-1, 1, (3,))"; replaces the set's own, or the
            guess for a flat file.
        action_space: likewise.
        environment: to evaluate in, or its id, in place of the set's own; MODULE:ID imports MODULE. A flat file
            without spaces takes those of the environment.

    Raises:
        ValueError: one line that names file, episode and field, for an unknown name or faulty data.
    """
    kind, found, rest = name.partition(":")
    if not found or not rest or kind not in ("minari", "d4rl", "hdf5"):
        raise ValueError(f"data set {name!r} is none of {_FORMS}")
    given = stated(observation_space, action_space, environment)
    if kind == "minari":
        return load_minari(rest.strip("/"), cache=cache, download=download, given=given)
    if kind == "d4rl":
        return load_d4rl(rest, cache=cache, download=download, given=given)
    file = main_file(Path(rest).expanduser())
    if is_minari(file):
        return load_folder(file.parent, name, cache=cache, given=given, file=file.name)
    return load_file(file, name, cache=cache, given=given)


def main_file(path: Path) -> Path:
    """Return the HDF5 file of `path`: itself, or the one in a Minari set's folder."""
    if not path.is_dir():
        return path
    inside = path / "data" / MAIN
    return inside if inside.is_file() else path / MAIN


def is_minari(file: Path) -> bool:
    """Return True if a file is a Minari set's: one with metadata beside it, or with one group for each episode."""
    return (file.name == MAIN and (file.parent / "metadata.json").is_file()) or (file.is_file() and is_episodic(file))
