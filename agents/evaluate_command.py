"""`minrl evaluate`: a trained agent in its environment."""

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from minrl import checkpoint
from minrl.agent import parameter_count
from minrl.data.environment import EnvironmentInfo
from minrl.evaluate import evaluate
from minrl.report import evaluation_table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags of `minrl evaluate`."""
    parser.usage = "minrl evaluate RUN [flags]"
    parser.epilog = (
        "examples:\n"
        "  minrl evaluate runs/hopper --episodes 50 --json\n"
        "  minrl evaluate runs/hopper/best.pt --target 1800 3600"
    )
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder (its last checkpoint) or a checkpoint")
    parser.add_argument("--episodes", metavar="N", type=int, default=20, help="for each target (default: 20)")
    parser.add_argument("--target", type=float, nargs="+", metavar="RETURN", help="returns to ask for, side by side")
    parser.add_argument("--seed", metavar="N", type=int, default=0, help="of the first episode (default: 0)")
    parser.add_argument("--env", metavar="ID", help="another environment than the data set's; MODULE:ID imports MODULE")
    parser.add_argument("--sample", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument(
        "--environments", metavar="N", type=int, default=10, help="at once, for each target (default: 10)"
    )
    parser.add_argument("--async", dest="asynchronous", action="store_true", help="environments in own processes")
    parser.add_argument("--threads", metavar="N", type=int, default=0, help="CPU threads, 0 leaves torch's choice")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output, nothing else")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Evaluate and print a table or JSON."""
    if arguments.threads < 0:
        raise ValueError(f"threads must not be negative, got {arguments.threads}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with stdout_left_alone() if arguments.json else contextlib.nullcontext():
        saved = checkpoint.read(arguments.path)
        agent = checkpoint.restore(saved, str(arguments.path))
        results = evaluate(
            agent,
            EnvironmentInfo(arguments.env) if arguments.env else None,
            episodes=arguments.episodes,
            targets=arguments.target,
            environments=arguments.environments,
            seed=arguments.seed,
            deterministic=not arguments.sample,
            vectorization="async" if arguments.asynchronous else "sync",
            progress=not arguments.json,
        )
    label = saved.note.get("label", "checkpoint")
    if arguments.json:
        head = {
            "run": str(arguments.path),
            "agent": saved.agent,
            "checkpoint": label,
            "step": saved.step,
            "parameters": parameter_count(agent),
        }
        rows = [result.to_dict() for result in results]
        print(json.dumps(head | (rows[0] if len(rows) == 1 else {"targets": rows})))
    else:
        print(f"{arguments.path}: {label}, step {saved.step}\n")
        print(evaluation_table(results))
    return 0


@contextlib.contextmanager
def stdout_left_alone() -> Iterator[None]:
    """Whatever is written to standard output meanwhile, from C too, goes to standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
