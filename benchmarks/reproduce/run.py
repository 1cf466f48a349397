"""Execution of an experiment part by part; numbers, table and plot are rewritten after each."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from minrl.bench.machine import describe
from minrl.system.files import replacing
from minrl.system.names import choose

from .frame import Done, Experiment, Part, Report, Request
from .plot import draw
from .store import Paths, Store


def reproduce(name: str, experiment: Experiment, request: Request, out: Path) -> tuple[str, list[Path]]:
    """Run the unfinished parts of `request`; return the table and the written files.

    Raises:
        ValueError: for invalid flags, before anything is run.
        FloatingPointError: if a model diverges; finished parts are kept.
    """
    for cell in request.cells:
        choose(dict.fromkeys(experiment.known_cells), cell, "cell")
    parts = experiment.parts(request)
    paths = Paths.of(out, name)
    store = Store(paths, name)
    machine = _machine(request)
    table, written = _write(name, experiment, request, store, paths, parts)
    for number, part in enumerate(parts, start=1):
        if store.find(part):
            _say(f"{number} of {len(parts)}: {part.name}: done before")
            continue
        _say(f"{number} of {len(parts)}: {part.name}")
        begin = time.monotonic()
        store.add(part, part.run(), machine)
        _say(f"{number} of {len(parts)}: {part.name}: done in {time.monotonic() - begin:.0f} s")
        table, written = _write(name, experiment, request, store, paths, parts)
    return table, written


def _write(
    name: str, experiment: Experiment, request: Request, store: Store, paths: Paths, parts: Sequence[Part]
) -> tuple[str, list[Path]]:
    done = [found for part in parts if (found := store.find(part))]
    if not done:
        return "", []
    report = experiment.report(done)
    table = to_markdown(report, experiment, command(name, experiment, request), len(parts), done, store)
    with replacing(paths.table) as temporary:
        temporary.write_text(table, encoding="utf-8")
    drawn = draw(report.panels, experiment.title, paths.plot)
    return table, [paths.table, paths.numbers, *([paths.plot] if drawn else [])]


def to_markdown(report: Report, experiment: Experiment, words: str, asked: int, done: list[Done], store: Store) -> str:
    """Format title, command, table, notes and machine."""
    partial = f" **{len(done)} of {asked} parts are done.**" if len(done) < asked else ""
    lines = ["| " + " | ".join(row) + " |" for row in (report.head, ["---"] * len(report.head), *report.rows)]
    machines = "; ".join(store.machines(done))
    return "\n\n".join(
        [f"# {experiment.title}", f"Written by `{words}`.{partial}", "\n".join(lines), *report.notes, f"{machines}.\n"]
    )


def command(name: str, experiment: Experiment, request: Request) -> str:
    """Return the command line of the same request."""
    words = ["minrl", "reproduce", name]
    words += [f"--{request.size}"] if request.size != "small" else []
    words += ["--cells", *request.cells] if request.cells != experiment.cells else []
    words += ["--seed", *map(str, request.seeds)] if request.seeds != (0,) else []
    words += ["--threads", str(request.threads)] if request.threads != 1 else []
    words += ["--device", str(request.device)] if request.device.type != "cpu" else []
    for option, value in request.options.items():
        words += [f"--{option.replace('_', '-')}", str(value)] if value is not None else []
    return shlex.join(words)


def _machine(request: Request) -> str:
    found = describe(request.device, keeps_memory=False)
    threads = "" if found["gpu"] else f", {request.threads} thread{'s' if request.threads > 1 else ''}"
    return (
        f"{found['gpu'] or found['processor']}{threads}, Python {found['python']}, torch {found['torch']}, "
        f"minrl {found['minrl']}"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
