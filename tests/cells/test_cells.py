"""The contract of a cell, over every cell, every backbone and the options of both.

Shapes: B batch, T time, D width, S state size.
"""

import pytest
import torch
from contract import BATCH, MODELS, STEPS, WAYS, WIDTH, assert_near, build, expected, inputs, measure
from torch import nn

from minrl.cells import CELLS
from minrl.scan import without_fused_kernels

TOLERANCE = 1e-5
every_model = pytest.mark.parametrize("name", MODELS)


@every_model
def test_all_ways_agree(name: str) -> None:
    """Compare outputs, final state and every gradient with those of single steps in float64."""
    for way in ("scan", "cuts", "episodes"):
        assert_agrees(name, way, torch.float32, 1e-5)


@every_model
def test_all_ways_agree_in_torch(name: str) -> None:
    with without_fused_kernels():
        for way in ("scan", "cuts"):
            assert_agrees(name, way, torch.float64, 1e-10)


@pytest.mark.slow
@every_model
def test_all_ways_agree_in_kernels_of_float64(name: str) -> None:
    """Compile the same kernels for the other precision, which takes a minute."""
    for way in ("scan", "cuts", "episodes"):
        assert_agrees(name, way, torch.float64, 1e-10)


@pytest.mark.parametrize("name", CELLS)
def test_steps_in_float32(name: str) -> None:
    """Step blocks and options too, which use the steps of their cells."""
    assert_agrees(name, "steps", torch.float32, 1e-5)


def assert_agrees(name: str, way: str, dtype: torch.dtype, tolerance: float) -> None:
    wanted, actual = expected(name), measure(name, way, dtype)
    assert actual.keys() == wanted.keys()
    for what in wanted:
        assert actual[what].dtype == dtype
        assert_near(actual[what], wanted[what], tolerance, f"{way}: {what}")


@every_model
def test_every_parameter_receives_a_gradient(name: str) -> None:
    for what, gradient in expected(name).items():
        assert gradient.abs().max() > 0, what


@every_model
def test_no_gradient_crosses_a_reset(name: str) -> None:
    """Check that outputs after a reset depend on nothing before it, exactly."""
    model = build(name)
    x, state, _ = inputs(name)
    x, state = x.clone().requires_grad_(), state.clone().requires_grad_()
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    opens = 35
    reset[:, opens] = True
    y, last = model.scan(x, state, reset)
    dx, dstate = torch.autograd.grad(y[:, opens:].square().sum() + last.square().sum(), [x, state])
    assert torch.all(dx[:, :opens] == 0)
    assert torch.all(dstate == 0)
    assert torch.all(dx[:, opens:].abs().amax(-1) > 0)


@every_model
def test_one_step(name: str) -> None:
    model = build(name)
    x, state, reset = inputs(name)
    for opens in (reset[:, :1], None):
        entering = state if opens is None else state.masked_fill(opens, 0.0)
        y, last = model.scan(x[:, :1], state, opens)
        y_step, last_step = model.step(x[:, 0], entering)
        assert_near(y[:, 0], y_step, TOLERANCE, "y")
        assert_near(last, last_step, TOLERANCE, "last")


@every_model
def test_one_row(name: str) -> None:
    model = build(name)
    x, state, reset = inputs(name)
    y, last = model.scan(x, state, reset)
    for b in range(BATCH):
        y_b, last_b = model.scan(x[b : b + 1], state[b : b + 1], reset[b : b + 1])
        assert_near(y_b[0], y[b], TOLERANCE, "y")
        assert_near(last_b[0], last[b], TOLERANCE, "last")


@every_model
def test_a_reset_at_every_step(name: str) -> None:
    model = build(name)
    x, state, _ = inputs(name)
    y, last = model.scan(x, state, torch.ones(BATCH, STEPS, dtype=torch.bool))
    alone, left = model.step(x.flatten(0, 1), model.initial_state(BATCH * STEPS))
    assert_near(y, alone.unflatten(0, (BATCH, STEPS)), TOLERANCE, "y")
    assert_near(last, left.unflatten(0, (BATCH, STEPS))[:, -1], TOLERANCE, "last")


@every_model
def test_a_reset_at_the_first_step_forgets_the_state(name: str) -> None:
    model = build(name)
    x, state, _ = inputs(name)
    reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
    reset[:, 0] = True
    y, last = model.scan(x, state, reset)
    fresh, left = model.scan(x)
    assert_near(y, fresh, TOLERANCE, "y")
    assert_near(last, left, TOLERANCE, "last")
    kept, _ = model.scan(x, state)
    assert (kept[:, 0] - fresh[:, 0]).abs().max() > 1e-4, "the state has no effect at all"


@every_model
def test_rows_do_not_mix(name: str) -> None:
    model = build(name)
    x, state, reset = inputs(name)
    x, state = x.clone().requires_grad_(), state.clone().requires_grad_()
    y, last = model.scan(x, state, reset)
    dx, dstate = torch.autograd.grad(y[2].square().sum() + last[2].square().sum(), [x, state])
    assert torch.all(dx[:2] == 0)
    assert torch.all(dstate[:2] == 0)
    assert dx[2].abs().max() > 0
    assert dstate[2].abs().max() > 0


@every_model
def test_the_past_counts_and_the_future_does_not(name: str) -> None:
    model = build(name)
    x = inputs(name)[0].clone().requires_grad_()
    y, _ = model.scan(x)
    for t in (1, 33, STEPS - 2):
        (dx,) = torch.autograd.grad(y[:, t].square().sum(), x, retain_graph=True)
        assert torch.all(dx[:, t + 1 :] == 0)
        assert torch.all(dx[:, t - 1].abs().amax(-1) > 0)


@every_model
def test_padding_has_no_effect(name: str) -> None:
    """Fill the padding with garbage: it changes neither what comes before it nor what follows the next reset."""
    model = build(name)
    x, state, _ = inputs(name)
    episode, pad = x[:, :23], 100 * torch.randn(BATCH, 14, WIDTH, dtype=x.dtype)
    following = x[:, 23:60]
    packed = torch.cat([episode, pad, following], dim=1)
    reset = torch.zeros(packed.shape[:2], dtype=torch.bool)
    reset[:, 23 + 14] = True
    y, last = model.scan(packed, state, reset)
    assert_near(y[:, :23], model.scan(episode, state)[0], TOLERANCE, "before")
    after, left = model.scan(following)
    assert_near(y[:, 37:], after, TOLERANCE, "after")
    assert_near(last, left, TOLERANCE, "last")


@every_model
def test_the_zero_state_is_the_initial_state(name: str) -> None:
    model = build(name)
    x, _, reset = inputs(name)
    zero = model.initial_state(BATCH)
    assert zero.shape == (BATCH, model.state_size)
    assert zero.dtype == torch.float32
    assert not zero.any()
    for opens in (None, reset):
        y, last = model.scan(x, zero, opens)
        fresh, left = model.scan(x, None, opens)
        assert_near(y, fresh, TOLERANCE, "y")
        assert_near(last, left, TOLERANCE, "last")
        assert last.shape == (BATCH, model.state_size)


@every_model
def test_no_grad_gives_the_same_numbers(name: str) -> None:
    model = build(name)
    x, state, reset = inputs(name)
    y, last = model.scan(x, state, reset)
    with torch.no_grad():
        y_eval, last_eval = model.scan(x, state, reset)
    assert_near(y_eval, y, 1e-6, "y")
    assert_near(last_eval, last, 1e-6, "last")


@every_model
def test_time_major_and_sliced_tensors(name: str) -> None:
    """Scan a rollout that is stored (T, B, D) and a state that is a slice of a wider tensor."""
    model = build(name)
    x, state, reset = inputs(name)
    wide = torch.cat([state, state], dim=1)[:, : model.state_size]
    stored = x.transpose(0, 1).contiguous().transpose(0, 1)
    y, last = model.scan(stored, wide, reset.T.contiguous().T)
    wanted, left = model.scan(x, state, reset)
    assert_near(y, wanted, TOLERANCE, "y")
    assert_near(last, left, TOLERANCE, "last")


@pytest.mark.parametrize("name", [*CELLS, *(f"backbone-{name}" for name in CELLS)])
def test_states_stay_float32_under_autocast(name: str) -> None:
    model = build(name)
    x, state, reset = inputs(name)
    exact, exact_last = model.scan(x, state, reset)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = model.scan(x, state, reset)
        y_steps, last_steps = WAYS["steps"](model, x, state, reset)
    assert last.dtype == last_steps.dtype == torch.float32
    # bfloat16 keeps 8 bits, some 4e-3, of each product; the deviation must not grow over the 70 steps.
    for actual, actual_last in ((y, last), (y_steps, last_steps)):
        assert_near(actual, exact, 5e-2, "y")
        assert_near(actual_last, exact_last, 5e-2, "last")


@pytest.mark.parametrize(
    ("small", "large", "percent"),
    [("mingru", "gru", (33.3, 22.2, 16.7, 13.3)), ("minlstm", "lstm", (37.5, 25.0, 18.75, 15.0))],
)
def test_parameter_counts(small: str, large: str, percent: tuple[float, ...]) -> None:
    """Compare with the ratios of arXiv 2410.01201, sections 3.1 and 3.2, without biases and output projection."""

    def count(name: str, expand: int) -> int:
        cell = CELLS[name](48, expand=expand)
        return sum(p.numel() for n, p in cell.named_parameters() if p.dim() == 2 and not n.startswith("down"))

    for expand, wanted in enumerate(percent, start=1):
        assert 100 * count(small, expand) / count(large, expand) == pytest.approx(wanted, abs=0.05)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_equal_to_torch_on_the_same_weights(name: str) -> None:
    peer = {"gru": nn.GRU, "lstm": nn.LSTM}[name](WIDTH, 2 * WIDTH, batch_first=True)
    cell = CELLS[name](WIDTH, expand=2)
    getattr(cell, name).load_state_dict(peer.state_dict())
    x = torch.randn(BATCH, STEPS, WIDTH)
    wanted, last = peer(x)
    left = torch.cat(last, dim=-1)[0] if name == "lstm" else last[0]
    for way in ("scan", "steps"):
        reset = torch.zeros(BATCH, STEPS, dtype=torch.bool)
        y, state = WAYS[way](cell, x, cell.initial_state(BATCH), reset)
        assert_near(y, cell.down(wanted), TOLERANCE, way)
        assert_near(state, left, TOLERANCE, way)


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_no_rounding_is_fed_back_under_autocast(name: str) -> None:
    """Keep the recurrence and its state in the precision of the weights."""
    cell = CELLS[name](WIDTH)
    x = torch.randn(BATCH, STEPS, WIDTH)
    exact, exact_last = cell.scan(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, last = cell.scan(x)
        y_first, _ = cell.step(x[:, 0], cell.initial_state(BATCH))
    assert_near(y, exact, 1e-6, "y")
    assert_near(last, exact_last, 1e-6, "last")
    assert_near(y_first, exact[:, 0], 1e-6, "step")


@pytest.mark.parametrize("name", ["mingru", "minlstm", "gru", "lstm"])
def test_hold_is_the_share_of_the_state_kept(name: str) -> None:
    """Keep sigmoid(hold) of each unit's state at each step, with weights of zero."""
    cell = CELLS[name](WIDTH, hold=(-1.0, 3.0))
    with torch.no_grad():
        for parameter_name, parameter in cell.named_parameters():
            if "weight" in parameter_name:
                parameter.zero_()
    zero, one = cell.initial_state(1), cell.initial_state(1) + 1.0
    x = torch.zeros(1, WIDTH)
    kept = (cell.step(x, one)[1] - cell.step(x, zero)[1])[0, -WIDTH:]  # c of an LSTM
    assert torch.allclose(kept, torch.sigmoid(torch.linspace(-1.0, 3.0, WIDTH)), atol=1e-6)


@pytest.mark.parametrize("name", ["mingru", "minlstm", "gru", "lstm", "mamba"])
def test_expand_must_give_a_whole_width(name: str) -> None:
    with pytest.raises(ValueError, match=r"expand=0\.3 times width=8 must be a whole number"):
        CELLS[name](WIDTH, expand=0.3)
