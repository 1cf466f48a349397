"""Infos and episode statistics per environment, as Stable-Baselines3 expects them.

Shapes: N environments.
"""

import time
from typing import Any

import numpy as np
import numpy.typing as npt

# Keys by which EnvPool numbers its rows; in synchronous mode row i is environment i.
_BOOKKEEPING = frozenset({"env_id", "players"})


def split_info(info: Any, count: int) -> list[dict[str, Any]]:
    """Split a vector environment's `info` into one new dictionary per environment.

    Gymnasium's convention: `info[key]` holds N values, and the mask `info["_" + key]` (N,) marks the environments that
    have one. A value without a mask (EnvPool has none) belongs to every environment: row by row if it has N rows,
    shared else.

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
    """Returns and lengths of running episodes, as Stable-Baselines3's `Monitor` counts them."""

    def __init__(self, count: int) -> None:
        self._start = time.perf_counter()
        self.returns = np.zeros(count)
        self.lengths = np.zeros(count, dtype=np.int64)

    def restart(self) -> None:
        """Clear the running episodes."""
        self.returns[:] = 0.0
        self.lengths[:] = 0

    def add(self, rewards: npt.NDArray[Any], filler: npt.NDArray[np.bool_] | None) -> None:
        """Add the rewards (N,) of one step, without environments that only reset."""
        counted: Any = True if filler is None else ~filler
        np.add(self.returns, rewards, out=self.returns, where=counted)
        self.lengths += counted

    def finished(self, total: float, length: int) -> dict[str, Any]:
        """Return an episode as `Monitor` reports it: return `r`, steps `l`, seconds since the start `t`."""
        return {"r": total, "l": length, "t": round(time.perf_counter() - self._start, 6)}

    def end(self, index: int) -> dict[str, Any]:
        """Return the finished episode of one environment, and begin another."""
        episode = self.finished(float(self.returns[index]), int(self.lengths[index]))
        self.returns[index] = 0.0
        self.lengths[index] = 0
        return episode
