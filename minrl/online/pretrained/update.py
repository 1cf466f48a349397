"""Update of a policy that is held near a pretrained one: PPO's loss and the weighed KL divergence from it."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor
from torch.nn import functional as F

from minrl.online.compiled.update import CLIPPED, ENTROPY, FIGURES, KL, POLICY, TOTAL, VALUE, record_figures
from minrl.online.likelihood import distribution_of, masked


def train(model: Any) -> None:
    """Update the policy of a `RecurrentPPO` as `PPO.train` does, with the divergence as one more term of the loss.

    `train/loss` holds that term, `train/pretrained_kl` the mean divergence in nats.
    """
    policy, progress = model.policy, model._current_progress_remaining
    policy.set_training_mode(True)
    model._update_learning_rate(policy.optimizer)
    clip = model.clip_range(progress)
    clip_value = None if model.clip_range_vf is None else model.clip_range_vf(progress)
    figures, epochs, divergences = [], [], []
    stops = False
    for epoch in range(model.n_epochs):
        for batch in model.rollout_buffer.get(model.batch_size):
            loss, divergence, found = _loss(model, batch, clip, clip_value)
            figures.append(found)
            epochs.append(epoch)
            divergences.append(divergence)
            stops = model.target_kl is not None and found[KL] > 1.5 * model.target_kl
            if stops:
                break
            policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(policy.parameters(), model.max_grad_norm)
            policy.optimizer.step()
        model._n_updates += 1
        if stops:
            if model.verbose >= 1:
                print(f"Early stopping at step {epoch} due to reaching max kl: {figures[-1][KL]:.2f}")
            break
    record_figures(model, np.array(figures), np.array(epochs), clip, clip_value)
    model.logger.record("train/pretrained_kl", float(np.mean(divergences)))


def _loss(model: Any, batch: Any, clip: float, clip_value: float | None) -> tuple[Tensor, float, Any]:
    """Return the loss () of a minibatch, the divergence, and the figures (C,) for the log."""
    policy, actions = model.policy, batch.actions
    if isinstance(model.action_space, spaces.Discrete):
        actions = actions.long().flatten()
    values, log_prob, entropy, latent, masks = policy.evaluated(batch.observations, actions)
    parameters = masked(batch.observations.of_valid(batch.observations.reference), masks)
    divergence = policy.reference.divergence(distribution_of(policy, latent, masks), parameters).mean()
    advantages, values = batch.advantages, values.flatten()
    if model.normalize_advantage and len(advantages) > 1:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    log_ratio = log_prob - batch.old_log_prob
    ratio = torch.exp(log_ratio)
    if clip_value is not None:
        values = batch.old_values + (values - batch.old_values).clamp(-clip_value, clip_value)
    policy_loss = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip)).mean()
    value_loss = F.mse_loss(batch.returns, values)
    entropy_loss = (log_prob if entropy is None else -entropy).mean()
    loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
    loss = loss + policy.reference_weight * divergence
    figures = np.zeros(FIGURES)
    figures[[POLICY, VALUE, ENTROPY, TOTAL]] = [
        float(x.detach()) for x in (policy_loss, value_loss, entropy_loss, loss)
    ]
    with torch.no_grad():
        figures[KL] = float((ratio - 1 - log_ratio).mean())
        figures[CLIPPED] = float(((ratio - 1).abs() > clip).float().mean())
    return loss, float(divergence.detach()), figures
