"""Learning with a privileged critic, against the same settings without it, on the same seeds.

    python benchmarks/privileged_critic.py

Protocol, fixed before any of these returns was seen: two tasks, `minrl/CartPoleNoVel-v1` as it is and flickering, with
half of the actor's observations blank; there the state, which decides the rest of the return, takes the longest to
infer. Seeds 100 to 104 of each of four critics: with the state or the actor's observation, without memory or with the
actor's cell. All have the same environments, actors and settings of recurrent PPO. The measure is the mean over
training of the mean return of the last 100 episodes, sampled actions. The question is whether the critic that sees the
state, without memory, beats the one that sees what the actor sees, with memory: it does if the 95 % confidence interval
of the mean difference over seeds (Student's t) lies above 0. All other columns are for the reader.

A second question was fixed after those returns and before any of its own: whether the same holds for the same two
critics on the flickering task, on seeds 105 to 119 alone.

Each run is a row of `privileged_critic.json` and is not repeated, so the command can be interrupted and resumed; the
table, `privileged_critic.md`, is written after each. One thread, CPU seconds of the process.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from action_masks import complete
from scipy import stats
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from minrl.agents.ppo import RecurrentPPO
from minrl.system.files import replacing

SEEDS, SECOND_SEEDS = range(100, 105), range(105, 120)
ENVIRONMENT, STEPS = "minrl.envs:minrl/CartPoleNoVel-v1", 40_960
FLICKERING = "no velocities, flickering"
TASKS = {"no velocities": 0.0, FLICKERING: 0.5}  # share of the actor's observations that are blank
STATE, SEEN = "state, no memory", "observation, memory"
CRITICS: dict[str, dict[str, Any]] = {
    STATE: {"critic_keys": ["state"], "critic": {"cell": None, "keys": ["state"]}},
    "state, memory": {"critic_keys": ["state"], "critic": {"keys": ["state"]}},
    SEEN: {"critic": {}},
    "observation, no memory": {"critic": {"cell": None}},
}
TRUNK = {"width": 32, "depth": 1}
PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 6, "learning_rate": 2e-3, "gamma": 0.98}


class Flickering(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Wrapper that blanks the key "observation" with a `probability`, and shows the state as it is."""

    def __init__(self, env: gymnasium.Env[Any, Any], probability: float) -> None:
        super().__init__(env)
        self.probability = probability

    def observation(self, observation: dict[str, Any]) -> dict[str, Any]:
        """Return the observation, its first part blank or not."""
        if self.np_random.random() < self.probability:
            observation = observation | {"observation": np.zeros_like(observation["observation"])}
        return observation


class Curve(BaseCallback):
    """Mean return of the last 100 episodes after each rollout."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[float] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        episodes = self.model.ep_info_buffer or []
        self.returns.append(float(np.mean([episode["r"] for episode in episodes] or [0.0])))


def train(task: str, critic: str, seed: int, steps: int = STEPS) -> dict[str, float]:
    """Train one policy; return its mean return over training and at its end."""
    options = CRITICS[critic]

    def shown(env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        env = Flickering(env, TASKS[task])
        return env if "critic_keys" in options else gymnasium.wrappers.FilterObservation(env, ["observation"])

    env = make_vec_env(ENVIRONMENT, 8, seed=seed, env_kwargs={"state": True}, wrapper_class=shown)
    kwargs = TRUNK | options | {"critic": {"width": 32} | options["critic"]}
    curve = Curve()
    RecurrentPPO("MultiInputPolicy", env, policy_kwargs=kwargs, seed=seed, device="cpu", **PPO).learn(steps, curve)
    return {"over training": float(np.mean(curve.returns)), "last 100 episodes": curve.returns[-1]}


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the finished rows as Markdown."""
    text = (
        f"`minrl/CartPoleNoVel-v1`, {STEPS:,} steps, returns of sampled actions (at most 500); mean ± standard error "
        "over seeds (how many in brackets), and the difference from the critic of observations with a memory, on the "
        "same seeds, with its 95 % confidence interval.\n\n"
        "| task | critic sees | over training | difference | last 100 episodes | CPU seconds |\n"
        "|---|---|---|---|---|---|\n"
    )
    for task, asked in [*((task, SEEDS) for task in TASKS), (FLICKERING, SECOND_SEEDS)]:
        for critic in CRITICS:
            seeds = [seed for seed in asked if f"{task}/{critic}/{seed}" in rows]
            if len(seeds) < 2:
                continue
            found = [rows[f"{task}/{critic}/{seed}"] for seed in seeds]
            cells = [
                f"{np.mean(values):.1f} ± {stats.sem(values):.1f} ({len(seeds)})"
                for name in ("over training", "last 100 episodes", "cpu_seconds")
                for values in [[row[name] for row in found]]
            ]
            cells.insert(1, difference(task, critic, rows, asked))
            name = f"{task}, seeds {asked[0]} to {asked[-1]}"
            text += f"| {name} | {critic} | {' | '.join(cells)} |\n"
    return text


def difference(task: str, critic: str, rows: dict[str, dict[str, float]], seeds: range) -> str:
    """Return the mean difference of returns over training from the critic that sees what the actor sees."""
    both = [
        [rows[f"{task}/{name}/{seed}"]["over training"] for name in (critic, SEEN)]
        for seed in seeds
        if all(f"{task}/{name}/{seed}" in rows for name in (critic, SEEN))
    ]
    if critic == SEEN or len(both) < 2:
        return ""
    gains = np.subtract(*np.transpose(both))
    low, high = stats.t.interval(0.95, len(gains) - 1, gains.mean(), stats.sem(gains))
    return f"{gains.mean():+.1f} ({low:+.1f} to {high:+.1f})"


def main() -> int:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=Path(__file__).with_suffix(".json"))
    file = parser.parse_args().rows
    torch.set_num_threads(1)
    asked = [(critic, seed, task) for seed in SEEDS for critic in (STATE, SEEN) for task in TASKS]
    others = [(critic, seed, task) for seed in SEEDS for critic in CRITICS for task in TASKS]
    second = [(critic, seed, FLICKERING) for seed in SECOND_SEEDS for critic in (STATE, SEEN)]
    for critic, seed, task in [*asked, *others, *second]:
        rows = complete(file, f"{task}/{critic}/{seed}", partial(train, task, critic, seed))
        with replacing(file.with_suffix(".md")) as temporary:
            temporary.write_text(table(rows), encoding="utf-8")
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
