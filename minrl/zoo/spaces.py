"""Spaces of a saved policy, from their plain text in its settings, and how they lie in an environment's.

Shapes: O flat observation width.
"""

import ast
import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecTransposeImage

from minrl.data.space_match import Kind, mismatch
from minrl.data.space_text import parse_space
from minrl.data.spaces import AnySpace, check_width, leaves
from minrl.zoo.archive import Stored

_KIND = re.compile(r"<class '(?:gym|gymnasium)\.spaces\.\w+\.(\w+)'>")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|inf)")
# NumPy prints arrays without commas.
_GAPS = re.compile(r"(?<=[\w.\]])\s+(?=[-\w.\[])")


@dataclass(frozen=True)
class Part:
    """Part of an observation in the order of the policy's features: its columns in a flat row and its form."""

    name: str  # "" for an observation without parts
    first: int
    last: int  # exclusive
    image: tuple[int, int, int] | None = None  # channels, height, width
    channels_last: bool = False  # in the flat row
    bytes: bool = False  # an image of 0 to 255


def stored_space(stored: Stored, name: str) -> AnySpace | None:
    """Read the space `name` from its plain text; None if the text does not tell it."""
    found = _KIND.fullmatch(stored.text_of_class(name))
    about = stored.plain(name)
    if found is None or not isinstance(about, dict):
        return None
    try:
        return _READERS[found[1]](about)
    except Exception:  # Gymnasium asserts, NumPy has errors of its own, and any text may stand there
        return None


def _box(about: dict[str, Any]) -> AnySpace:
    shape, kind = _shape(about), np.dtype(str(about["dtype"]))
    check_width(math.prod(shape))
    if kind.kind not in "fiub":
        raise ValueError(f"a Box of {kind}")
    low, high = (_array(str(about[name]), shape, kind) for name in ("low", "high"))
    known: Any = kind
    return spaces.Box(low, high, dtype=known)


def _discrete(about: dict[str, Any]) -> AnySpace:
    return spaces.Discrete(int(about["n"]), start=int(about.get("start") or 0))


def _multi_discrete(about: dict[str, Any]) -> AnySpace:
    sizes = _whole(about["nvec"])
    start = _whole(about.get("start") or "0")
    check_width(sum(sizes))
    if any(start) and len(start) != len(sizes):
        raise ValueError("starts of other choices")
    return spaces.MultiDiscrete(sizes, start=start if any(start) else None)


def _multi_binary(about: dict[str, Any]) -> AnySpace:
    sizes = _whole(about["n"])
    check_width(math.prod(sizes))
    return spaces.MultiBinary(sizes if len(sizes) > 1 else sizes[0])


def _dict(about: dict[str, Any]) -> AnySpace:
    """Read {'a': Box(...)} or OrderedDict([('a', Box(...))]), in its order."""
    node = ast.parse(_GAPS.sub(", ", str(about["spaces"]).strip()), mode="eval").body
    pairs: list[tuple[Any, ast.expr]] = []
    if isinstance(node, ast.Dict):
        pairs = [(key, value) for key, value in zip(node.keys, node.values, strict=True)]
    elif isinstance(node, ast.Call) and isinstance(node.args[0], ast.List):
        for item in node.args[0].elts:
            if not isinstance(item, ast.Tuple):
                raise ValueError("no pair")
            pairs.append((item.elts[0], item.elts[1]))
    parts = [(str(ast.literal_eval(key)), parse_space(ast.unparse(value), "a part")) for key, value in pairs]
    return spaces.Dict(parts)


_READERS = {
    "Box": _box,
    "Discrete": _discrete,
    "MultiDiscrete": _multi_discrete,
    "MultiBinary": _multi_binary,
    "Dict": _dict,
}


def _shape(about: dict[str, Any]) -> tuple[int, ...]:
    given = about["_shape"] if "_shape" in about else about["shape"]  # gym's name
    return tuple(int(n) for n in given)


def _whole(given: Any) -> list[int]:
    """Read whole numbers from a number, a list, or the text of an array that is printed in full."""
    text = str(given)
    if "..." in text:
        raise ValueError("a part of the array is not there")
    return [int(number) for number in re.findall(r"-?\d+", text)]


def _array(text: str, shape: tuple[int, ...], kind: npt.DTypeLike) -> npt.NDArray[Any]:
    """Read an array as NumPy prints it; a long one, of which it prints the edges, is taken to be constant if they are.

    Raises:
        ValueError: if values are missing.
    """
    values = [float(number) for number in _NUMBER.findall(text)]
    if ("..." in text and len(set(values)) == 1) or len(values) == 1:
        return np.full(shape, values[0]).astype(kind)
    return np.array(values).reshape(shape).astype(kind)


def parts_of(trained: AnySpace | None, environment: AnySpace, where: str) -> tuple[Part, ...]:
    """Return the parts of flat observations of `environment` in the order of a policy that was trained on `trained`.

    Tuples and nested Dicts are matched as `minrl.online.spaces.fit_spaces` names their parts; images may have their
    channels last, as Stable-Baselines3 transposes them.

    Args:
        trained: the policy's space; None if it is not known, and the environment's order holds.
        environment: the space of the observations.
        where: the file, for errors.

    Raises:
        ValueError: if the spaces do not fit each other.
    """
    found = {"/".join(map(str, leaf.keys)): leaf for leaf in leaves(environment)}
    names = list(found)
    if isinstance(trained, spaces.Dict):
        names = list(trained.spaces)
    elif trained is None and not _is_flat(environment):
        names = sorted(found)  # as the wrapper of nested spaces has them
    if trained is not None:
        actual = {name: _as_trained(leaf.space) for name, leaf in found.items()}
        seen: AnySpace = spaces.Dict(list(actual.items())) if "" not in actual else actual[""]
        _check(trained, seen, "observation", where, environment)
    return tuple(_part(name, found[name].space, found[name].columns) for name in names)


def _is_flat(space: AnySpace) -> bool:
    if isinstance(space, spaces.Dict):
        return not any(isinstance(part, spaces.Dict | spaces.Tuple) for part in space.spaces.values())
    return not isinstance(space, spaces.Tuple)


def check_actions(trained: AnySpace, environment: AnySpace, where: str) -> None:
    """Check that a policy of the action space `trained` can act in an environment.

    Raises:
        ValueError: otherwise, or for choices that do not begin at 0, which Stable-Baselines3 counts from there.
    """
    if np.any(getattr(trained, "start", 0)):
        raise ValueError(
            f"{where}: trained with {trained}, whose choices Stable-Baselines3 counts from 0: train it in the "
            "environment wrapped by minrl.online.spaces.fit_spaces"
        )
    choices = _choices(environment)
    flat = choices is not None and isinstance(trained, spaces.Discrete | spaces.MultiDiscrete)
    if flat and choices == _choices(trained):
        return
    _check(trained, environment, "action", where, environment)


def _check(trained: AnySpace, seen: AnySpace, kind: Kind, where: str, environment: AnySpace) -> None:
    if mismatch(trained, seen, kind) is not None:
        raise ValueError(f"{where}: trained with {kind}_space {trained}, but the environment's is {environment}")


def _choices(space: AnySpace) -> list[int] | None:
    """Return the numbers of choices of all parts, side by side; None if a part is no choice."""
    sizes: list[int] = []
    for leaf in leaves(space):
        if isinstance(leaf.space, spaces.Discrete):
            sizes.append(int(leaf.space.n))
        elif isinstance(leaf.space, spaces.MultiDiscrete):
            sizes += [int(n) for n in leaf.space.nvec.reshape(-1)]
        elif isinstance(leaf.space, spaces.MultiBinary):
            sizes += [2] * leaf.raw_width
        else:
            return None
    return sizes


def _as_trained(space: AnySpace) -> AnySpace:
    """Return a part as Stable-Baselines3 sees it: images with channels first, choices from 0 along one axis."""
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec.reshape(-1))
    if isinstance(space, spaces.Box) and is_image_space(space) and not is_image_space_channels_first(space):
        return VecTransposeImage.transpose_space(space)
    return space


def _part(name: str, space: AnySpace, columns: slice) -> Part:
    if not isinstance(space, spaces.Box) or len(space.shape) != 3:
        return Part(name, columns.start, columns.stop)
    in_bytes = is_image_space(space)
    last = in_bytes and not is_image_space_channels_first(space)
    height, width, channels = space.shape if last else (*space.shape[1:], space.shape[0])
    return Part(name, columns.start, columns.stop, (channels, height, width), last, in_bytes)
