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


def test_files_follow_each_other_wherever_the_clock_stands(tmp_path: Path, clock: list[float]) -> None:
    write(tmp_path, 0, range(1, 6))
    for back, begin in ((3600, 5), (86400, 8), (-10, 11)):
        clock[0] -= back
        write(tmp_path, begin, range(begin + 1, begin + 4))
    points = EventAccumulator(str(tmp_path)).Reload().Scalars("train/loss")
    assert [point.step for point in points] == list(range(1, 15))


def test_an_evaluation_that_is_repeated_shows_once(tmp_path: Path) -> None:
    for begin, repeats in ((0, False), (10, True), (10, True)):
        log = open_log(tmp_path, step=begin, repeats_evaluation=repeats, terminal=False)
        if not begin:
            log.record(STEP, 10)
            log.record("train/loss", 0.1)
            log.dump(10)
        log.record(STEP, 10)
        log.record("eval/mean_reward", 5.5)
        log.dump(10)
        log.close()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("eval/mean_reward")] == [(10, 5.5)]
    assert [(event.step, round(event.value, 6)) for event in events.Scalars("train/loss")] == [(10, 0.1)]
    assert read_log(tmp_path) == [{STEP: 10, "train/loss": 0.1}, {STEP: 10, "eval/mean_reward": 5.5}]


def test_new_columns_replace_the_file_and_keep_text_and_order(tmp_path: Path) -> None:
    log = open_log(tmp_path, terminal=False)
    rows: list[dict[str, float]] = [{STEP: 1, "b": 0.1}, {STEP: 2, "a": 1e-7, "c": 3}, {"d": float("nan"), STEP: 3}]
    for row in rows:
        for name, value in row.items():
            log.record(name, value)
        log.dump(int(row[STEP]))
    log.close()
    text = f"{STEP},b,a,c,d\n1,0.1,,,\n2,,1e-07,3,\n3,,,,nan\n"
    assert (tmp_path / "progress.csv").read_text() == text
    open_log(tmp_path, step=3, terminal=False).close()
    assert (tmp_path / "progress.csv").read_text() == text
