"""Recurrent PPO and its peers on the same environments, and the CPU time of each.

Shapes: N padded sequences, T their longest, F features, H hidden width, L layers.
"""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import sb3_contrib
import torch
from gymnasium.vector import AutoresetMode
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from minrl.agents.ppo import RecurrentPPO
from minrl.online.vector import as_vec_env

N_ENVS = 8
CARTPOLE, HOPPER, PENDULUM = "minrl.envs:minrl/CartPoleNoVel-v1", "Hopper-v5", "Pendulum-v1"
# Names in the table: a policy of `RecurrentPPO`, a peer, or the environments.
OURS, LSTM, NATIVE = "ours", "ours, LSTM", "ours, native environments"
APART, MINLSTM, GRU = "ours, separate critic", "ours, minLSTM", "ours, GRU"
CONTRIB, ONE_CALL, MLP = "sb3-contrib", "sb3-contrib, one LSTM call", "SB3 PPO, no memory"


class Row(NamedTuple):
    """Settings of one line of the table; everything else is each library's default."""

    environment: str
    n_steps: int
    batch_size: int
    width: int


class Seconds(NamedTuple):
    """CPU seconds of a call of `learn`: in all, acting and updating."""

    whole: float
    acting: float
    updating: float


class OneCallPolicy(RecurrentActorCriticPolicy):
    """sb3-contrib's policy with one call of its LSTM for a minibatch in place of one per step.

    sb3-contrib cuts sequences at episode starts, so that only their first step has one (`create_sequencers` in
    sb3_contrib.common.recurrent.buffers).
    """

    @staticmethod
    def _process_sequence(  # type: ignore[override]
        features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: nn.LSTM
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run all sequences in one call: (N * T, F), (L, N, H) twice, (N * T,) -> (N * T, H), the last states."""
        count = lstm_states[0].shape[1]
        sequences = features.reshape(count, -1, lstm.input_size).transpose(0, 1)
        goes_on = (1.0 - episode_starts.reshape(count, -1)[:, 0]).view(1, count, 1)
        output, last = lstm(sequences, (goes_on * lstm_states[0], goes_on * lstm_states[1]))
        return output.transpose(0, 1).flatten(0, 1), last


def make(name: str, row: Row, **settings: Any) -> Any:
    """Create the algorithm `name` with new environments and fixed seeds, on the CPU; `settings` go to its
    constructor.
    """
    options: dict[str, Any] = {
        "n_steps": row.n_steps, "batch_size": row.batch_size, "n_epochs": 10, "seed": 0, "device": "cpu", **settings,
    }  # fmt: skip
    lstm = {"lstm_hidden_size": row.width}
    kinds: dict[str, tuple[Any, Any, dict[str, Any] | None]] = {
        OURS: (RecurrentPPO, "MlpPolicy", {"width": row.width}),
        NATIVE: (RecurrentPPO, "MlpPolicy", {"width": row.width}),
        APART: (RecurrentPPO, "MlpPolicy", {"width": row.width, "separate_critic": True}),
        MINLSTM: (RecurrentPPO, "MlpPolicy", {"width": row.width, "cell": "minlstm"}),
        GRU: (RecurrentPPO, "MlpPolicy", {"width": row.width, "cell": "gru"}),
        LSTM: (RecurrentPPO, "MlpLstmPolicy", lstm),
        CONTRIB: (sb3_contrib.RecurrentPPO, "MlpLstmPolicy", lstm),
        ONE_CALL: (sb3_contrib.RecurrentPPO, OneCallPolicy, lstm),
        MLP: (PPO, "MlpPolicy", None),
    }
    kind, policy, policy_kwargs = kinds[name]
    return kind(policy, environments(name, row.environment), policy_kwargs=policy_kwargs, **options)


def environments(name: str, environment: str) -> VecEnv:
    """Create eight environments: Stable-Baselines3's `DummyVecEnv` with `Monitor`, or native vector ones for
    `NATIVE`.
    """
    if name == NATIVE:
        same_step = AutoresetMode.SAME_STEP
        return as_vec_env(gymnasium.make_vec(environment, N_ENVS, "vector_entry_point", autoreset_mode=same_step))
    made: VecEnv = make_vec_env(environment, n_envs=N_ENVS, seed=0)
    return made


def learn(model: Any, steps: int) -> Seconds:
    """Continue training `model` for `steps` steps of all environments together."""
    spent = {"collect_rollouts": 0.0, "train": 0.0}

    def timed(method: str) -> Callable[..., Any]:
        plain = getattr(model, method)

        def call(*arguments: Any, **keywords: Any) -> Any:
            begin = time.process_time()
            result = plain(*arguments, **keywords)
            spent[method] += time.process_time() - begin
            return result

        return call

    for method in spent:
        setattr(model, method, timed(method))
    begin = time.process_time()
    model.learn(steps, reset_num_timesteps=False)
    whole = time.process_time() - begin
    for method in spent:
        delattr(model, method)
    return Seconds(whole, spent["collect_rollouts"], spent["train"])


def predict_seconds(model: Any, observation: Any, deterministic: bool, calls: int) -> float:
    """Return the mean CPU seconds of `predict` for one observation, with the state carried from call to call."""
    starts, state = np.zeros(1, np.bool_), None
    begin = time.process_time()
    for _ in range(calls):
        _, state = model.predict(observation, state, starts, deterministic)
    return (time.process_time() - begin) / calls


def one_call_difference() -> float:
    """Return the largest weight difference between sb3-contrib with and without the patch after an epoch on one
    rollout.

    Raises:
        RuntimeError: if it exceeds rounding, so that the patch is not equivalent.
    """
    models = [make(name, Row(CARTPOLE, 128, 128, 64), n_epochs=1) for name in (CONTRIB, ONE_CALL)]
    for model in models:
        model.set_random_seed(0)
        model.learn(128 * N_ENVS)
    losses = [model.logger.name_to_value["train/loss"] for model in models]
    weights = [nn.utils.parameters_to_vector(model.policy.parameters()).detach() for model in models]
    difference = float((weights[0] - weights[1]).abs().max())
    if difference > 1e-4 or abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
        raise RuntimeError(f"one LSTM call changes what sb3-contrib learns: losses {losses}, weights by {difference}")
    return difference


def machine() -> dict[str, Any]:
    """Describe processor, threads and versions."""
    about = Path("/proc/cpuinfo")
    described = about.read_text(encoding="utf-8") if about.exists() else platform.processor()
    models = [line.partition(":")[2].strip() for line in described.splitlines() if line.startswith("model name")]
    packages = ("torch", "numpy", "numba", "gymnasium", "mujoco", "stable-baselines3", "sb3-contrib")
    return {
        "processor": models[0] if models else described or "unknown",
        "threads": torch.get_num_threads(),
        "versions": {package: version(package) for package in packages},
    }
