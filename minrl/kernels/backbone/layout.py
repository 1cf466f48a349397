"""Layout of a block stack for its compiled kernels: sizes, weights, tensors saved for the backward pass, buffers.

Shapes: B batch, T time, D width, H inner width, M hidden width, S state size, K taps, P parts of the gates.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from minrl.kernels.backbone.dropout import Noise


@dataclass(frozen=True)
class BlockLayout:
    """Layout of a block besides its weights: P, g and sign, H, M, K (0 for an absent part), the norms' epsilons."""

    parts: int
    candidate: int
    flip: Any
    inner: int
    hidden: int
    taps: int
    epsilon: Any
    mlp_epsilon: Any
    # Offsets of the cell's state and of the convolution's last inputs in a row of the state, in bytes.
    memory: int
    recent: int
    lane_blocks: int  # blocks of H that a scan shares among threads

    def sums(self, width: int) -> tuple[int, ...]:
        """Return the sizes of the gradients that are sums over rows: those of NORM, TAPS, GATES_BIAS and so on."""
        of_cell = width, width, max(self.taps, 1) * width, width, self.parts * self.inner
        return *of_cell, width, width, width, self.hidden, width


# Their indices: the norm's weight and bias; taps and their bias; bias of the gates; the MLP norm's weight and bias, and
# the summed gradient to the MLP's output, which is that to its last bias; with dropout that one is at the end.
NORM, TAPS, GATES_BIAS, MLP_NORM, UP_BIAS, BACK_BIAS, OF_BLOCK = 0, 2, 4, 5, 8, 9, 10


class BlockWeights(NamedTuple):
    """Weights of a block in the order of the kernels; None for an absent part."""

    norm: Tensor
    norm_bias: Tensor
    taps: Tensor | None
    taps_bias: Tensor | None
    gates: Tensor
    gates_bias: Tensor | None
    down: Tensor | None
    mlp_norm: Tensor | None
    mlp_norm_bias: Tensor | None
    up: Tensor | None
    up_bias: Tensor | None
    back: Tensor | None
    back_bias: Tensor | None


class SavedTensors(NamedTuple):
    """Tensors saved for the backward pass: the block's input and the outputs of matmuls and recurrence.

    `mixed`, the MLP's input, is saved only if a matmul computed it.
    """

    x: Tensor
    stats: Tensor
    gates: Tensor
    h: Tensor
    mixed: Tensor | None
    mlp_stats: Tensor | None
    hidden: Tensor | None


# The dropout of the cell's branch and of the MLP's.
Noises = tuple[Noise | None, Noise | None]


class ScanFrame(NamedTuple):
    """Sizes and buffers of all blocks: B, T, D, S, and the addresses of resets, first and last state."""

    batch: int
    steps: int
    width: int
    state_size: int
    resets: int
    state: int
    last: int  # in the backward pass its gradient
    dstate: int = 0


TENSORS_PER_BLOCK, SAVED_PER_BLOCK = len(BlockWeights._fields), len(SavedTensors._fields)


@dataclass(frozen=True)
class StackLayout:
    """Layout of a backbone. Its weights are the blocks' one after another, then the final norm's two."""

    forms: tuple[BlockLayout, ...]
    epsilon: Any
    state_size: int

    def blocks(self, weights: tuple[Any, ...]) -> list[BlockWeights]:
        """Return the weights of each block."""
        starts = range(0, len(self.forms) * TENSORS_PER_BLOCK, TENSORS_PER_BLOCK)
        return [BlockWeights(*weights[start : start + TENSORS_PER_BLOCK]) for start in starts]

    def sums(self, width: int) -> tuple[int, ...]:
        """Return the sizes of all gradients that are sums over rows."""
        return (*(size for form in self.forms for size in form.sums(width)), width, width, width)
