"""A peer of recurrent PPO on one task: trained and evaluated for `ppo_table.py`, its results as JSON.

    python benchmarks/ppo_peer.py recurrent --config configs/online/pendulum.toml --seed 0

"recurrent" is sb3-contrib's RecurrentPPO, "frames" Stable-Baselines3's PPO on the last four observations. Environments
and steps are read from our config of the task, and so is the number of environments if RL Zoo's settings do not state
it; the environments are the same objects, so that no peer pays for slower ones.

Shapes: B environments.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecFrameStack, VecNormalize
from torch import nn

import minrl.envs  # noqa: F401, registers the tasks
from minrl.agents.ppo_agent import PPOOptions
from minrl.online.settings import OnlineConfig
from minrl.online.vector import as_vec_env
from minrl.system.config import read_toml

FRAMES = 4


def decaying(rate: float) -> Any:
    """Return RL Zoo's `lin_RATE` schedule."""
    return lambda left: rate * left


MEMORY = {
    "ortho_init": False,
    "activation_fn": nn.ReLU,
    "lstm_hidden_size": 64,
    "enable_critic_lstm": True,
    "net_arch": {"pi": [64], "vf": [64]},
}
CARTPOLE = {
    "n_steps": 32,
    "batch_size": 256,
    "n_epochs": 20,
    "gamma": 0.98,
    "gae_lambda": 0.8,
    "learning_rate": decaying(1e-3),
    "clip_range": decaying(0.2),
}
PENDULUM = {
    "n_envs": 4,
    "n_steps": 1024,
    "n_epochs": 10,
    "gamma": 0.9,
    "gae_lambda": 0.95,
    "learning_rate": 1e-3,
    "use_sde": True,
    "sde_sample_freq": 4,
}
REPEAT = {"n_steps": 64, "batch_size": 256, "learning_rate": decaying(1e-3)}

# CartPole and Pendulum: settings of RL Zoo's published agents, with memory
# (https://huggingface.co/sb3/ppo_lstm-CartPoleNoVel-v1, https://huggingface.co/sb3/ppo_lstm-PendulumNoVel-v1, which
# normalise observations) and without
# (https://github.com/DLR-RM/rl-baselines3-zoo/blob/00128b5d46d497b772f3bd891ae9f520919e8971/hyperparams/ppo.yml).
# RL Zoo has no RepeatPrevious: our own settings of it, without the entropy bonus.
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "recurrent": {
        "minrl/CartPoleNoVel-v1": {**CARTPOLE, "policy_kwargs": MEMORY},
        "minrl/PendulumNoVel-v1": {**PENDULUM, "policy_kwargs": MEMORY},
        "minrl/RepeatPrevious-v0": {**REPEAT, "policy_kwargs": MEMORY},
    },
    "frames": {
        "minrl/CartPoleNoVel-v1": CARTPOLE,
        "minrl/PendulumNoVel-v1": PENDULUM,
        "minrl/RepeatPrevious-v0": REPEAT,
    },
}
NORMALIZED = {("recurrent", "minrl/CartPoleNoVel-v1"), ("recurrent", "minrl/PendulumNoVel-v1")}


def main() -> int:
    """Train, evaluate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("recurrent", "frames"))
    parser.add_argument("--config", type=Path, required=True, help="our settings of the task")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="instead of those of our config")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--first-episode", type=int, default=1_000_000, help="its seed; the next one's is one more")
    arguments = parser.parse_args()
    task = read_toml(arguments.config, {"ppo": PPOOptions, "train": OnlineConfig})["train"]
    torch.set_num_threads(1)
    stacked = arguments.peer == "frames"
    name = task["env"]
    settings = dict(SETTINGS[arguments.peer][name])
    training = environments(name, settings.pop("n_envs", task["n_envs"]), stacked)
    if (arguments.peer, name) in NORMALIZED:
        training = VecNormalize(training, norm_reward=False)
    kind, policy = (PPO, "MlpPolicy") if stacked else (RecurrentPPO, "MlpLstmPolicy")
    model = kind(policy, training, seed=arguments.seed, device="cpu", **settings)
    begin = time.process_time()
    model.learn(arguments.steps or task["steps"])
    seconds = time.process_time() - begin
    tests = environments(name, arguments.episodes, stacked)
    tests.seed(arguments.first_episode)
    if isinstance(training, VecNormalize):
        tests = VecNormalize(tests, training=False, norm_reward=False)
        tests.obs_rms = training.obs_rms
    returns = played(model, tests)
    numbers = {
        "cpu_seconds": seconds,
        "mean_return": float(returns.mean()),
        "returns": returns.tolist(),
        "step": int(model.num_timesteps),
        "parameters": sum(parameter.numel() for parameter in model.policy.parameters()),
    }
    print(json.dumps(numbers))
    return 0


class OneHot(VecEnvWrapper):
    """A Discrete observation as a column for each value, which `VecFrameStack` can stack."""

    def __init__(self, venv: VecEnv) -> None:
        self.count = int(venv.observation_space.n)
        super().__init__(venv, spaces.Box(0.0, 1.0, (self.count,), dtype=np.float32))

    def reset(self) -> npt.NDArray[np.float32]:
        """Reset and encode, (B, values)."""
        return self._columns(self.venv.reset())

    def step_wait(self) -> Any:
        """Step as `VecEnv.step_wait` does, and encode."""
        observations, rewards, dones, infos = self.venv.step_wait()
        for index in np.flatnonzero(dones):
            infos[index]["terminal_observation"] = self._columns(infos[index]["terminal_observation"])
        return self._columns(observations), rewards, dones, infos

    def _columns(self, observations: Any) -> npt.NDArray[np.float32]:
        return np.eye(self.count, dtype=np.float32)[observations]


def environments(name: str, count: int, stacked: bool) -> VecEnv:
    """Create `count` environments, with stacked frames if `stacked`."""
    spec = gymnasium.spec(name)
    native: VecEnv
    if spec.vector_entry_point is None:  # MuJoCo's
        native = make_vec_env(name, count)
    else:
        native = as_vec_env(
            gymnasium.make_vec(spec, count, "vector_entry_point", autoreset_mode=AutoresetMode.SAME_STEP)
        )
    if not stacked:
        return native
    is_discrete = isinstance(native.observation_space, spaces.Discrete)
    return VecFrameStack(OneHot(native) if is_discrete else native, FRAMES)


def played(model: Any, tests: VecEnv) -> npt.NDArray[np.float64]:
    """Return the return (B,) of the first episode of each environment, with modal actions."""
    returns, running = np.zeros(tests.num_envs), np.ones(tests.num_envs, dtype=bool)
    observations, state, starts = tests.reset(), None, running
    while running.any():
        actions, state = model.predict(observations, state=state, episode_start=starts, deterministic=True)
        observations, rewards, starts, _ = tests.step(actions)
        returns += rewards * running
        running = running & ~starts
    return returns


if __name__ == "__main__":
    sys.exit(main())
