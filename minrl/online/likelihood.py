"""Actions, log-likelihoods and entropies of a policy, without distribution objects for every step.

Shapes: N rows, A action width, K choices.
"""

import math
from typing import Any

import torch
from stable_baselines3.common.distributions import (
    BernoulliDistribution,
    CategoricalDistribution,
    DiagGaussianDistribution,
    Distribution,
    MultiCategoricalDistribution,
)
from torch import Tensor

_LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)


def evaluated(
    policy: Any, latent: Tensor, actions: Tensor, masks: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Return log-likelihood (N,) and entropy (N,) of `actions` for the actor's latents.

    `masks` (N, K) are added to the logits. Equal to Stable-Baselines3's distributions, which it uses for all but the
    two commonest.
    """
    kind: Any = type(policy.action_dist)
    if kind is CategoricalDistribution:
        return categorical(masked(policy.action_net(latent), masks), actions)
    if kind is DiagGaussianDistribution:
        return gaussian(policy.action_net(latent), policy.log_std, actions)
    distribution = distribution_of(policy, latent, masks)
    return distribution.log_prob(actions), distribution.entropy()


def sampled(policy: Any, latent: Tensor, deterministic: bool, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return actions, a sample or the likeliest, and their log-likelihood (N,), by the formulas of `evaluated`.

    `masks` (N, K) are added to the logits. They draw the same random numbers as Stable-Baselines3's distributions, but
    for yes or no: one uniform number each.
    """
    kind: Any = type(policy.action_dist)
    if kind is CategoricalDistribution:
        log_p = torch.log_softmax(masked(policy.action_net(latent), masks), dim=1)
        # argmax of p / e with e exponential samples each choice with its probability, as torch.multinomial does.
        race = log_p if deterministic else log_p.exp() / torch.empty_like(log_p).exponential_()
        choice = race.argmax(dim=1)
        return choice, log_p.gather(1, choice.unsqueeze(1)).squeeze(1)
    if kind is DiagGaussianDistribution:
        mean = policy.action_net(latent)
        noise = torch.zeros_like(mean) if deterministic else torch.randn_like(mean)
        actions = torch.addcmul(mean, noise, policy.log_std.exp())
        return actions, gaussian(mean, policy.log_std, actions)[0]
    distribution: Any = distribution_of(policy, latent, masks)
    if kind is BernoulliDistribution and not deterministic:
        p = distribution.distribution.probs
        actions = (torch.rand_like(p) < p).to(p.dtype)
        return actions, distribution.log_prob(actions)
    actions = distribution.get_actions(deterministic=deterministic)
    return actions, distribution.log_prob(actions)


def distribution_of(policy: Any, latent: Tensor, masks: Tensor | None) -> Distribution:
    """Return the distribution of actions for the actor's latents; `masks` (N, K) are added to its logits."""
    if masks is None:
        found: Distribution = policy._get_action_dist_from_latent(latent)
    else:
        found = policy.action_dist.proba_distribution(action_logits=policy.action_net(latent) + masks)
    return found


def parameters(distribution: Any) -> Tensor | None:
    """Return the parameters (N, K) of a distribution as `minrl.agent.StochasticActor` does; None for other kinds."""
    kind: Any = type(distribution)
    if kind is MultiCategoricalDistribution:
        return torch.cat([part.logits for part in distribution.distribution], dim=1)
    if kind in (CategoricalDistribution, BernoulliDistribution):
        logits: Tensor = distribution.distribution.logits
        return logits
    if kind is not DiagGaussianDistribution:
        return None
    return torch.cat([distribution.distribution.mean, distribution.distribution.stddev.log()], dim=1)


def masked(logits: Tensor, masks: Tensor | None) -> Tensor:
    """Add masks (N, K), if there are any, to logits (N, K)."""
    return logits if masks is None else logits + masks


def categorical(logits: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (N, K), (N,) whole numbers -> log-likelihood (N,) and entropy (N,) in nats."""
    log_p = torch.log_softmax(logits, dim=1)
    return log_p.gather(1, actions.reshape(-1, 1).long()).squeeze(1), -(log_p.exp() * log_p).sum(1)


def gaussian(mean: Tensor, log_std: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Compute (N, A), (A,), (N, A) -> log-likelihood (N,) and entropy (N,) in nats of a diagonal Gaussian."""
    error = (actions - mean) * torch.exp(-log_std)
    width = log_std.sum() + log_std.numel() * _LOG_ROOT_TAU
    entropy = width + 0.5 * log_std.numel()
    return -0.5 * error.square().sum(1) - width, entropy.expand(len(mean))
