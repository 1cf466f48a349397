"""Pairs of cells with implementations that their authors, or others, have released.

Shapes: B batch, T time, D width.
"""

from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cell_peers.pair import WIDTH, Pair, convolution_by_taps, lively
from minrl.cells.mamba import Mamba
from minrl.cells.mingru import MinGRU
from minrl.cells.minlstm import MinLSTM
from minrl.cells.mlstm import MLSTM
from minrl.cells.rwkv6 import RWKV6
from minrl.cells.s5 import S5
from minrl.cells.slstm import SLSTM
from minrl.cells.sru import SRU


def mingru() -> Pair:
    """Pair with the released log-space scan, whose layer has no biases."""
    peer = import_module("minGRU_pytorch.minGRU").minGRU(WIDTH)
    content, gate = peer.to_hidden_and_gate.weight.chunk(2)
    model = MinGRU(WIDTH, bias=False)
    model.load_state_dict({"gates.weight": torch.cat([gate, content])})
    return Pair(model, peer, peer)


def minlstm() -> Pair:
    """Pair with the released log-space scan, whose layer has no biases."""
    peer = import_module("minGRU_pytorch.minLSTM").minLSTM(WIDTH)
    content, forget, entry = peer.to_hidden_and_f_i_gate.weight.chunk(3)
    model = MinLSTM(WIDTH, bias=False)
    model.load_state_dict({"gates.weight": torch.cat([forget, entry, content])})
    return Pair(model, peer, peer)


def mamba(dtype: torch.dtype = torch.float32) -> Pair:
    """Pair with a block of mambapy."""
    mambapy = import_module("mambapy.mamba")
    peer = mambapy.MambaBlock(mambapy.MambaConfig(d_model=WIDTH, n_layers=1, d_state=5)).to(dtype)
    with torch.no_grad():
        peer.A_log.add_(torch.randn_like(peer.A_log))
        peer.D.normal_()
        # It computes A and D in float32, also for float64 weights: ours get the rounded values.
        peer.D.copy_(peer.D.float())
    weights = convolution_by_taps(peer.state_dict())
    weights["A_log"] = weights["A_log"].float().exp().to(dtype).log()
    model = Mamba(WIDTH, state_width=5).to(dtype)
    model.load_state_dict(weights)
    return Pair(model, peer, peer)


def rwkv6() -> Pair:
    """Pair the recurrence alone, between the cell's own projections: the package's reference is a function of their
    outputs.
    """
    naive = _file_of("fla-core", "fla/ops/rwkv6/recurrent_naive.py").naive_recurrent_rwkv6
    model = lively(RWKV6(WIDTH, head_width=8, mix_rank=3, decay_rank=5))

    def run(x: Tensor) -> Tensor:
        *parts, gate = model._mixed(x, F.pad(x, (0, 0, 1, -1)))
        y, _ = naive(*(part.transpose(1, 2) for part in parts), model.time_faaaa, scale=1.0)
        out: Tensor = model._out(y.transpose(1, 2), gate)
        return out

    return Pair(model, model, run)


def mlstm() -> Pair:
    """Pair with the released layer, for sequences of at most 1024 steps, the size of its mask."""
    layer = import_module("xlstm.blocks.mlstm.layer")
    model = lively(MLSTM(WIDTH, heads=3))
    config = layer.mLSTMLayerConfig(
        num_heads=3, embedding_dim=WIDTH, round_proj_up_to_multiple_of=1, context_length=1024
    )
    peer = layer.mLSTMLayer(config).eval()
    named = {
        "conv.weight": "conv1d.conv.weight",
        "conv.bias": "conv1d.conv.bias",
        "outnorm": "mlstm_cell.outnorm.weight",
    }
    named |= {
        f"{gate}.{part}": f"mlstm_cell.{gate}.{part}" for gate in ("igate", "fgate") for part in ("weight", "bias")
    }
    weights = {named.get(name, name): weight for name, weight in model.state_dict().items()}
    weights["conv1d.conv.weight"] = weights["conv1d.conv.weight"].T.unsqueeze(1)
    peer.load_state_dict(weights)
    return Pair(model, peer, peer)


def slstm() -> Pair:
    """Pair with the released layer in torch operations, whose input and forget gates have each other's name."""
    layer = import_module("xlstm.blocks.slstm.layer")
    model = lively(SLSTM(WIDTH, heads=3))
    peer = layer.sLSTMLayer(layer.sLSTMLayerConfig(embedding_dim=WIDTH, num_heads=3, backend="vanilla")).eval()
    kernel, bias = peer.slstm_cell._recurrent_kernel_ext2int, peer.slstm_cell._bias_ext2int
    weights = {
        "conv1d.conv.weight": model.conv.weight.T.unsqueeze(1),
        "conv1d.conv.bias": model.conv.bias,
        "fgate.weight": model.igate.weight,
        "igate.weight": model.fgate.weight,
        "zgate.weight": model.zgate.weight,
        "ogate.weight": model.ogate.weight,
        "slstm_cell._recurrent_kernel_": kernel(model.recurrent_kernel.detach()),
        "slstm_cell._bias_": bias(model.bias.detach()),
        "group_norm.weight": model.group_norm,
    }
    peer.load_state_dict(weights)
    return Pair(model, peer, peer)


def sru() -> Pair:
    """Pair with the released cell, whose gates ignore the state with `weight_c` of zero; it runs without gradients."""
    model = lively(SRU(WIDTH, highway_bias=-1.0))
    peer = import_module("sru").SRUCell(WIDTH, WIDTH, highway_bias=-1.0).eval()
    weight = model.weight.view(3, WIDTH, WIDTH).permute(2, 1, 0).flatten(1)
    peer.load_state_dict(
        {**peer.state_dict(), "weight": weight, "bias": model.bias, "weight_c": torch.zeros(2 * WIDTH)}
    )

    def run(x: Tensor) -> Tensor:
        with torch.no_grad():
            y: Tensor = peer(x.transpose(0, 1))[0]
        return y.transpose(0, 1)

    return Pair(model, peer, run)


def s5() -> Pair:
    """Pair with the layer's state space model over half of its conjugate pairs."""
    model, peer = lively(S5(WIDTH, state_width=16)), import_module("s5").S5(WIDTH, state_width=8)
    peer.seq.Lambda = nn.Parameter(torch.complex(model.Lambda_re.detach().clamp(max=-1e-4), model.Lambda_im.detach()))
    peer.seq.B, peer.seq.D = nn.Parameter(model.B.detach()), nn.Parameter(model.D.detach())
    # Each pair's conjugate gives half of the output.
    peer.seq.C = nn.Parameter(2 * torch.view_as_complex(model.C.detach()))
    peer.seq.log_step = nn.Parameter(model.log_step.detach().flatten())
    return Pair(model, peer, peer)


def _file_of(package: str, path: str) -> Any:
    """Load a module of `package` by its file, as importing the whole package requires a GPU."""
    try:
        file = distribution(package).locate_file(path)
    except PackageNotFoundError as error:
        raise ModuleNotFoundError(f"No module named {package!r}", name=package) from error
    spec = util.spec_from_file_location(path.rpartition("/")[2].removesuffix(".py"), str(file))
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
