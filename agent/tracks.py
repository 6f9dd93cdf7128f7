"""What the sampler remembers: a history and an account for each GPU and each engine.

Nobody else keeps anything from one tick to the next.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import replace

from agent.accounts import EngineAccount, GpuAccount
from agent.assessment import GpuAssessment, Span
from agent.ladder import Ladder, Measured
from agent.objectives import Objective, carry_over
from agent.readings import EngineReading, Evidence, GpuReading, ModelFacts
from agent.resolution import Resolution, resolve_model
from agent.roofline.bottleneck import Settled, Verdict
from agent.roofline.gpus import GpuSpec
from agent.window import EngineHistory, GpuHistory

NO_OBJECTIVES: Mapping[str, Objective] = {}
HISTORY_SECONDS = 15 * 60.0
"""How far back the status page shows the classes."""


class GpuTrack:
    """All that is remembered of one GPU."""

    def __init__(self, *, keep_seconds: float, measured: tuple[Evidence, ...]) -> None:
        self.account = GpuAccount(measured=measured)
        self.ladder = Ladder()
        self.measured: Mapping[str, Measured] = {}
        """What the ladder gives at this tick."""
        self.history = GpuHistory(keep_seconds=keep_seconds)
        self.parent_uuid: str | None = None
        """Of a MIG instance."""
        self.last_reading: GpuReading | None = None
        self.absent_seconds = 0.0
        """Watched, since it was last read."""
        self.spec: GpuSpec | None = None
        self.settled: Settled | None = None
        self.spans: deque[Span] = deque()
        # Booked by engines' pages, and credited with the next tick that was watched.
        self.pending_flops = 0.0
        self.pending_bytes = 0.0
        self.measured_seconds = 0.0
        """For which bytes were measured, so far."""
        # The last reading whose counters were booked.
        self._counted: GpuReading | None = None

    def adopt(self, *, keep_seconds: float, measured: tuple[Evidence, ...]) -> None:
        """Another window, and other kinds of evidence; what was counted stays."""
        self.history.keep_seconds = keep_seconds
        self.account.admit(measured)

    def forget(self) -> None:
        """It cannot be read now: what follows is another time."""
        self.history.forget()
        self.settled = None
        self.measured = {}
        self._counted = None

    def credit_counters(self, reading: GpuReading, elapsed: float) -> None:
        """Book what the GPU itself counts."""
        self.account.credit_counters(elapsed, self._counted, reading)
        self._counted = reading

    def remember(self, start: float, end: float, verdict: Verdict) -> tuple[Span, ...]:
        """Add a stretch of time in one class, and forget what is too old to show."""
        last = self.spans[-1] if self.spans else None
        if last is not None and last.bottleneck == verdict.bottleneck:
            self.spans[-1] = replace(last, end_unix_seconds=end)
        else:
            self.spans.append(
                Span(start_unix_seconds=start, end_unix_seconds=end, bottleneck=verdict.bottleneck)
            )
        while self.spans[0].end_unix_seconds < end - HISTORY_SECONDS:
            self.spans.popleft()
        return tuple(self.spans)

    def credit(self, assessed: GpuAssessment, verdict: Verdict, elapsed: float) -> None:
        """Book the seconds since the last tick, and what engines' pages have left to be booked."""
        believed = {} if assessed.contradicted else self.measured
        self.account.credit(elapsed, bottleneck=verdict.bottleneck)
        self.account.credit_activity(elapsed, believed)
        if assessed.contradicted:
            self.account.credit_contradiction(elapsed)
        self._credit_bytes(assessed, believed.get("dram_ratio"), elapsed)
        self._credit_flops(assessed, believed.get("tensor_ratio"), elapsed)

    def _credit_bytes(self, assessed: GpuAssessment, dram: Measured | None, elapsed: float) -> None:
        """Measured, where this very second was; else what the engines' pages say."""
        account, rate = self.account, assessed.dram_bytes_per_second
        account.add_bytes(self.pending_bytes, "modelled")
        self.pending_bytes = 0.0
        if dram is not None and assessed.spec is not None:
            account.add_bytes(dram.ratio * assessed.spec.dram_bytes_per_second * elapsed, dram.evidence)
            account.credit_evidence("dram_bytes", elapsed, dram.evidence)
            self.measured_seconds += elapsed
        else:
            known = rate is not None and bool(assessed.engines)
            account.credit_evidence("dram_bytes", elapsed, "modelled" if known else "none")

    def _credit_flops(self, assessed: GpuAssessment, tensor: Measured | None, elapsed: float) -> None:
        """What the engines' pages say; on a GPU without engines an estimate from its tensor activity."""
        account, rate = self.account, assessed.flops_per_second
        account.add_flops(self.pending_flops, "modelled")
        self.pending_flops = 0.0
        roof = assessed.current_roof(assessed.compute_dtype)
        evidence = rate.evidence if rate is not None else "none"
        if evidence not in ("modelled", "none"):
            if tensor is not None and roof is not None:
                evidence = tensor.evidence
                account.add_flops(tensor.ratio * roof.flops_per_second * elapsed, evidence)
            else:
                evidence = "none"
        account.credit_evidence("flops", elapsed, evidence)


class EngineTrack:
    """All that is remembered of one engine."""

    def __init__(
        self, *, keep_seconds: float, gap_seconds: float, objectives: Mapping[str, Objective] = NO_OBJECTIVES
    ) -> None:
        self.history = EngineHistory(keep_seconds=keep_seconds, gap_seconds=gap_seconds)
        # As last known, those that hold no longer included: they may come back.
        self._objectives = dict(objectives)
        self.account = EngineAccount()
        self.billed_usd = 0.0
        """In this tick, GPUs of the replica on other nodes included."""
        self.settled: Settled | None = None
        self.seen_at_seconds = 0.0
        self.met_before: Mapping[str, float] = {}
        """Of each objective, what is to be added to its count since its target was another one."""
        self._resolved_for: tuple[object, ...] | None = None
        self._resolution = Resolution()
        # Of each GPU, the seconds measured up to this engine's last page.
        self._measured_seconds: dict[str, float] = {}

    def adopt(self, *, keep_seconds: float, gap_seconds: float, objectives: Mapping[str, Objective]) -> None:
        """Another window and pace, and other objectives; what was counted stays."""
        self.history.adopt(keep_seconds=keep_seconds, gap_seconds=gap_seconds)
        self.met_before = {
            **self.met_before,
            **carry_over(self.history.totals, old=self._objectives, new=objectives, before=self.met_before),
        }
        self._objectives.update(objectives)

    def measured_since(self, uuid: str, gpu: GpuTrack) -> float:
        """Seconds since the last page for which the GPU's own bytes were measured."""
        return gpu.measured_seconds - self._measured_seconds.get(uuid, gpu.measured_seconds)

    def mark_measured(self, gpus: Mapping[str, GpuTrack]) -> None:
        """A page was booked: from here on seconds are counted anew."""
        self._measured_seconds = {uuid: gpu.measured_seconds for uuid, gpu in gpus.items()}

    def resolution(
        self, configured: ModelFacts, reading: EngineReading, *, process: ModelFacts | None, gpus: int
    ) -> Resolution:
        """The model, resolved again only when something that is said of it has changed."""
        asked = (configured, reading.model, reading.facts, process, gpus)
        if asked != self._resolved_for:
            self._resolution = resolve_model(configured, reading, process=process, gpus=gpus)
            self._resolved_for = asked
        return self._resolution
