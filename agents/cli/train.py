"""`minrl train`: a new run, or a resumed one."""

import argparse
import ast
import inspect
import shlex
import textwrap
import tokenize
from collections.abc import Sequence
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from token import COMMENT, NEWLINE, NL, STRING
from typing import Any

from minrl.runs import checkpoint
from minrl.runs.folder import check_new, run_folder, run_lock
from minrl.runs.side_files import read_summary
from minrl.system.json_text import to_json
from minrl.system.trust import add_trust, trusts_files

from . import flag_hints
from .evaluate import stdout_left_alone
from .families import Training, family_of, usages

EXAMPLES = """examples:
  minrl train decision --data minari:minrl/hopper/medium-replay-v0 --cell mingru --out runs/hopper
  minrl train clone --data minari:minrl/hopper/medium-replay-v0 --top 0.1 --out runs/clone
  minrl train ppo --env minrl/CartPoleNoVel-v1 --out runs/cartpole
  minrl train --resume runs/hopper
  minrl train --resume runs/hopper --steps 20000     # extend it

minrl train AGENT --help shows the agent's flags."""

# `minrl train sac --data NAME` is this agent.
OFFLINE = {"sac": "offline_sac"}


_BLANK = (COMMENT, NL, NEWLINE)


class _Agents(argparse._SubParsersAction):  # type: ignore[type-arg]
    """Subcommands of the agents; flags are added to the chosen one, so that no other agent is imported."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Add the flags of the agent `values[0]`, or of the one that it is on a data set, then parse them."""
        if any(word.partition("=")[0] == "--data" for word in values):
            values = [OFFLINE.get(values[0], values[0]), *values[1:]]
        chosen = self.choices[values[0]]
        files = chosen.add_argument_group("files")
        files.add_argument("--out", metavar="RUN", type=Path, help="folder for checkpoints, log and config")
        kind, family = family_of(values[0])
        family.add_flags_of(chosen, files, kind)
        _add_common(files)
        super().__call__(parser, namespace, values, option)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of a resumed run, and one further command for each agent."""
    parser.usage = """minrl train AGENT --data NAME --out RUN [flags]
       minrl train ppo --env ID --out RUN [flags]
       minrl train --resume RUN [--steps N]"""
    parser.epilog = EXAMPLES
    parser.add_argument("--resume", metavar="RUN", type=Path, help="resume the run in this folder")
    parser.add_argument(
        "--env",
        dest="known_env",
        metavar="MODULE:ID",
        help="with --resume: the run's environment, if no installed package registers it",
    )
    parser.add_argument(
        "--steps", dest="extended", metavar="N", type=int, help="with --resume: train to this step instead of the last"
    )
    _add_common(parser)
    parser.set_defaults(run=run, agent=None, json=False, trust=False)
    agents = parser.add_subparsers(title="agents", metavar="AGENT", prog=parser.prog, action=_Agents, dest="agent")
    for name, point in sorted(checkpoint.agents().items()):
        about = _summary(point)
        agents.add_parser(name, help=about, description=textwrap.fill(about, 96))


def _summary(point: EntryPoint) -> str:
    """Return the first line of the docstring of an agent's module, which is not imported; its name without any."""
    try:
        spec = find_spec(point.module)
    except ImportError:
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        return point.name
    with tokenize.open(spec.origin) as file:  # parsing the whole of three files takes a fifth of a second
        first = next(token for token in tokenize.generate_tokens(file.readline) if token.type not in _BLANK)
    return inspect.cleandoc(ast.literal_eval(first.string)).splitlines()[0] if first.type == STRING else point.name


def _add_common(parser: argparse._ActionsContainer) -> None:
    """Add the flags of new and of resumed runs."""
    parser.add_argument(
        "--json",
        action="store_true",
        default=argparse.SUPPRESS,
        help="one JSON object with the final scores on standard output, nothing else",
    )
    add_trust(parser, "make whatever environment the data set, the checkpoint or the config names", argparse.SUPPRESS)


def check_words(words: Sequence[str]) -> None:
    """Raise ValueError for flags that a resumed run does not take."""
    flag_hints.check_resumed(words)


def run(arguments: argparse.Namespace) -> int:
    """Train as the flags say."""
    if not arguments.json:
        return _train(arguments)[0]
    with stdout_left_alone():
        code, folder = _train(arguments)
    if code == 0 and folder is not None:
        print(to_json(_scores(folder)))
    return code


def _train(arguments: argparse.Namespace) -> tuple[int, Path | None]:
    """Return the run's exit code and its folder, None for all processes but the first of a group."""
    name, out = arguments.agent, arguments.out if arguments.agent else arguments.resume
    if name is None:
        if out is None:
            raise ValueError(f"no agent: {', or '.join(usages())}")
        _, family = family_of(checkpoint.read(out).agent)
        folder = run_folder(out)
        with run_lock(folder):
            return _finish(family, family.resume(out, arguments.known_env, arguments.extended), folder)
    for flag, value in (("--env", arguments.known_env), ("--steps", arguments.extended)):
        if value is not None:
            raise ValueError(f"{flag} stands after the agent's name: minrl train {name} {flag} {value} ...")
    kind, family = family_of(name)
    if out is None:
        raise ValueError(f"no folder for the run: {family.USAGE.format(name + getattr(kind, 'requires', ''))}")
    settings = family.read_flags(kind, arguments)
    check_new(out)
    with run_lock(out):
        return _finish(family, family.train(kind, *settings, out), out)


def _finish(family: Training, result: Any, out: Path) -> tuple[int, Path | None]:
    """Report a run that has ended or was stopped."""
    code = family.report(result, out)
    if result.is_first and result.signal is not None:
        _print_how_to_resume(result, out)
    return code, out if result.is_first else None


def _print_how_to_resume(result: Any, out: Path) -> None:
    environment, step = result.agent.task.environment, checkpoint.read(out).step
    # An id with a module before it is imported only where the user names it again.
    named = f" --env {shlex.quote(environment.id)}" if environment is not None and ":" in environment.id else ""
    named += " --trust" if trusts_files() else ""
    saved = " and saved" if step == result.step else f"; the checkpoint of step {step} is kept"
    print(f"stopped at step {result.step}{saved}; resume it by: minrl train --resume {shlex.quote(str(out))}{named}")


def _scores(folder: Path) -> dict[str, Any]:
    """Return the summary of a finished run as one flat table, with the names that `minrl evaluate --json` has."""
    summary = read_summary(folder) or {}
    evaluation = summary.pop("evaluation", None) or {"mean_return": None, "normalized_score": None}
    agent = checkpoint.read(folder).agent
    return {"run": str(folder), "agent": agent, **summary, **evaluation}
