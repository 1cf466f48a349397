"""Kill runs at chosen calls and at random moments, resume them, and compare them with runs that were not killed.

    python tests/faults/kills.py --kills 1000 --json tests/faults/kills.json

Half of the kills fall before the n-th writing call (open, write, rename, link, unlink, fsync …) on the run's folder,
the others at a random moment; a fourth of the runs are killed again as they go on. The table counts them by kind, with
those of earlier commands in the same file: choose another seed for each.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from equality import differences
from scenarios import CELLS, Scenario

HERE = Path(__file__).parent
ONLINE = ("masks", "critic", "sac")  # beside PPO
ALL = [
    *(Scenario(kind, cell, 1) for kind in ("decision", "clone", "ppo") for cell in CELLS),
    *(Scenario(kind, cell, 2) for kind in ("decision", "clone", "ppo") for cell in ("mingru", "lstm")),
    *(Scenario(kind, "mingru", threads) for kind in ("relabel", "distill", "compare") for threads in (1, 2)),
    *(Scenario(kind, cell, 1) for kind in ONLINE for cell in ("mingru", "lstm")),
]


def build_shim(folder: Path) -> Path:
    """Compile the library that is preloaded."""
    library = folder / "shim.so"
    subprocess.run(
        ["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl"], check=True, capture_output=True
    )
    return library


class Server:
    """Server of forked commands with its own home, data set and caches in `folder`."""

    def __init__(self, folder: Path, warm_up: Sequence[Sequence[str]] = ()) -> None:
        self.folder = folder
        places = {"HOME": "home", "MINRL_CACHE": "cache", "MINARI_DATASETS_PATH": "minari", "TMPDIR": "tmp"}
        for name in places.values():
            (folder / name).mkdir(parents=True, exist_ok=True)
        own = {name: str(folder / place) for name, place in places.items()}
        threads = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "2", "MKL_NUM_THREADS": "1"}
        environment = os.environ | own | threads | {"LD_PRELOAD": str(build_shim(folder)), "MINRL_MATMUL": "torch"}
        self.log = folder / "server.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "fork_server.py", json.dumps(warm_up)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, text=True,
            )  # fmt: skip
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(self.log.read_text())

    def run(self, words: Sequence[str], out: Path, action: str = "count", **options: Any) -> dict[str, Any]:
        """Run a command whose writing calls below `out` are counted, and fail as `action` says."""
        log = self.folder / "command.log"
        log.write_bytes(b"")
        answer = self._ask({"words": list(words), "folder": str(out), "log": str(log), "action": action, **options})
        return answer | {"said": log.read_text(encoding="utf-8", errors="replace")}

    def warm_up(self, words: Sequence[str]) -> None:
        """Run a command in the server itself, so that its kernels are loaded once for all later commands."""
        self._ask({"warm": list(words)})

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            code = self.process.wait()
            raise RuntimeError(f"the server ended with {code}: {self.log.read_text(errors='replace')[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the server."""
        self.process.kill()
        self.process.communicate()


@contextmanager
def server(folder: Path | None = None) -> Iterator[tuple[Server, str]]:
    """Serve commands, with a data set of random play in CartPole; yield the server and the data set's name."""
    with tempfile.TemporaryDirectory(prefix="minrl-faults-") as temporary:
        place = folder or Path(temporary)
        place.mkdir(exist_ok=True)
        data = "minari:faults/cartpole-v0"
        collect = f"collect --env CartPole-v1 --policy random --episodes 8 --out {data}".split()
        started = Server(place, [collect])
        try:
            yield started, data
        finally:
            started.close()


@dataclass
class Tally:
    """Results of the kills of one scenario."""

    kills: int = 0
    runs: int = 0
    at_calls: int = 0  # of the kills; the others fell at random moments
    failures: list[str] = field(default_factory=list)


class Killer:
    """Runs of scenarios that are killed, beside ones that are not.

    Args:
        server: that runs them.
        data: name of the data set.
        folder: for the runs.
        seed: of the places of the kills.
    """

    def __init__(self, server: Server, data: str, folder: Path, seed: int) -> None:
        self.server, self.data, self.folder, self.random = server, data, folder, random.Random(seed)
        self.whole: dict[Scenario, tuple[Path, int, float]] = {}
        self.warm: set[Scenario] = set()
        self.tallies: dict[Scenario, Tally] = defaultdict(Tally)

    def reference(self, scenario: Scenario) -> tuple[Path, int, float]:
        """Return the folder of a run that was not killed, its number of writing calls and its seconds."""
        if scenario not in self.whole:
            out = self.folder / "whole" / scenario.name
            out.parent.mkdir(exist_ok=True)
            # One thread: a process that has started threads cannot be forked.
            alone, warm = replace(scenario, threads=1), self.folder / "warm-ups" / scenario.name
            warm.parent.mkdir(exist_ok=True)
            if alone not in self.warm:
                self.server.warm_up(alone.words(warm, self.data))
                self.warm.add(alone)
            done = self.server.run(scenario.words(out, self.data), out)
            if done["code"] != 0:
                raise RuntimeError(f"{scenario.name}: {done['said']}")
            self.whole[scenario] = out, done["calls"], done["seconds"]
        return self.whole[scenario]

    def kill(self, scenario: Scenario, calls: Sequence[int | None]) -> list[str]:
        """Compare a run that is killed before its n-th writing call, for each of `calls` (None: at a random moment).

        Returns:
            What is wrong with it.
        """
        whole, _, seconds = self.reference(scenario)
        tally, out = self.tallies[scenario], self.folder / "killed" / scenario.name
        shutil.rmtree(out, ignore_errors=True)
        out.parent.mkdir(exist_ok=True)
        tally.runs += 1
        for call in calls:
            where = {"after": self.random.uniform(0, seconds)} if call is None else {"call": call}
            action = "count" if call is None else "kill"
            done = self.server.run(scenario.words(out, self.data), out, action, **where)
            if done["code"] == -9:
                tally.kills += 1
                tally.at_calls += call is not None
            elif done["code"] != 0:
                break
        else:
            done = self.server.run(scenario.words(out, self.data), out)
        wrong = [] if done["code"] == 0 else [f"exit code {done['code']}: {done['said'][-600:]}"]
        wrong = wrong or differences(whole, out)
        if wrong:
            tally.failures.append(f"{scenario.name} killed at {list(calls)}: {'; '.join(wrong)}")
        return wrong

    def places(self, scenario: Scenario) -> list[int | None]:
        """Draw where a run is killed."""
        _, count, _ = self.reference(scenario)
        times = 2 if self.random.random() < 0.25 else 1
        return [None if self.random.random() < 0.5 else self.random.randrange(count) for _ in range(times)]


def table(tallies: dict[Scenario, Tally]) -> str:
    """Format the results as Markdown, one row a kind and number of threads."""
    rows: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for scenario, tally in tallies.items():
        row = rows[scenario.kind, scenario.threads]
        row.update(kills=tally.kills, calls=tally.at_calls, runs=tally.runs, different=len(tally.failures), cells=1)
    lines = [
        "| kind | threads | cells | runs | SIGKILLs | of these before a call | not equal to the bit |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows["all", 0] = sum(rows.values(), Counter())
    for (kind, threads), row in rows.items():
        first = ["", ""] if kind == "all" else [str(threads), str(row["cells"])]
        numbers = [f"{row[name]:,}" for name in ("runs", "kills", "calls", "different")]
        lines.append(f"| {' | '.join([kind, *first, *numbers])} |")
    return "\n".join(lines)


def load(path: Path | None) -> dict[Scenario, Tally]:
    """Read the results of earlier commands."""
    found: dict[Scenario, Tally] = defaultdict(Tally)
    if path is not None and path.exists():
        for name, values in json.loads(path.read_text(encoding="utf-8")).items():
            kind, cell, threads = name.split("-")
            found[Scenario(kind, cell, int(threads))] = Tally(**values)
    return found


def save(path: Path, tallies: dict[Scenario, Tally]) -> None:
    """Write the results, and their table beside them."""
    ordered = sorted(tallies.items(), key=lambda item: (item[0].kind, item[0].threads, item[0].cell))
    results = {scenario.name: asdict(tally) for scenario, tally in ordered}
    for file, text in ((path, json.dumps(results, indent=1)), (path.with_suffix(".md"), table(dict(ordered)))):
        draft = file.with_suffix(".new")
        draft.write_text(text + "\n", encoding="utf-8")
        draft.replace(file)


def main() -> int:
    """Execute the command; return 1 if a run differs from one that was not killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file of the results; those that it holds are counted on")
    parser.add_argument("--kinds", default=",".join(dict.fromkeys(scenario.kind for scenario in ALL)))
    parser.add_argument("--folder", type=Path, help="for the runs, kept (default: a temporary one)")
    arguments = parser.parse_args()
    scenarios = [scenario for scenario in ALL if scenario.kind in arguments.kinds.split(",")]
    with server(arguments.folder) as (started, data):
        killer = Killer(started, data, started.folder, arguments.seed)
        killer.tallies = load(arguments.json)
        while sum(tally.kills for tally in killer.tallies.values()) < arguments.kills:
            scenario = killer.random.choice(scenarios)
            for text in killer.kill(scenario, killer.places(scenario)):
                print(f"{scenario.name}: {text}", flush=True)
            if arguments.json:
                save(arguments.json, killer.tallies)
    print(table(killer.tallies))
    return 1 if any(tally.failures for tally in killer.tallies.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
