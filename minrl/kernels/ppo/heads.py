"""Layers between a latent and an output of the policy, and their backward pass, from addresses.

Shapes: N rows, F and K inputs and outputs of a layer.
"""

from typing import Any

import numpy as np

from minrl.kernels.jit.compile import inlined, uncounted
from minrl.kernels.jit.math import exponential, held_constants
from minrl.kernels.jit.memory import vector
from minrl.kernels.ppo.linear import bias_gradient, input_gradient, linear, weight_gradient

# What is known of a layer: addresses of weight, bias, their gradients and its output, and its sizes.
WEIGHT, BIAS, DWEIGHT, DBIAS, OUT, INPUTS, OUTPUTS, PER_LAYER = range(8)
TANH, RELU = range(2)
_ONE, _TWO = np.float32(1), np.float32(2)


@inlined
def activate(y: Any, kind: int, size: int) -> None:
    """Apply tanh or ReLU in place."""
    if kind == TANH:
        constants = held_constants()
        for d in range(size):
            y[d] = _TWO / (_ONE + exponential(y[d], -2.0, constants)) - _ONE
    else:
        for d in range(size):
            y[d] = max(y[d], y[d] * 0)


@inlined
def slope(y: Any, dy: Any, kind: int, size: int) -> None:
    """Multiply the gradient `dy` to y, the output of an activation, with the slope there."""
    if kind == TANH:
        for d in range(size):
            dy[d] *= _ONE - y[d] * y[d]
    else:
        for d in range(size):
            dy[d] = dy[d] if y[d] > 0 else dy[d] * 0


@uncounted
def forward(matmul: int, layers: Any, latent: int, rows: int, activation: int, turned: int, like: Any) -> None:
    """Run the layers on the latent (N, ·), with an activation after all but the last."""
    x = latent
    for i in range(len(layers)):
        a = layers[i]
        linear(matmul, a[OUT], x, a[WEIGHT], a[BIAS], turned, rows, a[INPUTS], a[OUTPUTS], like)
        x = a[OUT]
        if i < len(layers) - 1:
            activate(vector(x, rows * a[OUTPUTS], like), activation, rows * a[OUTPUTS])


@uncounted
def backward(
    matmul: int, layers: Any, latent: int, dy: int, dlatent: int, to: int, first: int, second: int, partial: int,
    rows: int, activation: int, like: Any,
) -> None:  # fmt: skip
    """Compute the gradients to the weights from dy (N, ·), and dlatent = that to the latent, plus `to` if not 0.

    No `dlatent` (0) is computed for a latent that the loss does not reach; `first` and `second` are room for
    gradients.
    """
    for i in range(len(layers) - 1, -1, -1):
        a = layers[i]
        x = layers[i - 1, OUT] if i else latent
        weight_gradient(matmul, a[DWEIGHT], dy, x, rows, a[INPUTS], a[OUTPUTS], like)
        if a[BIAS]:
            bias_gradient(a[DBIAS], dy, partial, rows, a[OUTPUTS], like)
        if i:
            input_gradient(matmul, first, dy, a[WEIGHT], 0, rows, a[INPUTS], a[OUTPUTS], like)
            size = rows * a[INPUTS]
            slope(vector(x, size, like), vector(first, size, like), activation, size)
            dy, first, second = first, second, first
        elif dlatent:
            input_gradient(matmul, dlatent, dy, a[WEIGHT], to, rows, a[INPUTS], a[OUTPUTS], like)
