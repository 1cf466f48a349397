"""Requests to stop that arrive while C code calls Python, which drops exceptions."""

import ctypes
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minrl.runs.attempt import attempt
from minrl.system.signals import Stopped, StopRequest


def from_c(call: Callable[[], None]) -> None:
    """Call a function as a compiler does that reports its progress: what it raises is lost."""
    ctypes.CFUNCTYPE(None)(call)()


def stop_and_go_on(reached: list[bool], fails: bool) -> None:
    from_c(lambda: signal.raise_signal(signal.SIGTERM))
    reached.append(fails)
    if fails:
        raise RuntimeError("no compiled object yet")


def evaluate_and_stop(request: StopRequest, folder: Path, reached: list[bool]) -> None:
    with attempt("evaluation", 3, folder), request.undropped():
        stop_and_go_on(reached, fails=True)


def test_a_stop_that_is_dropped_still_stops(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Run on after the signal, fail after it, and fail inside work whose errors are reported."""
    reached = list[bool]()
    for fails in (False, True):
        with StopRequest() as request:
            with pytest.raises(Stopped), request.at_once():
                stop_and_go_on(reached, fails)
            with pytest.raises(Stopped), request.at_once():
                raise AssertionError("a request is kept")
            with pytest.raises(RuntimeError, match="another"), request.undropped():
                raise RuntimeError("another")
    with StopRequest() as request, pytest.raises(Stopped), request.at_once():
        evaluate_and_stop(request, tmp_path, reached)
    assert reached == [False, True, True]
    assert capsys.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_other_errors_that_are_dropped_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = list[type]()
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: shown.append(lost.exc_type))
    with StopRequest() as request, request.at_once():
        from_c(lambda: 1 // 0)  # type: ignore[arg-type, return-value]
    from_c(lambda: {}[0])  # after it as before
    assert shown == [ZeroDivisionError, KeyError]
