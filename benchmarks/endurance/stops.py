"""Seconds from SIGTERM to the exit of a training or a comparison, in each of its phases, and that it goes on after.

    python benchmarks/endurance/stops.py [--signals 10] [--only validation compare]

Settings make one phase nearly all of a run: gradient steps, long ones, validations, evaluations, those at many target
returns, rollouts and updates of PPO, steps of SAC, a comparison. The signal comes at a random moment of the first four
seconds after the run has begun or resumed, and the same command goes on for the next signal. Every process must end by
the signal, and no checkpoint may lie before the one that was resumed. The exit code is 1 otherwise, or if an exit takes
more than 5 CPU seconds.
"""

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from actions import save

from minrl.runs.checkpoint import read
from minrl.runs.folder import LAST_CHECKPOINT

HERE = Path(__file__).resolve().parent
BOUND = 5.0  # CPU seconds
MOMENTS = 4.0  # seconds after the beginning in which a signal comes
DATA = "minari:minrl/hopper/medium-replay-v0"
_OFFLINE = f"decision --data {DATA} --steps 100000 --threads 1 --checkpoint-every 5 --evaluate-episodes 10"
_ALONE = f"{_OFFLINE} --evaluate-every 0"
_PPO = "--env CartPole-v1 --steps 10000000 --threads 1 --evaluate-every 0 --vectorization sync --no-config"
PHASES = {
    "gradient steps": f"{_ALONE} --batch-size 8 --length 500",
    "long gradient steps": f"{_ALONE} --width 256 --depth 4 --batch-size 64 --length 1000",
    "validation": f"{_ALONE} --batch-size 64 --length 1000 --width 256 --validation 0.9 --validate-every 1",
    "evaluation": f"{_OFFLINE} --batch-size 2 --length 50 --evaluate-every 1 --evaluate-episodes 100",
    "evaluation at many returns": f"{_OFFLINE} --batch-size 2 --length 50 --evaluate-every 1 --target-sweep all",
    "PPO": f"ppo {_PPO} --n-envs 8 --n-steps 2048 --n-epochs 10",
    "PPO, evaluation": f"ppo {_PPO} --n-envs 2 --n-steps 32 --evaluate-every 64 --evaluate-episodes 200",
    "SAC": "sac --env Pendulum-v1 --no-config --steps 1000000 --threads 1 --learning-starts 64 --evaluate-every 0",
}
_GRID = f"""title = "stopped"
cells = ["mingru", "gru"]
seeds = 50
[tasks.hopper]
data = "{DATA}"
[tasks.cartpole]
env = "CartPole-v1"
low = 0.0
high = 500.0
[offline.train]
steps = 20
batch_size = 8
length = 500
checkpoint_every = 5
evaluate_every = 10
evaluate_episodes = 20
threads = 1
[online.train]
n_envs = 8
n_steps = 512
steps = 100000
vectorization = "sync"
threads = 1
"""


def words_of(phase: str, out: Path) -> list[str]:
    """Return the command that begins or resumes a phase in `out`."""
    if phase == "compare":
        grid = out.with_suffix(".toml")
        grid.write_text(_GRID, encoding="utf-8")
        return ["compare", str(grid), "--out", str(out)]
    if (out / LAST_CHECKPOINT).exists():
        return ["train", "--resume", str(out)]
    return ["train", *PHASES[phase].split(), "--out", str(out)]


def begun(out: Path) -> int:
    """Return the number of times that a run below `out` opened TensorBoard's log, which is when it starts to train."""
    return sum(1 for _ in out.rglob("*tfevents*"))


def progress(out: Path) -> int:
    """Return the step of the last checkpoint; for a comparison, the number of finished runs."""
    if (out / LAST_CHECKPOINT).exists():
        return read(out).step
    return sum(1 for _ in out.rglob("summary.json"))


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def is_over(pid: int) -> bool:
    """Return True if a child has ended and is not waited for."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def stopped(words: list[str], out: Path, wait: float) -> dict[str, Any]:
    """Run a command, send SIGTERM `wait` seconds after it began to train, and return how it ended."""
    before, log = begun(out), out.with_suffix(".log")
    with log.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-m", "minrl.agents", *words], stdout=file, stderr=file)
        while begun(out) == before and not is_over(process.pid):
            time.sleep(0.05)
        time.sleep(wait)
        before_cpu = cpu_seconds(process.pid)
        process.send_signal(signal.SIGTERM)
        start = time.monotonic()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    tail = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    return {
        "seconds": time.monotonic() - start,
        "cpu_seconds": used.ru_utime + used.ru_stime - before_cpu,
        "code": process.returncode,
        "said": "".join(tail),
    }


def measure(phase: str, signals: int, seed: int = 0) -> dict[str, Any]:
    """Stop and resume one run `signals` times.

    Returns:
        Seconds of each exit, what went wrong, and how far the run came.
    """
    draw, last = random.Random(f"{seed} {phase}"), 0
    seconds, cpu, wrong = list[float](), list[float](), list[str]()
    with tempfile.TemporaryDirectory(prefix="minrl-stops-") as place:
        out = Path(place) / "run"
        for number in range(signals):
            done = stopped(words_of(phase, out), out, draw.uniform(0, MOMENTS))
            seconds.append(round(done["seconds"], 2))
            cpu.append(round(done["cpu_seconds"], 2))
            now = progress(out)
            if done["code"] not in (128 + signal.SIGTERM, -signal.SIGTERM) or now < last:
                wrong.append(f"signal {number}: exit code {done['code']}, {last} -> {now}: {done['said']}")
            last = now
    load = round(os.getloadavg()[1] / (os.cpu_count() or 1), 1)
    return {"seconds": seconds, "cpu_seconds": cpu, "load": load, "wrong": wrong, "reached": last}


def table(rows: dict[str, Any]) -> str:
    """Format the results as Markdown."""
    lines = [
        "# SIGTERM",
        "",
        "| in | signals | CPU, median s | longest | wall, median s | longest | load of a core | wrong |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for phase, row in rows.items():
        numbers = [f"{of(row[name]):.1f}" for name in ("cpu_seconds", "seconds") for of in (statistics.median, max)]
        lines.append(
            f"| {phase} | {len(row['seconds'])} | {' | '.join(numbers)} | {row['load']} | {len(row['wrong'])} |"
        )
    note = (
        "Seconds from the signal to the end of the process, whose last checkpoint is then resumed for the next signal; "
        "one thread. On a machine whose cores have a load of n, wall time is up to n times the CPU time. Written by "
        "`python benchmarks/endurance/stops.py`."
    )
    return "\n".join([*lines, "", note, ""])


def main() -> int:
    """Measure all phases, and write file and table."""
    names = [*PHASES, "compare"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--signals", type=int, default=10, help="in each phase (default: 10)")
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="PHASE")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=HERE / "stops.json")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    path: Path = arguments.json
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for phase in arguments.only:
        rows[phase] = measure(phase, arguments.signals, arguments.seed)
        print(phase, rows[phase], flush=True)
        ordered = {name: rows[name] for name in names if name in rows}
        save(path, json.dumps(ordered, indent=1) + "\n")
        save(path.with_suffix(".md"), table(ordered))
    return int(any(row["wrong"] or max(row["cpu_seconds"]) > BOUND for row in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
