"""The compiled step of a backbone: equal to torch's to 1e-5, whatever changes in the module between calls.

Shapes: B batch, D width, S state size.
"""

import copy
import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minrl.backbone import Backbone, compiled_step

pytest.importorskip("numba")


def backbone(width: int = 24, cell: str = "mingru", **options: Any) -> Backbone:
    """Build a backbone whose weights all differ from their initial values."""
    model = Backbone(width, 2, cell, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def inputs(model: Backbone, batch: int = 1) -> tuple[Tensor, Tensor]:
    return 2 * torch.randn(batch, model.width), torch.randn(batch, model.state_size)


def error(model: Backbone, x: Tensor, state: Tensor) -> float:
    """Return the largest difference between the compiled step and torch's."""
    with torch.inference_mode():
        fused = compiled_step.step(model, x, state)
    assert fused is not None
    with torch.enable_grad():
        exact = model.step(x, state)
    return max((a - b).abs().max().item() for a, b in zip(fused, exact, strict=True))


@pytest.mark.parametrize("cell", ["mingru", "minlstm"])
@pytest.mark.parametrize("width", [1, 6, 64, 100])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"conv": 0},
        {"conv": 2, "mlp": 2.5, "expand": 2},
        {"mlp": 0},
        {"candidate": "tanh", "signed": True},
        pytest.param({"gate": "hard", "conv": 0}, marks=pytest.mark.slow),  # kernels of their own
        {"candidate": "linear", "bias": False, "conv": 0, "mlp": 0},
    ],
)
def test_as_torch(cell: str, width: int, options: dict[str, Any]) -> None:
    if width == 1 and "mlp" in options:
        options = {**options, "mlp": 2}
    model = backbone(width, cell, **options)
    for batch in (1, 3):
        assert error(model, *inputs(model, batch)) <= 1e-5


def test_gelu_to_a_millionth() -> None:
    from numba import njit

    from minrl.kernels.backbone.step_loops import gelu

    x = torch.linspace(-12, 12, 100_001)
    y = x.clone()
    njit(lambda y, size: gelu(y, size))(y.numpy(), y.numel())
    assert (y - nn.functional.gelu(x.double())).abs().max() <= 1e-6


def test_thousand_steps_stay_together() -> None:
    model = backbone()
    _, state = inputs(model)
    other = state
    for _ in range(1000):
        x = torch.randn(1, model.width)
        with torch.no_grad():
            y, state = model.step(x, state)
        with torch.enable_grad():
            z, other = model.step(x, other.detach())
        assert torch.allclose(y, z, atol=1e-5)
    assert torch.allclose(state, other, atol=1e-5)


def test_strided_state_and_other_rows() -> None:
    """Step a state that is a slice of a wider one, as agents keep it, and each row on its own."""
    model = backbone()
    x, wide = torch.randn(5, model.width), torch.randn(5, model.state_size + 7)
    state = wide[:, 7:]
    assert error(model, x, state) <= 1e-5
    with torch.no_grad():
        together = model.step(x, state)
        apart = [model.step(x[b : b + 1], state[b : b + 1]) for b in range(5)]
    for i in range(2):
        assert torch.equal(together[i], torch.cat([one[i] for one in apart]))


def test_every_change_of_the_weights_takes_effect() -> None:
    model = backbone()
    x, state = inputs(model)
    assert error(model, x, state) <= 1e-5
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model.scan(torch.randn(1, 5, model.width))[0].square().sum().backward()
    optimizer.step()
    assert error(model, x, state) <= 1e-5
    model.load_state_dict(backbone().state_dict())
    assert error(model, x, state) <= 1e-5
    model.norm.weight.data = torch.randn(model.width)
    assert error(model, x, state) <= 1e-5
    model.blocks[0].cell.gates = nn.Linear(model.width, 2 * model.width)
    assert error(model, x, state) <= 1e-5
    model.double().float()
    assert error(model, x, state) <= 1e-5


def test_a_copy_has_its_own_weights() -> None:
    model = backbone()
    x, state = inputs(model)
    before = error(model, x, state)
    twin = copy.deepcopy(model)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    with torch.no_grad():
        twin.norm.bias.add_(1)
    assert error(twin, x, state) <= 1e-5
    assert error(model, x, state) == before
    with torch.no_grad():
        assert torch.allclose(twin.step(x, state)[0], model.step(x, state)[0] + 1, atol=1e-5)


def test_not_used_where_it_would_be_wrong() -> None:
    model = backbone(dropout=0.5)
    x, state = inputs(model)
    assert compiled_step.step(model, x, state) is None  # a gradient may be required
    with torch.no_grad():
        assert compiled_step.step(model, x, state) is not None
        assert compiled_step.step(model.train(), x, state) is None
        assert compiled_step.step(model.eval(), x, state) is not None
        with torch.autocast("cpu"):
            assert compiled_step.step(model, x, state) is None
        many = compiled_step.MOST_ROWS_OF_ONE_THREAD + 1
        assert compiled_step.step(model, x.expand(many, -1), state.expand(many, -1)) is None
        assert compiled_step.step(model, x[:0], state[:0]) is None
        assert compiled_step.step(Backbone(8, 1, "gru"), torch.zeros(1, 8), torch.zeros(1, 32)) is None
        assert compiled_step.step(model.double(), x.double(), state.double()) is None
        handle = model.float().blocks[0].norm.register_forward_hook(lambda *_: None)
        assert compiled_step.step(model, x, state) is None
        handle.remove()
        assert compiled_step.step(model, x, state) is not None
        mapped = torch.vmap(lambda x, s: model.step(x.unsqueeze(0), s.unsqueeze(0))[0])(x, state)
        assert torch.allclose(mapped[0], model.step(x, state)[0], atol=1e-5)


def test_leaves_tracing_and_compiling_to_torch() -> None:
    model = backbone()
    x, state = inputs(model)
    with torch.no_grad():
        wanted = model.step(x, state)[0]
        compiled = torch.compile(lambda x, s: model.step(x, s), backend="aot_eager", fullgraph=True)
        assert torch.allclose(compiled(x, state)[0], wanted, atol=1e-5)

        class Step(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
                return self.model.step(x, state)

        exported = torch.export.export(Step(), (x, state)).module()
        traced = torch.jit.trace(Step(), (x, state))
        x, state = inputs(model)
        wanted = model.step(x, state)[0]
        assert torch.allclose(exported(x, state)[0], wanted, atol=1e-5)
        assert torch.allclose(traced(x, state)[0], wanted, atol=1e-5)
