"""Values at the end of a rollout and at a time limit: of the next observation, with the hidden state after the last
step.

Shapes: n_envs environments, S state size, P width of the previous action and reward.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from minrl.online.policy import RecurrentPolicy
from minrl.online.rollout import SegmentBuffer


@torch.no_grad()
def complete(algorithm: Any, buffer: SegmentBuffer, observations: Any, dones: npt.NDArray[np.bool_]) -> None:
    """Compute the advantages of a `RecurrentPPO`'s rollout, and the reference policy's distributions in it.

    Args:
        algorithm: with the hidden state after the rollout.
        buffer: of the rollout.
        observations, dones: after it, of n_envs environments.
    """
    policy, device = algorithm.policy, algorithm.device
    tensors, reset = obs_as_tensor(observations, device), torch.from_numpy(dones).to(device)
    values = policy.predict_values(tensors, algorithm._last_state, reset, algorithm._last_previous)
    if policy.reference is not None:
        parameters, last = policy.reference_parameters(buffer.whole(), algorithm._last_reference_state)
        buffer.reference, algorithm._last_reference_state = parameters.transpose(0, 1), last
    buffer.compute_returns_and_advantage(last_values=values, dones=dones)


@torch.no_grad()
def bootstrap(
    rewards: npt.NDArray[Any],
    gamma: float,
    infos: Sequence[dict[str, Any]],
    policy: RecurrentPolicy,
    state: Tensor,
    previous: Tensor,
) -> None:
    """Add gamma V(final observation) to the rewards (n_envs,) of the steps at which a time limit cut an episode.

    Terminated episodes have no value after their end
    (Pardo et al. 2018, "Time Limits in Reinforcement Learning", arXiv 1712.00378, section 3).

    Args:
        rewards: changed in place.
        gamma: discount factor.
        infos: of the step, with Stable-Baselines3's `terminal_observation` and `TimeLimit.truncated`.
        policy: whose critic gives the values.
        state: (n_envs, S) after the step.
        previous: (n_envs, P) action and reward of the step.
    """
    rows = [i for i, info in enumerate(infos) if info.get("TimeLimit.truncated") and "terminal_observation" in info]
    if not rows:
        return
    last: list[Any] = [infos[i]["terminal_observation"] for i in rows]
    if isinstance(policy.observation_space, spaces.Dict):
        final: Any = {key: np.stack([obs[key] for obs in last]) for key in policy.observation_space.spaces}
    else:
        final = np.stack(last)
    tensors, _ = policy.obs_to_tensor(final)
    never = torch.zeros(len(rows), dtype=torch.bool, device=state.device)
    values = policy.predict_values(tensors, state[rows], never, previous[rows])
    rewards[rows] += gamma * values.cpu().numpy().reshape(-1)
