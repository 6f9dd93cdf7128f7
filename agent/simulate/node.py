"""A simulated GPU node: where NVML would be, a source of its GPUs; and servers that answer over real HTTP.

It has no time of its own. Whoever looks – at a GPU, a page, the truth – first lets everything happen
that should have happened by the clock, ports opening and closing included. So a node runs in real and
in virtual time alike, and what happens does not depend on who looks when.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from threading import RLock

from agent.clock import Clock
from agent.errors import SourceError
from agent.readings import NodeReading
from agent.simulate.activity import Kind
from agent.simulate.dcgm import SimulatedDcgm
from agent.simulate.gpu import GpuGroup, SimulatedGpu
from agent.simulate.present import Present
from agent.simulate.scenario import Fault, Outage, Scenario
from agent.simulate.server import SimulatedServer
from agent.simulate.truth import Truth
from agent.sources.base import Source

DRIVER_VERSION = "580.105.08"

Happening = tuple[float, Callable[[float], None]]
"""When, in seconds since the node's start, and what; it is told when."""


class SimulatedNode:
    """The node of one scenario, from its creation to `close`."""

    nvml: Source[NodeReading]
    """Enters where NVML would."""
    truth: Truth
    """What really happened."""

    def __init__(self, scenario: Scenario, *, clock: Clock, seed: int = 7) -> None:
        self._clock = clock
        self._created_seconds = clock.monotonic()
        self._created_unix_seconds = clock.unix()
        # Guards all the rest: pages are asked for on the HTTP servers' threads, GPUs on the agent's.
        self._lock = RLock()
        self._groups = [GpuGroup(gpus) for gpus in scenario.gpu_groups]
        self._gpus = [
            SimulatedGpu(index, spec, next(group for group in self._groups if index in group.gpus))
            for index, spec in enumerate(scenario.gpus)
        ]
        self.servers = tuple(
            SimulatedServer(
                spec,
                gpus=self._gpus,
                present=self._present,
                seed=f"{seed}/{index}",
                created_unix_seconds=self._created_unix_seconds,
            )
            for index, spec in enumerate(scenario.servers)
        )
        for server in self.servers:
            server.start(0.0)
        self.dcgm = (
            SimulatedDcgm(
                scenario.dcgm, gpus=self._gpus, present=self._present, driver_version=DRIVER_VERSION
            )
            if scenario.dcgm is not None
            else None
        )
        self.nvml = self._driver = SimulatedNvml(self._gpus, present=self._present)
        happenings = [happening for outage in scenario.outages for happening in self._outage(outage)]
        happenings += [(fault.at_seconds, partial(self._fail, fault)) for fault in scenario.faults]
        self._happenings = deque(sorted(happenings, key=lambda happening: happening[0]))
        self.truth = Truth(
            parts=[gpu.spec.part for gpu in self._gpus],
            timelines=[gpu.group.timeline for gpu in self._gpus],
            untellable=frozenset(i for i, spec in enumerate(scenario.gpus) if spec.profiling_reads_zero),
            work=[server.work for server in self.servers],
            present=self._present,
        )

    def start(self) -> None:
        """Open the ports of servers and exporter."""
        with self._lock:
            for server in self.servers:
                server.open()
            if self.dcgm is not None:
                self.dcgm.open()

    def engine_configurations(self) -> tuple[dict[str, object], ...]:
        """What the agent's configuration file would list under `engines`; after `start`."""
        return tuple(server.configuration() for server in self.servers)

    def dcgm_configuration(self) -> dict[str, object] | None:
        """What it would say under `dcgm`, if there is an exporter; after `start`."""
        return self.dcgm.configuration() if self.dcgm is not None else None

    def close(self) -> None:
        """Give the ports back."""
        with self._lock:
            for server in self.servers:
                server.close()
            if self.dcgm is not None:
                self.dcgm.close()

    @contextmanager
    def _present(self) -> Iterator[None]:
        with self._lock:
            now = self._clock.monotonic() - self._created_seconds
            while self._happenings and self._happenings[0][0] <= now:
                at, happen = self._happenings.popleft()
                self._run(at)
                happen(at)
            self._run(now)
            yield

    def _run(self, until: float) -> None:
        while self.dcgm is not None and self.dcgm.next_at <= until:
            self._work(self.dcgm.next_at)
            self.dcgm.collect()
        self._work(until)

    def _work(self, until: float) -> None:
        for group in self._groups:
            group.run(until)

    def _outage(self, outage: Outage) -> tuple[Happening, Happening]:
        at, until = outage.at_seconds, outage.until_seconds
        if outage.what == "gpu_lost":
            return (at, partial(self._lose, outage.index)), (until, partial(self._recover, outage.index))
        if outage.what == "driver_down":
            return (at, self._driver.stop), (until, self._driver.start)
        if outage.what in ("dcgm_frozen", "dcgm_down"):
            assert self.dcgm is not None
            if outage.what == "dcgm_down":
                return (at, self.dcgm.stop), (until, self.dcgm.start)
            return (at, self.dcgm.freeze), (until, self.dcgm.thaw)
        server = self.servers[outage.index]
        return (at, server.hang if outage.what == "engines_hung" else server.stop), (until, server.start)

    def _lose(self, index: int, at: float) -> None:
        gpu = self._gpus[index]
        for server in self._served_by(gpu):
            server.stop(at)
        gpu.group.timeline.occupy(Kind.LOST, start=at)
        gpu.lose(self._created_unix_seconds + at)

    def _recover(self, index: int, at: float) -> None:
        gpu = self._gpus[index]
        gpu.lost = False
        gpu.group.timeline.vacate(at)
        for server in self._served_by(gpu):
            server.start(at)

    def _fail(self, fault: Fault, at: float) -> None:
        self._gpus[fault.gpu].fail(fault, self._created_unix_seconds + at)

    def _served_by(self, gpu: SimulatedGpu) -> list[SimulatedServer]:
        return [server for server in self.servers if gpu in server.gpus]


class SimulatedNvml:
    """All GPUs of the node, as `sources.nvml` would give them."""

    name = "nvml"
    failure_reasons: tuple[str, ...] = ()

    def __init__(self, gpus: list[SimulatedGpu], *, present: Present) -> None:
        self._gpus = gpus
        self._present = present
        self._up = True

    def start(self, at: float) -> None:
        """The driver answers."""
        self._up = True

    def stop(self, at: float) -> None:
        """The driver answers nothing."""
        self._up = False

    def read(self) -> NodeReading:
        """Every GPU now; its activity is of the time since the reading before."""
        with self._present():
            if not self._up:
                raise SourceError("timeout", "nvml: Timeout; see dmesg on the host")
            return NodeReading(gpus=tuple(gpu.read() for gpu in self._gpus), driver_version=DRIVER_VERSION)

    def close(self) -> None:
        """There is nothing to let go of."""
