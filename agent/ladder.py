"""The ladder: for each quantity the best evidence there is now.

GPM before dcgm, each activity ratio by itself: one may be missing where another is given. What comes
after, bytes from a model, is `tracks`' to add. A rung that comes back must prove itself before it is
used again, so that numbers of two kinds do not alternate.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.readings import Activity, Evidence

RATIOS: tuple[str, ...] = ("dram_ratio", "tensor_ratio", "sm_ratio", "graphics_ratio")
"""The quantities, by the names of `Activity`'s fields."""

RETURN_SECONDS = 10.0
"""A better rung that has come back is taken after it was there for so long, while the other holds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One activity ratio, 0–1, and where it is from."""

    ratio: float
    evidence: Evidence
    seconds: float
    """Over which it is a mean."""


class Ladder:
    """The rungs in use on one GPU."""

    def __init__(self) -> None:
        self._rungs: dict[str, Evidence] = {}
        self._better_since: dict[str, float] = {}

    def climb(self, rungs: Sequence[Activity], *, now_seconds: float) -> Mapping[str, Measured]:
        """Each quantity that some rung gives, from exactly one; `rungs` come best first."""
        chosen = {}
        for name in RATIOS:
            given = {
                rung.evidence: Measured(ratio=ratio, evidence=rung.evidence, seconds=rung.seconds)
                for rung in rungs
                if (ratio := getattr(rung, name)) is not None
            }
            if given:
                chosen[name] = given[self._choose(name, tuple(given), now_seconds)]
        return chosen

    def _choose(self, name: str, available: tuple[Evidence, ...], now: float) -> Evidence:
        best, current = available[0], self._rungs.get(name)
        if best == current or current not in available:
            self._better_since.pop(name, None)
            self._rungs[name] = best
            return best
        since = self._better_since.setdefault(name, now)
        if now - since < RETURN_SECONDS:
            return current
        return self._choose(name, (best,), now)
