"""Hours that did nothing for anybody: clocks held down, failed requests, work done twice, broken GPUs."""

from __future__ import annotations

from collections.abc import Iterator

from agent.report.answers import Answers
from agent.report.document import ClockLoss, FaultCount, Losses, RequestLoss, Service
from agent.report.measured import Measured, hours, labels_of, ratio

HEAT = ("sw_thermal", "hw_thermal", "hw_slowdown")
POWER = ("sw_power_cap", "hw_power_brake")
FAILED = "error"
"""The outcome of a request that got no answer. One that its client gave up is not the engine's failure."""


PREEMPTED = (
    "engine_phase_seconds",
    "engine_prefill_tokens",
    "engine_cached_prompt_tokens",
    "engine_generation_tokens",
    "engine_requests",
    "engine_preemptions",
    "model_gpu_bottleneck_seconds",
)
"""What the estimate of work done twice is made of."""
WITHOUT_ANSWER = (FAILED, "abort")


def losses(measured: Measured, services: tuple[Service, ...]) -> Losses:
    """All of them; what did not happen is left out."""
    now = measured.now
    return Losses(
        clocks=tuple(sorted(_clocks(now), key=lambda row: -row.gpu_hours)),
        requests=tuple(
            sorted(_requests(now, services), key=lambda row: (-row.preemptions, -row.rejected, row.model))
        ),
        faults=tuple(sorted(_faults(now), key=lambda row: (row.kind, row.part))),
        unobserved_gpu_hours=hours(now["gpu_unobserved_seconds"].amount()),
    )


def _clocks(answers: Answers) -> Iterator[ClockLoss]:
    observed = answers["gpu_observed_seconds"]
    for (part, reason), seconds in answers["gpu_clock_limited_seconds"].by("part", "reason").items():
        if reason in (*HEAT, *POWER) and seconds > 0:
            yield ClockLoss(
                part=part,
                reason=reason,
                gpu_hours=hours(seconds),
                ratio=ratio(seconds, observed.value(part=part)) or 0.0,
            )


def _requests(answers: Answers, services: tuple[Service, ...]) -> Iterator[RequestLoss]:
    for row in services:
        labels = labels_of(row.key)
        outcomes = {
            outcome: count
            for (outcome,), count in answers["engine_requests"].by("outcome", **labels).items()
            if count and outcome in WITHOUT_ANSWER
        }
        rejected = answers["engine_rejected_requests"].amount(**labels)
        if not (outcomes or rejected or row.preemptions):
            continue
        yield RequestLoss(
            cluster=row.cluster,
            model=row.model,
            engine=row.engine,
            namespace=row.namespace,
            part=row.part,
            requests=row.requests,
            by_outcome=outcomes,
            rejected=rejected,
            failed_gpu_hours_estimate=_failed_hours(answers, row, outcomes.get(FAILED, 0.0)),
            preemptions=row.preemptions,
            preempted_gpu_hours_estimate=preempted_hours(answers, row, labels),
        )


def _failed_hours(answers: Answers, row: Service, failed: float) -> float | None:
    if answers.lack("engine_requests", "model_gpu_bottleneck_seconds"):
        return None
    share = ratio(failed, row.requests)
    return None if share is None else share * (row.gpu_hours - row.hours_by_class["idle"])


def preempted_hours(answers: Answers, row: Service, labels: dict[str, str]) -> float | None:
    """GPU hours, at the speed of this service's own prefill."""
    if answers.lack(*PREEMPTED):
        return None
    phases = answers["engine_phase_seconds"]
    prefill, decode = phases.value(phase="prefill", **labels), phases.value(phase="decode", **labels)
    if not prefill or decode is None or not row.prefill_tokens or not row.requests:
        return None
    prefill_hours = (row.gpu_hours - row.hours_by_class["idle"]) * prefill / (prefill + decode)
    prompt = (row.prefill_tokens + row.cached_prompt_tokens) / row.requests
    again = prompt + row.generation_tokens / row.requests / 2
    # What was computed again is among all that was: at most all of it.
    return min(row.preemptions * again / row.prefill_tokens, 1.0) * prefill_hours


def _faults(answers: Answers) -> Iterator[FaultCount]:
    for (part, xid), count in answers["gpu_xid_errors"].by("part", "xid").items():
        if count >= 0.5:
            yield FaultCount(part=part, kind=f"xid {xid}", count=count)
    for (part, severity), count in answers["gpu_ecc_errors"].by("part", "severity").items():
        if count >= 0.5 and severity == "uncorrected":
            yield FaultCount(part=part, kind=f"ecc {severity}", count=count)
