"""Repeats of the same work, and what they say."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.calibration.timings import repeat, timing_of
from agent.clock import ManualClock


def test_the_median_counts_and_disturbed_repeats_do_not() -> None:
    timing = timing_of([1.00, 1.01, 0.99, 1.00, 1.02, 3.0, 9.0])
    assert timing.outliers == 2
    assert timing.samples == 5
    assert timing.seconds == pytest.approx(1.00)
    assert timing.spread_ratio == pytest.approx(0.01)


def test_equal_repeats_have_no_spread_and_a_near_one_is_no_outlier() -> None:
    timing = timing_of([2.0] * 9 + [2.03])
    assert (timing.samples, timing.outliers, timing.seconds, timing.spread_ratio) == (10, 0, 2.0, 0.0)


def test_a_single_repeat_is_what_it_is() -> None:
    timing = timing_of([0.5])
    assert (timing.seconds, timing.samples, timing.outliers, timing.spread_ratio) == (0.5, 1, 0, 0.0)


@given(
    seconds=st.lists(st.floats(1e-6, 10.0), min_size=1, max_size=40),
    factor=st.sampled_from([1e-3, 0.5, 64.0]),
)
def test_no_repeat_is_lost_and_units_do_not_matter(seconds: list[float], factor: float) -> None:
    timing, scaled = timing_of(seconds), timing_of([each * factor for each in seconds])
    assert timing.samples + timing.outliers == len(seconds)
    assert timing.samples >= 1
    assert min(seconds) <= timing.seconds <= max(seconds)
    assert scaled.seconds == pytest.approx(timing.seconds * factor)


@pytest.mark.parametrize(
    ("seconds", "samples"),
    [(0.0, 5), (2.0, 8), (100.0, 20)],
    ids=["no time: the least", "as many as fit", "time for more: the most"],
)
def test_repeats_fill_their_time_within_bounds(seconds: float, samples: int) -> None:
    clock = ManualClock()
    calls = []

    def timed() -> float:
        clock.advance(0.25)
        calls.append(clock.monotonic())
        return 99.0 if len(calls) == 1 else 1.0

    timing = repeat(timed, clock=clock, seconds=seconds, least=5, most=20)
    assert timing.samples == samples
    assert timing.outliers == 0, "the first, which is thrown away, must not be among them"
