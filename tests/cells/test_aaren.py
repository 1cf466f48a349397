"""Aaren against softmax attention of its query over all steps of an episode so far.

Shapes: B batch, T time, D width, N heads.
"""

import math

import pytest
import torch
from contract import WAYS, assert_near
from torch import Tensor

from minrl.cells.aaren import Aaren
from minrl.cells.running_max import running_max

WIDTH, HEADS, BATCH, STEPS = 16, 2, 3, 70


def prefix_attention(model: Aaren, x: Tensor, reset: Tensor) -> Tensor:
    """Compute one softmax over T x T masked scores, every row with the same query."""
    query = model.query(model.token).view(HEADS, -1)
    key, value = (part(x).unflatten(-1, (HEADS, -1)).transpose(1, 2) for part in (model.key, model.value))
    score = (key @ query.unsqueeze(-1)).mT / math.sqrt(WIDTH // HEADS)  # (B, N, 1, T)
    episode = reset.cumsum(1)
    seen = (episode[:, :, None] == episode[:, None, :]).tril()
    weight = torch.softmax(score.masked_fill(~seen[:, None], -math.inf), dim=-1)
    return model.out((weight @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["float64", "float32"]
)
def test_against_softmax_attention(way: str, dtype: torch.dtype, tolerance: float) -> None:
    model = Aaren(WIDTH, heads=HEADS).to(dtype)
    with torch.no_grad():
        model.token *= 10  # scores far apart, so that the largest changes
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=dtype, requires_grad=True)
    reset = torch.rand(BATCH, STEPS) < 0.1
    leaves, weight = [x, *model.parameters()], torch.randn(BATCH, STEPS, WIDTH, dtype=dtype)
    y, _ = WAYS[way](model, x, model.initial_state(BATCH), reset)
    wanted = prefix_attention(model, x, reset)
    assert_near(y, wanted.double(), tolerance, "y")
    actual = torch.autograd.grad((y * weight).sum(), leaves)
    for gradient, of_wanted in zip(actual, torch.autograd.grad((wanted * weight).sum(), leaves), strict=True):
        assert_near(gradient, of_wanted.double(), tolerance, "gradient")


def test_without_scores_it_is_the_running_mean() -> None:
    model = Aaren(WIDTH, heads=HEADS).double()
    torch.nn.init.zeros_(model.key.weight)
    x = torch.randn(BATCH, STEPS, WIDTH, dtype=torch.float64)
    mean = model.value(x).cumsum(1) / torch.arange(1, STEPS + 1).unsqueeze(-1)
    y, last = model.scan(x)
    assert torch.allclose(y, model.out(mean), atol=1e-12)
    counts = last[:, HEADS : 2 * HEADS + WIDTH].unflatten(1, (HEADS, -1))[..., -1]
    assert torch.allclose(counts, torch.full_like(counts, STEPS), atol=1e-10)


def test_the_initial_state_is_not_a_score_of_zero() -> None:
    """Give a first score of -200 weight 1; beside a score of 0 it would have none."""
    model = Aaren(WIDTH, heads=HEADS)
    x = torch.randn(1, 1, WIDTH)
    with torch.no_grad():
        model.token.copy_(torch.linalg.lstsq(model.query.weight, -1e4 * model.key(x[0, 0]) - model.query.bias).solution)
    y, last = model.scan(x)
    assert last[0, :HEADS].max() < -200
    assert torch.allclose(y, model.out(model.value(x)), atol=1e-6)


def test_a_long_episode_loses_no_step() -> None:
    """Continue after 1e8 equal scores, where a float32 count stands still: count and sums follow."""
    model = Aaren(WIDTH, heads=HEADS)
    torch.nn.init.zeros_(model.key.weight)
    before = 1e8
    state = model.initial_state(1)
    state[:, HEADS : 2 * HEADS + WIDTH].unflatten(1, (HEADS, -1))[..., -1] = before
    x = torch.randn(1, STEPS, WIDTH)
    wanted = model.value(x).double().sum(1)
    for way in WAYS.values():
        _, last = way(model, x, state, torch.zeros(1, STEPS, dtype=torch.bool))
        kept, rest = last[:, HEADS:].double().chunk(2, dim=1)
        sums = (kept + rest).unflatten(1, (HEADS, -1))
        assert torch.allclose(sums[..., -1] - before, torch.full_like(sums[..., -1], STEPS), atol=1e-3)
        assert torch.allclose(sums[..., :-1].flatten(1), wanted, atol=1e-4)


def test_running_max() -> None:
    """Compare with the recursion, with decays, resets and a carried state."""
    value, decay = torch.randn(BATCH, STEPS, 5), -torch.rand(BATCH, STEPS, 5)
    first, reset = torch.randn(BATCH, 5) + 3, torch.rand(BATCH, STEPS) < 0.1
    for opens in (reset, None):
        m, wanted = first, []
        for t in range(STEPS):
            kept = m + decay[:, t]
            m = value[:, t].maximum(kept if opens is None else kept.masked_fill(opens[:, t, None], -math.inf))
            wanted.append(m)
        assert torch.allclose(running_max(value, decay, first, opens), torch.stack(wanted, dim=1), atol=1e-5)


def test_bad_heads() -> None:
    with pytest.raises(ValueError, match="heads must divide the width, got heads=3 and width=16"):
        Aaren(WIDTH, heads=3)
