"""A subclass of an agent keeps the compiled action, unless it overrides the equations."""

from types import MethodType
from typing import Any

import pytest
import torch
from worlds import drift_episodes

from minrl.agent import Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data.task import Task
from minrl.models.compiled_act import fused_step

pytest.importorskip("numba")

KINDS: dict[str, tuple[Any, Any, str]] = {
    "decision": (DecisionAgent, DecisionConfig, "_tokens"),
    "clone": (CloneAgent, CloneConfig, "embed"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_by_the_methods_that_the_step_stands_for(kind: str) -> None:
    torch.manual_seed(3)
    parent, config, method = KINDS[kind]
    base = parent(config(width=16, depth=1), Task.of(drift_episodes())).eval()
    moment = Moment(torch.randn(4, 3), torch.randn(4), torch.tensor([True, False, False, False]))
    state = torch.rand(4, base.state_size)

    def twice(self: Any, *inputs: Any) -> Any:
        found = getattr(parent, method)(self, *inputs)
        return [2 * x for x in found] if isinstance(found, list) else 2 * found

    def has_compiled_step(agent: Any) -> bool:
        with torch.inference_mode():
            return fused_step(agent, agent._inputs, moment, state, deterministic=True) is not None

    def actions(agent: Any, *, compiled: bool) -> Any:
        with torch.inference_mode(compiled):
            return agent.act(moment, state)[0].detach()

    for own, is_equal in (({"loss": None}, True), ({method: twice}, False)):
        agent = type("Sub", (parent,), own)(base.config, base.task).eval()
        agent.load_state_dict(base.state_dict())
        assert has_compiled_step(agent) is is_equal
        assert torch.allclose(actions(agent, compiled=True), actions(agent, compiled=False), atol=1e-5)
        assert torch.allclose(actions(agent, compiled=True), actions(base, compiled=False), atol=1e-5) is is_equal
    assert has_compiled_step(base)
    setattr(base, method, MethodType(twice, base))
    assert not has_compiled_step(base)
