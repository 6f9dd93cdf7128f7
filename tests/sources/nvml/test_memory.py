"""Memory, of a GPU or of the host that it shares it with, and the processes that hold it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.clock import ManualClock
from agent.readings import GpuProcess, GpuReading
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.asker import SELDOM_SECONDS
from agent.sources.nvml.memory import MAX_PID
from tests.nvml_standin import StandIn, compile_library
from tests.sources.nvml.gpus import Advance, gpu_of

V1, V2 = "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"
PROCESSES = "nvmlDeviceGetComputeRunningProcesses_v3"
NOT_SUPPORTED, NO_PERMISSION, TIMEOUT = 3, 4, 10

MEMINFO = """\
MemTotal:       125442908 kB
MemFree:         1000 kB
MemAvailable:   93442908 kB
HugePages_Total:       0
"""


def memory_of(gpu: GpuReading) -> tuple[int | None, ...]:
    return (
        gpu.memory_total_bytes,
        gpu.memory_used_bytes,
        gpu.memory_free_bytes,
        gpu.memory_reserved_bytes,
    )


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    directory = tmp_path / "proc"
    directory.mkdir()
    (directory / "meminfo").write_text(MEMINFO)
    return directory


@pytest.fixture
def source(stand_in: StandIn, clock: ManualClock, proc: Path) -> Iterator[NvmlSource]:
    nvml = NvmlSource(clock=clock, library_path=str(stand_in.path), proc=proc)
    yield nvml
    nvml.close()


# --- a chip without memory of its own ------------------------------------------------------------------


def test_a_chip_without_its_own_memory_tells_of_the_hosts(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({f"{call}.return": NOT_SUPPORTED for call in (V1, V2)})
    for _ in range(2):
        gpu = gpu_of(source.read())
        assert gpu.memory_origin == "system"
        assert memory_of(gpu) == (125_442_908 * 1024, 32_000_000 * 1024, 93_442_908 * 1024, None)


def test_the_hosts_memory_is_read_anew(source: NvmlSource, stand_in: StandIn, proc: Path) -> None:
    stand_in.set({f"{call}.return": NOT_SUPPORTED for call in (V1, V2)})
    source.read()
    (proc / "meminfo").write_text(MEMINFO.replace("93442908", "93442907"))
    assert gpu_of(source.read()).memory_free_bytes == 93_442_907 * 1024


def test_a_gpu_with_its_own_memory_is_not_told_of_as_the_hosts(source: NvmlSource) -> None:
    gpu = gpu_of(source.read())
    assert (gpu.memory_origin, gpu.memory_total_bytes) == ("device", 85_520_809_984)


@pytest.mark.parametrize(
    "codes",
    [
        pytest.param((NO_PERMISSION, NO_PERMISSION), id="no permission"),
        pytest.param((NOT_SUPPORTED, NO_PERMISSION), id="no permission to the older call"),
        pytest.param((TIMEOUT, TIMEOUT), id="a timeout"),
        pytest.param((NOT_SUPPORTED, TIMEOUT), id="a timeout of the older call"),
    ],
)
def test_memory_that_is_only_refused_is_not_the_hosts(
    source: NvmlSource, stand_in: StandIn, codes: tuple[int, int]
) -> None:
    stand_in.set({f"{V2}.return": codes[0], f"{V1}.return": codes[1]})
    gpu = gpu_of(source.read())
    assert (gpu.memory_origin, memory_of(gpu)) == ("device", (None,) * 4)


@pytest.mark.parametrize(
    "meminfo",
    [
        pytest.param(None, id="not there"),
        pytest.param(b"", id="empty"),
        pytest.param(b"MemTotal: 1 kB\n", id="without what is available"),
        pytest.param(b"MemTotal: much\nMemAvailable: 1 kB\n", id="no number"),
        pytest.param(b"MemTotal:\nMemAvailable: 1 kB\n", id="no value"),
        pytest.param(b"\xff\xfe", id="no text"),
    ],
)
def test_a_meminfo_that_cannot_be_read_is_no_memory(
    source: NvmlSource, stand_in: StandIn, proc: Path, meminfo: bytes | None
) -> None:
    (proc / "meminfo").unlink()
    if meminfo is not None:
        (proc / "meminfo").write_bytes(meminfo)
    stand_in.set({f"{call}.return": NOT_SUPPORTED for call in (V1, V2)})
    gpu = gpu_of(source.read())
    assert memory_of(gpu) == (None,) * 4
    assert gpu.power_watts == 412.345


# --- processes -----------------------------------------------------------------------------------------


def processes_of(source: NvmlSource) -> tuple[GpuProcess, ...] | None:
    return gpu_of(source.read()).processes


def test_processes_are_told_with_their_memory(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"processes": "7:1024,8:0"})
    assert processes_of(source) == (
        GpuProcess(pid=7, memory_bytes=1024),
        GpuProcess(pid=8, memory_bytes=0),
    )


def test_a_process_whose_memory_is_not_told_is_a_process(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"processes": "7"})
    assert processes_of(source) == (GpuProcess(pid=7, memory_bytes=None),)


def test_nonsense_among_the_processes_is_left_out(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"processes": f"0:1,{MAX_PID}:1,{MAX_PID + 1}:1,4294967295:1"})
    assert processes_of(source) == (GpuProcess(pid=MAX_PID, memory_bytes=1),)


def test_processes_are_asked_for_seldom(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    source.read()
    stand_in.set({"processes": "7:1024"})
    advance(SELDOM_SECONDS - 0.1)
    assert processes_of(source) == ()
    assert stand_in.calls(PROCESSES) == 1
    advance(0.1)
    assert processes_of(source) == (GpuProcess(pid=7, memory_bytes=1024),)


def test_a_driver_without_this_call_is_not_asked_by_another(
    tmp_path: Path, clock: ManualClock, fresh_pynvml: None
) -> None:
    # nvidia-ml-py's function without a version then raises what is no NVMLError.
    old = StandIn(compile_library(tmp_path, without=[PROCESSES]), tmp_path / "old")
    source = NvmlSource(clock=clock, library_path=str(old.path))
    gpu = gpu_of(source.read())
    assert (gpu.processes, gpu.power_watts) == (None, 412.345)
    source.close()
