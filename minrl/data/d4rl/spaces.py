"""Spaces and environment of a flat HDF5 file, from the user, the file, an environment, or else guessed.

Shapes: N steps of the whole file.
"""

import json
import logging
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from gymnasium import spaces

from minrl.data.convert import BLOCK_BYTES
from minrl.data.environment import EnvironmentInfo, from_spec, make_environment, trusted
from minrl.data.hdf5_file import attributes_of, rows_of
from minrl.data.space_text import parse_space
from minrl.data.spaces import AnySpace, leaves
from minrl.data.trust import is_reading_only
from minrl.system.messages import one_line

_log = logging.getLogger("minrl.data")
# Undeclared integer actions from 0 to below this are taken for a Discrete; Atari has 18.
_FEW_CHOICES = 32
_ATTRIBUTES = ("observation_space", "action_space", "env_spec", "env_id", "env_kwargs")


@dataclass(frozen=True)
class Stated:
    """Spaces and environment stated for a data set; None where they are not."""

    observation_space: AnySpace | None = None
    action_space: AnySpace | None = None
    environment: EnvironmentInfo | None = None
    guessed: tuple[str, ...] = ()  # "observation" or "action" for a space that was not stated


def stated(
    observation_space: AnySpace | str | None = None,
    action_space: AnySpace | str | None = None,
    environment: EnvironmentInfo | str | None = None,
) -> Stated:
    """Parse spaces that may be text and an environment that may be an id; raise ValueError if malformed."""
    given = {"observation space": observation_space or None, "action space": action_space or None}
    seen, taken = (parse_space(space, name) if isinstance(space, str) else space for name, space in given.items())
    return Stated(seen, taken, EnvironmentInfo(environment) if isinstance(environment, str) else environment)


def stated_by(attributes: Mapping[str, Any], file: Path) -> Stated:
    """Read the attributes observation_space, action_space, and env_spec or env_id with env_kwargs (JSON) of a file.

    An environment is used only if it is trusted, see `minrl.data.trust`: a file must not name code to run.
    """
    texts = {key: text_of(value) for key, value in attributes.items()}
    seen, taken = (
        parse_space(texts[key], f"{file}, attribute {key}") if key in texts else None
        for key in ("observation_space", "action_space")
    )
    environment = None
    try:
        if "env_spec" in texts:
            environment = from_spec(texts["env_spec"], str(file))
        elif "env_id" in texts:
            kwargs = _keywords(texts.get("env_kwargs", "{}"))
            environment = EnvironmentInfo(texts["env_id"], kwargs, named_by=str(file))
        if environment is not None and not is_reading_only():
            environment = trusted(environment)
    except ValueError as error:
        _log.warning("%s: %s (its environment is ignored)", file, one_line(error))
        environment = None
    return Stated(seen, taken, environment)


def _keywords(text: str) -> dict[str, Any]:
    """Parse the attribute env_kwargs; raise ValueError for anything but a JSON object."""
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(f"attribute env_kwargs: {text[:80]!r} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f'attribute env_kwargs: {text[:80]!r} is no JSON object such as {{"level": "hard"}}')
    return found


def text_of(value: Any) -> str:
    """Return an HDF5 attribute as text."""
    value = value.item() if isinstance(value, np.generic | np.ndarray) and value.size == 1 else value
    return value.decode() if isinstance(value, bytes) else str(value)


def settle(source: h5py.File, file: Path, given: Stated, *, silent: bool) -> Stated:
    """Decide on the spaces and the environment of a file: `given` by the user, else its attributes, else a guess.

    A guess is logged in one line unless `silent`.

    Raises:
        ValueError: if a stated space does not fit the arrays, or the environment cannot be made.
    """
    spaces_found = {"observation": given.observation_space, "action": given.action_space}
    # Attributes that the user overrides are not read; an environment of the user's overrides all of them.
    overruled = {f"{kind}_space" for kind, space in spaces_found.items() if space is not None}
    if given.environment is not None:
        overruled = set(_ATTRIBUTES)
    own = stated_by(attributes_of(source, [key for key in _ATTRIBUTES if key not in overruled]), file)
    environment = given.environment or own.environment
    for kind, space in (("observation", own.observation_space), ("action", own.action_space)):
        if spaces_found[kind] is None:
            spaces_found[kind] = space
    reads_only = environment is own.environment and is_reading_only()
    if environment is not None and None in spaces_found.values() and not reads_only:
        with closing(make_environment(environment)) as made:
            theirs = {"observation": made.observation_space, "action": made.action_space}
        spaces_found = {kind: theirs[kind] if space is None else space for kind, space in spaces_found.items()}
    guessed = {}
    for kind, space in spaces_found.items():
        data = source[f"{kind}s"]
        if space is None:
            space = _guess(data, kind)
            guessed[kind] = f"{kind}s {one_line(space)}"
        else:
            _check_fits(space, data, file, kind, environment)
        spaces_found[kind] = space
    if guessed and not silent:
        _log.warning(
            "%s does not state its %s, guessed: %s; if that is wrong, state it with %s, or name its environment "
            "(--eval-env in training, --env in minrl data)",
            file,
            "spaces" if len(guessed) == 2 else f"{next(iter(guessed))} space",
            ", ".join(guessed.values()),
            " or ".join(f"--{kind}-space" for kind in guessed),
        )
    return Stated(spaces_found["observation"], spaces_found["action"], environment, tuple(guessed))


def _check_fits(
    space: AnySpace, data: h5py.Dataset, file: Path, kind: str, environment: EnvironmentInfo | None
) -> None:
    named = "" if environment is None else f" (environment {environment.id})"
    if isinstance(space, spaces.Dict | spaces.Tuple):
        raise ValueError(f"{file}: {kind}s is one array, the space {one_line(space)}{named} has parts")
    width, found = leaves(space)[0].raw_width, int(np.prod(data.shape[1:], dtype=np.int64))
    if width != found:
        raise ValueError(
            f"{file}: {kind}s has {found} values a step, the stated space {one_line(space)}{named} has {width}"
        )


def _guess(data: h5py.Dataset, kind: str) -> AnySpace:
    """Guess a space from an array's type: Discrete only for single integer actions, never for observations."""
    shape = data.shape[1:] or (1,)
    if data.dtype == np.uint8 and kind == "observation":
        return spaces.Box(0, 255, shape, np.uint8)
    if kind == "action" and data.dtype == np.bool_:
        return spaces.MultiBinary(shape)
    if kind == "action" and data.dtype.kind in "iu":
        low, high = _extremes(data)
        if shape == (1,) and low.item() == 0 and high.item() < _FEW_CHOICES:
            return spaces.Discrete(int(high.item()) + 1)
        return spaces.Box(low, np.where(high > low, high, low + 1).astype(data.dtype), dtype=data.dtype.type)
    wide = data.dtype.kind in "iu" and data.dtype.itemsize > 2  # may exceed the 24 bits of a float32
    kept = np.float64 if wide or (data.dtype == np.float64 and kind == "observation") else np.float32
    return spaces.Box(-np.inf, np.inf, shape, kept)


def _extremes(data: h5py.Dataset) -> tuple[Any, Any]:
    """Return the lowest and the highest value of each column, read in pieces."""
    size = max(1, BLOCK_BYTES // max(1, data.dtype.itemsize * int(np.prod(data.shape[1:], dtype=np.int64))))
    pieces = [rows_of(data.file, data.name, slice(begin, begin + size)) for begin in range(0, len(data), size)]
    shape = data.shape[1:] or (1,)
    low = np.min([piece.min(axis=0) for piece in pieces], axis=0).astype(data.dtype).reshape(shape)
    return low, np.max([piece.max(axis=0) for piece in pieces], axis=0).astype(data.dtype).reshape(shape)
