"""Spaces written as text: Gymnasium's own notation, or Minari's JSON."""

import ast
import re
from typing import Any

import numpy as np
from gymnasium import spaces

from minrl.data.spaces import AnySpace, from_json

_KINDS = {kind.__name__: kind for kind in (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)}
_NUMBERS = {"inf": float("inf"), "nan": float("nan"), "True": True, "False": False}
_EXAMPLES = '"Discrete(3)", "MultiDiscrete([3, 2])", "MultiBinary(4)" or "Box(-1, 1, (2,))"'


def parse_space(text: str, where: str) -> AnySpace:
    """Read a space from text such as "Box(-1, 1, (2,), float32)"; nothing in it is executed.

    Raises ValueError, one line that begins with `where`, for anything else than a Box, Discrete, MultiDiscrete or
    MultiBinary.
    """
    try:
        if text.lstrip().startswith("{"):
            return from_json(text)
        # NumPy prints arrays without commas: Box([-1. 0.], [1. 5.], (2,), float32).
        node = ast.parse(re.sub(r"(?<=[\w.\]])\s+(?=[-\w.\[])", ", ", text.strip()), mode="eval").body
        if not isinstance(node, ast.Call) or _name(node.func) not in _KINDS:
            raise ValueError("no space that is known")
        arguments = [_value(argument) for argument in node.args]
        named = {item.arg: _value(item.value) for item in node.keywords if item.arg}
        kind = _KINDS[_name(node.func)]
        if kind is spaces.Box:
            arguments[:2] = [np.array(bound) if isinstance(bound, list) else bound for bound in arguments[:2]]
            named = {k: np.array(v) if k in ("low", "high") and isinstance(v, list) else v for k, v in named.items()}
        space: AnySpace = kind(*arguments, **named)
        return space
    except Exception as error:  # Gymnasium asserts, and raises what NumPy raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{where}: {text!r} is not a space, which reads like {_EXAMPLES} ({reason})") from error


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name: np.float32 and float32 are one."""
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
