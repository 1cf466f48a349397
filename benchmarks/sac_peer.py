"""Stable-Baselines3's SAC on one task, for `sac_table.py`: its results as JSON.

    python benchmarks/sac_peer.py --config configs/online/sac_pendulum.toml --frames 4 --seed 0

It has RL Zoo's settings of SAC (https://github.com/DLR-RM/rl-baselines3-zoo/blob/
00128b5d46d497b772f3bd891ae9f520919e8971/hyperparams/sac.yml): on Pendulum a learning rate of 1e-3, on MuJoCo's tasks
10,000 steps before the first gradient, all others Stable-Baselines3's, with one gradient step for each environment
step. Environments and steps are those of our config of the task.
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from ppo_peer import environments, played
from stable_baselines3 import SAC
from stable_baselines3.common.vec_env import VecFrameStack

from minrl.agents.sac_agent import SACOptions
from minrl.online.settings import ReplayConfig
from minrl.system.config import read_toml


def main() -> int:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, required=True, help="our settings of the task")
    parser.add_argument("--frames", type=int, default=4, help="observations that the policy sees, 1 for no memory")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--first-episode", type=int, default=1_000_000, help="its seed; the next one's is one more")
    arguments = parser.parse_args()
    task = read_toml(arguments.config, {"sac": SACOptions, "train": ReplayConfig})["train"]
    torch.set_num_threads(1)
    training, tests = (
        VecFrameStack(environments(task["env"], count, stacked=False), arguments.frames)
        for count in (task["n_envs"], arguments.episodes)
    )
    own = {"learning_rate": 1e-3} if "Pendulum" in task["env"] else {"learning_starts": 10_000}
    model = SAC(
        "MlpPolicy", training, gradient_steps=-1, seed=arguments.seed, device="cpu", **own
    )  # -1: as many as environment steps
    begin = time.process_time()
    model.learn(task["steps"])
    seconds = time.process_time() - begin
    tests.seed(arguments.first_episode)
    returns = played(model, tests)
    numbers = {
        "cpu_seconds": seconds,
        "mean_return": float(returns.mean()),
        "returns": returns.tolist(),
        "step": int(model.num_timesteps),
        "parameters": sum(p.numel() for p in model.policy.parameters() if p.requires_grad),
    }
    print(json.dumps(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())
