"""Registration of Gymnasium ids by the installed packages that have them."""

import contextlib
import importlib
import importlib.util
import io
import sys
from importlib.metadata import entry_points
from pathlib import Path

import gymnasium

from minrl.system.extras import install_hint

# The extra that holds a module.
EXTRAS = {"gymnasium_robotics": "robotics", "mujoco": "mujoco", "d4rl": "d4rl", "box2d": "box2d", "popgym": "popgym"}


def register(environment_id: str) -> None:
    """Import the installed package that registers `environment_id`; do nothing if there is none.

    Packages name the modules that register their ids in the entry-point group `minrl.environments`. popgym and
    Gymnasium-Robotics, which do not, are tried as well.

    Raises:
        ValueError: if it is one of popgym's and popgym is not installed, or such a module cannot be imported.
    """
    if ":" in environment_id:
        _add_current_folder(environment_id.partition(":")[0])  # Gymnasium itself imports MODULE in MODULE:ID
        return
    if environment_id in gymnasium.registry:
        return
    if environment_id.startswith("popgym-"):
        _import_popgym(environment_id)
        return
    for entry in entry_points(group="minrl.environments"):
        try:
            entry.load()
        except ImportError as error:
            raise ValueError(f"environments of {entry.name} ({entry.value}) cannot be imported: {error}") from error
        if environment_id in gymnasium.registry:
            return
    if importlib.util.find_spec("gymnasium_robotics") is not None:
        # It prints deprecation advice about all its environments.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            import gymnasium_robotics

            gymnasium.register_envs(gymnasium_robotics)


def _add_current_folder(module: str) -> None:
    """Add the current folder to Python's path if it has the module, as `python -m` does."""
    package, here = module.partition(".")[0], Path.cwd()
    if importlib.util.find_spec(package) is None and ((here / f"{package}.py").is_file() or (here / package).is_dir()):
        sys.path.append(str(here))


def _import_popgym(environment_id: str) -> None:
    try:
        importlib.import_module("popgym")
    except ModuleNotFoundError as error:
        if error.name != "popgym":
            raise
        raise ValueError(needs(environment_id, "popgym")) from error


def needs(environment_id: str, module: str) -> str:
    """Return the line for an environment whose package is not installed."""
    return f"environment {environment_id} needs {module}: {install_hint(EXTRAS[module])}"
