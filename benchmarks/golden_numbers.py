"""Hashes of short trainings, to show that a change of the code changes no result.

    python benchmarks/golden_numbers.py --json before.json
    python benchmarks/golden_numbers.py --against before.json

Thirty gradient steps of the offline agents and three rollouts of recurrent PPO through the command line, with one
thread and torch's own matmul; for each the SHA-256 of its weights and of its log without times. The hashes hold for
one processor and one version of the packages: make the file before a change, compare after it.
"""

import argparse
import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
OFFLINE = [
    *("--data", "minari:minrl/hopper/medium-replay-v0", "--steps", "30", "--warmup", "0.2", "--log-every", "5"),
    *("--checkpoint-every", "10", "--evaluate-every", "30", "--evaluate-episodes", "1", "--target-sweep", "none"),
]
ONLINE = ["--env", "minrl/CartPoleNoVel-v1", "--no-config", "--n-envs", "4", "--n-steps", "64", "--steps", "768"]
FIXED = ["--seed", "7", "--threads", "1"]
CASES = {
    "decision": ["decision", "--config", "configs/demo.toml", *OFFLINE],
    "decision, minLSTM": ["decision", *OFFLINE, "--cell", "minlstm", "--width", "32", "--validation", "0.2"],
    "decision, Mamba": ["decision", *OFFLINE, "--cell", "mamba", "--width", "32", "--batch-size", "2"],
    "Decision Transformer": ["decision", "--config", "configs/decision_transformer.toml", *OFFLINE],
    "clone": ["clone", *OFFLINE, "--width", "64", "--length", "300"],
    "clone, LSTM": ["clone", *OFFLINE, "--cell", "lstm", "--width", "32", "--length", "300"],
    "PPO, MlpPolicy": ["ppo", *ONLINE, "--width", "64"],
    "PPO, minLSTM, Gaussian": ["ppo", *ONLINE, "--env", "minrl/PendulumNoVel-v1", "--cell", "minlstm", "--width", "64"],
}
# The command line has no flag for Stable-Baselines3's LSTM policies.
LSTM_POLICY = """
import sys
import gymnasium, torch
import minrl.envs
from minrl.agents.ppo import RecurrentPPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.logger import configure
environments = make_vec_env("minrl/CartPoleNoVel-v1", 4, seed=7)
model = RecurrentPPO("MlpLstmPolicy", environments, n_steps=64, seed=7, device="cpu")
model.set_logger(configure(sys.argv[1], ["csv"]))
model.learn(768, log_interval=1)
torch.save({"weights": model.policy.state_dict()}, sys.argv[1] + "/checkpoint.pt")
"""
TIMES = ("time", "seconds", "per_second", "fps", "memory")


def run(command: list[str]) -> None:
    """Run one training in a process of its own.

    Raises:
        SystemExit: if it fails; its output is printed.
    """
    single = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "MINRL_MATMUL": "torch", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, env={**os.environ, **single}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout}{done.stderr}")


def hash_of_weights(checkpoint: Path) -> str:
    """Return the SHA-256 over names, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    weights = torch.load(checkpoint, map_location="cpu", weights_only=True)["weights"]
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()


def hash_of_log(log: Path) -> str:
    """Return the SHA-256 of a progress.csv without its columns of time and memory, whose order does not matter."""
    with log.open(encoding="utf-8", newline="") as file:
        rows = [
            sorted((name, value) for name, value in row.items() if not any(word in name for word in TIMES))
            for row in csv.DictReader(file)
        ]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def golden() -> dict[str, dict[str, str]]:
    """Train every case and return its hashes."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        commands = {name: ["-m", "minrl.agents", "train", *case, *FIXED, "--out"] for name, case in CASES.items()}
        commands["PPO, MlpLstmPolicy"] = ["-c", LSTM_POLICY]
        for number, (name, command) in enumerate(commands.items()):
            out = Path(folder) / str(number)
            run([*command, str(out)])
            found[name] = {"weights": hash_of_weights(out / "checkpoint.pt"), "log": hash_of_log(out / "progress.csv")}
            print(f"{name:24} weights {found[name]['weights'][:12]}  log {found[name]['log'][:12]}", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the hashes here")
    parser.add_argument(
        "--against", type=Path, metavar="FILE", help="compare with these; exit code 1 where one differs"
    )
    arguments = parser.parse_args()
    found = golden()
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.against:
        before = json.loads(arguments.against.read_text(encoding="utf-8"))
        different = [
            f"{name}, {what}" for name in found for what in found[name] if found[name][what] != before[name][what]
        ]
        print("different: " + "; ".join(different) if different else "equal to the bit")
        sys.exit(bool(different))


if __name__ == "__main__":
    main()
