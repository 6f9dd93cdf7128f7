"""Pages as dcgm-exporters write them, of two generations, with numbers of our own.

What is printed here, and what it means, is written down once more and not taken from the reader's table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple


class Family(NamedTuple):
    """One family as a page prints it; `help` is "" where the page has no HELP line for it."""

    name: str
    number: str
    help: str = ""


class Fact(NamedTuple):
    """One number of a GPU in base units, and how each generation prints it."""

    value: float
    old: Family
    new: Family


FACTS: Mapping[str, Fact] = {
    "dram_ratio": Fact(
        0.873,
        Family(
            "DCGM_FI_PROF_DRAM_ACTIVE",
            "0.873000",
            "Ratio of cycles the device memory interface is active sending or receiving data (in %).",
        ),
        Family("DCGM_FI_PROF_DRAM_UTIL_RATIO", "0.873000", "Memory interface activity."),
    ),
    "tensor_ratio": Fact(
        0.0125,
        Family(
            "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
            "0.012500",
            "Ratio of cycles the tensor (HMMA) pipe is active (in %).",
        ),
        Family("DCGM_FI_PROF_TENSOR_UTIL_RATIO", "0.012500", "Tensor pipe activity."),
    ),
    "sm_ratio": Fact(
        0.61,
        Family(
            "DCGM_FI_PROF_SM_ACTIVE",
            "0.610000",
            "The ratio of cycles an SM has at least 1 warp assigned (in %).",
        ),
        Family("DCGM_FI_PROF_SM_UTIL_RATIO", "0.610000", "SM activity."),
    ),
    "graphics_ratio": Fact(
        0.95,
        Family(
            "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
            "0.950000",
            "Ratio of time the graphics engine is active (in %).",
        ),
        Family("DCGM_FI_PROF_GR_ENGINE_UTIL_RATIO", "0.950000", "Engine activity."),
    ),
    "kernel_time_ratio": Fact(
        0.94,
        Family("DCGM_FI_DEV_GPU_UTIL", "94", "GPU utilization (in %)."),
        Family("DCGM_FI_DEV_GPU_UTIL_RATIO", "0.940000", "GPU utilization as a ratio from 0.0 to 1.0."),
    ),
    "memory_time_ratio": Fact(
        0.42,
        Family("DCGM_FI_DEV_MEM_COPY_UTIL", "42", "Memory utilization (in %)."),
        Family("DCGM_FI_DEV_MEMORY_UTIL_RATIO", "0.420000", "Memory utilization."),
    ),
    "memory_used_bytes": Fact(
        35_651_584_000.0,
        Family("DCGM_FI_DEV_FB_USED", "34000", "Framebuffer memory used (in MiB)."),
        Family("DCGM_FI_DEV_FB_USED_BYTES", "35651584000", "Framebuffer memory used."),
    ),
    "memory_free_bytes": Fact(
        6_081_740_800.0,
        Family("DCGM_FI_DEV_FB_FREE", "5800", "Framebuffer memory free (in MiB)."),
        Family("DCGM_FI_DEV_FB_FREE_BYTES", "6081740800", "Framebuffer memory free."),
    ),
    "memory_reserved_bytes": Fact(
        671_088_640.0,
        Family("DCGM_FI_DEV_FB_RESERVED", "640", "Framebuffer memory reserved (in MiB)."),
        Family("DCGM_FI_DEV_FB_RESERVED_BYTES", "671088640", "Framebuffer memory reserved."),
    ),
    "memory_total_bytes": Fact(
        42_404_413_440.0,
        Family("DCGM_FI_DEV_FB_TOTAL", "40440", "Total framebuffer (in MB)."),
        Family("DCGM_FI_DEV_FB_CAPACITY_BYTES", "42404413440", "Total framebuffer."),
    ),
    "power_watts": Fact(
        287.125,
        Family("DCGM_FI_DEV_POWER_USAGE", "287.125000", "Power draw (in W)."),
        Family("DCGM_FI_DEV_BOARD_POWER_WATTS", "287.125000", "Power draw."),
    ),
    "power_instant_watts": Fact(
        301.5,
        Family("DCGM_FI_DEV_POWER_USAGE_INSTANT", "301.500000", "Power draw of this instant (in W)."),
        Family("DCGM_FI_DEV_BOARD_POWER_RAW_WATTS", "301.500000", "Power draw of this instant."),
    ),
    "power_limit_watts": Fact(
        350.0,
        Family("DCGM_FI_DEV_ENFORCED_POWER_LIMIT", "350.000000", "Power limit in force (in W)."),
        Family("DCGM_FI_DEV_BOARD_POWER_LIMIT_ENFORCED_WATTS", "350.000000", "Power limit in force."),
    ),
    "energy_joules": Fact(
        9_876_543.21,
        Family(
            "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
            "9876543210",
            "Total energy consumption since boot (in mJ).",
        ),
        Family("DCGM_FI_DEV_GPU_ENERGY_JOULES_TOTAL", "9876543.21", "Total energy consumption."),
    ),
    "temperature_celsius": Fact(
        71.0,
        Family("DCGM_FI_DEV_GPU_TEMP", "71", "GPU temperature (in C)."),
        Family("DCGM_FI_DEV_GPU_TEMP_CELSIUS", "71", "GPU temperature."),
    ),
    "memory_temperature_celsius": Fact(
        84.0,
        Family("DCGM_FI_DEV_MEMORY_TEMP", "84", "Memory temperature (in C)."),
        Family("DCGM_FI_DEV_MEMORY_TEMP_CELSIUS", "84", "Memory temperature."),
    ),
    "sm_clock_hertz": Fact(
        1.41e9,
        Family("DCGM_FI_DEV_SM_CLOCK", "1410", "SM clock frequency (in MHz)."),
        Family("DCGM_FI_DEV_SM_CLOCK_HERTZ", "1410000000", "SM clock frequency."),
    ),
    "memory_clock_hertz": Fact(
        1.215e9,
        Family("DCGM_FI_DEV_MEM_CLOCK", "1215", "Memory clock frequency (in MHz)."),
        Family("DCGM_FI_DEV_MEMORY_CLOCK_HERTZ", "1215000000", "Memory clock frequency."),
    ),
}
OLD = tuple(fact.old for fact in FACTS.values())
NEW = tuple(fact.new for fact in FACTS.values())

UUID = "GPU-5b1f3c2a-0d4e-4f60-9a7b-000000000001"
OTHER_UUID = "GPU-5b1f3c2a-0d4e-4f60-9a7b-000000000002"
OLD_VERSION = 'DCGM_FI_DRIVER_VERSION="580.105.08"'
NEW_VERSION = 'DCGM_FI_SYSTEM_DRIVER_VERSION="595.20.01"'


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The labels of a line, in the exporter's order; what is "" is not written."""

    index: int = 0
    uuid: str = UUID
    model: str = "NVIDIA A100-SXM4-40GB"
    instance: str = ""
    uuid_label: str = "UUID"
    host: str = 'Hostname="node-7"'
    version: str = OLD_VERSION
    pod: str = ""

    def labels(self) -> str:
        """Between the braces."""
        written = (
            f'gpu="{self.index}"',
            self.uuid and f'{self.uuid_label}="{self.uuid}"',
            'pci_bus_id="00000000:17:00.0"',
            f'device="nvidia{self.index}"',
            self.model and f'modelName="{self.model}"',
            self.instance and f'GPU_I_PROFILE="1g.5gb",GPU_I_ID="{self.instance}"',
            self.host,
            self.version,
            self.pod and f'container="main",namespace="serving",pod="{self.pod}"',
        )
        return ",".join(label for label in written if label)


def page(families: Iterable[Family], *gpus: Gpu) -> str:
    """One page: of each family its HELP, its TYPE, and a line for each GPU (for one, if none is given)."""
    lines = []
    for name, number, help_text in families:
        if help_text:
            lines += [f"# HELP {name} {help_text}", f"# TYPE {name} gauge"]
        lines += [f"{name}{{{gpu.labels()}}} {number}" for gpu in gpus or (Gpu(),)]
    return "\n".join(lines) + "\n"


def silent(families: Iterable[Family]) -> tuple[Family, ...]:
    """The same without HELP."""
    return tuple(family._replace(help="") for family in families)


def old(**printed: str) -> tuple[Family, ...]:
    """Families of the old generation by attribute, each with this number."""
    return tuple(FACTS[attribute].old._replace(number=number) for attribute, number in printed.items())


NEW_GPU = replace(Gpu(), version=NEW_VERSION, host='hostname="node-7"')
