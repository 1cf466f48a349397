"""The log of a run, as TensorBoard reads it."""

import os
import time
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from minrl.runs.log import STEP, open_log, read_log


def write(folder: Path, begin: int, steps: range) -> None:
    log = open_log(folder, step=begin, terminal=False)
    for step in steps:
        log.record(STEP, step)
        log.record("train/loss", float(step))
        log.dump(step)
    log.close()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Stop the clock a quarter after the present second, except for sleeps."""
    now = [time.time() // 1 + 0.25]
    monkeypatch.setattr(time, "time", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda seconds: now.__setitem__(0, now[0] + seconds))
    return now


@pytest.mark.usefixtures("clock")
def test_logs_of_one_second_are_read_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the second process the number whose name sorts first, as can happen."""
    for process, begin, steps in ((99999, 0, range(1, 6)), (11111, 3, range(4, 8))):
        monkeypatch.setattr(os, "getpid", lambda number=process: number)
        write(tmp_path, begin, steps)
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [point.step for point in points] == list(range(1, 8))


def test_a_file_with_a_future_time_is_not_waited_for(tmp_path: Path, clock: list[float]) -> None:
    begin = clock[0]
    (tmp_path / f"events.out.tfevents.{int(begin) + 1000}.host.1.0").touch()
    write(tmp_path, 0, range(1, 3))
    assert clock[0] == begin


def test_repeated_results_are_dropped_on_resume(tmp_path: Path) -> None:
    """Keep the step's own loss."""
    log = open_log(tmp_path, terminal=False)
    for step in (5, 10):
        for names in (
            ["train/loss"],
            ["eval/mean_reward"],
            ["validation/loss"],
            ["eval/mean_reward", "validation/loss"],
        ):
            log.record(STEP, step)
            for name in names:
                log.record(name, float(step))
            log.dump(step)
    log.close()
    for repeats, count in ((False, 8), (True, 5)):
        open_log(tmp_path, step=10, repeats_evaluation=repeats, terminal=False).close()
        assert len(read_log(tmp_path)) == count
    assert read_log(tmp_path)[-1] == {STEP: 10, "train/loss": 10}
