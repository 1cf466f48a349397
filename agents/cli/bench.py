"""`minrl bench`: speed, memory and rounding as ratios to peers."""

import argparse
import sys
import time
from pathlib import Path

import torch

import minrl
from minrl.bench import latency, layer, length, op, plots, report, rounding
from minrl.bench.machine import cores, describe
from minrl.bench.results import Group, Measurement, Point, Settings
from minrl.system.device import device_named
from minrl.system.extras import install_hint

from . import bench_decision

GROUPS: dict[str, tuple[Group, ...]] = {
    "op": (op.measure,),
    "layer": (layer.measure,),
    "length": (length.measure,),
    "latency": (latency.measure, bench_decision.acting),
    "training": (bench_decision.training,),
    "error": (rounding.measure,),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `minrl bench`."""
    parser.usage = "minrl bench [flags]"
    parser.epilog = (
        "groups:\n"
        "  op        the recurrence against a memory copy and against torch operations\n"
        "  layer     a layer against nn.GRU, nn.LSTM, loops, the published form, mambapy\n"
        "  length    time and peak memory from T=64 to 16384\n"
        "  latency   one step, and a whole action against the Decision Transformer\n"
        "  training  a training step against the Decision Transformer\n"
        "  error     rounding in float32\n\n"
        "examples:\n"
        "  minrl bench --out runs/bench\n"
        "  minrl bench --only op layer --threads 1\n"
        "  minrl bench --quick\n\n"
        f"The peers and plots come with:\n  {install_hint('bench')}"
    )
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, default=Path("runs/bench"), help="folder of table, JSON and plots"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, nargs="+", default=[1, 2][: cores()],
        help="numbers of CPU threads for op and layer; the other groups use the first (default: 1 2)",
    )  # fmt: skip
    parser.add_argument(
        "--only", metavar="GROUP", nargs="+", choices=list(GROUPS), default=list(GROUPS), help="groups (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="small shapes and few rounds, for a test")
    parser.add_argument("--rounds", metavar="N", type=int, help="rounds of every measurement (default: by group)")
    parser.add_argument("--json", metavar="FILE", type=Path, help="a second copy of the JSON")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: cpu)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, write the files."""
    settings = _settings(arguments)
    report.check_folder(arguments.out)
    if arguments.json is not None:
        report.check_file(arguments.json)
    kept = settings.on_gpu or minrl.tune_cpu()
    machine = describe(settings.device, kept and not settings.on_gpu)
    begin = time.monotonic()
    results: list[Measurement] = []
    for name in dict.fromkeys(arguments.only):
        torch.manual_seed(0)  # the same values whatever ran before
        for group in GROUPS[name]:
            for result in group(settings):
                results.append(result)
                if line := report.to_line(result):
                    print(f"{time.monotonic() - begin:6.0f} s  {name}: {line}", file=sys.stderr, flush=True)
    table = report.to_markdown(results, machine, settings.threads)
    chosen = {
        "threads": list(settings.threads),
        "device": str(settings.device),
        "quick": settings.quick,
        "rounds": settings.rounds,
        "groups": list(dict.fromkeys(arguments.only)),
        "seconds": round(time.monotonic() - begin, 1),
    }
    written = report.write(arguments.out, table, report.to_json(results, machine, chosen), arguments.json)
    print(table)
    written += _draw(results, arguments.out, settings, machine["gpu"] or machine["processor"])
    print("written:", ", ".join(map(str, written)))
    return 0


def _settings(arguments: argparse.Namespace) -> Settings:
    if min(arguments.threads) < 1:
        raise ValueError(f"threads must be at least 1, got {min(arguments.threads)}")
    if max(arguments.threads) > cores():
        raise ValueError(f"threads must be at most {cores()}, the cores of this machine, got {max(arguments.threads)}")
    if arguments.rounds is not None and arguments.rounds < 1:
        raise ValueError(f"rounds must be at least 1, got {arguments.rounds}")
    threads = tuple(dict.fromkeys(arguments.threads))
    return Settings(device_named(arguments.device), threads, arguments.quick, arguments.rounds)


def _draw(results: list[Measurement], folder: Path, settings: Settings, processor: str) -> list[Path]:
    points = [result for result in results if isinstance(result, Point)]
    if not points:
        return []
    threads = "" if settings.on_gpu else f", threads: {settings.threads[0]}"
    drawn = plots.draw(points, folder, f"{processor}{threads}, torch {torch.__version__}")
    if not drawn:
        print(f"no plots: matplotlib is not installed ({install_hint('plot')})")
    return drawn
