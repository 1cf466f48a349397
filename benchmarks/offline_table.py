"""Cells against each other on offline data sets: a table of scores, written and resumed by one command.

    python benchmarks/offline_table.py --out runs/offline_table --jobs 2

Every run is a plain `minrl train decision`; what is done is skipped, what was cut off is resumed. Protocol: the last
checkpoint, one fixed target return for each data set, `--episodes` episodes for each seed, mean ± standard error over
seeds. The table and all numbers behind it go to `benchmarks/offline_table.md` and `.json` (`--table`).
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CONFIGS = HERE.parent / "configs"
TARGETS = {"hopper": 3600.0, "halfcheetah": 12000.0}
DATA = (
    "minari:regen/hopper/medium-v0",
    "minari:regen/hopper/medium-replay-v0",
    "minari:regen/hopper/medium-expert-v0",
    "minari:regen/halfcheetah/medium-expert-v0",
)
METHODS = {
    "minGRU": ["--cell", "mingru"],
    "minLSTM": ["--cell", "minlstm"],
    "Transformer": ["--config", str(CONFIGS / "decision_transformer.toml")],
    "Mamba": ["--config", str(CONFIGS / "decision_mamba.toml")],
}


@dataclass(frozen=True)
class Run:
    """One training run and its evaluation."""

    method: str
    data: str
    seed: int
    folder: Path

    @property
    def result(self) -> Path:
        """Where its numbers are kept once it is done."""
        return self.folder / "result.json"

    @property
    def target(self) -> float:
        """The return that is asked for."""
        return next(value for name, value in TARGETS.items() if name in self.data)


def complete(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """The numbers of a run, trained and evaluated as far as that is left to do."""
    if not run.result.is_file():
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        log = run.folder.parent / f"{run.folder.name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a") as output:
            subprocess.run(train_command(run, arguments), check=True, stdout=output, stderr=output, env=environment)
            evaluate = [*MINRL, "evaluate", str(run.folder), "--episodes", str(arguments.episodes), "--json"]
            evaluate += ["--target", str(run.target), "--seed", "1000", "--threads", "1"]
            done = subprocess.run(evaluate, check=True, stdout=subprocess.PIPE, stderr=output, env=environment)
        draft = run.result.with_suffix(".draft")
        draft.write_bytes(done.stdout)
        draft.replace(run.result)
    numbers: dict[str, Any] = json.loads(run.result.read_text())
    del numbers["run"]  # a folder of one machine
    numbers |= {"method": run.method, "data": run.data, "seed": run.seed}
    return numbers


MINRL = [sys.executable, "-m", "minrl.agents"]


def train_command(run: Run, arguments: argparse.Namespace) -> list[str]:
    """`minrl train` anew, or `--resume` where a checkpoint is there."""
    if (run.folder / "checkpoint.pt").is_file():
        return [*MINRL, "train", "--resume", str(run.folder)]
    command = [*MINRL, "train", "decision", *METHODS[run.method], "--out", str(run.folder), "--data", run.data]
    command += ["--seed", str(run.seed), "--steps", str(arguments.steps), "--threads", "1"]
    command += ["--target-return", str(run.target), "--evaluate-every", str(arguments.evaluate_every)]
    command += ["--learning-rate", str(arguments.learning_rate)]
    if "--config" not in METHODS[run.method]:
        command += ["--batch-size", str(arguments.rows), "--length", str(arguments.length)]
    return command


def table(numbers: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """Markdown: a row for each data set, a column for each method, and what each method cost."""
    head = f"| normalised score | {' | '.join(METHODS)} |\n|---|{'---|' * len(METHODS)}\n"
    rows = []
    for data in arguments.data:
        cells = [[n["normalized_score"] for n in numbers if (n["method"], n["data"]) == (m, data)] for m in METHODS]
        rows.append(f"| {data.removeprefix('minari:')} | {' | '.join(map(mean_and_error, cells))} |")
    averages = [average(numbers, method) for method in METHODS]
    rows.append(f"| **average** | {' | '.join(f'**{a:.1f}**' for a in averages)} |")
    for name, label in (("parameters", "parameters"), ("ms_per_step", "ms per training step")):
        values = [np.median([n[name] for n in numbers if n["method"] == m and n.get(name)]) for m in METHODS]
        rows.append(f"| {label} | {' | '.join(f'{v:.1f}' if name != 'parameters' else f'{v:.0f}' for v in values)} |")
    return head + "\n".join(rows) + "\n"


def mean_and_error(scores: list[float]) -> str:
    """Mean ± standard error over seeds."""
    if not scores:
        return "-"
    error = np.std(scores, ddof=1) / np.sqrt(len(scores)) if len(scores) > 1 else 0.0
    return f"{np.mean(scores):.1f} ± {error:.1f}"


def average(numbers: list[dict[str, Any]], method: str) -> float:
    """Mean over data sets of the mean over seeds."""
    sets = sorted({n["data"] for n in numbers if n["method"] == method})
    means = [np.mean([n["normalized_score"] for n in numbers if (n["method"], n["data"]) == (method, d)]) for d in sets]
    return float(np.mean(means)) if means else float("nan")


def report(numbers: list[dict[str, Any]], arguments: argparse.Namespace) -> str:
    """The table with its protocol."""
    versions = ", ".join(f"{name} {number}" for name, number in numbers[0]["versions"].items())
    environments = ", ".join(sorted({n["environment"] for n in numbers}))
    seeds = len({n["seed"] for n in numbers})
    devices = ", ".join(sorted({n["device"] for n in numbers}))
    return (
        f"# Offline data sets, {len(numbers)} runs\n\n"
        f"{table(numbers, arguments)}\n"
        f"Last checkpoint after {arguments.steps} gradient steps, {seeds} seeds, {arguments.episodes} episodes a seed, "
        f"mean ± standard error over seeds; target returns {TARGETS}. minGRU and minLSTM train on whole "
        f"trajectories ({arguments.rows} rows of {arguments.length} steps a batch), Mamba on windows of 20 (64 a "
        f"batch); all three ask at most for the best return of their data. The Transformer is the Decision Transformer "
        f"(three tokens a step, windows of 20, 64 a batch, the window fed anew at each step), which is asked for the "
        f"target as it is. Peak learning rate {arguments.learning_rate}, warm-up and cosine decay for all. Trained on "
        f"{devices}; "
        f"evaluated in {environments} ({versions}).\n\n"
        f"Written by `python benchmarks/offline_table.py --steps {arguments.steps} --rows {arguments.rows} "
        f"--length {arguments.length} --learning-rate {arguments.learning_rate}`.\n"
    )


def main() -> int:
    """Complete all runs, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/offline_table"))
    parser.add_argument("--table", type=Path, default=HERE / "offline_table.md")
    parser.add_argument("--data", nargs="+", default=list(DATA))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--rows", type=int, default=6, help="rows of a batch of whole trajectories")
    parser.add_argument("--length", type=int, default=500, help="steps of a row")
    parser.add_argument("--learning-rate", type=float, default=3e-3, help="peak, for all")
    parser.add_argument("--episodes", type=int, default=10, help="for each seed")
    parser.add_argument("--evaluate-every", type=int, default=0, help="as for minrl train")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    arguments = parser.parse_args()
    grid = product(range(arguments.seeds), arguments.data, arguments.methods)
    runs = [Run(m, d, s, arguments.out / m / f"{d.split(':', 1)[1].replace('/', '-')}-{s}") for s, d, m in grid]
    with ThreadPoolExecutor(arguments.jobs) as pool:
        numbers = list(pool.map(lambda run: announced(run, arguments), runs))
    draft = arguments.table.with_suffix(".draft")
    draft.write_text(report(numbers, arguments), encoding="utf-8")
    draft.replace(arguments.table)
    arguments.table.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(arguments.table.read_text(encoding="utf-8"))
    return 0


def announced(run: Run, arguments: argparse.Namespace) -> dict[str, Any]:
    """`complete`, with a line when it is done."""
    numbers = complete(run, arguments)
    numbers |= json.loads((run.folder / "summary.json").read_text())
    numbers["ms_per_step"] = 1e3 * numbers["seconds_per_training_step"]
    print(f"{run.method:<12} {run.data:<42} seed {run.seed}: {numbers['normalized_score']:.1f}", flush=True)
    return numbers


if __name__ == "__main__":
    sys.exit(main())
