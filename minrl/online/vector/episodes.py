"""What a vector environment says of all its environments at once, told per environment as Stable-Baselines3 expects.

Shapes: N environments.
"""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

# What EnvPool adds to number its rows; in synchronous mode row i is environment i.
_BOOKKEEPING = frozenset({"env_id", "players"})


def split_info(info: Any, count: int) -> list[dict[str, Any]]:
    """Return one dictionary per environment, made anew, from a vector environment's `info`.

    Gymnasium's convention: `info[key]` holds N values, and the mask `info["_" + key]` (N,) says whose they are. A value
    without a mask (EnvPool has none) belongs to every environment: row by row where it has N rows, shared else.

    Args:
        info: a dictionary, nested ones included, or a list of N dictionaries (Gymnasium's `DictInfoToList`).
        count: N.
    """
    if isinstance(info, list):
        return [dict(row) for row in info]
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in info.items():
        if key in _BOOKKEEPING or (key.startswith("_") and key[1:] in info):
            continue
        values = _rows(value, count)
        mask = info.get(f"_{key}")
        if mask is None:
            for row, item in zip(rows, values, strict=True):
                row[key] = item
        else:
            for index in np.flatnonzero(mask).tolist():
                rows[index][key] = values[index]
    return rows


def _rows(value: Any, count: int) -> Any:
    if isinstance(value, dict):
        return split_info(value, count)
    if isinstance(value, (np.ndarray, list, tuple)) and np.ndim(value) > 0 and len(value) == count:
        return value
    return [value] * count


class EpisodeStatistics:
    """Statistics (return and length) of the running episode of each environment: the work of Stable-Baselines3's
    `Monitor`."""

    def __init__(self, count: int) -> None:
        self._start = time.perf_counter()
        self._returns = np.zeros(count)
        self._lengths = np.zeros(count, dtype=np.int64)

    def restart(self) -> None:
        """Forget the running episodes."""
        self._returns[:] = 0.0
        self._lengths[:] = 0

    def add(self, rewards: npt.NDArray[Any], filler: npt.NDArray[np.bool_] | None) -> None:
        """Count one step's rewards (N,), but for the environments that only reset in it."""
        counted: Any = True if filler is None else ~filler
        np.add(self._returns, rewards, out=self._returns, where=counted)
        self._lengths += counted

    def end(self, index: int) -> dict[str, Any]:
        """Return the finished episode of one environment: `r` its return, `l` its steps, `t` seconds since the
        start."""
        episode = {
            "r": float(self._returns[index]),
            "l": int(self._lengths[index]),
            "t": round(time.perf_counter() - self._start, 6),
        }
        self._returns[index] = 0.0
        self._lengths[index] = 0
        return episode
