"""Devices by name: cpu, cuda, cuda:1, auto."""

import os

import torch


def device_named(name: str) -> torch.device:
    """Return the device called `name`: cpu, cuda, cuda:1 …, or auto, a GPU if there is one, else the CPU.

    Under `torchrun`, `cuda` is the process's own GPU.

    Raises:
        ValueError: if there is no such device, or it is neither CPU nor CUDA.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f'unknown device "{name}"; choose cpu, cuda or auto') from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f'device "{name}" is not supported; choose cpu, cuda or auto')
    if device.type == "cpu":
        return device
    if not torch.cuda.is_available():
        raise ValueError("device cuda: torch finds no GPU")
    index = int(os.environ.get("LOCAL_RANK", 0)) if device.index is None else device.index
    if index >= torch.cuda.device_count():
        raise ValueError(f"device cuda:{index}: torch finds {torch.cuda.device_count()} GPUs")
    return torch.device("cuda", index)
