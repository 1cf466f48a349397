"""Forward-mode and second derivatives of every cell and of backbones, against finite differences.

Shapes: B batch, T time, D width, S state size.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import pytest
import torch
from contract import WIDTH, build
from torch import Tensor
from torch.autograd import forward_ad

from minrl.cells import CELLS
from minrl.scan import without_fused_kernels

BATCH, STEPS = 2, 37  # more steps than one chunk, and no multiple of it
STEP = 1e-6  # of central differences, with an error of about its square
WITHIN = 1e-6
# Compiled kernels in the precision of agents, to the accuracy of derivatives in it.
PATHS: tuple[tuple[Callable[[], AbstractContextManager[None]], torch.dtype, float], ...] = (
    (nullcontext, torch.float32, 1e-3),
    (without_fused_kernels, torch.float64, WITHIN),
)
NAMES = [
    *CELLS,
    *(f"{cell}-{option}" for cell in ("mingru", "minlstm") for option in ("wide", "tanh", "linear", "signed")),
    *("lstm-peepholes", "qrnn-ifo", "rglru-bare", "s4d-real", "transformer-short"),
    *(f"backbone-{kind}" for kind in ("mingru", "minlstm", "lstm", "lru", "mamba", "bare", "wide", "pattern")),
]
# Their state is scaled by a running maximum, which takes no gradient: only their outputs are functions of the
# inputs, whatever the scale.
IN_UNITS = ("aaren", "mlstm", "rwkv4", "slstm")
# Outputs and last state of (x, state, *weights).
Function = Callable[..., tuple[Tensor, ...]]


def function_of(name: str) -> tuple[Function, list[Tensor], list[Tensor]]:
    """Return a model's scan as a function of all real inputs, a point, and directions from there, in float64."""
    model = build(name, torch.float64)
    with torch.no_grad(), without_fused_kernels():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        state = model.scan(torch.randn(BATCH, 5, WIDTH, dtype=torch.float64))[1]
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    reset[0, 20], reset[1, [0, 33]] = True, True
    names = [parameter for parameter, _ in model.named_parameters()]

    def run(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        arguments = x, state, reset
        outputs = torch.func.functional_call(model, dict(zip(names, weights, strict=True)), arguments)
        return outputs[:1] if name in IN_UNITS else outputs

    x = torch.randn(BATCH, STEPS, WIDTH, dtype=torch.float64)
    point = [x, state, *(parameter.detach() for parameter in model.parameters())]
    directions = [torch.randn_like(p) for p in point]
    # The flags of a window's slots are 0 or 1, without a derivative.
    directions[1] *= 0.0 if name in IN_UNITS else (state != 0) & (state != 1)
    return run, point, directions


def differences(function: Callable[..., tuple[Tensor, ...]], point: list[Tensor], to: list[Tensor]) -> list[Tensor]:
    """Return the directional derivative of a function at `point` by central differences."""
    values = [function(*(p + step * d for p, d in zip(point, to, strict=True))) for step in (STEP, -STEP)]
    return [((a - b) / (2 * STEP)).detach() for a, b in zip(*values, strict=True)]


def assert_close(actual: tuple[Tensor, ...] | list[Tensor], wanted: list[Tensor], tolerance: float = WITHIN) -> None:
    assert any(w.abs().max() > 1e-3 for w in wanted)
    for a, b in zip(actual, wanted, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)


@pytest.mark.parametrize("name", NAMES)
def test_forward_mode(name: str) -> None:
    """Differentiate by torch.func, and by torch.autograd.forward_ad also where no graph is kept."""
    run, point, to = function_of(name)
    with without_fused_kernels():
        wanted = differences(run, point, to)
    assert_close(torch.func.jvp(run, tuple(point), tuple(to))[1], wanted)
    with torch.no_grad(), forward_ad.dual_level():
        duals = [forward_ad.make_dual(p, d) for p, d in zip(point, to, strict=True)]
        assert_close([forward_ad.unpack_dual(y).tangent for y in run(*duals)], wanted)


def gradients(run: Function, point: list[Tensor], *, create_graph: bool = False) -> tuple[list[Tensor], list[Tensor]]:
    """Return leaves at `point` and the gradients to them of a loss that is linear in the outputs.

    The incoming gradients of the graph's nodes are then constants: the second derivative lies within the nodes.
    """
    leaves = [p.clone().requires_grad_() for p in point]
    outputs = run(*leaves)
    torch.manual_seed(3)
    loss = sum((y * torch.randn(y.shape, dtype=torch.float64).to(y.dtype)).sum() for y in outputs)
    return leaves, list(torch.autograd.grad(loss, leaves, create_graph=create_graph, materialize_grads=True))


@pytest.mark.parametrize("name", NAMES)
def test_second_derivatives(name: str) -> None:
    """Differentiate twice with compiled kernels and without."""
    run, point, to = function_of(name)
    with without_fused_kernels():
        wanted = differences(lambda *values: tuple(gradients(run, list(values))[1]), point, to)
    for path, dtype, tolerance in PATHS:
        with path():
            leaves, first = gradients(run, [p.to(dtype) for p in point], create_graph=True)
            product = sum((g * d.to(dtype)).sum() for g, d in zip(first, to, strict=True))
            assert_close(torch.autograd.grad(product, leaves, materialize_grads=True), wanted, tolerance)


@pytest.mark.parametrize("name", NAMES)
def test_many_gradients_at_once_and_torch_func(name: str) -> None:
    """Compare `is_grads_batched` and `torch.func.vjp` with one backward pass after the other."""
    run, exact, _ = function_of(name)
    for path, dtype, tolerance in PATHS:
        with path():
            point = [p.to(dtype) for p in exact]
            leaves = [p.clone().requires_grad_() for p in point]
            y = run(*leaves)[0]
            torch.manual_seed(4)
            given = torch.randn(3, *y.shape, dtype=y.dtype)
            options = {"retain_graph": True, "materialize_grads": True}
            each = [torch.autograd.grad(y, leaves, one, **options) for one in given]
            wanted = [torch.stack(of_leaf) for of_leaf in zip(*each, strict=True)]
            assert_close(torch.autograd.grad(y, leaves, given, is_grads_batched=True, **options), wanted, tolerance)
            _, pull_back = torch.func.vjp(lambda *values: run(*values)[0], *point)
            assert_close(pull_back(given[0]), [w[0] for w in wanted], tolerance)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gru"])  # torch's GRU has no rule for vmap
def test_vmap(name: str) -> None:
    run, point, _ = function_of(name)
    many = torch.randn(3, *point[0].shape, dtype=torch.float64)
    with without_fused_kernels():
        wanted = [run(x, *point[1:])[0] for x in many]
    assert_close([torch.func.vmap(lambda x: run(x, *point[1:])[0])(many)], [torch.stack(wanted)])


@pytest.mark.parametrize("steps", [0, 1])
def test_second_derivatives_of_attention_over_one_step(steps: int) -> None:
    model = build("transformer-short", torch.float64)
    state = model.scan(torch.randn(BATCH, 5, WIDTH, dtype=torch.float64))[1].detach()
    x = torch.randn((BATCH, 1, WIDTH) if steps else (BATCH, WIDTH), dtype=torch.float64)
    to = torch.randn_like(x)

    def first(x: Tensor, *, create_graph: bool = False) -> Tensor:
        return torch.autograd.grad(model(x, state)[0].sin().sum(), x, create_graph=create_graph)[0]

    wanted = differences(lambda x: (first(x.requires_grad_()),), [x], [to])
    x.requires_grad_()
    assert_close(torch.autograd.grad((first(x, create_graph=True) * to).sum(), x), wanted)
