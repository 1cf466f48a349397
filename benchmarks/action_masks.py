"""Learning with action masks, against the same settings without them.

    python benchmarks/action_masks.py

`minrl/MaskedRecall-v0`: recurrent PPO with and without masks, and sb3-contrib's MaskablePPO without memory. Each run of
a seed is a row of `action_masks.json` and is not repeated, so the command can be interrupted and resumed; then the
table, `action_masks.md`, is written from all rows. One thread, CPU seconds of the process.
"""

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor

from minrl.agents.ppo import RecurrentPPO
from minrl.system.files import replacing

FILE = Path(__file__).with_suffix(".json")
SEEDS = range(3)
EPISODES = 100
RECALL = "minrl.envs:minrl/MaskedRecall-v0"
RECALL_STEPS = 12_288
PPO: dict[str, Any] = {"n_steps": 64, "batch_size": 256, "n_epochs": 6, "learning_rate": 2e-3, "gamma": 0.5}
TRUNK = {"width": 32, "depth": 1}
KINDS = ["masks", "no masks", "MaskablePPO, no memory"]


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


def complete(file: Path, name: str, run: Callable[[], dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return all finished rows of a file, after adding the row `name` with its CPU seconds if it is missing."""
    rows: dict[str, dict[str, float]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if name not in rows:
        begin = time.process_time()
        found = run()
        rows[name] = found | {"cpu_seconds": round(time.process_time() - begin, 1)}
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(name, rows[name], flush=True)
    return rows


def main() -> None:
    """Run what is missing and write the table."""
    torch.set_num_threads(1)
    for seed in SEEDS:
        for kind in KINDS:
            rows = complete(FILE, f"{kind}/{seed}", partial(masks, kind, seed))
    with replacing(FILE.with_suffix(".md")) as temporary:
        temporary.write_text(table(rows), encoding="utf-8")


def table(rows: dict[str, dict[str, float]]) -> str:
    """Return the rows as Markdown: mean ± standard error over seeds."""
    columns = list(rows[f"{KINDS[0]}/0"])
    about = (
        f"`minrl/MaskedRecall-v0` with 40 symbols, {RECALL_STEPS:,} steps, {EPISODES} episodes after training; at most "
        "30, a policy without memory gets about 7.5 with masks"
    )
    lines = [f"{about}; mean ± standard error of {len(SEEDS)} seeds.", "", f"| | {' | '.join(columns)} |"]
    lines.append("|---" * (len(columns) + 1) + "|")
    for kind in KINDS:
        cells = []
        for column in columns:
            values = [rows[f"{kind}/{seed}"][column] for seed in SEEDS]
            cells.append(f"{np.mean(values):.1f} ± {np.std(values, ddof=1) / len(values) ** 0.5:.1f}")
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
