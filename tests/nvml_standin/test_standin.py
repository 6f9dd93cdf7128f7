"""The stand-in answers as NVML does, through nvidia-ml-py."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pynvml as nvml
import pytest

from tests.nvml_standin import GENERATIONS, StandIn, compile_library

ALL_LINKS = 0xFFFFFFFF
XID = nvml.nvmlEventTypeXidCriticalError


@contextmanager
def session(stand_in: StandIn) -> Iterator[StandIn]:
    """nvidia-ml-py keeps its library and the functions found in it for the life of the process."""
    nvml._nvmlGetFunctionPointer_cache.clear()
    nvml.nvmlLib = ctypes.CDLL(str(stand_in.path))
    nvml.nvmlInit()
    yield stand_in
    stand_in.set({"return": None, "nvmlShutdown.return": None})
    nvml.nvmlShutdown()
    nvml._nvmlGetFunctionPointer_cache.clear()
    nvml.nvmlLib = None


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("standin"))


@pytest.fixture
def stand_in(library: Path, tmp_path: Path) -> Iterator[StandIn]:
    with session(StandIn(library, tmp_path)) as begun:
        yield begun


def code_of(call: Callable[..., object], *arguments: object) -> int:
    try:
        call(*arguments)
    except nvml.NVMLError as error:
        return error.value
    return nvml.NVML_SUCCESS


def gpu(index: int = 0) -> nvml.c_nvmlDevice_t:
    return nvml.nvmlDeviceGetHandleByIndex(index)


def instance(slot: int, *, of: int = 0) -> nvml.c_nvmlDevice_t:
    return nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu(of), slot)


def fields(*ids: int | tuple[int, int]) -> list[nvml.c_nvmlFieldValue_t]:
    return list(nvml.nvmlDeviceGetFieldValues(gpu(), ids))


# --- field values ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "member", "written"),
    [
        (nvml.NVML_VALUE_TYPE_DOUBLE, "dVal", 0.25),
        (nvml.NVML_VALUE_TYPE_UNSIGNED_INT, "uiVal", 2**32 - 1),
        (nvml.NVML_VALUE_TYPE_UNSIGNED_LONG, "ulVal", 2**64 - 1),
        (nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG, "ullVal", 2**53 + 1),
        (nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG, "sllVal", -(2**53) - 1),
        (nvml.NVML_VALUE_TYPE_SIGNED_INT, "siVal", -1),
        (nvml.NVML_VALUE_TYPE_UNSIGNED_SHORT, "usVal", 2**16 - 1),
    ],
)
def test_a_field_of_every_type_is_exact(stand_in: StandIn, kind: int, member: str, written: float) -> None:
    stand_in.set({"field.197": written, "field.197.type": kind})
    (field,) = fields(197)
    assert (field.valueType, getattr(field.value, member)) == (kind, written)


def test_a_field_is_of_its_scope_before_it_is_of_all(stand_in: StandIn) -> None:
    stand_in.set({"field.202": 1, "field.202.3": 2, "field.202.4.return": nvml.NVML_ERROR_NOT_SUPPORTED})
    read = fields((202, 0), (202, 3), (202, 4), (138, 0), (138, ALL_LINKS))
    assert [field.nvmlReturn for field in read] == [0, 0, 3, 3, 0]
    assert [field.value.ullVal for field in read] == [1, 2, 0, 0, 734_003_200]


def test_fields_follow_the_calls_that_say_the_same(stand_in: StandIn) -> None:
    stand_in.set({"energy_mj": 2**53 + 1, "gpu0.power_mw": 70_000, "field.186": 71_000})
    energy, average, instant = fields(83, 185, 186)
    assert (energy.value.ullVal, average.value.uiVal, instant.value.uiVal) == (2**53 + 1, 70_000, 71_000)
    assert nvml.nvmlDeviceGetTotalEnergyConsumption(gpu()) == 2**53 + 1


@pytest.mark.parametrize("strict", [False, True])
def test_an_old_driver_rejects_a_young_field_or_the_whole_call(stand_in: StandIn, strict: bool) -> None:
    stand_in.set({"field.newest": 196, "field.strict": int(strict)})
    if strict:
        assert code_of(fields, 82, 197) == nvml.NVML_ERROR_INVALID_ARGUMENT
    else:
        assert [field.nvmlReturn for field in fields(82, 197)] == [0, nvml.NVML_ERROR_INVALID_ARGUMENT]


def test_field_values_are_dated_by_the_clock_that_tests_move(stand_in: StandIn) -> None:
    assert fields(82)[0].timestamp == pytest.approx(time.time() * 1e6, abs=5e6)
    stand_in.set({"now_ms": 1500})
    assert fields(82)[0].timestamp == 1_500_000


# --- MIG -------------------------------------------------------------------------------------------


def test_a_gpu_has_no_mig_unless_said(stand_in: StandIn) -> None:
    assert code_of(nvml.nvmlDeviceGetMigMode, gpu()) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.nvmlDeviceGetMaxMigDeviceCount(gpu()) == 0
    assert code_of(instance, 0) == nvml.NVML_ERROR_NOT_SUPPORTED


def test_instances_may_have_holes_between_them(stand_in: StandIn) -> None:
    stand_in.set({"gpus": 16, "mig_mode": 1, "gpu15.migs": 3, "gpu15.mig1.empty": 1, "gpu15.mig2.gi": 3})
    slots = range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu(15)))
    found = [slot for slot in slots if code_of(lambda slot=slot: instance(slot, of=15)) == 0]
    assert found == [0, 2]
    handles = [instance(slot, of=15) for slot in found]
    assert [nvml.nvmlDeviceGetGpuInstanceId(handle) for handle in handles] == [7, 3]
    assert [nvml.nvmlDeviceGetUUID(handle) for handle in handles] == [
        "MIG-00000000-0000-0000-0015-000000000000",
        "MIG-00000000-0000-0000-0015-000000000002",
    ]
    parent = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handles[1])
    assert nvml.nvmlDeviceGetUUID(parent) == "GPU-00000000-0000-0000-0000-000000000015"
    assert code_of(lambda: instance(1, of=15)) == nvml.NVML_ERROR_NOT_FOUND


def test_an_instance_has_memory_of_its_own_and_no_power(stand_in: StandIn) -> None:
    stand_in.set({"mig_mode": 1, "migs": 2, "gpu0.mig1.memory_used_bytes": 2**53 + 1, "processes": "7:1"})
    first, second = instance(0), instance(1)
    assert nvml.nvmlDeviceGetMemoryInfo(first, nvml.nvmlMemory_v2).total == 85_520_809_984 // 8
    assert nvml.nvmlDeviceGetMemoryInfo(second, nvml.nvmlMemory_v2).used == 2**53 + 1
    assert nvml.nvmlDeviceGetAttributes_v2(first).memorySizeMB == 85_520_809_984 // 8 // 2**20
    assert nvml.nvmlDeviceGetName(first) == "NVIDIA H100 80GB HBM3 MIG 1g.10gb"
    assert nvml.nvmlDeviceGetComputeRunningProcesses_v3(first) == []
    for call in (nvml.nvmlDeviceGetPowerUsage, nvml.nvmlDeviceGetUtilizationRates):
        assert code_of(call, first) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert code_of(nvml.nvmlDeviceGetUtilizationRates, gpu()) == nvml.NVML_ERROR_NOT_SUPPORTED


def test_one_instance_fails_or_all_with_their_gpu(stand_in: StandIn) -> None:
    stand_in.set({"mig_mode": 1, "migs": 2})
    handles = [instance(0), instance(1)]

    def codes() -> list[int]:
        return [code_of(nvml.nvmlDeviceGetUUID, handle) for handle in handles]

    stand_in.set({"gpu0.mig1.return": 6})
    assert codes() == [0, 6]
    stand_in.set({"gpu0.mig1.return": None, "gpu0.mig0.nvmlDeviceGetUUID.return": 4, "gpu0.return": 15})
    assert codes() == [4, 15]
    assert stand_in.calls("nvmlDeviceGetUUID", gpu=0) == 4
    assert stand_in.calls("nvmlDeviceGetUUID", gpu=0, mig=1) == 2


def test_a_handle_does_not_outlive_its_instance(stand_in: StandIn) -> None:
    stand_in.set({"mig_mode": 1, "migs": 1})
    handle = instance(0)
    stand_in.set({"migs": 0})
    assert code_of(nvml.nvmlDeviceGetUUID, handle) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_gpm_of_an_instance_is_its_own(stand_in: StandIn) -> None:
    stand_in.set({"mig_mode": 1, "migs": 2, "gpu0.gi8.gpm.10": 50})

    def dram(gi: int) -> float:
        asked = nvml.c_nvmlGpmMetricsGet_t(version=nvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=1)
        asked.metrics[0].metricId = nvml.NVML_GPM_METRIC_DRAM_BW_UTIL
        samples = [nvml.nvmlGpmSampleAlloc() for _ in range(2)]
        for now_ms, sample in enumerate(samples):
            stand_in.set({"now_ms": now_ms * 1000})
            nvml.nvmlGpmMigSampleGet(gpu(), gi, sample)
        asked.sample1, asked.sample2 = samples
        value = nvml.nvmlGpmMetricsGet(asked).metrics[0].value
        for sample in samples:
            nvml.nvmlGpmSampleFree(sample)
        return value

    assert (dram(7), dram(8)) == (87.5, 50)
    assert code_of(dram, 9) == nvml.NVML_ERROR_INVALID_ARGUMENT


# --- the fabric and processes ----------------------------------------------------------------------


def test_the_fabric_has_a_health_from_version_3_on(stand_in: StandIn) -> None:
    young, old = nvml.c_nvmlGpuFabricInfo_v3_t(), nvml.c_nvmlGpuFabricInfo_v2_t()
    assert code_of(nvml.nvmlDeviceGetGpuFabricInfoV, gpu(), ctypes.byref(young)) == 3
    stand_in.set({"fabric_state": 3, "fabric_health": 2})
    nvml.nvmlDeviceGetGpuFabricInfoV(gpu(), ctypes.byref(young))
    assert (young.state, young.status, young.healthSummary) == (3, 0, 2)
    stand_in.set({"fabric_newest": 2})
    assert code_of(nvml.nvmlDeviceGetGpuFabricInfoV, gpu(), ctypes.byref(young)) == 25
    nvml.nvmlDeviceGetGpuFabricInfoV(gpu(), ctypes.byref(old))
    assert old.state == 3


def test_processes_have_their_memory_where_it_is_known(stand_in: StandIn) -> None:
    assert nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu()) == []
    stand_in.set({"processes": "7:1024,8"})
    found = nvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu())
    assert [(process.pid, process.usedGpuMemory) for process in found] == [(7, 1024), (8, None)]


# --- what other programs ask for ---------------------------------------------------------------------


def test_other_programs_are_told_what_the_agent_does_not_ask(stand_in: StandIn) -> None:
    stand_in.set({"pcie_wait_ms": 0, "processes": "7:1024,8", "utilization_gpu_percent": 40})
    assert nvml.nvmlSystemGetCudaDriverVersion() == 12080
    assert nvml.nvmlDeviceGetPowerManagementLimit(gpu()) == nvml.nvmlDeviceGetEnforcedPowerLimit(gpu())
    assert nvml.nvmlDeviceGetEncoderUtilization(gpu()) == [0, 167000]
    assert nvml.nvmlDeviceGetPcieThroughput(gpu(), nvml.NVML_PCIE_UTIL_RX_BYTES) == 92160
    assert nvml.nvmlDeviceGetClockInfo(gpu(), nvml.NVML_CLOCK_GRAPHICS) == 1755
    assert nvml.nvmlDeviceGetClockInfo(gpu(), nvml.NVML_CLOCK_VIDEO) == 1485
    assert code_of(nvml.nvmlDeviceGetFanSpeed, gpu()) == nvml.NVML_ERROR_NOT_SUPPORTED
    assert nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(gpu()) == []
    samples = nvml.nvmlDeviceGetProcessUtilization(gpu(), 0)
    assert [(sample.pid, sample.smUtil) for sample in samples] == [(7, 40), (8, 40)]
    stand_in.set({"processes": None})
    assert code_of(nvml.nvmlDeviceGetProcessUtilization, gpu(), 0) == nvml.NVML_ERROR_NOT_FOUND


# --- events ----------------------------------------------------------------------------------------


def wait(events: nvml.c_nvmlEventSet_t, ms: int = 0) -> int:
    """The XID."""
    event = nvml.nvmlEventSetWait_v2(events, ms)
    assert event.eventType == XID
    return event.eventData


def test_an_xid_is_delivered_once_and_not_from_before_registration(stand_in: StandIn) -> None:
    stand_in.set({"gpus": 2, "xids": "1:gpu0:13"})
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(gpu(0), XID, events)
    assert code_of(wait, events) == nvml.NVML_ERROR_TIMEOUT
    stand_in.set({"xids": "1:gpu0:13,2:gpu1:31,3:gpu0:79,4:gpu0:48"})
    nvml.nvmlDeviceRegisterEvents(gpu(1), XID, events)
    assert [wait(events), wait(events)] == [79, 48]
    assert code_of(wait, events) == nvml.NVML_ERROR_TIMEOUT
    nvml.nvmlEventSetFree(events)
    assert stand_in.event_sets == 0
    assert code_of(wait, events) == nvml.NVML_ERROR_INVALID_ARGUMENT


def test_an_xid_ends_a_wait(stand_in: StandIn) -> None:
    events = nvml.nvmlEventSetCreate()
    nvml.nvmlDeviceRegisterEvents(gpu(), XID, events)
    threading.Timer(0.05, stand_in.set, [{"xids": "1:gpu0:79"}]).start()
    assert wait(events, 10_000) == 79


def test_a_shutdown_ends_a_wait_and_its_set(stand_in: StandIn) -> None:
    events = nvml.nvmlEventSetCreate()
    codes: list[int] = []
    waiter = threading.Thread(target=lambda: codes.append(code_of(wait, events, 10_000)))
    waiter.start()
    while not stand_in.calls("nvmlEventSetWait_v2"):
        time.sleep(0.001)
    nvml.nvmlShutdown()
    waiter.join()
    nvml.nvmlInit()
    assert codes == [nvml.NVML_ERROR_UNINITIALIZED]
    assert code_of(wait, events) == nvml.NVML_ERROR_INVALID_ARGUMENT
    assert stand_in.event_sets == 0


# --- as a whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branch", "reasons", "fabric", "refused"),
    [(525, 13, 13, [197, 230, 269]), (550, 0, 25, [197, 230, 269]), (570, 0, 25, [269]), (580, 0, 3, [])],
)
def test_a_driver_lacks_what_came_after_it(
    tmp_path: Path, branch: int, reasons: int, fabric: int, refused: list[int]
) -> None:
    driver = GENERATIONS[branch]
    with session(StandIn(compile_library(tmp_path, without=driver.missing), tmp_path / "driver")) as stand_in:
        stand_in.set(driver.settings)
        assert nvml.nvmlSystemGetDriverVersion().startswith(f"{branch}.")
        assert code_of(nvml.nvmlDeviceGetCurrentClocksEventReasons, gpu()) == reasons
        info = ctypes.byref(nvml.c_nvmlGpuFabricInfo_v3_t())
        assert code_of(nvml.nvmlDeviceGetGpuFabricInfoV, gpu(), info) == fabric
        assert [field.fieldId for field in fields(82, 197, 230, 269) if field.nvmlReturn == 2] == refused


def test_sixteen_gpus_are_read_quickly(stand_in: StandIn) -> None:
    stand_in.set(
        {f"gpu{index}.field.{field}": 1 for index in range(16) for field in range(300)} | {"gpus": 16}
    )
    last = gpu(15)
    asked = tuple(range(30))
    nvml.nvmlDeviceGetFieldValues(last, asked)
    spent = []
    for _ in range(50):
        began = time.perf_counter()
        nvml.nvmlDeviceGetFieldValues(last, asked)
        spent.append(time.perf_counter() - began)
    assert min(spent) < 300e-6
