"""Agents that learn in environments: their flags, and their runs in a comparison."""

import argparse
from pathlib import Path
from typing import Any

from minrl.agent import OnlineAgent
from minrl.compare.grid.family import Family
from minrl.data.environment import EnvironmentInfo, check_trusted
from minrl.data.task import Task
from minrl.online.environments import probe
from minrl.online.report import OnlineResult, write_report
from minrl.online.settings import Config, EnvironmentSettings, RunSettings, config_class
from minrl.online.train import resume, train
from minrl.runs.checkpoint import agent_class
from minrl.runs.log import TIMESTEPS
from minrl.system.config import add_flags, build, from_flags, read_tables, read_toml
from minrl.system.messages import one_line
from minrl.system.shipped_configs import shipped_configs

from . import flag_hints
from .config_trust import check_environment_of_config

__all__ = ["USAGE", "add_flags_of", "family", "read_flags", "report", "resume", "train"]

USAGE = "minrl train {} --env ID --out RUN"
DEFAULT = "ppo"  # of a grid
# Folder of the configs of single environments.
SHIPPED = "online/"


def add_flags_of(parser: argparse.ArgumentParser, files: argparse._ArgumentGroup, kind: type[OnlineAgent]) -> None:
    """Add the fields of the agent's options, the environment, the algorithm and the run as flags."""
    name = kind.name
    usage = USAGE.format(f"{name}{kind.requires}")
    parser.usage = f"{usage} [--config FILE.toml] [flags]"
    parser.epilog = f"""examples:
  {usage.replace("ID", "minrl/CartPoleNoVel-v1").replace("RUN", "runs/cartpole")}
  minrl train {name}{kind.requires} --env Pendulum-v1 --cell gru --steps 200000 --out runs/gru
  minrl train {name} --config FILE.toml --seed 1 --video --out runs/seed1
  minrl train --resume runs/cartpole"""
    files.add_argument(
        "--config",
        metavar="FILE.toml",
        type=Path,
        help=f"file with tables [{name}] and [train], or a shipped config (default: the environment's)",
    )
    files.add_argument("--no-config", action="store_true", help="ignore the config that ships for the environment")
    add_flags(parser, EnvironmentSettings, "environment")
    add_flags(parser, RunSettings, "run")
    add_flags(parser, kind.options_class, "policy")
    add_flags(parser, config_class(kind).algorithm, "algorithm, names as in Stable-Baselines3")
    parser.set_defaults(instead=flag_hints.ONLINE)


def read_flags(kind: type[OnlineAgent], arguments: argparse.Namespace) -> tuple[Any, Config]:
    """Return the agent's options and the run's settings: flags over a config, by default the environment's own."""
    config = config_class(kind)
    parts = {kind.name: kind.options_class, "train": config}
    if arguments.config:
        tables = read_toml(arguments.config, parts)
    else:
        tables = {} if arguments.no_config else _shipped(kind.name, parts, getattr(arguments, "env", ""))
    check_environment_of_config(tables.get("train", {}), from_flags(config, arguments), "env", arguments.config)
    own, training = (tables.get(name, {}) | from_flags(part, arguments) for name, part in parts.items())
    options, settings = build(kind.options_class, own, "the settings"), build(config, training, "the settings")
    if not settings.env:
        raise ValueError(f"no environment: {USAGE.format(f'{kind.name}{kind.requires}')}")
    return options, settings


def _shipped(agent: str, parts: dict[str, type[Any]], environment: str) -> dict[str, dict[str, Any]]:
    """Return the tables of the agent's config that ships for an environment, if there is one."""
    for name, path in shipped_configs().items():
        if not name.startswith(SHIPPED) or agent not in read_tables(path, "config"):
            continue
        tables = read_toml(name, parts)
        if tables.get("train", {}).get("env") == environment.rpartition(":")[2]:
            print(f"minrl: settings of configs/{name}.toml, with flags over them (--no-config: none)")
            return tables
    return {}


def report(result: OnlineResult, out: Path) -> int:
    """Print the report of a run that was not stopped; return its exit code."""
    if result.signal is None:
        print(write_report(result, out))
    return result.exit_code


def family(kinds: dict[str, type[OnlineAgent]]) -> Family:
    """Return the interface of these agents to `minrl compare`."""
    options = {name: kind.options_class for name, kind in kinds.items()}
    return Family(
        source="env",
        keys={"env": "env", "env_kwargs": "env_kwargs"},
        counter=TIMESTEPS,
        agents={DEFAULT: options.pop(DEFAULT), **options},
        settings={name: config_class(kind) for name, kind in kinds.items()},
        defaults={"threads": 1, "exact_resume": True},
        allow=check_environment,
        find=find_task,
        look=look_for_task,
        check=check_options,
        data_of_step=data_of_step,
        measure=measure,
        start=start_run,
        resume=resume_run,
    )


def check_environment(settings: Config) -> None:
    """Raise ValueError if the environment, which the grid names, is not trusted."""
    check_trusted(EnvironmentInfo(settings.env, settings.env_kwargs), "the grid")


def find_task(settings: Config) -> Task:
    """Return the task of an environment; raise ValueError if it is not available."""
    task, _ = probe(settings)
    return task


def look_for_task(settings: Config) -> None:
    """Accept any settings, as only the environment has the task."""


def check_options(agent: str, options: Any, task: Task) -> None:
    """Raise ValueError if no agent can be made of these options."""
    kind = _class(agent)
    try:
        kind(kind.new_config(options), task)
    except (AssertionError, TypeError, RuntimeError, ZeroDivisionError) as error:  # Stable-Baselines3 asserts
        raise ValueError(f"no {agent} agent can be made of these settings: {one_line(error)}") from error


def data_of_step(options: Any, settings: Config) -> int:
    """Return 1, as steps are counted in the environment."""
    return 1


def measure(agent: str, options: Any, settings: Config, task: Task) -> None:
    """Leave the speed open: what a step costs depends on the environment, which is not made for a measurement."""


def start_run(agent: str, options: Any, settings: Config, out: Path) -> int:
    """Train a new agent; return the run's exit code."""
    return report(train(_class(agent), options, settings, out), out)


def resume_run(settings: Config, out: Path) -> int:
    """Resume a run; return its exit code. The task was found, so that a module before the id is trusted."""
    return report(resume(out, settings.env if ":" in settings.env else None), out)


def _class(name: str) -> type[OnlineAgent]:
    kind = agent_class(name)
    assert issubclass(kind, OnlineAgent)
    return kind
