"""One record a point: for programs, and for whoever chooses by their own rule."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agent.planning.sizing import Forecast, Sizing
from agent.roofline.planner import Plan

COLUMNS: Mapping[str, Callable[[Plan], Any]] = {
    # as asked
    "model": lambda plan: plan.point.model,
    "gpu": lambda plan: plan.point.gpu,
    "tensor_parallel": lambda plan: plan.point.tensor_parallel,
    "pipeline_parallel": lambda plan: plan.point.pipeline_parallel,
    "expert_parallel": lambda plan: plan.point.expert_parallel,
    "phase": lambda plan: plan.point.phase,
    "batch": lambda plan: plan.point.batch,
    "context": lambda plan: plan.point.context if plan.point.phase == "decode" else plan.point.prompt_length,
    "weight_dtype": lambda plan: plan.point.weight_dtype or plan.model.weight_dtype.name,
    "kv_dtype": lambda plan: plan.point.kv_dtype or plan.model.kv_dtype.name,
    "backend": lambda plan: plan.point.backend,
    # as answered
    "arithmetic_intensity_flops_per_byte": lambda plan: plan.arithmetic_intensity_flops_per_byte,
    "ridge_flops_per_byte": lambda plan: plan.ridge_flops_per_byte,
    "bottleneck": lambda plan: plan.bottleneck,
    "step_seconds_bound": lambda plan: plan.step_seconds_bound,
    "step_seconds_expected": lambda plan: plan.step_seconds_expected,
    "tokens_per_second": lambda plan: plan.tokens_per_second,
    "kv_limited_batch": lambda plan: plan.kv_limited_batch,
    "usd_per_million_tokens": lambda plan: plan.usd_per_million_tokens,
    # beside it
    "gpu_name": lambda plan: plan.spec.name,
    "gpus": lambda plan: plan.gpus,
    "gpus_needed": lambda plan: plan.gpus_needed,
    "fits": lambda plan: plan.fits,
    "ridge_batch": lambda plan: plan.ridge_batch,
    "ttft_seconds_bound": lambda plan: plan.ttft.bound,
    "ttft_seconds_expected": lambda plan: plan.ttft.expected,
    "tpot_seconds_bound": lambda plan: plan.tpot.bound,
    "tpot_seconds_expected": lambda plan: plan.tpot.expected,
    "usd_per_hour": lambda plan: plan.usd_per_hour,
    "usd_per_million_tokens_floor": lambda plan: plan.usd_per_million_tokens_floor,
    "notes": lambda plan: "; ".join(plan.notes),
}


def record_of(plan: Plan) -> dict[str, Any]:
    """One record; what cannot be said is `None`."""
    return {name: value(plan) for name, value in COLUMNS.items()}


LIVE_COLUMNS: Mapping[str, Callable[[Forecast, Sizing], Any]] = {
    # as planned for the traffic
    "replicas": lambda _, sizing: sizing.replicas,
    "gpus_planned": lambda _, sizing: sizing.gpus,
    "tpot_seconds_planned": lambda _, sizing: sizing.tpot_seconds,
    "usd_per_million_generated_tokens_planned": lambda _, sizing: sizing.usd_per_million_tokens,
    # as it is
    "gpus_today": lambda live, _: live.mix.gpus,
    "usd_per_million_generated_tokens_today": lambda live, _: live.today_usd_per_million_tokens,
    "requests_per_second": lambda live, _: live.mix.requests_per_second,
    "computed_prompt_tokens_per_second": lambda live, _: live.mix.prefill_tokens_per_second,
    "cached_prompt_ratio": lambda live, _: live.mix.cached_ratio,
    "generation_tokens_per_second": lambda live, _: live.mix.generation_tokens_per_second,
    "prompt_tokens": lambda live, _: live.mix.prompt_tokens,
    "output_tokens": lambda live, _: live.mix.output_tokens,
    "decode_batch_today": lambda live, _: live.mix.decode_batch,
    # predictions for today, and what came
    "ttft_seconds_predicted": lambda live, _: live.today and live.today.ttft.expected,
    "ttft_seconds_p50": lambda live, _: live.mix.ttft.p50,
    "ttft_seconds_p99": lambda live, _: live.mix.ttft.p99,
    "tpot_seconds_predicted": lambda live, _: live.today and live.today.tpot.expected,
    "tpot_seconds_p50": lambda live, _: live.mix.tpot.p50,
    "tpot_seconds_p99": lambda live, _: live.mix.tpot.p99,
}


def live_record(live: Forecast, sizing: Sizing, plan: Plan) -> dict[str, Any]:
    """One record of a plan for live traffic."""
    return record_of(plan) | {name: value(live, sizing) for name, value in LIVE_COLUMNS.items()}


def render_json(records: Sequence[Mapping[str, Any]]) -> str:
    """A list of objects."""
    return json.dumps(records, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def render_csv(records: Sequence[Mapping[str, Any]]) -> str:
    """With the first record's names as its header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()
