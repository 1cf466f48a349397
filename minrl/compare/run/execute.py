"""One run of a comparison: trained, resumed or skipped, its output in a log file."""

import gc
import os
import socket
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from minrl.compare.grid.family import Family
from minrl.compare.grid.plan import PlannedRun, is_done
from minrl.runs import checkpoint
from minrl.runs.folder import CONFIG, LAST_CHECKPOINT, LOG, SUMMARY, run_lock
from minrl.runs.side_files import intact, read_summary
from minrl.system.config import build, read_toml
from minrl.system.digests import check_comment
from minrl.system.files import make_folder, open_appending
from minrl.system.messages import reason_of
from minrl.system.text_files import read_text

# Seconds to wait for a lock: a process killed on another machine of a cluster may live a little longer.
_PATIENCE = 60.0


@dataclass(frozen=True)
class Outcome:
    """Ending of an attempt at a run: success, a signal or an error."""

    seconds: float
    signal: int | None = None
    error: str | None = None


def execute(run: PlannedRun, family: Family, out: Path) -> Outcome:
    """Train the run into its folder below `out`, or resume it; its output goes into `log.txt`."""
    begin = time.perf_counter()
    signal, error = None, None
    try:
        code = _logged(run, family, out / run.folder)
        signal = code - 128 if code > 128 else None
        if code and signal is None:
            error = f"its evaluation failed: see {out / run.folder / LOG}"
    except Exception as caught:
        error = reason_of(caught)
    # Agents hold reference cycles; GPU memory is freed when they are collected.
    gc.collect()
    return Outcome(time.perf_counter() - begin, signal, error)


def _logged(run: PlannedRun, family: Family, folder: Path) -> int:
    make_folder(folder)
    with open_appending(folder / LOG) as log, redirect_stdout(log), redirect_stderr(log):
        print(f"{run.key}: process {os.getpid()} on {socket.gethostname()}")
        try:
            with run_lock(folder, patience=_PATIENCE):
                return 0 if is_done(folder) else _train(run, family, folder)
        except Exception:
            traceback.print_exc()
            raise


def _train(run: PlannedRun, family: Family, folder: Path) -> int:
    options, settings = build_settings(run, family)
    intact(folder / SUMMARY, lambda: read_summary(folder), None)
    if (folder / LAST_CHECKPOINT).exists():
        return family.resume(settings, folder)
    return family.start(run.agent, options, settings, folder)


def build_settings(run: PlannedRun, family: Family) -> tuple[Any, Any]:
    """Build the settings of a run, tables [AGENT] and [train], as dataclasses."""
    options = build(family.agents[run.agent], run.settings[run.agent], run.key)
    return options, build(family.settings[run.agent], run.settings["train"], run.key)


def changed_setting(run: PlannedRun, family: Family, out: Path) -> str | None:
    """Describe a setting in the run's folder that differs from the plan's; None without a difference or a run."""
    folder = out / run.folder
    # A finished run may have come without its weights.
    if not (folder / LAST_CHECKPOINT).exists() and not is_done(folder):
        return None
    tables = _settings(folder, family, run.agent)
    if run.agent not in tables:
        return f"agent = {next((name for name in tables if name != 'train'), None)}, now {run.agent}"
    kinds = {run.agent: family.agents[run.agent], "train": family.settings[run.agent]}
    for (name, kind), planned in zip(kinds.items(), build_settings(run, family), strict=True):
        for key, was in vars(build(kind, tables.get(name, {}), str(folder))).items():
            now = getattr(planned, key)
            if not _same(was, now):
                return f"{key} = {was}, now {now}"
    return None


def _settings(folder: Path, family: Family, agent: str) -> dict[str, dict[str, Any]]:
    """Read the settings of the run in a folder.

    Those of its checkpoint, if `config.toml` is damaged or is another agent's than `agent`, with settings of its own.
    """
    try:
        check_comment(read_text(folder / CONFIG))
        return read_toml(folder / CONFIG, {**family.agents, "train": family.settings[agent]})
    except (ValueError, OSError):
        saved = checkpoint.read(folder)
    kind = family.agents.get(saved.agent)
    names = {item.name for item in fields(kind)} if kind is not None else set()
    own = {name: value for name, value in saved.config.items() if name in names}
    return {saved.agent: own, "train": saved.training["config"]}


def _same(was: Any, now: Any) -> bool:
    """Return True if a setting is unchanged: runs record absolute file names, older ones a switch's False for unset."""
    if was == now or ({type(was), type(now)} == {type(None), bool} and not (was or now)):
        return True
    return isinstance(was, str) and isinstance(now, str) and Path(now).expanduser().absolute() == Path(was)
