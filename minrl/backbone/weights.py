"""Weights of a backbone whose blocks the compiled kernels support.

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
from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.kernels.guard import readable
from minrl.kernels.scan import cpu


@dataclass(frozen=True)
class StackWeights:
    """Weights of a backbone and their addresses, in the order of the kernels."""

    kind: tuple[int, int]  # parts of the gates, number of their maps (`cpu_gates.maps`)
    weights: tuple[Tensor | None, ...]
    epsilons: tuple[float, ...]
    sizes: tuple[int, int, int, int, int]  # D, H, M, K and the number of blocks
    signed: bool
    state_size: int


def addresses(tensors: Iterable[Tensor | None]) -> Any:
    """Return the addresses of tensors, int64; 0 for None."""
    return np.array([0 if tensor is None else tensor.data_ptr() for tensor in tensors], np.int64)


def stack_weights(backbone: Any, dtype: torch.dtype = torch.float32) -> StackWeights | None:
    """Return the weights of a backbone of equal blocks that the kernels support, of type `dtype`, else None."""
    blocks = list(backbone.blocks)
    if not all(is_known_block(block) for block in blocks) or not is_norm(backbone.norm) or not cpu.available():
        return None
    cell: Any = blocks[0].cell
    rows = [block_weights(block) for block in blocks]
    shapes = {
        (type(block.cell), block.cell.candidate, block.cell.signed, block.cell.gate, block_sizes(block))
        for block in blocks
    }
    norms = [norm for block in blocks for norm in (block.norm, block.norm if block.mlp is None else block.mlp[0])]
    norms.append(backbone.norm)
    if len(shapes) != 1:
        return None
    weights = [part for row in rows for part in row] + [backbone.norm.weight, backbone.norm.bias]
    if not readable((weight for weight in weights if weight is not None), dtype):
        return None
    from minrl.kernels.scan import cpu_gates  # it imports numba

    return StackWeights(
        kind=(cell.parts, cpu_gates.maps(cell.candidate, cell.gate == "hard")),
        weights=tuple(weights),
        epsilons=tuple(norm.eps for norm in norms),
        sizes=(backbone.width, *block_sizes(blocks[0]), len(blocks)),
        signed=cell.signed,
        state_size=backbone.state_size,
    )


def block_sizes(block: Any) -> tuple[int, int, int]:
    """Return H, M and K; 0 for an absent part."""
    hidden = 0 if block.mlp is None else block.mlp[1].out_features
    return block.cell.state_size, hidden, 0 if block.conv is None else block.conv.taps


def is_known_block(block: Any) -> bool:
    """Return True if a block consists of exactly the module types that the kernels support."""
    if type(block) is not Block or type(block.cell) not in (MinGRU, MinLSTM) or not is_norm(block.norm):
        return False
    parts: Any = block
    conv, mlp, gates, down = parts.conv, parts.mlp, parts.cell.gates, parts.cell.down
    if conv is not None and type(conv) is not ShortConvolution:
        return False
    if type(gates) is not nn.Linear or (type(down) is not nn.Identity and not _is_linear(down, bias=False)):
        return False
    if mlp is None:
        return True
    if type(mlp) is not nn.Sequential or list(map(type, mlp.children()))[1:] != [nn.Linear, nn.GELU, nn.Linear]:
        return False
    return is_norm(mlp[0]) and mlp[2].approximate == "none"


def block_weights(block: Any) -> list[Tensor | None]:
    """List the weights of a block that `is_known_block`, in the kernel's order."""
    cell, conv, mlp = block.cell, block.conv, block.mlp
    down = None if type(cell.down) is nn.Identity else cell.down
    return [
        *_parameters(block.norm),
        *_parameters(conv),
        *_parameters(cell.gates),
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
