"""Programs of benchmarks/endurance, with fewer environments, processes and actions."""

import importlib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def programs(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that imports a program of `benchmarks/endurance`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks/endurance"))
    return importlib.import_module


@pytest.mark.slow
def test_many_at_once_are_as_one_alone(programs: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINRL_CACHE", str(tmp_path / "cache"))
    processes = programs("processes")
    wanted = processes.trained(tmp_path / "alone")
    found = {
        "loaders": processes.loaders(30, kills=6),
        "threads": processes.threads(tmp_path, wanted),
        "starts": processes.starts(tmp_path, wanted),
        "environments": {"count": 30, "cells": processes.environments(30)},
    }
    assert processes.is_right(found), processes.table(found)


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["mingru", "aaren", "s5"])
def test_long_episodes_do_not_drift(cell: str, programs: Any) -> None:
    found = programs("actions").measure(cell, 1, 20_000)
    assert found["most"] < 1e-5
    assert found["last"] < 10 * found["first"]
