"""How much of what users wanted they got, by the objectives that agents were configured with."""

from __future__ import annotations

from dataclasses import dataclass

from agent.report.answers import Answers
from agent.report.document import Attainment
from agent.report.measured import Measured, answered_days, by_day, ratio
from agent.report.period import DAY_SECONDS, Span, instant

_ASKED = ("engine_slo_events", "engine_slo_good_events")


def attainments(measured: Measured) -> tuple[Attainment, ...]:
    """By model and objective; the most of its budget spent first. None without events.

    None either of which nobody counted how many were good. Days of which a piece of one of the two was not
    answered are left out.
    """
    now, before = _Counted(answers=measured.now), _Counted(answers=measured.before)
    rows = []
    for cluster, model, slo in measured.now["engine_slo_events"].by("cluster", "model", "slo"):
        labels = {"cluster": cluster, "model": model, "slo": slo}
        events, good = now.events(labels), now.good(labels)
        counted = sum(events.values())
        if counted <= 0 or good is None:
            continue
        met = sum(good.values())
        good_before = before.good(labels)
        objective = measured.now["slo_objective"].value(**labels)
        day, day_ratio = _worst_day(measured.span, events, good)
        rows.append(
            Attainment(
                model=model,
                cluster=cluster,
                slo=slo,
                events=counted,
                good=met,
                ratio=met / counted,
                objective_ratio=objective,
                previous_ratio=None
                if good_before is None
                else ratio(sum(good_before.values()), sum(before.events(labels).values())),
                budget_spent_ratio=(
                    (counted - met) / (counted * (1 - objective))
                    if objective is not None and objective < 1
                    else None
                ),
                worst_day=None if day is None else instant(day).date(),
                worst_day_ratio=day_ratio,
            )
        )
    return tuple(sorted(rows, key=lambda row: (-(row.budget_spent_ratio or 0.0), row.model, row.slo)))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counted:
    """Events and good ones, of the days for which both were wholly answered."""

    answers: Answers

    def events(self, labels: dict[str, str]) -> dict[int, float]:
        """By the beginning of their step."""
        return self._of("engine_slo_events", labels) or {}

    def good(self, labels: dict[str, str]) -> dict[int, float] | None:
        """The same; `None` where nobody counted them."""
        return self._of("engine_slo_good_events", labels)

    def _of(self, question: str, labels: dict[str, str]) -> dict[int, float] | None:
        row = self.answers[question].steps(**labels).get(())
        if row is None:
            return None
        # By whole days, since a step may be one: of what lacks an hour the other answer has all.
        start, answered = self.answers.span.start, answered_days(self.answers, *_ASKED)
        return {at: value for at, value in row.items() if (at - start) // DAY_SECONDS in answered}


def _worst_day(
    span: Span, events: dict[int, float], good: dict[int, float]
) -> tuple[int | None, float | None]:
    """When it begins, and its share of good events.

    Days with little traffic would always win: a hundredth of the period's events is the least.
    """
    least = sum(events.values()) / 100
    counted = [
        (met / all_of_it, day.start)
        for day, all_of_it, met in zip(span.days(), by_day(events, span), by_day(good, span), strict=True)
        if all_of_it > least
    ]
    if not counted:
        return None, None
    worst, start = min(counted)
    return start, worst
