"""Which environments a checkpoint may open: a stranger's file must run no code that only the file names."""

import json
from typing import Any

import gymnasium
from gymnasium import wrappers

from minrl.data.environment import EnvironmentInfo, register


def checked(environment: EnvironmentInfo, file: str = "the checkpoint") -> EnvironmentInfo:
    """Return `environment`, which `file` names, if making it runs only what an installed package registered for its id.

    A specification may name any module of the machine as its entry point or as a wrapper. Here the entry point
    must be the registered one and the wrappers Gymnasium's own.

    Raises:
        ValueError: otherwise; it says how to name the environment by hand.
    """
    try:
        spec = None if environment.spec is None else dict(json.loads(environment.spec))
        reason = _objection(environment, spec)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"the environment that {file} names cannot be read: {error}") from error
    if reason:
        raise ValueError(
            f"{file} asks for environment {environment.id}, {reason}: if you trust one that you have "
            f"installed, name it with --env ID (--env MODULE:ID imports MODULE first)"
        )
    return environment


def _objection(environment: EnvironmentInfo, spec: dict[str, Any] | None) -> str | None:
    """What speaks against making the environment, None if nothing does."""
    register(environment.id)
    registered = gymnasium.registry.get(environment.id)
    # GymV26Environment and its like take the id of any other environment, module and all.
    if registered is None or environment.id.startswith("GymV"):
        return "which no installed package registers"
    if spec is None:
        return None
    if spec["id"] != environment.id or not _same_class(spec.get("entry_point"), registered.entry_point):
        return f"whose entry point {spec.get('entry_point')!r} is not the registered {registered.entry_point!r}"
    for wrapper in spec.get("additional_wrappers") or ():
        module, _, name = wrapper["entry_point"].partition(":")
        # Recording wrappers write files where they are told to.
        harmless = name in wrappers.__all__ and not name.startswith("Record")
        if not harmless or not f"{module}.".startswith("gymnasium.wrappers."):
            return f"inside the wrapper {wrapper['entry_point']!r}, which is none of Gymnasium's"
    return None


def _same_class(named: Any, registered: Any) -> bool:
    """Whether two entry points are one, or name the same class of one package: releases move their modules."""
    if not (isinstance(named, str) and isinstance(registered, str)):
        return False
    (module, _, name), (known_module, _, known_name) = named.partition(":"), registered.partition(":")
    return name == known_name and module.split(".")[0] == known_module.split(".")[0]
