"""Offline to online: steps that recurrent PPO needs to reach a score from a cloned and from a fresh backbone.

A clone of the shipped Hopper set is trained once; then PPO learns on Hopper-v5 from it and from fresh weights of the
same sizes, evaluated at equal steps on the same episodes. Both have the same rollouts and epochs; each has the learning
rate and the exploration that suit its start. Prints a Markdown table: for each seed the first evaluation at which each
reached the score.

    python benchmarks/pretrained_start.py --out runs/pretrained_start
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, sync_envs_normalization

from minrl.agents.clone import CloneAgent, CloneConfig
from minrl.agents.ppo import RecurrentPPO
from minrl.system.files import replacing
from minrl.training.offline import TrainConfig, train

DATA = "minari:minrl/hopper/medium-replay-v0"
TASK = "Hopper-v5"
WIDTH, DEPTH, ENVIRONMENTS, EPISODES = 64, 2, 8, 10
SETTINGS: dict[str, Any] = {
    "n_steps": 512,
    "batch_size": 512,
    "segment_length": 64,
    "n_epochs": 10,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "max_grad_norm": 0.5,
}


def clone(folder: Path, steps: int) -> Path:
    """Return the run of a cloned agent, trained if it is missing."""
    if not (folder / "summary").is_file():
        config = TrainConfig(data=DATA, steps=steps, evaluate_every=0, learning_rate=2e-3, threads=1, log_every=100)
        train(CloneAgent, CloneConfig(width=WIDTH, depth=DEPTH, mlp=1.0, top=1.0), config, folder)
        (folder / "summary").write_text("trained\n", encoding="utf-8")
    return folder


def environments(normalized: bool, seed: int, training: bool) -> VecEnv:
    """Create Hopper with scaled training rewards; observations are normalised here if the run does not do so itself."""
    env = make_vec_env(TASK, ENVIRONMENTS, seed=seed)
    return VecNormalize(env, training=training, norm_obs=normalized, norm_reward=training, gamma=SETTINGS["gamma"])


class Curve(BaseCallback):
    """Callback that records the mean return of deterministic episodes, before learning and every `every` steps."""

    def __init__(self, environment: VecEnv, every: int, label: str) -> None:
        super().__init__()
        self.environment, self.every, self.label = environment, every, label
        self.points: list[tuple[int, float]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        if self.num_timesteps < len(self.points) * self.every:
            return
        sync_envs_normalization(self.training_env, self.environment)
        self.environment.seed(10_000)
        mean, _ = evaluate_policy(self.model, self.environment, n_eval_episodes=EPISODES)
        self.points.append((self.num_timesteps, float(mean)))
        print(f"{self.label}: return {mean:.0f} after {self.num_timesteps} steps", flush=True)


def learn(run: Path | None, seed: int, steps: int, every: int) -> dict[str, Any]:
    """Train one run; return its learning curve and CPU seconds."""
    begin = time.process_time()
    if run is None:
        policy: dict[str, Any] = {"width": WIDTH, "depth": DEPTH, "mlp": 1.0, "log_std_init": -1.0}
    else:
        # A fresh critic misleads an actor that is already good: small steps, little noise, and a KL penalty.
        policy = {"pretrained": run, "pretrained_kl": 1.0, "log_std_init": -2.0, "separate_critic": True}
    env, test = environments(run is None, seed, True), environments(run is None, seed, False)
    rate = 3e-4 if run is None else 1e-4
    model = RecurrentPPO("MlpPolicy", env, rate, seed=seed, device="cpu", policy_kwargs=policy, **SETTINGS)
    curve = Curve(test, every, f"{'scratch' if run is None else 'pretrained'}, seed {seed}")
    model.learn(steps, curve)
    return {"curve": curve.points, "cpu_seconds": time.process_time() - begin}


def reached(curve: list[tuple[int, float]], score: float) -> int | None:
    """Return the steps of the first evaluation at `score` or above."""
    return next((steps for steps, value in curve if value >= score), None)


def main() -> None:
    """Run missing trainings, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the clone and the results; goes on with it")
    parser.add_argument("--clone-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=100_000, help="environment steps of each run")
    parser.add_argument("--every", type=int, default=20_000, help="environment steps between evaluations")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--score", type=float, default=2500.0, help="mean return that counts as reached")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    run = clone(arguments.out / "clone", arguments.clone_steps)
    results: dict[str, Any] = {}
    file = arguments.out / "results.json"
    if file.is_file():
        results = json.loads(file.read_text(encoding="utf-8"))
    for seed in range(arguments.seeds):
        for name, start in (("pretrained", run), ("scratch", None)):
            key = f"{name}/{seed}/{arguments.steps}/{arguments.every}"
            if key not in results:
                results[key] = learn(start, seed, arguments.steps, arguments.every)
                with replacing(file) as temporary:
                    temporary.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(table(results, arguments))


def table(results: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Format rows of start and seed: return before learning, steps to the score, last return, CPU seconds."""
    lines = [
        f"{TASK}, {ENVIRONMENTS} environments, minGRU of width {WIDTH} and depth {DEPTH}; score {arguments.score:.0f}, "
        f"{EPISODES} deterministic episodes every {arguments.every} steps.\n",
        "| start | seed | return at step 0 | steps to the score | last return | CPU s |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("pretrained", "scratch"):
        for seed in range(arguments.seeds):
            found = results[f"{name}/{seed}/{arguments.steps}/{arguments.every}"]
            curve = [(int(step), float(value)) for step, value in found["curve"]]
            at = reached(curve, arguments.score)
            shown = f"over {curve[-1][0]}" if at is None else str(at)
            lines.append(
                f"| {name} | {seed} | {curve[0][1]:.0f} | {shown} | {curve[-1][1]:.0f} | {found['cpu_seconds']:.0f} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
