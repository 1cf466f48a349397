"""The decision agent: acting step by step equals predicting trajectories, and returns-to-go condition it.

Shapes: B batch, T time.
"""

import dataclasses
from itertools import product
from typing import Any

import pytest
import torch
from acting import in_torch, largest_gap, play, variants_and_ways
from decision_agents import agent_of
from gymnasium.vector import AutoresetMode
from worlds import ACTIONS, drift_episodes

from minrl.agent import Agent, Batch, Moment
from minrl.cells import CELLS

__all__ = ["in_torch"]
pytestmark = pytest.mark.usefixtures("in_torch")

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "previous action": {"previous_action": True},
    "time": {"time_embedding": True},
    "triple": {"tokens": "triple"},
    "triple, time": {"tokens": "triple", "time_embedding": True},
    "refeed": {"context": 5, "refeed": True, "previous_action": True},
    "refeed, triple": {"context": 4, "refeed": True, "tokens": "triple", "time_embedding": True},
    "refeed, one step": {"context": 1, "refeed": True},
    "no convolution": {"conv": 0, "mlp": 0.0, "depth": 1},
}


def batch_of(agent: Agent, actions: str = "box", rows: int = 3, length: int = 20) -> Batch:
    sampler = agent.sampler(drift_episodes(actions), batch_size=rows, length=length, seed=1)
    return Batch.from_numpy(next(sampler)).to(next(agent.parameters()).dtype)


def check_acting_is_predicting(agent: Agent, actions: str, steps: int, way: AutoresetMode) -> None:
    for batch in play(agent, actions, [40.0, -5.0, 0.0], steps, way):
        assert batch.reset.sum() > steps / 60  # episodes did end
        assert batch.time_steps.max() > 20
        assert largest_gap(agent, batch) <= 1e-9
        # The actions depend on the record: a shifted one gives others.
        later = dataclasses.replace(batch, observations=batch.observations.roll(1, dims=1))
        assert largest_gap(agent, later) > 1e-3


@pytest.mark.parametrize("steps", [120, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("cell", CELLS)
def test_acting_equals_predicting(cell: str, steps: int) -> None:
    check_acting_is_predicting(agent_of(cell=cell), "box", steps, AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize(
    ("variant", "way"),
    variants_and_ways(VARIANTS, "refeed, triple"),
    ids=lambda word: getattr(word, "value", word),
)
def test_acting_is_predicting_in_every_variant(variant: str, way: AutoresetMode) -> None:
    check_acting_is_predicting(agent_of(**VARIANTS[variant]), "box", 150, way)


@pytest.mark.parametrize("cell", ["lstm", "transformer"])
@pytest.mark.parametrize("variant", ["triple, time", "refeed", "refeed, triple"])
def test_acting_is_predicting_with_other_cells(variant: str, cell: str) -> None:
    check_acting_is_predicting(agent_of(cell=cell, **VARIANTS[variant]), "box", 150, AutoresetMode.NEXT_STEP)


@pytest.mark.parametrize(
    ("actions", "variant"), [*((actions, "triple") for actions in ACTIONS), ("mixed", "previous action")]
)
def test_acting_is_predicting_with_every_kind_of_action(actions: str, variant: str) -> None:
    agent = agent_of(actions, **VARIANTS[variant])
    for batch in play(agent, actions, [3.0, 30.0], 100):
        assert largest_gap(agent, batch) <= 1e-9
        assert batch.actions.std(dim=1).max() > 0  # the actions differ


def test_a_sampled_action_is_the_previous_action() -> None:
    agent = agent_of(previous_action=True, action_loss="gaussian")
    state = agent.initial_state(2)
    start = Moment(torch.zeros(2, 3).double(), torch.zeros(2).double(), torch.ones(2, dtype=torch.bool))
    action, state = agent.act(start, state, deterministic=False)
    units = agent.action_units
    assert torch.equal(state[:, 3:5], units.previous(action, torch.zeros(2, dtype=torch.bool)))
    other, _ = agent.act(start, agent.initial_state(2), deterministic=False)
    assert not torch.equal(action, other)


def test_return_to_go_is_the_target_minus_the_rewards() -> None:
    """Restart it from the target at each episode, for each environment on its own."""
    agent = agent_of()
    targets = torch.tensor([10.0, -3.0], dtype=torch.float64)
    state = agent.initial_state(2, targets)
    rewards = [[99.0, 99.0], [1.0, 2.0], [0.5, -4.0], [7.0, 7.0], [1.0, 1.0]]
    starts = [[True, True], [False, False], [False, False], [True, False], [False, False]]
    wanted = [[10.0, -3.0], [9.0, -5.0], [8.5, -1.0], [10.0, -8.0], [9.0, -9.0]]
    times = [[0, 0], [1, 1], [2, 2], [0, 3], [1, 4]]
    for reward, start, remaining, time in zip(rewards, starts, wanted, times, strict=True):
        moment = Moment(torch.randn(2, 3).double(), torch.tensor(reward).double(), torch.tensor(start))
        _, state = agent.act(moment, state)
        target, earned, steps = state[:, 0], state[:, 1], state[:, 2]
        assert (target - earned).tolist() == remaining
        assert (steps - 1).tolist() == time


def test_the_default_target_is_the_best_return() -> None:
    best = max(drift_episodes().returns)
    assert agent_of().initial_state(1)[0, 0].item() == pytest.approx(best)
    assert agent_of(target_return=12.5).initial_state(1)[0, 0].item() == 12.5
    assert agent_of(target_return=12.5).initial_state(2, 3.0)[:, 0].tolist() == [3.0, 3.0]


def test_the_target_return_changes_the_action() -> None:
    agent = agent_of()
    moment = Moment(torch.zeros(2, 3).double(), torch.zeros(2).double(), torch.ones(2, dtype=torch.bool))
    action, _ = agent.act(moment, agent.initial_state(2, torch.tensor([0.0, 50.0])))
    assert not torch.allclose(action[0], action[1])


# Every cell in the fullest variant, every variant with one cell.
@pytest.mark.parametrize(
    ("cell", "variant"), dict.fromkeys([*product(CELLS, ["refeed, triple"]), *product(["mingru"], VARIANTS)])
)
def test_every_parameter_learns(cell: str, variant: str) -> None:
    agent = agent_of(cell=cell, **VARIANTS[variant]).train()
    batch = batch_of(agent)
    agent.loss(batch).total.backward()
    still = [n for n, p in agent.named_parameters() if p.grad is None or not p.grad.any()]
    # A window of one step has no past: recurrent weights and scores of past inputs get no gradient.
    past = ("cell.", "conv.") if agent.config.context == 1 else ()
    # The last action of a triple window enters no prediction; the embedding of all others does.
    assert [name for name in still if not any(part in name for part in past)] == []


@pytest.mark.parametrize(
    ("cell", "tokens"), [*product(CELLS, ["step"]), ("mingru", "triple"), ("transformer", "triple")]
)
def test_padding_has_no_effect(cell: str, tokens: Any) -> None:
    agent = agent_of(cell=cell, tokens=tokens, context=60, previous_action=tokens == "step").train()
    agent.dropout.p = 0.0
    for module in agent.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    batch = batch_of(agent, rows=6)
    assert not batch.mask.all()
    padded = ~batch.mask
    noise = {}
    for name in ("observations", "actions", "previous_actions", "returns_to_go"):
        values = getattr(batch, name).clone()
        values[padded] = 1e3 * torch.randn_like(values[padded])
        noise[name] = values
    given, noisy = agent.loss(batch), agent.loss(dataclasses.replace(batch, **noise))
    assert given.count == batch.mask.sum()
    assert torch.allclose(given.total, noisy.total, rtol=1e-12)
    # Each row alone, cut to its length, gives the same sum: the loss is a mean over real steps.
    alone = 0.0
    for row in range(6):
        length = int(batch.mask[row].sum())
        cut = {name: x[row : row + 1, :length] for name, x in batch.tensors().items()}
        alone += agent.loss(Batch(**cut)).total.item()
    assert given.total.item() == pytest.approx(alone, rel=1e-10)


@pytest.mark.parametrize("tokens", ["step", "triple"])
def test_a_carried_state_continues_the_trajectory(tokens: Any) -> None:
    agent = agent_of(tokens=tokens)
    batch = batch_of(agent, length=40)
    whole = agent.loss(batch)
    cuts = [
        Batch(**{name: x[:, part] for name, x in batch.tensors().items()}) for part in (slice(0, 17), slice(17, 40))
    ]
    first = agent.loss(cuts[0])
    second = agent.loss(cuts[1], first.memory)
    assert (first.total + second.total).item() == pytest.approx(whole.total.item(), rel=1e-10)
    assert agent.loss(cuts[1]).total.item() != pytest.approx(second.total.item(), rel=1e-6)
    assert not first.memory.requires_grad


def test_time_beyond_the_longest_episode_is_served() -> None:
    agent = agent_of(time_embedding=True)
    longest = agent.task.longest_episode
    batch = dataclasses.replace(batch_of(agent), time_steps=torch.full((3, 20), longest + 1000))
    last = dataclasses.replace(batch, time_steps=torch.full((3, 20), longest - 1))
    assert torch.equal(agent.predict(batch), agent.predict(last))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": "tripel"}, 'tokens must be "step" or "triple", got "tripel"'),
        ({"context": 0}, "context must be at least 1 step, got 0"),
        ({"refeed": True}, "refeed needs context"),
        ({"return_scale": 0.0}, "return_scale must be positive, got 0.0"),
        ({"cell": "mingro"}, 'unknown cell "mingro"; did you mean "mingru"?'),
        ({"action_loss": "mes"}, "action_loss must be one of mse, gaussian, categorical"),
        ({"cell_options": {"expnd": 2}}, 'has no option "expnd"; did you mean "expand"?'),
    ],
)
def test_bad_settings(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("?", r"\?")):
        agent_of(**options)


@pytest.mark.parametrize("cap", [True, False])
def test_the_target_is_capped_at_the_best_return_of_the_data(cap: bool) -> None:
    """Compare targets at, far above and below the best return, with the cap and without."""
    agent = agent_of(cap_return=cap)
    best = agent.task.best_return
    moment = Moment(torch.randn(1, 3).double(), torch.zeros(1).double(), torch.tensor([True]))
    at_best, far_above, below = (
        agent.act(moment, agent.initial_state(1, target))[0] for target in (best, 10 * best, best - 5)
    )
    assert torch.equal(at_best, far_above) == cap
    assert not torch.equal(at_best, below)
    assert agent.initial_state(1, 10 * best)[0, 0] == 10 * best
    for batch in play(agent, "box", [3 * best, best + 1.0], 100, AutoresetMode.NEXT_STEP):
        assert largest_gap(agent, batch) <= 1e-9
