"""A limit on how many requests are answered: exporter-toolkit's, a bucket of tokens that fills with time."""

from __future__ import annotations

import re
import threading

from agent.clock import Clock


class TokenBucket:
    """Holds up to `burst` tokens, and gains one each interval; a request takes one."""

    def __init__(self, *, interval_seconds: float, burst: int, clock: Clock) -> None:
        self._interval_seconds, self._burst, self._clock = interval_seconds, burst, clock
        self._lock = threading.Lock()  # guards both that follow: workers take tokens at the same time
        self._tokens = float(burst)
        self._at_seconds = clock.monotonic()

    def take(self) -> float:
        """0 when there was a token; else the seconds until there is one."""
        with self._lock:
            now = self._clock.monotonic()
            gained = (now - self._at_seconds) / self._interval_seconds
            self._tokens, self._at_seconds = min(self._tokens + gained, self._burst), now
            if self._tokens >= 1:
                self._tokens -= 1
                return 0.0
            return (1 - self._tokens) * self._interval_seconds


_DURATION = re.compile(r"(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|μs|ms|s|m|h))+")
_DURATION_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it, such as ``1m30s``. Raises `ValueError` for others."""
    if text in ("0", "+0", "-0"):
        return 0.0
    if _DURATION.fullmatch(text) is None:
        raise ValueError("must be a duration with its unit, such as 100ms or 1m30s")
    return sum(float(number) * _UNIT_SECONDS[unit] for number, unit in _DURATION_PART.findall(text))
