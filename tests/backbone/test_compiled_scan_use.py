"""When a backbone's scan is compiled, and autograd, views, autocast and changes around it.

Shapes: B batch, T time, D width, S state size.
"""

from typing import Any

import pytest
import torch
from block_scans import Plain, assert_as_torch, assert_near, backbone, everything, inputs, is_fused, plain
from torch import nn
from torch.utils.checkpoint import checkpoint

from minrl.backbone import Backbone

pytest.importorskip("numba")


def narrow(width: int = 24, **options: Any) -> Backbone:
    """Build a backbone in float32, whose kernels other tests have compiled too."""
    return backbone(width, **options).float()


def test_either_output_alone_has_the_same_gradients() -> None:
    """Leave weights that a loss does not reach without a gradient, so that an optimizer skips them."""
    model = narrow(8, expand=2)
    x, state, reset = inputs(model)
    state.requires_grad_()
    leaves = [state, *model.parameters()]
    for output in (0, 1):
        gradients = [
            torch.autograd.grad(version.scan(x, state, reset)[output].square().sum(), leaves, allow_unused=True)
            for version in (model, plain(model))
        ]
        for a, b in zip(*gradients, strict=True):
            assert (a is None) == (b is None)
            assert a is None or (a - b).abs().max() <= 1e-5 * b.abs().max()


def test_views_of_other_tensors() -> None:
    """Scan a time-major x, a slice of a wider state and strided resets, and backpropagate an expanded gradient."""
    model = narrow()
    x, state, reset = inputs(model, 4, 40)
    turned = x.transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()
    wide = torch.cat([state, state], dim=1)[:, 3 : 3 + model.state_size]
    spread = reset.repeat_interleave(2, dim=1)[:, ::2]
    gradients = [
        torch.autograd.grad(version.scan(turned, wide, spread)[0].sum(), turned)[0] for version in (model, plain(model))
    ]
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-5)


def test_parts_that_are_frozen_and_no_gradient_at_all() -> None:
    model = narrow()
    x, state, reset = inputs(model)
    with torch.no_grad():
        y, last = model.scan(x, state, reset)
    with_gradients = model.scan(x, state, reset)
    assert torch.equal(y, with_gradients[0])
    assert torch.equal(last, with_gradients[1])
    assert not y.requires_grad
    model.blocks[0].requires_grad_(False)
    model.scan(x, state, reset)[0].square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("blocks.0")
    assert not model.requires_grad_(False).scan(x, state, reset)[0].requires_grad


def test_gradients_twice_recomputed_and_offloaded() -> None:
    model = narrow()
    x, state, reset = inputs(model)
    wanted = torch.autograd.grad(model.scan(x, state, reset)[0].square().sum(), list(model.parameters()))
    loss = model.scan(x, state, reset)[0].square().sum()
    for _ in range(2):
        assert_near(list(torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)), list(wanted), 0)
    again = checkpoint(model.scan, x, state, reset, use_reentrant=False)[0].square().sum()
    assert_near(list(torch.autograd.grad(again, list(model.parameters()))), list(wanted), 0)
    with torch.autograd.graph.save_on_cpu():
        loss = model.scan(x, state, reset)[0].square().sum()
    assert_near(list(torch.autograd.grad(loss, list(model.parameters()))), list(wanted), 0)


def test_weights_changed_before_the_backward_pass_are_an_error() -> None:
    model = narrow()
    loss = model.scan(*inputs(model))[0].sum()
    with torch.no_grad():
        model.blocks[0].conv.bias.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_outputs_may_be_changed_in_place() -> None:
    model = narrow()
    x, state, reset = inputs(model)
    gradients = []
    for version in (model, plain(model)):
        y, last = version.scan(x, state, reset)
        y.mul_(2)
        last.add_(y[:, 0, :1])
        gradients.append(torch.autograd.grad(y.square().sum() + last.sum(), list(model.parameters())))
    assert_near(list(gradients[0]), list(gradients[1]), 1e-5)


def test_every_change_of_the_weights_takes_effect() -> None:
    model = narrow()
    arguments = inputs(model)
    assert_as_torch(model, *arguments)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.float().scan(*arguments)[0].square().sum().backward()  # the comparison has made it float64
    optimizer.step()
    assert_as_torch(model, *arguments)
    model.load_state_dict({name: value + 0.1 for name, value in model.state_dict().items()})
    assert_as_torch(model, *arguments)
    model.norm.weight.data = torch.randn(model.width, dtype=torch.float64)
    assert_as_torch(model, *arguments)
    model.blocks[0].cell.gates = nn.Linear(model.width, 2 * model.width).double()
    assert_as_torch(model, *arguments)


def test_scan_runs_the_compiled_node() -> None:
    model = narrow()
    arguments = inputs(model)
    assert "_Scan" in model.scan(*arguments)[0].grad_fn.name()
    assert "_Scan" not in plain(model).scan(*arguments)[0].grad_fn.name()


def test_not_used_where_it_would_be_wrong() -> None:
    model = narrow(dropout=0.5).eval()
    x, state, reset = inputs(model)
    assert is_fused(model, x, state, reset)
    assert is_fused(model.train(), x, state, reset)
    assert is_fused(model.eval(), x, state, reset)
    assert not is_fused(model, x.double(), state, reset)
    assert not is_fused(model, x, state.double(), reset)
    assert not is_fused(model.bfloat16(), x.bfloat16(), None, reset)
    model.float()
    with torch.autocast("cpu"):
        assert not is_fused(model, x, state, reset)
    assert not is_fused(Backbone(8, 1, "gru"), torch.zeros(1, 2, 8), None, None)
    for register in (
        model.blocks[0].norm.register_forward_hook,
        model.blocks[1].dropout.register_forward_pre_hook,
        model.blocks[0].cell.gates.register_full_backward_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        handle = register(lambda *_: None)
        assert not is_fused(model, x, state, reset)
        handle.remove()
        assert is_fused(model, x, state, reset)
    model.blocks[1].mlp[2] = nn.GELU(approximate="tanh")
    assert not is_fused(model, x, state, reset)
    model.blocks[1].mlp[2] = nn.GELU()
    assert is_fused(model, x, state, reset)
    model.blocks[0].cell.gates = nn.Linear(model.width, 3 * model.width)
    assert not is_fused(model, x, state, reset)


def test_leaves_other_weights_and_transformed_functions_to_torch() -> None:
    model = narrow(mlp=0)
    x, state, reset = inputs(model)
    gradients = []
    for version in (model, plain(model)):
        others = {name: weight + 0.1 for name, weight in version.named_parameters()}
        y, _ = torch.func.functional_call(version, others, (x, state, reset))
        gradients.append(list(torch.autograd.grad(y.square().sum(), list(others.values()))))
    assert_near(*gradients, 1e-5)
    taken = []
    torch.vmap(lambda x: taken.append(is_fused(model, x.unsqueeze(0), None, None)) or x)(x)
    assert taken == [False]
    assert is_fused(model, x, state, reset)


@pytest.mark.slow
def test_leaves_tracing_and_compiling_to_torch() -> None:
    model = backbone(mlp=1)
    x, state, reset = inputs(model)
    wanted = everything(model, x, state, reset)

    class Compiled(Plain):
        def scan(self, *arguments: Any) -> Any:
            return torch.compile(model.scan, backend="aot_eager", fullgraph=True)(*arguments)

    compiled = Compiled.__new__(Compiled)
    compiled.__dict__ = model.__dict__
    assert_near(everything(compiled, x, state, reset), wanted, 1e-10)
    exported = torch.export.export(model, (x, state, reset)).module()
    with torch.no_grad():
        traced = torch.jit.trace(model, (x, state, reset))
    other = inputs(model)
    wanted = list(model.scan(*other))
    assert_near(list(exported(*other)), wanted, 1e-10)
    assert_near(list(traced(*other)), wanted, 1e-10)
