"""How a GPU was while it was measured, and who had it before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from agent.calibration.conditions import Observer, conditions_of, reasons_against
from agent.readings import GpuProcess, GpuReading

H200 = GpuReading(index=0, uuid="GPU-0", name="NVIDIA H200")


def test_of_many_readings_the_medians_and_the_extremes() -> None:
    readings = [
        replace(
            H200,
            sm_clock_hertz=megahertz * 1e6,
            sm_clock_max_hertz=1.98e9,
            temperature_celsius=celsius,
            power_watts=watts,
            power_limit_watts=700.0,
            clock_limit_reasons=reasons,
        )
        for megahertz, celsius, watts, reasons in (
            (345.0, 40.0, 120.0, ("idle",)),
            (1980.0, 55.0, 500.0, ()),
            (1755.0, 66.0, 699.0, ("sw_power_cap",)),
            (1755.0, 64.0, 690.0, ("sw_power_cap", "application_clocks")),
        )
    ]
    found = conditions_of(readings)
    assert (found.sm_clock_hertz, found.sm_clock_lowest_hertz) == (1.755e9, 345e6)
    assert (found.temperature_highest_celsius, found.power_highest_watts) == (66.0, 699.0)
    assert found.limited == (("sw_power_cap", 0.5), ("application_clocks", 0.25))
    assert found.by_power_or_heat == (("sw_power_cap", 0.5),)
    assert found.memory_clock_hertz is None


@pytest.mark.parametrize("readings", [[], [H200]], ids=["none", "one that says nothing"])
def test_what_was_not_said_is_not_known(readings: Sequence[GpuReading]) -> None:
    found = conditions_of(readings)
    assert found.readings == len(readings)
    assert found.limited == ()
    assert found.sm_clock_hertz is None
    assert found.temperature_highest_celsius is None


def test_a_gpu_that_says_nothing_is_not_called_busy() -> None:
    assert reasons_against(H200, needed_bytes=1) == ()


def test_processes_are_named_each_and_memory_that_is_theirs_is_not_told_twice() -> None:
    gpu = replace(
        H200,
        memory_used_bytes=90 * 10**9,
        processes=(GpuProcess(pid=7, memory_bytes=80 * 10**9), GpuProcess(pid=8)),
    )
    (reason,) = reasons_against(gpu, needed_bytes=1, name_of={7: "vllm"}.get)
    assert reason == "processes compute on it: 7 (vllm, 80 GB), 8 (not seen from here)"


def test_it_is_watched_while_something_else_waits_and_no_longer() -> None:
    reads = []

    def read() -> GpuReading | None:
        reads.append(1)
        return H200 if len(reads) % 2 else None

    with Observer(read, interval_seconds=0.001) as observer:
        while len(reads) < 10:
            pass
    after = len(reads)
    assert observer.conditions.readings == (after + 1) // 2
    assert len(reads) == after
