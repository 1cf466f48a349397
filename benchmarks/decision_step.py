"""A training step and an action of the decision agent against transformers' DecisionTransformerModel, in one run.

    python benchmarks/decision_step.py [--rounds 20] [--json FILE]

Both get the same batch (B=64, K=20, 11 observations, 3 actions, width 128, 3 layers) in interleaved rounds; every
figure is a ratio of medians. The peer acts from a window of 20 and of 256 steps; ours as `act` and, from arrays to
arrays, through `Player`. The step of the backbone alone is compared with the same blocks by torch's own operations,
one after another. It prints the thread count, and memory and time along an episode of 10,000 steps.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import DecisionTransformerModel

from minrl.agent import parameter_count
from minrl.agents.cli.bench_decision import (
    OBSERVATION,
    acting_step,
    make_agent,
    make_batch,
    make_peer,
    peer_acting_step,
    peer_training_step,
    training_step,
)
from minrl.agents.decision import DecisionAgent
from minrl.bench.measure import Call
from minrl.bench.results import Settings
from minrl.play import Player
from minrl.scan import without_fused_kernels


def playing_step(agent: DecisionAgent, rows: int = 1) -> Call:
    """Return a call that takes one action through `Player`, from environment arrays to an array."""
    player = Player(agent, rows)
    observations = np.random.default_rng(0).standard_normal((rows, OBSERVATION)).astype(np.float32)
    rewards, starts = np.zeros(rows), np.zeros(rows, dtype=np.bool_)
    return lambda: discard(player.act(observations, rewards, starts))


def backbone_step(agent: DecisionAgent, rows: int = 1) -> Call:
    """Return one step of the backbone alone."""
    backbone = agent.eval().backbone
    x, state = torch.randn(rows, backbone.width), backbone.initial_state(rows)

    def step() -> None:
        nonlocal state
        with torch.inference_mode():
            _, state = backbone.step(x, state)

    return step


def eager_backbone_step(agent: DecisionAgent, rows: int = 1) -> Call:
    """Return the same step in torch operations, block after block."""
    backbone: Any = agent.eval().backbone
    sizes = [block.state_size for block in backbone.blocks]
    x, state = torch.randn(rows, backbone.width), backbone.initial_state(rows)

    def step() -> None:
        nonlocal state
        with torch.inference_mode(), without_fused_kernels():
            y, lasts = x, []
            for block, memory in zip(backbone.blocks, state.split(sizes, dim=1), strict=True):
                y, last = block.step(y, memory)
                lasts.append(last)
            discard(backbone.norm(y))
            state = torch.cat(lasts, dim=1)

    return step


def acting_ratios(agent: DecisionAgent, peer: DecisionTransformerModel, rows: int, rounds: int) -> dict[str, float]:
    """Measure the speedup of acting in `rows` environments over the peer, and of our backbone over torch operations."""
    steps = {
        "act": acting_step(agent, rows),
        "player": playing_step(agent, rows),
        "backbone": backbone_step(agent, rows),
        "eager": eager_backbone_step(agent, rows),
        "K20": peer_acting_step(peer, 20, rows),
    }
    if rows == 1:
        steps["K256"] = peer_acting_step(peer, 256, rows)
    seconds = interleaved(steps, rounds, repeat=max(2, 20 // rows))
    ratios = {}
    for peers in seconds.keys() & {"K20", "K256"}:
        ratios[f"action_times_faster_B{rows}_{peers}"] = seconds[peers] / seconds["act"]
        ratios[f"player_times_faster_B{rows}_{peers}"] = seconds[peers] / seconds["player"]
    ratios[f"backbone_step_times_faster_than_eager_B{rows}"] = seconds["eager"] / seconds["backbone"]
    return dict(sorted(ratios.items()))


def discard(value: Any) -> None:
    """Take a result and do nothing with it."""


def interleaved(steps: dict[str, Call], rounds: int, repeat: int = 1) -> dict[str, float]:
    """Measure median seconds, interleaved by rounds, after two uncounted rounds.

    If a step is repeated, its first run does not count, as it finds the caches filled by another.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    for number in range(rounds + 2):
        for name, step in steps.items():
            if repeat > 1:
                step()
            begin = time.process_time()
            for _ in range(repeat):
                step()
            if number >= 2:
                times[name].append((time.process_time() - begin) / repeat)
    return {name: statistics.median(values) for name, values in times.items()}


def long_episode(agent: DecisionAgent, steps: int = 10_000) -> dict[str, float]:
    """Measure the time of the last thousand actions over that of the first, and the growth of peak memory (MiB).

    Each thousand is represented by its quickest median of a hundred, as the machine's speed drifts within seconds.
    """
    step = acting_step(agent, 1)
    times, peaks = [], []
    for _ in range(steps):
        begin = time.process_time()
        step()
        times.append(time.process_time() - begin)
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    medians = [statistics.median(times[at : at + 100]) for at in range(0, steps, 100)]
    return {"last_over_first": min(medians[-10:]) / min(medians[:10]), "peak_memory_growth_mib": peaks[-1] - peaks[999]}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    settings = Settings()
    agent, peer = make_agent(settings), make_peer(settings)
    lengths = {20: 64, 100: 13, 1000: 2}
    steps = {f"K={k}": training_step(agent, make_batch(settings, rows, k)) for k, rows in lengths.items()}
    steps["peer"] = peer_training_step(peer, make_batch(settings, 64, 20))
    training = interleaved(steps, arguments.rounds)
    acting: dict[str, float] = {}
    for rows, rounds in ((1, arguments.rounds), (8, arguments.rounds), (64, arguments.rounds // 4 + 1)):
        acting |= acting_ratios(agent, peer, rows, rounds)
    per_second = {k: rows * k / training[f"K={k}"] for k, rows in lengths.items()}
    result: dict[str, Any] = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": parameter_count(agent),
        "peer_parameters": parameter_count(peer),
        "training_step_times_faster": training["peer"] / training["K=20"],
        **{f"steps_per_second_K{k}_over_K20": value / per_second[20] for k, value in per_second.items() if k != 20},
        **acting,
        **{f"episode_of_10000_{name}": value for name, value in long_episode(agent).items()},
    }
    for name, value in result.items():
        print(f"{name:<44} {value:.2f}" if isinstance(value, float) else f"{name:<44} {value}")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
