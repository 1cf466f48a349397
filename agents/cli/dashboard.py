"""`minrl dashboard`: TensorBoard over a folder of runs."""

import argparse
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from minrl.runs.dashboard import CHARTS, RunLinks, launch
from minrl.system.signals import StopRequest

# Seconds between searches for new runs.
_PAUSE = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags of `minrl dashboard`."""
    parser.usage = "minrl dashboard FOLDER [flags]"
    parser.epilog = (
        "examples:\n"
        "  minrl dashboard runs                      # all runs below a folder, comparisons too\n"
        "  minrl dashboard runs/hopper --port 8080\n"
        "  minrl dashboard runs --host 0.0.0.0       # reachable from other machines\n\n"
        "New runs appear while it is open. Ctrl-C ends it."
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="a run, or a folder of runs at any depth")
    parser.add_argument("--port", metavar="N", type=int, help="port, 0 for any (default: the first free one from 6006)")
    parser.add_argument("--host", metavar="NAME", default="localhost", help="address to serve at (default: localhost)")
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        nargs="+",
        default=[],
        help="names that a proxy asks for (lab.example)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Serve TensorBoard until Ctrl-C or SIGTERM."""
    if arguments.port is not None and not 0 <= arguments.port <= 65535:
        raise ValueError(f"port must lie in 0 to 65535, got {arguments.port}")
    with StopRequest() as request, TemporaryDirectory(prefix="minrl_dashboard_") as folder:
        links = RunLinks(arguments.folder, Path(folder))
        title = f"minrl: {links.name}"
        where = {"host": arguments.host, "port": arguments.port, "names": arguments.allow_host}
        address = launch(Path(folder), links.runs, title, **where)
        count = len(links.runs)
        print(f"{count} {'run' if count == 1 else 'runs'} of {arguments.folder}; Ctrl-C ends this", flush=True)
        print(f"charts                 {address}{CHARTS}")
        print(f"settings and results   {address}#hparams")
        print(f"all curves             {address}?smoothing=0#timeseries", flush=True)
        if links.has_pictures():
            print(f"pictures               {address}#images", flush=True)
        looked = time.monotonic()
        while request.signal is None:
            time.sleep(0.1)
            if time.monotonic() - looked > _PAUSE:
                links.update()
                looked = time.monotonic()
    return 0
