"""The compiled action of whole agents: equal to torch's to 1e-5, whatever changes in the agent between calls.

Shapes: B batch, O observation, S state size.
"""

import copy
import dataclasses
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import ACTIONS, drift_episodes

from minrl.agent import Agent, Moment
from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.backbone.compiled_step import MOST_ROWS_OF_ONE_THREAD
from minrl.data.task import Task
from minrl.models.compiled_act import fused_step

pytest.importorskip("numba")

KINDS: dict[str, Any] = {"decision": (DecisionAgent, DecisionConfig), "clone": (CloneAgent, CloneConfig)}
VARIANTS: dict[str, dict[str, Any]] = {
    "default": {},
    "minlstm": {"cell": "minlstm"},
    "previous action": {"previous_action": True},
    "no convolution": {"conv": 0},
    "no mlp": {"mlp": 0.0, "conv": 2},
    "wide cell": {"cell_options": {"expand": 2, "candidate": "tanh", "signed": True}},
}
RETURNS: dict[str, dict[str, Any]] = {
    "time": {"time_embedding": True},
    "no cap": {"cap_return": False, "previous_action": True, "time_embedding": True},
}
Step = tuple[Tensor, Tensor]


def agent_of(kind: str = "decision", actions: str = "box", width: int = 24, **options: Any) -> Agent:
    """Build an agent whose weights all differ from their initial values."""
    agent_class, config_class = KINDS[kind]
    episodes = drift_episodes(actions)
    agent: Agent = agent_class(config_class(width=width, depth=2, **options), Task.of(episodes))
    agent.fit_normalization(episodes)
    with torch.no_grad():
        for parameter in agent.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return agent.eval()


def moment_of(batch: int = 1, starts: float = 0.0) -> Moment:
    return Moment(2 * torch.randn(batch, 3), torch.randn(batch), torch.rand(batch) < starts)


def state_of(agent: Agent, batch: int = 1) -> Tensor:
    state = torch.randn(batch, agent.state_size)
    if isinstance(agent, DecisionAgent):
        state[:, 2] = torch.arange(batch) * 9
    return state


def fused(agent: Agent, moment: Moment, state: Tensor, *, deterministic: bool = True) -> Step | None:
    with torch.inference_mode():
        inputs = agent._inputs  # type: ignore[operator]
        return fused_step(agent, inputs, moment, state, deterministic=deterministic)


def exact(agent: Agent, moment: Moment, state: Tensor) -> Step:
    """Act by torch's own operations, which run where gradients are on."""
    with torch.enable_grad():
        action, state = agent.act(moment, state)
    return action.detach(), state.detach()


def error(agent: Agent, moment: Moment, state: Tensor) -> float:
    """Return the largest difference between the compiled action and torch's."""
    step = fused(agent, moment, state)
    assert step is not None
    return max((a - b).abs().max().item() for a, b in zip(step, exact(agent, moment, state), strict=True))


@pytest.mark.parametrize(
    ("kind", "variant"),
    [
        *((kind, variant) for kind in KINDS for variant in VARIANTS if variant != "wide cell"),
        *(pytest.param(kind, "wide cell", marks=pytest.mark.slow) for kind in KINDS),  # a kernel of its own
        *(("decision", variant) for variant in RETURNS),
    ],
)
@pytest.mark.parametrize("steps", [150, pytest.param(1000, marks=pytest.mark.slow)])
def test_steps_stay_together(kind: str, variant: str, steps: int) -> None:
    torch.manual_seed(0)
    agent = agent_of(kind, **(VARIANTS | RETURNS)[variant])
    state = other = agent.initial_state(3, 20.0)
    for _ in range(steps):
        moment = moment_of(3, 0.01)
        step = fused(agent, moment, state)
        assert step is not None
        (action, state), (wanted, other) = step, exact(agent, moment, other)
        assert torch.allclose(action, wanted, rtol=1e-5, atol=1e-5)
    assert torch.allclose(state, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("continuous", ["mse", "gaussian", "categorical"])
@pytest.mark.parametrize("actions", ACTIONS)
def test_every_head(actions: str, continuous: Any) -> None:
    torch.manual_seed(1)
    agent = agent_of("clone", actions, action_loss=continuous)
    with torch.no_grad():
        agent.head.linear.weight.mul_(5)  # type: ignore[operator, union-attr]
    assert error(agent, moment_of(50), state_of(agent, 50)) <= 1e-5


@pytest.mark.parametrize("actions", ["box", "mixed"])
def test_samples_are_those_of_torch(actions: str) -> None:
    agent = agent_of("decision", actions, action_loss="gaussian")
    moment, state = moment_of(7), state_of(agent, 7)
    torch.manual_seed(2)
    step = fused(agent, moment, state, deterministic=False)
    assert step is not None
    torch.manual_seed(2)
    with torch.enable_grad():
        wanted = agent.act(moment, state, deterministic=False)
    for a, b in zip(step, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2, 7, 32, 33, 64])
def test_any_number_of_rows_each_on_its_own(kind: str, batch: int) -> None:
    agent = agent_of(kind, width=20)
    moment, state = moment_of(batch, 0.3), state_of(agent, batch)
    assert error(agent, moment, state) <= 1e-5
    together = fused(agent, moment, state)
    assert together is not None
    for b in range(batch):
        row = Moment(moment.observation[b : b + 1], moment.reward[b : b + 1], moment.episode_start[b : b + 1])
        alone = fused(agent, row, state[b : b + 1])
        assert alone is not None
        assert all(torch.allclose(a[b : b + 1], c, atol=1e-6) for a, c in zip(together, alone, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_no_state_passes_a_reset(kind: str) -> None:
    agent = agent_of(kind, previous_action=True)
    state = state_of(agent, 4)
    moment = dataclasses.replace(moment_of(4), episode_start=torch.tensor([False, True, False, True]))
    first = 1 if kind == "decision" else 0  # the target return stays
    state[1, first:] = torch.nan
    state[3, first:] = torch.inf
    moment.reward[1], moment.reward[3] = torch.nan, torch.inf
    step = fused(agent, moment, state)
    assert step is not None
    for a, b in zip(step, exact(agent, moment, state), strict=True):
        assert a.isfinite().all()
        assert torch.allclose(a, b, atol=1e-5)
    with torch.inference_mode():
        assert torch.equal(step[1][1], agent.act(_row(moment, 1), _empty(agent, state[1:2]))[1][0])


def _row(moment: Moment, b: int) -> Moment:
    return Moment(moment.observation[b : b + 1], torch.zeros(1), torch.tensor([False]))


def _empty(agent: Agent, state: Tensor) -> Tensor:
    empty = torch.zeros_like(state)
    if isinstance(agent, DecisionAgent):
        empty[:, 0] = state[:, 0]
    return empty


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_lie_apart(kind: str) -> None:
    agent = agent_of(kind)
    wide, other = torch.randn(5, agent.state_size + 9), torch.randn(agent.state_size, 5)
    seen = Moment(torch.randn(5, 8)[:, 2:5], torch.randn(5, 3)[:, 1], torch.zeros(5, 2, dtype=torch.bool)[:, 1])
    assert error(agent, seen, wide[:, 4:-5]) <= 1e-5
    seen = Moment(torch.randn(3, 5).T, torch.randn(()).expand(5), torch.tensor([True, False] * 5)[::2])
    assert error(agent, seen, other.T) <= 1e-5
    assert error(agent, dataclasses.replace(seen, observation=torch.randn(1, 3).expand(5, 3)), other.T) <= 1e-5


def test_neither_input_is_written_to() -> None:
    agent = agent_of(previous_action=True)
    moment, state = moment_of(3, 0.5), state_of(agent, 3)
    before = copy.deepcopy((moment, state))
    step = fused(agent, moment, state)
    assert step is not None
    assert torch.equal(state, before[1])
    assert torch.equal(moment.observation, before[0].observation)
    kept = step[1].clone()
    with torch.inference_mode():
        step[0].zero_()
    assert torch.equal(step[1], kept)


def test_every_change_takes_effect() -> None:
    agent = agent_of(time_embedding=True, dropout=0.0)
    assert isinstance(agent, DecisionAgent)
    moment, state = moment_of(2), state_of(agent, 2)

    def check() -> None:
        assert error(agent, moment, state) <= 1e-5

    check()
    optimizer = torch.optim.AdamW(agent.parameters(), lr=0.1)
    agent.act(moment, state)[0].square().sum().backward()
    optimizer.step()
    check()
    agent.load_state_dict(agent_of(time_embedding=True).state_dict())
    check()
    agent.normalizer.mean = torch.randn(3)
    check()
    agent.normalizer.std.data = torch.rand(3) + 1
    check()
    agent.embed_return = nn.Linear(1, 24)
    check()
    agent.embed_observation.bias = nn.Parameter(torch.randn(24))
    check()
    agent.head.parts[0].reach = torch.rand(2)
    check()
    agent.head.linear.weight.data = torch.randn(2, 24)
    check()
    agent.return_scale = 3.0
    check()
    agent.task = dataclasses.replace(agent.task, best_return=-7.0)
    check()
    agent.config = dataclasses.replace(agent.config, cap_return=False)
    check()
    agent.double().float()
    check()


def test_copies_have_their_own_weights() -> None:
    agent = agent_of()
    moment, state = moment_of(2), state_of(agent, 2)
    before = fused(agent, moment, state)
    for twin in (copy.deepcopy(agent), pickle.loads(pickle.dumps(agent))):
        with torch.no_grad():
            twin.head.linear.bias.add_(1)
        assert error(twin, moment, state) <= 1e-5
        after, other = fused(agent, moment, state), fused(twin, moment, state)
        assert before is not None
        assert after is not None
        assert other is not None
        assert torch.equal(after[0], before[0])
        assert not torch.allclose(other[0], before[0], atol=1e-3)


def test_not_used_where_it_would_be_wrong() -> None:
    agent = agent_of(dropout=0.5)
    moment, state = moment_of(2), state_of(agent, 2)
    assert fused_step(agent, agent._inputs, moment, state, deterministic=True) is None  # type: ignore[operator]
    assert fused(agent, moment, state) is not None
    assert fused(agent.train(), moment, state) is None
    agent.eval()
    with torch.autocast("cpu"):
        assert fused(agent, moment, state) is None
    assert fused(agent, moment_of(0), state[:0]) is None
    assert fused(agent, moment_of(MOST_ROWS_OF_ONE_THREAD + 1), state_of(agent, MOST_ROWS_OF_ONE_THREAD + 1)) is None
    assert fused(agent, dataclasses.replace(moment, reward=moment.reward.double()), state) is None
    handle = agent.head.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    assert fused(agent, moment, state) is None
    handle.remove()
    assert fused(agent, moment, state) is not None
    assert fused(agent.double(), dataclasses.replace(moment, observation=torch.randn(2, 3).double()), state) is None
    for other in (agent_of(tokens="triple"), agent_of(cell="gru"), agent_of(context=4, refeed=True)):
        assert fused(other, moment, state_of(other, 2)) is None
    memoryless = agent_of("clone", recurrent=False)
    assert fused(memoryless, moment, state_of(memoryless, 2)) is None
    with torch.inference_mode():
        assert memoryless.act(moment_of(0), state_of(memoryless, 0))[0].shape == (0, 2)


def test_two_agents_in_two_threads() -> None:
    agents = [agent_of(), agent_of("clone", cell="minlstm")]

    def play(agent: Agent) -> Tensor:
        generator = torch.Generator().manual_seed(3)
        state, actions = agent.initial_state(2), []
        for _ in range(300):
            moment = Moment(torch.randn(2, 3, generator=generator), torch.zeros(2), torch.zeros(2, dtype=torch.bool))
            with torch.inference_mode():
                action, state = agent.act(moment, state)
            actions.append(action)
        return torch.stack(actions)

    alone = [play(agent) for agent in agents]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(play, agents))
    assert all(map(torch.equal, alone, together))
