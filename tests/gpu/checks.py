"""From what was seen and what was done to a verdict on each claim of the agent: functions of values."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.roofline.bottleneck import Bottleneck, Verdict
from agent.roofline.roof import Roof
from agent.units import render_percent, render_quantity, render_seconds
from tests.gpu.call_costs import SLOW_SECONDS, CallCost
from tests.gpu.driver import Progress
from tests.gpu.nonroot import NonRoot
from tests.gpu.watch import Bases, Sight
from tests.gpu.workloads import Workload

Outcome = Literal["pass", "fail", "skip", "note"]

DRAM_TOLERANCE = 0.10
"""How far the counters' bytes may lie from those that were counted."""
PEAK_TOLERANCE = 0.03
"""By how much counted bytes may pass the peak before they are disbelieved: the clocks are not exact."""
BASES_APART = 0.005
"""Two bases closer than this are the same one, rounded."""
MOST, LITTLE = 0.90, 0.10
GPM_CAPABILITY = (9, 0)
"""From Hopper on a GPU has the counters."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One claim, and whether it held."""

    subject: str
    """The workload, or what else is meant."""
    claim: str
    outcome: Outcome
    found: str
    wanted: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """DRAM bytes, counted and measured, over the same stretches of time."""

    seconds: float
    counted_bytes: float
    """What the calls had to move."""
    full_seconds: float
    """The counters' ratio times time: how long DRAM at its peak would have taken."""

    @property
    def implied_peak(self) -> float | None:
        """The peak, in bytes/s, with which the counters would be exact."""
        return self.counted_bytes / self.full_seconds if self.full_seconds > 0 else None

    def deviation(self, base: float) -> float:
        """Of the measured bytes from the counted ones, with `base` as the peak; 0.02 is 2 % too many."""
        return self.full_seconds * base / self.counted_bytes - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What the calls achieved, from their counts alone; `None` where it cannot be counted or compared."""

    dram_bytes_per_second: float | None
    dram_of_peak: float | None
    flops_per_second: float | None
    flops_of_peak: float | None
    flops_estimated_ratio: float | None
    """The agent's estimate from tensor activity ÷ the counted FLOPs; it means to be an upper bound."""


def traffic_of(workload: Workload, sight: Sight, progress: Progress) -> Traffic | None:
    """`None` where the bytes cannot be counted, or the counters do not tell of DRAM."""
    spans = [span for span in sight.spans if span.activity.dram_ratio is not None]
    if not workload.dram_is_known or not spans:
        return None
    traffic = Traffic(
        seconds=sum(span.activity.seconds for span in spans),
        counted_bytes=sum(
            workload.dram_bytes(progress.calls_between(span.begin_seconds, span.end_seconds))
            for span in spans
        ),
        full_seconds=sum((span.activity.dram_ratio or 0.0) * span.activity.seconds for span in spans),
    )
    return traffic if traffic.counted_bytes > 0 else None


def rates_of(workload: Workload, sight: Sight, progress: Progress) -> Rates:
    """Over the whole time that was looked at, with or without counters."""
    begin, end = sight.samples[0].at_seconds, sight.samples[-1].at_seconds
    calls = progress.calls_between(begin, end)
    seconds = end - begin
    spec = sight.assessment.spec
    roof: Roof | None = spec.roof("bf16") if spec is not None else None
    moved = workload.dram_bytes(calls) / seconds if workload.dram_is_known and seconds > 0 else None
    flops = workload.flops(calls) / seconds if workload.shares and seconds > 0 else None
    # Only products run on the tensor cores: an addition's FLOPs are no part of what they could do.
    dense = [call.name for call, _ in workload.shares] == ["matmul"]
    estimated = sight.assessment.flops_per_second
    return Rates(
        dram_bytes_per_second=moved,
        dram_of_peak=moved / spec.dram_bytes_per_second if moved is not None and spec is not None else None,
        flops_per_second=flops,
        flops_of_peak=flops / roof.flops_per_second if dense and flops and roof is not None else None,
        flops_estimated_ratio=estimated.value / flops if dense and flops and estimated is not None else None,
    )


# --- of one workload -----------------------------------------------------------------------------


def checks_of(workload: Workload, sight: Sight, progress: Progress, bases: Bases) -> tuple[Check, ...]:
    """All that can be said of it."""
    checks = [check_class(workload, sight)]
    if workload.accepted_with_requests is not None:
        checks.append(_check_class_with_requests(workload, sight))
    if workload.dram_is_known:
        checks.append(check_dram(workload.name, traffic_of(workload, sight, progress), bases))
    if workload.resident is not None:
        checks.append(_check_kernel_time(workload, sight))
    return (*checks, *_notes(workload, sight, progress))


def check_class(workload: Workload, sight: Sight) -> Check:
    """The class with no engine known; without evidence it must be `unknown` and no guess."""
    verdict = sight.assessment.verdict
    if sight.window.evidence != "none":
        return _compare_class(workload, "class", verdict, workload.accepted)
    guessed = verdict.bottleneck != "unknown"
    return Check(
        subject=workload.name,
        claim="class",
        outcome="fail" if guessed else "skip",
        found=verdict.bottleneck,
        wanted="unknown, without counters",
        reason=verdict.reason,
    )


def _check_class_with_requests(workload: Workload, sight: Sight) -> Check:
    claim = "class, with requests"
    assert workload.accepted_with_requests is not None
    if sight.with_requests is None:
        return Check(subject=workload.name, claim=claim, outcome="skip", found="no counters")
    return _compare_class(workload, claim, sight.with_requests, workload.accepted_with_requests)


def _compare_class(workload: Workload, claim: str, verdict: Verdict, accepted: Sequence[Bottleneck]) -> Check:
    return Check(
        subject=workload.name,
        claim=claim,
        outcome="pass" if verdict.bottleneck in accepted else "fail",
        found=verdict.bottleneck,
        wanted=" or ".join(accepted),
        reason=f"{verdict.reason}; {workload.because}",
    )


def check_dram(subject: str, traffic: Traffic | None, bases: Bases) -> Check:
    """The counters' bytes, on the agent's own base, against those that were counted."""
    claim = "DRAM bytes"
    base = bases.catalogue
    if traffic is None:
        return Check(subject=subject, claim=claim, outcome="skip", found="no counters")
    if base is None:
        return Check(subject=subject, claim=claim, outcome="skip", found="the peak of this GPU is not known")
    highest = max(base, bases.clock or 0.0)
    counted_rate = traffic.counted_bytes / traffic.seconds
    if counted_rate > highest * (1 + PEAK_TOLERANCE):
        return Check(
            subject=subject,
            claim=claim,
            outcome="fail",
            found=f"{render_quantity(counted_rate, 'B/s')} counted",
            wanted=f"at most {render_quantity(highest, 'B/s')}",
            reason="more than DRAM can move: a cache has helped, or the peak is wrong",
        )
    deviation = traffic.deviation(base)
    return Check(
        subject=subject,
        claim=claim,
        outcome="pass" if abs(deviation) <= DRAM_TOLERANCE else "fail",
        found=f"{render_quantity(traffic.full_seconds * base, 'B')} measured, {deviation:+.1%}",
        wanted=f"{render_quantity(traffic.counted_bytes, 'B')} counted, within {DRAM_TOLERANCE:.0%}",
    )


def _check_kernel_time(workload: Workload, sight: Sight) -> Check:
    claim, ratio = "kernels resident", sight.window.kernel_time_ratio
    if ratio is None:
        return Check(subject=workload.name, claim=claim, outcome="skip", found="NVML does not tell")
    held = ratio >= MOST if workload.resident else ratio <= LITTLE
    return Check(
        subject=workload.name,
        claim=claim,
        outcome="pass" if held else "fail",
        found=f"{render_percent(ratio)} of the time",
        wanted=f"at least {MOST:.0%}" if workload.resident else f"at most {LITTLE:.0%}",
    )


def _notes(workload: Workload, sight: Sight, progress: Progress) -> list[Check]:
    """What the calls achieved of the peaks: no claim of the agent's, but its defaults are such figures."""
    rates = rates_of(workload, sight, progress)
    spec = sight.assessment.spec
    notes = []
    if rates.dram_bytes_per_second is not None:
        share = f", {render_percent(rates.dram_of_peak)} of the peak" if rates.dram_of_peak else ""
        notes.append(
            Check(
                subject=workload.name,
                claim="achieved",
                outcome="note",
                found=render_quantity(rates.dram_bytes_per_second, "B/s") + share,
                wanted=f"{spec.achievable_dram_ratio:.0%} is our default" if spec is not None else "",
            )
        )
    if rates.flops_of_peak is not None and rates.flops_per_second is not None:
        estimate = rates.flops_estimated_ratio
        notes.append(
            Check(
                subject=workload.name,
                claim="achieved",
                outcome="note",
                found=f"{render_quantity(rates.flops_per_second, 'FLOP/s')}, "
                f"{render_percent(rates.flops_of_peak)} of the peak",
                wanted=f"estimated from tensor activity: {estimate:.2f} times" if estimate else "",
            )
        )
    return notes


# --- of the whole run ----------------------------------------------------------------------------


def check_gpm(sights: Iterable[Sight], compute_capability: tuple[int, int] | None) -> Check:
    """Whether the counters answer; a GPU older than Hopper has none."""
    samples = [sample for sight in sights for sample in sight.samples]
    missing = [sample.reading for sample in samples if sample.reading.activity is None]
    claim, wanted = "GPM", "an answer each time"
    if not samples:
        return Check(subject="counters", claim=claim, outcome="fail", found="no reading", wanted=wanted)
    reason = missing[-1].activity_problem or "" if missing else ""
    if len(missing) == len(samples) and (compute_capability or (0, 0)) < GPM_CAPABILITY:
        return Check(subject="counters", claim=claim, outcome="skip", found="not on this GPU", reason=reason)
    answered = len(samples) - len(missing)
    # One answer in a hundred may be missing: NaN does occur.
    held = len(missing) <= len(samples) / 100
    return Check(
        subject="counters",
        claim=claim,
        outcome="pass" if held else "fail",
        found=f"{answered} of {len(samples)} readings have it",
        wanted=wanted,
        reason=reason,
    )


def better_base(traffics: Sequence[Traffic], bases: Bases) -> str | None:
    """``catalogue``, ``clock`` or ``alike``; `None` where there is no choice to make."""
    if not traffics or bases.catalogue is None or bases.clock is None:
        return None
    if abs(bases.clock / bases.catalogue - 1) < BASES_APART:
        return "alike"
    off = {
        name: statistics.fmean(abs(traffic.deviation(base)) for traffic in traffics)
        for name, base in (("catalogue", bases.catalogue), ("clock", bases.clock))
    }
    return min(off, key=lambda name: off[name])


def note_base(traffics: Sequence[Traffic], bases: Bases) -> Check:
    """Which peak the DRAM ratio is a ratio of."""
    better = better_base(traffics, bases)
    if better is None or bases.catalogue is None or bases.clock is None:
        return Check(
            subject="DRAM ratio", claim="its base", outcome="skip", found="nothing to choose between"
        )
    implied = statistics.fmean(traffic.implied_peak for traffic in traffics if traffic.implied_peak)
    return Check(
        subject="DRAM ratio",
        claim="its base",
        outcome="note",
        found="both bases are alike" if better == "alike" else f"the {better}'s fits better",
        wanted=f"implied {render_quantity(implied, 'B/s')}; catalogue "
        f"{render_quantity(bases.catalogue, 'B/s')}, clock {render_quantity(bases.clock, 'B/s')}",
    )


def check_costs(costs: Sequence[CallCost]) -> tuple[Check, ...]:
    """No call may be slow as a rule; one that was slow once is named."""
    checks = []
    for state in sorted({cost.state for cost in costs} - {"opening"}):
        mine = [cost for cost in costs if cost.state == state]
        dear = max(mine, key=lambda cost: cost.median_seconds)
        slow = [f"{cost.name} once {render_seconds(cost.max_seconds)}" for cost in mine if cost.is_slow]
        checks.append(
            Check(
                subject="NVML calls",
                claim=f"cost, {state} GPU",
                outcome="pass" if dear.median_seconds < SLOW_SECONDS else "fail",
                found=f"the dearest {render_seconds(dear.median_seconds)} ({dear.name})",
                wanted=f"medians below {render_seconds(SLOW_SECONDS)}",
                reason="; ".join(slow),
            )
        )
    return tuple(checks)


def note_reading(sights: Iterable[Sight], gpus: int) -> Check:
    """What our source takes for the whole node, Python's part included."""
    seconds = [sample.read_seconds for sight in sights for sample in sight.samples]
    claim, subject = "a whole reading", "NVML calls"
    if not seconds:
        return Check(subject=subject, claim=claim, outcome="skip", found="no reading")
    return Check(
        subject=subject,
        claim=claim,
        outcome="note",
        found=f"median {render_seconds(statistics.median(seconds))}, longest {render_seconds(max(seconds))}",
        wanted=f"{gpus} GPU{'s' if gpus != 1 else ''}, once a second in the agent",
    )


def check_nonroot(nonroot: NonRoot, *, we_read_gpm: bool) -> Check:
    """Whoever runs as nobody sees no less than we do."""
    claim, subject = "without privileges", "GPM"
    if nonroot.reads_gpm is None or (not nonroot.reads_gpm and not we_read_gpm):
        return Check(
            subject=subject, claim=claim, outcome="skip", found="not tried", reason=nonroot.problem or ""
        )
    return Check(
        subject=subject,
        claim=claim,
        outcome="pass" if nonroot.reads_gpm else "fail",
        found=f"uid {nonroot.uid} {'reads it' if nonroot.reads_gpm else 'does not'}",
        wanted="it reads it too",
        reason=nonroot.problem or "",
    )
