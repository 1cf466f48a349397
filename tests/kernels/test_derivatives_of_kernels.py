"""Forward-mode and second derivatives through each kernel and each node of the graph, and torch.func over them.

Shapes: B batch, T time, D width, K inputs of a layer.
"""

from collections.abc import Callable
from itertools import product

import pytest
import torch
from block_scans import backbone, inputs, is_fused
from torch import Tensor, nn
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from minrl.kernels import matmul
from minrl.kernels.guard import constant_in_graphs
from minrl.kernels.lstm.cpu import lstm_layer
from minrl.models.embedding import dropped, embedded
from minrl.scan import KERNELS, linear_scan, mingru_scan, minlstm_scan

pytest.importorskip("numba")

Scan = Callable[..., tuple[Tensor, Tensor]]
RESET = torch.tensor([[False, True, False, False, True, False], [False] * 6])


def numbers(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128], ids=["real", "complex"])
def test_a_linear_recurrence(kernel: str, dtype: torch.dtype) -> None:
    leaves = numbers(2, 6, 2, dtype=dtype), numbers(2, 6, 2, dtype=dtype), numbers(2, 2, dtype=dtype)

    def run(*leaves: Tensor) -> tuple[Tensor, Tensor]:
        return KERNELS[kernel](*leaves, RESET)

    assert gradcheck(run, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(run, leaves, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)
    assert gradgradcheck(lambda a, b: KERNELS[kernel](a, b, None, None)[0].sum(), leaves[:2], fast_mode=True)


# The kernels are compiled anew for float64 and each of these, which takes half a minute.
@pytest.mark.parametrize(
    ("candidate", "signed"),
    [
        ("positive", False),
        *(
            pytest.param(candidate, signed, marks=pytest.mark.slow)
            for candidate, signed in product(("positive", "tanh", "linear"), (False, True))
            if (candidate, signed) != ("positive", False)
        ),
    ],
)
@pytest.mark.parametrize(("scan", "parts"), [(mingru_scan, 2), (minlstm_scan, 3)])
def test_a_recurrence_with_gates(scan: Scan, parts: int, candidate: str, signed: bool) -> None:
    leaves = numbers(2, 6, 2 * parts), numbers(2, 2)

    def run(gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return scan(gates, state, RESET, candidate=candidate, signed=signed)

    assert gradcheck(run, leaves, check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(run, leaves, check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)
    assert gradgradcheck(lambda gates: scan(gates, candidate=candidate)[1].sum(), leaves[:1], fast_mode=True)


@pytest.mark.slow
@pytest.mark.parametrize(("scan", "parts"), [(mingru_scan, 2), (minlstm_scan, 3)])
def test_a_recurrence_with_hard_gates(scan: Scan, parts: int) -> None:
    gates, state = numbers(2, 6, 2 * parts), numbers(2, 2)

    def run(gates: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return scan(gates, state, RESET, hard=True)

    assert gradcheck(run, (gates, state), check_forward_ad=True, fast_mode=True)
    assert gradgradcheck(run, (gates, state), check_fwd_over_rev=True, check_rev_over_rev=True, fast_mode=True)


@pytest.mark.slow
def test_an_lstm() -> None:
    leaves = numbers(2, 6, 3), numbers(2, 4), numbers(8, 3), numbers(8, 2)
    assert gradgradcheck(lambda x, state, *weights: lstm_layer(x, weights, state, RESET), leaves)


@pytest.mark.parametrize("scan", [linear_scan, mingru_scan, minlstm_scan])
def test_transforms_compose(scan: Scan) -> None:
    """Compare Jacobians and Hessians in every order of the modes, and over a batch of problems, with reverse mode's."""
    drives = torch.randn(3, 1, 5, 6, dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        h, last = scan(x, x.sin()) if scan is linear_scan else scan(x)
        return h.sin().sum() + last.square().sum()

    jacobian = torch.stack([torch.autograd.functional.jacobian(loss, x) for x in drives])
    hessian = torch.stack([torch.autograd.functional.hessian(loss, x) for x in drives])
    assert torch.allclose(torch.func.vmap(torch.func.grad(loss))(drives), jacobian, rtol=1e-10, atol=1e-12)
    for outer in (torch.func.jacfwd, torch.func.jacrev):
        assert torch.allclose(torch.func.vmap(outer(loss))(drives), jacobian, rtol=1e-10, atol=1e-12)
        for inner in (torch.func.jacfwd, torch.func.jacrev):
            found = torch.func.vmap(outer(inner(loss)))(drives)
            assert torch.allclose(found, hessian, rtol=1e-10, atol=1e-12)


def test_recorded_by_torch_compile() -> None:
    """Compile a graph that holds a transform; one that was compiled outside of it refuses dual numbers."""
    gates, to = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    wanted = torch.func.jvp(mingru_scan, (gates,), (to,))[1]
    assert wanted[0].abs().max() > 0.1
    compiled = torch.compile(lambda x: torch.func.jvp(mingru_scan, (x,), (to,))[1], backend="aot_eager")
    assert torch.allclose(compiled(gates)[0], wanted[0])
    scan = torch.compile(mingru_scan, backend="aot_eager")
    scan(gates)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="no rule for forward-mode derivatives"):
        scan(forward_ad.make_dual(gates, to))


def test_constants_of_graphs_are_marked_as_torch_marks_them() -> None:
    def question() -> bool:
        return True

    wanted = vars(torch.compiler.assume_constant_result(lambda: True))
    assert vars(constant_in_graphs(question)) == wanted
    assert question()


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_operators_refuse_dual_numbers(device: str) -> None:
    """Refuse dual numbers in direct calls of the operators, which would drop the tangent."""
    x = torch.rand(1, 3, 4)
    operators = torch.ops.minrl
    calls: list[Callable[[Tensor], object]] = [
        lambda x: getattr(operators, f"{device}_gated_scan")(x, None, None, 2, "tanh", False, False)[0],
        lambda x: getattr(operators, f"{device}_linear_scan")(x, x, None, None)[0],
    ]
    if device == "cpu":
        calls.append(lambda x: operators.cpu_complex_scan(x.cfloat(), x.cfloat(), None, None)[0].real)
    for call in calls:
        with pytest.raises(NotImplementedError, match="no rule for forward-mode derivatives"):
            torch.func.jvp(call, (x,), (x,))
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match=r"call minrl\.scan's functions"):
            call(forward_ad.make_dual(x, x))


def test_gradients_of_a_graph_that_was_recorded_before() -> None:
    """Check that reverse mode, which is linear in the incoming gradient, is its own forward-mode derivative."""
    gates, direction = numbers(2, 6, 4), torch.randn(2, 6, 2, dtype=torch.float64)
    h = mingru_scan(gates, None, RESET)[0]
    (wanted,) = torch.autograd.grad(h, gates, direction, retain_graph=True)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.zeros_like(direction), direction)
        (gradient,) = torch.autograd.grad(h, gates, dual)
        assert torch.allclose(forward_ad.unpack_dual(gradient).tangent, wanted)


def second(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    """Return the gradient of a weighted sum of the gradients, in float64."""
    first = torch.autograd.grad(loss, leaves, create_graph=True)
    torch.manual_seed(5)
    total = sum((g * torch.randn(g.shape, dtype=torch.float64).to(g.dtype)).sum() for g in first)
    return [g.double() for g in torch.autograd.grad(total, leaves, materialize_grads=True)]


def assert_near(actual: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    assert any(b.abs().max() > 1e-2 for b in wanted)
    for a, b in zip(actual, wanted, strict=True):
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp(min=1.0)


BACKBONES = [
    (cell, options)
    for cell in ("mingru", "minlstm")
    for options in ({}, {"conv": 0, "mlp": 0}, {"expand": 2, "signed": True}, {"bias": False})
]


@pytest.mark.parametrize(
    ("cell", "options"), [BACKBONES[0], *(pytest.param(*each, marks=pytest.mark.slow) for each in BACKBONES[1:])]
)
def test_a_backbone(cell: str, options: dict[str, float]) -> None:
    model = backbone(3, cell, **{"mlp": 1, **options})
    x, state, _ = inputs(model, 2, 6)
    assert is_fused(model, x, state, RESET)
    leaves = [x.requires_grad_(), state.requires_grad_(), *model.parameters()]

    def run(x: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        y, last = model.scan(x, state, RESET)
        return y, last

    assert gradcheck(run, leaves, fast_mode=True)
    assert gradgradcheck(run, leaves, fast_mode=True)


def test_a_backbone_in_float32_with_dropout() -> None:
    """Drop the same elements in second derivatives as in the scan: against the same layers in float64."""
    model = backbone(8, "minlstm", mlp=1, dropout=0.4).float().train()
    x, state, reset = inputs(model, 2, 40)

    def of(x: Tensor) -> list[Tensor]:
        torch.manual_seed(9)
        y, last = model.scan(x, state.to(x.dtype), reset)
        return second(y.sum() + last.sum(), list(model.parameters()))

    narrow = of(x)
    model.double()
    point, parameters = [p.detach().clone() for p in model.parameters()], list(model.parameters())
    torch.manual_seed(5)
    to = [torch.randn(p.shape, dtype=torch.float64) for p in parameters]

    def first(sign: float) -> tuple[Tensor, ...]:
        with torch.no_grad():
            for parameter, p, d in zip(parameters, point, to, strict=True):
                parameter.copy_(p + sign * 1e-6 * d)
        torch.manual_seed(9)
        y, last = model.scan(x.double(), state.double(), reset)
        return torch.autograd.grad(y.sum() + last.sum(), parameters)

    wanted = [(a - b) / 2e-6 for a, b in zip(first(1.0), first(-1.0), strict=True)]
    first(0.0)
    assert_near(of(x.double()), wanted, 1e-6)
    assert_near(narrow, wanted, 1e-4)


@pytest.mark.skipif(not matmul._has_onednn(), reason="this torch has no oneDNN operator for linear layers")
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_in_onednn(bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare with torch's own layer in float64, under a loss that is linear in the output."""
    monkeypatch.setenv("MINRL_MATMUL", "onednn")
    layer = nn.Linear(12, 20, bias=bias)
    x, direction = torch.randn(100, 12), torch.randn(100, 20)

    def of(run: Callable[[nn.Module, Tensor], Tensor], x: Tensor) -> list[Tensor]:
        x = x.requires_grad_()
        return second((run(layer, x) * direction.to(x.dtype)).sum(), [x, *layer.parameters()])

    actual = of(matmul.layer, x)
    wanted = of(lambda layer, x: layer(x), x.detach().double()) if layer.double() else []
    assert_near(actual, wanted, 1e-5)


def test_the_sum_of_layers_and_dropout() -> None:
    layers, dropout = [nn.Linear(k, 4).double() for k in (3, 1)], nn.Dropout(0.4)
    given = [(layer, torch.randn(5, 7, layer.in_features, dtype=torch.float64)) for layer in layers]
    leaves = [p for layer in layers for p in layer.parameters()]

    def run(*weights: Tensor) -> Tensor:
        torch.manual_seed(3)
        return embedded(given, dropout).sin()

    assert gradgradcheck(run, leaves, fast_mode=True)
    x = numbers(5, 4)

    def fallen(x: Tensor) -> Tensor:
        torch.manual_seed(3)
        return dropped(dropout, x).sin()

    assert gradcheck(fallen, (x,))
    assert gradgradcheck(fallen, (x,))
