"""Policies that start from an agent trained offline, and the KL divergence from it.

Shapes: B environments or segments, T time, O flat observation width, A flat action width, D width, S state size, P
width of the previous action and reward, K parameters of a distribution, N rows.
"""

import copy
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import Distribution, kl_divergence, make_proba_distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor, nn

from minrl.backbone import Backbone
from minrl.data.space_match import mismatch
from minrl.data.task import Task
from minrl.models.context_window import Refeed
from minrl.models.encoders import ActionUnits
from minrl.models.heads import ActionHead
from minrl.online.spaces import fitted_spaces
from minrl.runs import checkpoint
from minrl.runs.checkpoint import Checkpoint
from minrl.system.config import build

_log = logging.getLogger("minrl.online.pretrained.reference")


@runtime_checkable
class StartsOnline(Protocol):
    """Agent whose backbone can learn online."""

    task: Task
    backbone: Backbone
    head: ActionHead
    action_units: ActionUnits

    def embed(self, observation: Tensor, previous: Tensor) -> Tensor:
        """Return the backbone's input, the previous action in `action_units`: (..., O), (..., A) -> (..., D)."""


def open_run(run: str | Path | Checkpoint) -> tuple[StartsOnline, Checkpoint]:
    """Return the agent of a run, without dropout, and its checkpoint without weights, to build it again.

    An agent that acts with its window rescanned gets a warning, as PPO carries the hidden state.

    Raises:
        ValueError: if there is no run, or its agent has no backbone that can learn online.
    """
    saved = run if isinstance(run, Checkpoint) else checkpoint.read(run)
    where = "of the policy" if isinstance(run, Checkpoint) else str(run)
    if saved.weights:
        agent: Any = checkpoint.restore(saved, where)
    else:
        kind: Any = checkpoint.agent_class(saved.agent)
        agent = kind(
            build(kind.config_class, kind.saved_config(saved.config), f"checkpoint {where}"), Task.from_dict(saved.task)
        )
    if not isinstance(agent, StartsOnline) or not isinstance(agent.backbone, Backbone):
        raise ValueError(f"pretrained: the run {where} has no backbone that can learn online (agent {saved.agent!r})")
    if saved.weights and isinstance(getattr(agent, "acting", None), Refeed):
        _log.warning(
            "pretrained: the run %s acts with its last %s steps rescanned, a policy of PPO from a carried state that "
            "the run never saw, so it starts from other behaviour: train the run without context",
            where,
            agent.config.context,  # type: ignore[attr-defined]
        )
    for module in agent.modules():  # type: ignore[attr-defined]
        if isinstance(module, nn.Dropout):
            # Acting and training must agree to rounding.
            module.p = 0.0
    return agent, replace(saved, weights={}, training={}, note={})


def check_start(agent: StartsOnline, policy: ActorCriticPolicy) -> None:
    """Raise ValueError if `policy` cannot start from `agent`."""
    task = agent.task
    if mismatch(task.action_space, policy.action_space, "action") is not None:
        # An environment inside `fit_spaces` counts choices from 0, whose columns are the same.
        fitted = fitted_spaces(task.observation_space, task.action_space)
        task = replace(task, observation_space=fitted[0], action_space=fitted[1])
    task.check_fits(policy.observation_space, policy.action_space, "the environment")
    if task.wide_observations:
        raise ValueError(
            "pretrained: float32, to which Stable-Baselines3 casts observations, would round the run's values; "
            "subtract the offset in the environment and in the data set"
        )
    if policy.features_extractor_class is not FlattenExtractor or policy.features_dim != task.observation_size:
        raise ValueError("pretrained: the run reads flat observations; leave features_extractor_class as it is")
    if policy.use_sde:
        raise ValueError("pretrained: use_sde reads features that the run does not have; leave it off")
    if getattr(policy, "previous_reward", False):
        raise ValueError("pretrained: the run does not read the last reward; leave previous_reward off")
    arch: Any = policy.net_arch
    if arch and (isinstance(arch, list) or arch.get("pi")):
        raise ValueError('pretrained: the run has its own actor; net_arch can only have layers of the critic, "vf"')
    agent.embed(torch.zeros(1, task.observation_size), torch.zeros(1, task.action_size))


class PretrainedTrunk(nn.Module):
    """Normalisation, embeddings and backbone of an agent, instead of `Trunk`.

    The reward is no input: a return-conditioned agent gets its full target return at every step.
    """

    def __init__(self, agent: StartsOnline) -> None:
        super().__init__()
        copied: Any = copy.deepcopy(agent)
        self.agent: Any = copied
        copied.head = nn.Identity()
        self.backbone: Backbone = copied.backbone

    def standardize_actions(self, actions: Tensor) -> Tensor:
        """Convert flat actions to the agent's units of previous actions: (..., A) -> (..., A)."""
        standard: Tensor = self.agent.action_units(actions)
        return standard

    def scan(self, features: Tensor, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, T, O), (B, T, A) from `standardize_actions`, (B, S), (B, T) bool -> (B, T, D), (B, S)."""
        return self.backbone.scan(self.agent.embed(features, previous), state, reset)

    def step(self, features: Tensor, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, O), (B, A), (B, S), (B,) bool -> (B, D), (B, S)."""
        state = state.masked_fill(reset.unsqueeze(1), 0.0)
        return self.backbone.step(self.agent.embed(features, previous), state)


class PretrainedHead(nn.Module):
    """Action head of an agent as mean or logits of a policy's distribution: (..., D) -> (..., K)."""

    def __init__(self, head: ActionHead) -> None:
        super().__init__()
        self.head = copy.deepcopy(head)

    def forward(self, latent: Tensor) -> Tensor:
        """Compute mean or logits."""
        return self.head.center(latent)


class Reference(nn.Module):
    """Frozen pretrained policy, from which the KL divergence of the learning one is measured.

    Args:
        trunk: its trunk.
        action_net: its head.
        action_space: of the policy.
        log_std: (A,) of its Gaussian; ignored for discrete actions.
    """

    log_std: Tensor

    def __init__(self, trunk: PretrainedTrunk, action_net: nn.Module, action_space: Any, log_std: Tensor) -> None:
        super().__init__()
        self.trunk, self.action_net = copy.deepcopy(trunk), copy.deepcopy(action_net)
        self.action_space = action_space
        self.register_buffer("log_std", log_std.detach().clone())
        self.requires_grad_(False)

    @torch.no_grad()
    def scan(self, features: Tensor, previous: Tensor, state: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
        """Return the parameters (B, T, K) of its distributions over whole rollouts, and its last state."""
        latent, last = self.trunk.scan(features, previous, state, reset)
        return self.action_net(latent), last

    def divergence(self, policy: Distribution, parameters: Tensor) -> Tensor:
        """Return KL(policy | pretrained) in nats for N rows, (N,), from the pretrained one's parameters (N, K)."""
        pretrained: Any = make_proba_distribution(self.action_space)
        if isinstance(self.action_space, spaces.Box):
            pretrained.proba_distribution(parameters, self.log_std)
        else:
            pretrained.proba_distribution(parameters)
        divergence: Tensor = kl_divergence(policy, pretrained)
        return divergence.reshape(len(parameters), -1).sum(1)


def check_normalization(environments: VecNormalize | None) -> None:
    """Raise ValueError if observations are normalised before a pretrained policy, which does so itself."""
    if environments is not None and environments.norm_obs:
        raise ValueError("pretrained: the run normalises observations itself; use VecNormalize(..., norm_obs=False)")


def weigh_reference(policy: Any, progress_remaining: float) -> None:
    """Set the weight of the KL divergence of `policy` from the pretrained one.

    Args:
        policy: a `minrl.online.policy.RecurrentPolicy` with a reference.
        progress_remaining: from 1 at the start of training to 0 at its end.
    """
    weight = policy.pretrained_kl
    policy.reference_weight = weight(progress_remaining) if callable(weight) else weight * progress_remaining
