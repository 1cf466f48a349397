"""rsl-rl's recurrent PPO with its own GRU and LSTM, and with minGRU and minLSTM in their place.

    pip install rsl-rl-lib
    python benchmarks/swapped_layers/rsl_rl_ppo.py [--layers gru mingru] [--seeds 0 1 2] [--iterations 44]
    python benchmarks/swapped_layers/rsl_rl_ppo.py --table

The task is Pendulum-v1 without the velocity, so that acting needs a memory. Runner, algorithm, model, storage and
settings are the same for all; one line of the model differs. Raw returns are appended to rsl_rl_ppo.csv, a run that is
there is skipped; the table goes to rsl_rl_ppo.md. CPU seconds in the raw data are of machines with other work to do.
"""

import argparse
import csv
import sys
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from rsl_rl.env import VecEnv
from rsl_rl.models import RNNModel
from rsl_rl.runners import OnPolicyRunner
from tensordict import TensorDict
from torch import Tensor

import minrl.nn

HERE = Path(__file__).resolve().parent
RAW, TABLE = HERE / "rsl_rl_ppo.csv", HERE / "rsl_rl_ppo.md"
ENVIRONMENTS, STEPS, WIDTH = 64, 32, 64
LAYERS = {
    "gru": "GRU", "lstm": "LSTM", "mingru": "minGRU", "minlstm": "minLSTM",
    "mingru_linear": "minGRU, `candidate=\"linear\"`",
    "mingru_linear_wide": "the same, `hold=(-2.5, 2.5)`",
}  # fmt: skip
OURS: dict[str, Any] = {
    "mingru": minrl.nn.MinGRU,
    "minlstm": minrl.nn.MinLSTM,
    "mingru_linear": partial(minrl.nn.MinGRU, candidate="linear"),
    "mingru_linear_wide": partial(minrl.nn.MinGRU, candidate="linear", hold=(-2.5, 2.5)),
}
CUTS = slice(-1, None), slice(-5, -1)
COLUMNS = ("layer", "seed", "iteration", "steps", "mean_return", "episodes", "cpu_seconds")


class SwappedModel(RNNModel):
    """rsl-rl's recurrent model with a layer of ours."""

    def __init__(self, *arguments: Any, layer: str, rnn_hidden_dim: int = WIDTH, **options: Any) -> None:
        super().__init__(*arguments, rnn_hidden_dim=rnn_hidden_dim, **options)
        self.rnn.rnn = OURS[layer](self.obs_dim, rnn_hidden_dim)  # the changed line


class HiddenVelocity(VecEnv):
    """Pendulum-v1 in the form of rsl-rl's environments, whose observations have no velocity."""

    def __init__(self, seed: int) -> None:
        same = gymnasium.vector.AutoresetMode.SAME_STEP
        self.inner = gymnasium.make_vec(
            "Pendulum-v1", ENVIRONMENTS, vectorization_mode="sync", vector_kwargs={"autoreset_mode": same}
        )
        self.num_envs, self.num_actions, self.device, self.cfg = ENVIRONMENTS, 1, "cpu", {}
        self.max_episode_length = 200
        self.episode_length_buf = torch.zeros(ENVIRONMENTS, dtype=torch.long)
        self.observation, _ = self.inner.reset(seed=seed)
        self.returns, self.finished = np.zeros(ENVIRONMENTS), list[float]()

    def get_observations(self) -> TensorDict:
        """Return cosine and sine of the angle."""
        return TensorDict({"policy": torch.from_numpy(self.observation[:, :2].copy())}, batch_size=[ENVIRONMENTS])

    def step(self, actions: Tensor) -> tuple[TensorDict, Tensor, Tensor, dict[str, Any]]:
        """Step all environments; every episode ends at its limit, as a timeout."""
        torque = 2.0 * actions.clamp(-1.0, 1.0).numpy()
        self.observation, rewards, terminated, truncated, _ = self.inner.step(torque)
        ended = terminated | truncated
        self.returns += rewards
        self.finished += self.returns[ended].tolist()
        self.returns[ended] = 0.0
        self.episode_length_buf = torch.where(torch.from_numpy(ended), 0, self.episode_length_buf + 1)
        extras = {"time_outs": torch.from_numpy(truncated).float()}
        scaled = torch.from_numpy(rewards / 10.0).float()
        return self.get_observations(), scaled, torch.from_numpy(ended).long(), extras


def settings(layer: str) -> dict[str, Any]:
    """Return the configuration of rsl-rl's runner."""
    model: dict[str, Any] = {"class_name": RNNModel, "rnn_type": layer, "rnn_hidden_dim": WIDTH}
    if layer in OURS:
        model = {"class_name": SwappedModel, "layer": layer}
    model |= {"hidden_dims": [WIDTH], "activation": "elu", "obs_normalization": False}
    noise = {"class_name": "GaussianDistribution", "init_std": 1.0, "std_type": "log"}
    algorithm = {
        "class_name": "PPO", "num_learning_epochs": 10, "num_mini_batches": 4, "clip_param": 0.2, "gamma": 0.9,
        "lam": 0.95, "value_loss_coef": 0.5, "entropy_coef": 0.0, "learning_rate": 1e-3, "max_grad_norm": 0.5,
        "schedule": "adaptive", "desired_kl": 0.01,
    }  # fmt: skip
    return {
        "num_steps_per_env": STEPS,
        "save_interval": 10**9,
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "actor": model | {"distribution_cfg": noise},
        "critic": dict(model),
        "algorithm": algorithm,
    }


def train(layer: str, seed: int, iterations: int) -> list[tuple[Any, ...]]:
    """Train and return a row of `COLUMNS` for each iteration in which episodes ended."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - rsl-rl's own
    torch.set_num_threads(1)
    environment = HiddenVelocity(seed * ENVIRONMENTS)
    runner = OnPolicyRunner(environment, settings(layer), log_dir=None, device="cpu")
    rows, begun = [], time.process_time()
    for iteration in range(iterations):
        environment.finished.clear()
        runner.learn(1)
        if environment.finished:
            mean, spent = float(np.mean(environment.finished)), time.process_time() - begun
            steps = (iteration + 1) * STEPS * ENVIRONMENTS
            rows.append((layer, seed, iteration, steps, round(mean, 2), len(environment.finished), round(spent, 2)))
            print(f"{LAYERS[layer]} seed {seed}: {steps} steps, return {mean:.0f}, {spent:.0f} s", file=sys.stderr)
    return rows


def known() -> list[dict[str, str]]:
    """Return the rows of the raw data."""
    if not RAW.is_file():
        return []
    with RAW.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def table() -> str:
    """Return a table of the returns up to the number of steps that every run reached."""
    runs: dict[str, dict[str, list[dict[str, str]]]] = defaultdict(lambda: defaultdict(list))
    for row in known():
        runs[row["layer"]][row["seed"]].append(row)
    reached = min(int(rows[-1]["steps"]) for seeds in runs.values() for rows in seeds.values())
    lines = [
        f"| layer | seeds | return, last of {reached:,} steps | of the four before |",
        "|---|---:|---:|---:|",
    ]
    for layer, name in LAYERS.items():
        if layer not in runs:
            continue
        within = [[row for row in rows if int(row["steps"]) <= reached] for rows in runs[layer].values()]
        parts = [[np.mean([float(row["mean_return"]) for row in rows[cut]]) for rows in within] for cut in CUTS]
        shown = [f"{np.mean(x):.0f} ± {np.std(x, ddof=1) / len(x) ** 0.5:.0f}" for x in parts]
        lines.append(f"| {name} | {len(within)} | {' | '.join(shown)} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, or write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", nargs="+", choices=LAYERS, default=list(LAYERS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--iterations", type=int, default=44)
    parser.add_argument("--table", action="store_true", help="write rsl_rl_ppo.md from rsl_rl_ppo.csv")
    arguments = parser.parse_args()
    if arguments.table:
        text = f"# minGRU in rsl-rl's recurrent PPO\n\n{__doc__.partition(chr(10))[2].strip()}\n\n{table()}\n"
        TABLE.write_text(text, encoding="utf-8")
        print(table())
        return
    for seed in arguments.seeds:
        for layer in arguments.layers:
            if any(row["layer"] == layer and row["seed"] == str(seed) for row in known()):
                continue
            rows = train(layer, seed, arguments.iterations)
            is_new = not RAW.is_file()
            with RAW.open("a", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                if is_new:
                    writer.writerow(COLUMNS)
                writer.writerows(rows)


if __name__ == "__main__":
    main()
