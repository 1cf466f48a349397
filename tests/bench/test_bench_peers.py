"""Peers of `minrl bench` compute the same, and its peaks of memory are those that were allocated."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minrl.backbone import compiled_step
from minrl.bench import latency, memory, op, rounding
from minrl.bench.compared_layers import LAYERS, CellLoop, forward_backward, inputs, make_layer, unusable
from minrl.bench.machine import failure, missing, version
from minrl.bench.other_scans import loop_scan, other_forms
from minrl.bench.results import Ratio, Settings
from minrl.cells import CELLS
from minrl.cells.gru import GRU
from minrl.cells.lstm import LSTM
from minrl.kernels.scan import reference
from minrl.scan import mingru_gates

SETTINGS = Settings()


def test_every_form_computes_the_equations() -> None:
    forms, skipped = other_forms(SETTINGS)
    assert len(forms) >= 3
    assert {item.reason for item in skipped} >= {"it runs on CUDA only"}
    gates, reset = torch.randn(3, 37, 10), torch.rand(3, 37) < 0.2
    for name, form in forms.items():
        resets = None if "no resets" in name else reset
        decay, drive = mingru_gates(gates.double(), candidate="positive", signed=False)
        expected, _ = reference.linear_scan(decay, drive, None, resets)
        torch.testing.assert_close(form(reset)(gates).double(), expected, rtol=1e-4, atol=1e-4, msg=name)


def test_the_loop_has_the_gradients_of_the_reference() -> None:
    decay, drive = (torch.rand(2, 29, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    reset = torch.rand(2, 29) < 0.2
    found = []
    for scan in (loop_scan, reference.linear_scan):
        h, last = scan(decay, drive, None, reset)
        found.append([h, last, *torch.autograd.grad((h * h).sum(), [decay, drive])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("kind", [nn.GRUCell, nn.LSTMCell])
def test_the_loops_are_the_cells_with_resets(kind: Any, indexed: bool) -> None:
    cell = kind(6, 6)
    peer: Any = CELLS["gru" if kind is nn.GRUCell else "lstm"](6)
    assert isinstance(peer, GRU | LSTM)
    whole = peer.gru if isinstance(peer, GRU) else peer.lstm
    whole.load_state_dict({f"{name}_l0": value for name, value in cell.state_dict().items()})
    x, reset = torch.randn(3, 20, 6), torch.rand(3, 20) < 0.2
    torch.testing.assert_close(CellLoop(cell, indexed=indexed)(x, reset), peer.scan(x, None, reset)[0])


@pytest.mark.parametrize("name", LAYERS)
def test_every_layer_has_outputs_and_gradients(name: str) -> None:
    if reason := unusable(name, SETTINGS):
        pytest.skip(reason)
    x, reset, direction = inputs(SETTINGS, (2, 16, 8))
    layer = make_layer(name, SETTINGS, 8)
    assert layer(x, reset).shape == (2, 16, 8)
    gradients: Any = forward_backward(layer, x, reset, direction)()
    assert all(g.isfinite().all() and g.any() for g in gradients)
    assert version("torch") in LAYERS[name].peer() or LAYERS[name].module != "torch"


def test_the_log_space_layer_is_ours_without_resets() -> None:
    published, ours = make_layer("log space", SETTINGS, 8), make_layer("minGRU", SETTINGS, 8)
    ours.load_state_dict({f"cell.{name}": value for name, value in published.state_dict().items()})
    x = torch.randn(2, 30, 8)
    reset = torch.zeros(2, 30, dtype=torch.bool)
    torch.testing.assert_close(published(x, reset), ours(x, reset), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("threads", [1, 2])
def test_copies_move_the_stated_bytes(threads: int) -> None:
    for copy in op._copies(SETTINGS, threads, (4, 8, 2), 9).values():
        target, source = _tensors(copy)
        assert target.numel() == source.numel() == 4 * 8 * 2 * 9 // 2
        target.zero_()
        copy()
        assert torch.equal(target, source)


def _tensors(copy: Any) -> tuple[Tensor, Tensor]:
    held = dict(zip(copy.__code__.co_freevars, (cell.cell_contents for cell in copy.__closure__), strict=True))
    if "target" in held:
        return held["target"], held["source"]
    whole = [torch.from_numpy(parts[0].base) for parts in held["parts"]]
    return whole[0], whole[1]


def test_the_eager_stack_is_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compare it with the fused stack where the compiled step is gone."""
    fused, eager = latency.Backbone(16, 2, conv=0).eval(), latency.Eager(16, 2, conv=0).eval()
    eager.load_state_dict(fused.state_dict())
    x, state = torch.randn(3, 16), torch.randn(3, fused.state_size)
    with torch.inference_mode():
        expected = fused.step(x, state)
        monkeypatch.setattr(compiled_step, "step", None)
        for ours, theirs in zip(eager.step(x, state), expected, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_rounding_error_is_measured() -> None:
    """Recover a known relative error from a rounded form."""
    gates = torch.randn(2, 50, 8)

    def exact(x: Tensor) -> Tensor:
        return x.double()[..., :4] * 3

    found = rounding._compare(lambda x: exact(x).float() * (1 + 1e-3), exact, gates)
    assert found == {"outputs": pytest.approx(1e-3, rel=1e-2), "gradients": pytest.approx(1e-3, rel=1e-2)}
    figures = list(rounding.measure(dataclasses.replace(SETTINGS, quick=True)))
    ours = [f for f in figures if isinstance(f, Ratio) and "published" not in f.what]
    assert len(ours) == 4
    assert all(0 < figure.value <= 5e-6 for figure in ours)


@pytest.mark.slow
@pytest.mark.skipif(not memory._CLEAR.exists(), reason="needs Linux's /proc")
def test_peak_memory_is_what_was_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure in a process of its own, as another test may have told the C library to keep freed memory."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    found = memory.peaks_apart(Path(__file__).stem, [], threads=1)
    assert found == {0: pytest.approx(120e6, rel=0.03)}


def _allocate(_: int) -> None:
    first = torch.ones(15_000_000)
    second = first + 1  # 120 MB at once
    del first, second
    torch.ones(20_000_000)


@pytest.mark.slow
@pytest.mark.skipif(not memory._CLEAR.exists(), reason="needs Linux's /proc")
def test_peak_memory_of_a_layer() -> None:
    """Hold at least its input, gates and h with their gradients, and less than twice that."""
    found = memory.peaks(SETTINGS, "minGRU", 8, [64, 1024], 64)
    for steps, peak in found.items():
        one = 8 * steps * 64 * 4
        assert 5 * one < peak < 12 * one


def test_memory_that_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "measures_nothing.py").write_text("raise KeyError('nothing')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="its process ended with code 1: KeyError"):
        memory.peaks_apart("measures_nothing", [], threads=1)


def test_missing_peers_are_explained() -> None:
    assert missing("torch") is None
    assert failure(lambda: None) is None
    assert failure(lambda: torch.ones(2).mm(torch.ones(3))) == "it fails here: self must be a matrix"
    assert missing("no_such_package.part") == "no_such_package is not installed"


if __name__ == "__main__":
    memory.print_peaks(_allocate, [0], threads=1)
