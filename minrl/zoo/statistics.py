"""Statistics of observations that `VecNormalize.save` wrote, read without running its pickle.

The unpickler knows the classes that such a file holds, and makes none of them but arrays of numbers: everything else is
an inert record of what the file states.
"""

import io
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from minrl.online.flat_spaces import Standardization
from minrl.runs.archive import CheapUnpickler
from minrl.system.messages import one_line
from minrl.zoo.archive import UnreadableError
from minrl.zoo.spaces import Part

Array = npt.NDArray[Any]

_LARGEST = 1 << 23  # bytes of a file: read, it may take a hundred times as many
_LONGEST_TYPE = 8  # characters of a name such as f8
_NORMALIZE = ("stable_baselines3.common.vec_env.vec_normalize", "VecNormalize")
_MOMENTS = ("stable_baselines3.common.running_mean_std", "RunningMeanStd")
# Spaces and random states lie beside the statistics; they are not made.
_BESIDE = ("gym.spaces.", "gymnasium.spaces.", "numpy.random.", "numpy.random")
_ARRAYS = ("numpy.core.multiarray", "numpy._core.multiarray", "numpy.core.numeric", "numpy._core.numeric")


@dataclass(frozen=True)
class Statistics:
    """Mean, variance and clipping of observations; of each part by its name, "" where there are no parts."""

    file: Path
    moments: dict[str, tuple[Array, Array]]
    epsilon: float
    clip: float


class _Record:
    """An object in a pickle, inert: arguments and state."""

    arguments: tuple[Any, ...] = ()
    state: Any = None

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        """Keep the state."""
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Drop an item of a mapping that is not needed."""

    def append(self, value: Any) -> None:
        """Drop an element that is not needed."""


class _Normalize(_Record):
    """A VecNormalize."""


class _Moments(_Record):
    """A RunningMeanStd."""


class _Type(_Record):
    """A numpy.dtype."""

    def known(self) -> npt.DTypeLike:
        """Return the type; raise ValueError unless it is one of numbers."""
        order = self.state[1] if isinstance(self.state, tuple) else "="
        name = self.arguments[0]
        if not isinstance(name, str) or len(name) > _LONGEST_TYPE:
            raise ValueError("an array of no known type")
        kind = np.dtype(name)
        if order in ("<", ">"):
            kind = kind.newbyteorder("<" if order == "<" else ">")
        if kind.kind not in "fiub":
            raise ValueError(f"an array of {kind}")
        return kind


class _Array(_Record):
    """An array, by `_reconstruct` and a state or by `_frombuffer`."""

    def values(self) -> Array:
        """Return the numbers; raise ValueError if the record holds none."""
        if self.state is not None:
            _, shape, kind, fortran, raw = self.state
            order: Any = "F" if fortran else "C"
        else:
            raw, kind, shape, order = self.arguments
        found: Array = np.frombuffer(_bytes(raw), kind.known()).reshape(shape, order=order)
        return found


class _Scalar(_Record):
    """A NumPy scalar."""

    def value(self) -> float:
        """Return the number."""
        kind, raw = self.arguments
        return float(np.frombuffer(_bytes(raw), kind.known())[0])


class _Class(_Record):
    """A class that is an argument of another record."""


class _Bytes(_Record):
    """Bytes that protocols below 3 store as text, `_codecs.encode(text, "latin1")`."""

    def content(self) -> bytes:
        """Return the bytes."""
        text = self.arguments[0]
        if not isinstance(text, str):
            raise ValueError("bytes that are no text")
        return text.encode("latin1")


def _bytes(raw: Any) -> bytes:
    """Return the content of an array; a whole number is none, which `bytes` would take for a size."""
    found = raw.content() if isinstance(raw, _Bytes) else raw
    if not isinstance(found, bytes | bytearray):
        raise ValueError("an array without content")
    return bytes(found)


class _Reader(CheapUnpickler):
    """Unpickler of records."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the record for a class; raise UnreadableError for any other."""
        if (module, name) == _NORMALIZE:
            return _Normalize
        if (module, name) == _MOMENTS:
            return _Moments
        if module == "numpy":
            kinds: dict[str, Any] = {"dtype": _Type, "ndarray": _Class}
            if name in kinds:
                return kinds[name]
        arrays: dict[str, Any] = {"_reconstruct": _Array, "scalar": _Scalar, "_frombuffer": _Array}
        if module in _ARRAYS and name in arrays:
            return arrays[name]
        if (module, name) == ("_codecs", "encode"):
            return _Bytes
        if module.startswith(_BESIDE) or (module, name) == ("collections", "OrderedDict"):
            return _Record
        raise UnreadableError(f"it holds a {one_line(f'{module}.{name}', 120)}, which is no part of a VecNormalize")


def read_statistics(file: Path) -> Statistics | None:
    """Read what `VecNormalize.save` wrote; no code in it runs. None if it does not normalise observations.

    Raises:
        UnreadableError: if it holds other objects.
        ValueError: if it is damaged, or holds no VecNormalize.
    """
    try:
        if file.stat().st_size > _LARGEST:
            raise ValueError(f"it has more than {_LARGEST:,} bytes")
        found = _Reader(io.BytesIO(file.read_bytes())).load()
        if not isinstance(found, _Normalize) or not isinstance(found.state, dict):
            raise ValueError("it holds no VecNormalize")
        return _statistics(file, found.state)
    except UnreadableError:
        raise
    except Exception as error:  # a malformed pickle may raise anything
        raise ValueError(
            f"{file}: not a readable VecNormalize file ({one_line(error)}); give what its save() wrote"
        ) from error


def _statistics(file: Path, state: dict[str, Any]) -> Statistics | None:
    if not state.get("norm_obs", True):
        return None
    given = state["obs_rms"]
    parts = given if isinstance(given, dict) else {"": given}
    keys = state.get("norm_obs_keys")
    moments = {}
    for name, part in parts.items():
        if keys is not None and name not in keys:
            continue
        if not isinstance(part, _Moments) or not isinstance(part.state, dict):
            raise ValueError("its obs_rms is no RunningMeanStd")
        mean, variance = (part.state[key].values().astype(np.float64) for key in ("mean", "var"))
        if mean.shape != variance.shape or not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError("its mean and variance are not finite, or of two shapes")
        if (variance < 0).any():
            raise ValueError("its variance is negative")
        moments[str(name)] = mean, variance
    return Statistics(file, moments, _number(state["epsilon"]), _number(state["clip_obs"]))


def _number(value: Any) -> float:
    number = value.value() if isinstance(value, _Scalar) else float(value)
    if not 0.0 < number < float("inf"):
        raise ValueError(f"its epsilon or clip_obs is {number}")
    return number


class Standardizer(Standardization):
    """Standardisation of flat rows (B, O) by the statistics of a file."""

    def copy_statistics(self, statistics: Statistics, parts: Sequence[Part]) -> None:
        """Copy statistics of each part.

        Raises:
            ValueError: for statistics of other observations, or of images.
        """
        known = {part.name: part for part in parts}
        for name, (mean, variance) in statistics.moments.items():
            part = known.get(name)
            if part is None or mean.size != part.last - part.first:
                raise ValueError(
                    f"{statistics.file}: made for observations {name or 'without parts'} of {mean.size} values, the "
                    f"policy's are {', '.join(f'{p.name} {p.last - p.first}'.strip() for p in parts)}"
                )
            if part.bytes:
                raise ValueError(f"{statistics.file}: normalises images, which is not supported")
            columns = slice(part.first, part.last)
            self.mean[columns] = torch.from_numpy(mean.reshape(-1))
            self.std[columns] = torch.from_numpy(np.sqrt(variance.reshape(-1) + statistics.epsilon))
            self.bound[columns] = statistics.clip

    def forward(self, flat: Tensor) -> Tensor:
        """Normalise observations: (B, O) -> (B, O) in float32."""
        return super().forward(flat).float()


def find_statistics(file: Path, given: str | Path | None) -> Path | None:
    """Return the file of statistics for a policy: `given`, "none" for no file, else one that lies beside it.

    RL Zoo writes NAME/vecnormalize.pkl beside NAME.zip and, in repositories of one policy, vec_normalize.pkl. Standard
    error names a file that was found so.
    """
    if given is not None:
        return None if str(given) == "none" else Path(given)
    folder, name = file.parent, file.stem
    near = [folder / f"{name}{end}" for end in ("-vecnormalize.pkl", "_vecnormalize.pkl", "/vecnormalize.pkl")]
    if len(list(folder.glob("*.zip"))) == 1:
        near += [folder / "vecnormalize.pkl", folder / "vec_normalize.pkl"]
    found = next((path for path in near if path.is_file()), None)
    if found is not None:
        print(f"minrl: observations are normalised by {found}; --vecnormalize none leaves it out", file=sys.stderr)
    return found
