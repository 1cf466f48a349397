"""RWKV-4 against transformers, RWKV-6 against the equations of its paper in float64.

Shapes: B batch, T time, D width, H heads of E features.
"""

import math

import pytest
import torch
from cell_peers.pair import lively
from cell_peers.transformers import rwkv4
from contract import WAYS, assert_near
from torch import Tensor
from torch.nn import functional as F

from minrl.cells.rwkv4 import RWKV4
from minrl.cells.rwkv6 import RWKV6

WIDTH, BATCH, STEPS = 16, 3, 70


@pytest.mark.parametrize("way", WAYS)
def test_rwkv4_agrees_with_transformers(way: str) -> None:
    """Compare outputs and gradients of input and weights; its sums are in float32, so ours are too."""
    pytest.importorskip("transformers")
    pair = rwkv4()
    model, peer = pair.cell, pair.peer
    x = torch.randn(BATCH, STEPS, model.width, requires_grad=True)
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), torch.zeros(BATCH, STEPS, dtype=torch.bool))
    wanted = pair.run(x)
    assert_near(y, wanted.double(), 1e-5, "y")
    weight, names = torch.randn_like(wanted), [name for name, _ in model.named_parameters()]
    of_peer = torch.autograd.grad((wanted * weight).sum(), [x, *map(peer.get_parameter, names)])
    ours = torch.autograd.grad((y * weight).sum(), [x, *map(model.get_parameter, names)])
    for name, actual, gradient in zip(["x", *names], ours, of_peer, strict=True):
        assert_near(actual, gradient.double().view_as(actual), 1e-5, f"d {name}")


def test_rwkv4_state_is_that_of_transformers() -> None:
    """Carry both sums and their scale over a cut."""
    modeling = pytest.importorskip("transformers.models.rwkv.modeling_rwkv")
    model = lively(RWKV4(WIDTH))
    x = torch.randn(BATCH, STEPS, WIDTH)
    _, key, value = model._mixed(x, F.pad(x, (0, 0, 1, -1)))
    options = {"key": key, "value": value[..., 0, :], "return_state": True}
    _, sums = modeling.rwkv_linear_attention_cpu(model.time_decay, model.time_first, **options)
    state = model.scan(x[:, 30:], model.scan(x[:, :30])[1])[1]
    assert_near(state, torch.cat([x[:, -1], sums[2], sums[0], sums[1]], dim=1).double(), 1e-5, "state")


def test_rwkv4_first_step_is_its_value() -> None:
    """Average one value, however small its weight: the initial state has no part in it."""
    model = RWKV4(WIDTH)
    with torch.no_grad():
        model.time_first.fill_(-300.0)
    x = torch.randn(BATCH, 1, WIDTH)
    receptance = torch.sigmoid(model.receptance(x * model.time_mix_receptance))
    wanted = model.output(receptance * model.value(x * model.time_mix_value))
    assert torch.allclose(model.scan(x)[0], wanted, atol=1e-6)


def finch(model: RWKV6, x: Tensor, reset: Tensor) -> Tensor:
    """Compute section 4.2 as written: data-dependent shift and decay, S as a matrix, one step after the other."""
    heads, size = model.time_faaaa.shape
    before, matrix, outputs = x.new_zeros(x.shape[0], WIDTH), x.new_zeros(x.shape[0], heads, size, size), []
    for t in range(x.shape[1]):
        before = before.masked_fill(reset[:, t, None], 0.0)
        matrix = matrix.masked_fill(reset[:, t, None, None, None], 0.0)
        now, change = x[:, t], before - x[:, t]
        low = torch.tanh((now + change * model.time_maa_x) @ model.time_maa_w1).chunk(5, dim=-1)
        shifted = {
            name: now + change * (model.get_parameter(f"time_maa_{name}") + low[place] @ model.time_maa_w2[place])
            for place, name in enumerate("wkvrg")
        }
        decay = torch.tanh(shifted["w"] @ model.time_decay_w1) @ model.time_decay_w2 + model.time_decay
        w, k, v, r = (
            part.unflatten(-1, (heads, size))
            for part in (
                torch.exp(-torch.exp(decay)),
                model.key(shifted["k"]),
                model.value(shifted["v"]),
                model.receptance(shifted["r"]),
            )
        )
        kv = torch.einsum("bhi,bhj->bhij", k, v)
        y = torch.einsum("bhi,bhij->bhj", r, matrix + model.time_faaaa[..., None] * kv)
        matrix = w.unsqueeze(-1) * matrix + kv
        normed = F.group_norm(y.flatten(1), heads, model.ln_x.weight, model.ln_x.bias, eps=64e-5)
        outputs.append(model.output(normed * F.silu(model.gate(shifted["g"]))))
        before = now
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("way", WAYS)
# In float32 the paper's own loop is as far from float64 as the scan: by 1.1e-5 here on processors with AVX-512.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 3e-5)], ids=["float64", "float32"]
)
def test_rwkv6_agrees_with_the_paper(way: str, dtype: torch.dtype, tolerance: float) -> None:
    """Compare outputs and every gradient."""
    model = lively(RWKV6(WIDTH, head_width=4, mix_rank=3, decay_rank=5)).to(dtype)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    reset, weight = torch.rand(BATCH, STEPS) < 0.05, torch.randn(BATCH, STEPS, WIDTH, dtype=dtype)
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), reset)
    ours = torch.autograd.grad((y * weight).sum(), [x, *model.parameters()])
    exact, x = model.double(), x.detach().double().requires_grad_()
    wanted = finch(exact, x, reset)
    assert_near(y, wanted, tolerance, "y")
    gradients = torch.autograd.grad((wanted * weight).sum(), [x, *exact.parameters()])
    for (name, _), actual, gradient in zip([("x", x), *exact.named_parameters()], ours, gradients, strict=True):
        assert_near(actual, gradient, tolerance, f"d {name}")


def test_start_as_published() -> None:
    """Check first decays: RWKV-4 from exp(-exp(-5)) to exp(-exp(3)), RWKV-6 from exp(-exp(-6)) to exp(-exp(-1))."""
    four, six = RWKV4(128), RWKV6(128)
    assert (four.time_decay[0].item(), four.time_decay[-1].item()) == (-5.0, 3.0)
    assert (six.time_decay[0].item(), six.time_decay[-1].item()) == (-6.0, -1.0)
    assert four.time_first[:3].tolist() == pytest.approx([math.log(0.3), math.log(0.3) + 0.5, math.log(0.3) - 0.5])
    assert six.time_faaaa.flatten()[:3].tolist() == pytest.approx([0.0, 0.1, -0.1])
    assert four.time_mix_key[64].item() == six.time_maa_k[64].item() == 0.5
    assert six.heads == 2
    assert six.state_size == 128 + 2 * 64 * 64


def test_bad_options() -> None:
    with pytest.raises(ValueError, match="head_width must divide the width, got head_width=3 and width=16"):
        RWKV6(WIDTH, head_width=3)
    with pytest.raises(ValueError, match="mix_rank and decay_rank must be at least 1, got 0 and 64"):
        RWKV6(WIDTH, mix_rank=0)
    with pytest.raises(ValueError, match="must be a whole number"):
        RWKV4(WIDTH, expand=0.3)
