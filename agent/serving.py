"""The serving engines of this node over time: which there are, what is remembered of each, what is concluded.

An engine is a rank behind a server. What its pages say is booked on it and on the GPUs it runs on.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.assessment import EngineAssessment, EngineKey
from agent.judgement import EngineFacts, assess_engine, attribute_window, clock_ratios
from agent.node import Bill, Node
from agent.objectives import Objective
from agent.placement import Placement
from agent.readings import EngineReading, Failed, ModelFacts, ServerReading
from agent.resolution import Resolution
from agent.roofline.bottleneck import Verdict, settle
from agent.roofline.gpus import GpuSpec
from agent.roofline.roof import Roof
from agent.roofline.workload import workload
from agent.roster import MonitoredServer
from agent.sources.base import SourceState
from agent.tracks import EngineTrack
from agent.traffic import Traffic
from agent.units import SECONDS_PER_HOUR, render_seconds
from agent.window import GpuWindow

log = logging.getLogger(__name__)

GONE_SECONDS = 10 * 60.0
"""An engine that has left its server's page is shown as down for so long, then forgotten."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRules:
    """By what engines are judged, as the configuration says."""

    keep_seconds: float
    gap_seconds: float
    """Without a page for so long nobody watched."""
    patience_seconds: float
    objectives: Mapping[str, Objective]


@dataclass(frozen=True, slots=True)
class Watched:
    """A server at this tick."""

    server: MonitoredServer
    state: SourceState[ServerReading]
    placement: Placement


@dataclass(frozen=True, slots=True)
class _Speaking:
    """One engine on a page that was just read."""

    server: MonitoredServer
    reading: EngineReading
    at_seconds: float
    gpus: tuple[str, ...]
    """Its GPUs, whether they can be read now or not."""
    placement: Placement
    """Of its server."""


def _deal(gpus: tuple[str, ...], position: int, ranks: int) -> tuple[str, ...]:
    """The GPUs of one of several data-parallel ranks, which take theirs in order."""
    if ranks == 1 or len(gpus) % ranks:
        return gpus
    each = len(gpus) // ranks
    return gpus[position * each : (position + 1) * each]


def silence(state: SourceState[Any], now: float) -> str:
    """Why nothing is known from a source now."""
    if isinstance(state.outcome, Failed):
        return state.outcome.message
    if state.last_success is None:
        return "not read yet"
    return f"its last answer is {render_seconds(now - state.last_success.at_seconds)} old"


def _gpus_problem(speaking: _Speaking, local: tuple[str, ...]) -> str | None:
    """Why nothing is known of an engine's GPUs."""
    if local:
        return None
    return "its GPUs cannot be read now" if speaking.gpus else speaking.placement.problem


def _down(key: EngineKey, engine: str, model: str, message: str, *, gone: bool) -> EngineAssessment:
    """An engine of which only the names are known."""
    return EngineAssessment(
        key=key,
        engine=engine,
        model=model,
        up=False,
        problem=message,
        gone=gone,
        verdict=Verdict(bottleneck="unknown", reason=message),
    )


class Serving:
    """All that is remembered of the engines, and what is concluded from it."""

    def __init__(self, node: Node, rules: EngineRules) -> None:
        self._node = node
        self._rules = rules
        self._engines: dict[EngineKey, EngineTrack] = {}
        # The most ranks that each server's page has shown.
        self._ranks: dict[str, int] = {}
        # What was told of engines that cannot be assessed.
        self._told: dict[EngineKey, str] = {}

    def adopt(self, rules: EngineRules) -> None:
        """Conclude by these from now on; what was counted stays as it is."""
        for track in self._engines.values():
            track.adopt(
                keep_seconds=rules.keep_seconds,
                gap_seconds=rules.gap_seconds,
                objectives=rules.objectives,
            )
        self._rules = rules

    def assess(self, watched: Sequence[Watched], now: float) -> tuple[EngineAssessment, ...]:
        """What is to be said of each engine now, behind whatever server."""
        silent: list[EngineAssessment] = []
        speaking: list[_Speaking] = []
        for track in self._engines.values():
            track.billed_usd = 0.0
        for one in watched:
            server, page = one.server, one.state.fresh(now)
            if page is None:
                silent.extend(self._silent(server, silence(one.state, now)))
                continue
            ranks = max(len(page.reading.engines), self._ranks.get(server.server, 1))
            self._ranks[server.server] = ranks
            for position, reading in enumerate(page.reading.engines):
                at = int(reading.rank) if reading.rank.isdecimal() else position
                mine = _deal(one.placement.uuids, min(at, ranks - 1), ranks)
                speaking.append(_Speaking(server, reading, page.at_seconds, mine, one.placement))
            shown = {reading.rank for reading in page.reading.engines}
            silent.extend(self._silent(server, "it has left its server's page", speaking=shown))
        residents = Counter(uuid for engine in speaking for uuid in engine.gpus)
        assessed = [self._guarded(engine, now, residents) for engine in speaking]
        return (*assessed, *silent)

    def charge(self, key: EngineKey, bill: Bill) -> None:
        """Book an engine's part of what one GPU cost and drew."""
        track = self._engines[key]
        track.account.credit_share(bill.share, usd=bill.usd, joules=bill.joules, remote_usd=bill.remote_usd)
        track.billed_usd += sum(bill.share.values()) * (bill.usd + bill.remote_usd)

    def with_totals(
        self, engines: Sequence[EngineAssessment], *, elapsed_seconds: float
    ) -> tuple[EngineAssessment, ...]:
        """The engines with their sums as they stand now, and what the time since the last tick cost."""
        return tuple(
            self._with_totals(engine, elapsed_seconds) if engine.served is not None else engine
            for engine in engines
        )

    def _with_totals(self, engine: EngineAssessment, elapsed_seconds: float) -> EngineAssessment:
        track = self._engines[engine.key]
        billed = track.billed_usd  # nothing is billed without a price, or where nobody looked
        usd_per_hour = billed / elapsed_seconds * SECONDS_PER_HOUR if billed > 0 else None
        return replace(engine, work_totals=track.account.totals(), usd_per_hour=usd_per_hour)

    def forget_gone(self, servers: Collection[str]) -> None:
        """Drop the engines of servers that are watched no longer, and those that have left a page.

        Of a page which is still read, that is; those of a silent server stay, as down.
        """
        latest: dict[str, float] = {}
        for key, track in self._engines.items():
            latest[key.server] = max(latest.get(key.server, 0.0), track.seen_at_seconds)
        for key, track in list(self._engines.items()):
            if key.server not in servers or latest[key.server] - track.seen_at_seconds > GONE_SECONDS:
                del self._engines[key]
        for key in [key for key in self._told if key.server not in servers]:
            del self._told[key]

    # --- one engine --------------------------------------------------------------------------------

    def _guarded(self, speaking: _Speaking, now: float, residents: Counter[str]) -> EngineAssessment:
        """One engine's page must never cost the others': what cannot be assessed is shown as down."""
        alone = all(residents[uuid] == 1 for uuid in speaking.gpus)
        server = speaking.server.server
        key = EngineKey(server=server, rank=speaking.reading.rank)
        try:
            assessed = self._assess_engine(speaking, now, alone=alone)
        except Exception as error:  # as in a poller's thread: a bug in one reader is not the node's
            kind = type(error).__name__
            if self._told.get(key) != kind:
                log.exception("%s: its page cannot be assessed", server, extra={"server": server})
            self._told[key] = kind
            message = f"its page cannot be assessed: {kind}; the log has the traceback"
            return _down(key, speaking.reading.engine, speaking.reading.model, message, gone=False)
        if self._told.pop(key, None) is not None:
            log.info("%s: its page is assessed again", server, extra={"server": server})
        return assessed

    def _assess_engine(self, speaking: _Speaking, now: float, *, alone: bool) -> EngineAssessment:
        server, reading = speaking.server, speaking.reading
        local = tuple(uuid for uuid in speaking.gpus if uuid in self._node.alive)
        key = EngineKey(server=server.server, rank=reading.rank)
        track = self._engines.get(key)
        if track is None:
            track = self._engines[key] = EngineTrack(
                keep_seconds=self._rules.keep_seconds,
                gap_seconds=self._rules.gap_seconds,
                objectives=self._rules.objectives,
            )
        track.seen_at_seconds = now
        process = server.found.facts if server.found is not None else ModelFacts()
        resolution = track.resolution(server.model, reading, process=process, gpus=len(speaking.gpus))
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
            placed_by=speaking.placement.by,
            gpus_problem=_gpus_problem(speaking, local),
            spec=spec,
            roof=roof,
            gpu_window=gpu_window,
            alone_on_gpu=alone,
            max_num_seqs=resolution.facts.max_num_seqs,
            container=server.found.container if server.found is not None else None,
            objectives=self._rules.objectives,
            met_before=track.met_before,
        )
        assessed = assess_engine(facts)
        if is_new_page:
            self._credit_interval(track, facts)
            track.mark_measured(self._node.tracks)
        track.settled = settle(
            track.settled,
            assessed.verdict,
            now_seconds=now,
            patience_seconds=self._rules.patience_seconds,
        )
        verdict = track.settled.verdict
        return assessed if verdict is assessed.verdict else replace(assessed, verdict=verdict)

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
        attribution = attribute_window(facts, interval, traffic, work)
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
            key = EngineKey(server=server.server, rank="0")
            return [_down(key, server.engine, "", message, gone=server.gone)]
        silent = []
        for key, track in known.items():
            if key.rank not in speaking and track.history.latest is not None:
                track.settled = None
                last = track.history.latest
                silent.append(_down(key, last.engine, last.model, message, gone=server.gone))
        return silent
