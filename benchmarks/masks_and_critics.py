"""Learning with action masks, and with a privileged critic, against the same settings without them.

    python benchmarks/masks_and_critics.py masks
    python benchmarks/masks_and_critics.py critic

Each run of a seed is a row of a JSON file beside this program and is not repeated, so the command can be interrupted
and resumed; then the table, a Markdown file of the same name, is written from all rows. One thread, CPU seconds of the
process.

masks: `minrl/MaskedRecall-v0`: recurrent PPO with and without masks, and sb3-contrib's MaskablePPO without memory.
critic: `minrl/CartPoleNoVel-v1`: a critic that sees the velocities and has no memory, and one that sees what the actor
sees, with a memory of its own.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from minrl.agents.ppo import RecurrentPPO
from minrl.system.files import replacing

HERE = Path(__file__).parent
SEEDS = range(3)
EPISODES = 100
RECALL = "minrl.envs:minrl/MaskedRecall-v0"
RECALL_STEPS = 12_288
PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 6, "learning_rate": 2e-3, "gamma": 0.5}
TRUNK = {"width": 32, "depth": 1}
CARTPOLE, CARTPOLE_STEPS = "minrl.envs:minrl/CartPoleNoVel-v1", 40_960
CARTPOLE_PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 6, "learning_rate": 2e-3, "gamma": 0.98}


def masks(kind: str, seed: int) -> dict[str, float]:
    """Train in MaskedRecall; return the mean return of masked and of unmasked evaluation episodes."""
    env = make_vec_env(RECALL, 8, seed=seed, env_kwargs={"symbols": 40})
    options: dict[str, Any] = PPO | {"ent_coef": 0.01, "seed": seed, "device": "cpu"}
    if kind == "MaskablePPO, no memory":
        model: Any = MaskablePPO("MlpPolicy", env, **options).learn(RECALL_STEPS)
    else:
        model = RecurrentPPO("MlpPolicy", env, policy_kwargs=TRUNK, **options)
        model.learn(RECALL_STEPS, use_masking=kind == "masks")
    world = Monitor(env.envs[0].unwrapped)
    world.reset(seed=10_000)
    masked = evaluate_policy(model, world, EPISODES, warn=False)[0]
    world.reset(seed=10_000)
    return {"masked": float(masked), "unmasked": float(unmasked_return(model, world))}


def unmasked_return(model: Any, world: Any) -> float:
    """Return the mean return of episodes in which `predict` gets no masks."""
    returns = []
    for episode in range(EPISODES):
        seen, _ = world.reset(seed=10_000 + episode)
        state, over, total, start = None, False, 0.0, True
        while not over:
            action, state = model.predict(np.array([seen]), state, np.array([start]), deterministic=True)
            seen, reward, terminated, truncated, _ = world.step(action[0])
            over, start, total = terminated or truncated, False, total + reward
        returns.append(total)
    return float(np.mean(returns))


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


def critic(kind: str, seed: int) -> dict[str, float]:
    """Train in CartPole without velocities; return the mean return over training and at its end."""
    sees = kind == "critic sees the state, no memory"
    env = make_vec_env(CARTPOLE, 8, seed=seed, env_kwargs={"state": sees})
    own: dict[str, Any] = {"critic": {"width": 32}}
    if sees:
        own = {"critic_keys": ["state"], "critic": {"cell": None, "width": 32}}
    curve, policy = Curve(), "MultiInputPolicy" if sees else "MlpPolicy"
    model = RecurrentPPO(policy, env, policy_kwargs=TRUNK | own, seed=seed, device="cpu", **CARTPOLE_PPO)
    model.learn(CARTPOLE_STEPS, callback=curve)
    return {"mean over training": float(np.mean(curve.returns)), "last 100 episodes": curve.returns[-1]}


EXPERIMENTS: dict[str, tuple[Callable[[str, int], dict[str, float]], list[str], str]] = {
    "masks": (
        masks,
        ["masks", "no masks", "MaskablePPO, no memory"],
        f"`minrl/MaskedRecall-v0` with 40 symbols, {RECALL_STEPS:,} steps, {EPISODES} episodes after training; at most "
        "30, a policy without memory gets about 7.5 with masks",
    ),
    "critic": (
        critic,
        ["critic sees the state, no memory", "critic sees what the actor sees"],
        f"`minrl/CartPoleNoVel-v1`, {CARTPOLE_STEPS:,} steps, returns of sampled actions (at most 500)",
    ),
}


def main() -> None:
    """Run what is missing and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", choices=EXPERIMENTS)
    name = parser.parse_args().experiment
    run, kinds, about = EXPERIMENTS[name]
    torch.set_num_threads(1)
    file = HERE / f"{'action_masks' if name == 'masks' else 'privileged_critic'}.json"
    rows: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for seed in SEEDS:
        for kind in kinds:
            if f"{kind}/{seed}" in rows:
                continue
            begin = time.process_time()
            found = run(kind, seed)
            rows[f"{kind}/{seed}"] = found | {"cpu_seconds": round(time.process_time() - begin, 1)}
            with replacing(file) as temporary:
                temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
            print(kind, seed, rows[f"{kind}/{seed}"], flush=True)
    with replacing(file.with_suffix(".md")) as temporary:
        temporary.write_text(table(kinds, rows, about), encoding="utf-8")


def table(kinds: list[str], rows: dict[str, dict[str, float]], about: str) -> str:
    """Return the rows as Markdown: mean ± standard error over seeds."""
    columns = list(rows[f"{kinds[0]}/0"])
    lines = [f"{about}; mean ± standard error of {len(SEEDS)} seeds.", "", f"| | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for kind in kinds:
        cells = []
        for column in columns:
            values = [rows[f"{kind}/{seed}"][column] for seed in SEEDS]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
