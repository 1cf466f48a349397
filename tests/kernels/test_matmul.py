"""The choice of a matmul library on a CPU, and the equality of both.

Shapes: B batch, T time, D width.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from block_scans import assert_as_torch, backbone, inputs
from torch import Tensor, nn
from worlds import cartpole, own_folders

from minrl.agents.__main__ import main
from minrl.cells import CELLS
from minrl.kernels import matmul

__all__ = ["cartpole", "own_folders"]

has_onednn = matmul._has_onednn()


@pytest.fixture
def onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Use oneDNN's matmuls wherever possible."""
    if not has_onednn:
        pytest.skip("this torch has no oneDNN operator for linear layers")
    monkeypatch.setenv("MINRL_MATMUL", "onednn")
    assert matmul.library() == "onednn"
    yield
    monkeypatch.undo()


def gradients(y: Tensor, *leaves: Tensor) -> list[Tensor]:
    torch.manual_seed(1)
    return [y, *torch.autograd.grad((y * torch.randn_like(y)).sum(), leaves)]


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(3, 5), (4, 40), (2, 32, 7), (1000,)])
def test_a_layer_in_onednn(bias: bool, shape: tuple[int, ...]) -> None:
    """Compare few rows and many with float64."""
    torch.manual_seed(0)
    module = nn.Linear(12, 20, bias=bias)
    x = torch.randn(*shape, 12, requires_grad=True)
    exact = nn.Linear(12, 20, bias=bias).double()
    exact.load_state_dict(module.state_dict())
    wide = x.detach().double().requires_grad_()
    actual = gradients(matmul.layer(module, x), x, *module.parameters())
    torch.manual_seed(1)
    direction = torch.randn(*shape, 20).double()
    y = exact(wide)
    wanted = [y, *torch.autograd.grad((y * direction).sum(), [wide, *exact.parameters()])]
    for a, b in zip(actual, wanted, strict=True):
        assert (a.double() - b).abs().max() <= 5e-6 * b.abs().max()


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("options", [{}, {"mlp": 0}, {"expand": 2}])
def test_a_backbone_in_onednn(options: dict[str, float]) -> None:
    """Compare outputs and all gradients over many rows with torch's operations."""
    model = backbone(24, **options)
    assert_as_torch(model, *inputs(model, 4, 80))


@pytest.mark.parametrize("name", ["mingru", "minlstm"])
@pytest.mark.parametrize("batch", [1, 3, 8, 40])
@pytest.mark.parametrize("width", [8, 64])
def test_a_step_is_the_scan_to_the_bit(name: str, batch: int, width: int) -> None:
    pytest.importorskip("numba")
    torch.manual_seed(0)
    cell = CELLS[name](width, expand=2)
    x, state = torch.randn(batch, 50, width), torch.randn(batch, cell.state_size)
    with torch.no_grad():
        y, last = cell.scan(x, state)
        for t in range(50):
            out, state = cell.step(x[:, t], state)
            assert torch.equal(out, y[:, t])
    assert torch.equal(state, last)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Choose the library anew, for a value of the switch and a processor."""

    def choose(value: str, vendor: str = "GenuineIntel", family: int = 6) -> str:
        monkeypatch.setenv("MINRL_MATMUL", value)
        monkeypatch.setattr(matmul, "processor_facts", lambda: {"vendor_id": vendor, "cpu family": str(family)})
        matmul._library.cache_clear()
        return matmul.library()

    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    matmul.settle(None)  # a run that was resumed in this process has settled the library
    yield choose
    matmul.settle(None)
    matmul._library.cache_clear()


@pytest.mark.skipif(not has_onednn, reason="this torch has no oneDNN operator for linear layers")
def test_the_processor_chooses_unless_the_switch_decides(
    choose: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose("auto") == "torch"
    assert choose("auto", "AuthenticAMD", 25) == "torch"
    assert choose("auto", "AuthenticAMD", 26) == "onednn"
    assert choose("torch", "AuthenticAMD", 26) == "torch"
    assert choose("onednn") == "onednn"
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    assert choose("auto", "AuthenticAMD", 26) == "torch"
    with pytest.raises(ValueError, match="MINRL_MATMUL must be one of auto, torch, onednn"):
        choose("fast")


def test_the_facts_of_this_processor() -> None:
    facts = matmul.processor_facts()
    assert bool(facts) == Path("/proc/cpuinfo").exists()
    assert all(name and name == name.strip() and ":" not in name for name in facts)


@pytest.mark.usefixtures("onednn")
@pytest.mark.parametrize("agent", ["clone", "ppo"])
def test_a_resumed_run_keeps_its_matmul_library(
    agent: str, cartpole: str, tmp_path: Path, choose: Callable[..., str]
) -> None:
    """Keep it on any processor: the two round differently."""
    out, small = tmp_path / "run", ["--width", "8", "--depth", "1", "--evaluate-every", "0", "--threads", "1"]
    words = {
        "clone": ["--data", cartpole, "--steps", "2", "--batch-size", "2", "--length", "16"],
        "ppo": ["--env", "CartPole-v1", "--steps", "32", "--n-envs", "2", "--n-steps", "16", "--batch-size", "16"],
    }
    assert main(["train", agent, *words[agent], *small, "--out", str(out)]) == 0
    assert choose("auto") == "torch"
    assert main(["train", "--resume", str(out)]) == 0
    assert matmul.library() == "onednn"
