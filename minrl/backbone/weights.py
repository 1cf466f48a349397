"""Weights of a backbone whose blocks the compiled kernels support.

All of them run blocks of minGRU and minLSTM, those of recurrent PPO also GRU and LSTM.

Shapes: D width, H inner width, M hidden width, K taps.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from minrl.backbone.block import Block
from minrl.cells.convolution import ShortConvolution
from minrl.cells.gru import GRU
from minrl.cells.lstm import LSTM
from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.kernels import kinds
from minrl.kernels.guard import readable
from minrl.kernels.scan import cpu

INPUT_GATED: tuple[type[nn.Module], ...] = (MinGRU, MinLSTM)
EVERY: tuple[type[nn.Module], ...] = (*INPUT_GATED, GRU, LSTM)
# Where the weights of a cell begin and end in the kernel's order.
_CELL, _AFTER = 4, 6


@dataclass(frozen=True)
class StackWeights:
    """Weights of a backbone and their addresses, in the order of the kernels."""

    kind: kinds.CellKind
    weights: tuple[Tensor | None, ...]
    epsilons: tuple[float, ...]
    sizes: tuple[int, int, int, int, int]  # D, H, M, K and the number of blocks
    signed: bool
    state_size: int


def addresses(tensors: Iterable[Tensor | None]) -> Any:
    """Return the addresses of tensors, int64; 0 for None."""
    return np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], np.int64)


def stack_weights(
    backbone: Any, dtype: torch.dtype = torch.float32, cells: tuple[type[nn.Module], ...] = INPUT_GATED
) -> StackWeights | None:
    """Return the weights of a backbone of equal blocks of one of `cells`, of type `dtype`, else None."""
    blocks = list(backbone.blocks)
    if not all(is_known_block(block, cells) for block in blocks) or not is_norm(backbone.norm) or not cpu.available():
        return None
    kind, signed = cell_kind(blocks[0].cell), getattr(blocks[0].cell, "signed", False)
    shapes = {(cell_kind(b.cell), getattr(b.cell, "signed", False), block_sizes(b)) for b in blocks}
    norms = [norm for block in blocks for norm in (block.norm, block.norm if block.mlp is None else block.mlp[0])]
    norms.append(backbone.norm)
    if len(shapes) != 1:
        return None
    weights = [part for block in blocks for part in _all_weights(block)] + [backbone.norm.weight, backbone.norm.bias]
    if not readable((weight for weight in weights if weight is not None), dtype):
        return None
    return StackWeights(
        kind=kind,
        weights=tuple(weights),
        epsilons=tuple(norm.eps for norm in norms),
        sizes=(backbone.width, *block_sizes(blocks[0]), len(blocks)),
        signed=signed,
        state_size=backbone.state_size,
    )


def cell_kind(cell: Any) -> kinds.CellKind:
    """Return the kind of a cell of a block that `is_known_block`."""
    if type(cell) is GRU or type(cell) is LSTM:
        return kinds.CellKind(kinds.GRU if type(cell) is GRU else kinds.LSTM)
    number = kinds.MINGRU if type(cell) is MinGRU else kinds.MINLSTM
    return kinds.CellKind(number, kinds.maps(cell.candidate, cell.gate == "hard"))


def block_sizes(block: Any) -> tuple[int, int, int]:
    """Return H, M and K; 0 for an absent part."""
    hidden = 0 if block.mlp is None else block.mlp[1].out_features
    inner = block.cell.lstm.hidden_size if type(block.cell) is LSTM else block.cell.state_size
    return inner, hidden, 0 if block.conv is None else block.conv.taps


def is_known_block(block: Any, cells: tuple[type[nn.Module], ...] = INPUT_GATED) -> bool:
    """Return True if a block consists of exactly the module types that the kernels support."""
    if type(block) is not Block or type(block.cell) not in cells or not is_norm(block.norm):
        return False
    parts: Any = block
    conv, mlp, down = parts.conv, parts.mlp, parts.cell.down
    if conv is not None and type(conv) is not ShortConvolution:
        return False
    if type(down) is not nn.Identity and not _is_linear(down, bias=False):
        return False
    if type(block.cell) in INPUT_GATED:
        if type(parts.cell.gates) is not nn.Linear:
            return False
    elif not is_single_layer(_recurrent(parts.cell)) or getattr(parts.cell, "peepholes", None) is not None:
        return False
    if mlp is None:
        return True
    if type(mlp) is not nn.Sequential or list(map(type, mlp.children()))[1:] != [nn.Linear, nn.GELU, nn.Linear]:
        return False
    return is_norm(mlp[0]) and mlp[2].approximate == "none"


def is_single_layer(layer: Any) -> bool:
    """Return True if a module is torch's GRU or LSTM of one layer in one direction, without a projection."""
    is_known = type(layer) is nn.GRU or type(layer) is nn.LSTM
    return is_known and layer.num_layers == 1 and not layer.bidirectional and not layer.proj_size


def _recurrent(cell: Any) -> Any:
    return cell.gru if type(cell) is GRU else cell.lstm


def cell_weights(layer: Any) -> list[list[Tensor | None]]:
    """List the weights of each layer of torch's GRU or LSTM in the kernel's order: the input's, bias, the state's."""
    found = []
    for layers in layer.all_weights:
        of_input, of_state, *biases = layers
        input_bias, state_bias = biases or (None, None)
        found.append([of_input, input_bias, of_state, state_bias])
    return found


def have_cell_shapes(block: Any) -> bool:
    """Return True if the shapes of the state's weights fit the block."""
    if type(block.cell) in INPUT_GATED:
        return True
    inner, kind, width = block_sizes(block)[0], cell_kind(block.cell), block.width
    wide = kind.parts * inner
    shapes = [(wide, width), (wide,), (wide, inner), (wide,)]
    weights = cell_weights(_recurrent(block.cell))[0]
    return all(w is None or w.shape == shape for w, shape in zip(weights, shapes, strict=True))


def _all_weights(block: Any) -> list[Tensor | None]:
    """List the weights of a block in the order of `minrl.kernels.backbone.step_loops`."""
    found = block_weights(block)
    own = [*found[_CELL:_AFTER], None, None]
    if type(block.cell) not in INPUT_GATED:
        own = cell_weights(_recurrent(block.cell))[0]
    return [*found[:_CELL], *own, *found[_AFTER:]]


def block_weights(block: Any) -> list[Tensor | None]:
    """List the weights of a block that `is_known_block`, in the order of `minrl.kernels.backbone.layout`."""
    cell, conv, mlp = block.cell, block.conv, block.mlp
    down = None if type(cell.down) is nn.Identity else cell.down
    return [
        *_parameters(block.norm),
        *_parameters(conv),
        *_parameters(getattr(cell, "gates", None)),
        _parameters(down)[0],
        *(_parameters(None) * 3 if mlp is None else [*_parameters(mlp[0]), *_parameters(mlp[1]), *_parameters(mlp[3])]),
    ]


def _parameters(module: Any) -> list[Tensor | None]:
    return [None, None] if module is None else [module.weight, module.bias]


def _is_linear(module: Any, *, bias: bool) -> bool:
    return type(module) is nn.Linear and (module.bias is not None) == bias


def is_norm(norm: Any) -> bool:
    """Return True if a module is the layer norm that the kernels support."""
    return type(norm) is nn.LayerNorm and norm.weight is not None and norm.bias is not None
