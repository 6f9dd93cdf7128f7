"""One beat: the latest outcomes of all sources become one frozen `Assessment`.

The sampler reads no source itself; `tick` takes what the pollers have, and never waits. What is
remembered from one tick to the next is in `serving` for the engines, and in `node` for the GPUs.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.assessment import Assessment, ConfigurationStatus
from agent.clock import Clock, Metronome
from agent.discovery.devices import MatchedDevices, match_devices
from agent.fusion import Fused, Page, fuse, gpus_of
from agent.node import Beat, GpuRules, Node
from agent.objectives import Objective
from agent.placement import Ground, place
from agent.prices import PricePeriod
from agent.readings import (
    Absent,
    DcgmReading,
    GpuAllocation,
    GpuLost,
    NodeReading,
    PodResourcesReading,
    Read,
    ServerReading,
)
from agent.resolution import merge_facts
from agent.roofline.gpus import GpuSpec
from agent.roster import MonitoredServer, Roster
from agent.serving import EngineRules, Serving, Watched, silence
from agent.sources.base import STALE_INTERVALS, Poller, SourceState
from agent.tiers import tier_statuses
from agent.tracks import GpuTrack

log = logging.getLogger(__name__)

ALLOCATIONS_SECONDS = 10 * 60.0
"""A kubelet that does not answer still stands by what it said for so long: a container keeps its GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the sampler must know beyond its sources."""

    node: str
    interval_seconds: float = 1.0
    engines_interval_seconds: float = 5.0
    window_seconds: float = 30.0
    prices: tuple[PricePeriod, ...] = ()
    specs: tuple[GpuSpec, ...] = ()
    """Parts as the configuration describes them; they come before the catalogue."""
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    """By name."""

    @property
    def patience_seconds(self) -> float:
        """How long another class must be seen before it comes into force: two pages."""
        return 2 * self.engines_interval_seconds

    @property
    def engine_rules(self) -> EngineRules:
        """By what engines are judged."""
        return EngineRules(
            keep_seconds=self.window_seconds,
            gap_seconds=STALE_INTERVALS * self.engines_interval_seconds,
            patience_seconds=self.patience_seconds,
            objectives=self.objectives,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """What the sampler works from, as one configuration asks for it."""

    settings: Settings
    nvml: Poller[NodeReading] | None = None
    dcgm: Poller[DcgmReading] | None = None
    pod_resources: Poller[PodResourcesReading] | None = None
    node_labels: Callable[[], Mapping[str, str]] = dict

    @property
    def gpu_rules(self) -> GpuRules:
        """By what GPUs are judged and paid for."""
        return GpuRules(
            keep_seconds=self.settings.window_seconds,
            patience_seconds=self.settings.patience_seconds,
            measured=("gpm",) if self.dcgm is None else ("gpm", "dcgm"),
            prices=self.settings.prices,
            specs=self.settings.specs,
        )


def _ranks(server: MonitoredServer, page: ServerReading | None) -> int | None:
    """Over how many GPUs all data-parallel ranks of a server run together, if that is told."""
    engines = page.engines if page is not None else ()
    told = [server.model, *(engine.facts for engine in engines[:1])]
    told += [server.found.facts] if server.found is not None else []
    facts = merge_facts(*told)
    if facts.tensor_parallel is None:
        return None
    replicas = max(len(engines), facts.data_parallel or 1)
    return facts.tensor_parallel * (facts.pipeline_parallel or 1) * replicas


def _read_gpus(
    nvml: SourceState[NodeReading] | None, dcgm: SourceState[DcgmReading] | None, now: float
) -> Read[tuple[Fused | GpuLost, ...]] | None:
    """The GPUs as all sources together show them; without NVML here, as the dcgm-exporter does."""
    node = nvml.fresh(now) if nvml is not None else None
    shown = dcgm.fresh(now) if dcgm is not None else None
    page = None
    if dcgm is not None and shown is not None:
        page = Page(
            reading=shown.reading,
            seconds_since_read=now - shown.at_seconds,
            interval_seconds=dcgm.interval_seconds,
        )
    if node is not None:
        missing = f"dcgm: {silence(dcgm, now)}" if dcgm is not None and page is None else None
        return Read(reading=fuse(node.reading.gpus, page, missing=missing), at_seconds=node.at_seconds)
    if page is None or shown is None or (nvml is not None and not isinstance(nvml.outcome, Absent)):
        return None
    return Read(reading=fuse(gpus_of(page), page), at_seconds=shown.at_seconds)


def _driver_version(nvml: SourceState[NodeReading] | None, now: float) -> str | None:
    node = nvml.fresh(now) if nvml is not None else None
    return node.reading.driver_version if node is not None else None


def _left_out(urls: Sequence[str]) -> tuple[str, ...]:
    """What is said of servers that were found and are too many to be watched."""
    if not urls:
        return ()
    return (f"{len(urls)} engines were found that are too many to be watched, among them {urls[0]}",)


class Sampler:
    """Turns outcomes into assessments, one a tick."""

    def __init__(self, inputs: Inputs, *, roster: Roster, clock: Clock) -> None:
        self._inputs = inputs
        self._clock = clock
        self._roster = roster
        self._node = Node(inputs.gpu_rules)
        self._serving = Serving(self._node, inputs.settings.engine_rules)
        self._started_unix_seconds = clock.unix()
        self._ticked_at_seconds: float | None = None
        # The tick that is awaited may still come at the pace that held when the last one did.
        self._awaited_seconds = inputs.settings.interval_seconds
        self.between_ticks = threading.RLock()
        """Held by each tick: who holds it can exchange what ticks work from."""
        self.configuration = ConfigurationStatus(loaded_unix_seconds=self._started_unix_seconds)
        """Replaced whole when a configuration was loaded or refused."""
        self.latest: Assessment | None = None
        """The last assessment; replaced whole, so that readers need no lock."""

    def adopt(self, inputs: Inputs) -> None:
        """Work from these from the next tick on; all that is remembered stays."""
        with self.between_ticks:
            self._inputs = inputs
            self._node.adopt(inputs.gpu_rules)
            self._serving.adopt(inputs.settings.engine_rules)

    def tick(self) -> Assessment:
        """Conclude what can be concluded now."""
        with self.between_ticks:
            return self._tick(self._inputs)

    def _tick(self, inputs: Inputs) -> Assessment:
        settings = inputs.settings
        now, unix = self._clock.monotonic(), self._clock.unix()
        elapsed = now - self._ticked_at_seconds if self._ticked_at_seconds is not None else 0.0
        beat = Beat(
            now_seconds=now,
            unix_seconds=unix,
            elapsed_seconds=elapsed,
            watched=elapsed <= STALE_INTERVALS * max(settings.interval_seconds, self._awaited_seconds),
            node_labels=inputs.node_labels(),
        )
        nvml = inputs.nvml.state() if inputs.nvml is not None else None
        dcgm = inputs.dcgm.state() if inputs.dcgm is not None else None
        servers = self._roster.update()
        read = _read_gpus(nvml, dcgm, now)
        self._node.see(
            read.reading if read is not None else (),
            read_at_seconds=read.at_seconds if read is not None else now,
            beat=beat,
        )
        kubelet = inputs.pod_resources.state() if inputs.pod_resources is not None else None
        matched = self._match(kubelet, now)
        watched = self._watch(servers, matched.allocations)
        engines = self._serving.assess(watched, now)
        gpus = self._node.conclude(
            engines,
            claimed={uuid for one in watched for uuid in one.placement.uuids},
            beat=beat,
            charge=self._serving.charge,
        )
        # Last, so that the time of a tick that failed is not lost.
        self._ticked_at_seconds, self._awaited_seconds = now, settings.interval_seconds
        self._serving.forget_gone({server.server for server in servers})
        finders: list[SourceState[Any]] = [finder.state() for finder in self._roster.finders]
        finders += [kubelet] if kubelet is not None else []
        states = [*finders, *(one.state for one in watched)]
        self.latest = Assessment(
            at_seconds=now,
            at_unix_seconds=unix,
            node=settings.node,
            started_unix_seconds=self._started_unix_seconds,
            interval_seconds=settings.interval_seconds,
            configuration=self.configuration,
            driver_version=_driver_version(nvml, now),
            gpus=gpus,
            engines=self._serving.with_totals(engines, elapsed_seconds=elapsed),
            allocations=matched.allocations if kubelet is not None and kubelet.fresh(now) else (),
            tiers=tier_statuses({state.name: state for state in finders}),
            notes=(*matched.notes, *_left_out(self._roster.left_out)),
            sources=tuple(state for state in (nvml, dcgm, *states) if state is not None),
        )
        return self.latest

    @property
    def tracks(self) -> Mapping[str, GpuTrack]:
        """What is remembered of GPUs and MIG instances, by UUID."""
        return self._node.tracks

    def _match(self, kubelet: SourceState[PodResourcesReading] | None, now: float) -> MatchedDevices:
        """Whose GPUs are whose; for a while still while the kubelet restarts."""
        last = kubelet.last_success if kubelet is not None else None
        if last is None or now - last.at_seconds > ALLOCATIONS_SECONDS:
            return MatchedDevices()
        return match_devices(last.reading.allocations, self._node.present)

    def _watch(
        self, servers: Sequence[MonitoredServer], allocations: Sequence[GpuAllocation]
    ) -> list[Watched]:
        """Each server with its outcome and its GPUs, as they stand at this tick."""
        ground = Ground(
            usable=self._node.usable_uuids,
            in_use=self._node.in_use,
            allocations=[(one.container, one.uuid) for one in allocations],
        )
        here = sum(server.on_this_node for server in servers)
        watched = []
        for server in servers:
            state = server.poller.state()
            last = state.last_success
            placement = place(
                server,
                ground,
                configured=self._node.named(server.gpus or ()),
                ranks=_ranks(server, last.reading if last is not None else None),
                only_server=here == 1,
            )
            watched.append(Watched(server, state, placement))
        return watched


class SamplerLoop:
    """Ticks on a thread of its own, on a beat that does not drift."""

    def __init__(self, sampler: Sampler, *, interval_seconds: float, clock: Clock) -> None:
        self._sampler = sampler
        self._metronome = Metronome(interval_seconds, clock=clock)
        self._failing = ""
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def pace(self, interval_seconds: float) -> None:
        """Tick at this interval from now on."""
        self._metronome.pace(interval_seconds)

    def _run(self) -> None:
        for _ in self._metronome.beats():
            self._tick()

    def _tick(self) -> None:
        try:
            self._sampler.tick()
        except Exception as error:  # a tick that fails must not be the last; what it would show grows stale
            if self._failing != type(error).__name__:
                log.exception("the assessment failed; trying again with each tick")
            self._failing = type(error).__name__
            return
        if self._failing:
            log.info("the assessment is made again")
        self._failing = ""

    def close(self) -> None:
        """Stop ticking; one that never began has nothing to stop."""
        self._metronome.stop()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
