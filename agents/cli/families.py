"""Families of agents, by what they learn from: data sets or environments."""

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from minrl.agent import Agent, OnlineAgent
from minrl.compare.grid.family import Family
from minrl.runs.checkpoint import agent_class, agents

# Modules beside this one, imported on first use: that of environments imports all of PPO.
NAMES = {"offline": Agent, "online": OnlineAgent}


class Training(Protocol):
    """Interface of those modules: flags, training and report of a family's agents."""

    USAGE: str  # of a new run, with {} for the agent's name

    def family(self, kinds: dict[str, Any], /) -> Family:
        """Return the interface of these agents to `minrl compare`."""

    def add_flags_of(self, parser: argparse.ArgumentParser, files: argparse._ArgumentGroup, kind: Any, /) -> None:
        """Add usage, examples and flags of `minrl train AGENT`, those of files to their group."""

    def read_flags(self, kind: Any, arguments: argparse.Namespace, /) -> tuple[Any, Any]:
        """Return the agent's options and the settings of a new run; raise ValueError for impossible ones."""

    def train(self, kind: Any, options: Any, settings: Any, out: Path, /) -> Any:
        """Train a new agent into the folder `out`."""

    def resume(self, out: Path, environment: str | None, steps: int | None, /) -> Any:
        """Resume the run in `out`."""

    def report(self, result: Any, out: Path, /) -> int:
        """Print the report of a finished run; return the run's exit code."""


def family_of(name: str) -> tuple[type[Any], Training]:
    """Return the class of an agent and the module of its family.

    Raises:
        ValueError: if there is no such agent, or it learns from neither.
    """
    kind = agent_class(name)
    for family, base in NAMES.items():
        if issubclass(kind, base):
            return kind, _module(family)
    raise ValueError(f"the {name} agent only acts: it is no subclass of minrl.agent.Agent or OnlineAgent")


def families() -> dict[str, Family]:
    """Return the families of all installed agents that learn, by the names of their tables in a grid."""
    kinds = {name: agent_class(name) for name in sorted(agents())}
    return {
        family: _module(family).family({name: kind for name, kind in kinds.items() if issubclass(kind, base)})
        for family, base in NAMES.items()
    }


def usages() -> list[str]:
    """Return the command that trains the agents of each family."""
    return [_module(name).USAGE.format("|".join(sorted(family.agents))) for name, family in families().items()]


def _module(family: str) -> Training:
    module: Any = import_module(f".{family}", __package__)
    return module  # type: ignore[no-any-return]
