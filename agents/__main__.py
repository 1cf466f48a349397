"""The command line: `minrl train | evaluate | dashboard | data | cells | collect | export | compare | bench | …`."""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import minrl
from minrl.system.extras import install_hint
from minrl.system.messages import one_line, shortened
from minrl.system.names import nearest
from minrl.system.trust import trusting

from .cli.flag_hints import unknown_flag

_LONGEST_LINE = 800  # characters of an error, in which a file may have put a million
# Each command is a module of cli/, imported on first use, so that `minrl --help` is quick.
COMMANDS = {
    "train": "train an agent on a data set or in an environment, or resume a run",
    "evaluate": "run a trained agent in its environment",
    "dashboard": "show runs in TensorBoard, with their charts and a table of their settings",
    "data": "list, describe and import data sets",
    "cells": "list the sequence models that --cell takes, with their options",
    "collect": "record a data set with a policy",
    "export": "write a trained agent as an ONNX or C file that acts without torch",
    "compare": "compare methods on tasks over seeds, with statistics and a report",
    "bench": "measure speed, memory and rounding against peers",
    "reproduce": "run the paper's experiments beside its figures",
}
EXAMPLES = f"""first steps:
  minrl data list
  minrl train decision --data minari:minrl/hopper/medium-replay-v0 --steps 1000 --out runs/hopper
  minrl evaluate runs/hopper --episodes 20
  minrl train ppo --env minrl/CartPoleNoVel-v1 --out runs/cartpole
  minrl dashboard runs

Hopper and the other MuJoCo tasks need: {install_hint("mujoco")}
minrl COMMAND --help explains each command."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, with room for the names of commands, which it indents after it has measured them."""

    def __init__(self, prog: str, **options: Any) -> None:
        super().__init__(prog, **options)
        self._action_max_length = 4 + max(map(len, COMMANDS))


class Parser(argparse.ArgumentParser):
    """argparse with one-line errors that name the nearest known word."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **options)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """Stop with one line on standard error and exit code 2."""
        self.exit(2, f"minrl: {one_line(message)} ({self.prog} --help lists the options)\n")

    def unknown(self, words: Sequence[str], instead: dict[str, str]) -> NoReturn:
        """Stop with an error for unknown words; `instead` holds hints for flags of other programs."""
        word = words[0].partition("=")[0]
        if not word.startswith("-"):
            self.error(f'unexpected argument "{word}"')
        self.error(unknown_flag(word, self._option_string_actions, instead))

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        if not arg_string.strip() and action.nargs != argparse.PARSER:
            name = (action.option_strings or [str(action.metavar or action.dest)])[-1]
            self.error(f"{name} is empty; is a variable of the shell unset?")
        return super()._get_value(action, arg_string)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            kind = str(action.metavar or action.dest).lower()
            self.error(f'unknown {kind} "{value}"; {nearest(str(value), map(str, action.choices))}')


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for a user's error, 1 for a failed run, 128 + n after signal n.

    Sizes that the memory cannot hold are a user's error.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    # Waiting threads of GNU's OpenMP spin for 300,000 turns by default (GOMP_SPINCOUNT), at the expense of other
    # programs. It reads this when torch is loaded, which the commands do.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        parsed, unknown = _parser(words).parse_known_args(words)
        if unknown:
            parsed.parser.unknown(unknown, getattr(parsed, "instead", {}))
        with trusting(getattr(parsed, "trust", False)):
            code: int = parsed.run(parsed)
    except BrokenPipeError:
        # The reader has closed the pipe; Python would report it once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, OSError) as error:
        return _failed(error, one_line(error, _LONGEST_LINE), 2)
    except FloatingPointError as error:
        return _failed(error, one_line(error), 1)
    except MemoryError as error:  # of NumPy, which says how much
        return _failed(error, f"there is not enough memory: {one_line(error)}", 2)
    except RuntimeError as error:
        if "DefaultCPUAllocator" in str(error):  # of torch
            return _failed(error, "there is not enough memory: lower sizes such as --width, --length or --n-envs", 2)
        if type(error).__name__ != "OutOfMemoryError":
            raise
        return _failed(error, "the GPU has not enough memory: lower --batch-size, --length, --n-envs or --width", 2)
    except KeyboardInterrupt:
        print("minrl: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    return code


def _parser(words: Sequence[str]) -> Parser:
    parser = Parser(prog="minrl", description=minrl.__doc__, epilog=EXAMPLES)
    parser.add_argument("--version", action="version", version=f"minrl {minrl.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, text in COMMANDS.items():
        command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        if words and words[0] == name:
            found = import_module(f".cli.{name}", __package__)
            if hasattr(found, "check_words"):
                found.check_words(words[1:])
            found.add_arguments(command)
    return parser


def _failed(error: BaseException, line: str, code: int) -> int:
    if os.environ.get("MINRL_DEBUG"):
        raise error
    print(f"minrl: {shortened(line, _LONGEST_LINE)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
