"""Check of an environment that a file names: making it may run no code that only the file names, open no file, and
allocate no more than a stated amount."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import gymnasium
import numpy as np

from minrl.data.registration import register
from minrl.system.messages import one_line
from minrl.system.trust import trusts_files

# Wrappers of Gymnasium that write no files, import no module and take no function.
WRAPPERS = {
    *("AtariPreprocessing", "Autoreset", "ClipAction", "ClipReward", "DelayObservation", "DiscretizeAction"),
    *("DiscretizeObservation", "DtypeObservation", "FilterObservation", "FlattenObservation", "FrameStackObservation"),
    *("GrayscaleObservation", "MaxAndSkipObservation", "NormalizeObservation", "NormalizeReward", "OrderEnforcing"),
    *("PassiveEnvChecker", "RepeatAction", "RescaleAction", "RescaleObservation", "ReshapeObservation"),
    *("ResizeObservation", "StickyAction", "TimeAwareObservation", "TimeLimit"),
}
LARGEST = 10_000  # whole number among keyword arguments, except for numbers of steps and seeds
LARGEST_OF_WRAPPERS = 1_000  # such as frames of a stack, or of stacks of stacks
MOST_PIXELS = 10_000_000  # of a resized image, times frames
MOST_WRAPPERS = 32
MOST_VALUES = 100_000  # in all keyword arguments together, such as the squares of a maze
_COUNTS = re.compile(r"steps?$|^max_t$|seed|horizon|time_?limit|duration", re.IGNORECASE)
_FILES = re.compile(r"(^|_)(file|filename|path|dir|directory|folder|url|module|import|entry_point|env_id)s?$", re.I)
_LOOKS_LIKE_A_FILE = re.compile(r"[/\\]|\.[A-Za-z]\w{1,4}$|^[\w.]+:[\w.-]+$|^~")
_HOW = "name it with --env ID (in training --eval-env; MODULE:ID imports MODULE), or trust the file with --trust"

_only_reads: ContextVar[bool] = ContextVar("only_reads", default=False)


@contextmanager
def reading_only() -> Iterator[None]:
    """Make no environment that a file names inside the context, and import nothing to look it up."""
    token = _only_reads.set(True)
    try:
        yield
    finally:
        _only_reads.reset(token)


def is_reading_only() -> bool:
    """Return True if no environment that a file names may be made, inside `reading_only`."""
    return _only_reads.get()


def check_named(environment_id: str, kwargs: Mapping[str, Any], spec: str | None, file: str) -> None:
    """Check an environment that `file` names, by its id and keywords or by Gymnasium's EnvSpec as JSON.

    An installed package must register the id, with the entry point of the spec; wrappers must be among `WRAPPERS`, and
    keyword arguments may neither name files nor be large. With `--trust` everything passes.

    Raises:
        ValueError: otherwise; it says how to name the environment by hand.
    """
    if is_reading_only():
        raise ValueError(
            f"{file} names environment {one_line(environment_id)}, which is not made here: state what is missing with "
            "--observation-space and --action-space, or name the environment with --env ID"
        )
    if trusts_files():
        return
    try:
        values = None if spec is None else dict(json.loads(spec))
        reason = _reason(environment_id, kwargs, values)
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ValueError(f"the environment that {file} names cannot be read: {one_line(error)}") from error
    if reason:
        raise ValueError(f"{file} names environment {one_line(environment_id)}, {reason}: {_HOW}")


def check_keywords(environment_id: str, kwargs: Mapping[str, Any], file: str) -> None:
    """Check keyword arguments that `file` gives for an environment that the user has named; raise ValueError."""
    registered = gymnasium.registry.get(environment_id.rpartition(":")[2])
    reason = None if trusts_files() else _keywords(kwargs, {} if registered is None else registered.kwargs, LARGEST)
    if reason:
        raise ValueError(f"{file} names environment {environment_id}, {reason}: trust the file with --trust")


def registered_entry(environment_id: str) -> str | None:
    """Return the entry point that an installed package has registered for an id, as MODULE:NAME; None without one."""
    registered = gymnasium.registry.get(environment_id)
    return None if registered is None else entry_name(registered.entry_point)


def entry_name(entry: Any) -> Any:
    """Return an entry point as MODULE:NAME if it is a class or function, which JSON cannot hold."""
    name = getattr(entry, "__qualname__", "<")
    return f"{entry.__module__}:{name}" if callable(entry) and "<" not in name else entry


def _reason(environment_id: str, kwargs: Mapping[str, Any], spec: dict[str, Any] | None) -> str | None:
    """Return the reason not to make an environment that a file names, None if there is none."""
    unknown = "which no installed package registers"
    if ":" in environment_id:
        return unknown
    register(environment_id)
    registered = gymnasium.registry.get(environment_id)
    if registered is None and spec is None:
        return None  # an id alone names no code: making it fails, and names the nearest known id
    # GymV26Environment and GymV21Environment make any other environment, importing the module that its id names.
    if registered is None or environment_id.startswith("GymV"):
        return unknown
    known = dict(registered.kwargs)
    if spec is not None:
        named, entry = spec.get("entry_point"), entry_name(registered.entry_point)
        if spec["id"] != environment_id or not _same_class(named, entry):
            return f"whose entry point {named!r} is not the registered {entry!r}"
        reason = _wrappers(list(spec.get("additional_wrappers") or ()))
        reason = reason or _keywords(spec.get("kwargs") or {}, known, LARGEST)
        if reason is not None:
            return reason
    return _keywords(kwargs, known, LARGEST)


def _wrappers(wrappers: list[Any]) -> str | None:
    """Return the reason not to make an environment inside these wrappers, None if there is none."""
    if len(wrappers) > MOST_WRAPPERS:
        return f"inside {len(wrappers)} wrappers, more than {MOST_WRAPPERS}"
    frames = pixels = 1
    for wrapper in wrappers:
        module, _, name = wrapper["entry_point"].partition(":")
        if name not in WRAPPERS or not f"{module}.".startswith("gymnasium.wrappers."):
            return f"inside the wrapper {wrapper['entry_point']!r}, which is none of the known ones of Gymnasium"
        kwargs = wrapper.get("kwargs") or {}
        reason = _keywords(kwargs, {}, LARGEST_OF_WRAPPERS)
        if reason is not None:
            return f"{reason}, in the wrapper {name}"
        frames *= max(1, int(kwargs.get("stack_size", 1)))
        pixels = math.prod(map(int, np.ravel(kwargs.get("shape", pixels))))
        if frames > LARGEST_OF_WRAPPERS or frames * pixels > MOST_PIXELS:
            return f"inside stacks of {frames} frames of {pixels} values"
    return None


def _same_class(named: Any, registered: Any) -> bool:
    """Return True if two entry points name the same class of one package, whose releases may move its modules."""
    if not (isinstance(named, str) and isinstance(registered, str)):
        return False
    (module, _, name), (known_module, _, known_name) = named.partition(":"), registered.partition(":")
    return name == known_name and module.split(".")[0] == known_module.split(".")[0]


def _keywords(kwargs: Mapping[str, Any], registered: Mapping[str, Any], largest: int) -> str | None:
    """Return the fault of keyword arguments, apart from those with registered values; None without one."""
    changed = {key: value for key, value in kwargs.items() if key not in registered or registered[key] != value}
    values = list(_values("", changed))
    if len(values) > MOST_VALUES:
        return f"with {len(values)} values among its keyword arguments"
    for key, value in values:
        if isinstance(value, str) and value and (_FILES.search(key) or _LOOKS_LIKE_A_FILE.search(value)):
            return f"with the keyword argument {key} = {value[:100]!r}, which may open a file or import a module"
        numeric = isinstance(value, int | float) and not isinstance(value, bool)
        whole = numeric and abs(value) != float("inf") and float(value).is_integer()
        if whole and abs(value) > largest and not _COUNTS.search(key):
            return f"with the keyword argument {key} = {value}, more than {largest}"
    return None


def _values(key: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values at the leaves of nested tables and lists, each with the nearest key."""
    if isinstance(value, Mapping):
        for inner, part in value.items():
            yield str(inner), str(inner)
            yield from _values(str(inner), part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _values(key, part)
    else:
        yield key, value
