"""The environment that a data set belongs to: a plain record, and how to make it."""

import dataclasses
import importlib.util
import json
from dataclasses import dataclass, field
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

_SPEC_FIELDS = {item.name for item in dataclasses.fields(EnvSpec)} - {"namespace", "name", "version"}
_EXTRAS = {
    "gymnasium_robotics": "robotics",
    "mujoco": "mujoco",
    "d4rl": "d4rl",
}


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

    def to_spec(self) -> str:
        """Gymnasium's EnvSpec as JSON; raises ValueError for an id that is not registered here."""
        if self.spec is not None:
            return self.spec
        _register(self.id)
        try:
            found = gymnasium.spec(self.id)
        except gymnasium.error.Error as error:
            raise ValueError(_cannot_make(self, error)) from error
        steps = self.max_episode_steps or found.max_episode_steps
        return dataclasses.replace(found, kwargs={**found.kwargs, **self.kwargs}, max_episode_steps=steps).to_json()


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
    try:
        if environment.spec is not None:
            return gymnasium.make(EnvSpec.from_json(environment.spec), **options)
        if environment.max_episode_steps is not None:
            options.setdefault("max_episode_steps", environment.max_episode_steps)
        _register(environment.id)
        return gymnasium.make(environment.id, **{**environment.kwargs, **options})
    except Exception as error:
        raise ValueError(_cannot_make(environment, error)) from error


def _register(environment_id: str) -> None:
    """Gymnasium-Robotics registers its ids only when asked to."""
    if ":" in environment_id or environment_id in gymnasium.registry:
        return
    try:
        import gymnasium_robotics
    except ImportError:
        return
    gymnasium.register_envs(gymnasium_robotics)


def _cannot_make(environment: EnvironmentInfo, error: Exception) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    text = f"{reason} {environment.spec or ''}"
    for module, extra in _EXTRAS.items():
        if isinstance(error, ImportError) or "not installed" in reason.lower():
            named = getattr(error, "name", None) or text
            if module in str(named).lower():
                return f"environment {environment.id} needs {module}: pip install 'minrl[{extra}]'"
    robotics = importlib.util.find_spec("gymnasium_robotics")
    if isinstance(error, gymnasium.error.NameNotFound | gymnasium.error.NamespaceNotFound) and robotics is None:
        reason += " If it is one of Gymnasium-Robotics: pip install 'minrl[robotics]'"
    return f"environment {environment.id} cannot be made: {type(error).__name__}: {reason}"
