"""The file of a replay buffer: tensors and plain values alone, so that reading one runs no code."""

import pickle
from typing import Any

import torch
from stable_baselines3.common.save_util import open_path

from minrl.online.offpolicy.replay import SequenceBuffer
from minrl.system.messages import one_line


def save_replay(buffer: SequenceBuffer, path: Any) -> None:
    """Save what a buffer holds; `path` is as for Stable-Baselines3 and gets the suffix .pkl if it has none."""
    with open_path(path, "w", verbose=0, suffix="pkl") as file:
        torch.save(buffer.saved(), file)


def load_replay(buffer: SequenceBuffer, path: Any) -> None:
    """Load what `save_replay` wrote into a buffer of the same settings.

    Raises:
        ValueError: for a file that holds no replay buffer, or one of other sizes.
        OSError: if there is no such file.
    """
    try:
        with open_path(path, "r", verbose=0, suffix="pkl") as file:
            buffer.restore(torch.load(file, weights_only=True))
    except (pickle.UnpicklingError, EOFError) as error:
        raise ValueError(f"{path} holds no replay buffer of recurrent SAC, but something else than tensors") from error
    except (RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} holds no replay buffer of recurrent SAC: {one_line(error)}") from error
