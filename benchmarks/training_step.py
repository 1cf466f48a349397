"""A whole training step over its matmuls alone, of the decision agent and of recurrent PPO, in one run.

    python benchmarks/training_step.py [--rounds 30] [--json FILE]

On a CPU, one thread. A step is all that training repeats: for the decision agent drawing a batch, loss, gradient,
clipping and AdamW; for PPO ten epochs over a rollout, each minibatch the same. `products` runs only the matmuls of its
linear layers and of their gradients. Every ratio is a median over interleaved rounds. Bytes are those
that autograd saves for the backward pass, without weights and the batch itself.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor, nn

from minrl.agent import Batch
from minrl.agents.decision import DecisionAgent, DecisionConfig
from minrl.agents.ppo import RecurrentPPO
from minrl.backbone import Backbone
from minrl.data.episode import Episodes, build_episodes
from minrl.data.task import Task
from minrl.kernels.matmul import input_gradient, linear
from minrl.training.optimizer import Optimizer, Schedule

OBSERVATION, ACTION, LENGTH, WIDTH = 11, 3, 1000, 128
# Rows of a batch and steps of a row; None takes whole trajectories.
DECISION = {"decision 64 x K=20": (64, 20, 20), "decision 8 x 500": (8, 500, None)}
ENVIRONMENTS, STEPS, MINIBATCH, EPOCHS = 8, 128, 256, 10
PPO = f"PPO {ENVIRONMENTS} x {STEPS}, minibatches of {MINIBATCH}"
Call = Callable[[], object]


class Plain(Backbone):
    """Backbone in torch's operations, as any subclass of `Backbone` is."""


def episodes(count: int = 50) -> Episodes:
    """Draw random values in the shape of recorded trajectories."""
    random, steps = np.random.default_rng(0), count * LENGTH
    return build_episodes(
        name="random numbers",
        observations=random.standard_normal((steps, OBSERVATION), dtype=np.float32),
        actions=random.uniform(-1, 1, (steps, ACTION)).astype(np.float32),
        rewards=random.uniform(0, 4, steps),
        final_observations=np.zeros((count, OBSERVATION), np.float32),
        lengths=np.full(count, LENGTH),
        terminated=np.zeros(count, np.bool_),
        truncated=np.ones(count, np.bool_),
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (OBSERVATION,), np.float32),
        action_space=gymnasium.spaces.Box(-1, 1, (ACTION,), np.float32),
    )


def products(module: nn.Module, rows: int, repeat: int = 1) -> Call:
    """Run the matmuls of all linear layers of `module` over `rows` rows, `repeat` times; data needs no gradient."""
    layers = [
        (name.startswith(("embed", "trunk.embed")), layer, torch.randn(rows, k), torch.randn(rows, m))
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear)
        for m, k in [layer.weight.shape]
    ]

    def run() -> None:
        with torch.no_grad():
            for _ in range(repeat):
                for is_first, layer, x, dy in layers:
                    linear(x, layer.weight, layer.bias)
                    torch.mm(dy.t(), x)
                    if not is_first:
                        input_gradient(dy, layer.weight)

    return run


def kept_bytes(loss: Callable[[], object], outside: list[Tensor]) -> int:
    """Count the bytes that autograd saves for `loss`, each storage once, without those of `outside`."""
    sizes: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        sizes[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        result = loss()  # kept alive, so that no address is reused
    del result
    known = {x.untyped_storage().data_ptr() for x in outside}
    return sum(size for place, size in sizes.items() if place not in known)


def decision(kind: type[Backbone], rows: int, steps: int, context: int | None) -> tuple[Call, DecisionAgent, float]:
    """Build a step with one kind of backbone; return it with the agent and bytes per token."""
    data = episodes()
    torch.manual_seed(0)
    agent = DecisionAgent(DecisionConfig(width=WIDTH, context=context), Task.of(data)).train()
    agent.backbone.__class__ = kind
    sampler = agent.sampler(data, batch_size=rows, length=steps, seed=0)
    optimizer = Optimizer(agent, Schedule(1e-3, 1000, 0.0, "constant"), weight_decay=1e-4, clip=0.25)
    batch = Batch.from_numpy(next(sampler))
    outside = [*agent.parameters(), *agent.buffers(), *vars(batch).values()]
    size = kept_bytes(lambda: agent.loss(batch), outside) / (rows * steps)
    return lambda: optimizer.update(Batch.from_numpy(next(sampler)), None, 0), agent, size


def ppo(kind: type[Backbone]) -> tuple[Call, RecurrentPPO, float]:
    """Build all epochs over a rollout with one kind of backbone; return them with the algorithm and bytes per token."""
    environments = DummyVecEnv([lambda: gymnasium.make("CartPole-v1") for _ in range(ENVIRONMENTS)])
    model = RecurrentPPO(
        "MlpPolicy", environments, n_steps=STEPS, batch_size=MINIBATCH, n_epochs=EPOCHS, seed=0, device="cpu",
        policy_kwargs={"width": WIDTH},
    )  # fmt: skip
    trunk: Any = model.policy.trunk
    trunk.backbone.__class__ = kind
    model.learn(ENVIRONMENTS * STEPS)
    sample = next(model.rollout_buffer.get(MINIBATCH))
    segments: Any = sample.observations
    outside = [*model.policy.parameters(), *(x for x in segments if isinstance(x, Tensor)), sample.actions]
    size = kept_bytes(lambda: model.policy.evaluate_actions(segments, sample.actions.long()), outside)
    return model.train, model, size / MINIBATCH


def interleaved(calls: dict[str, Call], rounds: int) -> dict[str, list[float]]:
    """Measure process seconds, interleaved by rounds, after two uncounted rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            begin = time.process_time()
            call()
            if number >= 2:
                seconds[name].append(time.process_time() - begin)
    return seconds


def row(ours: tuple[Call, Any, float], plain: tuple[Call, Any, float], alone: Call, rounds: int) -> dict[str, float]:
    """Format the ratios of one agent."""
    seconds = interleaved({"ours": ours[0], "plain": plain[0], "products": alone}, rounds)

    def ratio(above: str, below: str) -> float:
        return statistics.median(a / b for a, b in zip(seconds[above], seconds[below], strict=True))

    return {
        "step_over_products": ratio("ours", "products"),
        "torch_step_over_products": ratio("plain", "products"),
        "torch_step_over_step": ratio("plain", "ours"),
        "kept_bytes_per_token": ours[2],
        "torch_kept_bytes_per_token": plain[2],
    }


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    print(f"threads 1, torch {torch.__version__}; `torch`: the same step with the backbone in torch's operations")
    print(f"{'':36}{'step / products':>16}{'torch / products':>18}{'torch / step':>14}{'kept B/token':>14}{'torch':>8}")
    for name in (*DECISION, PPO):
        if name == PPO:
            ours, plain = ppo(Backbone), ppo(Plain)
            alone = products(ours[1].policy, MINIBATCH, EPOCHS * ENVIRONMENTS * STEPS // MINIBATCH)
        else:
            rows, steps, context = DECISION[name]
            ours, plain = (decision(kind, rows, steps, context) for kind in (Backbone, Plain))
            alone = products(ours[1], rows * steps)
        found = row(ours, plain, alone, arguments.rounds if name != PPO else max(3, arguments.rounds // 3))
        step, other, times, kept, other_kept = found.values()
        print(f"{name:36}{step:16.2f}{other:18.2f}{times:14.2f}{kept:14.0f}{other_kept:8.0f}", flush=True)
        results[name] = found
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
