"""Recurrent PPO as one file of torch, in the style of CleanRL's `ppo_atari_lstm.py`: a peer of `ppo_speed.py`.

An LSTM between a layer and the heads, stepped through time in the update as well, with resets where episodes begin.
The defaults of Stable-Baselines3's PPO, except for the value of the last observation at a time limit, which CleanRL
leaves out.

Shapes: B environments, T steps of a rollout, D width.
"""

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor, nn
from torch.distributions import Categorical

GAMMA, LAMBDA, CLIP, VALUE, MOST_NORM, RATE = 0.99, 0.95, 0.2, 0.5, 0.5, 3e-4


class Network(nn.Module):
    """Layer, LSTM, actor and critic."""

    def __init__(self, inputs: int, actions: int, width: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(nn.Linear(inputs, width), nn.Tanh())
        self.lstm = nn.LSTM(width, width)
        self.actor, self.critic = nn.Linear(width, actions), nn.Linear(width, 1)
        for name, values in self.named_parameters():
            if "bias" in name:
                nn.init.constant_(values, 0.0)
            else:
                nn.init.orthogonal_(values, 0.01 if name.startswith("actor") else 1.0)

    def forward(self, seen: Tensor, state: tuple[Tensor, Tensor], reset: Tensor) -> tuple[Tensor, Any]:
        """Map (T, B, O), two of (1, B, D), (T, B) to hidden outputs (T, B, D) and the next state."""
        outputs = []
        for now, first in zip(self.layer(seen), reset, strict=True):
            goes_on = (1.0 - first).view(1, -1, 1)
            output, state = self.lstm(now.unsqueeze(0), (goes_on * state[0], goes_on * state[1]))
            outputs.append(output)
        return torch.cat(outputs), state


class CleanPPO:
    """The training loop; the algorithm's methods are timed as those of Stable-Baselines3."""

    def __init__(self, environment: str, n_envs: int, n_steps: int, batch_size: int, n_epochs: int, width: int) -> None:
        """Begin a training with seed 0."""
        torch.manual_seed(0)
        self.order = np.random.default_rng(0)
        makers = [lambda: gymnasium.make(environment)] * n_envs
        self.envs = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP)
        self.n_envs, self.n_steps, self.n_epochs = n_envs, n_steps, n_epochs
        self.per_batch = max(1, batch_size // n_steps)
        space: Any = self.envs.single_action_space
        self.network = Network(self.envs.single_observation_space.shape[0], int(space.n), width)  # type: ignore[index]
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=RATE, eps=1e-5)
        self.seen = torch.from_numpy(self.envs.reset(seed=0)[0])
        self.reset = torch.ones(n_envs)
        self.state = (torch.zeros(1, n_envs, width), torch.zeros(1, n_envs, width))
        self.num_timesteps = 0

    def learn(self, steps: int, reset_num_timesteps: bool = False) -> None:
        """Continue for `steps` steps of all environments."""
        end = self.num_timesteps + steps
        while self.num_timesteps < end:
            self.collect_rollouts()
            self.train()
            self.num_timesteps += self.n_steps * self.n_envs

    @torch.no_grad()
    def collect_rollouts(self) -> None:
        """Act for `n_steps` steps and compute advantages."""
        self.begin = tuple(part.clone() for part in self.state)
        kept: dict[str, list[Tensor]] = {name: [] for name in ("seen", "reset", "actions", "log_probs", "values")}
        rewards = []
        for _ in range(self.n_steps):
            hidden, self.state = self.network(self.seen[None], self.state, self.reset[None])
            distribution = Categorical(logits=self.network.actor(hidden[0]))
            actions = distribution.sample()
            step = (
                self.seen,
                self.reset,
                actions,
                distribution.log_prob(actions),
                self.network.critic(hidden[0])[:, 0],
            )
            for name, values in zip(kept, step, strict=True):
                kept[name].append(values)
            seen, reward, terminated, truncated, _ = self.envs.step(actions.numpy())
            rewards.append(torch.from_numpy(reward).float())
            self.seen, self.reset = torch.from_numpy(seen), torch.from_numpy(terminated | truncated).float()
        self.rollout = {name: torch.stack(values) for name, values in kept.items()}
        hidden, _ = self.network(self.seen[None], self.state, self.reset[None])
        value_after, goes_on = self.network.critic(hidden[0])[:, 0], 1.0 - self.reset
        advantages, last = torch.zeros(self.n_steps, self.n_envs), torch.zeros(self.n_envs)
        for t in reversed(range(self.n_steps)):
            delta = rewards[t] + GAMMA * value_after * goes_on - self.rollout["values"][t]
            advantages[t] = last = delta + GAMMA * LAMBDA * goes_on * last
            value_after, goes_on = self.rollout["values"][t], 1.0 - self.rollout["reset"][t]
        self.rollout["advantages"], self.rollout["returns"] = advantages, advantages + self.rollout["values"]

    def train(self) -> None:
        """Update from minibatches of whole rows of the rollout."""
        for _ in range(self.n_epochs):
            for rows in np.array_split(self.order.permutation(self.n_envs), self.n_envs // self.per_batch):
                part = {name: values[:, rows] for name, values in self.rollout.items()}
                hidden, _ = self.network(part["seen"], tuple(s[:, rows] for s in self.begin), part["reset"])
                distribution = Categorical(logits=self.network.actor(hidden))
                ratio = (distribution.log_prob(part["actions"]) - part["log_probs"]).exp()
                advantages = part["advantages"]
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                gain = torch.min(advantages * ratio, advantages * ratio.clamp(1 - CLIP, 1 + CLIP)).mean()
                errors = self.network.critic(hidden)[..., 0] - part["returns"]
                self.optimizer.zero_grad()
                (VALUE * errors.square().mean() - gain).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), MOST_NORM)
                self.optimizer.step()
