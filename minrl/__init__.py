"""Recurrent policies that train on whole trajectories in parallel and act from a carried state."""

from typing import TYPE_CHECKING, Any

from minrl.tune import tune_cpu

if TYPE_CHECKING:
    from minrl.checkpoint import load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "tune_cpu"]


def __getattr__(name: str) -> Any:
    """`load` on demand, so that `minrl.scan` and `minrl.cells` import where only torch is installed."""
    if name == "load":
        from minrl.checkpoint import load

        return load
    raise AttributeError(f"module 'minrl' has no attribute {name!r}")
