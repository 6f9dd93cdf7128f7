"""How much of what users wanted they got, by the objectives that agents were configured with."""

from __future__ import annotations

from agent.report.document import Attainment
from agent.report.measured import Measured, by_day, ratio
from agent.report.period import instant


def attainments(measured: Measured) -> tuple[Attainment, ...]:
    """By model and objective; the most of its budget spent first. None without events."""
    now, before = measured.now, measured.before
    events, good = now["engine_slo_events"], now["engine_slo_good_events"]
    rows = []
    for (cluster, model, slo), counted in events.by("cluster", "model", "slo").items():
        if counted <= 0:
            continue
        labels = {"cluster": cluster, "model": model, "slo": slo}
        met = good.amount(**labels)
        objective = now["slo_objective"].value(**labels)
        day, day_ratio = _worst_day(measured, labels)
        rows.append(
            Attainment(
                model=model,
                cluster=cluster,
                slo=slo,
                events=counted,
                good=met,
                ratio=met / counted,
                objective_ratio=objective,
                previous_ratio=ratio(
                    before["engine_slo_good_events"].value(**labels),
                    before["engine_slo_events"].value(**labels),
                ),
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


def _worst_day(measured: Measured, labels: dict[str, str]) -> tuple[int | None, float | None]:
    """When it begins, and its share of good events.

    Days with little traffic would always win: a hundredth of the period's events is the least.
    """
    span = measured.span
    events = by_day(measured.now["engine_slo_events"].steps(**labels).get((), {}), span)
    good = by_day(measured.now["engine_slo_good_events"].steps(**labels).get((), {}), span)
    counted = [
        (met / all_of_it, day.start)
        for day, all_of_it, met in zip(span.days(), events, good, strict=True)
        if all_of_it > sum(events) / 100
    ]
    if not counted:
        return None, None
    worst, start = min(counted)
    return start, worst
