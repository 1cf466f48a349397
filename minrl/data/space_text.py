"""Spaces as text: Gymnasium's notation and Minari's JSON."""

import ast
import json
import math
import re
from typing import Any

import numpy as np
from gymnasium import spaces

from minrl.data.spaces import AnySpace, check_width
from minrl.system.messages import one_line

_KINDS = {kind.__name__: kind for kind in (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)}
_NUMBERS = {"inf": float("inf"), "nan": float("nan"), "True": True, "False": False}
_EXAMPLES = '"Discrete(3)", "MultiDiscrete([3, 2])", "MultiBinary(4)" or "Box(-1, 1, (2,))"'


def parse_space(text: str, where: str) -> AnySpace:
    """Parse a space from text such as "Box(-1, 1, (2,), float32)" without executing it.

    Raises ValueError, one line that begins with `where`, for anything but a Box, Discrete, MultiDiscrete or
    MultiBinary.
    """
    try:
        if text.lstrip().startswith("{"):
            return from_json(text)
        # NumPy prints arrays without commas: Box([-1. 0.], [1. 5.], (2,), float32).
        node = ast.parse(re.sub(r"(?<=[\w.\]])\s+(?=[-\w.\[])", ", ", text.strip()), mode="eval").body
        if not isinstance(node, ast.Call) or _name(node.func) not in _KINDS:
            raise ValueError("unknown kind of space")
        arguments = [_value(argument) for argument in node.args]
        named = {item.arg: _value(item.value) for item in node.keywords if item.arg}
        kind = _KINDS[_name(node.func)]
        if kind is spaces.Box:
            check_width(math.prod(named.get("shape", arguments[2] if len(arguments) > 2 else ())))
            arguments[:2] = [np.array(bound) if isinstance(bound, list) else bound for bound in arguments[:2]]
            named = {k: np.array(v) if k in ("low", "high") and isinstance(v, list) else v for k, v in named.items()}
        space: AnySpace = kind(*arguments, **named)
        return space
    except Exception as error:  # Gymnasium asserts, and passes NumPy's errors on
        raise ValueError(
            f"{where}: {one_line(repr(text))} is not a space, which reads like {_EXAMPLES} ({one_line(error)})"
        ) from error


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name: np.float32 and float32 are the same."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _value(node: ast.expr) -> Any:
    """Evaluate numbers, lists, tuples, infinities and names of NumPy's types."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = _name(node)
        return _NUMBERS[name] if name in _NUMBERS else np.dtype(name).type
    if isinstance(node, ast.List):
        return [_value(item) for item in node.elts]
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand)
    return ast.literal_eval(node)


def from_json(text: str) -> AnySpace:
    """Read a space from Minari's JSON; the keys of a Dict keep their order, which Minari's own reader sorts.

    Raises:
        ValueError: if it cannot be read.
    """
    try:
        return _from_plain(json.loads(text))
    except Exception as error:
        raise ValueError(f"space cannot be read from {one_line(repr(text), 80)}: {one_line(error)}") from error


def _from_plain(values: dict[str, Any]) -> AnySpace:
    from minari.serialization import deserialize_space

    if values["type"] == "Dict":
        return spaces.Dict([(key, _from_plain(part)) for key, part in values["subspaces"].items()])
    if values["type"] == "Tuple":
        return spaces.Tuple([_from_plain(part) for part in values["subspaces"]])
    if values["type"] == "Box":
        check_width(math.prod(values["shape"]))
    space: AnySpace = deserialize_space(values)
    return space


def to_json(space: AnySpace) -> str:
    """Write a space as Minari's JSON."""
    from minari.serialization import serialize_space

    return str(serialize_space(space))
