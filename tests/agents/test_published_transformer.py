"""The shipped Decision Transformer against `transformers.DecisionTransformerModel`, with the same weights."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from worlds import drift_episodes

from minrl.agent import Batch, Moment
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.data.task import Task
from minrl.system.config import read_toml
from minrl.training.config import TrainConfig

PARTS = {"decision": DecisionConfig, "train": TrainConfig}
K = 20


@pytest.fixture(scope="module")
def pair() -> tuple[DecisionAgent, Any]:
    """Return an agent of the shipped config and the published network with its weights, both in float64."""
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    torch.manual_seed(1)
    settings = read_toml("decision_transformer", PARTS)["decision"]
    task = Task.of(drift_episodes("box"))
    agent = DecisionAgent(DecisionConfig(**settings), task).double().eval()
    sizes = {"state_dim": task.observation_size, "act_dim": task.action_size, "max_ep_len": task.longest_episode}
    published = DecisionTransformerModel(DecisionTransformerConfig(**sizes, bos_token_id=0, eos_token_id=0))
    published = published.double().eval()
    for parameter in published.parameters():  # norms and biases too, so that each one is compared
        nn.init.normal_(parameter, std=0.1)
    _copy(published, agent)
    return agent, published


def test_network_equals_the_published_one(pair: tuple[DecisionAgent, Any]) -> None:
    agent, published = pair
    batch = _windows(agent)
    given = agent.predict(batch)
    expected = _published(published, agent, batch)
    assert (given - expected)[batch.mask].abs().max() < 1e-9


def test_gradients_equal_the_published_ones(pair: tuple[DecisionAgent, Any]) -> None:
    agent, published = pair
    batch = _windows(agent)
    agent.loss(batch).total.backward()
    _, reach = _bounds(agent)
    error = (_published(published, agent, batch) - batch.actions) / reach
    error[batch.mask].square().mean(-1).sum().backward()
    for ours, theirs, transposed in _pairs(published, agent):
        assert ours.grad is not None
        assert theirs.grad is not None
        expected = theirs.grad.t() if transposed else theirs.grad
        assert (ours.grad - expected).abs().max() <= 1e-8 * max(1.0, float(expected.abs().max()))


@torch.no_grad()
def test_acting_equals_the_published_window_of_20_steps(pair: tuple[DecisionAgent, Any]) -> None:
    agent, published = pair
    steps, target = 27, 3.0
    observations = torch.randn(steps, 1, agent.task.observation_size, dtype=torch.float64)
    state, actions, returns, reward = agent.initial_state(1, target), [], [target], torch.zeros(1, dtype=torch.float64)
    for t in range(steps):
        start = torch.tensor([t == 0])
        moment = Moment(observation=observations[t], reward=reward, episode_start=start)
        action, state = agent.act(moment, state)
        first = max(0, t + 1 - K)
        center, reach = _bounds(agent)
        taken = (torch.cat([*actions[first:], torch.zeros_like(action)]) - center) / reach
        seen = published(
            states=agent.normalizer(observations[first : t + 1, 0])[None],
            actions=taken[None],
            rewards=None,
            returns_to_go=torch.tensor(returns[first:], dtype=torch.float64)[None, :, None] / agent.return_scale,
            timesteps=torch.arange(first, t + 1)[None].clamp_max(agent.task.longest_episode - 1),
        )
        assert (action - center - reach * seen.action_preds[:, -1]).abs().max() < 1e-9
        actions.append(action)
        reward = torch.randn(1, dtype=torch.float64)
        returns.append(returns[-1] - float(reward))


def test_dropout_and_initial_weights_are_the_published_ones() -> None:
    settings = read_toml("decision_transformer", PARTS)["decision"]
    agent = DecisionAgent(DecisionConfig(**settings), Task.of(drift_episodes("box")))
    rates = [module.p for module in agent.modules() if isinstance(module, nn.Dropout)]
    blocks: Any = agent.backbone.blocks
    assert set(rates) == {0.1}
    assert {block.cell.attention_dropout for block in blocks} == {0.1}
    for layer in agent.backbone.modules():
        if isinstance(layer, nn.Linear):
            assert abs(float(layer.weight.detach().std()) - 0.02) < 0.001
            assert not layer.bias.any()


def _windows(agent: DecisionAgent) -> Batch:
    """Return windows, some of them padded, in float64."""
    sampler = agent.sampler(drift_episodes("box"), batch_size=6, length=K, seed=3)
    batch = Batch.from_numpy(next(iter(sampler))).to(torch.float64)
    assert not batch.mask.all()
    return batch


def _published(published: Any, agent: DecisionAgent, batch: Batch) -> Tensor:
    """Return the actions (B, T, A) that the published network predicts; it acts in [-1, 1]."""
    center, reach = _bounds(agent)
    found = published(
        states=agent.normalizer(batch.observations),
        actions=(batch.actions - center) / reach,
        rewards=None,
        returns_to_go=batch.returns_to_go[..., None] / agent.return_scale,
        timesteps=batch.time_steps,
        attention_mask=batch.mask.long(),
    )
    actions: Tensor = center + reach * found.action_preds
    return actions


def _bounds(agent: DecisionAgent) -> tuple[Tensor, Tensor]:
    """Return the middle and half the width of the actions' bounds."""
    low, high = (bound.double() for bound in agent.task.action_limits())
    return (low + high) / 2, (high - low) / 2


def _pairs(published: Any, agent: DecisionAgent) -> Iterator[tuple[nn.Parameter, nn.Parameter, bool]]:
    """List our parameters beside the published ones, and whether theirs is transposed."""
    encoder, heads = published.encoder, agent.head
    modules = [
        (agent.embed_return, published.embed_return),
        (agent.embed_observation, published.embed_state),
        (agent.embed_action, published.embed_action),
        (agent.embed_norm, published.embed_ln),
        (heads.linear, published.predict_action[0]),
        (agent.backbone.norm, encoder.ln_f),
    ]
    blocks: Any = agent.backbone.blocks
    for block, other in zip(blocks, encoder.h, strict=True):
        modules += [
            (block.norm, other.ln_1),
            (block.cell.qkv, other.attn.c_attn),
            (block.cell.out, other.attn.c_proj),
            (block.mlp[0], other.ln_2),
            (block.mlp[1], other.mlp.c_fc),
            (block.mlp[3], other.mlp.c_proj),
        ]
    assert agent.embed_time is not None
    yield agent.embed_time.weight, published.embed_timestep.weight, False
    for ours, theirs in modules:
        yield ours.weight, theirs.weight, type(theirs).__name__ == "Conv1D"
        yield ours.bias, theirs.bias, False


def _copy(published: Any, agent: DecisionAgent) -> None:
    """Give the agent the published network's weights.

    The position embedding of its GPT-2 is that of position 0 for every token: set to 0, as no order lies in it.
    """
    with torch.no_grad():
        published.encoder.wpe.weight.zero_()
        for ours, theirs, transposed in _pairs(published, agent):
            ours.copy_(theirs.t() if transposed else theirs)
    assert sum(p.numel() for p in agent.parameters()) == sum(ours.numel() for ours, *_ in _pairs(published, agent))
