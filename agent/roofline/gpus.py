"""GPU parts: one row each, dense peaks from the vendor's datasheets.

Vendors print the sparse figure first; these are the dense ones, checked against
SMs × FLOPs per clock × rated clock, and bandwidth against 2 × memory clock × bus width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.roofline.roof import Roof
from agent.units import MEGA


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """What is known of one part."""

    name: str
    nvml_names: tuple[str, ...]
    memory_gigabytes: int
    dram_bytes_per_second: float
    flops_per_second: Mapping[str, float] = field(default_factory=dict)
    """Dense peak by compute dtype; a dtype without a tensor path of its own is not in it."""
    rated_sm_clock_hertz: float | None = None
    """The SM clock at which the peaks are stated; the part may boost past it."""
    achievable_dram_ratio: float = 0.90
    """The most that good kernels have been seen to reach."""
    origin: str = "datasheet"

    def roof(self, compute_dtype: str) -> Roof | None:
        """The two peaks at this dtype; `None` when the part has no such path or none is known."""
        flops = self.flops_per_second.get(compute_dtype)
        if flops is None:
            return None
        return Roof(flops_per_second=flops, dram_bytes_per_second=self.dram_bytes_per_second)


def _tera(**values: float) -> dict[str, float]:
    return {dtype: value * 1e12 for dtype, value in values.items()}


_A100 = _tera(bf16=312, int8=624, fp32=19.5)
_H100 = _tera(bf16=989.4, fp8=1979, int8=1979, fp32=66.9)

GPUS: tuple[GpuSpec, ...] = (
    GpuSpec(
        name="H100-SXM5-80GB",
        nvml_names=("NVIDIA H100 80GB HBM3",),
        memory_gigabytes=80,
        dram_bytes_per_second=3.35e12,
        flops_per_second=_H100,
        rated_sm_clock_hertz=1830 * MEGA,
        achievable_dram_ratio=0.93,
        origin="NVIDIA H100 datasheet; Hopper whitepaper (132 SMs × 4096 × 1830 MHz)",
    ),
    GpuSpec(
        name="H100-PCIe",
        nvml_names=("NVIDIA H100 PCIe",),
        memory_gigabytes=80,
        # The sheet prints 2 TB/s; 2 × 1593 MHz × 5120 bit is 2039 GB/s.
        dram_bytes_per_second=2.039e12,
        flops_per_second=_tera(bf16=756.5, fp8=1513, int8=1513, fp32=51.2),
        rated_sm_clock_hertz=1620 * MEGA,
        achievable_dram_ratio=0.93,
        origin="NVIDIA H100 datasheet",
    ),
    GpuSpec(
        name="H200-SXM",
        nvml_names=("NVIDIA H200",),
        memory_gigabytes=141,
        dram_bytes_per_second=4.8e12,
        flops_per_second=_H100,
        rated_sm_clock_hertz=1830 * MEGA,
        achievable_dram_ratio=0.91,
        origin="NVIDIA H200 datasheet (the clock formula gives 4.917 TB/s)",
    ),
    GpuSpec(
        name="A100-SXM4-40GB",
        nvml_names=("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        memory_gigabytes=40,
        dram_bytes_per_second=1.555e12,
        flops_per_second=_A100,
        rated_sm_clock_hertz=1410 * MEGA,
        achievable_dram_ratio=0.87,
        origin="NVIDIA A100 datasheet",
    ),
    GpuSpec(
        name="A100-PCIE-40GB",
        nvml_names=("NVIDIA A100-PCIE-40GB", "A100-PCIE-40GB"),
        memory_gigabytes=40,
        dram_bytes_per_second=1.555e12,
        flops_per_second=_A100,
        rated_sm_clock_hertz=1410 * MEGA,
        achievable_dram_ratio=0.87,
        origin="NVIDIA A100 datasheet",
    ),
    GpuSpec(
        name="A100-SXM4-80GB",
        nvml_names=("NVIDIA A100-SXM4-80GB", "A100-SXM4-80GB"),
        memory_gigabytes=80,
        dram_bytes_per_second=2.039e12,
        flops_per_second=_A100,
        rated_sm_clock_hertz=1410 * MEGA,
        achievable_dram_ratio=0.87,
        origin="NVIDIA A100 datasheet",
    ),
    GpuSpec(
        name="A100-80GB-PCIe",
        nvml_names=("NVIDIA A100 80GB PCIe",),
        memory_gigabytes=80,
        dram_bytes_per_second=1.935e12,
        flops_per_second=_A100,
        rated_sm_clock_hertz=1410 * MEGA,
        achievable_dram_ratio=0.87,
        origin="NVIDIA A100 datasheet",
    ),
    GpuSpec(
        name="L40S",
        nvml_names=("NVIDIA L40S",),
        memory_gigabytes=48,
        dram_bytes_per_second=0.864e12,
        flops_per_second=_tera(bf16=362.05, fp8=733, int8=733, fp32=91.6),
        rated_sm_clock_hertz=2490 * MEGA,
        origin="NVIDIA L40S datasheet",
    ),
    GpuSpec(
        name="L4",
        nvml_names=("NVIDIA L4",),
        memory_gigabytes=24,
        dram_bytes_per_second=0.300e12,
        flops_per_second=_tera(bf16=121, fp8=242, int8=242, fp32=30.3),
        rated_sm_clock_hertz=1969 * MEGA,
        origin="NVIDIA L4 datasheet",
    ),
    GpuSpec(
        name="A10G",
        nvml_names=("NVIDIA A10G",),
        memory_gigabytes=24,
        dram_bytes_per_second=0.600e12,
        # 125 is the A10's figure, often copied: this part runs its tensor cores at half rate.
        flops_per_second=_tera(bf16=70, int8=140, fp32=35),
        rated_sm_clock_hertz=1709 * MEGA,
        origin="NVIDIA A10G datasheet (80 SMs × 512 × 1709 MHz)",
    ),
    GpuSpec(
        name="RTX-4090",
        nvml_names=("NVIDIA GeForce RTX 4090",),
        memory_gigabytes=24,
        dram_bytes_per_second=1.008e12,
        # With 32-bit accumulation, as language models need it; 330 is with 16-bit.
        flops_per_second=_tera(bf16=165.2, fp8=330.3, int8=660.6, fp32=82.6),
        rated_sm_clock_hertz=2521 * MEGA,
        origin="NVIDIA Ada whitepaper",
    ),
)

_VENDOR = re.compile(r"^(nvidia|tesla|geforce)\s+", re.IGNORECASE)


def _plain(name: str) -> str:
    while (shorter := _VENDOR.sub("", name)) != name:
        name = shorter
    return name.strip().lower()


_BY_NAME = {_plain(name): spec for spec in GPUS for name in (spec.name, *spec.nvml_names)}


def find_gpu(nvml_name: str) -> GpuSpec | None:
    """The row of that NVML name or catalogue name, whole tokens only (``L4`` is not ``L40``); else `None`."""
    return _BY_NAME.get(_plain(nvml_name))


def bandwidth_from_clock(
    *, memory_clock_max_hertz: float | None, memory_bus_bits: int | None
) -> float | None:
    """Peak DRAM bytes/s of a part that has no row: two transfers a clock over the bus.

    NVML scales the clock so that the factor is 2 for GDDR and HBM alike. `None` when either is not known.
    """
    if not memory_clock_max_hertz or not memory_bus_bits:
        return None
    return 2 * memory_clock_max_hertz * memory_bus_bits / 8


def describe_gpu(
    *, nvml_name: str, memory_clock_max_hertz: float | None, memory_bus_bits: int | None
) -> GpuSpec | None:
    """The catalogue's row, or for an unknown part its bandwidth from the clock and no invented FLOP/s."""
    spec = find_gpu(nvml_name)
    if spec is not None:
        return spec
    bandwidth = bandwidth_from_clock(
        memory_clock_max_hertz=memory_clock_max_hertz, memory_bus_bits=memory_bus_bits
    )
    if bandwidth is None:
        return None
    return GpuSpec(
        name=nvml_name,
        nvml_names=(nvml_name,),
        memory_gigabytes=0,
        dram_bytes_per_second=bandwidth,
        origin="nvml_clock",
    )
