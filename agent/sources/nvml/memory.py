"""Memory and who holds it: of a GPU, of a MIG instance, or of the host for a chip without its own."""

from __future__ import annotations

from pathlib import Path

import pynvml

from agent.readings import GpuProcess
from agent.sources.nvml.asker import Handle
from agent.units import KIBI

Memory = tuple[int, int, int, int | None]
"""Total, used, free and reserved bytes."""

PROC = Path("/proc")
MAX_PID = 2**22
"""The kernel's own limit of process numbers."""


def read_memory(gpu: Handle) -> Memory:
    """From driver 510 on."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu, pynvml.nvmlMemory_v2)
    return memory.total, memory.used, memory.free, memory.reserved


def read_memory_v1(gpu: Handle) -> Memory:
    """Before driver 510: what the driver reserves is part of used, and cannot be told apart."""
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return memory.total, memory.used, memory.free, None


def read_host_memory(proc: Path) -> Memory | None:
    """What the operating system says of the memory that CPU and GPU share; `None` if it says nothing."""
    try:
        lines = (proc / "meminfo").read_text().splitlines()
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        total, free = kibibytes["MemTotal"] * KIBI, kibibytes["MemAvailable"] * KIBI
    except (OSError, ValueError, LookupError):
        return None
    return total, total - free, free, None


def read_processes(gpu: Handle) -> tuple[GpuProcess, ...]:
    """Those that compute there. Some drivers (535.43 to 535.86) fill the list with nonsense: left out."""
    return tuple(
        GpuProcess(pid=process.pid, memory_bytes=process.usedGpuMemory)
        for process in pynvml.nvmlDeviceGetComputeRunningProcesses_v3(gpu)
        if 0 < process.pid <= MAX_PID
    )
