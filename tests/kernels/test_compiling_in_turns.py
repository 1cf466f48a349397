"""Processes that need the same kernel: one compiles it, the others read what it kept."""

import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.core import event

from minrl.kernels.jit.compile import compiled
from minrl.kernels.jit.turn import Turn


def fill(x: Any) -> None:
    for i in range(len(x)):
        x[i] = 2.0 * i


class Compilations(event.Listener):  # type: ignore[misc]
    """Counter of compilations, which last until all processes have asked for the kernel, and longer."""

    def __init__(self, others: Any) -> None:
        self.number, self._others = 0, others

    def on_start(self, happened: object) -> None:
        self.number += 1
        self._others.wait()
        time.sleep(0.3)

    def on_end(self, happened: object) -> None:
        pass


def call_in_process(folder: str, kind: str, asks: Any, others: Any, results: Any) -> None:
    numba.config.CACHE_DIR = folder
    compilations = Compilations(others)
    event.register("numba:compile", compilations)
    kernel, x = compiled(fill), np.zeros(5, kind)
    asks.release()
    kernel(x)
    results.put((kind, compilations.number, float(x.sum())))


def test_one_of_several_compiles(tmp_path: Path) -> None:
    context, kinds = get_context("fork"), ("f4", "f4", "f8")
    asks, others, results = context.Semaphore(0), context.Event(), context.Queue()
    processes = [
        context.Process(target=call_in_process, args=(str(tmp_path), kind, asks, others, results)) for kind in kinds
    ]
    for process in processes:
        process.start()
    for _ in processes:
        asks.acquire()
    others.set()
    assert sorted(results.get() for _ in kinds) == [("f4", 0, 20.0), ("f4", 1, 20.0), ("f8", 1, 20.0)]
    for process in processes:
        process.join()


def test_a_turn_passes_on(tmp_path: Path) -> None:
    first, second = Turn(tmp_path / "new" / "lock"), Turn(tmp_path / "new" / "lock")
    first.take()
    first.take()
    first.give()
    second.take()
    second.give()


def test_a_folder_that_cannot_be_made_costs_no_turn(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    turn = Turn(tmp_path / "file" / "lock")
    turn.take()
    turn.give()
