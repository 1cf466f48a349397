"""Shipped configs, found by name from any folder and from an installed wheel."""

from pathlib import Path
from typing import Literal

from minrl.system.names import nearest

_PACKAGE = Path(__file__).resolve().parent.parent
# A wheel holds the configs inside the package; in a checkout they lie beside it.
FOLDER = _PACKAGE / "configs" if (_PACKAGE / "configs").is_dir() else _PACKAGE.parent / "configs"


def shipped_configs() -> dict[str, Path]:
    """Return the shipped TOML files by their path below `configs/`, without the ending: "demo", "online/cartpole"."""
    return {path.relative_to(FOLDER).with_suffix("").as_posix(): path for path in sorted(FOLDER.rglob("*.toml"))}


def find_config(name: Path | str, kind: Literal["config", "grid"] = "config") -> Path:
    """Return the file that `name` refers to: an existing file, else a shipped config.

    A shipped config is named as `configs/online/cartpole.toml`, `online/cartpole` or `cartpole`.

    Args:
        name: a path or the name of a shipped config.
        kind: "grid" for those of `minrl compare`, which lie in `configs/compare/`; "config" for all others.

    Raises:
        ValueError: if there is neither such a file nor such a config; the line names the nearest one.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    known = {key: file for key, file in shipped_configs().items() if key.startswith("compare/") == (kind == "grid")}
    wanted = path.as_posix().removeprefix("./").removeprefix("configs/").removesuffix(".toml")
    matches = [file for key, file in known.items() if wanted in (key, key.rpartition("/")[2])]
    if len(matches) == 1:
        return matches[0]
    names = {key.rpartition("/")[2] for key in known}
    raise ValueError(f"{kind} {name} cannot be read: no such file, nor a {kind} that ships; {nearest(wanted, names)}")
