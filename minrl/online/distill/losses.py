"""Losses of a student: distance from the teacher's actions or distribution, and PPO's on its own actions.

Shapes: N steps, W action width, K parameters of a distribution.
"""

from typing import Any, Literal, get_args

import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, kl_divergence, make_proba_distribution
from torch import Tensor
from torch.nn import functional as F

from minrl.data.spaces import AnySpace
from minrl.online.inputs.segments import Segments
from minrl.online.likelihood import distribution_of, masked

DistillLoss = Literal["auto", "kl", "likelihood", "mse"]
_FORBIDDEN = 1e6  # nats, of an action that a mask forbids


def check_loss(loss: str, space: AnySpace) -> None:
    """Raise ValueError for an unknown loss, or one that actions of `space` do not have."""
    if loss not in get_args(DistillLoss):
        raise ValueError(f"loss must be one of {', '.join(get_args(DistillLoss))}, got {loss!r}")
    if loss == "mse" and not isinstance(space, spaces.Box):
        raise ValueError("loss=mse is for real actions; choices take likelihood (cross-entropy) or kl")


def chosen_loss(loss: str, space: AnySpace, has_parameters: bool) -> str:
    """Return the loss that "auto" means.

    Raises:
        ValueError: for "kl", if the teacher has no distribution of the student's kind.
    """
    if loss == "kl" and not has_parameters:
        raise ValueError(
            "loss=kl needs a teacher with a distribution of the student's kind, which this one does not have: "
            "loss=likelihood or loss=auto"
        )
    if loss != "auto":
        return loss
    return "mse" if isinstance(space, spaces.Box) else "kl" if has_parameters else "likelihood"


def parameters_of(policy: Any) -> int:
    """Return K of the student's distribution: means and log standard deviations, or logits."""
    space = policy.action_space
    if isinstance(space, spaces.Box):
        return 2 * int(torch.Size(space.shape).numel())
    return int(policy.action_net(torch.zeros(1, policy.mlp_extractor.latent_dim_pi, device=policy.device)).shape[1])


def imitation(policy: Any, segments: Segments, labels: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """Return the loss () over whole segments by one scan, and the distance of the likeliest actions () for the log.

    The distance is the share of steps with another action, or the mean absolute error of real ones.

    Args:
        policy: a `BackbonePolicy`.
        segments: of trajectories.
        labels: (N, W + K) actions and parameters of the teacher's distribution.
        loss: "kl", "likelihood" or "mse".

    Raises:
        ValueError: for a label that a mask forbids.
    """
    latent = policy.mlp_extractor.forward_actor(segments.of_valid(policy.scan_actor(segments)[0]))
    masks = None if segments.masks is None else segments.of_valid(segments.masks)
    space, distribution = policy.action_space, distribution_of(policy, latent, masks)
    width = int(torch.Size(space.shape or ()).numel())
    actions, parameters = labels[:, :width], labels[:, width:]
    mode = distribution.mode().reshape(len(actions), -1)
    is_real = isinstance(space, spaces.Box)
    error = (mode - actions).abs().mean() if is_real else (mode != actions).any(1).float().mean()
    if loss == "mse":
        return F.mse_loss(mode, actions), error.detach()
    if loss == "kl":
        return divergence(space, masked_parameters(space, parameters, masks), distribution), error.detach()
    taken = actions.long().flatten() if isinstance(space, spaces.Discrete) else actions
    negative = -distribution.log_prob(taken)
    if masks is not None and bool((negative > _FORBIDDEN).any()):
        raise ValueError("the teacher takes actions that masks forbid: use a teacher with masks, or no masking")
    return negative.mean(), error.detach()


def masked_parameters(space: AnySpace, parameters: Tensor, masks: Tensor | None) -> Tensor:
    """Add masks (N, K) to the logits of the teacher."""
    return parameters if isinstance(space, spaces.Box) else masked(parameters, masks)


def divergence(space: AnySpace, parameters: Tensor, student: Any) -> Tensor:
    """Return the mean KL(teacher | student) () in nats from the teacher's parameters (N, K)."""
    teacher: Any = make_proba_distribution(space)
    if isinstance(teacher, DiagGaussianDistribution):
        mean, log_std = parameters.chunk(2, dim=1)
        teacher.proba_distribution(mean, log_std)
    else:
        teacher.proba_distribution(parameters)
    return kl_divergence(teacher, student).reshape(len(parameters), -1).sum(1).mean()


def reinforcement(
    policy: Any, batch: Any, own: Tensor, *, clip: float, clip_value: float | None, ent_coef: float, vf_coef: float,
    normalize: bool,
) -> Tensor:  # fmt: skip
    """Return PPO's loss () (Schulman et al., arXiv 1707.06347, equation 9) of a minibatch of the last rollout.

    Args:
        policy: a `BackbonePolicy`.
        batch: of `SegmentBuffer.get`.
        own: (N,) 1 where the student's own action was taken, else 0: the policy's loss counts no others.
        clip, clip_value, ent_coef, vf_coef, normalize: as in Stable-Baselines3's PPO.
    """
    actions = batch.actions
    if isinstance(policy.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_prob, entropy = policy.evaluate_actions(batch.observations, actions)
    count = own.sum().clamp(min=1)

    def mean(x: Tensor) -> Tensor:
        return (x * own).sum() / count

    advantages = batch.advantages
    if normalize:
        centred = advantages - mean(advantages)
        spread = (mean(centred.square()) * count / (count - 1).clamp(min=1)).sqrt()
        advantages = centred / (spread + 1e-8)
    ratio = torch.exp(log_prob - batch.old_log_prob)
    policy_loss = -mean(torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)))
    entropy_loss = mean(log_prob if entropy is None else -entropy)
    values = values.flatten()
    if clip_value is not None:
        values = batch.old_values + (values - batch.old_values).clamp(-clip_value, clip_value)
    return policy_loss + ent_coef * entropy_loss + vf_coef * F.mse_loss(batch.returns, values)
