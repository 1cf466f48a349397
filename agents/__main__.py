"""The command line: `minrl train | evaluate | data | collect`."""

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import minrl
from minrl import checkpoint
from minrl.config import add_flags, build, from_flags, read_toml
from minrl.train import Result, TrainConfig, resume, train


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for a user's error, 1 for a failed run, 128 + n after signal n."""
    parser = _parser()
    parsed = parser.parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except ValueError as error:
        print(f"minrl: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except FloatingPointError as error:
        print(f"minrl: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("minrl: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="minrl", description=minrl.__doc__)
    parser.add_argument("--version", action="version", version=f"minrl {minrl.__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_train(commands)
    _add_evaluate(commands)
    return parser


def _add_train(commands: Any) -> None:
    text = "train an agent on a data set, or go on with a run"
    parser = commands.add_parser("train", help=text, description=text)
    parser.add_argument("--resume", metavar="RUN", type=Path, help="go on with the run in this folder")
    parser.set_defaults(run=_train, agent=None)
    kinds = parser.add_subparsers(metavar="AGENT", help=" or ".join(checkpoint.agents()))
    for name in sorted(checkpoint.agents()):
        kind = checkpoint.agent_class(name)
        about = (sys.modules[kind.__module__].__doc__ or "").splitlines()[0]
        agent = kinds.add_parser(
            name,
            help=about,
            description=about,
            epilog=f"example: minrl train {name} --data minari:minrl/hopper/medium-replay-v0 --out runs/hopper",
        )
        agent.add_argument("--out", metavar="RUN", type=Path, required=True, help="folder for checkpoints and logs")
        agent.add_argument("--config", metavar="FILE.toml", type=Path, help=f"values for [{name}] and [train]")
        add_flags(agent, TrainConfig, "training")
        add_flags(agent, kind.config_class, "agent")
        agent.set_defaults(agent=name)


def _train(arguments: argparse.Namespace) -> int:
    if arguments.agent is None:
        if arguments.resume is None:
            raise ValueError(f"train what? minrl train {'|'.join(sorted(checkpoint.agents()))} --data ... --out RUN")
        return _finish(resume(arguments.resume), arguments.resume)
    if arguments.resume is not None:
        raise ValueError("--resume takes all settings from the run: minrl train --resume RUN")
    kind = checkpoint.agent_class(arguments.agent)
    parts: dict[str, type[Any]] = {arguments.agent: kind.config_class, "train": TrainConfig}
    tables = read_toml(arguments.config, parts) if arguments.config else {}
    configs = {
        name: build(part, {**tables.get(name, {}), **from_flags(part, arguments)}, "the settings")
        for name, part in parts.items()
    }
    return _finish(train(kind, configs[arguments.agent], configs["train"], arguments.out), arguments.out)


def _finish(result: Result, out: Path) -> int:
    from minrl.report import write_report

    if result.signal is not None:
        print(f"stopped at step {result.step} and saved; go on with: minrl train --resume {out}")
        return 128 + result.signal
    print(write_report(result, out))
    return 0


def _add_evaluate(commands: Any) -> None:
    text = "run a trained agent in its environment"
    parser = commands.add_parser("evaluate", help=text, description=text)
    parser.add_argument("path", metavar="RUN", type=Path, help="a run's folder (its last checkpoint) or a checkpoint")
    parser.add_argument("--episodes", type=int, default=20, help="for each target (default: 20)")
    parser.add_argument("--target", type=float, nargs="+", metavar="RETURN", help="returns to ask for, side by side")
    parser.add_argument("--seed", type=int, default=0, help="of the first episode (default: 0)")
    parser.add_argument("--environments", type=int, default=10, help="at once, for each target (default: 10)")
    parser.add_argument("--async", dest="asynchronous", action="store_true", help="environments in own processes")
    parser.add_argument("--env", metavar="ID", help="another environment than the data set's")
    parser.add_argument("--sample", action="store_true", help="sample actions instead of taking the likeliest")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 leaves torch's choice")
    parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
    parser.set_defaults(run=_evaluate)


def _evaluate(arguments: argparse.Namespace) -> int:
    import torch

    from minrl.data.environment import EnvironmentInfo
    from minrl.evaluate import evaluate
    from minrl.report import evaluation_table

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    saved = checkpoint.read(arguments.path)
    results = evaluate(
        checkpoint.restore(saved, str(arguments.path)),
        EnvironmentInfo(arguments.env) if arguments.env else None,
        episodes=arguments.episodes,
        targets=arguments.target,
        environments=arguments.environments,
        seed=arguments.seed,
        deterministic=not arguments.sample,
        vectorization="async" if arguments.asynchronous else "sync",
        progress=not arguments.json,
    )
    if arguments.json:
        head = {"run": str(arguments.path), "agent": saved.agent, "step": saved.step}
        rows = [result.to_dict() for result in results]
        print(json.dumps(head | (rows[0] if len(rows) == 1 else {"targets": rows})))
    else:
        print(evaluation_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
