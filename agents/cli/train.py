"""`minrl train`: a new run, or one that goes on."""

import argparse
import json
import shlex
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from minrl.agent import Agent
from minrl.runs import checkpoint
from minrl.system.config import add_flags, build, from_flags, read_toml
from minrl.training.offline import RunResult, TrainConfig, resume, train

from . import flag_hints, train_ppo
from .evaluate import stdout_left_alone

EXAMPLES = f"""examples:
  minrl train decision --data minari:minrl/hopper/medium-replay-v0 --cell mingru --out runs/hopper
  minrl train clone --data minari:minrl/hopper/medium-replay-v0 --top 0.1 --out runs/clone
  {train_ppo.USAGE.replace("ID", "minrl/CartPoleNoVel-v1").replace("RUN", "runs/cartpole")}
  minrl train --resume runs/hopper
  minrl train --resume runs/hopper --steps 20000     # longer than it was planned

minrl train AGENT --help shows the agent's flags."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add one further command for each agent, whose flags are the fields of its config."""
    parser.usage = f"minrl train AGENT --data NAME --out RUN [flags]\n       {train_ppo.USAGE} [flags]"
    parser.usage += "\n       minrl train --resume RUN [--steps N]"
    parser.epilog = EXAMPLES
    parser.add_argument("--resume", metavar="RUN", type=Path, help="go on with the run in this folder")
    parser.add_argument(
        "--env",
        dest="known_env",
        metavar="MODULE:ID",
        help="with --resume: the run's environment, where no installed package registers it",
    )
    parser.add_argument(
        "--steps", dest="extended", metavar="N", type=int, help="with --resume: train to this step instead of the last"
    )
    _add_json(parser)
    parser.set_defaults(run=run, agent=None, json=False)
    agents = parser.add_subparsers(title="agents", metavar="AGENT", prog=parser.prog)
    for name, kind in offline_agents().items():
        _add_offline(agents, name, kind)
    train_ppo.add_arguments(agents)


def offline_agents() -> dict[str, type[Agent]]:
    """Return the installed agents that learn from data sets."""
    kinds = {name: checkpoint.agent_class(name) for name in sorted(checkpoint.agents())}
    return {name: kind for name, kind in kinds.items() if issubclass(kind, Agent)}


def _add_offline(agents: "argparse._SubParsersAction[argparse.ArgumentParser]", name: str, kind: type[Agent]) -> None:
    about = (sys.modules[kind.__module__].__doc__ or name).splitlines()[0]
    agent = agents.add_parser(
        name,
        help=about,
        description=textwrap.fill(about, 96),
        usage=f"minrl train {name} --data NAME --out RUN [--config FILE.toml] [flags]",
        epilog=f"example:\n  minrl train {name} --data minari:minrl/hopper/medium-replay-v0 --out runs/hopper",
    )
    files = agent.add_argument_group("files")
    files.add_argument("--out", metavar="RUN", type=Path, help="folder for checkpoints, log and config")
    files.add_argument(
        "--config", metavar="FILE.toml", type=Path, help=f"tables [{name}] and [train]; or a config that ships"
    )
    add_flags(agent, TrainConfig, "training")
    add_flags(agent, kind.config_class, "agent")
    _add_json(files)
    agent.set_defaults(agent=name, instead=flag_hints.OFFLINE)


def _add_json(parser: argparse._ActionsContainer) -> None:
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="one JSON object with the final scores on standard output, nothing else",
    )


def check_words(words: Sequence[str]) -> None:
    """Raise a ValueError for words that argparse would take for something else."""
    flag_hints.check_resumed(words)


@dataclass(frozen=True)
class Ending:
    """Outcome of a run."""

    code: int  # exit code
    folder: Path
    is_first: bool  # of the processes that trained together


def run(arguments: argparse.Namespace) -> int:
    """Train as the flags say."""
    if not arguments.json:
        return _train(arguments).code
    with stdout_left_alone():
        ending = _train(arguments)
    if ending.code == 0 and ending.is_first:
        print(json.dumps(_scores(ending.folder)))
    return ending.code


def _train(arguments: argparse.Namespace) -> Ending:
    name, path = arguments.agent, arguments.resume
    if name is None:
        return _go_on(arguments, path)
    for flag, value in (("--env", arguments.known_env), ("--steps", arguments.extended)):
        if value is not None:
            raise ValueError(f"{flag} stands after the agent's name: minrl train {name} {flag} {value} ...")
    if name == train_ppo.NAME:
        return Ending(train_ppo.run(arguments), arguments.out, is_first=True)
    if arguments.out is None:
        raise ValueError(f"where to? give a folder for the run: minrl train {name} --data NAME --out RUN")
    kind = offline_agents()[name]
    parts: dict[str, type[Any]] = {name: kind.config_class, "train": TrainConfig}
    tables = read_toml(arguments.config, parts) if arguments.config else {}
    configs = {
        table: build(part, {**tables.get(table, {}), **from_flags(part, arguments)}, "the settings")
        for table, part in parts.items()
    }
    result = train(kind, configs[name], configs["train"], arguments.out)
    return Ending(finish(result, arguments.out), arguments.out, result.is_first)


def _go_on(arguments: argparse.Namespace, path: Path | None) -> Ending:
    if path is None:
        known = "|".join(offline_agents())
        raise ValueError(f"train what? minrl train {known} --data NAME --out RUN, or {train_ppo.USAGE}")
    folder = path if path.is_dir() else path.parent
    if checkpoint.read(path).agent == train_ppo.NAME:
        return Ending(train_ppo.go_on(path, arguments.known_env, arguments.extended), folder, is_first=True)
    result = resume(path, arguments.known_env, arguments.extended)
    return Ending(finish(result, path), folder, result.is_first)


def _scores(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished run as one flat table, with the names that `minrl evaluate --json` has."""
    from minrl.runs.folder import SUMMARY

    summary: dict[str, Any] = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
    evaluation = summary.pop("evaluation") or {"mean_return": None, "normalized_score": None}
    agent = checkpoint.read(folder).agent
    return {"run": str(folder), "agent": agent, **summary, **evaluation}


def finish(result: RunResult, path: Path) -> int:
    """Report how the run ended and return the exit code."""
    from minrl.training.report import write_report

    out = path if path.is_dir() else path.parent
    if not result.is_first:
        return 0 if result.signal is None else 128 + result.signal
    if result.signal is not None:
        environment = result.agent.task.environment
        # An id with a module before it is imported only where the user says it again.
        named = f" --env {shlex.quote(environment.id)}" if environment is not None and ":" in environment.id else ""
        command = f"minrl train --resume {shlex.quote(str(out))}{named}"
        print(f"stopped at step {result.step} and saved; go on with: {command}")
        return 128 + result.signal
    print(write_report(result, out))
    return 0 if result.failure is None else 1
