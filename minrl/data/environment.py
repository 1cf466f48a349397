"""The environment that a data set belongs to: a plain record, and how to make it."""

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
from gymnasium.envs.registration import EnvSpec

from minrl.system.extras import install_hint

_SPEC_FIELDS = {item.name for item in dataclasses.fields(EnvSpec)} - {"namespace", "name", "version"}
# The extra that holds a module.
_EXTRAS = {"gymnasium_robotics": "robotics", "mujoco": "mujoco", "d4rl": "d4rl", "box2d": "box2d", "popgym": "popgym"}


@dataclass(frozen=True)
class EnvironmentInfo:
    """Enough to make a data set's environment again; all plain values, so that it goes into JSON and checkpoints.

    `spec` is Gymnasium's own EnvSpec as JSON where the data set carries one: it holds the entry point and the
    wrappers, so that the environment needs no registration.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    spec: str | None = None

    def changed(
        self, kwargs: Mapping[str, Any] | None = None, max_episode_steps: int | None = None
    ) -> "EnvironmentInfo":
        """Return the record with other keywords over its own and another limit of steps, where these are given."""
        steps = self.max_episode_steps if max_episode_steps is None else max_episode_steps
        merged = {**self.kwargs, **(kwargs or {})}
        if max_episode_steps is not None:
            # PPO takes the limit among the keywords.
            merged.pop("max_episode_steps", None)
        spec = self.spec
        if spec is not None:
            spec = json.dumps({**json.loads(spec), "kwargs": merged, "max_episode_steps": steps})
        return dataclasses.replace(self, kwargs=merged, max_episode_steps=steps, spec=spec)

    def to_spec(self) -> str:
        """Gymnasium's EnvSpec as JSON; raises ValueError for an id that is not registered here."""
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
    """Return an entry point as MODULE:NAME where it is a class or function that has one: code goes into no JSON."""
    name = getattr(entry, "__qualname__", "<")
    return f"{entry.__module__}:{name}" if callable(entry) and "<" not in name else entry


def from_spec(text: str) -> EnvironmentInfo:
    """The record for an EnvSpec in JSON, as Minari's metadata holds it; raises ValueError where it cannot be read."""
    try:
        spec = json.loads(text)
        # Fields of older Gymnasium versions (autoreset, apply_api_compatibility) are no longer EnvSpec's.
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
    """Make the environment; `options` (render_mode, ...) go to `gymnasium.make`. Raises ValueError, one line."""
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
    """Have the installed package that brings `environment_id` register it; one that nobody brings stays unknown.

    Packages name the modules that register their ids in the entry-point group `minrl.environments`. popgym and
    Gymnasium-Robotics, which do not, are asked as well.

    Raises:
        ValueError: if it is one of popgym's and popgym is not installed, or such a module cannot be imported.
    """
    if ":" in environment_id:
        _find_beside(environment_id.partition(":")[0])  # Gymnasium itself imports MODULE in MODULE:ID
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
        # It prints advice about environments that nobody asked for.
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            import gymnasium_robotics

            gymnasium.register_envs(gymnasium_robotics)


def _find_beside(module: str) -> None:
    """Have Python find a module in the current folder, as `python -m` does and an installed command does not."""
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
    """Return True if Gymnasium-Robotics failed to recognise a joint's type.

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
    reason = " ".join(str(error).split()) or _where(error)
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
