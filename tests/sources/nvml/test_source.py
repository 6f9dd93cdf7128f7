from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from agent.clock import ManualClock, SystemClock
from agent.errors import SourceAbsentError, SourceError
from agent.readings import Failed, GpuCounters, GpuHealth, GpuReading, NodeReading, Read
from agent.sources.base import Poller
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.asker import SELDOM_SECONDS
from agent.sources.nvml.pause import FIRST_PAUSE_SECONDS
from tests.nvml_standin import StandIn, compile_library
from tests.sources.nvml.gpus import UUIDS, gpu_of, lost_of, wait_until

H100 = "NVIDIA H100 80GB HBM3"


def empty_fields(gpu: GpuReading) -> list[str]:
    """What is not said, but for what a whole GPU never says, and the activity, where time stands still."""
    return [f.name for f in fields(gpu) if getattr(gpu, f.name) is None and f.name not in ("mig", "activity")]


# --- what a reading says ---------------------------------------------------------------------------


def test_a_reading_is_in_base_units(stand_in: StandIn, clock: ManualClock) -> None:
    source = NvmlSource(clock=clock, gpm=False, library_path=str(stand_in.path))
    stand_in.set({"energy_mj": 987_654_321_012, "sm_clock_mhz": 1500})
    assert source.read() == NodeReading(
        driver_version="570.86.15",
        gpus=(
            GpuReading(
                index=0,
                uuid=UUIDS[0],
                name=H100,
                virtualization="none",
                pci_bus_id="00000000:10:00.0",
                compute_capability=(9, 0),
                memory_total_bytes=85_520_809_984,
                memory_used_bytes=64_424_509_440,
                memory_free_bytes=20_441_989_120,
                memory_reserved_bytes=654_311_424,
                memory_bus_bits=5120,
                power_watts=412.345,
                power_instant_watts=412.345,
                power_limit_watts=700.0,
                energy_joules=987_654_321.012,
                temperature_celsius=54,
                memory_temperature_celsius=61,
                sm_clock_hertz=1.5e9,
                sm_clock_max_hertz=1.98e9,
                memory_clock_hertz=2.619e9,
                memory_clock_max_hertz=2.619e9,
                kernel_time_ratio=0.94,
                memory_time_ratio=0.61,
                clock_limit_reasons=("sw_power_cap",),
                counters=GpuCounters(
                    pcie_receive_bytes=94_371_840_000,
                    pcie_transmit_bytes=52_428_800_000,
                    nvlink_receive_bytes=644_245_094_400,
                    nvlink_transmit_bytes=751_619_276_800,
                    clock_limited_seconds={"sw_power_cap": 41.0, "sync_boost": 0.0},
                ),
                health=GpuHealth(
                    ecc_corrected_errors=2,
                    ecc_uncorrected_errors=0,
                    remapped_rows_corrected=1,
                    remapped_rows_uncorrected=0,
                    row_remap_pending=False,
                    row_remap_failed=False,
                    recovery_action="none",
                    xid_errors={},
                ),
                processes=(),
                activity=None,
                activity_problem="GPM is switched off",
            ),
        ),
    )
    source.close()


def test_each_gpu_has_its_own_values(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 2, "gpu1.name": "NVIDIA L4", "gpu1.power_limit_mw": 72_000})
    first, second = (gpu_of(source.read(), index) for index in range(2))
    assert (first.uuid, first.name, first.power_limit_watts) == (UUIDS[0], H100, 700.0)
    assert (second.uuid, second.name, second.power_limit_watts) == (UUIDS[1], "NVIDIA L4", 72.0)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        pytest.param(0x0, (), id="clocks that nothing lowers have no reason"),
        pytest.param(0x1, ("idle",), id="an idle GPU says so"),
        pytest.param(0x44, ("sw_power_cap", "hw_thermal"), id="two reasons at once"),
        pytest.param(
            0x1FE,
            (
                "application_clocks",
                "sw_power_cap",
                "hw_slowdown",
                "sync_boost",
                "sw_thermal",
                "hw_thermal",
                "hw_power_brake",
                "display_clock",
            ),
            id="all others",
        ),
        pytest.param(0x8000, (), id="a bit of a later driver is passed over"),
    ],
)
def test_clock_limits_are_words(
    source: NvmlSource, stand_in: StandIn, bits: int, words: tuple[str, ...]
) -> None:
    stand_in.set({"clock_event_reasons": bits})
    assert gpu_of(source.read()).clock_limit_reasons == words


def test_a_node_without_gpus_is_a_reading(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 0})
    assert source.read() == NodeReading(gpus=(), driver_version="570.86.15")


def test_what_never_changes_is_read_once_a_session(source: NvmlSource, stand_in: StandIn) -> None:
    for _ in range(3):
        source.read()
    once = (
        "nvmlInit",
        "nvmlSystemGetDriverVersion",
        "nvmlDeviceGetHandleByIndex_v2",
        "nvmlDeviceGetUUID",
        "nvmlDeviceGetName",
        "nvmlDeviceGetPciInfo_v3",
        "nvmlDeviceGetCudaComputeCapability",
        "nvmlDeviceGetMemoryBusWidth",
        "nvmlGpmQueryDeviceSupport",
    )
    assert {call: stand_in.calls(call) for call in once} == dict.fromkeys(once, 1)
    assert stand_in.calls("nvmlDeviceGetEnforcedPowerLimit") == 3


# --- calls that a GPU lacks, or that fail ------------------------------------------------------------

FIELDS_OF_CALL = {
    "nvmlDeviceGetPciInfo_v3": ("pci_bus_id",),
    "nvmlDeviceGetCudaComputeCapability": ("compute_capability",),
    "nvmlDeviceGetMemoryBusWidth": ("memory_bus_bits",),
    "nvmlDeviceGetMaxClockInfo": ("sm_clock_max_hertz", "memory_clock_max_hertz"),
    "nvmlDeviceGetEnforcedPowerLimit": ("power_limit_watts",),
    "nvmlDeviceGetVirtualizationMode": ("virtualization",),
    "nvmlDeviceGetComputeRunningProcesses_v3": ("processes",),
    "nvmlDeviceGetClockInfo": ("sm_clock_hertz", "memory_clock_hertz"),
    "nvmlDeviceGetUtilizationRates": ("kernel_time_ratio", "memory_time_ratio"),
}


@pytest.mark.parametrize("call", FIELDS_OF_CALL)
@pytest.mark.parametrize("code", [3, 4, 13, 25, 26])
def test_a_call_that_a_gpu_lacks_costs_its_field_and_is_not_made_again(
    source: NvmlSource, stand_in: StandIn, call: str, code: int
) -> None:
    stand_in.set({"gpus": 2, f"gpu0.{call}.return": code})
    for _ in range(3):
        reading = source.read()
    missing = FIELDS_OF_CALL[call]
    assert empty_fields(gpu_of(reading, 0)) == list(missing)
    assert empty_fields(gpu_of(reading, 1)) == []
    assert stand_in.calls(call, gpu=0) == (2 if "Clock" in call else 1)  # two clocks are two questions


@pytest.mark.parametrize("call", FIELDS_OF_CALL)
@pytest.mark.parametrize("code", [10, 21, 999])
def test_a_call_that_fails_costs_its_field_until_it_answers(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock, call: str, code: int
) -> None:
    stand_in.set({f"{call}.return": code})
    failing = gpu_of(source.read())
    stand_in.set({f"{call}.return": None})
    clock.advance(SELDOM_SECONDS)
    answering = gpu_of(source.read())
    assert empty_fields(failing) == list(FIELDS_OF_CALL[call])
    assert empty_fields(answering) == []


@pytest.mark.parametrize("code", [3, 13, 25])
def test_memory_falls_back_to_the_older_call(source: NvmlSource, stand_in: StandIn, code: int) -> None:
    stand_in.set({"nvmlDeviceGetMemoryInfo_v2.return": code})
    for _ in range(2):
        gpu = gpu_of(source.read())
    # The older call cannot tell what the driver reserves from what is used.
    assert gpu.memory_reserved_bytes is None
    assert gpu.memory_used_bytes == 64_424_509_440 + 654_311_424
    assert gpu.memory_free_bytes == 20_441_989_120
    assert stand_in.calls("nvmlDeviceGetMemoryInfo_v2") == 1


def test_memory_that_fails_for_now_does_not_change_its_meaning(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"nvmlDeviceGetMemoryInfo_v2.return": 10})
    assert gpu_of(source.read()).memory_used_bytes is None
    assert stand_in.calls("nvmlDeviceGetMemoryInfo") == 0


def test_an_old_driver_without_the_newer_symbols_is_read(
    tmp_path: Path, clock: ManualClock, fresh_pynvml: None
) -> None:
    newer = (
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetTemperatureV",
        "nvmlDeviceGetCurrentClocksEventReasons",
        "nvmlGpmQueryDeviceSupport",
    )
    old = StandIn(compile_library(tmp_path, without=newer), tmp_path / "old")
    source = NvmlSource(clock=clock, library_path=str(old.path))
    gpu = gpu_of(source.read())
    assert gpu.memory_total_bytes == 85_520_809_984
    assert gpu.temperature_celsius == 54
    assert gpu.clock_limit_reasons == ("sw_power_cap",)
    assert gpu.activity_problem is not None
    assert "no GPM" in gpu.activity_problem
    source.close()


# --- a GPU that is lost ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "reason"),
    [(15, "lost"), (16, "reset_required"), (11, "interrupt"), (14, "inforom"), (999, "unknown")],
)
def test_a_lost_gpu_leaves_the_others_alone_and_comes_back(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock, code: int, reason: str
) -> None:
    stand_in.set({"gpus": 3})
    source.read()
    stand_in.set({"gpu1.return": code})
    for _ in range(2):  # found lost by a call, then by the handle
        reading = source.read()
        lost = lost_of(reading, 1)
        assert (lost.index, lost.uuid, lost.name, lost.reason) == (1, UUIDS[1], H100, reason)
        assert "GPU 1: " in lost.message
        clock.advance(FIRST_PAUSE_SECONDS)
        assert gpu_of(reading, 0).power_limit_watts == gpu_of(reading, 2).power_limit_watts == 700.0
    stand_in.set({"gpu1.return": None})
    clock.advance(2 * FIRST_PAUSE_SECONDS)
    assert gpu_of(source.read(), 1).power_limit_watts == 700.0
    assert stand_in.calls("nvmlInit") == 1


def test_a_lost_gpu_is_looked_for_with_growing_pauses(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock
) -> None:
    stand_in.set({"gpu0.return": 15})
    asked = []
    for _ in range(100):
        source.read()
        asked.append(stand_in.calls("nvmlDeviceGetHandleByIndex_v2"))
        clock.advance(1)
    seconds = [at for at, (before, now) in enumerate(zip([0, *asked], asked, strict=False)) if now > before]
    assert seconds == [0, 1, 3, 7, 15, 31, 61, 91]


def test_a_gpu_lost_before_we_came_has_no_identity(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 2, "gpu0.return": 15})
    reading = source.read()
    assert (lost_of(reading, 0).uuid, lost_of(reading, 0).name) == (None, None)
    assert gpu_of(reading, 1).uuid == UUIDS[1]


def test_a_lost_gpu_holds_no_samples(
    source: NvmlSource, stand_in: StandIn, advance: Callable[[float], None]
) -> None:
    stand_in.set({"gpus": 2})
    source.read()
    assert stand_in.samples == 4
    stand_in.set({"gpu1.nvmlDeviceGetEnforcedPowerLimit.return": 15})
    source.read()
    assert stand_in.samples == 2


# --- no session --------------------------------------------------------------------------------------


def test_no_library_is_absence(clock: ManualClock, tmp_path: Path, fresh_pynvml: None) -> None:
    with pytest.raises(SourceAbsentError, match=r"no library to load at .*nowhere"):
        NvmlSource(clock=clock, library_path=str(tmp_path / "nowhere")).read()


def test_no_library_in_the_usual_place_says_what_to_do(tmp_path: Path) -> None:
    # An empty file hides a real driver of this machine, and it must be there before the process starts.
    (tmp_path / "libnvidia-ml.so.1").touch()
    script = (
        "from agent.clock import SystemClock; from agent.errors import SourceAbsentError\n"
        "from agent.sources.nvml import NvmlSource\n"
        "try: NvmlSource(clock=SystemClock()).read()\n"
        "except SourceAbsentError as absent: print(absent)\n"
    )
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    said = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert "libnvidia-ml.so.1" in said.stdout, said.stderr
    assert "runtimeClassName nvidia" in said.stdout


def test_no_driver_is_absence_until_it_is_loaded(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock
) -> None:
    stand_in.set({"nvmlInit.return": 9})
    with pytest.raises(SourceAbsentError, match="driver is not loaded"):
        source.read()
    stand_in.set({"nvmlInit.return": None})
    clock.advance(FIRST_PAUSE_SECONDS)
    assert gpu_of(source.read()).uuid == UUIDS[0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (4, "permission"),
        (17, "operating_system"),
        (18, "version_mismatch"),
        (28, "gpu_not_found"),
        (20, "unknown"),
        (999, "unknown"),
    ],
)
def test_a_session_that_does_not_begin_is_tried_again(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock, code: int, reason: str
) -> None:
    stand_in.set({"nvmlInit.return": code})
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason == reason
    stand_in.set({"nvmlInit.return": None})
    clock.advance(FIRST_PAUSE_SECONDS)
    assert gpu_of(source.read()).uuid == UUIDS[0]


@pytest.mark.parametrize("call", ["nvmlDeviceGetCount_v2", "gpu1.nvmlDeviceGetEnforcedPowerLimit"])
@pytest.mark.parametrize(
    ("code", "reason"), [(1, "uninitialized"), (18, "version_mismatch"), (28, "gpu_not_found")]
)
def test_a_session_that_ends_is_begun_anew(
    source: NvmlSource,
    stand_in: StandIn,
    advance: Callable[[float], None],
    call: str,
    code: int,
    reason: str,
) -> None:
    stand_in.set({"gpus": 2})
    source.read()
    stand_in.set({f"{call}.return": code})
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason == reason
    stand_in.set({f"{call}.return": None})
    # The stand-in refuses handles and samples of an earlier session.
    for _ in range(2):
        advance(1)
        reading = source.read()
    assert gpu_of(reading, 1).power_limit_watts == 700.0
    assert gpu_of(reading, 1).activity is not None
    assert (stand_in.calls("nvmlInit"), stand_in.calls("nvmlShutdown")) == (2, 1)


def test_a_driver_version_is_not_kept_over_a_session(source: NvmlSource, stand_in: StandIn) -> None:
    assert source.read().driver_version == "570.86.15"
    source.close()
    stand_in.set({"nvmlSystemGetDriverVersion.return": 999})
    assert source.read().driver_version is None


def test_a_gpu_lost_over_a_new_session_keeps_its_identity(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock
) -> None:
    stand_in.set({"gpus": 2})
    source.read()
    stand_in.set({"gpu1.return": 15, "nvmlDeviceGetCount_v2.return": 1})
    with pytest.raises(SourceError):
        source.read()
    stand_in.set({"nvmlDeviceGetCount_v2.return": None})
    clock.advance(FIRST_PAUSE_SECONDS)
    assert lost_of(source.read(), 1).uuid == UUIDS[1]


def test_close_ends_the_session_and_a_reading_begins_another(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    source.close()
    source.close()
    assert stand_in.calls("nvmlShutdown") == 1
    assert stand_in.samples == 0
    assert gpu_of(source.read()).uuid == UUIDS[0]
    assert stand_in.calls("nvmlInit") == 2


# --- a driver that hangs -----------------------------------------------------------------------------


def test_a_hanging_call_shows_as_a_timeout_and_blocks_nobody(stand_in: StandIn) -> None:
    clock = SystemClock()
    source = NvmlSource(clock=clock, library_path=str(stand_in.path))
    poller = Poller(source, interval_seconds=0.02, deadline_seconds=0.1, clock=clock)
    poller.start()
    wait_until(lambda: poller.state().up)

    stand_in.set({"gpu0.nvmlDeviceGetMemoryInfo_v2.delay_ms": 1e9})
    wait_until(lambda: not poller.state().up)
    started = time.monotonic()
    outcome = poller.state().outcome
    waited = time.monotonic() - started
    stand_in.set({"gpu0.nvmlDeviceGetMemoryInfo_v2.delay_ms": None})
    assert waited < 0.1
    assert isinstance(outcome, Failed)
    assert outcome.reason == "timeout"
    wait_until(lambda: isinstance(poller.state().outcome, Read))
    poller.close()
    assert stand_in.samples == 0


def test_close_does_not_wait_for_a_hanging_call(stand_in: StandIn, source: NvmlSource) -> None:
    source.read()
    stand_in.set({"nvmlDeviceGetEnforcedPowerLimit.delay_ms": 1e9})
    reader = threading.Thread(target=source.read)
    reader.start()
    wait_until(lambda: stand_in.calls("nvmlDeviceGetEnforcedPowerLimit") == 2)
    started = time.monotonic()
    source.close()
    waited, shutdowns = time.monotonic() - started, stand_in.calls("nvmlShutdown")
    stand_in.set({"nvmlDeviceGetEnforcedPowerLimit.delay_ms": None})
    reader.join()
    assert waited < 30, "the call itself would hang for days"
    assert shutdowns == 0  # never under a reading
