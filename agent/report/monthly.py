"""The review, computed from what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from agent import __version__
from agent.report.accounts import classes, days, parts, totals
from agent.report.answers import Answers
from agent.report.attainment import attainments
from agent.report.document import Period, Problem, Query, Review, Selection
from agent.report.identities import identities
from agent.report.losses import losses
from agent.report.measured import Measured
from agent.report.offenders import offenders
from agent.report.period import Span, instant
from agent.report.positions import rooflines
from agent.report.prices import NEEDED as NEEDED_FOR_PRICES
from agent.report.quality import quality
from agent.report.questions import QUESTIONS
from agent.report.right_sizing import NEEDED as NEEDED_FOR_SIZES
from agent.report.right_sizing import right_sizing
from agent.report.services import groups, services, trends
from agent.report.summary import summary

SOURCES: Mapping[str, tuple[str, ...]] = {
    "quality": (
        "recorded",
        "node_recorded",
        "gpu_observed_seconds",
        "gpu_unobserved_seconds",
        "gpu_evidence_seconds",
        "gpu_evidence_contradicted_seconds",
        "engine_agreement_steps",
        "engine_known_steps",
    ),
    "totals": (
        "gpu_observed_seconds",
        "gpu_bottleneck_seconds",
        "gpu_idle_held_seconds",
        "gpu_cost_usd",
        "gpu_bottleneck_cost_usd",
        "gpu_idle_cost_usd",
        "gpu_unattributed_cost_usd",
        "engine_generation_tokens",
        "engine_prefill_tokens",
        "engine_cached_prompt_tokens",
        "engine_requests",
        "gpu_energy_joules",
        "engine_energy_joules",
        *NEEDED_FOR_PRICES,
    ),
    "classes": ("gpu_bottleneck_seconds", "gpu_bottleneck_cost_usd"),
    "parts": (
        "gpu_observed_seconds",
        "gpu_bottleneck_seconds",
        "gpu_cost_usd",
        "gpu_idle_cost_usd",
        "gpu_unattributed_cost_usd",
        "engine_generation_tokens",
        "gpu_energy_joules",
        "gpu_dram_active_seconds",
        "gpu_tensor_active_seconds",
        "gpu_evidence_seconds",
        *NEEDED_FOR_PRICES,
    ),
    "services": (
        "model_gpu_bottleneck_seconds",
        "engine_cost_usd",
        "engine_generation_tokens",
        "engine_prefill_tokens",
        "engine_cached_prompt_tokens",
        "engine_requests",
        "engine_energy_joules",
        "engine_flops",
        "engine_dram_bytes",
        "engine_known_steps",
        "engine_decode_sequence_steps",
        "engine_ridge_sequence_steps",
        "engine_kv_limited_sequence_steps",
        "max_num_seqs",
        "engine_preemptions",
        *NEEDED_FOR_PRICES,
    ),
    "groups": (
        "model_gpu_bottleneck_seconds",
        "engine_cost_usd",
        "engine_generation_tokens",
        "gpu_bottleneck_seconds",
        "gpu_unattributed_cost_usd",
        *NEEDED_FOR_PRICES,
    ),
    "days": (
        "recorded",
        "gpu_observed_seconds",
        "gpu_bottleneck_seconds",
        "gpu_cost_usd",
        "gpu_idle_cost_usd",
        "engine_generation_tokens",
        "engine_energy_joules",
        *NEEDED_FOR_PRICES,
    ),
    "trends": (
        "engine_cost_usd",
        "engine_energy_joules",
        "engine_generation_tokens",
        *NEEDED_FOR_PRICES,
    ),
    "rooflines": (
        "hourly_engine_flops",
        "hourly_engine_dram_bytes",
        "hourly_busy_seconds",
        "model_gpu_bottleneck_seconds",
        "engines",
    ),
    "losses": (
        "gpu_clock_limited_seconds",
        "engine_requests",
        "engine_rejected_requests",
        "engine_preemptions",
        "engine_phase_seconds",
        "engine_prefill_tokens",
        "gpu_xid_errors",
        "gpu_ecc_errors",
        "gpu_unobserved_seconds",
    ),
    "slos": ("engine_slo_events", "engine_slo_good_events", "slo_objective"),
    "right_sizing": (*NEEDED_FOR_SIZES, *NEEDED_FOR_PRICES),
    "offenders": (
        "model_gpu_bottleneck_seconds",
        "engine_cost_usd",
        "node_gpu_unattributed_cost_usd",
        "node_gpu_clock_limited_seconds",
        "node_gpu_unobserved_seconds",
        *NEEDED_FOR_PRICES,
    ),
    "identities": (
        "gpu_bottleneck_seconds",
        "gpu_observed_seconds",
        "node_gpu_bottleneck_seconds",
        "gpu_evidence_seconds",
        "gpu_bottleneck_cost_usd",
        "gpu_idle_cost_usd",
        "gpu_cost_usd",
        "engine_cost_usd",
        "gpu_unattributed_cost_usd",
    ),
}
"""By section, the questions that its numbers come from."""


def review(
    measured: Measured,
    *,
    source: str,
    selection: Selection,
    matchers: str,
    generated_at: datetime,
    configs: Mapping[str, Mapping[str, Any]],
) -> Review:
    """Everything, as a document; `matchers` chose the series."""
    now = measured.now
    problems = (*_problems(now), *_problems(measured.before))
    believed = quality(measured, is_complete=not problems)
    whole = totals(now)
    before = totals(measured.before) if measured.has_before else None
    by_class, by_part, served = classes(measured), parts(measured), services(measured)
    lost, slos = losses(measured, served), attainments(measured)
    sizes = right_sizing(measured, served, believed, configs)
    worst = offenders(measured, served, sizes, lost)
    return Review(
        agent_version=__version__,
        generated_at=generated_at,
        source=source,
        period=_period(measured.name, measured.span),
        previous=_period(measured.before_name, measured.before.span) if measured.has_before else None,
        selection=selection,
        is_complete=not problems,
        problems=problems,
        quality=believed,
        summary=summary(measured, whole, before, by_class, served, slos, sizes, worst),
        totals=whole,
        previous_totals=before,
        previous_coverage_ratio=measured.coverage_before,
        classes=by_class,
        parts=by_part,
        services=served,
        groups=groups(measured, served),
        days=days(measured),
        trends=trends(measured, served),
        rooflines=rooflines(measured),
        losses=lost,
        slos=slos,
        right_sizing=sizes,
        offenders=worst,
        identities=identities(measured, whole, served),
        sources=dict(SOURCES),
        queries=tuple(
            Query(
                id=question.id,
                what=question.what,
                unit=question.unit,
                promql=question.promql(measured.span.seconds, matchers),
                at=instant(measured.span.end),
            )
            for question in QUESTIONS
        ),
    )


def _period(name: str, span: Span) -> Period:
    return Period(name=name, start=instant(span.start), end=instant(span.end), hours=span.hours)


def _problems(answers: Answers) -> Iterator[Problem]:
    for answer in answers.by_id.values():
        for piece in answer.missing:
            yield Problem(
                what=answer.question.what,
                message=piece.reason,
                queries=(answer.question.id,),
                start=instant(piece.span.start),
                end=instant(piece.span.end),
            )
