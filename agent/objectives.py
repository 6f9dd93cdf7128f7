"""Service-level objectives, counted from the engine's own histograms at a bound that it has.

Bounds differ from engine to engine, and quantiles must not be added across them; counts can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.window import EngineTotals

HISTOGRAMS: Mapping[str, str] = {
    "ttft": "time_to_first_token",
    "inter_token": "inter_token_latency",
}
"""Which histogram an objective is counted in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """What is promised: so large a share of events is to take no longer than that."""

    target_seconds: float
    ratio: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectiveCount:
    """How often one objective was asked for, and met."""

    name: str
    ratio: float
    """The share of events that is to meet it."""
    bound_seconds: float
    """The largest bound of the engine that is not above the target: what "met" really means here."""
    events: float
    good_events: float


NOTHING_BEFORE: Mapping[str, float] = {}


def count_objectives(
    totals: EngineTotals, objectives: Mapping[str, Objective], before: Mapping[str, float] = NOTHING_BEFORE
) -> tuple[ObjectiveCount, ...]:
    """Each objective that the engine's histograms can tell, by the names above.

    An engine whose smallest bound is above the target cannot tell, and has no count. `before` is as from
    `carry_over`.
    """
    counts = []
    for name, objective in objectives.items():
        histogram = totals.histograms.get(HISTOGRAMS[name])
        if histogram is None:
            continue
        met = [
            (bound, good)
            for bound, good in zip(histogram.bounds, histogram.cumulative, strict=True)
            if bound <= objective.target_seconds
        ]
        if met:
            bound, good = met[-1]
            counts.append(
                ObjectiveCount(
                    name=name,
                    ratio=objective.ratio,
                    bound_seconds=bound,
                    events=histogram.count,
                    good_events=good + before.get(name, 0.0),
                )
            )
    return tuple(counts)


def carry_over(
    totals: EngineTotals,
    *,
    old: Mapping[str, Objective],
    new: Mapping[str, Objective],
    before: Mapping[str, float] = NOTHING_BEFORE,
) -> dict[str, float]:
    """What is to be added to each count from now on, so that it goes on where it stood.

    An event that was good by the old target stays so, and the next one is judged by the new.
    """
    counted = {one.name: one.good_events for one in count_objectives(totals, old, before)}
    anew = {one.name: one.good_events for one in count_objectives(totals, new)}
    return {name: counted[name] - good for name, good in anew.items() if name in counted}
