"""Ctrl-C and SIGTERM as a request to stop after the current step, so that a checkpoint is saved first."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType


class Stopped(BaseException):
    """Exception of work that a signal broke off; a BaseException, so that no `except Exception` swallows it."""


class StopRequest:
    """Context manager that notes SIGINT and SIGTERM; a second SIGINT interrupts at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._raises = self._raised = False
        self._before: dict[int, object] = {}
        self._unraisable = sys.unraisablehook

    def __enter__(self) -> "StopRequest":
        # Python allows handlers only in the main thread; elsewhere signals keep their default effect.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
            self._unraisable, sys.unraisablehook = sys.unraisablehook, self._drop
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if self._before:
            sys.unraisablehook = self._unraisable

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Raise `Stopped` at the first signal inside this context: long work that can be repeated."""
        self.raise_at_once()
        try:
            with self.undropped():
                yield
        finally:
            self.only_note()
            self._raised = False

    @contextmanager
    def undropped(self) -> Iterator[None]:
        """Raise `Stopped` at the end of the context if it was raised inside and got lost.

        Compilers call Python from C, which drops exceptions; numba then fails with another one.
        """
        try:
            yield
        except Exception as error:
            if self._raised:
                raise Stopped from error
            raise
        if self._raised:
            raise Stopped

    def raise_at_once(self) -> None:
        """Raise `Stopped` at the first signal from here on; at once if there was one."""
        if self.signal is not None:
            raise Stopped
        self._raises = True

    def only_note(self) -> None:
        """Note signals from here on, for the caller to look at `signal`."""
        self._raises = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.signal == signal.SIGINT and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        if self._raises:
            self._raises, self._raised = False, True
            raise Stopped

    def _drop(self, lost: "sys.UnraisableHookArgs") -> None:
        """Print an exception that got lost, except `Stopped`."""
        if not issubclass(lost.exc_type, Stopped):
            self._unraisable(lost)
