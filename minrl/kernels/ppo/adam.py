"""Adam with a bound on the gradient's norm, on parameters and moments where torch keeps them.

Kingma and Ba, arXiv 1412.6980, algorithm 1, with the bias corrections where torch.optim.Adam has them.
"""

from typing import Any, NamedTuple

import numpy as np

from minrl.kernels.jit.compile import inlined, summing, uncounted
from minrl.kernels.jit.memory import vector

# What is known of a parameter: addresses of itself, its gradient, both moments and the step, and how many elements.
PARAMETER, GRADIENT, MEAN, SQUARE, STEP, COUNT, PER_PARAMETER = range(7)
_STEP = np.float32(0)


class AdamSettings(NamedTuple):
    """Settings of `torch.optim.Adam`, and the largest norm of the gradient."""

    rate: float
    beta1: float
    beta2: float
    epsilon: float
    max_norm: float


@summing
def squares(x: Any, size: int) -> Any:
    total = x.dtype.type(0)
    for d in range(size):
        total += x[d] * x[d]
    return total


@inlined
def move(
    x: Any, dx: Any, mean: Any, square: Any, scale: Any, of_mean: Any, keep: Any, of_square: Any, rate: Any, root: Any,
    epsilon: Any, size: int,
) -> None:  # fmt: skip
    for d in range(size):
        g = dx[d] * scale
        m = mean[d] + of_mean * (g - mean[d])
        v = square[d] * keep + of_square * g * g
        mean[d], square[d] = m, v
        x[d] -= rate * m / (np.sqrt(v) / root + epsilon)


@uncounted
def adam_step(parameters: Any, settings: Any, like: Any) -> None:
    """Clip the gradients to the largest norm and take one step."""
    total = 0.0
    for i in range(len(parameters)):
        p = parameters[i]
        total += squares(vector(p[GRADIENT], p[COUNT], like), p[COUNT])
    scale = min(1.0, settings.max_norm / (np.sqrt(total) + 1e-6))
    for i in range(len(parameters)):
        p = parameters[i]
        step, size = vector(p[STEP], 1, _STEP), p[COUNT]
        step[0] += 1
        x, dx = vector(p[PARAMETER], size, like), vector(p[GRADIENT], size, like)
        mean, square, kind = vector(p[MEAN], size, like), vector(p[SQUARE], size, like), x.dtype.type
        rate = settings.rate / (1 - settings.beta1 ** step[0])
        root = np.sqrt(1 - settings.beta2 ** step[0])
        move(
            x, dx, mean, square, kind(scale), kind(1 - settings.beta1), kind(settings.beta2), kind(1 - settings.beta2),
            kind(rate), kind(root), kind(settings.epsilon), size,
        )  # fmt: skip
