"""Linear layers and their gradients inside compiled code, from addresses; `matmul` is that of the product.

Shapes: N rows, K inputs, M outputs.
"""

from typing import Any

from minrl.kernels.jit.compile import uncounted
from minrl.kernels.jit.memory import matrix, vector
from minrl.kernels.jit.rows import add
from minrl.kernels.lstm.cpu_matmul import transpose as transpose_array
from minrl.kernels.ppo.matmul import product

# Rows that are summed apart from the others: long sums of float32 lose digits.
_ROWS = 64


@uncounted
def transpose(x: int, y: int, rows: int, size: int, next_y: int, like: Any) -> None:
    """Transpose x (N, K) to y (K, N), whose rows are `next_y` elements apart."""
    transpose_array(vector(x, rows * size, like), vector(y, size * next_y, like), next_y, rows, size)


@uncounted
def linear(
    matmul: int, y: int, x: int, weight: int, start: int, turned: int, rows: int, inputs: int, outputs: int, like: Any
) -> None:
    """Compute y (N, M) = x (N, K) times weight (M, K) + start (M); `turned` is room for the transposed weight."""
    transpose(weight, turned, outputs, inputs, outputs, like)
    product(matmul, y, x, turned, start, outputs, inputs, 1, outputs, 0, rows, inputs, outputs, like)


@uncounted
def linear_added(
    matmul: int, y: int, x: int, weight: int, to: int, turned: int, rows: int, inputs: int, outputs: int, like: Any
) -> None:
    """Compute y (N, M) = to (N, M) + x (N, K) times weight (M, K); y may be `to`."""
    transpose(weight, turned, outputs, inputs, outputs, like)
    product(matmul, y, x, turned, to, outputs, inputs, 1, outputs, outputs, rows, inputs, outputs, like)


@uncounted
def input_gradient(
    matmul: int, dx: int, dy: int, weight: int, to: int, rows: int, inputs: int, outputs: int, like: Any
) -> None:
    """Compute dx (N, K) = dy (N, M) @ weight (M, K), plus `to` (N, K) where it is not 0."""
    product(matmul, dx, dy, weight, to, inputs, outputs, 1, inputs, inputs, rows, outputs, inputs, like)


@uncounted
def weight_gradient(
    matmul: int, dweight: int, dy: int, x: int, rows: int, inputs: int, outputs: int, like: Any
) -> None:
    """Compute dweight (M, K) = dy (N, M) transposed times x (N, K)."""
    product(matmul, dweight, dy, x, 0, inputs, 1, outputs, inputs, 0, outputs, rows, inputs, like)


@uncounted
def bias_gradient(dbias: int, dy: int, partial: int, rows: int, outputs: int, like: Any) -> None:
    """Compute dbias (M), the sum of the rows of dy (N, M); `partial` is room for M elements."""
    total, part, source = vector(dbias, outputs, like), vector(partial, outputs, like), matrix(dy, rows, outputs, like)
    total[:] = like
    for first in range(0, rows, _ROWS):
        part[:] = like
        for n in range(first, min(first + _ROWS, rows)):
            add(part, source[n], outputs)
        add(total, part, outputs)
