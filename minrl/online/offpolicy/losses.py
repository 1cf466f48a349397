"""Losses of soft actor-critic over whole rows (Haarnoja et al., arXiv 1812.05905; choices: Christodoulou, 1910.07207).

Shapes: B rows, T time, N = B * T, A action width, K choices, M critics.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from minrl.online.offpolicy.policy import LOG_STD, SACPolicy
from minrl.online.offpolicy.replay import Rows
from minrl.online.offpolicy.targets import n_step_targets

_LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)


class Losses(NamedTuple):
    """Losses of one minibatch, and what the log shows."""

    actor: Tensor  # ()
    critic: Tensor  # ()
    ent_coef: Tensor  # ()
    entropy: Tensor  # () nats
    value: Tensor  # () mean of the critics' targets

    def total(self) -> Tensor:
        """Return the sum; no parameter has gradients of two of them."""
        return self.actor + self.critic + self.ent_coef


class Choice(NamedTuple):
    """Actions of the current policy: a sample and its log-likelihood, or all choices with their probabilities."""

    actions: Tensor | None  # (N, A) in [-1, 1]; None for choices
    log_prob: Tensor  # (N,), or (N, K) of each choice
    weights: Tensor | None  # (N, K); None for real actions

    def entropy(self) -> Tensor:
        """Return the entropy (N,) in nats, estimated by the sample for real actions."""
        return -self.log_prob if self.weights is None else -(self.weights * self.log_prob).sum(1)


def chosen(policy: SACPolicy, latent: Tensor) -> Choice:
    """Return the actions of the current policy for latents (N, D)."""
    found = policy.parameters_of_actions(latent)
    if policy.is_discrete:
        log_prob = torch.log_softmax(found, dim=1)
        return Choice(None, log_prob, log_prob.exp())
    mean, log_std = found.chunk(2, dim=1)
    log_std = log_std.clamp(*LOG_STD)
    noise = torch.randn_like(mean)
    raw = torch.addcmul(mean, noise, log_std.exp())
    # log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), without cancellation for large u.
    slope = 2 * (math.log(2) - raw - F.softplus(-2 * raw))
    log_prob = (-0.5 * noise.square() - log_std - _LOG_ROOT_TAU - slope).sum(1)
    return Choice(torch.tanh(raw), log_prob, None)


def losses(policy: SACPolicy, rows: Rows, *, gamma: float, n_steps: int, target_entropy: float) -> Losses:
    """Compute the losses of a minibatch by one scan for each trunk.

    Args:
        policy: actor, critics and their targets.
        rows: from `SequenceBuffer.sample`.
        gamma: discount factor.
        n_steps: most rewards in a target.
        target_entropy: in nats, which the entropy coefficient steers to.
    """
    of_actor, of_critic, of_target = (latent.flatten(0, 1) for latent in policy.latents(rows)[:3])
    rows = _counted(rows)
    choice = chosen(policy, of_actor)
    alpha = policy.log_ent_coef.exp().detach()
    heads: Any = policy.critic.heads
    with torch.no_grad():
        values = _soft_value(choice, _least(policy.critic_target.heads, of_target, choice), alpha)
        values = values.view(rows.reset.shape).masked_fill(rows.terminal, 0.0)
        targets = n_step_targets(rows.rewards, values, rows.last, gamma, n_steps).flatten()
    counts = ~rows.last.flatten()
    taken = rows.actions.flatten(0, 1)
    if policy.is_discrete:
        judged = heads(of_critic).gather(2, taken.expand(len(heads.weights[0]), -1, -1)).squeeze(2)
    else:
        judged = heads(torch.cat([of_critic, taken], dim=1)).squeeze(2)
    critic = 0.5 * (judged - targets).square().sum(0)[counts].mean()
    least = _least(heads, of_critic.detach(), choice, frozen=True)
    acting = ~rows.final.flatten()
    actor = -_soft_value(choice, least, alpha)[acting].mean()
    entropy = choice.entropy().detach()[acting].mean()
    ent_coef = policy.log_ent_coef * (entropy - target_entropy)
    return Losses(actor, critic, ent_coef, entropy, targets[counts].mean())


def _least(heads: Any, latent: Tensor, choice: Choice, *, frozen: bool = False) -> Tensor:
    """Return the least value of all critics: (N, K) of the choices, or (N, 1) of the sample."""
    inputs = latent if choice.actions is None else torch.cat([latent, choice.actions], dim=1)
    least: Tensor = heads(inputs, frozen=frozen).amin(0)
    return least


def _soft_value(choice: Choice, values: Tensor, alpha: Tensor) -> Tensor:
    """Return the value (N,) of the policy with its entropy."""
    if choice.weights is None:
        return values.squeeze(1) - alpha * choice.log_prob
    return (choice.weights * (values - alpha * choice.log_prob)).sum(1)


def _counted(rows: Rows) -> Rows:
    """Return rows without their burn-in, which no loss counts."""
    if not rows.burn_in:
        return rows
    named = ("reset", "actions", "rewards", "last", "final", "terminal")
    return rows._replace(**{name: getattr(rows, name)[:, rows.burn_in :] for name in named})
