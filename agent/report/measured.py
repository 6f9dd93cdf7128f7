"""All that was measured in a period and in the one before, and the few ratios that sections share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from agent.report.answers import Answers
from agent.report.period import DAY_SECONDS, HOUR_SECONDS, RECORDED_SECONDS, Span
from agent.report.prices import ALL_PRICED, Prices
from agent.report.questions import OF_A_SERVICE
from agent.roofline.cost import MILLION

PER_HOUR = HOUR_SECONDS // RECORDED_SECONDS

COMPARABLE = 0.9
"""Of the larger coverage: with less of one period recorded, its sums are of other hours and days."""
AS_LONG = 0.005
"""Recorded hours that differ by less are as many."""

AS_PRICED = 0.01
"""Priced shares of the hours that differ by less are as large."""

ServiceKey = tuple[str, str, str, str, str]
"""The values of `OF_A_SERVICE`."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a review is computed from."""

    name: str
    now: Answers
    before_name: str
    before: Answers
    """Empty where nothing was recorded."""
    earliest_sample: int | None
    group_by: str
    teams: Mapping[tuple[str, str], str]
    """By cluster and namespace, where services are grouped by a label of their namespace."""

    @cached_property
    def coverage(self) -> Mapping[int, float]:
        """The share of each hour that was recorded of anything, by the Unix time at which it begins."""
        return hourly_coverage(self.now)

    @cached_property
    def recorded_hours(self) -> float:
        """For which there are samples of anything."""
        return sum(self.coverage.values())

    @cached_property
    def prices(self) -> Prices:
        """What an hour of a GPU was paid at."""
        return Prices.of(self.now)

    @cached_property
    def prices_before(self) -> Prices:
        """The same of the period before."""
        return Prices.of(self.before)

    @property
    def money_compares(self) -> bool:
        """Whether of both periods about as large a share of the hours had a price."""
        now, before = self.prices.priced_ratio(), self.prices_before.priced_ratio()
        if now is None or before is None:
            return False
        return min(now, before) >= ALL_PRICED or abs(now - before) <= AS_PRICED

    @property
    def span(self) -> Span:
        """The period."""
        return self.now.span

    @property
    def has_before(self) -> bool:
        """Whether there is anything to compare with."""
        return bool(self.before["gpu_observed_seconds"])

    @property
    def coverage_before(self) -> float | None:
        """The share of the period before that was recorded; `None` if nothing was, or nobody can tell."""
        if not self.has_before or self.before.lack("recorded"):
            return None
        return recorded_hours(self.before) / self.before.span.hours

    @property
    def sums_compare(self) -> bool:
        """Whether as much was recorded of either period, of each cluster that is in both."""
        now, before = coverage_by_cluster(self.now), coverage_by_cluster(self.before)
        return sums_compare(self.recorded_hours / self.span.hours, self.coverage_before) and all(
            sums_compare(now[cluster], before[cluster]) for cluster in now.keys() & before.keys()
        )

    @property
    def is_complete(self) -> bool:
        """Whether all of both periods was answered."""
        return self.now.are_complete and self.before.are_complete

    def services(self) -> tuple[ServiceKey, ...]:
        """Every one that held a GPU or did anything."""
        return services_of(self.now)


def services_of(answers: Answers) -> tuple[ServiceKey, ...]:
    """Every one that held a GPU or did anything then."""
    keys: set[ServiceKey] = set()
    for question in ("model_gpu_bottleneck_seconds", "engine_cost_usd", "engine_generation_tokens"):
        for key, amount in answers[question].by(*OF_A_SERVICE).items():
            if amount > 0:
                cluster, model, engine, part, namespace = key
                keys.add((cluster, model, engine, part, namespace))
    return tuple(sorted(keys))


def hourly_coverage(answers: Answers, *, cluster: str | None = None) -> dict[int, float]:
    """The share of each hour that was recorded of anything, there or anywhere, by when the hour begins."""
    best: dict[int, float] = {}
    for (where, _), row in answers["recorded"].steps("cluster", "part").items():
        if cluster not in (None, where):
            continue
        for at, samples in row.items():
            # The last may be no whole hour.
            most = min((answers.span.end - at) / HOUR_SECONDS, 1.0)
            best[at] = max(best.get(at, 0.0), min(samples / PER_HOUR, most))
    return best


def coverage_by_cluster(answers: Answers) -> dict[str, float]:
    """The share of the period that was recorded of each; one that came or went has less."""
    return {
        cluster: sum(hourly_coverage(answers, cluster=cluster).values()) / answers.span.hours
        for (cluster,) in sorted(answers["recorded"].by("cluster"))
    }


def recorded_hours(answers: Answers) -> float:
    """For which there are samples of anything."""
    return sum(hourly_coverage(answers).values())


def sums_compare(coverage: float, before: float | None) -> bool:
    """Whether of both periods about as large a share was recorded."""
    return before is not None and min(coverage, before) >= COMPARABLE * max(coverage, before)


def as_long(recorded: float, before: float) -> bool:
    """Whether as many hours were recorded; else sums are compared by the hour, since a February is short."""
    return abs(recorded - before) <= AS_LONG * max(recorded, before)


def unpriced_parts(answers: Answers) -> tuple[str, ...]:
    """Types of GPU that were watched and have no price, where others have; none where nobody can tell."""
    priced = answers["gpu_cost_usd"]
    if not priced or answers.lack("gpu_cost_usd"):
        return ()
    seen = answers["gpu_observed_seconds"].by("part")
    return tuple(sorted(part for (part,), seconds in seen.items() if seconds and not priced.value(part=part)))


def is_partly_priced(measured: Measured) -> bool:
    """Whether it is known that some of the hours had a price and some had none: then money is a least."""
    share = measured.prices.priced_ratio()
    return bool(unpriced_parts(measured.now)) or (share is not None and 0 < share < ALL_PRICED)


def labels_of(key: ServiceKey) -> dict[str, str]:
    """As an answer is asked for them."""
    return dict(zip(OF_A_SERVICE, key, strict=True))


def hours(seconds: float) -> float:
    """Of GPUs."""
    return seconds / HOUR_SECONDS


def ratio(part: float | None, whole: float | None) -> float | None:
    """`None` where there is no part, or nothing to have a part of."""
    return part / whole if part is not None and whole else None


def per_million(amount: float | None, tokens: float) -> float | None:
    """Of something, for a million tokens; `None` without tokens."""
    return amount / tokens * MILLION if amount is not None and tokens > 0 else None


def together(*amounts: float | None) -> float | None:
    """Their sum; `None` only if none is known."""
    known = [amount for amount in amounts if amount is not None]
    return sum(known) if known else None


def by_day(steps: Mapping[int, float], span: Span) -> list[float]:
    """Numbers of steps no longer than a day, summed by the day of the span."""
    days = [0.0] * len(span.days())
    for at, value in steps.items():
        days[(at - span.start) // DAY_SECONDS] += value
    return days


def answered_days(answers: Answers, *questions: str) -> frozenset[int]:
    """The numbers of the days for which all of these were answered."""
    missing = [piece.span for question in questions for piece in answers[question].missing]
    return frozenset(
        number
        for number, day in enumerate(answers.span.days())
        if not any(one.start < day.end and day.start < one.end for one in missing)
    )


def known_by_day(steps: Mapping[int, float], span: Span) -> list[float | None]:
    """The same; `None` for days of which there is nothing."""
    known = {(at - span.start) // DAY_SECONDS for at in steps}
    return [value if day in known else None for day, value in enumerate(by_day(steps, span))]
