"""What gpu-check concludes, from figures that need no GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace

import pynvml
import pytest

from agent.clock import ManualClock
from agent.readings import Activity, GpuReading
from agent.roofline.bottleneck import BOTTLENECKS
from agent.sources.nvml import NvmlSource
from tests.gpu.call_costs import cost_of, timed
from tests.gpu.checks import (
    Check,
    Traffic,
    better_base,
    check_class,
    check_costs,
    check_dram,
    check_gpm,
    check_nonroot,
    checks_of,
    traffic_of,
)
from tests.gpu.driver import Progress, _cause
from tests.gpu.nonroot import NonRoot
from tests.gpu.record import NO_UUID, Run, Seen, file_name, render_record
from tests.gpu.watch import Bases, Sample, Sight, bases_of, judge, watch
from tests.gpu.worker import BUILDERS, calls_of_a_batch
from tests.gpu.workloads import ADD, GEMV, GIBI, MATMUL, NEEDED_BYTES, WORKLOADS, Workload
from tests.nvml_standin import StandIn

BY_NAME = {workload.name: workload for workload in WORKLOADS}
UUID = "GPU-12345678-1234-1234-1234-123456789abc"
H200 = Bases(catalogue=4.8e12, clock=2 * 3201e6 * 6144 / 8)


# --- the workloads -------------------------------------------------------------------------------


def test_the_arithmetic_of_the_calls() -> None:
    assert ADD.dram_bytes == 3 * GIBI
    assert GEMV.dram_bytes == pytest.approx(4 * 8192 * 28672 * 2, rel=1e-3)
    assert GEMV.flops / (GEMV.dram_bytes or 0) == pytest.approx(1, rel=1e-3)
    assert MATMUL.flops == 1_099_511_627_776


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
def test_each_workload_can_be_run_and_judged(workload: Workload) -> None:
    assert {call.name for call, _ in workload.shares} <= set(BUILDERS)
    assert not workload.shares or math.isclose(sum(share for _, share in workload.shares), 1)
    assert set(workload.accepted) <= set(BOTTLENECKS)
    assert workload.held_bytes < NEEDED_BYTES < 8 * GIBI


def test_no_cache_can_hold_the_data_of_a_call_that_is_counted() -> None:
    largest_l2_bytes = 128 * 1024**2
    for counted in (ADD, GEMV):
        assert counted.held_bytes > 10 * largest_l2_bytes


def test_a_batch_gives_each_kind_its_share_of_the_time_even_where_calls_are_slow() -> None:
    for seconds in ({"add": 1e-3, "matmul": 1.6e-3}, {"add": 11e-3, "matmul": 70e-3}):
        counts = calls_of_a_batch(BY_NAME["mostly_memory"], seconds)
        memory, compute = (counts[name] * seconds[name] for name in ("add", "matmul"))
        assert memory / (memory + compute) == pytest.approx(0.75, abs=0.05)


def test_nothing_to_do_is_an_empty_batch() -> None:
    assert calls_of_a_batch(BY_NAME["idle"], {}) == {}


def test_progress_counts_fractions_of_a_batch_and_stays_within_what_was_seen() -> None:
    progress = Progress(calls_of_a_batch={"add": 10}, points=((0.0, 0), (1.0, 1), (3.0, 2)))
    assert progress.calls_between(0.5, 2.0) == {"add": pytest.approx(10)}
    assert progress.calls_between(-5.0, 50.0) == {"add": 20}


# --- watching ------------------------------------------------------------------------------------


@pytest.fixture
def nvml(stand_in: StandIn) -> Iterator[tuple[NvmlSource, ManualClock]]:
    def forget() -> None:
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()

    forget()
    clock = ManualClock()
    source = NvmlSource(clock=clock, library_path=str(stand_in.path))
    yield source, clock
    source.close()
    forget()


def see(nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn, seconds: float = 10.0) -> Sight:
    source, clock = nvml

    def pause(length: float) -> None:
        clock.advance(length)
        stand_in.set({"now_ms": clock.monotonic() * 1000})

    pause(0)
    (gpu,) = source.read().gpus
    assert gpu.uuid is not None
    samples = watch(source, gpu.uuid, seconds=seconds, interval_seconds=0.5, clock=clock, pause=pause)
    return judge(samples, settle_seconds=2.0)


ACTIVITY = {
    "memory-bound": ({"gpm.1": 100, "gpm.2": 99, "gpm.5": 2, "gpm.10": 90}, "add"),
    "compute-bound": ({"gpm.1": 100, "gpm.2": 99, "gpm.5": 92, "gpm.10": 12}, "matmul"),
    "idle": ({"gpm.1": 0, "gpm.2": 0, "gpm.5": 0, "gpm.10": 0, "utilization_gpu_percent": 0}, "idle"),
    "small kernels": ({"gpm.1": 99, "gpm.2": 1, "gpm.5": 0, "gpm.10": 0.1}, "tiny_graph"),
    "a waiting host": ({"gpm.1": 20, "gpm.2": 1, "gpm.5": 0, "gpm.10": 0.1}, "tiny_paused"),
    "three quarters memory": ({"gpm.1": 100, "gpm.2": 99, "gpm.5": 23, "gpm.10": 72}, "mostly_memory"),
    "three quarters compute": ({"gpm.1": 100, "gpm.2": 99, "gpm.5": 67, "gpm.10": 32}, "mostly_compute"),
    "half and half": ({"gpm.1": 100, "gpm.2": 99, "gpm.5": 46, "gpm.10": 51}, "halves"),
}


@pytest.mark.parametrize(("settings", "name"), ACTIVITY.values(), ids=ACTIVITY)
def test_counters_as_expected_on_hardware_give_the_class_of_the_workload(
    nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn, settings: dict[str, object], name: str
) -> None:
    stand_in.set({"utilization_gpu_percent": 100, **settings})
    sight = see(nvml, stand_in)
    progress = Progress(calls_of_a_batch={}, points=((0.0, 0),))
    checks = [check for check in checks_of(BY_NAME[name], sight, progress, H200) if "class" in check.claim]
    assert checks
    assert [check.outcome for check in checks] == ["pass"] * len(checks)


def test_the_first_seconds_are_not_looked_at(nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn) -> None:
    stand_in.set({"gpm.10": 50})
    sight = see(nvml, stand_in)
    assert sight.spans[0].begin_seconds >= 2.0
    assert sight.spans[-1].end_seconds == 10.0
    assert sum(span.activity.seconds for span in sight.spans) == pytest.approx(8.0)


def test_measured_bytes_are_the_ratio_times_time_and_counted_ones_those_of_the_same_time(
    nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn
) -> None:
    stand_in.set({"gpm.10": 50})
    sight = see(nvml, stand_in)
    progress = Progress(calls_of_a_batch={"add": 100}, points=tuple((t / 10, t) for t in range(120)))
    traffic = traffic_of(BY_NAME["add"], sight, progress)
    assert traffic is not None
    assert traffic.full_seconds == pytest.approx(4.0)
    assert traffic.counted_bytes == pytest.approx(8.0 * 1000 * 3 * GIBI)


def test_without_gpm_any_class_but_unknown_is_a_guess(
    nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn
) -> None:
    stand_in.set({"gpm_supported": 0})
    sight = see(nvml, stand_in)
    assert check_class(BY_NAME["add"], sight).outcome == "skip"
    verdict = replace(sight.assessment.verdict, bottleneck="memory_bandwidth")
    guessing = replace(sight, assessment=replace(sight.assessment, verdict=verdict))
    assert check_class(BY_NAME["add"], guessing).outcome == "fail"
    assert check_gpm([sight], (8, 0)).outcome == "skip"
    assert check_gpm([sight], (9, 0)).outcome == "fail"


# --- conclusions ---------------------------------------------------------------------------------


def dram(counted: float, ratio: float) -> Check:
    """Ten seconds of H200."""
    return check_dram("add", Traffic(seconds=10, counted_bytes=counted, full_seconds=10 * ratio), H200)


def test_dram_bytes_hold_within_a_tenth() -> None:
    assert dram(43.2e12, 0.90).outcome == "pass"
    assert dram(43.2e12, 0.90 * 1.09).outcome == "pass"
    assert dram(43.2e12, 0.90 * 1.11).outcome == "fail"
    assert dram(43.2e12, 0.90 * 0.89).outcome == "fail"


def test_more_bytes_than_dram_can_move_are_a_wrong_count() -> None:
    check = dram(52e12, 1.0)
    assert check.outcome == "fail"
    assert "a cache has helped" in check.reason


def test_dram_bytes_are_not_judged_without_counters_or_a_peak() -> None:
    assert check_dram("add", None, H200).outcome == "skip"
    traffic = Traffic(seconds=10, counted_bytes=1e12, full_seconds=1)
    assert check_dram("add", traffic, Bases(catalogue=None, clock=None)).outcome == "skip"


@pytest.mark.parametrize(
    ("peak", "bases", "better"),
    [
        (4.917e12, H200, "clock"),
        (4.8e12, H200, "catalogue"),
        (3.35e12, Bases(catalogue=3.35e12, clock=2 * 2619e6 * 5120 / 8), "alike"),
        (4.8e12, Bases(catalogue=4.8e12, clock=None), None),
    ],
)
def test_the_base_that_fits_better(peak: float, bases: Bases, better: str | None) -> None:
    traffics = [Traffic(seconds=10, counted_bytes=8 * peak, full_seconds=8.0) for _ in range(2)]
    assert traffics[0].implied_peak == pytest.approx(peak)
    assert better_base(traffics, bases) == better


def test_a_call_that_is_slow_as_a_rule_fails_and_one_that_was_slow_once_is_named() -> None:
    once = cost_of("busy", "nvmlDeviceGetName", [1e-6] * 99 + [6e-3])
    always = cost_of("busy", "nvmlDeviceGetPcieThroughput", [20e-3] * 5)
    opening = cost_of("opening", "nvmlInit_v2", [1.5])
    (check,) = check_costs([once, opening])
    assert check.outcome == "pass"
    assert "nvmlDeviceGetName once 6 ms" in check.reason
    (check,) = check_costs([once, always, opening])
    assert check.outcome == "fail"
    assert "nvmlDeviceGetPcieThroughput" in check.found


def test_percentiles_are_times_that_were_seen() -> None:
    cost = cost_of("idle", "call", [float(n) for n in range(1, 201)])
    assert (cost.median_seconds, cost.p99_seconds, cost.max_seconds) == (100.5, 198.0, 200.0)
    assert cost_of("idle", "call", [3.0]).p99_seconds == 3.0


def test_every_call_of_our_source_is_timed_and_the_library_is_left_as_it_was(
    nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn
) -> None:
    source, _ = nvml
    before = pynvml._nvmlGetFunctionPointer  # type: ignore[attr-defined]
    with timed() as times:
        source.read()
        times.state = "idle"
        source.read()
    assert pynvml._nvmlGetFunctionPointer is before  # type: ignore[attr-defined]
    counts = {(cost.state, cost.name): cost.count for cost in times.costs()}
    assert counts["idle", "nvmlDeviceGetUtilizationRates"] == 1
    assert counts["opening", "nvmlDeviceGetMemoryBusWidth"] == 1
    assert ("idle", "nvmlDeviceGetMemoryBusWidth") not in counts


@pytest.mark.parametrize(
    ("reads", "we", "outcome"),
    [
        (True, True, "pass"),
        (False, True, "fail"),
        (False, False, "skip"),
        (None, True, "skip"),
    ],
)
def test_nobody_must_see_what_we_see(reads: bool | None, we: bool, outcome: str) -> None:
    nonroot = NonRoot(uid=65534, capabilities="0" * 16, reads_gpm=reads, problem=None)
    assert check_nonroot(nonroot, we_read_gpm=we).outcome == outcome


# --- the record ----------------------------------------------------------------------------------


def run_of(sight: Sight, *, failing: bool = False) -> Run:
    check = Check(
        subject="add", claim="class", outcome="fail" if failing else "pass", found="memory_bandwidth"
    )
    return Run(
        date="2026-01-01T00:00:00+00:00",
        gpu=sight.samples[-1].reading,
        driver_version="570.86.15",
        nvml_version=None,
        torch_version="2.9.0",
        cuda_version="13.0",
        bases=bases_of(sight.samples[-1].reading),
        better_base="alike",
        seen=(Seen(workload=BY_NAME["add"], checks=(check,), sight=sight),),
        costs=(cost_of("idle", "nvmlDeviceGetName", [1e-6]),),
        nonroot=NonRoot(uid=65534, capabilities="0" * 16, reads_gpm=True, problem=None),
        checks=(),
    )


def test_the_record_has_every_reading_and_does_not_name_the_card(
    nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn
) -> None:
    stand_in.set({"uuid": UUID})
    text = render_record(run_of(see(nvml, stand_in)))
    record = json.loads(text)
    assert record["schema_version"] == 1
    assert record["passed"] is True
    add = record["workloads"]["add"]
    assert add["first_reading"]["uuid"] == add["last_reading"]["uuid"] == NO_UUID
    assert UUID not in text
    assert len(add["samples"]) == 16
    assert add["samples"][0]["activity"]["dram_ratio"] == 0.875
    assert add["verdict"]["bottleneck"] == "memory_bandwidth"
    assert record["call_costs"] == [
        {
            "state": "idle",
            "name": "nvmlDeviceGetName",
            "count": 1,
            "median_seconds": 1e-6,
            "p99_seconds": 1e-6,
            "max_seconds": 1e-6,
        }
    ]


def test_one_failure_fails_the_run(nvml: tuple[NvmlSource, ManualClock], stand_in: StandIn) -> None:
    sight = see(nvml, stand_in)
    assert run_of(sight).passed
    assert not run_of(sight, failing=True).passed


def test_the_file_is_named_for_the_gpu_and_its_driver() -> None:
    assert file_name("NVIDIA H100 80GB HBM3", "570.86.15") == "nvidia-h100-80gb-hbm3-570.86.15.json"


def test_an_answer_that_is_repeated_is_not_counted_twice() -> None:
    activity = Activity(evidence="gpm", seconds=0.5, dram_ratio=0.9)
    reading = GpuReading(index=0, uuid=UUID, name="NVIDIA H200", activity=activity)
    samples = tuple(Sample(at_seconds=at, read_seconds=0.01, reading=reading) for at in (3.0, 3.1))
    assert len(judge((replace(samples[0], at_seconds=0.0), *samples), settle_seconds=1.0).spans) == 1


def test_costs_are_ordered_dearest_first() -> None:
    with timed() as times:
        for name, seconds in (("cheap", 1e-6), ("dear", 1e-3)):
            times.add(name, seconds)
    assert [cost.name for cost in times.costs()] == ["dear", "cheap"]


def test_of_a_long_error_the_line_that_names_it_is_told() -> None:
    errors = """Traceback (most recent call last):
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB.
If reserved but unallocated memory is large, see the documentation
"""
    assert _cause(errors) == "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 1.00 GiB."
    assert _cause("") == "without a word"
