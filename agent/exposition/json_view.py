"""The assessment as a JSON document: what other programs, the terminal view among them, read.

A contract: fields are listed by name, so that a change inside the agent does not change the document
unnoticed. Numbers are in base units as their names say; what is not known is null.
"""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from agent.advice.model import Advice
from agent.advice.node import advise_node
from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.exposition.headline import faults, headline, notes
from agent.readings import (
    Absent,
    EngineReading,
    Failed,
    GpuAllocation,
    Histogram,
    PodContainer,
    ServerReading,
)
from agent.roofline.bottleneck import Verdict
from agent.roofline.roof import Roof
from agent.sources.base import SourceState
from agent.tiers import TierStatus
from agent.window import EngineTotals

SCHEMA_VERSION = 1
"""Raised when a field is renamed, removed or changes its meaning; new fields leave it as it is."""


def assessment_document(assessment: Assessment, *, age_seconds: float = 0.0) -> dict[str, Any]:
    """The whole node as plain JSON values: no NaN, no infinity, keys are strings.

    `age_seconds` is how long ago it was concluded, for who reads it by another clock.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "age_seconds": _plain(age_seconds),
        **_fields(
            assessment,
            "node at_unix_seconds started_unix_seconds interval_seconds driver_version",
        ),
        "configuration": _fields(assessment.configuration, "loaded_unix_seconds problems"),
        "headline": " ".join(clause.text + clause.mark for clause in headline(assessment)),
        "notes": list(notes(assessment)),
        "advice": [_advice(advice) for advice in advise_node(assessment)],
        "gpus": [_gpu(gpu) for gpu in assessment.gpus],
        "engines": [_engine(engine) for engine in assessment.engines],
        "allocations": [_allocation(one) for one in assessment.allocations],
        "tiers": [_tier(status) for status in assessment.tiers],
        "unclear": list(assessment.notes),
        "sources": [_source(source, assessment.at_seconds) for source in assessment.sources],
    }


class AssessmentPage:
    """The document as bytes, made once for an assessment: only its age is of each request."""

    def __init__(self) -> None:
        self._made: tuple[Assessment, str] | None = None
        # Requests that come together share one making.
        self._lock = threading.Lock()

    def render(self, assessment: Assessment, *, age_seconds: float) -> bytes:
        """As of `assessment_document`."""
        with self._lock:
            if self._made is None or self._made[0] is not assessment:
                document = assessment_document(assessment)
                del document["age_seconds"]
                self._made = assessment, json.dumps(document, allow_nan=False)
            text = self._made[1]
        age = json.dumps({"age_seconds": _plain(age_seconds)}, allow_nan=False)
        return f"{age.removesuffix('}')}, {text.removeprefix('{')}".encode()


def _allocation(one: GpuAllocation) -> dict[str, Any]:
    return {**_fields(one, "uuid attribution"), "container": _container(one.container)}


def _container(container: PodContainer | None) -> Any:
    return _fields(container, "namespace pod container")


def _tier(status: TierStatus) -> dict[str, Any]:
    return {
        "name": status.tier.name,
        **_fields(status, "enabled found notes"),
        "missing": None if status.enabled else status.tier.missing,
        "needs": status.tier.needs,
    }


def _advice(advice: Advice) -> dict[str, Any]:
    return {
        **_fields(advice, "kind engines gpus subject title reason evidence wrong_when after expected"),
        "benefit_gpus": _plain(advice.benefit_gpus),
        "effect": _fields(
            advice.effect,
            "tokens_per_second_ratio seconds_per_token_ratio usd_per_million_tokens_ratio batch kv_tokens "
            "bytes_freed gpus_freed usd_per_hour_saved",
        ),
    }


def _gpu(gpu: GpuAssessment) -> dict[str, Any]:
    return {
        **_fields(
            gpu,
            "index number uuid name up problem partitioned compute_dtype compute_clock_ratio "
            "memory_clock_ratio",
        ),
        **_fields(gpu, "flops_per_second dram_bytes_per_second intensity attained_ratio throttle"),
        "faults": list(faults(gpu.health)),
        "verdict": _verdict(gpu.verdict),
        "roofs": _roofs(gpu),
        "reading": _fields(
            gpu.reading,
            "memory_total_bytes memory_used_bytes memory_free_bytes memory_reserved_bytes power_watts "
            "power_limit_watts energy_joules temperature_celsius sm_clock_hertz sm_clock_max_hertz "
            "memory_clock_hertz memory_clock_max_hertz kernel_time_ratio memory_time_ratio "
            "clock_limit_reasons activity_problem power_instant_watts memory_temperature_celsius "
            "memory_origin virtualization mig counters processes",
        ),
        "health": _fields(
            gpu.health,
            "ecc_corrected_errors ecc_uncorrected_errors remapped_rows_corrected remapped_rows_uncorrected "
            "row_remap_pending row_remap_failed recovery_action fabric_state fabric_health xid_errors "
            "last_xid_unix_seconds",
        ),
        "window": _fields(
            gpu.window,
            "seconds evidence evidence_by_ratio dram_ratio tensor_ratio sm_ratio graphics_ratio "
            "kernel_time_ratio",
        ),
        "engines": [{"server": key.server, "rank": key.rank} for key in gpu.engines],
        "totals": {
            **_fields(
                gpu.totals, "observed_seconds unobserved_seconds bottleneck_seconds contradicted_seconds"
            ),
            **_fields(gpu.totals, "link_bytes clock_limited_seconds"),
            **_fields(gpu.totals, "evidence_seconds active_seconds dram_bytes flops"),
            **_fields(gpu.totals, "cost_usd idle_cost_usd unattributed_cost_usd"),
        },
        "history": [_fields(span, "start_unix_seconds end_unix_seconds bottleneck") for span in gpu.history],
    }


def _roofs(gpu: GpuAssessment) -> dict[str, Any] | None:
    """By compute dtype: the datasheet's, and as now clocked."""
    if gpu.spec is None:
        return None
    return {
        "part": gpu.spec.name,
        "origin": gpu.spec.origin,
        "peak_dram_bytes_per_second": gpu.spec.dram_bytes_per_second,
        "current_dram_bytes_per_second": gpu.spec.dram_bytes_per_second * gpu.memory_clock_ratio,
        "by_dtype": {
            dtype: {"peak": _roof(gpu.peak_roof(dtype)), "current": _roof(gpu.current_roof(dtype))}
            for dtype in gpu.spec.flops_per_second
        },
    }


def _roof(roof: Roof | None) -> Any:
    return _fields(roof, "flops_per_second dram_bytes_per_second ridge_flops_per_byte")


def _engine_reading(reading: EngineReading | None) -> dict[str, Any] | None:
    if reading is None:
        return None
    return {
        **_fields(
            reading,
            "version start_time_seconds requests_running requests_waiting requests_in_flight kv_used_ratio "
            "kv_capacity_tokens kv_block_tokens",
        ),
        **_fields(reading.facts, "kv_dtype max_num_seqs"),
        **_fields(reading, "gauge_age_seconds role"),
    }


def _engine(engine: EngineAssessment) -> dict[str, Any]:
    work = engine.work
    return {
        **_fields(engine.key, "server rank"),
        **_fields(engine, "engine model up problem gpu_uuids placed_by served_origin busy_ratio"),
        "container": _container(engine.container),
        "verdict": _verdict(engine.verdict),
        "served": None
        if engine.served is None
        else {
            **_fields(
                engine.served, "name tensor_parallel pipeline_parallel weight_bytes kv_bytes_per_token"
            ),
            "weight_dtype": engine.served.weight_dtype.name,
            "kv_dtype": engine.served.kv_dtype.name,
            "compute_dtype": engine.compute_dtype,
            "total_parameters": engine.served.architecture.total_parameters,
        },
        "reading": _engine_reading(engine.reading),
        "window": _fields(
            engine.window,
            "seconds increments running_mean running_ratio waiting_mean held_tokens_mean seconds_since_step",
        ),
        "traffic": _fields(
            engine.traffic, "role decode_batch context_tokens prompt_tokens decode_step_seconds steps_counted"
        ),
        "phases": None
        if work is None
        else {
            phase: _fields(
                part, "flops weight_bytes kv_cache_bytes activation_bytes intensity_flops_per_byte"
            )
            for phase, part in (("prefill", work.prefill), ("decode", work.decode))
        },
        "roof": _roof(engine.roof),
        "attribution": _fields(
            engine.attribution,
            "components shares prefill_seconds decode_seconds busy_seconds residual_ratio",
        ),
        "kv": _fields(
            engine.kv,
            "used_ratio headroom_ratio capacity_tokens free_tokens free_bytes seconds_to_full limited_batch",
        ),
        **_fields(engine, "limiter limiter_reason max_num_seqs ridge_flops_per_byte ridge_batch"),
        **_fields(engine, "max_intensity_flops_per_byte agreement_ratio interference_ratio"),
        **_fields(engine, "generation_tokens_per_second prefill_tokens_per_second"),
        **_fields(engine, "usd_per_hour usd_per_million_tokens"),
        "totals": _engine_totals(engine.totals),
        "work_totals": _fields(
            engine.work_totals,
            "flops dram_bytes step_seconds phase_seconds observed_seconds cost_usd remote_cost_usd "
            "energy_joules",
        ),
    }


def _engine_totals(totals: EngineTotals) -> dict[str, Any]:
    return {
        "counters": _plain(totals.counters),
        "histograms": {name: _histogram(histogram) for name, histogram in totals.histograms.items()},
    }


def _histogram(histogram: Histogram) -> dict[str, Any]:
    """The last count is of all observations: its bound, +Inf, has no place in JSON and is left out."""
    return {
        "bounds": list(histogram.bounds[:-1]),
        "cumulative": list(histogram.cumulative),
        "sum": _plain(histogram.sum),
    }


def _verdict(verdict: Verdict) -> Any:
    return _fields(verdict, "bottleneck confidence_ratio evidence reason shares")


def _source(source: SourceState[Any], now_seconds: float) -> dict[str, Any]:
    outcome, success = source.outcome, source.last_success
    return {
        **_fields(source, "name up interval_seconds last_success_unix_seconds read_duration_seconds"),
        **_fields(source, "reads failures"),
        "absent": isinstance(outcome, Absent),
        "reason": outcome.reason if isinstance(outcome, Failed) else None,
        "message": outcome.message if isinstance(outcome, Failed | Absent) else None,
        "age_seconds": None if success is None else _plain(now_seconds - success.at_seconds),
        "problems": list(success.reading.problems)
        if success is not None and isinstance(success.reading, ServerReading)
        else [],
    }


def _fields(value: Any, names: str) -> Any:
    """The named attributes, plain; null where there is nothing to take them from."""
    return None if value is None else {name: _plain(getattr(value, name)) for name in names.split()}


def _plain(value: Any) -> Any:
    """JSON's own types; a number that is none becomes null. Keys of two parts become two levels."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        nested: dict[str, Any] = {}
        for key, item in value.items():
            *outer, last = key if isinstance(key, tuple) else (key,)
            level = nested
            for part in outer:
                level = level.setdefault(part, {})
            level[str(last)] = _plain(item)
        return nested
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return value
