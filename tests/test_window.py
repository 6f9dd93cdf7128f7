"""Histories: our own counters, restarts, gaps."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.ladder import Measured
from agent.readings import EngineCounters, EngineReading, Evidence, GpuReading, Histogram
from agent.window import MAX_BUCKETS, EngineHistory, GpuHistory


def page(tokens: float, *, started: float | None = 100.0, **more: object) -> EngineReading:
    reading = EngineReading(
        engine="vllm",
        model="m",
        start_time_seconds=started,
        counters=EngineCounters(generation_tokens=tokens, steps=tokens / 4),
    )
    return replace(reading, **more)  # type: ignore[arg-type]  # keyword arguments of any field


def history(*pages: tuple[float, EngineReading], keep: float = 30.0) -> EngineHistory:
    made = EngineHistory(keep_seconds=keep, gap_seconds=15.0)
    for at, reading in pages:
        made.add(at, reading)
    return made


def test_our_counters_start_at_0_however_far_the_engine_is() -> None:
    assert history((0, page(5000))).totals.counters["generation_tokens"] == 0
    assert history((0, page(5000)), (5, page(5300))).totals.counters["generation_tokens"] == 300


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (page(40, started=200.0), "a new start time"),
        (page(40, started=None), "a counter that fell"),
        (page(40), "a counter that fell, though the start time did not change"),
    ],
)
def test_a_restart_adds_what_was_done_since_it(after: EngineReading, why: str) -> None:
    made = history((0, page(5000)), (5, page(5300)), (10, after))
    assert made.totals.counters["generation_tokens"] == 340, why


def test_a_restart_that_has_already_passed_the_old_count_is_seen_by_its_start_time() -> None:
    made = history((0, page(50)), (5, page(80, started=103.0)))
    assert made.totals.counters["generation_tokens"] == 80


def test_a_start_time_printed_with_other_digits_is_the_same_process() -> None:
    made = history((0, page(50, started=1.79547169e9)), (5, page(80, started=1.7954716904e9)))
    assert made.totals.counters["generation_tokens"] == 30


def test_a_gap_is_closed_by_the_next_page_of_the_same_process() -> None:
    made = history((0, page(100)), (5, page(200)), (300, page(900)))
    assert made.totals.counters["generation_tokens"] == 800
    assert made.window() is None, "the window begins anew after a gap"
    interval = made.last_interval()
    assert interval is not None
    assert interval.increments.generation_tokens == 700, "what was done in the gap was done"
    assert not made.is_continuous


def test_the_window_slides() -> None:
    made = history(*((t, page(10 * t)) for t in range(0, 101, 5)))
    window = made.window()
    assert window is not None
    assert window.seconds == 30
    assert window.increments.generation_tokens == 300
    interval = made.last_interval()
    assert interval is not None
    assert interval.seconds == 5
    assert interval.increments.generation_tokens == 50


def test_the_same_page_seen_twice_counts_once() -> None:
    made = history((0, page(0)), (5, page(50)))
    assert made.add(5, page(50)) is False
    assert made.totals.counters["generation_tokens"] == 50


def test_a_counter_that_an_engine_lacks_is_not_zero() -> None:
    made = history((0, page(0)), (5, page(50)))
    window = made.window()
    assert window is not None
    assert window.increments.preemptions is None
    assert "preemptions" not in made.totals.counters


def test_time_since_the_last_step_is_known() -> None:
    made = history((0, page(0)), (5, page(50)), (10, page(50)), (15, page(50)))
    window = made.window()
    assert window is not None
    assert window.seconds_since_step == 10


def test_held_tokens_leave_out_the_half_block_that_each_request_wastes() -> None:
    busy = {
        "requests_running": 4.0,
        "kv_used_ratio": 0.1,
        "kv_capacity_tokens": 64_000,
        "kv_block_tokens": 16,
    }
    window = history((0, page(0, **busy)), (5, page(9, **busy))).window()
    assert window is not None
    assert window.held_tokens_mean == pytest.approx(1600 - 7.5)


def buckets(*counts: float, total: float) -> Histogram:
    return Histogram(bounds=(100.0, 1000.0, math.inf), cumulative=counts, sum=total)


def test_histograms_are_accumulated_over_a_restart() -> None:
    first, second, third = (
        page(tokens, started=started, time_to_first_token=histogram)
        for tokens, started, histogram in (
            (0, 1.0, buckets(5, 6, 6, total=600)),
            (10, 1.0, buckets(7, 9, 9, total=900)),
            (4, 50.0, buckets(1, 1, 1, total=50)),
        )
    )
    totals = history((0, first), (5, second), (10, third)).totals
    assert totals.histograms["time_to_first_token"] == buckets(3, 4, 4, total=350)


def test_a_sum_that_lacks_a_part_is_no_restart() -> None:
    whole = page(5300, started=100.0)
    lacking = replace(page(900, started=100.0), counters=EngineCounters(generation_tokens=900, steps=1325))
    made = history((0, page(5000)), (5, whole), (10, lacking), (15, page(5400)))
    assert made.totals.counters == {"generation_tokens": 400, "steps": 100}
    assert made.is_continuous


def test_a_page_without_its_start_time_is_no_restart() -> None:
    lacking = replace(page(5300, started=None), counters=EngineCounters(generation_tokens=10, steps=1325))
    made = history((0, page(5000)), (5, lacking), (10, page(5400)), (15, page(30, started=200.0)))
    assert made.totals.counters["generation_tokens"] == 430


def of_histogram(*histograms: Histogram | None, started: float = 1.0) -> list[Histogram]:
    """What was counted after each of these, of one process."""
    made = EngineHistory(keep_seconds=30.0, gap_seconds=15.0)
    counted = []
    for number, histogram in enumerate(histograms):
        made.add(number * 5, page(number * 10, started=started, time_to_first_token=histogram))
        counted.append(made.totals.histograms["time_to_first_token"])
    return counted


def test_a_page_without_some_buckets_takes_nothing_away_and_adds_nothing() -> None:
    lacking = Histogram(bounds=(100.0, math.inf), cumulative=(8, 9), sum=900)
    *_, there, back = of_histogram(
        buckets(5, 6, 6, total=600), buckets(7, 8, 8, total=800), lacking, buckets(9, 11, 11, total=1100)
    )
    assert there == buckets(2, 2, 2, total=200)
    assert back == buckets(4, 5, 5, total=500)


def test_buckets_that_come_late_have_no_past() -> None:
    lacking = Histogram(bounds=(100.0, math.inf), cumulative=(5, 6), sum=600)
    *_, found, after = of_histogram(lacking, buckets(7, 9, 9, total=900), buckets(7, 10, 11, total=1900))
    assert found == buckets(2, 2, 3, total=300)
    assert after == buckets(2, 3, 5, total=1300)


def test_a_histogram_that_falls_in_a_process_that_goes_on_is_not_believed() -> None:
    *_, fell, after = of_histogram(
        buckets(5, 6, 6, total=600), buckets(1, 9, 9, total=900), buckets(7, 9, 9, total=900)
    )
    assert fell == buckets(0, 0, 0, total=0)
    assert after == buckets(2, 3, 3, total=300)


def test_a_restart_seen_without_some_buckets_counts_nothing_twice() -> None:
    lacking = Histogram(bounds=(100.0, math.inf), cumulative=(1, 2), sum=200)
    pages = (
        (10, 1.0, buckets(5, 6, 6, total=600)),
        (20, 1.0, buckets(6, 8, 8, total=800)),
        (4, 50.0, lacking),
        (9, 50.0, buckets(2, 4, 4, total=400)),
    )
    made = history(
        *(
            (number * 5, page(tokens, started=started, time_to_first_token=histogram))
            for number, (tokens, started, histogram) in enumerate(pages)
        )
    )
    assert made.totals.histograms["time_to_first_token"] == buckets(3, 4, 6, total=600)


def test_after_an_update_with_nothing_but_other_buckets_the_count_does_not_fall() -> None:
    after = Histogram(bounds=(1.0, 2.0, 3.0, math.inf), cumulative=(1, 1, 1, 2), sum=5)
    pages = (
        page(10, started=1.0, time_to_first_token=buckets(5, 6, 6, total=600)),
        page(20, started=1.0, time_to_first_token=buckets(6, 8, 9, total=800)),
        page(4, started=50.0, time_to_first_token=after),
    )
    counted = history(*((number * 5, one) for number, one in enumerate(pages))).totals
    assert counted.histograms["time_to_first_token"] == Histogram(
        bounds=(1.0, 2.0, 3.0, 100.0, 1000.0, math.inf), cumulative=(1, 1, 1, 2, 3, 5), sum=205
    )


def test_buckets_without_end_are_not_kept_for_ever() -> None:
    made = EngineHistory(keep_seconds=30.0, gap_seconds=15.0)
    for number in range(300):  # each time another process, with two bounds of its own
        bounds = (number + 0.25, number + 0.5, math.inf)
        histogram = Histogram(bounds=bounds, cumulative=(0, 1, 1), sum=1)
        made.add(number * 5, page(1, started=number * 100.0, time_to_first_token=histogram))
    counted = made.totals.histograms["time_to_first_token"]
    assert len(counted.bounds) <= MAX_BUCKETS
    assert counted.count == 299


def test_after_an_update_with_other_buckets_events_are_counted_on() -> None:
    fewer = [
        page(tokens, started=50.0, time_to_first_token=Histogram(bounds=bounds, cumulative=counts, sum=total))
        for tokens, bounds, counts, total in (
            (4, (100.0, 500.0, math.inf), (1, 2, 2), 200),
            (9, (100.0, 500.0, math.inf), (2, 4, 5), 900),
        )
    ]
    before = page(10, started=1.0, time_to_first_token=buckets(5, 6, 6, total=600))
    after = page(20, started=1.0, time_to_first_token=buckets(6, 8, 8, total=800))
    counted = history((0, before), (5, after), (10, fewer[0]), (15, fewer[1])).totals
    assert counted.histograms["time_to_first_token"] == Histogram(
        bounds=(100.0, 500.0, 1000.0, math.inf), cumulative=(3, 5, 6, 7), sum=1100
    )


def test_prompts_of_different_length_are_dispersed() -> None:
    even = page(0, computed_prompt_lengths=buckets(0, 0, 0, total=0))
    mixed = page(9, computed_prompt_lengths=buckets(50, 100, 100, total=30_000))
    window = history((0, even), (5, mixed)).window()
    assert window is not None
    assert 1.5 < window.prompt_dispersion < 2.5


STEPS = st.lists(st.tuples(st.floats(min_value=0, max_value=1e6), st.booleans()), min_size=1, max_size=30)


@given(steps=STEPS)
def test_our_counters_never_fall_and_miss_nothing(steps: list[tuple[float, bool]]) -> None:
    """Work is done between pages; before some pages the engine restarts."""
    made = EngineHistory(keep_seconds=30, gap_seconds=15)
    made.add(0, page(0))
    shown, done, started, before = 0.0, 0.0, 100.0, 0.0
    for number, (work, restarts) in enumerate(steps, start=1):
        if restarts:
            shown, started = 0.0, started + 100
        shown += work
        done += work
        made.add(number * 5, page(shown, started=started))
        now = made.totals.counters["generation_tokens"]
        assert now >= before
        before = now
    assert before == pytest.approx(done)


GPU = GpuReading(index=0, uuid="GPU-0", name="x", kernel_time_ratio=1.0)


def dram(ratio: float, seconds: float = 1.0, evidence: Evidence = "gpm") -> dict[str, Measured]:
    return {"dram_ratio": Measured(ratio=ratio, evidence=evidence, seconds=seconds)}


def test_activity_is_weighted_with_the_time_it_covers() -> None:
    made = GpuHistory(keep_seconds=30)
    made.add(1, GPU, dram(0.9, seconds=1.0))
    made.add(4, GPU, dram(0.1, seconds=3.0))
    window = made.window()
    assert window is not None
    assert window.dram_ratio == pytest.approx(0.3)
    assert window.tensor_ratio is None
    assert window.evidence == "gpm"


def test_without_profiling_there_is_no_evidence() -> None:
    made = GpuHistory(keep_seconds=30)
    made.add(1, GPU, {})
    window = made.window()
    assert window is not None
    assert (window.evidence, window.dram_ratio, window.kernel_time_ratio) == ("none", None, 1.0)


def test_numbers_of_two_kinds_have_no_mean() -> None:
    made = GpuHistory(keep_seconds=30)
    made.add(1, GPU, dram(0.9))
    made.add(2, GPU, dram(0.2, evidence="dcgm", seconds=10))
    made.add(3, GPU, dram(0.4, evidence="dcgm", seconds=10))
    window = made.window()
    assert window is not None
    assert window.evidence == "dcgm"
    assert window.dram_ratio == pytest.approx(0.3)


@pytest.mark.parametrize(("seconds", "coarse"), [(1.0, False), (15.0, False), (30.0, True)])
def test_a_mean_over_most_of_the_window_is_coarse(seconds: float, coarse: bool) -> None:
    made = GpuHistory(keep_seconds=30)
    made.add(1, GPU, dram(0.9, seconds=seconds))
    window = made.window()
    assert window is not None
    assert window.coarse is coarse


def test_each_ratio_has_evidence_of_its_own() -> None:
    made = GpuHistory(keep_seconds=30)
    tensor = Measured(ratio=0.1, evidence="dcgm", seconds=10)
    made.add(1, GPU, {**dram(0.9), "tensor_ratio": tensor})
    window = made.window()
    assert window is not None
    assert window.evidence_by_ratio == {"dram_ratio": "gpm", "tensor_ratio": "dcgm"}
    assert window.evidence == "mixed"
