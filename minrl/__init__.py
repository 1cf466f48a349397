"""Recurrent policies that train on whole trajectories in parallel and act from a carried state."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from minrl.system.malloc import tune_cpu

if TYPE_CHECKING:
    from minrl.runs.checkpoint import load

__version__ = "0.1.0"
__all__ = ["__version__", "load", "tune_cpu"]

_HERE = Path(__file__).resolve().parent
# A wheel holds agents/, envs/ and reproduce/ inside this package; in a checkout they lie beside it.
if not (_HERE / "agents").is_dir():
    __path__ += [str(_HERE.parent), str(_HERE.parent / "benchmarks")]


def __getattr__(name: str) -> Any:
    """Import `load` on demand, so that `minrl.scan` and `minrl.cells` import where only torch is installed."""
    if name == "load":
        from minrl.runs.checkpoint import load

        return load
    raise AttributeError(f"module 'minrl' has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, `load` among them before its first use."""
    return sorted(__all__)
