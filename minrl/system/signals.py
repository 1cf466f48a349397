"""Ctrl-C and SIGTERM as a request to stop after the step in hand, so that a checkpoint is saved first."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Stopped(BaseException):
    """A signal broke off work that can be done again; no `except Exception` on the way may take it for a fault."""


class StopRequest:
    """A context in which SIGINT and SIGTERM are noted; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._raises = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> "StopRequest":
        # Python allows handlers in the main thread alone; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """A part in which the first signal raises `Stopped`: a long one whose result can be had again."""
        if self.signal is not None:
            raise Stopped
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._raises:
            self._raises = False
            raise Stopped
