"""Time, as an argument: real by default, the test's own where a test brings it along."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Protocol


class Clock(Protocol):
    """Two readings of time: one for durations, one for people."""

    def monotonic(self) -> float:
        """Seconds that never go back; the zero means nothing."""

    def unix(self) -> float:
        """Seconds since 1970, UTC; may jump."""


class SystemClock:
    """The machine's own time."""

    def monotonic(self) -> float:
        """Seconds since some fixed point."""
        return time.monotonic()

    def unix(self) -> float:
        """Seconds since 1970, UTC."""
        return time.time()


class ManualClock:
    """Time that stands still until it is moved: a virtual hour takes as long as its events."""

    def __init__(self, *, monotonic_seconds: float = 0.0, unix_seconds: float = 1_800_000_000.0) -> None:
        self._monotonic = monotonic_seconds
        self._offset = unix_seconds - monotonic_seconds

    def monotonic(self) -> float:
        """Seconds moved so far, plus the start."""
        return self._monotonic

    def unix(self) -> float:
        """The same instant as Unix time."""
        return self._monotonic + self._offset

    def advance(self, seconds: float) -> None:
        """Move on."""
        if seconds < 0:
            raise ValueError("time does not go back")
        self._monotonic += seconds


class Metronome:
    """The beats of one thread, which do not drift; others may stop them, or have them at another pace."""

    def __init__(self, interval_seconds: float, *, clock: Clock) -> None:
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._stopped = False
        self._told = threading.Event()

    @property
    def interval_seconds(self) -> float:
        """Between two beats."""
        return self._interval_seconds

    def pace(self, interval_seconds: float) -> None:
        """Beat at this interval from now on. If it is another one, the next beat is now."""
        if interval_seconds != self._interval_seconds:
            self._interval_seconds = interval_seconds
            self._told.set()

    def stop(self) -> None:
        """No beat after this."""
        self._stopped = True
        self._told.set()

    def beats(self) -> Iterator[None]:
        """Waits for each beat, the first of which is now; those that were missed are not caught up."""
        due = self._clock.monotonic()
        while not self._stopped:
            yield
            now = self._clock.monotonic()
            due = max(due + self._interval_seconds, now)
            if self._told.wait(due - now):
                self._told.clear()
                due = self._clock.monotonic()
