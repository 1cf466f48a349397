"""The environment of a data set: a plain record, making it, and checking one that a file names."""

import contextlib
import dataclasses
import importlib
import importlib.util
import io
import json
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import wrappers
from gymnasium.envs.registration import EnvSpec

from minrl.system.extras import install_hint
from minrl.system.messages import one_line

_SPEC_FIELDS = {item.name for item in dataclasses.fields(EnvSpec)} - {"namespace", "name", "version"}
# The extra that holds a module.
_EXTRAS = {"gymnasium_robotics": "robotics", "mujoco": "mujoco", "d4rl": "d4rl", "box2d": "box2d", "popgym": "popgym"}


@dataclass(frozen=True)
class EnvironmentInfo:
    """Description from which an environment is made; plain values only, for JSON and checkpoints.

    `spec` is Gymnasium's EnvSpec as JSON if the data set has one: it holds the entry point and the wrappers, so that
    the environment needs no registration.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    spec: str | None = None

    def changed(
        self, kwargs: Mapping[str, Any] | None = None, max_episode_steps: int | None = None
    ) -> "EnvironmentInfo":
        """Return the record with `kwargs` merged over its own, and another limit of steps if given."""
        steps = self.max_episode_steps if max_episode_steps is None else max_episode_steps
        merged = {**self.kwargs, **(kwargs or {})}
        if max_episode_steps is not None:
            # PPO's settings hold the limit among the keywords.
            merged.pop("max_episode_steps", None)
        spec = self.spec
        if spec is not None:
            spec = json.dumps({**json.loads(spec), "kwargs": merged, "max_episode_steps": steps})
        return dataclasses.replace(self, kwargs=merged, max_episode_steps=steps, spec=spec)

    def to_spec(self) -> str:
        """Return Gymnasium's EnvSpec as JSON; raise ValueError for an id that is not registered."""
        if self.spec is not None:
            return self.spec
        register(self.id)
        module, _, name = self.id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            found = gymnasium.spec(name)
            steps = self.max_episode_steps or found.max_episode_steps
            kwargs = {**found.kwargs, **self.kwargs}
            entry = _named(found.entry_point)
            return dataclasses.replace(found, entry_point=entry, kwargs=kwargs, max_episode_steps=steps).to_json()
        except (gymnasium.error.Error, ImportError, ValueError, AttributeError) as error:
            raise ValueError(_cannot_make(self, error)) from error


def _named(entry: Any) -> Any:
    """Return an entry point as MODULE:NAME if it is a class or function, which JSON cannot hold."""
    name = getattr(entry, "__qualname__", "<")
    return f"{entry.__module__}:{name}" if callable(entry) and "<" not in name else entry


def from_spec(text: str) -> EnvironmentInfo:
    """Read the record from an EnvSpec in JSON, as in Minari's metadata; raise ValueError if it cannot be read."""
    try:
        spec = json.loads(text)
        # EnvSpec of older Gymnasium versions had further fields (autoreset, apply_api_compatibility).
        kept = {key: value for key, value in spec.items() if key in _SPEC_FIELDS}
        return EnvironmentInfo(
            id=kept["id"],
            kwargs=dict(kept.get("kwargs") or {}),
            max_episode_steps=kept.get("max_episode_steps"),
            spec=json.dumps(kept),
        )
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"environment specification cannot be read: {error}") from error


def make_environment(environment: EnvironmentInfo, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment; `options` (render_mode, ...) go to `gymnasium.make`. Raises ValueError on failure."""
    if environment.spec is None:
        register(environment.id)
    try:
        if environment.spec is not None:
            return gymnasium.make(EnvSpec.from_json(environment.spec), **options)
        if environment.max_episode_steps is not None:
            options.setdefault("max_episode_steps", environment.max_episode_steps)
        return gymnasium.make(environment.id, **{**environment.kwargs, **options})
    except Exception as error:
        raise ValueError(_cannot_make(environment, error)) from error


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
        raise ValueError(_needs(environment_id, "popgym")) from error


def _needs(environment_id: str, module: str) -> str:
    return f"environment {environment_id} needs {module}: {install_hint(_EXTRAS[module])}"


def _fails_for_mujoco(error: Exception) -> bool:
    """Return True if Gymnasium-Robotics does not know a joint type of the installed mujoco.

    Its `utils/mujoco_utils.py` asserts that a type is in a tuple of mujoco's enumeration, which its Fetch, hand and
    kitchen environments all call. Tried with version 1.4.2: mujoco 2.3.3, 2.3.7, 3.0, 3.4, 3.8.1, 3.9, 3.10 and 3.11
    pass, 3.12, 3.17 and 4.0 fail.
    """
    module = ("gymnasium_robotics", "utils", "mujoco_utils.py")
    return isinstance(error, AssertionError) and any(
        Path(frame.filename).parts[-3:] == module and "joint_type" in (frame.line or "")
        for frame in traceback.extract_tb(error.__traceback__)
    )


def _where(error: Exception) -> str:
    """Return the line of code that raised an error without a message."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"in {frame.filename}, line {frame.lineno}: {frame.line}"


def _cannot_make(environment: EnvironmentInfo, error: Exception) -> str:
    reason = one_line(error) if str(error).strip() else _where(error)
    if _fails_for_mujoco(error):
        return (
            f"environment {environment.id} cannot be made with mujoco {version('mujoco')}, whose joint types "
            f"Gymnasium-Robotics {version('gymnasium-robotics')} does not know; it works with mujoco 2.3.3 to 3.11: "
            "pip install 'mujoco<3.12'"
        )
    text = f"{reason} {environment.spec or ''}"
    for module in _EXTRAS:
        if isinstance(error, ImportError) or "not installed" in reason.lower():
            named = getattr(error, "name", None) or text
            if module in str(named).lower():
                return _needs(environment.id, module)
    robotics = importlib.util.find_spec("gymnasium_robotics")
    if isinstance(error, gymnasium.error.NameNotFound | gymnasium.error.NamespaceNotFound) and robotics is None:
        reason += f" If it is one of Gymnasium-Robotics: {install_hint('robotics')}"
    return f"environment {environment.id} cannot be made: {type(error).__name__}: {reason}"


def check_trusted(environment: EnvironmentInfo, file: str = "the checkpoint") -> EnvironmentInfo:
    """Return `environment`, which `file` names, if making it runs only code registered by an installed package.

    A spec may name any module of the machine as its entry point or as a wrapper. Here the entry point must be the
    registered one and the wrappers Gymnasium's own.

    Raises:
        ValueError: otherwise; it says how to name the environment by hand.
    """
    try:
        spec = None if environment.spec is None else dict(json.loads(environment.spec))
        reason = _distrust_reason(environment, spec)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"the environment that {file} names cannot be read: {error}") from error
    if reason:
        raise ValueError(
            f"{file} names environment {environment.id}, {reason}: if you trust one that you have installed, name it "
            f"with --env ID (--env MODULE:ID imports MODULE first)"
        )
    return environment


def _distrust_reason(environment: EnvironmentInfo, spec: dict[str, Any] | None) -> str | None:
    """Return the reason not to make an environment that a file names, None if there is none."""
    register(environment.id)
    registered = gymnasium.registry.get(environment.id)
    # GymV26Environment and GymV21Environment make any other environment, importing the module that its id names.
    if registered is None or environment.id.startswith("GymV"):
        return "which no installed package registers"
    if spec is None:
        return None
    if spec["id"] != environment.id or not _same_class(spec.get("entry_point"), registered.entry_point):
        return f"whose entry point {spec.get('entry_point')!r} is not the registered {registered.entry_point!r}"
    for wrapper in spec.get("additional_wrappers") or ():
        module, _, name = wrapper["entry_point"].partition(":")
        # Recording wrappers write files to any folder.
        harmless = name in wrappers.__all__ and not name.startswith("Record")
        if not harmless or not f"{module}.".startswith("gymnasium.wrappers."):
            return f"inside the wrapper {wrapper['entry_point']!r}, which is none of Gymnasium's"
    return None


def _same_class(named: Any, registered: Any) -> bool:
    """Return True if two entry points name the same class of one package, whose releases may move its modules."""
    if not (isinstance(named, str) and isinstance(registered, str)):
        return False
    (module, _, name), (known_module, _, known_name) = named.partition(":"), registered.partition(":")
    return name == known_name and module.split(".")[0] == known_module.split(".")[0]
