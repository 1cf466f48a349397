"""Forward and backward pass of one block: torch's matmuls, with the compiled loops of `loops` between them.

Shapes: B batch, T time, D width, H inner width, M hidden width, N = B * T rows, S state size, K taps, P parts of the
gates.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from minrl.kernels.backbone import conv_loops as mix
from minrl.kernels.backbone import loops
from minrl.kernels.backbone.dropout import Noise, drop_and_add, drop_gradient
from minrl.kernels.backbone.layout import (
    BACK_BIAS,
    GATES_BIAS,
    MLP_NORM,
    NORM,
    OF_BLOCK,
    UP_BIAS,
    BlockLayout,
    BlockWeights,
    Noises,
    SavedTensors,
    ScanFrame,
)
from minrl.kernels.jit.threads import ROWS_PER_ITEM, Sums, items_of, share, share_rows
from minrl.kernels.matmul import input_gradient, linear, linear_added, linear_into

# An MLP runs in tiles of about this many hidden elements a thread, which stay in its cache: 10 % faster than all rows
# at once.
_TILE = 1 << 17


def block_forward(
    form: BlockLayout, w: BlockWeights, x: Tensor, frame: ScanFrame, noises: Noises
) -> tuple[Tensor, SavedTensors]:
    """Compute x (N, D) -> y (N, D), and write the last state to the frame's."""
    batch, steps, _, state_size, resets, state, last, _ = frame
    rows = batch * steps
    stats, h = x.new_empty(rows, 2), x.new_empty(rows, form.inner)
    gates = linear(_gate_inputs(form, w, x, stats, frame, last), w.gates, w.gates_bias)
    noise, of_mlp = noises
    added = torch.empty_like(x) if w.down is None and noise is None else None
    share(
        loops.scan_forward(form.parts, form.candidate), batch * form.lane_blocks, rows * form.inner,
        gates.data_ptr(), state + form.memory, resets, h.data_ptr(), last + form.memory, x.data_ptr(),
        _address(added), batch, steps, form.inner, state_size, form.flip,
    )  # fmt: skip
    mixed = _mixed(w, x, h, noise) if added is None else added
    if w.up is None:
        return mixed, SavedTensors(x, stats, gates, h, None, None, None)
    y, mlp_stats, hidden = _mlp_forward(form, w, mixed, of_mlp)
    return y, SavedTensors(x, stats, gates, h, None if w.down is None else mixed, mlp_stats, hidden)


def _gate_inputs(form: BlockLayout, w: BlockWeights, x: Tensor, stats: Tensor, frame: ScanFrame, last: int) -> Tensor:
    """Compute u (N, D); write the norm's statistics to `stats` and the convolution's last inputs to `last`."""
    batch, steps, width, state_size, resets, state, _, _ = frame
    u = torch.empty_like(x)
    if w.taps is None:
        norm_forward(w.norm, w.norm_bias, form.epsilon, x, u, stats)
    else:
        share(
            mix.mix_forward(), batch * items_of(steps), x.numel(), x.data_ptr(), state + form.recent, resets,
            w.norm.data_ptr(), w.norm_bias.data_ptr(), w.taps.data_ptr(), _address(w.taps_bias), u.data_ptr(),
            stats.data_ptr(), last + form.recent, batch, steps, width, form.taps, state_size, form.epsilon,
        )  # fmt: skip
    return u


def _mixed(w: BlockWeights, x: Tensor, h: Tensor, noise: Noise | None) -> Tensor:
    """Add the output of the cell to x."""
    if noise is None:
        assert w.down is not None
        return linear_added(h, w.down, x)
    mixed = torch.empty_like(x)
    drop_and_add(noise, x, h if w.down is None else linear(h, w.down, None), mixed)
    return mixed


def block_backward(
    form: BlockLayout, w: BlockWeights, saved: SavedTensors, dy: Tensor | None, frame: ScanFrame, noises: Noises,
    sums: Sums, at: int,
    scratch: int,
) -> tuple[Tensor, list[Tensor | None]]:  # fmt: skip
    """Compute the gradients to x and to the weights, from those to y (None for zero) and the last state.

    Sums over rows are in `sums` from part `at` on, complete after `Sums.add_up`. `scratch` is the address of a
    buffer of a state's size, never read.
    """
    batch, steps, width, state_size, resets, state, dlast, dstate = frame
    rows = batch * steps
    of_mlp: list[Tensor | None] = [None] * 6
    if w.up is not None and dy is not None:
        dy, of_mlp = _mlp_backward(form, w, saved, dy, noises, sums, at)
    dh, ddown = dy if dy is None or noises[0] is None else drop_gradient(noises[0], dy), None
    if w.down is not None and dh is not None:
        dh, ddown = input_gradient(dh, w.down), torch.mm(dh.t(), saved.h)
    dh = torch.zeros_like(saved.h) if dh is None else dh
    dgates, dx = torch.empty_like(saved.gates), torch.empty_like(saved.x)
    sums.share(
        loops.scan_backward(form.parts, form.candidate), at + GATES_BIAS, batch * form.lane_blocks,
        rows * form.inner, saved.gates.data_ptr(), state + form.memory, resets, saved.h.data_ptr(), dh.data_ptr(),
        dlast + form.memory, dgates.data_ptr(), dstate + form.memory, batch, steps, form.inner, state_size, form.flip,
    )  # fmt: skip
    du = input_gradient(dgates, w.gates)
    if w.taps is None:
        norm_backward(w.norm, w.norm_bias, form.epsilon, saved.x, saved.stats, du, dy, dx, None, sums, at + NORM)
    else:
        sums.share(
            mix.mix_backward(), at + NORM, batch * items_of(steps), rows * width, saved.x.data_ptr(),
            saved.stats.data_ptr(), state + form.recent, resets, w.norm.data_ptr(), w.norm_bias.data_ptr(),
            w.taps.data_ptr(), du.data_ptr(), dlast + form.recent, _address(dy), dx.data_ptr(), dstate + form.recent,
            batch, steps, width, form.taps, state_size, form.epsilon,
        )  # fmt: skip
    del du
    # Recomputing u is cheaper than saving it: fresh memory costs a page fault a page.
    u = _gate_inputs(form, w, saved.x, saved.stats, frame, scratch)
    dnorm, dnorm_bias, dtaps, dtaps_bias, dgates_bias = sums.parts[at + NORM : at + MLP_NORM]
    return dx, [
        dnorm,
        dnorm_bias,
        None if w.taps is None else dtaps.view_as(w.taps),
        None if w.taps is None else dtaps_bias,
        torch.mm(dgates.t(), u),
        None if w.gates_bias is None else dgates_bias,
        ddown,
        *of_mlp,
    ]


def _mlp_forward(form: BlockLayout, w: BlockWeights, x: Tensor, noise: Noise | None) -> tuple[Tensor, Tensor, Tensor]:
    """Compute x + MLP(x), the norm's statistics, and what goes into the GELU."""
    assert w.mlp_norm is not None and w.mlp_norm_bias is not None  # noqa: PT018
    assert w.up is not None and w.back is not None  # noqa: PT018
    y, stats, hidden = torch.empty_like(x), x.new_empty(x.shape[0], 2), x.new_empty(x.shape[0], form.hidden)
    start, shift = 0, w.back_bias if noise is None else None
    for inputs, out, its_stats, a in _tiles(form.hidden, x, y, stats, hidden):
        n, g = torch.empty_like(inputs), torch.empty_like(a)
        norm_forward(w.mlp_norm, w.mlp_norm_bias, form.mlp_epsilon, inputs, n, its_stats, shift, out)
        linear_into(n, w.up, w.up_bias, a)
        share_rows(loops.gelu_forward(), a, a.data_ptr(), g.data_ptr(), *a.shape, form.epsilon)
        if noise is None:
            linear_added(g, w.back, inputs if shift is None else out, out)
        else:
            drop_and_add(noise, inputs, linear(g, w.back, w.back_bias), out, start)
        start += inputs.shape[0]
    return y, stats, hidden


def _mlp_backward(
    form: BlockLayout, w: BlockWeights, saved: SavedTensors, dy: Tensor, noises: Noises, sums: Sums, at: int
) -> tuple[Tensor, list[Tensor | None]]:
    """Compute the gradients to the MLP's input, the residual's included, and to its weights."""
    x, stats, hidden, noise = saved.x, saved.mlp_stats, saved.hidden, noises[1]
    assert w.mlp_norm is not None and w.mlp_norm_bias is not None  # noqa: PT018
    assert w.up is not None and w.back is not None  # noqa: PT018
    assert stats is not None and hidden is not None  # noqa: PT018
    dx, start = torch.empty_like(x), 0
    # Both with the long side last, which is an eighth faster.
    dup, dback = torch.zeros_like(w.back), torch.zeros_like(w.back)  # dup transposed
    mixed = saved.mixed
    # The MLP's inputs, or the block's and h, whose sum they are.
    first, second = (x, saved.h) if mixed is None else (mixed, mixed)
    for of_x, of_h, its_stats, a, dout, dinputs in _tiles(form.hidden, first, second, stats, hidden, dy, dx):
        inputs = of_x if mixed is not None else _sum(noises[0], of_x, of_h, start)
        branch = dout if noise is None else drop_gradient(noise, dout, sums, at + BACK_BIAS, start)
        g, n, da = torch.empty_like(a), torch.empty_like(inputs), input_gradient(branch, w.back)
        sums.share_rows(
            loops.gelu_backward(), at + UP_BIAS, a, a.data_ptr(), g.data_ptr(), da.data_ptr(), *a.shape, form.epsilon,
        )  # fmt: skip
        norm_backward(
            w.mlp_norm, w.mlp_norm_bias, form.epsilon, inputs, its_stats, input_gradient(da, w.up), dout, dinputs, n,
            sums, at + MLP_NORM,
        )  # fmt: skip
        dback.addmm_(branch.t(), g)
        dup.addmm_(n.t(), da)
        start += inputs.shape[0]
    dnorm, dnorm_bias, dback_bias, dup_bias, dropped = sums.parts[at + MLP_NORM : at + OF_BLOCK]
    dback_bias = dback_bias if noise is None else dropped
    of_up = [dup.t().contiguous(), None if w.up_bias is None else dup_bias]
    return dx, [dnorm, dnorm_bias, *of_up, dback, None if w.back_bias is None else dback_bias]


def _sum(noise: Noise | None, x: Tensor, h: Tensor, start: int) -> Tensor:
    """Return rows of the MLP's input in a block without a `down`; `start` is the number of the first."""
    if noise is None:
        return x + h
    mixed = torch.empty_like(x)
    drop_and_add(noise, x, h, mixed, start)
    return mixed


def _tiles(hidden: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield the tensors piece by piece along their rows."""
    rows = torch.get_num_threads() * ROWS_PER_ITEM * max(1, _TILE // (hidden * ROWS_PER_ITEM))
    if tensors[0].shape[0] <= rows:
        yield tensors
    else:
        yield from zip(*(x.split(rows) for x in tensors), strict=True)


def norm_forward(
    weight: Tensor, bias: Tensor, epsilon: Any, x: Tensor, y: Tensor, stats: Tensor,
    shift: Tensor | None = None, out: Tensor | None = None,
) -> None:  # fmt: skip
    """Write the layer norm of x (N, D) to `y`; with a `shift` (D) also x + shift to `out`."""
    share_rows(
        loops.norm_forward(), x, x.data_ptr(), weight.data_ptr(), bias.data_ptr(),
        y.data_ptr(), stats.data_ptr(), _address(shift), _address(out), *x.shape, epsilon,
    )  # fmt: skip


def norm_backward(
    weight: Tensor, bias: Tensor, like: Any, x: Tensor, stats: Tensor, dy: Tensor, around: Tensor | None, dx: Tensor,
    y: Tensor | None, sums: Sums, at: int,
) -> None:  # fmt: skip
    """Write the gradient to x, plus `around`, to `dx`; add those to weight and bias, and `around`, to `sums`."""
    sums.share_rows(
        loops.norm_backward(), at, x, x.data_ptr(), stats.data_ptr(), weight.data_ptr(),
        bias.data_ptr(), dy.data_ptr(), _address(around), dx.data_ptr(), _address(y), *x.shape, like,
    )  # fmt: skip


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()
