"""Tables of docs/scores.md, and the README's, computed again from the raw data that is committed.

    python benchmarks/score_tables.py           # print them
    python benchmarks/score_tables.py --check   # fail if a page has another row

Raw data: one row or entry for each run, in `regen`, `offline_search`, `memory_offline`, `ppo_table.json` and
`reproduce_results`; the tables of other pages are written by the program that they name, from the JSON beside them.
"""

import argparse
import csv
import json
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
Row = Sequence[str]
OFFLINE = {
    "hopper-medium": "Hopper, medium",
    "hopper-medium-replay": "Hopper, medium-replay",
    "hopper-medium-expert": "Hopper, medium-expert",
    "halfcheetah-medium": "HalfCheetah, medium",
    "halfcheetah-medium-replay": "HalfCheetah, medium-replay",
    "halfcheetah-medium-expert": "HalfCheetah, medium-expert",
}
RECALL = {
    "minGRU": "minGRU",
    "LSTM": "LSTM",
    "Mamba": "Mamba",
    "Transformer": "Transformer",
    "Transformer-20": "DT, K=20",
    "Transformer-100": "DT, K=100",
    "frames-4": "MLP, 4 frames",
}
CUES = {
    "t-maze": "T-Maze, 30 steps",
    "delayed-cue": "Delayed Cue, 30 steps",
    "repeat-previous": "Repeat Previous, 32 back",
}
POSITIONS = {task: f"{name}, positions" for task, name in OFFLINE.items() if not task.endswith("-medium")}
ONLINE = {
    "cartpole": "CartPole without velocities, 100,000 steps",
    "pendulum": "Pendulum without velocities, 200,000 steps",
    "repeat_previous": "Repeat Previous 4, 100,000 steps",
}


def mean_and_error(values: Sequence[float], digits: int) -> str:
    """Format mean ± standard error over runs."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    error = statistics.stdev(values) / len(values) ** 0.5
    return f"{statistics.mean(values):.{digits}f} ± {error:.{digits}f}"


def finished(raw: str) -> list[dict[str, str]]:
    """Read the finished runs of a comparison's scores."""
    with (HERE / raw).open(encoding="utf-8") as file:
        return [run for run in csv.DictReader(file) if run["state"] == "done"]


def offline() -> list[Row]:
    """Compute the table of offline scores from `regen/scores.csv`."""
    runs = finished("regen/scores.csv")
    rows: list[Row] = [("data set", "minGRU", "minLSTM", "minGRU, target chosen")]
    for task, name in OFFLINE.items():
        scores = [
            [float(run["score"]) for run in runs if (run["task"], run["method"]) == (task, method)]
            for method in ("minGRU", "minLSTM", "minGRU-chosen-target")
        ]
        rows.append((name, *(mean_and_error(each, 1) for each in scores)))
    return rows


def online() -> list[Row]:
    """Compute the table of recurrent PPO from `ppo_table.json`."""
    runs = json.loads((HERE / "ppo_table.json").read_text(encoding="utf-8"))
    methods = ("minGRU", "LSTM", "minLSTM", "Mamba", "Transformer")
    rows: list[Row] = [("task", *methods)]
    for task, name in ONLINE.items():
        digits = 3 if task.startswith("repeat") else 1
        found = [[r["mean_return"] for r in runs if (r["task"], r["method"]) == (task, m)] for m in methods]
        rows.append((name, *(f"{mean_and_error(each, digits)} ({len(each)})" for each in found)))
    return rows


def search() -> list[Row]:
    """Compute the settings that `minrl compare search` chose, and their scores, from `offline_search/scores.csv`."""
    found: dict[str, dict[str, list[float]]] = {}
    for run in finished("offline_search/scores.csv"):
        method, _, settings = run["method"].partition("+")
        found.setdefault(method, {}).setdefault(settings, []).append(float(run["score"]))
    rows: list[Row] = [("method", "chosen of six", "mean of both sets", "the worst of six")]
    for method, of_settings in found.items():
        means = {settings: statistics.mean(scores) for settings, scores in of_settings.items()}
        best = max(means, key=lambda settings: means[settings])
        rows.append((method, best.replace("+", ", "), f"{means[best]:.1f}", f"{min(means.values()):.1f}"))
    return rows


def recall(raw: str, tasks: dict[str, str], digits: int) -> list[Row]:
    """Compute a table of seven offline methods on tasks that need memory from `memory_offline/RAW.csv`."""
    runs = finished(f"memory_offline/{raw}.csv")
    rows: list[Row] = [("task", *RECALL.values())]
    for task, name in tasks.items():
        found = [[float(r["score"]) for r in runs if (r["task"], r["method"]) == (task, m)] for m in RECALL]
        rows.append((name, *(f"{mean_and_error(each, digits)} ({len(each)})" for each in found)))
    return rows


def memory() -> list[Row]:
    """Compute parity of minGRU and LSTM from `reproduce_results/chomsky.json`."""
    parts = json.loads((HERE / "reproduce_results/chomsky.json").read_text(encoding="utf-8"))["parts"]
    found = []
    for cell in ("minGRU", "LSTM"):
        own = [part["numbers"] for part in parts if part["name"].startswith(f"parity, {cell}, seed")]
        found.append(mean_and_error([numbers["accuracy_by_length"][-1] for numbers in own], 1))
    return [("task", "minGRU", "LSTM"), ("Parity at length 256, trained to 40, %", *found)]


def markdown(rows: Sequence[Row]) -> str:
    """Format as Markdown."""
    head, *body = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|---" * len(rows[0]) + "|", *body])


def missing(tables: Iterable[Sequence[Row]], page: str) -> list[str]:
    """Return the rows whose cells do not begin a row of a page."""
    have = [[cell.strip() for cell in line.strip("| ").split("|")] for line in page.splitlines() if "|" in line]
    rows = [row for table in tables for row in table]
    return [" | ".join(row) for row in rows if not any(line[: len(row)] == list(row) for line in have)]


def main() -> int:
    """Print the tables, or compare them with the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with docs/scores.md")
    arguments = parser.parse_args()
    tables = [offline(), search(), online(), recall("scores", CUES, 2), recall("positions", POSITIONS, 1), memory()]
    if not arguments.check:
        print("\n\n".join(map(markdown, tables)))
        return 0
    page = (HERE.parent / "docs/scores.md").read_text(encoding="utf-8")
    wrong = missing(tables, page)
    print("\n".join(wrong) or "docs/scores.md has the tables of the raw data")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
