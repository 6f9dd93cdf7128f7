"""The pause before what failed is tried again: doubled with each failure, gone with the first success."""

from __future__ import annotations

from agent.clock import Clock

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 30.0
"""Before what failed is tried again: the first pause, doubled with each failure up to the second."""


class Pause:
    """When to try again what failed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.seconds = 0.0
        """How long it is, once begun."""
        self._due_at = 0.0

    @property
    def lasts(self) -> bool:
        """Whether it is too early."""
        return self.seconds > 0 and self._clock.monotonic() < self._due_at

    def begin(self) -> None:
        """It failed, for the first time or again."""
        self.seconds = min(max(2 * self.seconds, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
        self._due_at = self._clock.monotonic() + self.seconds

    def end(self) -> None:
        """It works."""
        self.seconds = 0.0
