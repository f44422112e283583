"""Progress of work that may be stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gqn_rl.agents.interrupts import StopRequest


def stoppable(bar: Any, request: StopRequest) -> Callable[[int], None]:
    """Moves ``bar`` on by what is done; raises :class:`KeyboardInterrupt` once ``request`` is received."""

    def progress(done: int) -> None:
        bar.update(done)
        if request.received:
            raise KeyboardInterrupt("interrupted; nothing is written, and the same command starts anew")

    return progress
