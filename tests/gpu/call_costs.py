"""What each call into libnvidia-ml costs: timed where nvidia-ml-py looks its C functions up.

That is one place for all calls, whoever makes them and however they were imported; Python's own part
is left out, and what is left is the library's and the driver's.
"""

from __future__ import annotations

import math
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pynvml

SLOW_SECONDS = 5e-3
"""From here on a call is worth a word: 8 GPUs with one such call each are 4 % of the time."""

# Not timed: waiting for an event is what this call is for, on a thread of its own.
# And nvidia-ml-py sets the type that nvmlErrorString returns, on the very function.
_LEFT_OUT = ("nvmlEventSetWait", "nvmlEventSetWait_v2", "nvmlErrorString")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCost:
    """One call in one state of the GPU."""

    state: str
    name: str
    count: int
    median_seconds: float
    p99_seconds: float
    max_seconds: float

    @property
    def is_slow(self) -> bool:
        """It once took too long."""
        return self.max_seconds >= SLOW_SECONDS


class CallTimes:
    """The times of all calls, by the state that the GPU is said to be in."""

    def __init__(self) -> None:
        self.state = "opening"
        """Opening a session and finding out what there is may take its time; it is done once."""
        self._seconds: dict[tuple[str, str], list[float]] = defaultdict(list)

    def add(self, name: str, seconds: float) -> None:
        """A call was made."""
        self._seconds[self.state, name].append(seconds)

    def costs(self) -> tuple[CallCost, ...]:
        """By state and name, dearest first."""
        costs = [cost_of(state, name, seconds) for (state, name), seconds in self._seconds.items()]
        return tuple(sorted(costs, key=lambda cost: (cost.state, -cost.median_seconds)))


def cost_of(state: str, name: str, seconds: Sequence[float]) -> CallCost:
    """The figures of one call; the 99th percentile is a time that was seen."""
    ordered = sorted(seconds)
    return CallCost(
        state=state,
        name=name,
        count=len(ordered),
        median_seconds=statistics.median(ordered),
        p99_seconds=ordered[math.ceil(0.99 * len(ordered)) - 1],
        max_seconds=ordered[-1],
    )


@contextmanager
def timed() -> Iterator[CallTimes]:
    """Time every call until the end of the block."""
    library: Any = pynvml
    look_up = library._nvmlGetFunctionPointer
    times = CallTimes()

    def timing_look_up(name: str) -> Callable[..., object]:
        function: Callable[..., object] = look_up(name)
        if name in _LEFT_OUT:
            return function

        def call(*arguments: object) -> object:
            began = time.perf_counter()
            try:
                return function(*arguments)
            finally:
                times.add(name, time.perf_counter() - began)

        return call

    library._nvmlGetFunctionPointer = timing_look_up
    try:
        yield times
    finally:
        library._nvmlGetFunctionPointer = look_up
