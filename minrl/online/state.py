"""Training state of a Stable-Baselines3 model in a checkpoint: tensors and plain values alone.

Shapes: those of Stable-Baselines3.
"""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd

from minrl.runs.optimizer_state import load_optimizer, not_finite
from minrl.runs.saved_state import check_numbers

# Parts of a saved state whose length is not fixed.
FREE = ("episodes", "successes", "replay")


def saved_state(model: BaseAlgorithm) -> dict[str, Any]:
    """Return optimizer, counters, normalisation, replay buffer, and the episodes behind the log's means."""
    environments = model.get_vec_normalize_env()
    statistics: dict[str, Any] = {}
    if environments is not None:
        statistics = {name: _saved_statistics(values) for name, values in _statistics(environments).items()}
    replay: Any = getattr(model, "replay_buffer", None)
    return {
        **({} if replay is None else {"replay": replay.saved()}),
        "optimizer": model.policy.optimizer.state_dict(),
        "updates": int(model._n_updates),
        "normalization": statistics,
        "episodes": [[float(episode[key]) for key in ("r", "l", "t")] for episode in model.ep_info_buffer or ()],
        "successes": [float(success) for success in model.ep_success_buffer or ()],
    }


def restore_state(model: BaseAlgorithm, state: dict[str, Any], step: int) -> None:
    """Restore `saved_state` for a run that has made `step` environment steps."""
    load_optimizer(model.policy.optimizer, state["optimizer"])
    if (found := not_finite(model.policy.named_parameters(), model.policy.optimizer)) is not None:
        raise ValueError(f"{found} is not finite")
    if (replay := getattr(model, "replay_buffer", None)) is not None:
        replay.restore(state["replay"], model.policy.stored_size)
    model.num_timesteps, model._n_updates = step, state["updates"]
    environments = model.get_vec_normalize_env()
    # At step 0 the saved ones hold the first reset, which a resumed run makes again.
    if environments is not None and step > 0:
        for name, values in _statistics(environments).items():
            _restore_statistics(values, state["normalization"][name])
    window = model._stats_window_size
    episodes = [{"r": float(r), "l": int(length), "t": float(t)} for r, length, t in state["episodes"]]
    check_numbers(state["successes"], "successes")
    model.ep_info_buffer = deque(episodes, maxlen=window)
    model.ep_success_buffer = deque(state["successes"], maxlen=window)


def random_states() -> dict[str, Any]:
    """Return the states of torch's, NumPy's global and Python's generator as tensors and plain values."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002, the generator that Stable-Baselines3 uses
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys, np.int64)), *rest],
        "python": random.getstate(),
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Restore `random_states`; those of GPUs only if their number is the same."""
    torch.set_rng_state(torch.as_tensor(states["torch"]))  # an array in files of older versions
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([torch.as_tensor(state) for state in states["cuda"]])
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, np.asarray(keys, np.uint32), *rest))  # noqa: NPY002
    random.setstate(states["python"])


@contextmanager
def preserve_random_states() -> Iterator[None]:
    """Restore all random generators at the end, so that draws within do not change training."""
    states = random_states()
    try:
        yield
    finally:
        restore_random_states(states)


def _statistics(environments: Any) -> dict[str, RunningMeanStd]:
    """Return all running statistics of a `VecNormalize`, by name."""
    observed = getattr(environments, "obs_rms", None)
    named = observed if isinstance(observed, dict) else {} if observed is None else {"": observed}
    return {"returns": environments.ret_rms} | {f"observations/{name}": values for name, values in named.items()}


def _saved_statistics(values: RunningMeanStd) -> dict[str, Any]:
    mean, var = (torch.tensor(np.asarray(numbers)) for numbers in (values.mean, values.var))
    return {"mean": mean, "var": var, "count": float(values.count)}


def _restore_statistics(values: RunningMeanStd, saved: dict[str, Any]) -> None:
    values.mean, values.var, values.count = saved["mean"].numpy().copy(), saved["var"].numpy().copy(), saved["count"]
