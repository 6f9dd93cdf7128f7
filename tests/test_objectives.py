"""Objectives are counted at a bound that the engine has."""

from __future__ import annotations

import math

from agent.objectives import Objective, ObjectiveCount, count_objectives
from agent.readings import Histogram
from agent.window import EngineTotals

TOTALS = EngineTotals(
    histograms={
        "time_to_first_token": Histogram(
            bounds=(0.5, 1.0, 2.5, math.inf), cumulative=(10, 40, 90, 100), sum=120.0
        )
    }
)


def within(seconds: float) -> Objective:
    return Objective(target_seconds=seconds, ratio=0.99)


def test_the_bound_is_the_largest_that_is_not_above_the_target() -> None:
    assert count_objectives(TOTALS, {"ttft": within(2.0)}) == (
        ObjectiveCount(name="ttft", ratio=0.99, bound_seconds=1.0, events=100, good_events=40),
    )
    assert count_objectives(TOTALS, {"ttft": within(2.5)})[0].good_events == 90


def test_a_target_below_every_bound_cannot_be_told() -> None:
    assert count_objectives(TOTALS, {"ttft": within(0.1)}) == ()


def test_an_engine_without_the_histogram_has_no_count() -> None:
    assert count_objectives(TOTALS, {"inter_token": within(0.1)}) == ()
