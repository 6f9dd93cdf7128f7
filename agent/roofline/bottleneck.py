"""What bounds a GPU now: the verdict, with its reason and its evidence.

The shares of the engines' steps decide; measured counters confirm or veto memory and compute; where
neither says enough, or they contradict themselves, the answer is `unknown`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from agent.readings import Evidence
from agent.roofline.step import Component
from agent.units import render_percent

Bottleneck = Literal[
    "memory_bandwidth", "compute", "interconnect", "kernel_latency", "host", "idle", "unknown"
]
BOTTLENECKS: tuple[Bottleneck, ...] = (
    "memory_bandwidth",
    "compute",
    "interconnect",
    "kernel_latency",
    "host",
    "idle",
    "unknown",
)
WORDS: Mapping[Bottleneck, str] = {
    "memory_bandwidth": "memory bandwidth",
    "compute": "compute",
    "interconnect": "interconnect",
    "kernel_latency": "kernel latency",
    "host": "the host",
    "idle": "idle",
    "unknown": "unknown",
}

IDLE_RATIO = 0.10
"""Busy for less than this share of the window is idle."""
RESIDENT_RATIO = 0.05
"""The least by which activity is divided to have it while kernels ran."""
HIGH_RATIO, LOW_RATIO = 0.60, 0.40
"""Nsight Compute's speed-of-light rule: above the first is bound, below the second is not."""
UNEXPLAINED_RATIO = 0.95
"""All of the step: the model was not believed. A part of it is a neighbour's turn on a shared GPU."""
HALF = 0.50
"""Requests in flight and kernels resident for less than this: the GPU mostly waits to be told what to do."""
CONTRADICTION_RATIO = 0.50
"""Kernels resident for more than this while the profiling counters read 0: one of them is wrong."""
VETO_RATIO = 0.5
"""Counters below this part of what the winning share needs show that it did not happen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What bounds it, how sure that is, and why."""

    bottleneck: Bottleneck
    confidence_ratio: float = 0.0
    """(first − second share); 0 for `unknown`."""
    evidence: Evidence = "none"
    reason: str
    shares: Mapping[Component, float] = field(default_factory=dict)
    """Of the busy time, by component, where an engine's steps decided."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """Means of one GPU's measured activity over the window."""

    evidence: Evidence
    dram_ratio: float | None
    tensor_ratio: float | None
    sm_ratio: float | None
    graphics_ratio: float | None
    kernel_time_ratio: float | None
    achievable_dram_ratio: float

    @property
    def contradictory(self) -> bool:
        """Profiling reads 0 everywhere while kernels are resident most of the time."""
        measured = (self.dram_ratio, self.tensor_ratio, self.sm_ratio)
        silent = all(value == 0 for value in measured if value is not None)
        any_measured = any(value is not None for value in measured)
        resident = max(self.kernel_time_ratio or 0.0, self.graphics_ratio or 0.0)
        return any_measured and silent and resident > CONTRADICTION_RATIO

    def _while_resident(self, ratio: float | None) -> float | None:
        """The ratio over the time in which kernels ran."""
        if ratio is None:
            return None
        resident = 1.0 if self.graphics_ratio is None else max(self.graphics_ratio, RESIDENT_RATIO)
        return min(ratio / resident, 1.0)

    @property
    def dram_of_achievable(self) -> float | None:
        """DRAM bandwidth while kernels ran, of what good kernels achieve."""
        busy = self._while_resident(self.dram_ratio)
        return None if busy is None else busy / self.achievable_dram_ratio

    @property
    def tensor(self) -> float | None:
        """Tensor activity while kernels ran."""
        return self._while_resident(self.tensor_ratio)

    def refuse_waiting(self, ratio: float) -> bool:
        """Whether the GPU does too much to be waiting, or far from any roof, for so much of the time."""
        dram = (self.dram_ratio or 0.0) / self.achievable_dram_ratio
        return max(dram, self.tensor_ratio or 0.0) > 1.0 - VETO_RATIO * ratio

    def describe(self) -> str:
        """In words, for a reason."""
        parts = [
            f"{label} {render_percent(value)}"
            for label, value in (
                ("DRAM active", self.dram_ratio),
                ("tensor active", self.tensor_ratio),
                ("kernels resident", self.graphics_ratio),
            )
            if value is not None
        ]
        return f"{', '.join(parts)} ({self.evidence})"


def from_counters(counters: Counters, *, requests_running: bool) -> Verdict:
    """What measured activity alone says."""
    if counters.contradictory:
        return Verdict(
            bottleneck="unknown",
            evidence=counters.evidence,
            reason=f"evidence contradicts itself: kernels run, yet {counters.describe()}",
        )
    dram, tensor, resident = counters.dram_of_achievable, counters.tensor, counters.graphics_ratio
    if resident is not None and resident < IDLE_RATIO and not requests_running:
        return _say("idle", 1.0 - resident, counters)
    if resident is not None and resident < HALF and requests_running:
        return _say("host", 1.0 - resident, counters)
    if resident is not None and resident < HALF:
        return Verdict(
            bottleneck="unknown",
            evidence=counters.evidence,
            reason=f"mostly nothing runs, and no engine says what it waits for: {counters.describe()}",
        )
    if dram is None or tensor is None:
        return Verdict(bottleneck="unknown", reason="the counters that tell memory from compute are missing")
    if max(dram, tensor) >= HIGH_RATIO or tensor >= 0.5:
        winner: Bottleneck = "memory_bandwidth" if dram >= tensor else "compute"
        return _say(winner, abs(dram - tensor), counters)
    if max(dram, tensor) < LOW_RATIO and resident is not None:
        if resident >= 0.85:
            return _say("kernel_latency", LOW_RATIO - max(dram, tensor), counters)
        if requests_running:
            return _say("host", 1.0 - resident, counters)
    return Verdict(
        bottleneck="unknown",
        evidence=counters.evidence,
        reason=f"no roof is near and no engine says what the time goes to: {counters.describe()}",
    )


def _say(bottleneck: Bottleneck, confidence: float, counters: Counters) -> Verdict:
    return Verdict(
        bottleneck=bottleneck,
        confidence_ratio=min(max(confidence, 0.0), 1.0),
        evidence=counters.evidence,
        reason=counters.describe(),
    )


def from_shares(
    shares: Mapping[Component, float],
    *,
    busy_ratio: float,
    detail: str,
    counters: Counters | None = None,
    dram_efficiency: float = 1.0,
    compute_efficiency: float = 1.0,
    guessing: bool = False,
) -> Verdict:
    """What the step shares say, confirmed or vetoed by the counters where there are any.

    `shares` sum to 1 over the components; `busy_ratio` is the busy part of the window; `detail` is the
    arithmetic in words. The efficiencies turn a share of time into the activity it must show. `guessing`:
    tokens are guessed for the model, so that what is left over may be the time that took.
    """
    evidence: Evidence = "modelled" if counters is None else "mixed"
    if counters is not None and counters.contradictory:
        return from_counters(counters, requests_running=True)
    resident = counters.graphics_ratio if counters is not None else None
    if busy_ratio < IDLE_RATIO and counters is not None and (resident or 0.0) > 2 * IDLE_RATIO:
        others = from_counters(counters, requests_running=False)
        reason = f"the engines listed here are idle, and something else is not: {others.reason}"
        return replace(others, reason=reason)
    if busy_ratio < IDLE_RATIO:
        return Verdict(
            bottleneck="idle",
            confidence_ratio=1.0 - busy_ratio,
            evidence=evidence,
            reason=f"busy {render_percent(busy_ratio)} of the time",
        )
    if shares.get("unexplained", 0.0) > UNEXPLAINED_RATIO:
        return _unexplained(shares, counters)

    ranked = _rank(shares)
    if guessing and shares.get("unexplained", 0.0) > ranked[0][1]:
        return _unexplained(shares, counters, reason=LEFT_OVER)
    while len(ranked) > 1 and counters is not None:
        refusal = _veto(ranked[0][0], ranked[0][1], counters, dram_efficiency, compute_efficiency)
        if refusal is None:
            break
        detail = f"{detail}; {refusal}"
        ranked = ranked[1:]
    winner, first = ranked[0]
    if (
        winner in ("host", "kernel_latency")
        and counters is not None
        and counters.refuse_waiting(busy_ratio * first)
    ):
        return _unexplained(shares, counters, reason=TOO_LONG)
    second = ranked[1][1] if len(ranked) > 1 else 0.0
    share = render_percent(first)
    words = f"{WORDS[winner]} takes {share} of the step"
    if winner in ("host", "kernel_latency"):
        words = f"small kernels and the host take {share} of the step, most of it {WORDS[winner]}"
    measured = f"; {counters.describe()}" if counters is not None else ""
    return Verdict(
        bottleneck=winner,
        confidence_ratio=min(max(first - second, 0.0), 1.0),
        evidence=evidence,
        reason=f"{words}: {detail}{measured}",
        shares=dict(shares),
    )


def _rank(shares: Mapping[Component, float]) -> list[tuple[Bottleneck, float]]:
    """Classes by share. Kernel latency and host stand together as overhead; the larger names it."""
    kernels, host = shares.get("kernel_latency", 0.0), shares.get("host", 0.0)
    overhead: Bottleneck = "host" if host > kernels else "kernel_latency"
    candidates: list[tuple[Bottleneck, float]] = [
        ("memory_bandwidth", shares.get("memory_bandwidth", 0.0)),
        ("compute", shares.get("compute", 0.0)),
        ("interconnect", shares.get("interconnect", 0.0)),
        (overhead, kernels + host),
    ]
    return sorted(candidates, key=lambda candidate: -candidate[1])


def _veto(
    winner: Bottleneck, share: float, counters: Counters, dram_efficiency: float, compute_efficiency: float
) -> str | None:
    """Why the counters refuse memory or compute, or `None`."""
    if winner == "memory_bandwidth" and counters.dram_ratio is not None:
        needed, seen, label = share * dram_efficiency, counters.dram_ratio, "DRAM"
    elif winner == "compute" and counters.tensor_ratio is not None:
        needed, seen, label = share * compute_efficiency, counters.tensor_ratio, "tensor cores"
    else:
        return None
    resident = 1.0 if counters.graphics_ratio is None else max(counters.graphics_ratio, RESIDENT_RATIO)
    if seen / resident >= VETO_RATIO * needed:
        return None
    return (
        f"not {WORDS[winner]}: {label} active {render_percent(seen)} where {render_percent(needed)} was due"
    )


TOO_SHORT = "the model needs more time than the steps took: wrong model, dtype or tensor_parallel?"
TOO_LONG = "the steps take far longer than the model needs, and the GPU does not wait: wrong model or dtype?"
LEFT_OVER = "most of the step is not the model's own work: what guesses tokens for it, or the host."


def _unexplained(
    shares: Mapping[Component, float], counters: Counters | None, *, reason: str = TOO_SHORT
) -> Verdict:
    if counters is None:
        return Verdict(bottleneck="unknown", reason=reason, shares=dict(shares))
    verdict = from_counters(counters, requests_running=True)
    return Verdict(
        bottleneck=verdict.bottleneck,
        confidence_ratio=verdict.confidence_ratio / 2,
        evidence=verdict.evidence,
        reason=f"{reason} By the counters alone: {verdict.reason}",
        shares=dict(shares),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A class in force, and the one that may follow it."""

    verdict: Verdict
    candidate: Bottleneck
    candidate_since_seconds: float


def settle(
    before: Settled | None, verdict: Verdict, *, now_seconds: float, patience_seconds: float
) -> Settled:
    """Hysteresis: another class comes into force only after it was seen for `patience_seconds`.

    `unknown` gives way at once, and comes at once: evidence that is gone is not to be waited for.
    """
    fresh = Settled(verdict=verdict, candidate=verdict.bottleneck, candidate_since_seconds=now_seconds)
    if before is None or "unknown" in (before.verdict.bottleneck, verdict.bottleneck):
        return fresh
    since = before.candidate_since_seconds if before.candidate == verdict.bottleneck else now_seconds
    if verdict.bottleneck == before.verdict.bottleneck or now_seconds - since >= patience_seconds:
        return Settled(verdict=verdict, candidate=verdict.bottleneck, candidate_since_seconds=since)
    return Settled(verdict=before.verdict, candidate=verdict.bottleneck, candidate_since_seconds=since)
