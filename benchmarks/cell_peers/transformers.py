"""Pairs of cells with the layers of the transformers library.

Shapes: B batch, T time, D width.
"""

from functools import partial
from importlib import import_module

import torch
from torch import Tensor, nn

from cell_peers.pair import WIDTH, Pair, convolution_by_taps, lively, randomise
from minrl.cells.mamba import Mamba
from minrl.cells.mamba2 import Mamba2
from minrl.cells.rglru import RGLRU
from minrl.cells.rwkv4 import RWKV4
from minrl.cells.transformer import Transformer


def transformer() -> Pair:
    """Pair with attention with rotary positions, masked to the window; the output projection has no bias."""
    qwen = import_module("transformers.models.qwen2.modeling_qwen2")
    model = Transformer(WIDTH, context=11, heads=3)
    nn.init.zeros_(model.out.bias)
    config = qwen.Qwen2Config(
        hidden_size=WIDTH, num_attention_heads=3, num_key_value_heads=3, attn_implementation="eager"
    )
    peer, rotary = qwen.Qwen2Attention(config, 0).eval(), qwen.Qwen2RotaryEmbedding(config)
    weights = {"o_proj.weight": model.out.weight}
    for key, whole in (("weight", model.qkv.weight), ("bias", model.qkv.bias)):
        weights |= {f"{name}_proj.{key}": part for name, part in zip("qkv", whole.chunk(3), strict=True)}
    peer.load_state_dict(weights)

    def run(x: Tensor) -> Tensor:
        steps = torch.arange(x.shape[1])
        distance = steps.unsqueeze(1) - steps
        hidden = (distance < 0) | (distance >= model.context)
        mask = torch.zeros(hidden.shape).masked_fill(hidden, -torch.inf)[None, None]
        y: Tensor = peer(x, rotary(x, steps.unsqueeze(0)), mask)[0]
        return y

    return Pair(model, peer, run)


def mamba() -> Pair:
    """Pair with a layer of transformers' Mamba."""
    modeling = import_module("transformers.models.mamba.modeling_mamba")
    config = modeling.MambaConfig(hidden_size=WIDTH, state_size=5, time_step_rank=2, num_hidden_layers=1)
    peer = modeling.MambaMixer(config, 0).eval()
    randomise(peer, "A_log", "D")
    model = Mamba(WIDTH, state_width=5, dt_rank=2)
    model.load_state_dict(convolution_by_taps(peer.state_dict()))
    return Pair(model, peer, peer)


def mamba2() -> Pair:
    """Pair with a layer of transformers' Mamba-2."""
    modeling = import_module("transformers.models.mamba2.modeling_mamba2")
    config = modeling.Mamba2Config(
        hidden_size=WIDTH, num_heads=6, head_dim=8, state_size=5, n_groups=1, expand=2, chunk_size=16, use_bias=False
    )
    peer = modeling.Mamba2Mixer(config, 0).eval()
    randomise(peer, "dt_bias", "A_log", "D", "norm.weight")
    model = Mamba2(WIDTH, state_width=5, head_width=8)
    model.load_state_dict(convolution_by_taps(peer.state_dict()))
    return Pair(model, peer, peer)


def rglru(dtype: torch.dtype = torch.float32) -> Pair:
    """Pair with RecurrentGemma's block. Positions start at one: at zero it omits the scale of the input."""
    modeling = import_module("transformers.models.recurrent_gemma.modeling_recurrent_gemma")
    config = modeling.RecurrentGemmaConfig(hidden_size=WIDTH, lru_width=36, num_attention_heads=4, conv1d_width=4)
    peer = modeling.RecurrentGemmaRecurrentBlock(config, 0)
    for parameter in peer.parameters():
        nn.init.normal_(parameter, std=0.3)
    nn.init.uniform_(peer.rg_lru.recurrent_param, -6.0, 0.0)
    # Its state is float32 whatever the weights are.
    peer.rg_lru._rnn_scan = partial(peer.rg_lru._rnn_scan, acc_dtype=dtype)
    weights = {name.removeprefix("rg_lru."): weight for name, weight in peer.state_dict().items()}
    weights["conv_1d.weight"] = weights["conv_1d.weight"].squeeze(1).T
    model = RGLRU(WIDTH, expand=1.5, blocks=4)
    model.load_state_dict(weights)
    peer.to(dtype)

    def run(x: Tensor) -> Tensor:
        positions = torch.arange(1, x.shape[1] + 1).expand(x.shape[0], -1)
        y: Tensor = peer(x, positions, None, use_cache=False)[0]
        return y

    return Pair(model.to(dtype), peer, run)


def rwkv4() -> Pair:
    """Pair with a layer of transformers' RWKV-4."""
    modeling = import_module("transformers.models.rwkv.modeling_rwkv")
    model = lively(RWKV4(WIDTH, expand=2))
    config = modeling.RwkvConfig(hidden_size=WIDTH, attention_hidden_size=2 * WIDTH, num_hidden_layers=2)
    peer = modeling.RwkvSelfAttention(config)
    peer.load_state_dict({k: v.view(peer.get_parameter(k).shape) for k, v in model.state_dict().items()})
    return Pair(model, peer, lambda x: peer(x)[0])
