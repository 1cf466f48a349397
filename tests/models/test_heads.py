"""Action heads: likelihoods against torch.distributions, actions inside their space, and learning a constant.

Shapes: B batch, D width, A flat action width, P columns of a part.
"""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor, distributions
from worlds import ACTIONS

from minrl.data.spaces import unflatten
from minrl.models.heads import ActionHead, ContinuousLoss

WIDTH, BATCH = 6, 50
LOW, HIGH = torch.tensor([-2.0, 0.0]).double(), torch.tensor([1.0, 5.0]).double()
CENTER, REACH = (LOW + HIGH) / 2, (HIGH - LOW) / 2
LOSSES: tuple[ContinuousLoss, ...] = ("mse", "gaussian", "categorical")


def head_for(name: str, continuous: ContinuousLoss = "mse", bins: int = 7, scale: float = 30.0) -> ActionHead:
    space = ACTIONS[name]
    size = spaces.flatdim(space)
    low, high = torch.zeros(size), torch.ones(size)
    if name == "box":
        low, high = LOW, HIGH
    if name == "whole":
        low, high = torch.full((2,), -3.0), torch.full((2,), 4.0)
    if name == "mixed":  # Gymnasium keeps the order of keys: flags come last
        at = next(i for i, key in enumerate(space.spaces) if key == "move")
        start = sum(spaces.flatdim(part) for part in list(space.spaces.values())[:at])
        low[start : start + 2], high[start : start + 2] = LOW.float(), HIGH.float()
    head = ActionHead(WIDTH, space, low=low, high=high, continuous=continuous, bins=bins).double()
    with torch.no_grad():
        head.linear.weight.mul_(scale)
        head.linear.bias.normal_()
    return head


def samples(space: gymnasium.Space, count: int = BATCH) -> Tensor:
    space.seed(3)
    return torch.tensor(np.stack([spaces.flatten(space, space.sample()) for _ in range(count)])).double()


def features() -> Tensor:
    return torch.randn(BATCH, WIDTH, dtype=torch.float64)


def test_squared_error_in_units_of_half_the_range() -> None:
    head, x, action = head_for("box"), features(), samples(ACTIONS["box"])
    difference = head.act(x) - action
    assert torch.allclose(head.loss(x, action), (difference / REACH).square().mean(-1), atol=1e-12)


def test_gaussian_likelihood() -> None:
    head, x, action = head_for("box", "gaussian"), features(), samples(ACTIONS["box"])
    mean, log_std = head.linear(x).chunk(2, dim=-1)
    log_std = 6 * torch.sigmoid(log_std + np.log(3)) - 5
    wanted = distributions.Normal(CENTER + REACH * mean.tanh(), REACH * log_std.exp())
    assert torch.allclose(head.loss(x, action), -wanted.log_prob(action).sum(-1), atol=1e-10)


def test_categorical_likelihood_over_intervals() -> None:
    head, x, action = head_for("box", "categorical", bins=7), features(), samples(ACTIONS["box"])
    action[0], action[1] = LOW, HIGH  # the edges belong to the outer intervals
    edges = [np.linspace(low, high, 8) for low, high in zip(LOW.tolist(), HIGH.tolist(), strict=True)]
    index = torch.tensor(
        np.stack([np.digitize(action[:, i].numpy(), edge[1:-1]) for i, edge in enumerate(edges)], axis=1)
    )
    logits = head.linear(x).view(BATCH, 2, 7)
    wanted = distributions.Categorical(logits=logits).log_prob(index).sum(-1)
    assert torch.allclose(head.loss(x, action), -wanted, atol=1e-12)
    middles = torch.tensor(np.stack([(edge[1:] + edge[:-1]) / 2 for edge in edges]))
    assert torch.allclose(head.act(x), middles.gather(1, logits.argmax(-1).T).T, atol=1e-12)


def test_discrete_cross_entropy() -> None:
    head, x, action = head_for("discrete"), features(), samples(ACTIONS["discrete"])
    wanted = distributions.Categorical(logits=head.linear(x)).log_prob(action.argmax(-1))
    assert torch.allclose(head.loss(x, action), -wanted, atol=1e-12)


def test_multidiscrete_cross_entropy() -> None:
    head, x, action = head_for("multidiscrete"), features(), samples(ACTIONS["multidiscrete"])
    logits = head.linear(x).split([2, 4], dim=-1)
    parts = action.split([2, 4], dim=-1)
    wanted = [
        distributions.Categorical(logits=one).log_prob(part.argmax(-1)) for one, part in zip(logits, parts, strict=True)
    ]
    assert torch.allclose(head.loss(x, action), -(wanted[0] + wanted[1]), atol=1e-12)


def test_multibinary_cross_entropy() -> None:
    head, x, action = head_for("multibinary"), features(), samples(ACTIONS["multibinary"])
    wanted = distributions.Bernoulli(logits=head.linear(x)).log_prob(action).sum(-1)
    assert torch.allclose(head.loss(x, action), -wanted, atol=1e-12)


def test_a_nested_space_is_the_sum_of_its_parts() -> None:
    head, x, action = head_for("mixed"), features(), samples(ACTIONS["mixed"])
    raw = head.linear(x).split([part.inputs for part in head.parts], dim=-1)
    columns = sorted((part.columns.start, part.columns.stop) for part in head.parts)
    assert [start for start, _ in columns] == [0, *[stop for _, stop in columns[:-1]]]
    assert columns[-1][1] == action.shape[1]
    parts = [part.loss(r, action[:, part.columns]) for part, r in zip(head.parts, raw, strict=True)]
    assert torch.allclose(head.loss(x, action), sum(parts), atol=1e-12)


@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("continuous", LOSSES)
@pytest.mark.parametrize("name", ACTIONS)
def test_actions_lie_in_their_space(name: str, continuous: ContinuousLoss, deterministic: bool) -> None:
    head, space = head_for(name, continuous), ACTIONS[name]
    rows = head.act(features(), deterministic=deterministic)
    batch = unflatten(space, rows.detach().numpy())
    vector = gymnasium.vector.utils.batch_space(space, BATCH)
    for action, row in zip(gymnasium.vector.utils.iterate(vector, batch), rows, strict=True):
        assert space.contains(action), action
        # The remembered action is the executed one.
        assert np.allclose(spaces.flatten(space, action), row.detach().numpy(), atol=1e-6)


@pytest.mark.parametrize("name", ["discrete", "multidiscrete", "multibinary"])
def test_samples_follow_the_likelihood(name: str) -> None:
    head = head_for(name)
    x = torch.randn(1, WIDTH, dtype=torch.float64) * 0.05
    rows = head.act(x.expand(20_000, -1), deterministic=False)
    logits = head.linear(x)[0]
    sizes = {"discrete": [3], "multidiscrete": [2, 4]}.get(name)
    wanted = logits.sigmoid() if sizes is None else torch.cat([part.softmax(-1) for part in logits.split(sizes)])
    assert torch.allclose(rows.mean(0), wanted, atol=0.02)


@pytest.mark.parametrize("continuous", LOSSES)
@pytest.mark.parametrize("name", ["box", "discrete", "multidiscrete", "multibinary", "mixed"])
def test_it_learns_a_constant(name: str, continuous: ContinuousLoss) -> None:
    head, x = head_for(name, continuous, bins=41, scale=1.0), features()
    action = samples(ACTIONS[name], count=3)[2:].expand(BATCH, -1)
    adam = torch.optim.Adam(head.parameters(), lr=0.05)
    for _ in range(300):
        adam.zero_grad()
        head.loss(x, action).mean().backward()
        adam.step()
    # Half an interval of 5 / 41 for the categorical likelihood.
    assert torch.allclose(head.act(x), action, atol=0.07)


def test_first_actions_lie_in_the_middle() -> None:
    head = ActionHead(WIDTH, ACTIONS["box"], low=LOW, high=HIGH).double()
    assert ((head.act(features()) - CENTER).abs() < 0.3 * REACH).all()


def test_too_few_bins() -> None:
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        head_for("box", "categorical", bins=1)
