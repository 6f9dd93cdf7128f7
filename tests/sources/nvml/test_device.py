"""What a GPU is to its surroundings: its fabric, and whom it belongs to in a virtual machine."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.readings import Activity
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.asker import SELDOM_SECONDS
from tests.nvml_standin import StandIn
from tests.sources.nvml.gpus import Advance, gpu_of

FABRIC = "nvmlDeviceGetGpuFabricInfoV"
VIRTUALIZATION = "nvmlDeviceGetVirtualizationMode"


def fabric_of(source: NvmlSource) -> tuple[str | None, str | None]:
    health = gpu_of(source.read()).health
    return health.fabric_state, health.fabric_health


# --- the fabric ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, None), (1, "not_started"), (2, "in_progress"), (3, "completed"), (4, None)],
)
def test_the_fabrics_state_is_a_word(
    source: NvmlSource, stand_in: StandIn, number: int, word: str | None
) -> None:
    stand_in.set({"fabric_state": number, "fabric_health": 1})
    assert fabric_of(source) == (word, "healthy")


@pytest.mark.parametrize(
    ("number", "word"), [(0, None), (1, "healthy"), (2, "unhealthy"), (3, "limited"), (4, None)]
)
def test_the_fabrics_health_is_a_word(
    source: NvmlSource, stand_in: StandIn, number: int, word: str | None
) -> None:
    stand_in.set({"fabric_state": 3, "fabric_health": number})
    assert fabric_of(source) == ("completed", word)


def test_an_older_driver_tells_the_fabrics_state_without_its_health(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({"fabric_newest": 2, "fabric_state": 3, "fabric_health": 1})
    assert fabric_of(source) == ("completed", None)
    assert stand_in.calls(FABRIC) == 2
    advance(SELDOM_SECONDS)
    assert fabric_of(source) == ("completed", None)
    assert stand_in.calls(FABRIC) == 3, "the newer version is not tried again"


@pytest.mark.parametrize(
    "setting",
    [{}, {f"{FABRIC}.return": 13}, {"fabric_state": 3, "fabric_newest": 1}],
    ids=["no fabric", "no call", "no version that we know"],
)
def test_a_gpu_without_a_fabric_says_nothing_of_it_and_is_not_asked_again(
    source: NvmlSource, stand_in: StandIn, advance: Advance, setting: Mapping[str, object]
) -> None:
    stand_in.set(setting)
    for _ in range(3):
        assert fabric_of(source) == (None, None)
        advance(SELDOM_SECONDS)
    assert stand_in.calls(FABRIC) == 2, "once by each version"


def test_the_fabric_is_asked_for_seldom(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    stand_in.set({"fabric_state": 2, "fabric_health": 1})
    source.read()
    stand_in.set({"fabric_state": 3})
    advance(SELDOM_SECONDS - 0.1)
    assert fabric_of(source) == ("in_progress", "healthy")
    assert stand_in.calls(FABRIC) == 1
    advance(0.1)
    assert fabric_of(source) == ("completed", "healthy")


def test_a_fabric_that_fails_for_now_comes_back_without_changing_its_meaning(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({"fabric_state": 3, "fabric_health": 2, f"{FABRIC}.return": 10})
    assert fabric_of(source) == (None, None)
    stand_in.set({f"{FABRIC}.return": None})
    advance(SELDOM_SECONDS)
    assert fabric_of(source) == ("completed", "unhealthy")


# --- virtual machines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "word"),
    [(0, "none"), (1, "passthrough"), (2, "vgpu"), (3, "host_vgpu"), (4, "host_vsga"), (5, None)],
)
def test_virtualization_is_a_word(
    source: NvmlSource, stand_in: StandIn, number: int, word: str | None
) -> None:
    stand_in.set({"virtualization": number})
    assert gpu_of(source.read()).virtualization == word


def test_virtualization_is_asked_for_once(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    stand_in.set({"virtualization": 2})
    for _ in range(3):
        source.read()
        advance(SELDOM_SECONDS)
    assert stand_in.calls(VIRTUALIZATION) == 1


def test_a_vgpu_says_what_its_host_lets_it(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    hidden = ("MemoryBusWidth", "PowerUsage", "EnforcedPowerLimit", "TotalEnergyConsumption", "FieldValues")
    stand_in.set({f"nvmlDeviceGet{call}.return": 3 for call in (*hidden, "TemperatureV", "Temperature")})
    stand_in.set({"virtualization": 2, "gpm_supported": 0, "event_types": 0})
    for _ in range(2):
        gpu = gpu_of(source.read())
        advance(1)
    assert gpu.virtualization == "vgpu"
    assert (gpu.memory_bus_bits, gpu.power_watts, gpu.energy_joules, gpu.temperature_celsius) == (None,) * 4
    assert gpu.health.xid_errors is None
    assert (gpu.memory_origin, gpu.memory_used_bytes) == ("device", 64_424_509_440)
    assert (gpu.kernel_time_ratio, gpu.sm_clock_hertz) == (0.94, 1.755e9)
    assert "no GPM" in (gpu.activity_problem or "")


def test_a_vgpu_that_owns_its_slice_has_gpm(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    stand_in.set({"virtualization": 2})
    source.read()
    advance(1)
    assert isinstance(gpu_of(source.read()).activity, Activity)
