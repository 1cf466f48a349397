"""MinGRU and MinLSTM in the form of torch's layers, against the paper's equations step by step."""

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

from minrl.nn import MinGRU, MinLSTM

KINDS = {MinGRU: nn.GRU, MinLSTM: nn.LSTM}
T, B, D, H, L = 7, 3, 5, 8, 2


def expected(module: Any, x: Tensor, h: Tensor, reset: Tensor) -> tuple[Tensor, Tensor]:
    """Compute sections 3.1 and 3.2 of the paper in a loop: (T, B, D), (L, B, H), (T, B) -> (T, B, H), (L, B, H)."""
    lasts = []
    for linear, state in zip(module.layers, h, strict=True):
        outputs = []
        for step, start in zip(x, reset, strict=True):
            gates = (step @ linear.weight.t() + linear.bias).chunk(module.parts, dim=-1)
            candidate = torch.where(gates[-1] >= 0, gates[-1] + 0.5, gates[-1].sigmoid())
            state = torch.where(start.unsqueeze(-1), 0.0, state)
            if isinstance(module, MinGRU):
                z = gates[0].sigmoid()
                state = (1 - z) * state + z * candidate
            else:
                f, i = gates[0].sigmoid(), gates[1].sigmoid()
                state = f / (f + i) * state + i / (f + i) * candidate
            outputs.append(state)
        lasts.append(state)
        x = torch.stack(outputs)
    return x, torch.stack(lasts)


def pair(kind: Any, h: Any) -> Any:
    """Return states as the kind of layer takes them."""
    return h if h is None or kind is MinGRU else (h, torch.full_like(h, 9.0))


def first(h: Any) -> Tensor:
    if isinstance(h, tuple):
        torch.testing.assert_close(h[0], h[1], rtol=0, atol=0)
        return h[0]
    return h


@pytest.mark.parametrize("kind", KINDS)
def test_every_form_computes_the_equations(kind: Any) -> None:
    """Compare tensors of every layout and packed sequences, with states and resets, in float64 and float32."""
    torch.manual_seed(0)
    x, h, reset = torch.randn(T, B, D).double(), torch.randn(L, B, H).double(), torch.rand(T, B) < 0.3
    module = kind(D, H, L).double()
    y, last = expected(module, x, h, reset)
    ours, state = module(x, pair(kind, h), reset=reset)
    torch.testing.assert_close((ours, first(state)), (y, last))
    ours, state = copy.deepcopy(module).float()(x.float(), pair(kind, h.float()), reset=reset)
    torch.testing.assert_close((ours, first(state)), (y.float(), last.float()), rtol=1e-5, atol=1e-5)
    none = torch.zeros_like(reset)
    torch.testing.assert_close(module(x)[0], expected(module, x, torch.zeros_like(h), none)[0])
    module.batch_first = True
    ours, state = module(x.transpose(0, 1), pair(kind, h), reset=reset.t())
    torch.testing.assert_close((ours, first(state)), (y.transpose(0, 1), last))
    ours, state = module(x[:, 0], pair(kind, h[:, 0]), reset=reset[:, 0])
    torch.testing.assert_close((ours, first(state)), (y[:, 0], last[:, 0]))
    lengths = [4, 7, 2]
    packed, flags = (pack_padded_sequence(part, torch.tensor(lengths), enforce_sorted=False) for part in (x, reset))
    ours, state = module(packed, pair(kind, h), reset=flags)
    padded, _ = pad_packed_sequence(ours)
    for row, length in enumerate(lengths):
        y, last = expected(module, x[:length, row : row + 1], h[:, row : row + 1], reset[:length, row : row + 1])
        torch.testing.assert_close((padded[:length, row], first(state)[:, row]), (y[:, 0], last[:, 0]))


@pytest.mark.parametrize("kind", KINDS)
def test_shapes_and_types_are_those_of_torch(kind: Any) -> None:
    theirs = KINDS[kind]
    inputs = torch.randn(T, B, D), torch.randn(T, D), pack_sequence([torch.randn(n, D) for n in (5, 3)])
    for batch_first in (False, True):
        ours, reference = (each(D, H, L, batch_first=batch_first, dropout=0.1) for each in (kind, theirs))
        for x in inputs:
            found, wanted = ours(x), reference(x)
            assert type(found[0]) is type(wanted[0])
            parts = [(a.data, b.data) if hasattr(a, "data") else (a, b) for a, b in [(found[0], wanted[0])]]
            parts += list(zip(*([h] if isinstance(h, Tensor) else h for h in (found[1], wanted[1])), strict=True))
            assert [(a.shape, a.dtype) for a, _ in parts] == [(b.shape, b.dtype) for _, b in parts]
        for name in ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional"):
            assert getattr(ours, name) == getattr(reference, name)
        ours.flatten_parameters()


@pytest.mark.parametrize("kind", KINDS)
def test_steps_and_cuts_equal_the_sequence(kind: Any) -> None:
    """Write into the returned states as agents do at the end of an episode: outputs stay."""
    torch.manual_seed(0)
    module, x, reset = kind(D, H, L), torch.randn(T, B, D), torch.rand(T, B) < 0.3
    y, last = module(x, reset=reset)
    state, outputs = None, []
    for step in range(T):
        if state is not None:
            for part in [state] if isinstance(state, Tensor) else state:
                part[..., reset[step], :] = 0.0
        out, state = module(x[step : step + 1], state)
        outputs.append(out)
    torch.testing.assert_close((torch.cat(outputs), first(state)), (y, first(last)))
    begun, state = module(x[:3], reset=reset[:3])
    rest, _ = module(x[3:], state, reset=reset[3:])
    torch.testing.assert_close(torch.cat([begun, rest]), y)
    single, _ = module(x[3:4], state, reset=reset[3:4])
    torch.testing.assert_close(single, y[3:4])


@pytest.mark.parametrize("kind", KINDS)
def test_gradients(kind: Any) -> None:
    """Check by finite differences; NaN in one episode reaches no other."""
    torch.manual_seed(0)
    module = kind(3, 4, 2).double()
    x, h = torch.randn(5, 2, 3).double().requires_grad_(), torch.randn(2, 2, 4).double().requires_grad_()
    reset = torch.rand(5, 2) < 0.3
    weights = dict(module.named_parameters())

    def run(x: Tensor, h: Tensor, *values: Tensor) -> tuple[Tensor, Tensor]:
        y, last = torch.func.functional_call(
            module, dict(zip(weights, values, strict=True)), (x, pair(kind, h)), {"reset": reset}
        )
        return y, first(last)

    assert torch.autograd.gradcheck(run, (x, h, *weights.values()))
    assert all(weight.grad is None for weight in weights.values())
    starts = torch.zeros(5, 2, dtype=torch.bool)
    starts[3] = True
    spoiled = x.detach().clone()
    spoiled[1, 0] = torch.nan
    y, _ = module(spoiled, reset=starts)
    assert y[1:3, 0].isnan().all()
    assert y[3:].isfinite().all()
    y[3:].sum().backward()
    assert all(weight.grad.isfinite().all() for weight in module.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_a_module_as_others(kind: Any) -> None:
    """Copy, pickle, save, move; draw weights as the cells do: the state is kept at first."""
    torch.manual_seed(0)
    module, x = kind(D, H, L, dropout=0.5), torch.randn(T, B, D)
    module.eval()
    y = module(x)[0]
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    buffer.seek(0)
    other = kind(D, H, L).eval()
    other.load_state_dict(torch.load(buffer, weights_only=True))
    for again in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), other):
        torch.testing.assert_close(again(x)[0], y, rtol=0, atol=0)
    assert not torch.equal(module.train()(x)[0], y)
    assert module.bfloat16()(x.bfloat16())[0].dtype == torch.bfloat16
    odds = module.float().layers[1].bias.view(module.parts, H)
    kept = odds[1] - odds[0] if kind is MinGRU else odds[0]
    assert (odds[0] < 0).all() if kind is MinGRU else (kept > 0).all()
    module.reset_parameters()
    assert not torch.equal(module.eval()(x)[0], y)
    assert kind(D, H, bias=False)(x)[0].shape == (T, B, H)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: MinGRU(3, 4, bidirectional=True), "bidirectional can only be False"),
        (lambda: MinLSTM(3, 4, dropout=2.0), "dropout must be a probability"),
        (lambda: MinGRU(3, 0), "must be at least 1"),
        (lambda: MinGRU(3, 4)(torch.ones(5, 2, 4)), r"input must be \(T, B, D\) .* D = 3"),
        (lambda: MinGRU(3, 4)(torch.ones(5, 2, 3), torch.ones(1, 3, 4)), "initial state must be"),
        (lambda: MinGRU(3, 4)(torch.ones(5, 2, 3), reset=torch.ones(2, 5) > 0), "reset must be a bool tensor"),
        (lambda: MinGRU(3, 4)(pack_sequence([torch.ones(2, 3)]), reset=torch.ones(2) > 0), "reset of a PackedSequence"),
        (lambda: MinGRU(3, 4, candidate="sine"), "candidate"),
        (lambda: MinGRU(3, 4)(torch.ones(0, 2, 3)), "at least one step"),
        (lambda: MinLSTM(3, 4, batch_first=True)(torch.ones(2, 0, 3)), "at least one step"),
        (lambda: MinGRU(3, 4)(torch.ones(0, 3)), "at least one step"),
        (lambda: MinGRU(3, 4)(torch.ones(5, 2, 3), (torch.ones(1, 2, 4),) * 2), "must be a tensor .* got tuple"),
        (lambda: MinGRU(3, 4)(pack_sequence([torch.ones(2, 3)] * 3), torch.ones(1, 2, 4)), "with B = 3"),
        (lambda: MinLSTM(3, 4)(pack_sequence([torch.ones(2, 3)]), torch.ones(1, 2, 4)), "with B = 1"),
    ],
)
def test_faults_are_one_line(call: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
