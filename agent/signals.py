"""What signals ask of the process, done by its main thread when it looks.

Until there is anything to let go of, a request to stop ends the process at once.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue
from types import FrameType

STOPS = (signal.SIGINT, signal.SIGTERM)


def leave_at_once() -> None:
    """End with 0 when a stop is asked for: nothing is held yet. Also as a container's first process.

    The kernel keeps what has no handler from such a process, so that an early SIGTERM would be lost.
    """
    for number in STOPS:
        signal.signal(number, lambda *_: os._exit(0))


class Signals:
    """From when something is held until the process ends."""

    def __init__(self) -> None:
        # A queue, since a handler may put into it whatever it interrupts. An Event's lock may be held by the
        # very thread that the handler runs in.
        self._asked: SimpleQueue[int] = SimpleQueue()
        self._acts: dict[int, Callable[[], object]] = {}
        for number in STOPS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._asked.put(number)

    def on(self, number: int, act: Callable[[], object]) -> None:
        """Have it done when the signal comes; on a thread of its own, as it may wait for a driver."""
        self._acts[number] = act
        signal.signal(number, self._note)

    def wait(self, seconds: float) -> bool:
        """Do what is asked for. Whether to stop; `False` after so many seconds."""
        end = time.monotonic() + seconds
        while True:
            try:
                number = self._asked.get(timeout=max(end - time.monotonic(), 0.0))
            except Empty:
                return False
            if number in STOPS:
                return True
            threading.Thread(target=self._acts[number], name="signal", daemon=True).start()

    def ignore(self) -> None:
        """The process ends as it was asked to: what comes from now on must not end it otherwise."""
        for number in (*STOPS, *self._acts):
            signal.signal(number, signal.SIG_IGN)
