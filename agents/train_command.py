"""`minrl train`: a new run, or one that goes on."""

import argparse
import sys
import textwrap
from pathlib import Path
from typing import Any

from minrl import checkpoint
from minrl.agent import Agent
from minrl.config import add_flags, build, from_flags, read_toml
from minrl.train import Result, TrainConfig, resume, train

from . import ppo_command

EXAMPLES = f"""examples:
  minrl train decision --data minari:minrl/hopper/medium-replay-v0 --cell mingru --out runs/hopper
  minrl train clone --data minari:minrl/hopper/medium-replay-v0 --top 0.1 --out runs/clone
  {ppo_command.USAGE.replace("ID", "minrl/CartPoleNoVel-v1").replace("RUN", "runs/cartpole")}
  minrl train --resume runs/hopper

minrl train AGENT --help shows the agent's flags."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One further command for each agent, whose flags are the fields of its config."""
    parser.usage = f"minrl train AGENT --data NAME --out RUN [flags]\n       {ppo_command.USAGE} [flags]"
    parser.usage += "\n       minrl train --resume RUN"
    parser.epilog = EXAMPLES
    parser.add_argument("--resume", metavar="RUN", type=Path, help="go on with the run in this folder")
    parser.add_argument(
        "--env",
        dest="known_env",
        metavar="MODULE:ID",
        help="with --resume: the run's environment, where no installed package registers it",
    )
    parser.set_defaults(run=run, agent=None)
    agents = parser.add_subparsers(title="agents", metavar="AGENT", prog=parser.prog)
    for name, kind in offline_agents().items():
        _add_offline(agents, name, kind)
    ppo_command.add_arguments(agents)


def offline_agents() -> dict[str, type[Agent]]:
    """The installed agents that learn from data sets."""
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
    agent.set_defaults(agent=name)


def run(arguments: argparse.Namespace) -> int:
    """Train as the flags say."""
    name, path = arguments.agent, arguments.resume
    if name is None:
        if path is None:
            known = "|".join(offline_agents())
            raise ValueError(f"train what? minrl train {known} --data NAME --out RUN, or {ppo_command.USAGE}")
        if checkpoint.read(path).agent == ppo_command.NAME:
            return ppo_command.go_on(path, arguments.known_env)
        return finish(resume(path), path)
    if path is not None:
        raise ValueError("--resume takes all settings from the run: minrl train --resume RUN")
    if name == ppo_command.NAME:
        return ppo_command.run(arguments)
    if arguments.out is None:
        raise ValueError(f"where to? give a folder for the run: minrl train {name} --data NAME --out RUN")
    kind = offline_agents()[name]
    parts: dict[str, type[Any]] = {name: kind.config_class, "train": TrainConfig}
    tables = read_toml(arguments.config, parts) if arguments.config else {}
    configs = {
        table: build(part, {**tables.get(table, {}), **from_flags(part, arguments)}, "the settings")
        for table, part in parts.items()
    }
    return finish(train(kind, configs[name], configs["train"], arguments.out), arguments.out)


def finish(result: Result, path: Path) -> int:
    """Say how the run ended; the exit code."""
    from minrl.report import write_report

    out = path if path.is_dir() else path.parent
    if not result.is_first:
        return 0 if result.signal is None else 128 + result.signal
    if result.signal is not None:
        print(f"stopped at step {result.step} and saved; go on with: minrl train --resume {out}")
        return 128 + result.signal
    print(write_report(result, out))
    return 0 if result.failure is None else 1
