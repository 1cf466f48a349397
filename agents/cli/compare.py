"""`minrl compare`: methods on tasks over seeds, with a report."""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from minrl.compare.grid.at_budget import within
from minrl.compare.grid.budget import parsed
from minrl.compare.grid.part import part_of
from minrl.compare.grid.plan import ComparisonPlan
from minrl.compare.grid.read import read_grid
from minrl.compare.report.report import write_report
from minrl.compare.run.ray import Cluster
from minrl.compare.run.runner import Backend, Families, Survey, changed_runs, check_unchanged, compare, run_here, survey
from minrl.compare.run.speeds import Speeds
from minrl.compare.stats.statistics import check_installed
from minrl.runs.folder import GRID, run_lock
from minrl.system.shipped_configs import find_config
from minrl.system.trust import add_trust

from .families import families

EXAMPLES = """examples:
  minrl compare smoke
  minrl compare regen --out runs/regen --seeds 3 --on ray --workers 2
  minrl compare d4rl --dry-run
  minrl compare main --methods minGRU LSTM --tasks hopper-medium-replay
  minrl compare memory --on ray --address ray://head:10001 --out /shared/memory
  minrl compare runs/regen --report-only

a grid in short:
  cells = ["mingru", "transformer"]
  seeds = 3
  [tasks.hopper]
  data = "minari:minrl/hopper/medium-replay-v0"
  [tasks.cartpole]
  env = "minrl/CartPoleNoVel-v1"
  [offline.train]
  steps = 1000
  [sweep]
  learning_rate = [1e-3, 3e-3]     # each combination of the lists' values is a method
  [budget]
  data_steps = 6_000_000           # or cpu_seconds = 600: as many steps as that allows

Settings come in layers, later ones override: the agent's defaults, [offline.*] or [online.*],
[tasks.NAME.*], [methods.NAME.offline.*] or [methods.NAME.online.*], [methods.NAME.tasks.TASK.*];
* is a table of `minrl train --config` (decision, clone, offline_sac, ppo, sac, train). A layer
may also name a config file, config = "FILE", which its own tables override, and an agent,
agent = "clone". PPO's settings in [online.train] are not SAC's: those go to its method.

The same command again skips finished runs and resumes interrupted ones, with the same results."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `minrl compare`."""
    parser.usage = "minrl compare GRID.toml [--out FOLDER] [--seeds N] [--on here|ray] [flags]"
    parser.epilog = EXAMPLES
    parser.add_argument(
        "grid",
        metavar="GRID",
        type=Path,
        help="a grid file or a shipped grid; with --report-only also a comparison's folder",
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, help="folder of runs and report (default: runs/compare/GRID)"
    )
    parser.add_argument("--seeds", metavar="N", type=int, help="number of seeds, instead of the grid's")
    parser.add_argument("--methods", metavar="NAME", nargs="+", default=[], help="train these methods alone")
    parser.add_argument("--tasks", metavar="NAME", nargs="+", default=[], help="train on these tasks alone")
    parser.add_argument(
        "--budget",
        metavar="NAME=N",
        help="budget of every run instead of the grid's: data_steps=6e6 or cpu_seconds=600",
    )
    parser.add_argument("--redo", action="store_true", help="remove and retrain runs whose settings have changed")
    parser.add_argument("--dry-run", action="store_true", help="list runs, their state and CPU hours without training")
    parser.add_argument("--report-only", action="store_true", help="write the report of finished runs without training")
    add_trust(parser, "make whatever environments the grid and its data sets name")
    where = parser.add_argument_group("where runs are trained")
    where.add_argument(
        "--on",
        choices=("here", "ray"),
        default="here",
        help="here: one after another in this process; ray: on Ray (default: here)",
    )
    where.add_argument(
        "--address",
        metavar="ADDRESS",
        help="Ray cluster whose machines share --out: ray://HOST:PORT or HOST:PORT (default: this machine)",
    )
    where.add_argument("--workers", metavar="N", type=int, help="runs at once on Ray (default: as many as fit)")
    where.add_argument("--cpus-per-run", metavar="X", type=float, default=1.0, help="CPUs of a run on Ray (default: 1)")
    where.add_argument(
        "--gpus-per-run", metavar="X", type=float, default=0.0, help="GPUs of a run, such as 0.25 (default: 0)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run a comparison and write its report; return 0, 1 if a run failed, 128 + n after signal n."""
    if arguments.report_only:
        return _report(arguments)
    backend = _backend(arguments)
    kinds = families()
    plan = read_grid(find_config(arguments.grid, "grid"), kinds, seeds=arguments.seeds)
    out = _out(arguments)
    if arguments.budget is not None:
        asked = parsed(arguments.budget)
        plan = replace(plan, budget=asked if plan.budget is None else asked.with_evaluations(plan.budget.evaluations))
    part_of(plan, arguments.methods, arguments.tasks)  # a wrong name is found before anything is measured
    speeds = Speeds(kinds, out)
    if arguments.dry_run:
        part = part_of(within(plan, kinds, speeds.seconds_of_step), arguments.methods, arguments.tasks)
        found = survey(part, kinds, out, looks_only=True)
        _list(found, part, out, changed_runs(part, kinds, out))
        print(_estimate(found, speeds))
        return 0
    check_installed()
    with run_lock(out):
        plan = within(plan, kinds, speeds.seconds_of_step)
        speeds.save()
        part = part_of(plan, arguments.methods, arguments.tasks)
        check_unchanged(plan, kinds, out, redo=part.runs if arguments.redo else ())
        return _compare(plan, part, kinds, out, backend)


def _estimate(found: Survey, speeds: Speeds) -> str:
    """Format the CPU hours of the runs to do, and of each method: a method's runs of a sweep are summed."""
    hours = [(run.method.partition("+")[0], speeds.hours(run)) for run in found.to_do]
    known = [number for _, number in hours if number is not None]
    unknown = len(hours) - len(known)
    of_method: dict[str, float] = {}
    for method, number in hours:
        of_method[method] = of_method.get(method, 0.0) + (number or 0.0)
    shares = sorted(((number, method) for method, number in of_method.items() if number), reverse=True)
    parts = "".join(f"\n  {method}: {number:.2g}" for number, method in shares) if len(shares) > 1 else ""
    rest = f"; {unknown} without an estimate, as only their environment could tell" if unknown else ""
    return (
        f"estimate: {sum(known):.2g} CPU hours for {len(known)} runs to do, on one thread of this machine, with what "
        f"evaluations take to act but not the environments' own time{rest}{parts}"
    )


def _compare(plan: ComparisonPlan, part: ComparisonPlan, kinds: Families, out: Path, backend: Backend) -> int:
    found = survey(part, kinds, out)
    for reason in dict.fromkeys(found.skipped.values()):
        print(f"skipped: {reason}", file=sys.stderr)
    if not found.done and not found.to_do:
        raise ValueError("nothing to compare: no data set or environment of the grid is available here")
    print(f"{plan.title}: {_counts(plan, found)}; runs in {out}", flush=True)
    finish = compare(plan, kinds, out, backend, found)
    if finish.signal is not None:
        print("stopped, running work is saved; the same command resumes, --report-only reports finished runs")
        return 128 + finish.signal
    print(f"\n{write_report(out)}")
    for key, reason in finish.failed.items():
        print(f"failed: {key}: {reason} (see its log.txt)", file=sys.stderr)
    return 1 if finish.failed else 0


def _counts(plan: ComparisonPlan, found: Survey) -> str:
    size = f"methods x tasks x seeds = {len(plan.methods)} x {len(plan.tasks)} x {len(plan.seeds)}"
    parts = {"done": found.done, "to do": found.to_do, "skipped": found.skipped}
    return f"{size}, " + ", ".join(f"{len(runs)} {name}" for name, runs in parts.items() if runs or name != "skipped")


def _backend(arguments: argparse.Namespace) -> Backend:
    cluster = Cluster(arguments.address, arguments.workers, arguments.cpus_per_run, arguments.gpus_per_run)
    if arguments.on == "ray":
        return cluster.run
    if cluster != Cluster():
        raise ValueError("--address, --workers, --cpus-per-run and --gpus-per-run are for --on ray")
    return run_here


def _out(arguments: argparse.Namespace) -> Path:
    out: Path = arguments.out or Path("runs", "compare", arguments.grid.stem)
    return out


def _report(arguments: argparse.Namespace) -> int:
    is_folder = arguments.out is None and (arguments.grid / GRID).is_file()
    print(write_report(arguments.grid if is_folder else _out(arguments)))
    return 0


def _list(found: Survey, plan: ComparisonPlan, out: Path, changed: Mapping[str, str]) -> None:
    done = {run.key for run in found.done}
    budget = "" if plan.budget is None else f"; {plan.budget}"
    print(f"{plan.title}: {_counts(plan, found)}{budget}; runs in {out}")
    for run in plan.runs:
        state = "done" if run.key in done else "to do"
        if run.key in found.skipped:
            state = f"skipped: {found.skipped[run.key]}"
        elif state == "to do" and (out / run.folder).exists():
            state = "interrupted, resumes"
        if run.key in changed:
            state = f"has other settings ({changed[run.key]}): another --out, or --redo"
        print(f"  {run.key}  {run.agent}, {run.steps} steps: {state}")
