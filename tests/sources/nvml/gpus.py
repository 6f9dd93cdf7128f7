"""What the tests of NVML ask of a reading."""

from __future__ import annotations

import time
from collections.abc import Callable

from agent.readings import GpuLost, GpuReading, NodeReading

Advance = Callable[[float], None]

UUIDS = tuple(f"GPU-00000000-0000-0000-0000-{index:012d}" for index in range(2))


def gpu_of(reading: NodeReading, place: int = 0) -> GpuReading:
    gpu = reading.gpus[place]
    assert isinstance(gpu, GpuReading)
    return gpu


def lost_of(reading: NodeReading, place: int = 0) -> GpuLost:
    gpu = reading.gpus[place]
    assert isinstance(gpu, GpuLost)
    return gpu


def wait_until(happened: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < give_up
        time.sleep(0.005)
