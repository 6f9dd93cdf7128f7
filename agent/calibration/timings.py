"""From timings to one number: the median of repeats, without those that something else disturbed.

A disturbed repeat is slower, by whatever interrupted it; now and then one looks faster, when the clocks rise
for a moment. Neither moves a median, so outliers are counted and left out of the spread, no more.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.clock import Clock

Timed = Callable[[], float]
"""Does its work again and gives the seconds that it took once."""

OUTLIER_DEVIATIONS = 5.0
"""A repeat further from the median than so many standard deviations, as the others show them, is one."""
LEAST_OUTLIER_RATIO = 0.02
"""And one that is nearer than this part of the median is none, however alike the others are."""
DEVIATION_OF_MAD = 1.4826
"""Standard deviation ÷ median absolute deviation, of a normal distribution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """What repeats of the same work say of it."""

    seconds: float
    """Their median, outliers left out."""
    samples: int
    """Those that count."""
    outliers: int
    spread_ratio: float
    """Half of the repeats that count lie within this part of the median: their interquartile range ÷ it."""


def timing_of(seconds: Sequence[float]) -> Timing:
    """Of at least one repeat."""
    middle = statistics.median(seconds)
    deviation = DEVIATION_OF_MAD * statistics.median(abs(each - middle) for each in seconds)
    allowed = max(OUTLIER_DEVIATIONS * deviation, LEAST_OUTLIER_RATIO * middle)
    kept = [each for each in seconds if abs(each - middle) <= allowed]
    median = statistics.median(kept)
    spread = 0.0
    if len(kept) > 1:
        low, _, high = statistics.quantiles(kept, n=4, method="inclusive")
        spread = (high - low) / median
    return Timing(seconds=median, samples=len(kept), outliers=len(seconds) - len(kept), spread_ratio=spread)


def repeat(timed: Timed, *, clock: Clock, seconds: float, least: int, most: int) -> Timing:
    """As many repeats as fit into so many seconds, within the two bounds.

    A first one is thrown away: it chooses kernels, fills caches and raises the clocks.
    """
    timed()
    end = clock.monotonic() + seconds
    samples: list[float] = []
    while len(samples) < least or (len(samples) < most and clock.monotonic() < end):
        samples.append(timed())
    return timing_of(samples)
