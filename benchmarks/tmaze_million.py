"""T-Maze after a million steps: trained in corridors of 1 to 30 steps, tested in ever longer ones.

    python benchmarks/tmaze_million.py [--out runs/tmaze_million] [--seeds 3] [--table benchmarks/tmaze_million.md]

Every agent is a plain `minrl train clone` on episodes of a guide in corridors of 1 to 30 steps. It then acts in 64
corridors of each length, from the carried state, one step at a time; success is the share of right turns at the end,
averaged over both cues. A length is tried if the one before it was passed by more than half of the way from chance.
Finished parts are skipped when the command is run again.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from tmaze import CUE_UP, Guide, command

import minrl
import minrl.envs  # it registers the task
from minrl.collect.record import record
from minrl.data import EnvironmentInfo, make_environment
from minrl.data.minari.writer import record_set
from minrl.play import Player
from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
TASK, DATA, LONGEST, EPISODES = "minrl/TMaze-v0", "tmaze/short-v0", 30, 300
LENGTHS = (30, 100, 1_000, 10_000, 100_000, 1_000_000)
CORRIDORS = 64
# As in tmaze.py: most of a corridor is learned at once, and clipping keeps its gradient from ruling Adam's moments.
SHARED = [
    *("--width", "64", "--depth", "1", "--dropout", "0", "--threads", "1", "--evaluate-every", "0", "--steps", "500"),
    *("--learning-rate", "3e-3", "--clip", "1e-3", "--batch-size", "8", "--length", "155"),
]
HOLD = "hold=[1,4]"
METHODS = {
    "minGRU, hard gate": ["--cell", "mingru", "--cell-options", "gate=hard", HOLD],
    "minLSTM, hard gate": ["--cell", "minlstm", "--cell-options", "gate=hard", HOLD],
    "minGRU": ["--cell", "mingru", "--cell-options", HOLD],
    "minLSTM": ["--cell", "minlstm", "--cell-options", HOLD],
    "GRU": ["--cell", "gru"],
    "LSTM": ["--cell", "lstm"],
    "Mamba": ["--cell", "mamba"],
    "Mamba-2": ["--cell", "mamba2"],
    "RG-LRU": ["--cell", "rglru"],
    "LRU": ["--cell", "lru"],
    "S5": ["--cell", "s5"],
    "mLSTM": ["--cell", "mlstm"],
    "RWKV-6": ["--cell", "rwkv6"],
    "Transformer, window of 100": ["--cell", "transformer", "--conv", "0", "--cell-options", "context=100"],
}


def write_data(folder: Path) -> None:
    """Write the data set into `folder` if it is missing."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(folder.resolve())
    if (folder / DATA).exists():
        return
    with record_set(DATA, make_environment(EnvironmentInfo(TASK, {"length": LONGEST}))) as writer:
        for number in range(EPISODES):
            environment = make_environment(EnvironmentInfo(TASK, {"length": 1 + number % LONGEST}))
            record(writer, environment, [Guide()], 1, number, False)


def success(agent: Any, length: int, seed: int) -> float:
    """Act in `CORRIDORS` corridors; return the share of right turns, the mean over both cues."""
    environments: Any = gymnasium.make_vec(TASK, CORRIDORS, vectorization_mode="vector_entry_point", length=length)
    player = Player(agent, CORRIDORS)
    observations, _ = environments.reset(seed=seed)
    up = observations == CUE_UP
    rewards, starts = np.zeros(CORRIDORS), np.ones(CORRIDORS, np.bool_)
    right, done = np.zeros(CORRIDORS, np.bool_), np.zeros(CORRIDORS, np.bool_)
    while not done.all():
        actions = player.act(observations, rewards, starts)
        observations, rewards, terminated, truncated, _ = environments.step(actions)
        starts = terminated | truncated
        if starts.any():
            right |= ~done & starts & (rewards > 0.5)
            done |= starts
    return float((right[up].mean() + right[~up].mean()) / 2)


def action_times(agent: Any, steps: int, count: int) -> tuple[float, float]:
    """Walk one corridor for `steps` steps; return the median CPU µs of the first and of the last `count` actions."""
    player, times = Player(agent, 1), np.empty(steps)
    observation, nothing, start = np.array([CUE_UP]), np.zeros(1), np.array([True])
    for step in range(steps):
        begin = time.process_time_ns()
        player.act(observation, nothing, start)
        times[step] = time.process_time_ns() - begin
        observation, start = np.array([0]), np.array([False])
    return float(np.median(times[1 : count + 1]) / 1e3), float(np.median(times[-count:]) / 1e3)


def complete(name: str, seed: int, run: Path) -> dict[str, Any]:
    """Train one agent and test it in corridors of growing length, as far as that is not done yet."""
    result = run / "result.json"
    numbers: dict[str, Any] = {"method": name, "seed": seed, "success": {}}
    if result.exists():
        numbers = json.loads(result.read_text(encoding="utf-8"))
    if "training_cpu_seconds" not in numbers:
        flags = [*METHODS[name], *SHARED, "--data", f"minari:{DATA}", "--seed", seed, "--out", run]
        _, numbers["training_cpu_seconds"] = command("train", "clone", *flags)
        keep(result, numbers)
    agent = minrl.load(run)
    for length in LENGTHS:
        if str(length) not in numbers["success"]:
            numbers["success"][str(length)] = success(agent, length, 1000 + seed)
            keep(result, numbers)
        print(f"{name:<28} seed {seed} {length:>9,} steps: {numbers['success'][str(length)]:.3f}", flush=True)
        if numbers["success"][str(length)] <= 0.75:
            break
    if seed == 0 and "action_us" not in numbers and str(LENGTHS[-1]) in numbers["success"]:
        numbers["action_us"] = action_times(agent, LENGTHS[-1], 1000)
        keep(result, numbers)
    return numbers


def keep(path: Path, numbers: dict[str, Any]) -> None:
    """Write `numbers` as JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


def table(numbers: list[dict[str, Any]]) -> str:
    """Format the table as Markdown, with its protocol."""
    heads = ["agent", *(f"{length:,}" for length in LENGTHS), "training, CPU s", "µs an action, first → last 1,000"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for name in METHODS:
        own = [n for n in numbers if n["method"] == name]
        if not own:
            continue
        cells = [shown([n["success"].get(str(length)) for n in own]) for length in LENGTHS]
        times = [n["action_us"] for n in own if "action_us" in n]
        cost = f"{times[0][0]:.0f} → {times[0][1]:.0f}" if times else "-"
        seconds = np.mean([n["training_cpu_seconds"] for n in own])
        lines.append(f"| {name} | {' | '.join(cells)} | {seconds:.0f} | {cost} |")
    return (
        "# T-Maze after a million steps\n\nRight turns at the end of a corridor, %, by its length; all agents are "
        f"trained in corridors of 1 to {LONGEST} steps.\n\n" + "\n".join(lines) + "\n\n"
        "Lowest of the seeds, with their mean in brackets where they differ; - where all failed at a shorter length (a "
        "seed that did counts as 50 beyond it, which is chance). "
        f"`{TASK}`, passive: the cue is seen at the first step alone. Each agent clones {EPISODES} episodes of a guide "
        f"for 500 gradient steps and acts in {CORRIDORS} corridors of each length, likeliest actions, last checkpoint, "
        f"mean over both cues. minGRU and minLSTM have `{HOLD}`, the others their defaults. Published: ELMUR reports "
        "100 % after 1,000,000 steps, trained on 3 segments of 10 (arXiv 2510.07151); RATE 9,600 steps, trained on 150 "
        "(arXiv 2306.09459). One thread.\n\nWritten by `python benchmarks/tmaze_million.py`.\n"
    )


def shown(shares: list[float | None]) -> str:
    """Format the success of the seeds."""
    known = [100 * (0.5 if share is None else share) for share in shares]
    if all(share is None for share in shares):
        return "-"
    return f"{min(known):.0f}" if max(known) - min(known) < 0.5 else f"{min(known):.0f} ({np.mean(known):.0f})"


def main() -> int:
    """Complete the runs of all methods, or of some, then write table and raw numbers; those of others stay."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tmaze_million"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", choices=[*METHODS], default=[*METHODS])
    parser.add_argument("--table", type=Path, default=HERE / "tmaze_million.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_data(arguments.out / "data")
    raw = arguments.table.with_suffix(".json")
    known = json.loads(raw.read_text(encoding="utf-8"))["runs"] if raw.exists() else []
    numbers = [run for run in known if run["method"] not in arguments.methods]
    numbers += [
        complete(name, seed, arguments.out / f"{name.replace(', ', '-').replace(' ', '-')}-{seed}")
        for name in arguments.methods
        for seed in range(arguments.seeds)
    ]
    text = table(numbers)
    print(text)
    arguments.table.write_text(text, encoding="utf-8")
    keep(raw, {"runs": numbers})
    return 0


if __name__ == "__main__":
    sys.exit(main())
