"""The GPUs of this node over time: which there are, what is remembered of each, what is concluded.

A GPU in MIG mode is two things here. Its board keeps what belongs to all of it: heat, power, links,
faults, and the money of what no instance has. Each instance is a GPU that work is done on.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent.accounts import GpuTotals
from agent.assessment import EngineAssessment, EngineKey, GpuAssessment
from agent.fusion import Fused
from agent.judgement import GpuFacts, assess_gpu
from agent.prices import PricePeriod, find_price
from agent.readings import DIVIDED, Evidence, GpuLost, GpuReading
from agent.roofline.bottleneck import Verdict, settle
from agent.roofline.gpus import GpuSpec, describe_gpu, mig_instance
from agent.roofline.sharing import gpu_shares
from agent.tracks import GpuTrack
from agent.units import SECONDS_PER_HOUR

GONE_SECONDS = 10 * 60.0
"""A MIG instance that its GPU has not shown for so long was taken apart, and is forgotten."""
IN_USE_RATIO = 0.05
"""Of its memory: a CUDA context alone takes less, the weights of anything worth serving more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuRules:
    """By what GPUs are judged and paid for, as the configuration says."""

    keep_seconds: float
    patience_seconds: float
    measured: tuple[Evidence, ...]
    """The kinds of evidence that there can be."""
    prices: tuple[PricePeriod, ...]
    specs: tuple[GpuSpec, ...]
    """They come before the catalogue."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """One tick: its instant, and the time since the one before."""

    now_seconds: float
    unix_seconds: float
    elapsed_seconds: float
    watched: bool
    """Whether that time is short enough to speak for."""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """Of this node: prices may depend on them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bill:
    """An engine's part of one GPU over one tick."""

    share: Mapping[str, float]
    """By phase; of `usd` and `joules`."""
    usd: float
    joules: float
    remote_usd: float
    """What the replica's GPUs on other nodes cost meanwhile, as many as fall to this one; an estimate."""


Charge = Callable[[EngineKey, Bill], None]


class Node:
    """All that is remembered of the GPUs, and what is concluded from it."""

    def __init__(self, rules: GpuRules) -> None:
        self._rules = rules
        self.tracks: dict[str, GpuTrack] = {}
        """By UUID, of every GPU and MIG instance that was ever read."""
        self.alive: Mapping[str, GpuReading] = {}
        """By UUID, of those that can be read now."""
        self.present: Sequence[GpuReading | GpuLost] = ()
        """All that was read at this tick, in NVML's order."""
        # By NVML's index now; MIG instances have none of their own.
        self._uuids: dict[int, str] = {}
        # What an engine can run on: GPUs, and in place of one in MIG mode its instances.
        self._usable: dict[str, None] = {}

    def adopt(self, rules: GpuRules) -> None:
        """Conclude by these from now on; what was counted and paid stays as it is."""
        described_anew = rules.specs != self._rules.specs
        self._rules = rules
        for track in self.tracks.values():
            track.adopt(keep_seconds=rules.keep_seconds, measured=rules.measured)
            if described_anew and track.last_reading is not None:
                track.spec = self._describe(track.last_reading)

    def see(self, gpus: Sequence[Fused | GpuLost], *, read_at_seconds: float, beat: Beat) -> None:
        """Take what was read of all GPUs."""
        self.present = [gpu.reading if isinstance(gpu, Fused) else gpu for gpu in gpus]
        self.alive = {gpu.uuid: gpu for gpu in self.present if isinstance(gpu, GpuReading)}
        self._learn()
        for gpu in gpus:
            if isinstance(gpu, Fused):
                track = self._track(gpu.reading)
                track.absent_seconds = 0.0
                track.last_reading = gpu.reading
                track.measured = track.ladder.climb(gpu.rungs, now_seconds=beat.now_seconds)
                track.history.add(read_at_seconds, gpu.reading, track.measured)

    @property
    def usable_uuids(self) -> tuple[str, ...]:
        """Of all that an engine can run on, in the order in which they were first seen."""
        return tuple(self._usable)

    @property
    def in_use(self) -> frozenset[str]:
        """The UUIDs of those on which somebody holds memory: far more than the driver itself takes."""
        return frozenset(
            uuid
            for uuid, gpu in self.alive.items()
            if gpu.memory_used_bytes is not None
            and gpu.memory_total_bytes
            and gpu.memory_used_bytes > IN_USE_RATIO * gpu.memory_total_bytes
        )

    def named(self, gpus: Sequence[int | str]) -> tuple[str, ...]:
        """The UUIDs of what is called so, by index or UUID, in that order."""
        uuids = (self._uuids.get(gpu) if isinstance(gpu, int) else gpu for gpu in gpus)
        return tuple(uuid for uuid in uuids if uuid in self._usable)

    def conclude(
        self,
        engines: Sequence[EngineAssessment],
        *,
        claimed: Collection[str],
        beat: Beat,
        charge: Charge,
    ) -> tuple[GpuAssessment, ...]:
        """What is to be said of each GPU now; `claimed` are those that some engine runs on, silent or not."""
        self._leave_absent(beat)
        assessed = []
        for gpu in self.present:
            if isinstance(gpu, GpuLost):
                one = _lost(gpu, self.tracks.get(gpu.uuid or ""))
            elif gpu.partitioned:
                one = self._board(gpu, beat)
            else:
                residents = tuple(e for e in engines if e.up and gpu.uuid in e.gpu_uuids)
                one = self._assess(gpu, residents, claimed=gpu.uuid in claimed, beat=beat, charge=charge)
            assessed.append(one)
        return tuple(assessed)

    # --- which there are ---------------------------------------------------------------------------

    def _learn(self) -> None:
        for gpu in self.present:
            whole = gpu.mig is None if isinstance(gpu, GpuReading) else gpu.parent_uuid is None
            if whole and gpu.uuid:
                self._uuids[gpu.index] = gpu.uuid
            if isinstance(gpu, GpuReading) and gpu.partitioned:
                self._usable.pop(gpu.uuid, None)
            elif gpu.uuid:
                self._usable[gpu.uuid] = None

    def _track(self, reading: GpuReading) -> GpuTrack:
        track = self.tracks.get(reading.uuid)
        if track is None:
            track = self.tracks[reading.uuid] = GpuTrack(
                keep_seconds=self._rules.keep_seconds, measured=self._rules.measured
            )
            track.spec = self._describe(reading)
            track.parent_uuid = reading.mig.parent_uuid if reading.mig is not None else None
        return track

    def _describe(self, reading: GpuReading) -> GpuSpec | None:
        if reading.mig is not None:
            board = self.alive.get(reading.mig.parent_uuid)
            known = self.tracks.get(reading.mig.parent_uuid)
            if board is None and known is not None:  # it cannot be read now
                board = known.last_reading
            whole = self._describe(board) if board is not None else None
            return whole and mig_instance(
                whole, sm_count=reading.mig.sm_count, memory_bytes=reading.mig.memory_bytes
            )
        for spec in self._rules.specs:
            if reading.name in spec.nvml_names:
                return spec
        return describe_gpu(
            nvml_name=reading.name,
            memory_clock_max_hertz=reading.memory_clock_max_hertz,
            memory_bus_bits=reading.memory_bus_bits,
            memory_total_bytes=reading.memory_total_bytes,
        )

    def _leave_absent(self, beat: Beat) -> None:
        """The time of those that cannot be read is a gap; instances that were taken apart are forgotten."""
        for uuid, track in list(self.tracks.items()):
            if uuid in self.alive:
                continue
            track.account.credit_unobserved(beat.elapsed_seconds)
            track.forget()
            track.absent_seconds += beat.elapsed_seconds if beat.watched else 0.0
            if track.parent_uuid in self.alive and track.absent_seconds > GONE_SECONDS:
                del self.tracks[uuid]
                self._usable.pop(uuid, None)

    # --- what is said of one -----------------------------------------------------------------------

    def _assess(
        self,
        reading: GpuReading,
        residents: Sequence[EngineAssessment],
        *,
        claimed: bool,
        beat: Beat,
        charge: Charge,
    ) -> GpuAssessment:
        track = self.tracks[reading.uuid]
        window = track.history.window()
        assert window is not None  # its reading was added in this very tick
        assessed = assess_gpu(
            GpuFacts(reading=reading, window=window, spec=track.spec, engines=residents, claimed=claimed)
        )
        track.settled = settle(
            track.settled,
            assessed.verdict,
            now_seconds=beat.now_seconds,
            patience_seconds=self._rules.patience_seconds,
        )
        verdict = track.settled.verdict
        if beat.watched:
            track.credit(assessed, verdict, beat.elapsed_seconds)
            if reading.mig is None:  # what an instance shows of them is its board's
                track.credit_counters(reading, beat.elapsed_seconds)
            self._charge(track, assessed, verdict, residents, beat, charge)
        else:
            track.account.credit_unobserved(beat.elapsed_seconds)
        started = beat.unix_seconds - beat.elapsed_seconds
        return replace(
            assessed,
            verdict=verdict,
            history=track.remember(started, beat.unix_seconds, verdict),
            totals=track.account.totals(),
        )

    def _board(self, reading: GpuReading, beat: Beat) -> GpuAssessment:
        """A GPU in MIG mode: its own counters, and the money of what no instance has."""
        track = self.tracks[reading.uuid]
        if beat.watched:
            instances = (
                self.tracks[gpu.uuid].spec
                for gpu in self.alive.values()
                if gpu.mig is not None and gpu.mig.parent_uuid == reading.uuid
            )
            left = max(1.0 - sum(spec.share for spec in instances if spec is not None), 0.0)
            usd = left * self._usd(reading.name, track.spec, beat)
            track.account.credit_cost(usd, idle=False, unattributed_usd=usd)
            track.credit_counters(reading, beat.elapsed_seconds)
        return GpuAssessment(
            index=reading.index,
            uuid=reading.uuid,
            name=reading.name,
            up=True,
            problem=DIVIDED,
            reading=reading,
            last_reading=reading,
            health=reading.health,
            spec=track.spec,
            verdict=Verdict(bottleneck="unknown", reason=DIVIDED),
            totals=track.account.totals(),
        )

    # --- money and energy --------------------------------------------------------------------------

    def _charge(
        self,
        track: GpuTrack,
        assessed: GpuAssessment,
        verdict: Verdict,
        residents: Sequence[EngineAssessment],
        beat: Beat,
        charge: Charge,
    ) -> None:
        """Hand what the GPU cost and drew to the engines on it, by what they did there."""
        usd = self._usd(assessed.name, track.spec, beat)
        watts = assessed.reading.power_watts if assessed.reading is not None else None
        joules, unattributed = (watts or 0.0) * beat.elapsed_seconds, 1.0
        shares = gpu_shares([engine.busy_by_phase for engine in residents])
        for engine, share in zip(residents, shares, strict=True):
            if engine.attribution is not None:  # what the others did nobody knows: theirs stays open
                bill = Bill(share=share, usd=usd, joules=joules, remote_usd=usd * _remote_ratio(engine))
                charge(engine.key, bill)
                unattributed -= sum(share.values())
        track.account.credit_cost(
            usd, idle=verdict.bottleneck == "idle", unattributed_usd=max(unattributed, 0.0) * usd
        )

    def _usd(self, name: str, spec: GpuSpec | None, beat: Beat) -> float:
        """What the time since the last tick cost of the part of a GPU that it is; 0 without a price."""
        names: Iterable[str] = (spec.name, *spec.nvml_names) if spec is not None else ()
        price = find_price(
            self._rules.prices, {name, *names}, unix_seconds=beat.unix_seconds, node_labels=beat.node_labels
        )
        share = spec.share if spec is not None else 1.0
        return (price or 0.0) * share * beat.elapsed_seconds / SECONDS_PER_HOUR


def _remote_ratio(engine: EngineAssessment) -> float:
    """GPUs of the replica on other nodes, taken to cost what those here do, for each of those here."""
    local = len(engine.gpu_uuids)
    if engine.served is None or local == 0:
        return 0.0
    return max(engine.served.ranks / local - 1, 0.0)


def _lost(gpu: GpuLost, track: GpuTrack | None) -> GpuAssessment:
    return GpuAssessment(
        index=gpu.index,
        uuid=gpu.uuid or "",
        name=gpu.name or (track.last_reading.name if track is not None and track.last_reading else ""),
        up=False,
        problem=gpu.message,
        last_reading=track.last_reading if track is not None else None,
        health=gpu.health,
        spec=track.spec if track is not None else None,
        verdict=Verdict(bottleneck="unknown", reason=gpu.message),
        totals=track.account.totals() if track is not None else GpuTotals(),
    )
