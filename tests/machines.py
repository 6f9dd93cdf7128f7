"""Machines to break: drivers of several generations, from no GPU to sixteen, MIG, and shared memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.config import parse_configuration
from agent.exposition.collector import collect
from agent.metrics import TABLE
from agent.readings import Histogram
from agent.sources.nvml import NvmlSource
from agent.tracks import GpuTrack
from tests.nvml_standin import GENERATIONS, StandIn

Series = tuple[str, tuple[str, ...]]
"""A metric, and its label values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One node as its driver shows it."""

    gpus: int = 2
    driver: int = 570
    settings: Mapping[str, object] = field(default_factory=dict)
    instances: int = 0
    """Of its last GPU, in MIG mode."""
    meminfo: str = ""

    @property
    def victim(self) -> str:
        """The last GPU or instance, as the control file names it."""
        last = f"gpu{self.gpus - 1}"
        return f"{last}.mig{self.instances - 1}" if self.instances else last

    @property
    def victim_uuid(self) -> str:
        """Its UUID."""
        if self.instances:
            return f"MIG-victim-{self.instances - 1}"
        return f"GPU-00000000-0000-0000-0000-{self.gpus - 1:012d}"

    @property
    def optional_call(self) -> tuple[str, str]:
        """A call that the victim can lose, and the metric that it loses with it."""
        if self.instances:
            return "nvmlDeviceGetComputeRunningProcesses_v3", "gpu_processes"
        return "nvmlDeviceGetEnforcedPowerLimit", "gpu_power_limit_watts"

    @property
    def control(self) -> dict[str, object]:
        """What the control file says."""
        last = f"gpu{self.gpus - 1}"
        mig: dict[str, object] = {}
        if self.instances:
            mig = {f"{last}.mig_mode": 1, f"{last}.migs": self.instances}
            mig |= {f"{last}.mig{at}.uuid": f"MIG-victim-{at}" for at in range(self.instances)}
            mig |= {f"{last}.mig{at}.sm_count": 16 for at in range(self.instances)}
        return {"gpus": self.gpus, **GENERATIONS[self.driver].settings, **self.settings, **mig}


MACHINES: Mapping[str, Machine] = {
    **{f"driver {driver}": Machine(driver=driver) for driver in GENERATIONS},
    "no GPU": Machine(gpus=0),
    "8 GPUs": Machine(gpus=8),
    "16 GPUs": Machine(gpus=16),
    "7 MIG instances": Machine(gpus=1, instances=7),
    "MIG beside a whole GPU": Machine(gpus=2, instances=3),
    "GB10": Machine(
        gpus=1,
        driver=580,
        settings={
            "name": "NVIDIA GB10",
            "compute_capability": "12.1",
            "nvmlDeviceGetMemoryInfo_v2.return": 3,
            "nvmlDeviceGetMemoryInfo.return": 3,
            "nvmlDeviceGetMemoryBusWidth.return": 3,
        },
        meminfo="MemTotal:       125442908 kB\nMemFree:         1000 kB\nMemAvailable:   93442908 kB\n",
    ),
}


class Watched:
    """The agent on one machine, in virtual time that the library shares."""

    def __init__(self, machine: Machine, stand_in: StandIn, proc: Path, *, configuration: str = "") -> None:
        self.machine = machine
        self.stand_in = stand_in
        self.clock = ManualClock()
        proc.mkdir(exist_ok=True)
        (proc / "meminfo").write_text(machine.meminfo)
        stand_in.set({**machine.control, "now_ms": 0})
        self.source = NvmlSource(clock=self.clock, library_path=str(stand_in.path), proc=proc)
        self.agent = Agent(
            parse_configuration(configuration, origin="test"), clock=self.clock, nvml=self.source, node="node"
        )

    def beat(self, count: int = 1) -> Assessment:
        """So many ticks, a second apart."""
        for _ in range(count):
            self.clock.advance(1)
            self.stand_in.set({"now_ms": self.clock.monotonic() * 1000})
            latest = self.agent.beat(engines=False)
        return latest

    def hear(self) -> None:
        """Let the thread that waits for XIDs have its turn, in real time."""
        time.sleep(0.1)

    @property
    def tracks(self) -> Mapping[str, GpuTrack]:
        """What the agent remembers of GPUs."""
        return self.agent.sampler.tracks

    def close(self) -> None:
        self.source.close()


def series_of(assessment: Assessment) -> dict[Series, float | Histogram]:
    """All that the page would show, but for what is of the sources."""
    return {
        (metric.name, labels): value
        for metric in TABLE
        if metric.name.startswith("gpu_")
        for labels, value in collect(metric, assessment)
    }


def of(series: Mapping[Series, object], uuid: str) -> set[Series]:
    """Those of one GPU or instance."""
    return {one for one in series if uuid in one[1][:2]}


Watch = Callable[..., Watched]
"""Begins to watch a machine; takes the configuration's text as well."""
