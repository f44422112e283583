"""Ctrl-C and SIGTERM as a wish that is granted between two steps, when nothing is half written."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Final, Self

#: What :func:`stopping_when` has in force.
_conditions: Final[list[Callable[[], bool]]] = []


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped because it was asked to; the same command goes on from the last checkpoint.

    Args:
        step: environment steps taken.
        resumes_at: that of the last checkpoint; 0 if there is none yet.
    """

    def __init__(self, step: int, resumes_at: int) -> None:
        if resumes_at > 0:
            where, then = "", f"go on from step {resumes_at:,}"
        else:
            where, then = ", before the first checkpoint", "begin again at step 0"
        super().__init__(f"interrupted at step {step:,}{where}; run the same command to {then}")


@contextmanager
def stopping_when(condition: Callable[[], bool]) -> Iterator[None]:
    """While entered, every :class:`StopRequest` of this process is received once ``condition()`` is true.

    For workers, which no signal may reach: they can be on another machine. It is asked before every step, so it has to
    be quick.
    """
    _conditions.append(condition)
    try:
        yield
    finally:
        _conditions.remove(condition)


class StopRequest:
    """While entered, SIGINT and SIGTERM set ``received``; a second one takes its usual effect at once."""

    def __init__(self) -> None:
        self._signalled = False
        self._previous: dict[signal.Signals, Any] = {}

    @property
    def received(self) -> bool:
        """Whether a signal came, or a condition of :func:`stopping_when` holds."""
        return self._signalled or any(condition() for condition in _conditions)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():  # elsewhere Python refuses to set handlers
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()
