"""Attributes and methods of the environments inside a vector environment.

Shapes: N environments.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import SyncVectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped


def has_attribute(environment: Any, name: str) -> bool:
    """Return True if all environments have attribute `name`, or a natively vectorised one has it for them."""
    base = environment.unwrapped
    if hasattr(base, "call"):
        return all(base.call("has_wrapper_attr", name))
    return any(hasattr(layer, name) for layer in _layers(environment))


def get_attributes(environment: Any, name: str, count: int) -> list[Any]:
    """Return attribute `name` of each of the N = `count` environments; a natively vectorised one has one value for
    them all.

    Raises:
        AttributeError: if they lack it, or it is an array of N rows, whose meaning only the caller knows.
    """
    base = environment.unwrapped
    # Checked first: a missing attribute ends the workers of an AsyncVectorEnv.
    if not has_attribute(environment, name):
        raise AttributeError(f"the environments of {type(base).__name__} have no attribute {name!r}")
    if hasattr(base, "call"):
        return list(base.call("get_wrapper_attr", name))
    value = next(getattr(layer, name) for layer in _layers(environment) if hasattr(layer, name))
    if isinstance(value, np.ndarray) and value.shape[:1] == (count,):
        raise AttributeError(
            f"{name!r} of {type(base).__name__} is one array for all {count} environments: "
            "read it from the vector environment itself"
        )
    return [value] * count


def set_attributes(environment: Any, name: str, value: Any, indices: Sequence[int], count: int) -> None:
    """Set attribute `name` of the environments `indices` to one value.

    Raises:
        ValueError: for a part of environments that cannot be accessed one by one.
    """
    base = environment.unwrapped
    if isinstance(base, SyncVectorEnv):
        for index in indices:
            base.envs[index].set_wrapper_attr(name, value)
        return
    _check_all(base, indices, count, f"set {name!r}")
    if hasattr(base, "set_attr"):
        base.set_attr(name, [value] * count)
    else:
        setattr(base, name, value)


def call_method(
    environment: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], indices: Sequence[int], count: int
) -> list[Any]:
    """Call method `name` of each of the environments `indices`, and return the results.

    A natively vectorised environment's own `action_masks` gives a row for each.

    Raises:
        AttributeError: if they have no such method.
        ValueError: if they cannot be called, or only all together.
    """
    base = environment.unwrapped
    if not hasattr(base, "call") and name == "action_masks" and has_attribute(environment, name):
        rows = next(getattr(layer, name) for layer in _layers(environment) if hasattr(layer, name))()
        return [rows[index] for index in indices]  # one array for all
    if not hasattr(base, "call"):
        raise ValueError(
            f"{type(base).__name__} steps all its environments as one and cannot call {name!r} on each: "
            "call it on the vector environment itself"
        )
    if not has_attribute(environment, name):
        raise AttributeError(f"the environments of {type(base).__name__} have no method {name!r}")
    if isinstance(base, SyncVectorEnv):
        return [base.envs[index].get_wrapper_attr(name)(*args, **kwargs) for index in indices]
    _check_all(base, indices, count, f"call {name!r}")
    return list(base.call(name, *args, **kwargs))


def are_wrapped(environment: Any, wrapper: type[gymnasium.Wrapper[Any, Any, Any, Any]], count: int) -> list[bool]:
    """Return True if each environment has the wrapper; False in other processes and native code."""
    base = environment.unwrapped
    if isinstance(base, SyncVectorEnv):
        return [is_wrapped(inner, wrapper) for inner in base.envs]
    return [False] * count


def _layers(environment: Any) -> Iterator[Any]:
    while isinstance(environment, VectorWrapper):
        yield environment
        environment = environment.env
    yield environment


def _check_all(base: Any, indices: Sequence[int], count: int, what: str) -> None:
    if list(indices) != list(range(count)):
        raise ValueError(
            f"{type(base).__name__} can only {what} for all {count} environments at once, not for {list(indices)}"
        )
