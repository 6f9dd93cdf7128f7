"""The parts that a simulated node can have, as NVML shows them: a table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One model of GPU."""

    name: str
    """As NVML spells it."""
    measured_name: str
    """As the measured steps have it."""
    compute_capability: tuple[int, int]
    memory_total_bytes: int
    memory_bus_bits: int
    memory_clock_hertz: float
    dram_bytes_per_second: float
    """Peak, of its datasheet."""
    sm_clock_max_hertz: float
    sm_clock_unused_hertz: float
    power_limit_watts: float
    has_memory_sensor: bool = True
    """Whether its memory tells its temperature: HBM does."""
    has_gpm: bool = True
    """Whether it has profiling counters that NVML can read: Hopper and newer do."""


H100 = Part(
    name="NVIDIA H100 80GB HBM3",
    measured_name="h100_sxm",
    compute_capability=(9, 0),
    memory_total_bytes=81_559 << 20,
    memory_bus_bits=5120,
    memory_clock_hertz=2619e6,
    dram_bytes_per_second=3.35e12,
    sm_clock_max_hertz=1980e6,
    sm_clock_unused_hertz=345e6,
    power_limit_watts=700,
)
H200 = Part(
    name="NVIDIA H200",
    measured_name="h200_sxm",
    compute_capability=(9, 0),
    memory_total_bytes=143_771 << 20,
    memory_bus_bits=6144,
    memory_clock_hertz=3201e6,
    dram_bytes_per_second=4.8e12,
    sm_clock_max_hertz=1980e6,
    sm_clock_unused_hertz=345e6,
    power_limit_watts=700,
)
L40S = Part(
    name="NVIDIA L40S",
    measured_name="l40s",
    compute_capability=(8, 9),
    memory_total_bytes=46_068 << 20,
    memory_bus_bits=384,
    memory_clock_hertz=9001e6,
    dram_bytes_per_second=864e9,
    sm_clock_max_hertz=2520e6,
    sm_clock_unused_hertz=210e6,
    power_limit_watts=350,
    has_memory_sensor=False,
    has_gpm=False,
)
