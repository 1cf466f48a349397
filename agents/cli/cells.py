"""`minrl cells`: list the sequence models of `--cell` and their options."""

import argparse
import inspect
import json
import sys
from typing import Any

from minrl.cells import CELLS, Cell
from minrl.system.names import choose


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `minrl cells`."""
    parser.usage = "minrl cells [NAME] [--json]"
    parser.epilog = (
        "examples:\n"
        "  minrl cells               # all, with their options and defaults\n"
        "  minrl cells mingru        # one cell, its options explained\n"
        "  minrl train decision --data minari:NAME --cell mingru --cell-options signed=true\n\n"
        'Other packages add cells by the entry point group "minrl.cells".'
    )
    parser.add_argument("name", metavar="NAME", nargs="?", help="a cell (default: all)")
    parser.add_argument("--json", action="store_true", help="as a JSON array")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one cell or all."""
    if arguments.name is not None:
        cell = choose(CELLS, arguments.name, "cell")
        print(
            json.dumps([_row(arguments.name)])
            if arguments.json
            else f"{_lines(arguments.name)}\n\n{inspect.getdoc(cell)}"
        )
    elif arguments.json:
        print(json.dumps([_row(name) for name in CELLS if _fault(name) is None]))
    else:
        for name in CELLS:
            print(_lines(name))
    return 0


def _fault(name: str) -> str | None:
    """Return the error of an installed cell that cannot be loaded, which must not hide the others."""
    try:
        choose(CELLS, name, "cell")
    except ValueError as error:
        return str(error)
    return None


def _row(name: str) -> dict[str, Any]:
    return {"name": name, "summary": summary(CELLS[name]), "options": options(CELLS[name])}


def _lines(name: str) -> str:
    """Return a cell's line and one with its options."""
    width = max(map(len, CELLS))
    if fault := _fault(name):
        return f"{name:<{width}}  {fault}"
    shown = [f"{option}={_shown(value)}" for option, value in options(CELLS[name]).items()]
    return f"{name:<{width}}  {summary(CELLS[name])}\n{'':<{width}}    {'  '.join(shown) or 'no options'}"


def summary(cell: type[Cell]) -> str:
    """Return a cell's summary: the first line of its module's docstring, else of its own."""
    text = inspect.getdoc(sys.modules[cell.__module__]) or inspect.getdoc(cell) or ""
    return text.partition("\n")[0]


def options(cell: type[Cell]) -> dict[str, Any]:
    """Return the options of a cell, its keyword-only arguments, with their defaults."""
    parameters = inspect.signature(cell).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _shown(value: Any) -> str:
    """Format a default as `--cell-options` takes it."""
    if isinstance(value, tuple):
        return f"[{','.join(map(_shown, value))}]"
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
