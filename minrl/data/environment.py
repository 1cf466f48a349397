"""The environment of a data set: a plain record, and making it."""

import dataclasses
import importlib
import importlib.util
import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

from minrl.data.registration import EXTRAS, needs, register
from minrl.data.trust import check_named, entry_name, registered_entry
from minrl.system.extras import install_hint
from minrl.system.messages import one_line
from minrl.system.trust import trusts_files

_SPEC_FIELDS = {item.name for item in dataclasses.fields(EnvSpec)} - {"namespace", "name", "version"}


@dataclass(frozen=True)
class EnvironmentInfo:
    """Description from which an environment is made; plain values only, for JSON and checkpoints.

    `spec` is Gymnasium's EnvSpec as JSON if the data set has one: it holds the entry point and the wrappers, so that
    the environment needs no registration. `named_by` is the file that names the environment, which is checked before
    it is made (see `minrl.data.trust`); None where the user or code names it.
    """

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    max_episode_steps: int | None = None
    spec: str | None = None
    named_by: str | None = field(default=None, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"id": self.id, "kwargs": self.kwargs, "max_episode_steps": self.max_episode_steps, "spec": self.spec}

    @classmethod
    def from_dict(cls, values: dict[str, Any], named_by: str) -> "EnvironmentInfo":
        """Read the values of `to_dict`, which the file `named_by` holds; raise ValueError for those of other types."""
        steps = values.get("max_episode_steps")
        fits = {
            "id": isinstance(values["id"], str),
            "kwargs": _is_plain(values["kwargs"]),
            "max_episode_steps": steps is None or (isinstance(steps, int) and not isinstance(steps, bool)),
            "spec": isinstance(values.get("spec"), str | None),
        }
        for name, does in fits.items():
            if not does:
                raise ValueError(f"the environment's {name} is of another type")
        return cls(values["id"], values["kwargs"], steps, values.get("spec"), named_by)

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
        trusted(self)
        register(self.id)
        module, _, name = self.id.rpartition(":")
        try:
            if module:
                importlib.import_module(module)
            found = gymnasium.spec(name)
            steps = self.max_episode_steps or found.max_episode_steps
            kwargs = {**found.kwargs, **self.kwargs}
            entry = entry_name(found.entry_point)
            return dataclasses.replace(found, entry_point=entry, kwargs=kwargs, max_episode_steps=steps).to_json()
        except (gymnasium.error.Error, ImportError, ValueError, AttributeError) as error:
            raise ValueError(_cannot_make(self, error)) from error


def _is_plain(kwargs: Any) -> bool:
    """Return True if keyword arguments, from a file, have texts as names and can be written as JSON."""
    try:
        json.dumps(kwargs)
    except (TypeError, ValueError, RecursionError):
        return False
    return isinstance(kwargs, dict) and all(isinstance(name, str) for name in kwargs)


def from_spec(text: str, file: str | None = None) -> EnvironmentInfo:
    """Read the record from an EnvSpec in JSON, as in Minari's metadata; raise ValueError if it cannot be read.

    `file` is what names the environment, None if it is trusted.
    """
    try:
        spec = json.loads(text)
        # EnvSpec of older Gymnasium versions had further fields (autoreset, apply_api_compatibility).
        kept = {key: value for key, value in spec.items() if key in _SPEC_FIELDS}
        return EnvironmentInfo(
            id=kept["id"],
            kwargs=dict(kept.get("kwargs") or {}),
            max_episode_steps=kept.get("max_episode_steps"),
            spec=json.dumps(kept),
            named_by=file,
        )
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"environment specification cannot be read: {one_line(error)}") from error


def check_trusted(environment: EnvironmentInfo, file: str = "the checkpoint") -> EnvironmentInfo:
    """Return `environment`, which `file` names, if making it runs only code of installed packages.

    The result needs no further check; see `minrl.data.trust.check_named` for what is checked.

    Raises:
        ValueError: otherwise; it says how to name the environment by hand.
    """
    check_named(environment.id, environment.kwargs, environment.spec, file)
    spec = environment.spec
    if spec is not None and not trusts_files():
        # The installed package's own entry point, wherever it has moved.
        spec = json.dumps({**json.loads(spec), "entry_point": registered_entry(environment.id)})
    return dataclasses.replace(environment, spec=spec, named_by=None)


def trusted(environment: EnvironmentInfo) -> EnvironmentInfo:
    """Return `environment` after the check of `check_trusted` if a file names it."""
    return environment if environment.named_by is None else check_trusted(environment, environment.named_by)


def make_environment(environment: EnvironmentInfo, **options: Any) -> gymnasium.Env[Any, Any]:
    """Make the environment; `options` (render_mode, ...) go to `gymnasium.make`.

    Raises:
        ValueError: if it cannot be made, or a file names it and it is not trusted.
    """
    environment = trusted(environment)
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
    for module in EXTRAS:
        if isinstance(error, ImportError) or "not installed" in reason.lower():
            named = getattr(error, "name", None) or text
            if module in str(named).lower():
                return needs(environment.id, module)
    robotics = importlib.util.find_spec("gymnasium_robotics")
    if isinstance(error, gymnasium.error.NameNotFound | gymnasium.error.NamespaceNotFound) and robotics is None:
        reason += f" If it is one of Gymnasium-Robotics: {install_hint('robotics')}"
    return f"environment {environment.id} cannot be made: {type(error).__name__}: {reason}"
