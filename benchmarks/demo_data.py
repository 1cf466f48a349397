"""The recipe of the data set that ships with minrl: train PPO on Hopper-v5, collect from its snapshots.

    OMP_NUM_THREADS=1 python benchmarks/demo_data.py

trains one policy (Stable-Baselines3, one process, one thread, about four minutes), keeps a copy of it at
each of `SNAPSHOTS` steps and lets a uniform random policy and then every copy act for a few episodes: like a
replay buffer, the data range from a beginner's falls to full episodes. Existing snapshots are used again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

import minrl
from minrl.collect.record import collect

ENVIRONMENT = "Hopper-v5"
NAME = "minrl/hopper/medium-replay-v0"
# The learning rate falls to zero over SCHEDULE steps; it stops at the last snapshot.
SCHEDULE = 1_200_000
SNAPSHOTS = range(16_000, 560_001, 16_000)
EPISODES = 4
SEED = 0
METADATA = {
    "author": ["minrl"],
    "algorithm_name": "PPO snapshots",
    "description": (
        "Hopper-v5, medium-replay in character: a uniform random policy and the snapshots of one PPO run "
        "(Stable-Baselines3, 560,000 steps), 4 episodes of each, in the order of training, actions drawn "
        "from the policy. Recipe: benchmarks/demo_data.py of minrl. Reference scores: D4RL's pair for Hopper."
    ),
    "ref_min_score": -20.272305,
    "ref_max_score": 3234.3,
}


def snapshot(folder: Path, steps: int) -> Path:
    return folder / f"hopper-{steps:07d}.zip"


def fold_normalisation(policy: ActorCriticPolicy, normaliser: VecNormalize) -> None:
    """Merge normalisation into the policy: W (x - m) / s + b = (W / s) x + (b - (W / s) m)."""
    statistics = normaliser.obs_rms
    assert isinstance(statistics, RunningMeanStd)
    mean = torch.as_tensor(statistics.mean, dtype=torch.float32)
    scale = torch.as_tensor(np.sqrt(statistics.var + normaliser.epsilon), dtype=torch.float32)
    with torch.no_grad():
        for network in (policy.mlp_extractor.policy_net, policy.mlp_extractor.value_net):
            first = network[0]
            first.weight /= scale
            first.bias -= first.weight @ mean


class SaveSnapshots(BaseCallback):
    """Callback that saves a self-contained copy of the policy, normalisation folded in, at each of `SNAPSHOTS`."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        if self.num_timesteps in SNAPSHOTS:
            assert isinstance(self.model.policy, ActorCriticPolicy)
            assert isinstance(self.training_env, VecNormalize)
            trained = {name: weight.clone() for name, weight in self.model.policy.state_dict().items()}
            fold_normalisation(self.model.policy, self.training_env)
            self.model.save(snapshot(self.folder, self.num_timesteps))
            self.model.policy.load_state_dict(trained)
        return self.num_timesteps < SNAPSHOTS[-1]


def train(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Without clipping the normalisation is linear, and so folds into the first layer.
    environments = VecNormalize(make_vec_env(ENVIRONMENT, n_envs=8, seed=SEED), clip_obs=float("inf"))
    model = PPO(
        "MlpPolicy",
        environments,
        n_steps=256,
        batch_size=128,
        learning_rate=lambda left: 3e-4 * left,
        policy_kwargs={"net_arch": [128, 128], "log_std_init": -1.0},
        seed=SEED,
        device="cpu",
        verbose=1,
    )
    model.learn(SCHEDULE, callback=SaveSnapshots(folder), log_interval=25)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--snapshots", type=Path, default=Path("runs/demo-data"), help="where the policies go")
    parser.add_argument(
        "--root",
        type=Path,
        default=Path(minrl.__file__).parent / "data" / "shipped",
        help="folder in place of Minari's that the data set is written to",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = [snapshot(arguments.snapshots, steps) for steps in SNAPSHOTS]
    if not all(file.is_file() for file in files):
        train(arguments.snapshots)
    os.environ["MINARI_DATASETS_PATH"] = str(arguments.root)
    result = collect(
        ["random", *map(str, files)],
        ENVIRONMENT,
        EPISODES,
        NAME,
        seed=SEED,
        float32=True,
        compress=True,
        overwrite=True,
        trust=True,
        metadata=METADATA,
    )
    returns = np.array(result.returns)
    print(
        f"{result.name}: {len(returns)} episodes, {result.steps} steps, returns {returns.min():.0f} to "
        f"{returns.max():.0f}, mean {returns.mean():.0f}, in {result.path}"
    )


if __name__ == "__main__":
    main()
