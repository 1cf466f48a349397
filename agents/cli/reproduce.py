"""`minrl reproduce`: the experiments of the minGRU paper, our results beside the paper's."""

import argparse
import textwrap
from pathlib import Path
from typing import Any

import torch

import minrl
from minrl.bench.machine import cores
from minrl.reproduce import EXPERIMENTS
from minrl.reproduce.frame import Experiment, Request
from minrl.reproduce.run import reproduce
from minrl.system.device import device_named

_INDENT: Any = {"initial_indent": "  ", "subsequent_indent": " " * 27}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add a subcommand for each experiment."""
    parser.usage = "minrl reproduce NAME [flags]"
    parser.description = (
        "The experiments of Were RNNs All We Needed? (arXiv 2410.01201):\n"
        "a Markdown table of our results beside the paper's, the results as JSON, and a plot."
    )
    parser.epilog = (
        "sizes:\n"
        f"{_sizes()}\n\n"
        "The small size is the default; it runs on one CPU thread, one model after another. Its times\n"
        "are for one core of a server. --full is the paper's setting, for a GPU (--device cuda) or\n"
        "much patience. Results are kept in --out: the same command resumes after an interruption and\n"
        "repeats nothing.\n\n"
        "examples:\n"
        "  minrl reproduce parameter_ratios\n"
        "  minrl reproduce shakespeare --cells mingru transformer --seed 0 1 2\n"
        "  minrl reproduce shakespeare --full --device cuda --text tiny_shakespeare.txt"
    )
    parser.set_defaults(run=run, name=None)
    names = parser.add_subparsers(title="experiments", metavar="NAME", prog=parser.prog)
    for name, experiment in EXPERIMENTS.items():
        _add_experiment(names, name, experiment)


def _sizes() -> str:
    """Format a paragraph for each size of each experiment."""
    return "\n".join(
        textwrap.fill(f"{name:<18}{size:<7}{experiment.sizes[size]}", 96, **_INDENT)
        for name, experiment in EXPERIMENTS.items()
        for size in ("small", "full")
    )


def _add_experiment(
    names: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, experiment: Experiment
) -> None:
    about = experiment.title
    parser = names.add_parser(
        name,
        help=about,
        description=f"{about}.",
        usage=f"minrl reproduce {name} [flags]",
        epilog="\n".join(textwrap.fill(f"{size:<7}{experiment.sizes[size]}", 96) for size in ("small", "full")),
    )
    before = {action.dest for action in parser._actions}
    experiment.add_flags(parser)
    own = tuple(action.dest for action in parser._actions if action.dest not in before)
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--full", action="store_true", help="the large size: the paper's setting, if it has one")
    sizes.add_argument("--quick", action="store_true", help="a few seconds, for a test")
    parser.add_argument(
        "--out", metavar="FOLDER", type=Path, default=Path("runs/reproduce"),
        help=f"for {name}.md, {name}.json and {name}.png (default: runs/reproduce)",
    )  # fmt: skip
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--seed", metavar="N", type=int, nargs="+", default=[0], help="one or more seeds (default: 0)")
    if experiment.known_cells:
        parser.add_argument(
            "--cells", metavar="CELL", nargs="+", default=list(experiment.cells), choices=experiment.known_cells,
            help=f"compared (default: {' '.join(experiment.cells)})",
        )  # fmt: skip
    else:
        parser.set_defaults(cells=[])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or auto (default: cpu)")
    parser.set_defaults(name=name, own=own)


def run(arguments: argparse.Namespace) -> int:
    """Run the experiment and print its table; without a name, print the list of experiments."""
    if arguments.name is None:
        arguments.parser.print_help()
        return 0
    experiment, request = EXPERIMENTS[arguments.name], _request(arguments)
    torch.set_num_threads(request.threads)
    minrl.tune_cpu()
    table, written = reproduce(arguments.name, experiment, request, arguments.out)
    print(table)
    print("written:", ", ".join(map(str, written)))
    return 0


def _request(arguments: argparse.Namespace) -> Request:
    if not 1 <= arguments.threads <= cores():
        raise ValueError(f"threads must be from 1 to {cores()}, the cores of this machine, got {arguments.threads}")
    if min(arguments.seed) < 0:
        raise ValueError(f"seed must be at least 0, got {min(arguments.seed)}")
    return Request(
        size="full" if arguments.full else "quick" if arguments.quick else "small",
        cells=tuple(dict.fromkeys(arguments.cells)),
        seeds=tuple(dict.fromkeys(arguments.seed)),
        threads=arguments.threads,
        device=device_named(arguments.device),
        options={name: getattr(arguments, name) for name in arguments.own},
        prefix=arguments.out / arguments.name,
    )
