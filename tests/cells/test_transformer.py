"""Attention over a sliding window: against plain attention over all pairs, and the contents of its state.

Shapes: B batch, T time, D width, W slots of the memory.
"""

import math

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from minrl.cells.transformer import Transformer

WIDTH, HEADS, BATCH = 16, 2, 3
LENGTHS = [(7, 1), (7, 6), (7, 7), (7, 8), (7, 50), (60, 60), (1, 9)]  # context and steps


def plain_attention(model: Transformer, x: Tensor, reset: Tensor) -> Tensor:
    """Attend over all T x T pairs at absolute positions; a rotation is a complex product, pairing i with E/2 + i."""
    steps, size = x.shape[1], WIDTH // model.heads
    query, key, value = (
        part.unflatten(-1, (model.heads, size)).transpose(1, 2) for part in model.qkv(x).chunk(3, dim=-1)
    )
    if model.positions == "rotary":
        frequency = torch.tensor([10000.0 ** (-2 * i / size) for i in range(size // 2)], dtype=x.dtype)
        turn = torch.exp(1j * torch.arange(steps, dtype=x.dtype)[:, None] * frequency)
        query, key = (torch.complex(part[..., : size // 2], part[..., size // 2 :]) * turn for part in (query, key))
        score = (query @ key.mH).real
    else:
        score = query @ key.mT
    distance = torch.arange(steps)[:, None] - torch.arange(steps)
    episode = reset.cumsum(1)
    seen = (distance >= 0) & (distance < model.context) & (episode[:, :, None] == episode[:, None, :])
    weight = torch.softmax((score / math.sqrt(size)).masked_fill(~seen[:, None], -math.inf), dim=-1)
    return model.out((weight @ value).transpose(1, 2).flatten(2))


@pytest.mark.parametrize("positions", ["rotary", "none"])
@pytest.mark.parametrize(("context", "steps"), LENGTHS)
def test_against_attention_over_all_pairs(positions: str, context: int, steps: int) -> None:
    model = Transformer(WIDTH, context=context, heads=HEADS, positions=positions).double()
    x = torch.randn(BATCH, steps, WIDTH, dtype=torch.float64)
    for reset in (torch.zeros(BATCH, steps, dtype=torch.bool), torch.rand(BATCH, steps) < 0.2):
        assert torch.allclose(model.scan(x, reset=reset)[0], plain_attention(model, x, reset), atol=1e-12)


@pytest.mark.parametrize("context", [1, 2, 7])
def test_the_window_has_the_stated_length(context: int) -> None:
    model = Transformer(WIDTH, context=context, heads=HEADS).double()
    x = torch.randn(1, 30, WIDTH, dtype=torch.float64, requires_grad=True)
    (dx,) = torch.autograd.grad(model.scan(x)[0][0, 20].square().sum(), x)
    seen = dx[0].abs().amax(-1) > 0
    assert seen.nonzero().flatten().tolist() == list(range(21 - context, 21))


def test_only_distances_matter() -> None:
    """Give a window the same output early and late, however the state was carried there."""
    model = Transformer(WIDTH, context=7, heads=HEADS)
    x = torch.randn(1, 7, WIDTH)
    before = torch.randn(1, 3000, WIDTH)
    late, _ = model.scan(torch.cat([before, x], dim=1))
    assert torch.allclose(late[:, -1], model.scan(x)[0][:, -1], atol=1e-6)


def test_order_matters_through_positions_only() -> None:
    x = torch.randn(1, 7, WIDTH)
    swapped = x[:, [1, 0, 2, 3, 4, 5, 6]]
    rotary = Transformer(WIDTH, context=7, heads=HEADS)
    bare = Transformer(WIDTH, context=7, heads=HEADS, positions="none")
    assert torch.allclose(bare.scan(x)[0][:, -1], bare.scan(swapped)[0][:, -1], atol=1e-6)
    assert not torch.allclose(rotary.scan(x)[0][:, -1], rotary.scan(swapped)[0][:, -1], atol=1e-4)


def test_the_state_holds_the_window_alone() -> None:
    model = Transformer(WIDTH, context=5, heads=HEADS)
    x = torch.randn(1, 9, WIDTH)
    assert model.state_size == 4 * (2 * WIDTH + 1)
    reset = torch.zeros(1, 9, dtype=torch.bool)
    reset[0, 7] = True
    for opens, filled in ((None, [1, 1, 1, 1]), (reset, [0, 0, 1, 1])):
        slots = model.scan(x, reset=opens)[1].view(4, 2 * WIDTH + 1)
        assert slots[:, -1].tolist() == filled
        assert not slots[slots[:, -1] == 0].any()
        pairs = model.qkv(x[0, 5:])[:, WIDTH:]
        assert torch.allclose(slots[slots[:, -1] > 0, :-1], pairs[slots[:, -1] > 0], atol=1e-6)


def test_empty_slots_are_not_attended_to() -> None:
    model = Transformer(WIDTH, context=5, heads=HEADS)
    x = torch.randn(2, 9, WIDTH)
    rubbish = torch.randn(2, 4, 2 * WIDTH + 1)
    rubbish[..., -1] = 0.0
    state = rubbish.flatten(1)
    assert torch.allclose(model.scan(x, state)[0], model.scan(x)[0], atol=1e-6)
    zero = model.initial_state(2)
    assert torch.allclose(model.step(x[:, 0], state)[0], model.step(x[:, 0], zero)[0], atol=1e-6)


def test_dropout_acts_in_training_only() -> None:
    model = Transformer(WIDTH, context=7, heads=HEADS, attention_dropout=0.5)
    x = torch.randn(1, 20, WIDTH)
    assert not torch.allclose(model.scan(x)[0], model.scan(x)[0])
    model.eval()
    assert torch.equal(model.scan(x)[0], model.scan(x)[0])


class LargestTensor(TorchFunctionMode):
    """Mode that records the size of the largest tensor that any torch function returns."""

    elements = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_cost_grows_with_time_and_not_its_square() -> None:
    model = Transformer(WIDTH, context=10, heads=HEADS)
    largest = []
    for steps in (500, 1000, 2000):
        with LargestTensor() as seen:
            model.scan(torch.randn(1, steps, WIDTH))
        largest.append(seen.elements)
    assert largest[2] <= 4.1 * largest[0]
    assert largest[2] < 2000 * 2000 / 10


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context must be at least 1 step, got 0"),
        ({"heads": 3}, "heads must divide the width, got heads=3 and width=16"),
        ({"heads": 0}, "heads must divide the width, got heads=0"),
        ({"heads": 16}, "even width / heads, got 16 / 16 = 1"),
        ({"positions": "sine"}, "positions must be one of rotary, none, got 'sine'"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Transformer(WIDTH, **options)
