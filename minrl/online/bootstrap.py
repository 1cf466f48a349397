"""Bootstrap at a time limit: the value of the final observation, with the hidden state after the last step.

Shapes: n_envs environments, S state size, P width of the previous action and reward.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from torch import Tensor

from minrl.online.policy import RecurrentPolicy


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
