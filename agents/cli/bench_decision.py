"""Benchmark of the decision agent against transformers' DecisionTransformerModel: training step and action.

Both have 11 observations, 3 actions, width 128 and 3 layers, as on Hopper.

Shapes: B batch, K steps of the peer's window.
"""

from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch

from minrl.agent import Batch, Moment
from minrl.bench.machine import missing, version
from minrl.bench.measure import Call, Times
from minrl.bench.results import Measurement, Ratio, Settings, Skipped, speedup
from minrl.data.task import Task
from minrl.training.optimizer import Optimizer, Schedule

from ..decision import DecisionAgent, DecisionConfig

OBSERVATION, ACTION, WIDTH, DEPTH = 11, 3, 128, 3
PEER = "DecisionTransformerModel"
# Rows by their length: about as many steps as 64 windows of 20.
ROWS = {20: 64, 1000: 1}


def acting(settings: Settings) -> Iterator[Measurement]:
    """Measure a whole action, from the observation to the action and the next state."""
    settings.first_threads()
    if reason := missing("transformers"):
        yield Skipped("latency", f"whole action against {PEER}", reason)
        return
    agent, peer = make_agent(settings), make_peer(settings)
    windows = {1: (20, 256), 8: (20,), 64: (20,)}
    for batch, lengths in list(windows.items())[: 1 if settings.quick else None]:
        calls = {"ours": acting_step(agent, batch)}
        calls |= {str(steps): peer_acting_step(peer, steps, batch) for steps in lengths}
        times = settings.times(calls, 20, budget=4.0)
        for steps in lengths:
            goal = {20: ">= 25", 256: ">= 300"}[steps] if batch == 1 and not settings.on_gpu else ""
            yield speedup(
                settings, times, "ours", str(steps),
                group="latency", what="whole action of the decision agent (minGRU)", shape=f"B={batch}",
                peer=f"{PEER}, K={steps}, {version('transformers')}", goal=goal,
            )  # fmt: skip


def training(settings: Settings) -> Iterator[Measurement]:
    """Measure a whole training step: loss, gradient, clipping, AdamW; the same batch on both sides."""
    threads = settings.first_threads()
    what = "training step of the decision agent (minGRU)"
    agent = make_agent(settings)
    calls = {f"K={steps}": training_step(agent, make_batch(settings, rows, steps)) for steps, rows in ROWS.items()}
    reason = missing("transformers")
    if reason:
        yield Skipped("training", f"{what} against {PEER}", reason)
    else:
        calls["peer"] = peer_training_step(make_peer(settings), make_batch(settings, ROWS[20], 20))
    times = settings.times(calls, 20)
    if not reason:
        yield speedup(
            settings, times, "K=20", "peer",
            group="training", what=what, shape=f"B={ROWS[20]}, K=20", peer=f"{PEER}, {version('transformers')}",
        )  # fmt: skip
    yield _long_over_short(settings, times, threads)


def _long_over_short(settings: Settings, times: dict[str, Times], threads: int) -> Ratio:
    short, long = times["K=20"], times["K=1000"]
    steps = ROWS[20] * 20 / (ROWS[1000] * 1000)
    return Ratio(
        group="training",
        what="training on a step of data, trajectories of 1000 steps",
        shape=f"B={ROWS[1000]}, T=1000",
        threads=threads,
        value=steps * long.minimum / short.minimum,
        unit="÷ cost at K=20",
        peer=f"itself, B={ROWS[20]}, windows of 20 steps",
        median=steps * long.median / short.median,
        clock=settings.clock().name,
        times={"ours": long, "peer": short},
    )


def make_agent(settings: Settings) -> DecisionAgent:
    """Build a minGRU agent with one token per step, as `minrl train decision` does."""
    bound = np.full(ACTION, 1.0, dtype=np.float32)
    task = Task(
        dataset="random values",
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32),
        action_space=gymnasium.spaces.Box(-bound, bound),
        action_low=(-1.0,) * ACTION,
        action_high=(1.0,) * ACTION,
        best_return=3600.0,
        return_scale=1000.0,
        longest_episode=1000,
        environment=None,
        reference_scores=None,
    )
    return DecisionAgent(DecisionConfig(width=WIDTH, depth=DEPTH), task).to(settings.device)


def make_peer(settings: Settings) -> Any:
    """Build the Decision Transformer in its published size (arXiv 2106.01345, table 9)."""
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    config = DecisionTransformerConfig(
        state_dim=OBSERVATION,
        act_dim=ACTION,
        hidden_size=WIDTH,
        max_ep_len=1000,
        n_layer=DEPTH,
        n_head=1,
        n_inner=4 * WIDTH,
        activation_function="relu",
        n_positions=1024,
        resid_pdrop=0.1,
        attn_pdrop=0.1,
        embd_pdrop=0.1,
        bos_token_id=None,
        eos_token_id=None,
    )
    model: Any = DecisionTransformerModel(config)
    return model.to(settings.device)


def make_batch(settings: Settings, rows: int, steps: int) -> Batch:
    """Draw a batch of random values; an episode starts in each row."""
    device = settings.device
    reset = torch.zeros(rows, steps, dtype=torch.bool, device=device)
    reset[:, 0] = True
    return Batch(
        observations=torch.randn(rows, steps, OBSERVATION, device=device),
        actions=torch.rand(rows, steps, ACTION, device=device) * 2 - 1,
        previous_actions=torch.rand(rows, steps, ACTION, device=device) * 2 - 1,
        returns_to_go=torch.rand(rows, steps, device=device) * 3000,
        time_steps=torch.arange(steps, device=device).expand(rows, steps).contiguous(),
        reset=reset,
        mask=torch.ones(rows, steps, dtype=torch.bool, device=device),
    )


def training_step(agent: DecisionAgent, batch: Batch) -> Call:
    """Return a step of our training loop."""
    optimizer = Optimizer(agent.train(), Schedule(1e-4, 1000, 0.0, "constant"), weight_decay=1e-4, clip=0.25)
    return lambda: optimizer.update(batch, None, 0)


def peer_training_step(model: Any, batch: Batch) -> Call:
    """Return a training step of the peer, with a fused optimizer like ours."""
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-4, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        (_predicted(model, batch) - batch.actions).square().mean().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        optimizer.step()

    return step


def acting_step(agent: DecisionAgent, rows: int) -> Call:
    """Return a call that takes one action and carries the state."""
    agent.eval()
    state = agent.initial_state(rows)
    start = torch.zeros(rows, dtype=torch.bool, device=state.device)
    observation = torch.randn(rows, OBSERVATION, device=state.device)
    moment = Moment(observation, torch.zeros(rows, device=state.device), start)

    def step() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = agent.act(moment, state)

    return step


def peer_acting_step(model: Any, steps: int, rows: int) -> Call:
    """Return a call that takes one action of the peer over its window of the last `steps` steps."""
    model.eval()
    window = make_batch(Settings(next(model.parameters()).device), rows, steps)

    def step() -> None:
        with torch.inference_mode():
            _predicted(model, window)[:, -1]

    return step


def _predicted(model: Any, batch: Batch) -> torch.Tensor:
    out = model(
        states=batch.observations,
        actions=batch.actions,
        rewards=None,
        returns_to_go=batch.returns_to_go.unsqueeze(-1) / 1000,
        timesteps=batch.time_steps,
        attention_mask=batch.mask.long(),
    )
    predicted: torch.Tensor = out.action_preds
    return predicted
