"""Where the time of a GPU went: one ledger that only grows, with its state at each whole second.

Every other view is a difference of two of its states: a profiling sample, an energy reading, the truth.
GPUs that work in step (tensor-parallel ranks) share one timeline.
"""

from __future__ import annotations

import math
from collections import deque

from agent.simulate.activity import BATCH_SECONDS, KERNEL_KINDS, LEDGER_ENTRIES, Kind, Ledger

HISTORY_SECONDS = 7200
"""How far back the truth is kept."""


def _only(kind: Kind) -> list[float]:
    rates = [0.0] * LEDGER_ENTRIES
    rates[kind] = 1.0
    return rates


_HOST, _IDLE = _only(Kind.HOST), _only(Kind.IDLE)


class Timeline:
    """What is in force now: kernels until an instant, then the host until another, then nothing.

    Times are seconds since the node's start.
    """

    def __init__(self) -> None:
        self.accounted_until = 0.0
        self.kernels_until = 0.0
        self._in_flight_until = 0.0
        self._kernel_rates = _IDLE
        self._ledger = [0.0] * LEDGER_ENTRIES
        self._marks: deque[Ledger] = deque([self.ledger], maxlen=HISTORY_SECONDS + 1)
        self._next_mark = 1

    @property
    def ledger(self) -> Ledger:
        """As of `accounted_until`."""
        return tuple(self._ledger)

    def run(self, kernels: list[float], *, batch: int, start: float, in_flight_until: float) -> None:
        """A step's kernels begin, on a GPU free of others; its requests are in flight until the end given."""
        self.account(start)
        total = sum(kernels)
        rates = [0.0] * LEDGER_ENTRIES
        rates[:KERNEL_KINDS] = [seconds / total for seconds in kernels]
        rates[BATCH_SECONDS] = rates[Kind.DECODE_GEMM] * batch
        self._kernel_rates = rates
        self.kernels_until = start + total
        self._in_flight_until = max(self._in_flight_until, in_flight_until)

    def occupy(self, kind: Kind, *, start: float, until: float = math.inf) -> None:
        """From now on nothing but this; what was running is cut off."""
        self.account(start)
        self._kernel_rates = _only(kind)
        self.kernels_until = self._in_flight_until = until

    def vacate(self, at: float) -> None:
        """What was running is cut off, and nothing follows."""
        self.account(at)
        self.kernels_until = self._in_flight_until = at

    def account(self, until: float) -> None:
        """Write down the time up to here."""
        if self.accounted_until < self.kernels_until:
            self._spend(self._kernel_rates, min(until, self.kernels_until))
        if self.accounted_until < self._in_flight_until:
            self._spend(_HOST, min(until, self._in_flight_until))
        self._spend(_IDLE, until)

    def at(self, seconds: float) -> Ledger:
        """The ledger at an instant of the past, linear between whole seconds."""
        oldest = self._next_mark - len(self._marks)
        if not oldest <= seconds <= self.accounted_until:
            raise ValueError(f"{seconds} s is not between {oldest} and {self.accounted_until} s")
        whole = int(seconds)
        begin = self._marks[whole - oldest]
        if whole + 1 < self._next_mark:
            end, length = self._marks[whole + 1 - oldest], 1.0
        else:
            end, length = self.ledger, self.accounted_until - whole
        share = (seconds - whole) / length if length else 0.0
        return tuple(a + (b - a) * share for a, b in zip(begin, end, strict=True))

    def _spend(self, rates: list[float], until: float) -> None:
        while self._next_mark <= until:
            self._add(rates, self._next_mark)
            self._marks.append(self.ledger)
            self._next_mark += 1
        self._add(rates, until)

    def _add(self, rates: list[float], until: float) -> None:
        seconds = until - self.accounted_until
        if seconds > 0:
            self._ledger = [total + rate * seconds for total, rate in zip(self._ledger, rates, strict=True)]
            self.accounted_until = until
