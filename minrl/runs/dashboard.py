"""TensorBoard over a folder of runs: curves under the runs' names, charts, one table of hyper-parameters."""

import base64
import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tensorboard import program  # type: ignore[import-untyped]
from torch.utils.tensorboard import FileWriter
from torch.utils.tensorboard.summary import custom_scalars

from minrl.runs.folder import CONFIG, GRID, PROGRESS, RUNS, TARGETS_PLOT, VIDEOS
from minrl.runs.host_header import Application, only_known_hosts
from minrl.runs.tensorboard import METRICS, Value, charts, experiment, hyperparameters, online_layout
from minrl.system.digests import check_comment
from minrl.system.folders import walk
from minrl.system.text_files import read_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_EVENTS = "tfevents"  # in the names of TensorBoard's files


class RunLinks:
    """Folder of links to the event files of all runs, as TensorBoard's log folder.

    A run is named by its path below `folder`, a single run by the folder itself. Events about all runs together are
    written here, none into the runs' folders.

    Args:
        folder: of a run, or of runs at any depth.
        into: empty folder for the links.

    Raises:
        ValueError: if there is no folder, or no run in it.
    """

    def __init__(self, folder: Path, into: Path) -> None:
        if not folder.is_dir():
            raise ValueError(f"no folder {folder}: name one that holds runs, such as that of minrl train --out")
        self.into = into
        self.root = folder / RUNS if (folder / GRID).is_file() and (folder / RUNS).is_dir() else folder
        self.name = Path(os.path.realpath(folder)).name or "runs"
        self.runs: dict[str, Path] = {}
        self.update()
        if not self.runs:
            raise ValueError(f"{folder} holds no run: no {_EVENTS} file of TensorBoard lies in it, at any depth")
        self._describe()

    def update(self) -> None:
        """Link new event files."""
        for file in _event_files(self.root):
            inner = file.parent.relative_to(self.root)
            name = self.name if inner == Path() else inner.as_posix()
            self.runs[name] = file.parent
            link = self.into / name / file.name
            if not link.is_symlink():
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file.resolve())

    def has_pictures(self) -> bool:
        """Return True if a run has a plot of achieved over target return, or a video."""
        return any((place / name).exists() for place in self.runs.values() for name in (TARGETS_PLOT, VIDEOS))

    def _describe(self) -> None:
        """Write the columns of the table of runs, and charts for runs that plain Stable-Baselines3 logged."""
        first = next(iter(self.runs))
        settings = {name: read for name, place in self.runs.items() if (read := _settings(place)) is not None}
        if settings:
            logged = {column for place in self.runs.values() for column in _columns(place)}
            shown = [metric for metric in METRICS if metric in logged] or METRICS
            self._write(first, experiment(settings.values(), shown))
        others = [name for name in self.runs if name not in settings]
        if others:
            self._write(others[0], custom_scalars(charts(online_layout(plays=True))))

    def _write(self, run: str, summary: Any) -> None:
        writer = FileWriter(str(self.into / run))
        writer.add_summary(summary, 0)
        writer.close()


# Path of the page of all custom charts, below TensorBoard's address.
CHARTS = "charts"
# Key in the browser's storage under which TensorBoard keeps whether charts ignore outliers.
_OUTLIERS = "_ignoreYOutliers"


def launch(
    logdir: Path, runs: Iterable[str], title: str, *, host: str, port: int | None, names: Sequence[str] = ()
) -> str:
    """Start TensorBoard in a thread of this process and return its address.

    Args:
        logdir: with the event files.
        runs: their names, read again at each request of the page `CHARTS`.
        title: of the browser window.
        host: name or address to listen at.
        port: to listen at, 0 for any free one; by default the first free one from 6006 on.
        names: host names that browsers may ask for, besides those of this machine; see `minrl.runs.host_header`.

    Raises:
        ValueError: if it cannot listen there.
    """

    def server(app: Application, flags: Any) -> Any:
        return program.create_port_scanning_werkzeug_server(
            only_known_hosts(_with_charts(app, runs), [host, *names]), flags
        )

    board = program.TensorBoard(server_class=server)
    board.configure(
        logdir=str(logdir),
        host=host,
        port=port,
        window_title=title,
        reload_interval=5,
        samples_per_plugin={"scalars": 5000, "images": 100},
    )
    said = io.StringIO()
    try:
        # TensorBoard prints its choice of a reader, and the reason of an exit, on standard error.
        with contextlib.redirect_stderr(said):
            address: str = board.launch()
    except program.TensorBoardPortInUseError as error:
        raise ValueError(f"port {port} is taken: choose another with --port, or 0 for any that is free") from error
    except program.TensorBoardServerException as error:
        raise ValueError(f"TensorBoard cannot listen at {host}: {error.msg}") from error
    except SystemExit as error:
        raise ValueError(f"TensorBoard cannot listen at {host}: {said.getvalue().strip().splitlines()[-1]}") from error
    return address


def _with_charts(board: Application, runs: Iterable[str]) -> Application:
    """Wrap `board` so that it also serves the page `CHARTS`, which redirects to the custom charts of all runs.

    TensorBoard selects none of more than 40 runs, and ignores outliers when it scales charts: among them are the only
    point of a single evaluation and the best score of a few. Only the browser's storage turns that off.
    """

    def answer(environment: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        if environment.get("PATH_INFO") != f"/{CHARTS}":
            return board(environment, start)
        page = _charts_page(runs).encode()
        kind = ("Content-Type", "text/html; charset=utf-8")
        start("200 OK", [kind, ("Cache-Control", "no-store"), ("Content-Length", str(len(page)))])
        return [] if environment.get("REQUEST_METHOD") == "HEAD" else [page]

    return answer


def _charts_page(runs: Iterable[str]) -> str:
    """Return the page that turns off outlier scaling in the browser and redirects to the charts of `runs`."""
    ticked = json.dumps(dict.fromkeys(runs, True), separators=(",", ":"))
    # Padded to a multiple of three bytes: base64's equals sign would be read as part of the address.
    state = base64.b64encode(ticked.ljust(-(-len(ticked) // 3) * 3).encode("ascii")).decode("ascii")
    # No smoothing, which TensorBoard does by default: evaluations are few. The address is relative, for proxies.
    place = f"./#custom_scalars&_smoothingWeight=0&runSelectionState={state}"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>minrl: charts</title>\n</head>\n'
        f'<body>\n<a href="{place}">charts</a>\n<script>\n'
        # A browser without storage shows the charts too.
        f'try {{ localStorage.setItem("{_OUTLIERS}", "false"); }} catch (error) {{ console.warn(error); }}\n'
        f"location.replace({json.dumps(place)});\n</script>\n</body>\n</html>\n"
    )


def _event_files(root: Path) -> Iterator[Path]:
    """Find TensorBoard's event files, each folder once, following links to folders."""
    for place, _, files in walk(root):
        yield from (place / name for name in files if _EVENTS in name and (place / name).is_file())


def _settings(run: Path) -> dict[str, Value] | None:
    """Read the hyper-parameters of a run's `config.toml`; None without a readable one."""
    try:
        return hyperparameters(tomllib.loads(check_comment(read_text(run / CONFIG))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _columns(run: Path) -> list[str]:
    """Read the column names of a run's log; none before its first row, or if it is no regular file."""
    if not (run / PROGRESS).is_file():
        return []
    try:
        with (run / PROGRESS).open(newline="", encoding="utf-8") as file:
            return next(csv.reader(file), [])
    except OSError:
        return []
