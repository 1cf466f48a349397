"""POPGym's base environments in their Easy form, by recurrent PPO and PPO without memory: a table of returns.

    python benchmarks/popgym_table.py --out runs/popgym [--seeds 0 1 2] [--steps 1000000]

Observations are POPGym's with its own wrappers for the previous action and the first step, flattened. All methods have
one setting, fixed before any run: that of `configs/online/repeat_previous.toml` with rollouts of 128 steps, as episodes
take up to 200, and 512 steps a minibatch. Runs in `--out` or in the JSON file beside the table are skipped, so
that the command resumes, and a second process may do other seeds in the same folder. The table is brought up to date
after each run.

Shapes: B environments.
"""

import argparse
import json
import sys
import time
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from popgym import envs
from popgym.wrappers import Antialias, Flatten, PreviousAction
from ppo_peer import decaying, played
from ppo_table import FIRST_EPISODE, HERE, VERSIONS, replace, summary
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack

from minrl.agents.ppo import RecurrentPPO

SETTINGS: dict[str, Any] = {"n_steps": 128, "batch_size": 512, "n_epochs": 10, "ent_coef": 0.01, "gamma": 0.99}
RATE, N_ENVS, EPISODES = 1e-3, 16, 100
CELLS = {"minGRU": "mingru", "GRU": "gru", "LSTM": "lstm"}
FRAMES = {"SB3 PPO": 1, "SB3 PPO, 4 frames": 4}
METHODS = (*CELLS, *FRAMES)
Key = tuple[str, str, int]


@cache
def tasks() -> dict[str, type[gymnasium.Env[Any, Any]]]:
    """Return POPGym's Easy environments by name; those of mazes need mazelib."""
    return {cls.__name__: cls for cls in envs.ALL_EASY}


def environments(task: str, count: int, frames: int) -> VecEnv:
    """Create `count` environments, with stacked frames if there are more than one."""
    made = make_vec_env(lambda: Flatten(Antialias(PreviousAction(tasks()[task]()))), count)
    return VecFrameStack(made, frames) if frames > 1 else made


class Best(BaseCallback):
    """Callback that keeps the largest mean return of the last 100 episodes: POPGym's MMER is its mean over seeds."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = -np.inf

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        returns = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if returns:
            self.largest = max(self.largest, float(np.mean(returns)))


def run(task: str, method: str, seed: int, steps: int) -> dict[str, Any]:
    """Train and evaluate one policy."""
    frames = FRAMES.get(method, 1)
    training = environments(task, N_ENVS, frames)
    settings = {**SETTINGS, "learning_rate": decaying(RATE), "seed": seed, "device": "cpu"}
    if method in CELLS:
        options = {"cell": CELLS[method], "width": 64}
        model: Any = RecurrentPPO("MlpPolicy", training, policy_kwargs=options, **settings)
    else:
        model = PPO("MlpPolicy", training, **settings)
    best, begin = Best(), time.process_time()
    model.learn(steps, callback=best)
    seconds = time.process_time() - begin
    tests = environments(task, EPISODES, frames)
    tests.seed(FIRST_EPISODE)
    returns = played(model, tests)
    numbers = {"task": task, "method": method, "seed": seed, "steps": steps, "mean_return": float(returns.mean())}
    return numbers | {"best_mean_return": best.largest, "cpu_seconds": seconds, "returns": returns.round(4).tolist()}


def finished(out: Path, raw: Path, steps: int) -> dict[Key, dict[str, Any]]:
    """Return the finished runs of that length, by task, method and seed."""
    runs = json.loads(raw.read_text(encoding="utf-8")) if raw.exists() else []
    runs += [json.loads(path.read_text(encoding="utf-8")) for path in out.glob("*/*.json")]
    named = {(run["task"], run["method"], run["seed"]): run for run in runs if run["steps"] == steps}
    return dict(sorted(named.items()))


def table(runs: list[dict[str, Any]], name: str, decimals: int) -> str:
    """Format as Markdown: a row for each environment and one of their means, a column for each method."""
    lines = [f"| environment | {' | '.join(METHODS)} |", "|---" * (len(METHODS) + 1) + "|"]
    found = {
        task: [[r[name] for r in runs if (r["task"], r["method"]) == (task, m)] for m in METHODS] for task in tasks()
    }
    for task, of_task in found.items():
        if any(of_task):
            lines.append(f"| {task} | {' | '.join(summary(values, decimals) for values in of_task)} |")
    whole = [of_task for of_task in found.values() if all(of_task)]
    if whole:
        means = [np.mean([np.mean(of_task[m]) for of_task in whole]) for m in range(len(METHODS))]
        cells = " | ".join(f"{mean:.{decimals}f}" for mean in means)
        lines.append(f"| mean of {len(whole)} with all methods | {cells} |")
    return "\n".join(lines) + "\n"


def report(runs: list[dict[str, Any]]) -> str:
    """Format the tables with their protocol."""
    versions = ", ".join(f"{name} {version(name)}" for name in (*VERSIONS, "popgym"))
    return (
        f"# POPGym, {len(runs)} runs of {runs[0]['steps']:,} steps\n\n"
        f"Return of the last policy over {EPISODES} numbered episodes, most likely actions, mean ± standard error over "
        f"seeds (how many in brackets):\n\n{table(runs, 'mean_return', 2)}\n"
        "POPGym's own measure, the largest mean return of 100 training episodes in a run, mean over seeds:\n\n"
        f"{table(runs, 'best_mean_return', 2)}\n"
        f"CPU seconds of acting and learning on one thread:\n\n{table(runs, 'cpu_seconds', 0)}\n"
        f"One setting for all, fixed before any run: {N_ENVS} environments, {SETTINGS}, learning rate {RATE} falling "
        "to 0, 64 units, two layers. minGRU's, GRU's and LSTM's blocks have a convolution over four steps. "
        "POPGym (Morad et al., ICLR 2023, arXiv 2303.01859) trains for 15,000,000 steps with RLlib's PPO. "
        f"{versions}.\n\nWritten by `python benchmarks/popgym_table.py`, which resumes.\n"
    )


def main() -> int:
    """Complete the runs, every first seed before a second, and write the table of all that are finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/popgym"))
    parser.add_argument("--table", type=Path, default=HERE / "popgym_table.md")
    parser.add_argument("--tasks", nargs="+", default=list(tasks()), choices=list(tasks()))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=1_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    steps, out, raw = arguments.steps, arguments.out, arguments.table.with_suffix(".json")
    for seed in arguments.seeds:
        for task in arguments.tasks:
            for method in arguments.methods:
                if (task, method, seed) in finished(out, raw, steps):
                    continue
                done = run(task, method, seed, steps)
                (out / task).mkdir(parents=True, exist_ok=True)
                replace(out / task / f"{method.replace(' ', '_')}-{seed}.json", json.dumps(done) + "\n")
                runs = list(finished(out, raw, steps).values())
                replace(raw, "[\n" + ",\n".join(map(json.dumps, runs)) + "\n]\n")
                replace(arguments.table, report(runs))
                name = f"{task:<28} {method:<18} seed {seed}"
                print(f"{name}: {done['mean_return']:6.3f} in {done['cpu_seconds']:6.1f} CPU s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
