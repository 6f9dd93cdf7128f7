from __future__ import annotations

from collections.abc import Callable

import pytest

from agent.clock import ManualClock
from agent.readings import Activity, GpuReading
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.gpm import MAX_WINDOW_SECONDS, MIN_WINDOW_SECONDS, RETRY_SECONDS
from tests.nvml_standin import StandIn

Advance = Callable[[float], None]

BUSY = Activity(
    evidence="gpm", seconds=1.0, dram_ratio=0.875, tensor_ratio=0.015, sm_ratio=0.7125, graphics_ratio=0.985
)


def activity_of(source: NvmlSource, gpu: int = 0) -> Activity | str:
    """The activity or the problem, and never both or neither."""
    reading = source.read().gpus[gpu]
    assert isinstance(reading, GpuReading)
    assert (reading.activity is None) != (reading.activity_problem is None)
    return reading.activity or reading.activity_problem or ""


def test_the_first_sample_gives_no_value_and_says_so(source: NvmlSource, advance: Advance) -> None:
    assert activity_of(source) == "GPM has its first sample; a value needs two"


def test_activity_is_in_ratios_over_the_time_between_two_readings(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    activity_of(source)
    advance(1)
    assert activity_of(source) == BUSY
    advance(2.5)
    stand_in.set({"gpm.10": 0})
    idle = activity_of(source)
    assert isinstance(idle, Activity)
    assert (idle.seconds, idle.dram_ratio) == (2.5, 0.0)


@pytest.mark.parametrize(
    ("setting", "value", "ratio"),
    [
        pytest.param("gpm.10", "nan", None, id="NaN is no value"),
        pytest.param("gpm.10", "inf", None, id="infinity is no value"),
        pytest.param("gpm.10", "-1", None, id="a negative share is no value"),
        pytest.param("gpm.10", "137", None, id="more than all is no value"),
        pytest.param("gpm.10.return", 3, None, id="a metric with an error is no value"),
        pytest.param("gpm.10", "100.3", 1.0, id="rounding over the top is all"),
        pytest.param("gpm.10", "-0.1", 0.0, id="rounding under zero is nothing"),
        pytest.param("gpm.10", "0", 0.0, id="zero is a measurement"),
    ],
)
def test_a_value_out_of_range_costs_only_itself(
    source: NvmlSource, stand_in: StandIn, advance: Advance, setting: str, value: object, ratio: float | None
) -> None:
    activity_of(source)
    advance(1)
    stand_in.set({setting: value})
    activity = activity_of(source)
    assert isinstance(activity, Activity)
    assert activity.dram_ratio == ratio
    assert (activity.tensor_ratio, activity.sm_ratio, activity.graphics_ratio) == (0.015, 0.7125, 0.985)


def test_an_answer_without_any_value_is_no_activity(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    activity_of(source)
    advance(1)
    stand_in.set({f"gpm.{metric}": "nan" for metric in (1, 2, 5, 10)})
    assert activity_of(source) == "GPM answered without a usable value"
    advance(1)
    stand_in.set({f"gpm.{metric}": None for metric in (1, 2, 5, 10)})
    assert activity_of(source) == BUSY


def test_a_reading_too_early_repeats_the_last_and_takes_no_sample(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    activity_of(source)
    advance(1)
    assert activity_of(source) == BUSY
    advance(MIN_WINDOW_SECONDS / 2)
    assert activity_of(source) == BUSY
    assert stand_in.calls("nvmlGpmSampleGet") == 2
    advance(MIN_WINDOW_SECONDS)
    activity = activity_of(source)
    assert isinstance(activity, Activity)
    assert activity.seconds == pytest.approx(1.5 * MIN_WINDOW_SECONDS)


def test_a_long_pause_starts_measuring_over(source: NvmlSource, advance: Advance) -> None:
    activity_of(source)
    advance(MAX_WINDOW_SECONDS + 1)
    assert isinstance(activity_of(source), str)
    advance(1)
    assert activity_of(source) == BUSY


@pytest.mark.parametrize(
    "call",
    ["nvmlGpmQueryDeviceSupport", "nvmlGpmSampleAlloc", "nvmlGpmSampleGet", "nvmlGpmMetricsGet"],
)
def test_a_refusal_is_explained_and_tried_again_later(
    source: NvmlSource, stand_in: StandIn, advance: Advance, call: str
) -> None:
    stand_in.set({f"{call}.return": 4})
    for _ in range(2):
        refused = activity_of(source)
        advance(1)
    assert isinstance(refused, str)
    assert "no permission" in refused
    assert stand_in.calls(call) == 1
    assert stand_in.samples == 0

    advance(RETRY_SECONDS - 3)
    activity_of(source)
    assert stand_in.calls(call) == 1
    stand_in.set({f"{call}.return": None})
    for _ in range(3):
        advance(1)
        activity = activity_of(source)
    assert activity == BUSY


def test_a_refusal_after_an_hour_does_not_leave_the_old_value_behind(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    for _ in range(3):
        activity_of(source)
        advance(1)
    stand_in.set({"gpu0.nvmlGpmSampleGet.return": 4})
    assert isinstance(activity_of(source), str)
    stand_in.set({"gpu0.nvmlGpmSampleGet.return": None})
    advance(RETRY_SECONDS)
    # Measured from new samples, not over the minute of silence.
    assert isinstance(activity_of(source), str)
    advance(1)
    assert activity_of(source) == BUSY


@pytest.mark.parametrize("code", [10, 21, 27])
def test_a_passing_failure_is_tried_again_at_once(
    source: NvmlSource, stand_in: StandIn, advance: Advance, code: int
) -> None:
    stand_in.set({"nvmlGpmSampleGet.return": code})
    assert isinstance(activity_of(source), str)
    stand_in.set({"nvmlGpmSampleGet.return": None})
    for _ in range(2):
        advance(1)
        activity = activity_of(source)
    assert activity == BUSY


@pytest.mark.parametrize(
    "setting",
    [
        {"gpm_supported": 0},
        {"nvmlGpmQueryDeviceSupport.return": 3},
        {"nvmlGpmQueryDeviceSupport.return": 13},
        {"nvmlGpmQueryDeviceSupport.return": 25},
    ],
    ids=str,
)
def test_a_gpu_without_gpm_is_asked_once(
    source: NvmlSource, stand_in: StandIn, advance: Advance, setting: dict[str, int]
) -> None:
    stand_in.set(setting)
    for _ in range(3):
        problem = activity_of(source)
        advance(RETRY_SECONDS)
    assert isinstance(problem, str)
    assert "no GPM" in problem
    assert stand_in.calls("nvmlGpmQueryDeviceSupport") == 1


def test_gpm_of_one_gpu_fails_alone(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    stand_in.set({"gpus": 2, "gpu0.nvmlGpmSampleGet.return": 4, "gpu1.gpm.10": 50})
    source.read()
    advance(1)
    failing, other = source.read().gpus
    assert isinstance(failing, GpuReading)
    assert isinstance(other, GpuReading)
    assert failing.activity is None
    assert failing.power_watts == 412.345
    assert other.activity is not None
    assert other.activity.dram_ratio == 0.5


def test_gpm_that_is_switched_off_is_not_called(stand_in: StandIn, clock: ManualClock) -> None:
    source = NvmlSource(clock=clock, gpm=False, library_path=str(stand_in.path))
    assert activity_of(source) == "GPM is switched off"
    assert stand_in.calls("nvmlGpmQueryDeviceSupport") == 0
    source.close()
