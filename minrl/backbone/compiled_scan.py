"""A whole backbone of minGRU or minLSTM blocks over sequences on a CPU, for small batches in particular.

There torch's overhead for two dozen small operations and their gradients exceeds the arithmetic. This file decides
which calls are compiled; `minrl.kernels.backbone.node` runs them.

Shapes: B batch, T time, D width, S state size.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from minrl.backbone.weights import block_sizes, block_weights, cell_kind, is_known_block, is_norm
from minrl.kernels.guard import Watch, planned, runs_alone
from minrl.kernels.scan import cpu


@dataclass(frozen=True)
class CompiledScan:
    """Compiled scan of a backbone; the values of its weights are read at every scan."""

    run: Callable[..., tuple[Tensor, Tensor]]
    stack: Any
    dtype: torch.dtype
    weights: tuple[Tensor | None, ...]
    watch: Watch
    dropouts: tuple[nn.Dropout, ...]

    def rates(self) -> tuple[float, ...] | None:
        """Return the dropout of each block; None where there is none."""
        for dropout in self.dropouts:  # a loop over mostly absent dropouts takes half the time of any()
            if dropout.training and dropout.p:
                return tuple(d.p if d.training else 0.0 for d in self.dropouts)
        return None


_scans: WeakKeyDictionary[nn.Module, CompiledScan | None] = WeakKeyDictionary()


def scan(backbone: nn.Module, x: Tensor, state: Tensor | None, reset: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """Run `Backbone.scan` compiled; return None if these kernels do not support backbone or inputs."""
    if not runs_alone() or not (_plain(x) and (reset is None or _plain(reset)) and (state is None or _plain(state))):
        return None
    plan = planned(_scans, backbone, _build)
    if plan is None or x.dtype != plan.dtype or (state is not None and state.dtype != x.dtype):
        return None
    rates = plan.rates()
    if rates is not None and max(rates) >= 1:
        return None
    return plan.run(plan.stack, plan.weights, x, state, reset, rates)


def _plain(x: Tensor) -> bool:
    return type(x) in (Tensor, nn.Parameter) and x.is_cpu


def _build(backbone: Any) -> CompiledScan | None:
    """Build the compiled scan of a backbone that the kernels support, else return None."""
    weights = _weights(backbone)
    if weights is None or not cpu.available():
        return None
    parameters, dtype = tuple(weight for weight in weights if weight is not None), backbone.norm.weight.dtype
    if dtype not in (torch.float32, torch.float64) or not all(_fits(weight, dtype) for weight in parameters):
        return None
    watch = Watch.over(backbone, parameters, backward=True)
    if watch is None:
        return None
    from minrl.kernels.backbone import node  # it imports numba

    return CompiledScan(
        run=node.scan,
        stack=_stack(backbone, np.float64 if dtype == torch.float64 else np.float32),
        dtype=dtype,
        weights=weights,
        watch=watch,
        dropouts=tuple(block.dropout for block in backbone.blocks),
    )


def _weights(backbone: Any) -> tuple[Tensor | None, ...] | None:
    """Return the weights in the kernels' order; None if a module is not of the exact type that `Backbone` builds."""
    if not all(is_known_block(block) and type(block.dropout) is nn.Dropout for block in backbone.blocks):
        return None
    weights: list[Tensor | None] = []
    for block in backbone.blocks:
        of_block = block_weights(block)
        if not have_shapes(of_block, block, backbone.width):
            return None
        weights += of_block
    if not is_norm(backbone.norm) or backbone.state_size != sum(block.state_size for block in backbone.blocks):
        return None
    return *weights, backbone.norm.weight, backbone.norm.bias


def have_shapes(weights: list[Tensor | None], block: Any, width: int) -> bool:
    """Return True if the shapes of a block's weights fit each other, as the kernels rely on them."""
    inner, hidden, taps = block_sizes(block)
    gates = inner * cell_kind(block.cell).parts
    of_mlp = [(width,), (width,), (hidden, width), (hidden,), (width, hidden), (width,)]
    shapes = [(width,), (width,), (taps, width), (width,), (gates, width), (gates,), (width, inner), *of_mlp]
    if weights[6] is None and inner != width:
        return False
    return all(weight is None or weight.shape == shape for weight, shape in zip(weights, shapes, strict=True))


def _fits(weight: Tensor, dtype: torch.dtype) -> bool:
    return type(weight) is nn.Parameter and weight.dtype == dtype and weight.is_cpu and weight.is_contiguous()


def _stack(backbone: Any, kind: Any) -> Any:
    """Return the layout of a backbone, with constants of type `kind`."""
    from minrl.kernels.backbone import layout
    from minrl.kernels.scan import cpu_loops  # they import numba

    forms, column, size = [], 0, np.dtype(kind).itemsize
    for block in backbone.blocks:
        inner, hidden, taps = block_sizes(block)
        form = layout.BlockLayout(
            parts=block.cell.parts,
            candidate=cell_kind(block.cell).candidate,
            flip=kind(block.cell.signed),
            inner=inner,
            hidden=hidden,
            taps=taps,
            epsilon=kind(block.norm.eps),
            mlp_epsilon=kind(block.norm.eps if block.mlp is None else block.mlp[0].eps),
            memory=column * size,
            recent=(column + inner) * size,
            lane_blocks=cpu_loops.blocks_of(inner),
        )
        forms.append(form)
        column += block.state_size
    return layout.StackLayout(tuple(forms), kind(backbone.norm.eps), column)
