from __future__ import annotations

from typing import Any

import pytest

from agent.fusion import Fused, Page, fuse, gpus_of
from agent.readings import Activity, DcgmGpu, DcgmReading, GpuLost, GpuReading, MigInstance

GPM = Activity(evidence="gpm", seconds=1, dram_ratio=0.8)
DCGM = Activity(evidence="dcgm", seconds=30, dram_ratio=0.7)


def page(*gpus: DcgmGpu, age: float = 10, since_read: float = 0, collect: float = 30) -> Page:
    return Page(
        reading=DcgmReading(gpus=gpus, age_seconds=age, collect_seconds=collect),
        seconds_since_read=since_read,
        interval_seconds=10,
    )


def nvml(uuid: str = "GPU-a", **known: Any) -> GpuReading:
    return GpuReading(index=0, uuid=uuid, name="NVIDIA L40S", **known)


def one(gpu: GpuReading, shown: Page | None) -> Fused:
    (fused,) = fuse([gpu], shown)
    assert isinstance(fused, Fused)
    return fused


def test_what_the_page_measures_stands_after_gpm() -> None:
    shown = page(DcgmGpu(uuid="GPU-a", activity=DCGM))
    assert one(nvml(activity=GPM), shown).rungs == (GPM, DCGM)
    assert one(nvml(activity_problem="no GPM"), shown).rungs == (DCGM,)


def test_gpus_are_joined_on_their_uuid_not_on_their_number() -> None:
    shown = page(DcgmGpu(uuid="GPU-b", index=0, activity=DCGM))
    fused = one(nvml(activity_problem="no GPM"), shown)
    assert fused.rungs == ()
    assert fused.reading.activity_problem == "no GPM; the dcgm-exporter's page does not show this GPU"


def test_an_instance_is_joined_on_its_gpu_and_number() -> None:
    instance = MigInstance(parent_uuid="GPU-a", gpu_instance_id=9, compute_instance_id=0)
    shown = page(
        DcgmGpu(uuid="GPU-a", values={"power_watts": 300.0}),
        DcgmGpu(uuid="GPU-a", gpu_instance_id=9, activity=DCGM, values={"power_watts": 300.0}),
    )
    fused = one(nvml("MIG-x", mig=instance), shown)
    assert fused.rungs == (DCGM,)
    assert fused.reading.power_watts is None, "that is its board's"


def test_nvml_has_the_first_word_and_the_page_fills_the_gaps() -> None:
    values = {"power_watts": 111.0, "memory_used_bytes": 2048.0, "temperature_celsius": 50.0}
    reading = one(nvml(power_watts=100.0), page(DcgmGpu(uuid="GPU-a", values=values))).reading
    assert (reading.power_watts, reading.temperature_celsius) == (100.0, 50.0)
    assert reading.memory_used_bytes == 2048
    assert isinstance(reading.memory_used_bytes, int)


def test_a_divided_gpu_takes_nothing_from_the_page() -> None:
    shown = page(DcgmGpu(uuid="GPU-a", activity=DCGM, values={"memory_used_bytes": 1.0}))
    fused = one(nvml(partitioned=True), shown)
    assert fused.rungs == ()
    assert fused.reading.memory_used_bytes is None


def test_a_lost_gpu_stays_lost_though_the_page_still_shows_it() -> None:
    lost = GpuLost(index=0, uuid="GPU-a", name=None, reason="lost", message="gone")
    assert fuse([lost], page(DcgmGpu(uuid="GPU-a", activity=DCGM))) == (lost,)


@pytest.mark.parametrize(
    ("age", "since_read", "speaks"),
    [
        pytest.param(0, 0, True, id="new values"),
        pytest.param(30, 9, True, id="as old as the collector's interval"),
        pytest.param(45, 6, False, id="older than that and two of our own"),
        pytest.param(20, 40, False, id="seen new, and not read since"),
    ],
)
def test_a_value_speaks_for_one_interval_of_its_collector(
    age: float, since_read: float, speaks: bool
) -> None:
    shown = page(DcgmGpu(uuid="GPU-a", activity=DCGM), age=age, since_read=since_read)
    fused = one(nvml(), shown)
    assert bool(fused.rungs) is speaks
    if not speaks:
        assert fused.reading.activity_problem is not None
        assert "old, and it collects every 30 s" in fused.reading.activity_problem


def test_what_the_page_lacks_is_said_only_where_nothing_else_measures() -> None:
    shown = page(DcgmGpu(uuid="GPU-a", activity_problem="no profiling fields"))
    assert one(nvml(activity_problem="no GPM"), shown).reading.activity_problem == (
        "no GPM; no profiling fields"
    )
    assert one(nvml(activity=GPM), shown).reading.activity_problem is None


def test_without_nvml_the_page_names_the_gpus() -> None:
    shown = page(
        DcgmGpu(uuid="GPU-a", index=3, name="NVIDIA L4", activity=DCGM, values={"power_watts": 40.0}),
        DcgmGpu(uuid="GPU-b", index=4, gpu_instance_id=1, activity=DCGM),
    )
    (gpu,) = gpus_of(shown)
    assert (gpu.index, gpu.uuid, gpu.name) == (3, "GPU-a", "NVIDIA L4")
    fused = one(gpu, shown)
    assert (fused.reading.power_watts, fused.rungs) == (40.0, (DCGM,))


def test_why_the_page_is_missing_stands_beside_what_nvml_says() -> None:
    (fused,) = fuse([nvml(activity_problem="no GPM")], None, missing="dcgm: not read yet")
    assert isinstance(fused, Fused)
    assert fused.reading.activity_problem == "no GPM; dcgm: not read yet"
