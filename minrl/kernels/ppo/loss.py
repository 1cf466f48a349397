"""The loss of proximal policy optimisation over a minibatch and its gradients (Schulman et al., arXiv 1707.06347).

Formulas, means and the figures that are logged are those of Stable-Baselines3's `PPO.train`.

Shapes: N rows, C columns of figures.
"""

from typing import Any, NamedTuple

import numpy as np

from minrl.kernels.jit.compile import uncounted

# Figures of a minibatch in their order: losses, the KL estimate, the share of clipped ratios, and |ratio - 1| at most.
POLICY, VALUE, ENTROPY, TOTAL, KL, CLIPPED, RATIO_DEV, FIGURES = range(8)
# The rows of what acting has left: values, log-likelihoods, advantages and returns.
OLD_VALUE, OLD_LOG_PROB, ADVANTAGE, RETURN = range(4)


class LossSettings(NamedTuple):
    """Settings of the loss; a `clip_value` below zero is none, a `target_kl` below zero no early stop."""

    clip: float
    clip_value: float
    entropy_weight: float
    value_weight: float
    normalize: bool
    target_kl: float


@uncounted
def normalized(advantages: Any, valid: Any, count: int) -> None:
    """Subtract the mean of the valid advantages (N,) and divide by their standard deviation, in place."""
    total, squares = 0.0, 0.0
    for n in range(len(advantages)):
        total += advantages[n] if valid[n] else 0.0
    mean = total / count
    for n in range(len(advantages)):
        squares += (advantages[n] - mean) ** 2 if valid[n] else 0.0
    scale = 1 / (np.sqrt(squares / (count - 1)) + 1e-8)
    for n in range(len(advantages)):
        advantages[n] = (advantages[n] - mean) * scale


@uncounted
def evaluate_loss(
    settings: Any, values: Any, log_probs: Any, entropies: Any, old: Any, valid: Any, dvalues: Any, of_log_prob: Any,
    of_entropy: Any, figures: Any,
) -> None:  # fmt: skip
    """Compute the figures (C,) of a minibatch and the gradients (N,) to values, log-likelihoods and entropies.

    Args:
        settings: a `LossSettings`.
        values, log_probs, entropies: (N,) of the current policy.
        old: (4, N) of the rollout; its advantages are normalised in place.
        valid: (N,) False for rows that do not count.
        dvalues, of_log_prob, of_entropy: (N,) to write to, zero for rows that do not count.
        figures: (C,) to write to.
    """
    count = 0
    for n in range(len(values)):
        count += valid[n] != 0
    if settings.normalize and count > 1:
        normalized(old[ADVANTAGE], valid, count)
    share, zero = 1.0 / max(count, 1), values.dtype.type(0)
    low, high = values.dtype.type(1.0 - settings.clip), values.dtype.type(1.0 + settings.clip)
    policy, value_loss, entropy, divergence, clipped, deviation = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    for n in range(len(values)):
        dvalues[n], of_log_prob[n], of_entropy[n] = zero, zero, zero
        if not valid[n]:
            continue
        advantage, log_ratio = old[ADVANTAGE, n], log_probs[n] - old[OLD_LOG_PROB, n]
        ratio = np.exp(log_ratio)
        bounded = min(max(ratio, low), high)
        gain, bounded_gain = advantage * ratio, advantage * bounded
        policy -= min(gain, bounded_gain)
        if ratio == bounded or gain < bounded_gain:
            of_log_prob[n] = -gain * share
        off = abs(ratio - 1.0)
        clipped += off > settings.clip
        deviation = max(deviation, off)
        divergence += (ratio - 1.0) - log_ratio
        entropy -= entropies[n]
        of_entropy[n] = -settings.entropy_weight * share
        moved, within = values[n] - old[OLD_VALUE, n], True
        predicted = values[n] + zero
        if settings.clip_value >= 0:
            within = abs(moved) <= settings.clip_value
            most = values.dtype.type(settings.clip_value)
            predicted = old[OLD_VALUE, n] + min(max(moved, -most), most)
        error = predicted - old[RETURN, n]
        value_loss += error * error
        if within:
            dvalues[n] = settings.value_weight * 2.0 * error * share
    figures[POLICY], figures[VALUE], figures[ENTROPY] = policy * share, value_loss * share, entropy * share
    figures[TOTAL] = (
        figures[POLICY] + settings.entropy_weight * figures[ENTROPY] + settings.value_weight * figures[VALUE]
    )
    figures[KL], figures[CLIPPED], figures[RATIO_DEV] = divergence * share, clipped * share, deviation
