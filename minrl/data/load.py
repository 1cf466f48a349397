"""One function that loads any data set by its name."""

from pathlib import Path

from minrl.data.d4rl import load_d4rl, load_file
from minrl.data.episode import Episodes
from minrl.data.minari import load_folder, load_minari

_FORMS = "minari:NAME, d4rl:NAME or hdf5:FILE"


def load(name: str, *, cache: bool = True, download: bool = True) -> Episodes:
    """Load "minari:NAME", "d4rl:NAME" or "hdf5:FILE" as whole trajectories.

    The set is converted once to flat float32 arrays in $MINRL_CACHE (default ~/.cache/minrl) and memory-mapped from
    then on; `cache=False` converts in memory. `download=False` never touches the network.
    Raises ValueError, one line that names file, episode and field, for an unknown name or faulty data.
    """
    kind, found, rest = name.partition(":")
    if not found or not rest or kind not in ("minari", "d4rl", "hdf5"):
        raise ValueError(f"data set {name!r} is none of {_FORMS}")
    if kind == "minari":
        return load_minari(rest.strip("/"), cache=cache, download=download)
    if kind == "d4rl":
        return load_d4rl(rest, cache=cache, download=download)
    file = Path(rest).expanduser()
    if file.is_dir():
        file = file / "main_data.hdf5"
    if file.name == "main_data.hdf5" and (file.parent / "metadata.json").is_file():
        return load_folder(file.parent, name, cache=cache)
    return load_file(file, name, cache=cache)
