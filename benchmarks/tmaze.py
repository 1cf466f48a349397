"""T-Maze with a corridor of 1000 steps: share of right turns at its end, and cost of an action over time.

    python benchmarks/tmaze.py [--out runs/tmaze] [--seeds 3] [--episodes 200] [--table benchmarks/tmaze.md]

One data set for all: episodes of a perfect guide, in corridors of 10 to 1000 steps. Every agent is a plain `minrl train
clone` on it and a plain `minrl evaluate` in the longest; finished runs are skipped. Then the agents of seed 0 act in
turn, one environment each, and the CPU time of every action is measured. Success is the share of right turns in the
evaluation's episodes, averaged over both cues, so that always turning to one side scores 50 %.
"""

import argparse
import json
import os
import resource
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

import minrl
from minrl.collect.record import record
from minrl.data import EnvironmentInfo, make_environment
from minrl.data.minari.writer import record_set
from minrl.play import Player
from minrl.system.files import replacing

HERE = Path(__file__).resolve().parent
TASK, DATA = "minrl/TMaze1000-v0", "tmaze/guide-v0"
LENGTH, EPISODES, SHORTEST = 1000, 300, 10
RIGHT, UP, DOWN, JUNCTION, CUE_UP = 0, 1, 3, 1, 2  # as in envs/tmaze.py
SMALL = ["--width", "64", "--depth", "1", "--dropout", "0", "--threads", "1", "--evaluate-every", "0"]
# A corridor is learned within some steps, and its gradient is ten thousand times that of the turn at its end: clipped
# to the turn's, it does not dominate Adam's second moments.
STEPS = ["--steps", "500", "--learning-rate", "3e-3", "--clip", "1e-3"]
WHOLE = ["--batch-size", "8", "--length", str(LENGTH + 1)]
# Log-odds of keeping the state at the start of training, from one unit to the other: half of it is left after 5 to
# 2000 steps, where the default's is gone after 2 to 9. Only our cells have the option, and the corridor's length is
# known to it: the table says so.
LONG = ["--cell-options", "hold=[2,8]"]
ATTENTION = ["--cell", "transformer", "--cell-options", "context=100", "--conv", "0"]
# One layer of attention reads the same 100 steps from its carried keys and values as from a rescanned window.
WINDOWS = ["--batch-size", "80", "--context", "100", "--no-refeed"]


@dataclass(frozen=True)
class Method:
    """Row of the table: training options, and the steps that the agent can look back."""

    sees: str
    flags: list[str]


METHODS = {
    "minGRU": Method("the episode", ["--cell", "mingru", *LONG, *WHOLE]),
    "minLSTM": Method("the episode", ["--cell", "minlstm", *LONG, *WHOLE]),
    "Transformer, window of 100": Method("100 steps", [*ATTENTION, *WINDOWS]),
    "no memory": Method("the present", ["--no-recurrent", *WHOLE]),
}


class Guide:
    """Policy that walks to the junction and turns to the cue's side."""

    name = "guide"

    def start(self, seed: int) -> None:
        """Forget the last episode."""
        self.cue: int | None = None

    def act(self, observation: Any) -> int:
        """Map one observation to one action."""
        if self.cue is None:
            self.cue = int(observation)
        if observation != JUNCTION:
            return RIGHT
        return UP if self.cue == CUE_UP else DOWN


def write_data(folder: Path) -> None:
    """Write the data set into `folder` if it is missing: every tenth corridor has full length."""
    folder.mkdir(parents=True, exist_ok=True)
    os.environ["MINARI_DATASETS_PATH"] = str(folder.resolve())
    if (folder / DATA).exists():
        return
    lengths = np.geomspace(SHORTEST, LENGTH, EPISODES).round().astype(int)
    lengths[::10] = LENGTH
    with record_set(DATA, make_environment(EnvironmentInfo(TASK))) as writer:
        for number, length in enumerate(tqdm(lengths.tolist(), desc="corridors", unit="episode")):
            environment = make_environment(EnvironmentInfo("minrl/TMaze-v0", {"length": length}))
            record(writer, environment, [Guide()], 1, number, False)


def command(*words: object) -> tuple[str, float]:
    """Run `minrl` with `words`; return its standard output and CPU seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [sys.executable, "-m", "minrl.agents", *map(str, words)]
    done = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return done.stdout, (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def complete(name: str, seed: int, run: Path, episodes: int) -> dict[str, Any]:
    """Return the result of one run, trained and evaluated if it is missing; an interrupted run starts again."""
    result, trained = run / "result.json", run / "training.json"
    if result.exists():
        numbers: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
        if numbers["episodes"] == episodes:
            return numbers
    if not trained.exists():
        shutil.rmtree(run, ignore_errors=True)
        flags = [*METHODS[name].flags, *SMALL, *STEPS]
        _, seconds = command("train", "clone", *flags, "--data", f"minari:{DATA}", "--seed", seed, "--out", run)
        trained.write_text(json.dumps({"cpu_seconds": seconds}), encoding="utf-8")
    text, _ = command("evaluate", run, "--episodes", episodes, "--environments", 100, "--threads", 1, "--json")
    evaluation = json.loads(text)
    numbers = {
        "method": name,
        "seed": seed,
        "episodes": episodes,
        **success(evaluation),
        "parameters": evaluation["parameters"],
        "training_cpu_seconds": json.loads(trained.read_text(encoding="utf-8"))["cpu_seconds"],
        "versions": evaluation["versions"],
    }
    with replacing(result) as temporary:
        temporary.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    print(f"{name:<28} seed {seed}: success {numbers['success']:.3f}", flush=True)
    return numbers


def success(evaluation: dict[str, Any]) -> dict[str, float]:
    """Return the share of right turns for cue up and for cue down, and their mean."""
    environment = make_environment(EnvironmentInfo(TASK))
    up = np.array([environment.reset(seed=seed)[0] == CUE_UP for seed in evaluation["seeds"]])
    right = np.array(evaluation["returns"]) > 0.5
    shares = {"cue_up": float(right[up].mean()), "cue_down": float(right[~up].mean())}
    return {"success": (shares["cue_up"] + shares["cue_down"]) / 2, **shares}


def action_times(runs: dict[str, Path], rounds: int) -> dict[str, np.ndarray[Any, Any]]:
    """Measure CPU microseconds of each action of an episode, the median of `rounds` interleaved episodes."""
    agents = {name: minrl.load(run) for name, run in runs.items()}
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, agent in agents.items():
            episode = played(agent, number)
            if number:  # the first one compiles
                times[name].append(episode)
    return {name: np.median(np.array(episodes), axis=0) for name, episodes in times.items()}


def played(agent: Any, seed: int) -> list[float]:
    """Walk an agent down the corridor, whatever it chooses; return the CPU microseconds of each action."""
    environment, player = make_environment(EnvironmentInfo(TASK)), Player(agent, 1)
    observation, _ = environment.reset(seed=seed)
    reward, times = 0.0, []
    for step in range(LENGTH):
        begin = time.process_time_ns()
        player.act(np.array([observation]), [reward], [step == 0])
        times.append((time.process_time_ns() - begin) / 1e3)
        observation, value, *_ = environment.step(RIGHT)
        reward = float(value)
    return times


def table(numbers: list[dict[str, Any]], times: dict[str, Any], arguments: argparse.Namespace) -> str:
    """Format the table as Markdown, with its protocol."""
    heads = (
        "agent",
        "sees",
        "success, %",
        "seeds",
        "µs an action, steps 1 to 100",
        "steps 901 to 1000",
        "late ÷ early",
    )
    lines = [f"| {' | '.join(heads)} | parameters | training, CPU s |", "|---|---|---|---|---|---|---|---|---|"]
    for name, method in METHODS.items():
        own = [n for n in numbers if n["method"] == name]
        early, late = (float(np.median(times[name][part])) for part in (slice(0, 100), slice(LENGTH - 100, LENGTH)))
        success = np.array([100 * n["success"] for n in own])
        each = ", ".join(f"{s:.1f}" for s in success)
        cpu = np.mean([n["training_cpu_seconds"] for n in own])
        lines.append(
            f"| {name} | {method.sees} | {success.mean():.1f} | {each} | {early:.0f} | {late:.0f} | {late / early:.2f} "
            f"| {own[0]['parameters']:,} | {cpu:.0f} |"
        )
    versions = ", ".join(f"{name} {numbers[0]['versions'][name]}" for name in ("minrl", "torch", "gymnasium"))
    flags = "\n".join(f"    minrl train clone {shlex.join([*m.flags, *SMALL, *STEPS])} …" for m in METHODS.values())
    return (
        f"# T-Maze, a corridor of {LENGTH} steps\n\n" + "\n".join(lines) + "\n\n"
        f"`{TASK}`, passive: the cue is seen at the first step alone, the turn is the last. Success: right turns, the "
        f"mean over both cues, in {arguments.episodes} numbered episodes for each of {arguments.seeds} seeds, last "
        f"checkpoint, likeliest actions. All clone the same {EPISODES} episodes of a guide in corridors of {SHORTEST} "
        f"to {LENGTH} steps, every tenth of {LENGTH}: minGRU, minLSTM and the MLP without memory from whole episodes, "
        "the Transformer, of one layer, from windows of 100 steps. minGRU and minLSTM start with gates that keep half "
        "of the state for up to 2000 steps (`hold=[2,8]`, chosen for this corridor; the others have no such option), "
        "not with their defaults. Time of an action in one environment: CPU time, one "
        f"thread, median of {arguments.rounds} episodes in turn; one compiled call for minGRU and minLSTM, torch "
        f"operations for the others. CPU seconds are those of the whole command. CPU; {versions}.\n\n"
        f"{flags}\n\nWritten by `python benchmarks/tmaze.py`.\n"
    )


def plot(numbers: list[dict[str, Any]], times: dict[str, Any], path: Path) -> None:
    """Plot success of each seed, and the time of an action along the episode."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for place, name in enumerate(METHODS):
        color = f"C{place}"
        success = [100 * n["success"] for n in numbers if n["method"] == name]
        left.plot(success, [place] * len(success), "o", color=color, markersize=8, alpha=0.7, clip_on=False)
        bins = np.median(times[name].reshape(-1, 20), axis=1)
        right.plot(np.arange(10, LENGTH, 20), bins, color=color, label=name)
    left.axvline(50, color="0.6", linewidth=1, linestyle="--")
    left.set(xlim=(0, 100), xlabel=f"success after {LENGTH} steps, %", yticks=range(len(METHODS)))
    left.set_yticklabels(list(METHODS))
    left.invert_yaxis()
    right.set(yscale="log", xlabel="step of the episode", ylabel="CPU time of an action, µs")
    figure.legend(loc="outside lower center", ncols=len(METHODS), frameon=False, fontsize=9)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def main() -> int:
    """Complete all runs, time the actions, then write table, numbers and plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tmaze"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--episodes", type=int, default=200, help="of an evaluation")
    parser.add_argument("--rounds", type=int, default=9, help="episodes in which actions are timed")
    parser.add_argument("--table", type=Path, default=HERE / "tmaze.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    write_data(arguments.out / "data")
    runs = {
        (n, s): arguments.out / f"{n.replace(', ', '-').replace(' ', '-')}-{s}"
        for s in range(arguments.seeds)
        for n in METHODS
    }
    numbers = [complete(name, seed, run, arguments.episodes) for (name, seed), run in runs.items()]
    times = action_times({name: runs[name, 0] for name in METHODS}, arguments.rounds)
    text = table(numbers, times, arguments)
    print(text)
    arguments.table.write_text(text, encoding="utf-8")
    record_of = {"runs": numbers, "action_us": {name: np.round(t, 1).tolist() for name, t in times.items()}}
    arguments.table.with_suffix(".json").write_text(json.dumps(record_of) + "\n", encoding="utf-8")
    plot(numbers, times, arguments.table.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
