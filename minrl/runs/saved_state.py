"""Training state from a file, compared with what a run of the same settings would save."""

from typing import Any

from torch import Tensor

from minrl.system.messages import reason_of


def check_like(saved: Any, own: Any, where: str, *, free: frozenset[str] = frozenset()) -> None:
    """Raise ValueError if `saved` has another structure than `own`: keys, types, and shapes and dtypes of tensors.

    Args:
        saved: from a file.
        own: of a run that has just been set up.
        where: name of the value for messages.
        free: keys whose values are checked where they are restored, or may be missing.
    """
    if isinstance(own, dict):
        if not isinstance(saved, dict):
            raise ValueError(f"{where} is no table")
        for name, value in own.items():
            if name in free:
                continue
            if name not in saved:
                raise ValueError(f"{where} holds no {name}")
            check_like(saved[name], value, f"{where}.{name}", free=free)
    elif isinstance(own, Tensor):
        if not isinstance(saved, Tensor) or (saved.shape, saved.dtype, saved.layout) != (
            own.shape, own.dtype, own.layout,
        ):  # fmt: skip
            raise ValueError(f"{where} is no tensor of {tuple(own.shape)} of {own.dtype}")
    elif isinstance(own, list | tuple):
        if not isinstance(saved, list | tuple) or len(saved) != len(own):
            raise ValueError(f"{where} is no list of {len(own)}")
        for number, (value, part) in enumerate(zip(saved, own, strict=True)):
            check_like(value, part, f"{where}[{number}]", free=free)
    elif own is not None and not _same_kind(saved, own):
        raise ValueError(f"{where} is no {type(own).__name__}")


def check_numbers(values: Any, where: str) -> None:
    """Raise ValueError if `values` is no list of numbers."""
    if not isinstance(values, list) or not all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        raise ValueError(f"{where} is no list of numbers")


def unfit(error: BaseException, what: str) -> ValueError:
    """Return the one-line error for a checkpoint from which a run cannot go on."""
    if isinstance(error, ValueError) and what in str(error):
        return error
    return ValueError(f"{what} cannot be resumed: {reason_of(error)}")


def _same_kind(saved: Any, own: Any) -> bool:
    if isinstance(own, float):
        return isinstance(saved, int | float) and not isinstance(saved, bool)
    return type(saved) is type(own)
