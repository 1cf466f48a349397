"""Table of independent implementations that each cell is compared with, with the same weights.

A function builds each pair; a missing package raises ModuleNotFoundError, as any import does.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cell_peers import released, transformers
from cell_peers.pair import WIDTH, Pair
from minrl.cells.aaren import Aaren
from minrl.cells.gru import GRU
from minrl.cells.lstm import LSTM


@dataclass(frozen=True)
class Peer:
    """An independent implementation of a cell."""

    cell: str
    package: str  # as pip knows it
    what: str
    pair: Callable[[], Pair]


def gru() -> Pair:
    """Pair with torch's own cell, step by step."""
    model, peer = GRU(WIDTH), nn.GRUCell(WIDTH, WIDTH)
    peer.load_state_dict({name.removesuffix("_l0"): weight for name, weight in model.gru.state_dict().items()})

    def run(x: Tensor) -> Tensor:
        outputs, h = [], x.new_zeros(x.shape[0], WIDTH)
        for now in x.unbind(1):
            h = peer(now, h)
            outputs.append(h)
        return torch.stack(outputs, dim=1)

    return Pair(model, peer, run)


def lstm() -> Pair:
    """Pair with torch's own layer."""
    model, peer = LSTM(WIDTH), nn.LSTM(WIDTH, WIDTH, batch_first=True)
    peer.load_state_dict(model.lstm.state_dict())
    return Pair(model, peer, lambda x: peer(x)[0])


def aaren() -> Pair:
    """Pair with torch's attention under a causal mask, whose query is the learned one at every step."""
    model, peer = Aaren(WIDTH, heads=3), nn.MultiheadAttention(WIDTH, 3, batch_first=True)
    biases = [model.query.bias, torch.zeros(WIDTH), model.value.bias]
    peer.load_state_dict(
        {
            "in_proj_weight": torch.cat([model.query.weight, model.key.weight, model.value.weight]),
            "in_proj_bias": torch.cat(biases),
            "out_proj.weight": model.out.weight,
            "out_proj.bias": model.out.bias,
        }
    )

    def run(x: Tensor) -> Tensor:
        later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        y: Tensor = peer(model.token.expand_as(x), x, x, attn_mask=later, need_weights=False)[0]
        return y

    return Pair(model, peer, run)


PEERS = (
    Peer("mingru", "minGRU-pytorch", "minGRU, the log-space scan", released.mingru),
    Peer("minlstm", "minGRU-pytorch", "minLSTM, the log-space scan", released.minlstm),
    Peer("gru", "torch", "nn.GRUCell, step by step", gru),
    Peer("lstm", "torch", "nn.LSTM", lstm),
    Peer("transformer", "transformers", "Qwen2Attention, masked to the window", transformers.transformer),
    Peer("aaren", "torch", "nn.MultiheadAttention, one query, causal mask", aaren),
    Peer("mamba", "mambapy", "MambaBlock", released.mamba),
    Peer("mamba", "transformers", "MambaMixer", transformers.mamba),
    Peer("mamba2", "transformers", "Mamba2Mixer", transformers.mamba2),
    Peer("rglru", "transformers", "RecurrentGemmaRecurrentBlock", transformers.rglru),
    Peer("rwkv4", "transformers", "RwkvSelfAttention", transformers.rwkv4),
    Peer("rwkv6", "fla-core", "naive_recurrent_rwkv6, the recurrence alone", released.rwkv6),
    Peer("mlstm", "xlstm", "mLSTMLayer", released.mlstm),
    Peer("slstm", "xlstm", "sLSTMLayer, backend vanilla", released.slstm),
    Peer("sru", "sru", "SRUCell, weight_c zero", released.sru),
    Peer("s5", "s5-pytorch", "S5SSM", released.s5),
)
