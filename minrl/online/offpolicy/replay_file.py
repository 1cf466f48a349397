"""The file of a replay buffer: tensors and plain values alone, so that reading one runs no code."""

import errno
import io
import pickle
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.save_util import open_path

from minrl.online.offpolicy.replay import SequenceBuffer
from minrl.runs.archive import check_archive
from minrl.system.files import make_folder, replacing
from minrl.system.messages import one_line

_SUFFIX = ".pkl"  # as Stable-Baselines3 adds it


def save_replay(buffer: SequenceBuffer, path: Any) -> None:
    """Save what a buffer holds; `path` is as for Stable-Baselines3 and gets the suffix .pkl if it has none."""
    if not isinstance(path, str | Path):
        torch.save(buffer.saved(), open_path(path, "w"))
        return
    file = Path(path)
    file = file if file.suffix else file.with_name(file.name + _SUFFIX)
    make_folder(file.parent)
    try:
        with replacing(file) as temporary, temporary.open("wb") as stream:
            torch.save(buffer.saved(), stream)
    except RuntimeError as error:  # torch's error for a full disk
        raise OSError(errno.EIO, f"the replay buffer cannot be written ({one_line(error)})", str(file)) from error


def load_replay(buffer: SequenceBuffer, path: Any, state_size: int) -> None:
    """Load what `save_replay` wrote into a buffer of the same settings, of a model with hidden states of `state_size`.

    Raises:
        ValueError: for a file that is damaged or holds no replay buffer, or one of other sizes.
        OSError: if there is no such file.
    """
    content = _content(path)
    try:
        check_archive(Path(str(path)), content)
        buffer.restore(torch.load(io.BytesIO(content), weights_only=True), state_size)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError, pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} holds no replay buffer of recurrent SAC: {one_line(error)}") from error


def _content(path: Any) -> bytes:
    if not isinstance(path, str | Path):
        stream: bytes = open_path(path, "r").read()
        return stream
    file = Path(path)
    if not file.exists():
        file = Path(f"{path}{_SUFFIX}")
    if file.exists() and not file.is_file():
        raise ValueError(f"{file} is no regular file")
    return file.read_bytes()
