"""Grids whose runs take a second, and readers of their folders."""

import json
from pathlib import Path
from typing import Any

import torch

from minrl.runs import checkpoint
from minrl.runs.folder import BEST_CHECKPOINT, LAST_CHECKPOINT
from minrl.runs.log import STEP, TIMESTEPS, read_log

OFFLINE = """
[offline.decision]
width = 16
depth = 1
[offline.train]
steps = {steps}
batch_size = 2
length = 32
log_every = 5
checkpoint_every = {every}
evaluate_every = {steps}
evaluate_episodes = 2
target_sweep = "none"
"""
ONLINE = """
[online.ppo]
width = 8
depth = 1
[online.train]
n_envs = 2
n_steps = 16
batch_size = 16
n_epochs = 2
steps = {online_steps}
checkpoint_every = 64
evaluate_every = {online_steps}
evaluate_episodes = 2
"""


def both(cartpole: str, seeds: int = 1) -> str:
    """Return a grid of one cell on a data set and in an environment."""
    return f"""
cells = ["mingru"]
seeds = {seeds}
[tasks.data]
data = "{cartpole}"
[tasks.world]
env = "minrl/RepeatPrevious-v0"
low = -0.5
high = 1.0
"""


def grid(folder: Path, text: str, *, steps: int = 20, every: int = 5, online_steps: int = 96) -> Path:
    """Write a grid file of `text` with tiny settings."""
    tables = (OFFLINE + ONLINE).format(steps=steps, every=every, online_steps=online_steps)
    path = folder / "grid.toml"
    path.write_text(f"{text}\n{tables}", encoding="utf-8")
    return path


def state(out: Path) -> dict[str, Any]:
    """Return the state of each run, without the file's checksum."""
    values: dict[str, Any] = json.loads((out / "state.json").read_text())
    return {name: value for name, value in values.items() if name != "crc32"}


def evaluation(run: Path) -> Any:
    return json.loads((run / "summary.json").read_text())["evaluation"]


def runs(out: Path) -> list[str]:
    """List the folders of the finished runs."""
    return sorted(str(path.parent.relative_to(out / "runs")) for path in out.glob("runs/*/*/*/summary.json"))


def assert_same(one: Path, other: Path) -> None:
    """Check that two comparisons have equal scores, weights, logs except for times, and reports."""
    assert runs(one) == runs(other) != []
    for name in runs(one):
        a, b = one / "runs" / name, other / "runs" / name
        assert evaluation(a) == evaluation(b), name
        for file in (LAST_CHECKPOINT, BEST_CHECKPOINT):
            first, second = checkpoint.read(a / file), checkpoint.read(b / file)
            assert first.step == second.step
            assert [n for n in first.weights if not torch.equal(first.weights[n], second.weights[n])] == [], name
        counter = TIMESTEPS if checkpoint.read(a).agent == "ppo" else STEP
        rows = [read_log(run, counter) for run in (a, b)]
        kept = [
            [{k: v for k, v in r.items() if k == counter or not k.startswith("time/")} for r in log] for log in rows
        ]
        assert kept[0] == kept[1] != [], name
    for file in ("report.md", "scores.csv"):
        assert (one / "report" / file).read_text() == (other / "report" / file).read_text()
