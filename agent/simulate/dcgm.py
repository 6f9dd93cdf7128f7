"""A simulated dcgm-exporter, with its page as it looks before DCGM 4.6 renamed the fields.

The one thing to know: it shows the last collection, however long ago that was. What it measures is the
mean since the collection before; the first one has none before it, and so no profiling fields.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from agent.readings import Activity
from agent.simulate.activity import Kind, Ledger, activity_between, watts
from agent.simulate.gpu import (
    MEMORY_RESERVED_BYTES,
    SimulatedGpu,
    memory_temperature_celsius,
    pcie_bytes,
    temperature_celsius,
)
from agent.simulate.http_server import HttpServer
from agent.simulate.present import Present
from agent.simulate.scenario import DcgmExporter

HOSTNAME = "simulated-node"
_CONTENT_TYPE = "text/plain; charset=utf-8"
_MEBIBYTE = 1 << 20
_MEGAHERTZ = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """One GPU at a collection."""

    gpu: SimulatedGpu
    ledger: Ledger
    activity: Activity | None
    """Since the collection before, if it was on the bus all the time."""
    power_watts: float
    pcie_bytes_per_second: float | None

    def ratio(self, name: str) -> float | None:
        """One of the activity's, by its name there."""
        return getattr(self.activity, name) if self.activity is not None else None

    @property
    def kernel_time_percent(self) -> float:
        """Of the time since the collection before; 0 where that is not known."""
        return 100 * (self.ratio("graphics_ratio") or 0.0)


class _Family(NamedTuple):
    """A family of the page; a GPU has no line in it where its value is `None`."""

    name: str
    help: str
    value: Callable[[_Look], str | None]
    kind: Literal["gauge", "counter"] = "gauge"


def _never(look: _Look) -> str:
    """What does not happen here; it is on the page all the same."""
    return "0"


def _whole(value: float | None) -> str | None:
    """A number as DCGM's integers are printed."""
    return None if value is None else str(round(value))


def _six_digits(value: float | None) -> str | None:
    """Likewise its floating-point numbers."""
    return None if value is None else f"{value:.6f}"


_FAMILIES = (
    _Family(
        "DCGM_FI_DEV_SM_CLOCK",
        "Clock of the SMs (in MHz).",
        lambda look: _whole(look.gpu.sm_clock_hertz / _MEGAHERTZ),
    ),
    _Family(
        "DCGM_FI_DEV_MEM_CLOCK",
        "Clock of the memory (in MHz).",
        lambda look: _whole(look.gpu.spec.part.memory_clock_hertz / _MEGAHERTZ),
    ),
    _Family(
        "DCGM_FI_DEV_MEMORY_TEMP",
        "Temperature of the memory (in C); 0 without a sensor.",
        lambda look: _whole(memory_temperature_celsius(look.gpu.spec, look.power_watts) or 0),
    ),
    _Family(
        "DCGM_FI_DEV_GPU_TEMP",
        "Temperature of the chip (in C).",
        lambda look: _whole(temperature_celsius(look.gpu.spec, look.power_watts)),
    ),
    _Family(
        "DCGM_FI_DEV_POWER_USAGE",
        "Power drawn by the board (in W).",
        lambda look: _six_digits(look.power_watts),
    ),
    _Family(
        "DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION",
        "Energy drawn since the start (in mJ).",
        lambda look: _whole(1e3 * look.gpu.joules(look.ledger)),
        "counter",
    ),
    _Family("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "Retries over PCIe.", _never, "counter"),
    _Family(
        "DCGM_FI_DEV_GPU_UTIL",
        "Time in which a kernel ran (in %).",
        lambda look: _whole(look.kernel_time_percent),
    ),
    _Family(
        "DCGM_FI_DEV_MEM_COPY_UTIL",
        "Time in which memory was accessed (in %).",
        lambda look: _whole(look.kernel_time_percent),
    ),
    _Family("DCGM_FI_DEV_ENC_UTIL", "Time in which video was encoded (in %).", _never),
    _Family("DCGM_FI_DEV_DEC_UTIL", "Time in which video was decoded (in %).", _never),
    _Family(
        "DCGM_FI_DEV_FB_FREE",
        "Memory that is free (in MiB).",
        lambda look: _whole(look.gpu.memory_free_bytes / _MEBIBYTE),
    ),
    _Family(
        "DCGM_FI_DEV_FB_USED",
        "Memory that is used (in MiB).",
        lambda look: _whole(look.gpu.memory_used_bytes / _MEBIBYTE),
    ),
    _Family(
        "DCGM_FI_DEV_FB_RESERVED",
        "Memory that the driver keeps (in MiB).",
        lambda look: _whole(MEMORY_RESERVED_BYTES / _MEBIBYTE),
    ),
    _Family("DCGM_FI_DEV_UNCORRECTABLE_REMAPPED_ROWS", "Rows remapped for good.", _never, "counter"),
    _Family("DCGM_FI_DEV_CORRECTABLE_REMAPPED_ROWS", "Rows remapped in time.", _never, "counter"),
    _Family("DCGM_FI_DEV_ROW_REMAP_FAILURE", "Whether a row could not be remapped.", _never),
    _Family("DCGM_FI_DEV_VGPU_LICENSE_STATUS", "State of the vGPU licence.", _never),
    _Family(
        "DCGM_FI_PROF_GR_ENGINE_ACTIVE",
        "Time in which the graphics or compute engine was active (0 to 1).",
        lambda look: _six_digits(look.ratio("graphics_ratio")),
    ),
    # DCGM_FI_PROF_SM_ACTIVE is not among what an exporter collects by default.
    _Family(
        "DCGM_FI_PROF_PIPE_TENSOR_ACTIVE",
        "Cycles in which the tensor pipe was active (0 to 1).",
        lambda look: _six_digits(look.ratio("tensor_ratio")),
    ),
    _Family(
        "DCGM_FI_PROF_DRAM_ACTIVE",
        "Cycles in which the interface to memory was active (0 to 1).",
        lambda look: _six_digits(look.ratio("dram_ratio")),
    ),
    _Family(
        "DCGM_FI_PROF_PCIE_TX_BYTES",
        "Bytes sent over PCIe in a second.",
        lambda look: _whole(look.pcie_bytes_per_second),
    ),
    _Family(
        "DCGM_FI_PROF_PCIE_RX_BYTES",
        "Bytes received over PCIe in a second.",
        lambda look: _whole(look.pcie_bytes_per_second),
    ),
)


class SimulatedDcgm:
    """The exporter of one node, and its port. Times are seconds since the node's start."""

    def __init__(
        self,
        spec: DcgmExporter,
        *,
        gpus: Sequence[SimulatedGpu],
        present: Present,
        driver_version: str,
    ) -> None:
        self._spec = spec
        self._gpus = gpus
        self._present = present
        self._driver_version = driver_version
        self._collections = 0
        self._frozen = False
        self._up = True
        self._before = [gpu.group.timeline.ledger for gpu in gpus]
        self._page = b""
        self._http: HttpServer | None = None

    # --- what it collects ------------------------------------------------------------------------

    @property
    def next_at(self) -> float:
        """When it collects next, unless it is frozen."""
        return self._collections * self._spec.collect_seconds

    def collect(self) -> None:
        """Look at all GPUs, which are accounted for up to `next_at`."""
        if not self._frozen:
            looks = [self._look(gpu, before) for gpu, before in zip(self._gpus, self._before, strict=True)]
            self._page = self._render([look for look in looks if not look.gpu.lost])
        self._before = [gpu.group.timeline.ledger for gpu in self._gpus]
        self._collections += 1

    def freeze(self, at: float) -> None:
        """Show the last page from now on."""
        self._frozen = True

    def thaw(self, at: float) -> None:
        """Collect again."""
        self._frozen = False

    def stop(self, at: float) -> None:
        """Nobody is at its port."""
        self._up = False
        if self._http:
            self._http.refuse()

    def start(self, at: float) -> None:
        """Its port answers again."""
        self._up = True
        if self._http:
            self._http.open()

    def _look(self, gpu: SimulatedGpu, before: Ledger) -> _Look:
        ledger, seconds = gpu.group.timeline.ledger, self._spec.collect_seconds
        if self._collections == 0 or ledger[Kind.LOST] > before[Kind.LOST]:
            return _Look(
                gpu=gpu,
                ledger=ledger,
                activity=None,
                power_watts=watts(Kind.IDLE, gpu.spec.part, math.inf),
                pcie_bytes_per_second=None,
            )
        return _Look(
            gpu=gpu,
            ledger=ledger,
            activity=activity_between(before, ledger, seconds),
            power_watts=(gpu.joules(ledger) - gpu.joules(before)) / seconds,
            pcie_bytes_per_second=(pcie_bytes(ledger) - pcie_bytes(before)) / seconds,
        )

    def _render(self, looks: Sequence[_Look]) -> bytes:
        lines = []
        for family in _FAMILIES:
            values = [(look, value) for look in looks if (value := family.value(look)) is not None]
            if values:
                lines += [f"# HELP {family.name} {family.help}", f"# TYPE {family.name} {family.kind}"]
                lines += [f"{family.name}{{{self._labels(look.gpu)}}} {value}" for look, value in values]
        return "".join(f"{line}\n" for line in lines).encode()

    def _labels(self, gpu: SimulatedGpu) -> str:
        labels = {
            "gpu": gpu.index,
            "UUID": gpu.uuid,
            "pci_bus_id": gpu.pci_bus_id,
            "device": f"nvidia{gpu.index}",
            "modelName": gpu.spec.part.name,
            "Hostname": HOSTNAME,
            "DCGM_FI_DRIVER_VERSION": self._driver_version,
        }
        return ",".join(f'{name}="{value}"' for name, value in labels.items())

    # --- its port --------------------------------------------------------------------------------

    def open(self) -> None:
        """Answer on the loopback interface."""
        self._http = HttpServer(self.answer)
        if self._up:
            self._http.open()

    def close(self) -> None:
        """Give the port back."""
        if self._http:
            self._http.close()

    def configuration(self) -> dict[str, object]:
        """The section `dcgm` of the agent's configuration file; the port is known once it was opened."""
        assert self._http, "open the exporter first"
        return {"url": f"http://127.0.0.1:{self._http.port}/metrics"}

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and body of a page, `None` where there is no such page.

        Raises `ConnectionAbortedError` when the exporter is down.
        """
        with self._present():
            if not self._up:
                raise ConnectionAbortedError("the exporter is down")
            return (_CONTENT_TYPE, self._page) if path == "/metrics" else None
