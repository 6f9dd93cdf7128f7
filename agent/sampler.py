"""One beat: the latest outcomes of all sources become one frozen `Assessment`.

The sampler reads no source itself; `tick` takes what the pollers have, and never waits. What is
remembered from one tick to the next is here for the engines, and in `node` for the GPUs.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from agent.assessment import (
    Assessment,
    EngineAssessment,
    EngineKey,
)
from agent.clock import Clock
from agent.fusion import Fused, Page, fuse, gpus_of
from agent.judgement import (
    EngineFacts,
    assess_engine,
    attribute_window,
    clock_ratios,
)
from agent.node import Beat, Node
from agent.prices import PricePeriod
from agent.readings import (
    Absent,
    DcgmReading,
    EngineReading,
    Failed,
    GpuLost,
    NodeReading,
    Read,
    ServerReading,
)
from agent.resolution import ModelChoice, Resolution
from agent.roofline.bottleneck import Verdict, settle
from agent.roofline.gpus import GpuSpec
from agent.roofline.roof import Roof
from agent.roofline.workload import workload
from agent.sources.base import STALE_INTERVALS, Poller, SourceState
from agent.tracks import EngineTrack, GpuTrack
from agent.traffic import Traffic
from agent.units import render_seconds
from agent.window import GpuWindow

log = logging.getLogger(__name__)

GONE_SECONDS = 10 * 60.0
"""An engine that has left its server's page is shown as down for so long, then forgotten."""


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
    objectives: Mapping[str, float] = field(default_factory=dict)
    """Targets in seconds, by the name of the objective."""

    @property
    def patience_seconds(self) -> float:
        """How long another class must be seen before it comes into force: two pages."""
        return 2 * self.engines_interval_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitoredServer:
    """A server to watch, and what the configuration says of it."""

    poller: Poller[ServerReading]
    server: str
    engine: str = "unknown"
    """The software, where it is configured; it labels the server until its page says so."""
    gpus: tuple[int | str, ...] | None = None
    on_this_node: bool = False
    """Its address is this machine's own."""
    model: ModelChoice = field(default_factory=ModelChoice)
    max_num_seqs: int | None = None


@dataclass(frozen=True, slots=True)
class _Speaking:
    """One engine on a page that was just read."""

    server: MonitoredServer
    reading: EngineReading
    at_seconds: float
    gpus: tuple[str, ...]
    """Its GPUs, whether they can be read now or not."""


def _deal(gpus: tuple[str, ...], position: int, ranks: int) -> tuple[str, ...]:
    """The GPUs of one of several data-parallel ranks, which take theirs in order."""
    if ranks == 1 or len(gpus) % ranks:
        return gpus
    each = len(gpus) // ranks
    return gpus[position * each : (position + 1) * each]


def _silence(state: SourceState[Any], now: float) -> str:
    """Why nothing is known from a source now."""
    if isinstance(state.outcome, Failed):
        return state.outcome.message
    if state.last_success is None:
        return "not read yet"
    return f"its last answer is {render_seconds(now - state.last_success.at_seconds)} old"


def _gpus_problem(server: MonitoredServer, gpus: tuple[str, ...], local: tuple[str, ...]) -> str | None:
    """Why nothing is known of an engine's GPUs."""
    if local:
        return None
    if gpus or server.gpus:
        return "its GPUs cannot be read now"
    return "which GPUs it runs on is not known; set gpus under this engine"


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
        missing = f"dcgm: {_silence(dcgm, now)}" if dcgm is not None and page is None else None
        return Read(reading=fuse(node.reading.gpus, page, missing=missing), at_seconds=node.at_seconds)
    if page is None or shown is None or (nvml is not None and not isinstance(nvml.outcome, Absent)):
        return None
    return Read(reading=fuse(gpus_of(page), page), at_seconds=shown.at_seconds)


def _driver_version(nvml: SourceState[NodeReading] | None, now: float) -> str | None:
    node = nvml.fresh(now) if nvml is not None else None
    return node.reading.driver_version if node is not None else None


def _down(key: EngineKey, engine: str, model: str, message: str) -> EngineAssessment:
    """An engine of which only the names are known."""
    verdict = Verdict(bottleneck="unknown", reason=message)
    return EngineAssessment(key=key, engine=engine, model=model, up=False, problem=message, verdict=verdict)


class Sampler:
    """Turns outcomes into assessments, one a tick."""

    def __init__(
        self,
        *,
        settings: Settings,
        clock: Clock,
        nvml: Poller[NodeReading] | None,
        servers: Sequence[MonitoredServer],
        dcgm: Poller[DcgmReading] | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._nvml = nvml
        self._dcgm = dcgm
        self._servers = tuple(servers)
        self._node = Node(
            keep_seconds=settings.window_seconds,
            patience_seconds=settings.patience_seconds,
            measured=("gpm",) if dcgm is None else ("gpm", "dcgm"),
            prices=settings.prices,
            specs=settings.specs,
        )
        self._engines: dict[EngineKey, EngineTrack] = {}
        # The most ranks that each server's page has shown.
        self._ranks: dict[str, int] = {}
        self._started_unix_seconds = clock.unix()
        self._ticked_at_seconds: float | None = None
        self.latest: Assessment | None = None
        """The last assessment; replaced whole, so that readers need no lock."""

    def tick(self) -> Assessment:
        """Conclude what can be concluded now."""
        now, unix = self._clock.monotonic(), self._clock.unix()
        elapsed = now - self._ticked_at_seconds if self._ticked_at_seconds is not None else 0.0
        beat = Beat(
            now_seconds=now,
            unix_seconds=unix,
            elapsed_seconds=elapsed,
            watched=elapsed <= STALE_INTERVALS * self._settings.interval_seconds,
        )
        nvml = self._nvml.state() if self._nvml is not None else None
        dcgm = self._dcgm.state() if self._dcgm is not None else None
        states = [server.poller.state() for server in self._servers]
        read = _read_gpus(nvml, dcgm, now)
        self._node.see(
            read.reading if read is not None else (),
            read_at_seconds=read.at_seconds if read is not None else now,
            beat=beat,
        )
        engines = self._assess_engines(states, now)
        gpus = self._node.conclude(
            engines,
            claimed={uuid for server in self._servers for uuid in self._gpu_uuids(server)},
            beat=beat,
            charge=self._charge,
        )
        self._ticked_at_seconds = now  # last, so that the time of a tick that failed is not lost
        self._forget_gone_engines()
        self.latest = Assessment(
            at_seconds=now,
            at_unix_seconds=unix,
            node=self._settings.node,
            started_unix_seconds=self._started_unix_seconds,
            interval_seconds=self._settings.interval_seconds,
            driver_version=_driver_version(nvml, now),
            gpus=gpus,
            engines=tuple(
                replace(engine, work_totals=self._engines[engine.key].account.totals())
                if engine.served is not None
                else engine
                for engine in engines
            ),
            sources=tuple(state for state in (nvml, dcgm, *states) if state is not None),
        )
        return self.latest

    @property
    def tracks(self) -> Mapping[str, GpuTrack]:
        """What is remembered of GPUs and MIG instances, by UUID."""
        return self._node.tracks

    def _charge(self, key: EngineKey, share: Mapping[str, float], usd: float, joules: float) -> None:
        self._engines[key].account.credit_share(share, usd=usd, joules=joules)

    # --- engines -----------------------------------------------------------------------------------

    def _assess_engines(
        self, states: Sequence[SourceState[ServerReading]], now: float
    ) -> tuple[EngineAssessment, ...]:
        silent: list[EngineAssessment] = []
        speaking: list[_Speaking] = []
        for server, state in zip(self._servers, states, strict=True):
            page = state.fresh(now)
            if page is None:
                silent.extend(self._silent(server, _silence(state, now)))
                continue
            gpus = self._gpu_uuids(server)
            ranks = max(len(page.reading.engines), self._ranks.get(server.server, 1))
            self._ranks[server.server] = ranks
            for position, reading in enumerate(page.reading.engines):
                at = int(reading.rank) if reading.rank.isdecimal() else position
                mine = _deal(gpus, min(at, ranks - 1), ranks)
                speaking.append(_Speaking(server, reading, page.at_seconds, mine))
            shown = {reading.rank for reading in page.reading.engines}
            silent.extend(self._silent(server, "it has left its server's page", speaking=shown))
        residents = Counter(uuid for engine in speaking for uuid in engine.gpus)
        assessed = [self._guarded(engine, now, residents) for engine in speaking]
        return (*assessed, *silent)

    def _guarded(self, speaking: _Speaking, now: float, residents: Counter[str]) -> EngineAssessment:
        """One engine's page must never cost the others': what cannot be assessed is shown as down."""
        alone = all(residents[uuid] == 1 for uuid in speaking.gpus)
        try:
            return self._assess_engine(speaking, now, alone=alone)
        except (ArithmeticError, ValueError) as error:
            log.exception("%s: its page cannot be assessed", speaking.server.server)
            message = f"its page cannot be assessed: {type(error).__name__}; the log has the traceback"
            key = EngineKey(server=speaking.server.server, rank=speaking.reading.rank)
            return _down(key, speaking.reading.engine, speaking.reading.model, message)

    def _assess_engine(self, speaking: _Speaking, now: float, *, alone: bool) -> EngineAssessment:
        server, reading = speaking.server, speaking.reading
        local = tuple(uuid for uuid in speaking.gpus if uuid in self._node.alive)
        key = EngineKey(server=server.server, rank=reading.rank)
        track = self._engines.get(key)
        if track is None:
            track = self._engines[key] = EngineTrack(
                keep_seconds=self._settings.window_seconds,
                gap_seconds=STALE_INTERVALS * self._settings.engines_interval_seconds,
            )
        track.seen_at_seconds = now
        resolution = track.resolution(server.model, reading, len(speaking.gpus))
        is_new_page = track.history.add(speaking.at_seconds, reading)
        spec, roof, gpu_window = self._ground(local, resolution)
        facts = EngineFacts(
            key=key,
            reading=reading,
            window=track.history.window(),
            totals=track.history.totals,
            served=resolution.served,
            served_origin=resolution.origin,
            served_problem=resolution.problem,
            gpu_uuids=speaking.gpus,
            gpus_problem=_gpus_problem(server, speaking.gpus, local),
            spec=spec,
            roof=roof,
            gpu_window=gpu_window,
            alone_on_gpu=alone,
            max_num_seqs=server.max_num_seqs,
            objectives=self._settings.objectives,
        )
        assessed = assess_engine(facts)
        if is_new_page:
            self._credit_interval(track, facts)
            track.mark_measured(self._node.tracks)
        track.settled = settle(
            track.settled,
            assessed.verdict,
            now_seconds=now,
            patience_seconds=self._settings.patience_seconds,
        )
        return replace(assessed, verdict=track.settled.verdict)

    def _ground(
        self, local: tuple[str, ...], resolution: Resolution
    ) -> tuple[GpuSpec | None, Roof | None, GpuWindow | None]:
        """The part an engine runs on, its roof as now clocked, and what was measured there."""
        if not local:
            return None, None, None
        track, reading = self._node.tracks[local[0]], self._node.alive[local[0]]
        roof = None
        if track.spec is not None and resolution.served is not None:
            peak = track.spec.roof(track.spec.compute_dtype(resolution.served.largest_dtype))
            if peak is not None:
                compute, memory = clock_ratios(reading, track.history.window(), track.spec)
                roof = peak.scaled(compute=compute, memory=memory)
        return track.spec, roof, track.history.window()

    def _credit_interval(self, track: EngineTrack, facts: EngineFacts) -> None:
        """Book what happened since the last page, on the engine and on its GPUs.

        Work is booked over a gap and a restart as well, as tokens are; time only where it was watched.
        """
        interval = track.history.last_interval()
        traffic = Traffic.over(interval) if interval is not None else None
        if interval is None or traffic is None or facts.served is None:
            return
        work = workload(facts.served, traffic.work)
        track.account.credit_work(work)
        attribution = attribute_window(replace(facts, window=interval), traffic, work)
        watched = track.history.is_continuous and (facts.roof is not None or not facts.gpu_uuids)
        if attribution is not None and watched:
            track.account.credit_time(interval.seconds, attribution)
        for uuid in facts.gpu_uuids:
            gpu = self._node.tracks.get(uuid)
            if gpu is not None:
                unmeasured = 1 - track.measured_since(uuid, gpu) / interval.seconds
                gpu.pending_flops += work.flops / facts.served.ranks
                gpu.pending_bytes += work.bytes / facts.served.ranks * max(unmeasured, 0.0)

    def _silent(
        self, server: MonitoredServer, message: str, *, speaking: Collection[str] = ()
    ) -> list[EngineAssessment]:
        """A server's engines but for the ranks that speak: known by their last names, and no more is said."""
        known = {key: track for key, track in self._engines.items() if key.server == server.server}
        if not known and not speaking:  # it never answered: there is one, whatever it is
            return [_down(EngineKey(server=server.server, rank="0"), server.engine, "", message)]
        silent = []
        for key, track in known.items():
            if key.rank not in speaking and track.history.latest is not None:
                track.settled = None
                silent.append(_down(key, track.history.latest.engine, track.history.latest.model, message))
        return silent

    def _gpu_uuids(self, server: MonitoredServer) -> tuple[str, ...]:
        """The GPUs of a server, in the order they are listed; on a node with one GPU, that one."""
        if server.gpus is None and not server.on_this_node:
            return ()
        return self._node.usable(server.gpus)

    def _forget_gone_engines(self) -> None:
        """Drop engines that have left a page which is still read; those of a silent server stay, as down."""
        latest: dict[str, float] = {}
        for key, track in self._engines.items():
            latest[key.server] = max(latest.get(key.server, 0.0), track.seen_at_seconds)
        for key, track in list(self._engines.items()):
            if latest[key.server] - track.seen_at_seconds > GONE_SECONDS:
                del self._engines[key]


class SamplerLoop:
    """Ticks on a thread of its own, on a beat that does not drift."""

    def __init__(self, sampler: Sampler, *, interval_seconds: float, clock: Clock) -> None:
        self._sampler = sampler
        self._interval_seconds = interval_seconds
        self._clock = clock
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to tick."""
        self._thread.start()

    def _run(self) -> None:
        due = self._clock.monotonic()
        while not self._stop.is_set():
            try:
                self._sampler.tick()
            except Exception:  # a tick that fails must not be the last; what it would show grows stale
                log.exception("the assessment failed; trying again with the next tick")
            now = self._clock.monotonic()
            due = max(due + self._interval_seconds, now)
            self._stop.wait(due - now)

    def close(self) -> None:
        """Stop ticking; one that never began has nothing to stop."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=2)
