"""The compiled action under tracing, compiling and exporting, and under other default types and devices."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import drift_episodes

from minrl.agent import Moment
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data.task import Task

pytest.importorskip("numba")


class Act(nn.Module):
    """Module of an agent's step on tensors alone, as exported."""

    def __init__(self) -> None:
        super().__init__()
        self.agent = DecisionAgent(DecisionConfig(width=16, depth=1), Task.of(drift_episodes())).eval()

    def forward(self, observation: Tensor, reward: Tensor, start: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return self.agent.act(Moment(observation, reward, start), state)


def inputs(act: Act) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return torch.randn(2, 3), torch.randn(2), torch.tensor([True, False]), torch.randn(2, act.agent.state_size)


def close(a: Any, b: Any) -> bool:
    return all(torch.allclose(x, y, atol=1e-5) for x, y in zip(a, b, strict=True))


@torch.no_grad()
def test_leaves_tracing_and_compiling_to_torch() -> None:
    act = Act()
    first, second = inputs(act), inputs(act)
    compiled = torch.compile(act, backend="aot_eager")
    assert close(compiled(*first), act(*first))
    exported = torch.export.export(act, first).module()
    traced = torch.jit.trace(act, first)
    for other in (compiled, exported, traced):
        assert close(other(*second), act(*second))


@torch.no_grad()
def test_default_type_and_device_have_no_effect() -> None:
    act = Act()
    given = inputs(act)
    wanted = act(*given)
    torch.set_default_dtype(torch.float64)
    try:
        assert all(map(torch.equal, act(*given), wanted))
    finally:
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        assert all(map(torch.equal, act(*given), wanted))


@torch.no_grad()
def test_a_mapped_step_is_left_to_torch() -> None:
    act = Act()
    given = inputs(act)

    def one(*row: Tensor) -> tuple[Tensor, ...]:
        return tuple(part[0] for part in act(*(value.unsqueeze(0) for value in row)))

    assert close(torch.vmap(one)(*given), act(*given))
