"""Description of machine and packages, and availability of peers."""

import importlib
import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch

import minrl
from minrl.kernels import matmul
from minrl.system.messages import one_line

_REPORTED = ("numpy", "numba", "triton", "transformers", "mambapy", "flash-linear-attention", "accelerated-scan")


def missing(module: str) -> str | None:
    """Return why `module` cannot be imported, in one line; None if it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # packages with compiled kernels raise many types without a GPU
        root = module.split(".")[0]
        if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] == root:
            return f"{root} is not installed"
        return f"{root} cannot be imported: {one_line(error)[:120]}"
    return None


def failure(call: Callable[[], object]) -> str | None:
    """Return the error of `call` in one line; None if it works. For peers that do not support this machine."""
    try:
        call()
    except Exception as error:  # foreign code
        return f"it fails here: {one_line(error)[:120]}"
    return None


def version(distribution: str) -> str:
    """Return `distribution` and its version."""
    if distribution == "torch":
        return f"torch {torch.__version__}"
    try:
        return f"{distribution} {version_of(distribution)}"
    except PackageNotFoundError:
        return distribution


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def describe(device: torch.device, keeps_memory: bool) -> dict[str, Any]:
    """Describe everything that times depend on.

    Args:
        device: of the measurements.
        keeps_memory: `minrl.tune_cpu` took effect.
    """
    versions = {name: version(name).removeprefix(name).strip() for name in _REPORTED}
    return {
        "processor": matmul.processor_facts().get("model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cudnn": torch.backends.cudnn.version() if device.type == "cuda" else None,
        "system": f"{platform.system()} {platform.machine()}",
        "allocator": _allocator(keeps_memory),
        "matrix_products": matmul.library(),
        "python": platform.python_version(),
        "minrl": minrl.__version__,
        "torch": torch.__version__,
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "load": [round(value, 2) for value in os.getloadavg()] if hasattr(os, "getloadavg") else None,
        "packages": {name: number for name, number in versions.items() if number},
    }


def _allocator(keeps_memory: bool) -> str:
    name = " ".join(part for part in platform.libc_ver() if part) or "the system's"
    preloaded = [Path(path).name for path in os.environ.get("LD_PRELOAD", "").replace(":", " ").split()]
    if preloaded:
        name += f" with {', '.join(preloaded)}"
    return f"{name}, {'set to keep freed memory' if keeps_memory else 'default settings'}"
