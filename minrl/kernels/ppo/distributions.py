"""Log-likelihoods and entropies of a policy's distributions and their gradients, over rows of raw outputs.

Shapes: N rows, K raw outputs (logits, or means of a Gaussian), A action width.
"""

import math
from typing import Any

import numpy as np

from minrl.kernels.jit.compile import inlined, uncounted

# Kinds of heads: choices (one or several), yes or no, a diagonal Gaussian.
CHOICES, BINARY, GAUSSIAN = range(3)
_LOG_ROOT_TAU = 0.5 * math.log(2 * math.pi)
_ONE = np.float32(1)


@inlined
def log_softmax(x: Any, first: int, count: int) -> None:
    """Replace `count` logits by log-probabilities."""
    most = x[first]
    for k in range(first + 1, first + count):
        most = max(most, x[k])
    total = most - most
    for k in range(first, first + count):
        total += np.exp(x[k] - most)
    shift = most + np.log(total)
    for k in range(first, first + count):
        x[k] -= shift


@inlined
def entropy_of(log_p: Any, first: int, count: int) -> Any:
    """Return the entropy of `count` log-probabilities."""
    total = log_p[first] - log_p[first]
    for k in range(first, first + count):
        total -= np.exp(log_p[k]) * log_p[k]
    return total


@inlined
def sigmoid(x: Any) -> Any:
    return _ONE / (_ONE + np.exp(-x))


@inlined
def softplus(x: Any) -> Any:
    return max(x, x - x) + np.log1p(np.exp(-abs(x)))


@uncounted
def log_normalizer(log_std: Any) -> float:
    """Return minus the log-density of a diagonal Gaussian at its mean, from log_std (A,)."""
    total = 0.0
    for d in range(len(log_std)):
        total += log_std[d] + _LOG_ROOT_TAU
    return total


@uncounted
def evaluate(
    kind: int, raw: Any, pieces: Any, log_std: Any, actions: Any, log_probs: Any, entropies: Any, rows: int
) -> None:
    """Compute log-likelihoods and entropies (N,) in nats of actions (N, A); logits become log-probabilities in place.

    Args:
        kind: one of the kinds of heads.
        raw: (N, K).
        pieces: how many choices each component of the action has.
        log_std: (A,) of a Gaussian.
        actions: (N, A), choices as whole numbers.
        log_probs: (N,) to write to.
        entropies: (N,) to write to.
        rows: N.
    """
    if kind == GAUSSIAN:
        width = log_normalizer(log_std)
        for n in range(rows):
            squares = 0.0
            for d in range(len(log_std)):
                error = (actions[n, d] - raw[n, d]) * np.exp(-log_std[d])
                squares += error * error
            log_probs[n], entropies[n] = -0.5 * squares - width, width + 0.5 * len(log_std)
    elif kind == BINARY:
        for n in range(rows):
            log_prob, entropy = 0.0, 0.0
            for d in range(actions.shape[1]):
                x = raw[n, d]
                log_prob += actions[n, d] * x - softplus(x)
                entropy += softplus(x) - x * sigmoid(x)
            log_probs[n], entropies[n] = log_prob, entropy
    else:
        for n in range(rows):
            log_prob, entropy, first = 0.0, 0.0, 0
            for d in range(len(pieces)):
                log_softmax(raw[n], first, pieces[d])
                log_prob += raw[n, first + int(actions[n, d])]
                entropy += entropy_of(raw[n], first, pieces[d])
                first += pieces[d]
            log_probs[n], entropies[n] = log_prob, entropy


@uncounted
def gradients(
    kind: int, raw: Any, pieces: Any, log_std: Any, actions: Any, of_log_prob: Any, of_entropy: Any, dlog_std: Any,
    rows: int,
) -> None:  # fmt: skip
    """Replace what `evaluate` left in `raw` (N, K) by the gradient to the raw outputs.

    Args:
        kind, pieces, log_std, actions, rows: as for `evaluate`.
        raw: (N, K).
        of_log_prob: (N,) gradient to the log-likelihoods.
        of_entropy: (N,) gradient to the entropies.
        dlog_std: (A,) to add the gradient to the Gaussian's log_std to.
    """
    if kind == GAUSSIAN:
        for d in range(len(log_std)):
            inverse, total = np.exp(-log_std[d]), 0.0
            for n in range(rows):
                error = (actions[n, d] - raw[n, d]) * inverse
                total += of_log_prob[n] * (error * error - _ONE) + of_entropy[n]
                raw[n, d] = of_log_prob[n] * error * inverse
            dlog_std[d] += total
    elif kind == BINARY:
        for n in range(rows):
            for d in range(actions.shape[1]):
                p = sigmoid(raw[n, d])
                raw[n, d] = of_log_prob[n] * (actions[n, d] - p) - of_entropy[n] * raw[n, d] * p * (_ONE - p)
    else:
        for n in range(rows):
            first = 0
            for d in range(len(pieces)):
                entropy = entropy_of(raw[n], first, pieces[d])
                chosen = first + int(actions[n, d])
                for k in range(first, first + pieces[d]):
                    p = np.exp(raw[n, k])
                    raw[n, k] = -p * (of_log_prob[n] + of_entropy[n] * (raw[n, k] + entropy))
                raw[n, chosen] += of_log_prob[n]
                first += pieces[d]
