"""Reviews written by hand: a month with a throttled week, and its variants.

What sums up in a real one sums up here, so that a chart or a table that drops something is seen.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

from agent.report.document import (
    CLASSES,
    Alternative,
    Attainment,
    Batch,
    Cell,
    ClassTime,
    ClockLoss,
    Day,
    Disagreement,
    EvidenceShare,
    FaultCount,
    Gap,
    Group,
    Identity,
    Losses,
    Offender,
    PartTime,
    Period,
    Problem,
    Quality,
    Query,
    RequestLoss,
    Review,
    RightSizing,
    Roofline,
    Selection,
    Service,
    Totals,
    Trend,
)

START = datetime(2026, 11, 1, tzinfo=UTC)
END = datetime(2026, 12, 1, tzinfo=UTC)
DAYS = tuple((START + timedelta(days=number)).date() for number in range(30))
HOURS = 720.0
THROTTLED = range(8, 15)
"""9 to 15 November."""
HALF_RECORDED = 21

USD = {"H100-SXM5-80GB": 2.99, "H200-SXM": 3.79, "L40S": 0.99}
FLEET = {"H100-SXM5-80GB": 32.0, "H200-SXM": 16.0, "L40S": 12.0}
ROOFS = {
    "H100-SXM5-80GB": ("bf16", 989.4e12, 3.35e12),
    "H200-SXM": ("fp8", 1979e12, 4.8e12),
    "L40S": ("bf16", 362.05e12, 0.864e12),
}

# model, engine, part, namespace, GPUs, (memory, compute, interconnect, kernel, host, idle, unknown) in
# percent, output M tokens, prompt M tokens, batch (mean, ridge, KV limit, max_num_seqs), weights %, requests
_SERVED: tuple[tuple[Any, ...], ...] = (
    ("llama-3.1-70b-instruct", "vllm", "H100-SXM5-80GB", "chat", 16.0, (44, 9, 13, 3, 4, 26, 1),
     21_400, 96_300, (14.2, 340.0, 118.0, 256.0), 83, 61.2e6, 1.12),
    ("deepseek-v3-0324", "sglang", "H200-SXM", "agents", 16.0, (31, 22, 24, 2, 6, 13, 2),
     30_900, 211_000, (61.0, None, 402.0, 512.0), 58, 22.8e6, 0.97),
    ("qwen2.5-32b-instruct-awq", "vllm", "H100-SXM5-80GB", "search", 8.0, (18, 6, 0, 4, 5, 66, 1),
     3_150, 28_700, (5.1, 190.0, 240.0, 128.0), 91, 19.4e6, 1.31),
    ("llama-3.1-8b-instruct", "vllm", "L40S", "support", 8.0, (52, 7, 0, 8, 9, 24, 0),
     9_720, 31_500, (22.6, 420.0, 96.0, 64.0), 74, 40.1e6, 1.02),
    ("mistral-small-24b", "llamacpp", "L40S", "internal-tools", 3.0, (12, 0, 0, 2, 3, 83, 0),
     96, 410, (1.2, 410.0, 4.0, 4.0), 96, 0.31e6, None),
)  # fmt: skip
_NAMES = CLASSES[:7]
_UNHELD = {
    "H100-SXM5-80GB": {"idle": 0.58, "compute": 0.27, "unknown": 0.15},
    "H200-SXM": {},
    "L40S": {"idle": 1.0},
}
"""What GPUs that no engine holds did; of the L40S one is left, of the H100 eight."""


def _weight(number: int, name: str) -> float:
    """How much of a class there was on a day, against the mean: weekends idle, and a week is throttled."""
    weekend = DAYS[number].weekday() >= 5
    if name == "idle":
        return 1.55 if weekend else 0.86
    return 0.72 if weekend else 1.0


def _split(gpu_hours: dict[str, float], recorded: list[float]) -> list[dict[str, float]]:
    """Hours by class for each day, such that they sum up again."""
    total = sum(gpu_hours.values())
    days = []
    for number, part in enumerate(recorded):
        weights = {name: each * _weight(number, name) for name, each in gpu_hours.items()}
        scale = total * part / sum(recorded) / sum(weights.values())
        days.append({name: each * scale for name, each in weights.items()})
    whole: dict[str, float] = {name: sum(each[name] for each in days) for name in gpu_hours}
    return [
        {name: each[name] * gpu_hours[name] / whole[name] for name in each if whole[name]} for each in days
    ]


def _query(key: str, what: str, unit: str, promql: str) -> Query:
    return Query(id=key, what=what, unit=unit, promql=promql, at=END)


QUERIES = (
    _query(
        "gpu_observed_seconds",
        "seconds that GPUs were observed",
        "s",
        "sum by (part) (sum_over_time(roofline:gpu:observed_seconds:increase5m[30d]))",
    ),
    _query(
        "gpu_class_seconds",
        "seconds by class",
        "s",
        "sum by (part, bottleneck) (sum_over_time(roofline:gpu:bottleneck_seconds:increase5m[30d]))",
    ),
    _query(
        "gpu_cost",
        "what was paid",
        "USD",
        "sum by (part) (sum_over_time(roofline:gpu:cost_usd:increase5m[30d]))",
    ),
    _query(
        "engine_tokens",
        "tokens of output",
        "tokens",
        (
            "sum by (model, engine, part, namespace) "
            "(sum_over_time(roofline:engine:generation_tokens:increase5m[30d]))"
        ),
    ),
    _query(
        "engine_energy",
        "energy of engines",
        "J",
        "sum by (model, part) (sum_over_time(roofline:engine:energy_joules:increase5m[30d]))",
    ),
    _query(
        "engine_batch",
        "decode’s batch",
        "sequences",
        "sum_over_time(roofline:engine:decode_batch_sum:increase5m[30d]) / "
        "sum_over_time(roofline:engine:decode_steps:increase5m[30d])",
    ),
    _query(
        "clock_limited",
        "seconds of lowered clocks",
        "s",
        "sum by (part, reason) (sum_over_time(roofline:gpu:clock_limited_seconds:increase5m[30d]))",
    ),
    _query(
        "slo_good",
        "good events",
        "events",
        "sum by (model, slo) (sum_over_time(roofline:engine:slo_good_events:increase5m[30d]))",
    ),
    _query(
        "recorded",
        "intervals with any sample",
        "intervals",
        'count_over_time(max(roofline:gpu:observed_seconds:increase5m{cluster=~".+"})[30d:5m])',
    ),
)
SOURCES = {
    "totals": ("gpu_observed_seconds", "gpu_cost", "engine_tokens", "engine_energy"),
    "classes": ("gpu_class_seconds", "gpu_cost"),
    "parts": ("gpu_observed_seconds", "gpu_cost"),
    "days": ("gpu_class_seconds", "recorded"),
    "services": ("engine_tokens", "gpu_cost", "engine_energy"),
    "trends": ("engine_tokens", "gpu_cost", "engine_energy"),
    "groups": ("engine_tokens", "gpu_cost"),
    "rooflines": ("engine_tokens", "gpu_class_seconds"),
    "batch": ("engine_batch",),
    "losses": ("clock_limited",),
    "slos": ("slo_good",),
    "right_sizing": ("engine_tokens",),
    "offenders": ("gpu_class_seconds", "gpu_cost"),
    "quality": ("recorded",),
    "identities": ("gpu_observed_seconds", "gpu_class_seconds"),
}


def _recorded() -> list[float]:
    return [0.5 if number == HALF_RECORDED else 1.0 for number in range(30)]


def _service(row: tuple[Any, ...]) -> Service:
    model, engine, part, namespace, gpus, shares, output, prompt, batch, weights, requests, trend = row
    gpu_hours = gpus * (HOURS - 12)
    usd = gpu_hours * USD[part]
    by_class = {name: gpu_hours * share / 100 for name, share in zip(_NAMES, shares, strict=True) if share}
    idle = by_class["idle"] / gpu_hours
    joules = gpu_hours * 3600 * {"H100-SXM5-80GB": 430, "H200-SXM": 520, "L40S": 210}[part] * (1 - idle * 0.7)
    return Service(
        cluster="prod-eu",
        model=model,
        engine=engine,
        part=part,
        namespace=namespace,
        gpus=gpus,
        gpu_hours=gpu_hours,
        hours_by_class=by_class,
        usd=usd,
        remote_usd=None,
        idle_usd=usd * idle,
        prefill_usd=usd * (1 - idle) * 0.28,
        decode_usd=usd * (1 - idle) * 0.72,
        generation_tokens=output * 1e6,
        prefill_tokens=prompt * 0.7e6,
        cached_prompt_tokens=prompt * 0.3e6,
        requests=requests,
        usd_per_million_tokens=usd / output,
        usd_per_million_tokens_without_idle=usd * (1 - idle) / output,
        previous_usd_per_million_tokens=None if trend is None else usd / output / trend,
        joules_per_million_tokens=joules / output,
        previous_joules_per_million_tokens=None if trend is None else joules / output / trend,
        flops=output * 1.4e17,
        dram_bytes=output * 1.1e16,
        intensity_flops_per_byte=12.7,
        batch=Batch(mean=batch[0], ridge=batch[1], kv_limit=batch[2], max_num_seqs=batch[3]),
        weights_ratio=weights / 100,
        preemptions=1840.0 if model.startswith("deepseek") else 0.0,
    )


SERVICES = tuple(sorted((_service(row) for row in _SERVED), key=lambda each: -(each.usd or 0.0)))


def _hours_by_part() -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for part, gpus in FLEET.items():
        by_class: dict[str, float] = {}
        held = 0.0
        for service in SERVICES:
            if service.part == part:
                held += service.gpu_hours
                for name, each in service.hours_by_class.items():
                    by_class[name] = by_class.get(name, 0.0) + each
        rest = gpus * (HOURS - 12) - held
        for name, share in _UNHELD[part].items():
            by_class[name] = by_class.get(name, 0.0) + rest * share
        found[part] = by_class
    return found


BY_PART = _hours_by_part()
BY_CLASS = {
    name: sum(by_class.get(name, 0.0) for by_class in BY_PART.values())
    for name in CLASSES
    if any(name in by_class for by_class in BY_PART.values())
}
USD_BY_CLASS = {
    name: sum(by_class.get(name, 0.0) * USD[part] for part, by_class in BY_PART.items()) for name in BY_CLASS
}
GPU_HOURS = sum(BY_CLASS.values())
PAID = sum(USD_BY_CLASS.values())
OUTPUT = sum(each.generation_tokens for each in SERVICES)
_PREVIOUS_RATIOS = {
    "memory_bandwidth": 0.33,
    "compute": 0.12,
    "interconnect": 0.105,
    "kernel_latency": 0.03,
    "host": 0.045,
    "idle": 0.35,
    "unknown": 0.02,
}


def _totals(scale: float = 1.0, token_scale: float = 1.0) -> Totals:
    idle = BY_CLASS["idle"] * scale
    joules = sum((each.joules_per_million_tokens or 0.0) * each.generation_tokens / 1e6 for each in SERVICES)
    held = sum(each.usd or 0.0 for each in SERVICES)
    return Totals(
        nodes=8.75,
        gpus=sum(FLEET.values()) * scale,
        gpu_hours=GPU_HOURS * scale,
        idle_gpu_hours=idle,
        idle_held_gpu_hours=sum(each.hours_by_class["idle"] for each in SERVICES) * scale,
        paid_usd=PAID * scale,
        used_usd=(PAID - USD_BY_CLASS["idle"]) * scale,
        idle_usd=USD_BY_CLASS["idle"] * scale,
        unallocated_usd=0.0,
        unattributed_usd=(PAID - held) * scale,
        generation_tokens=OUTPUT * token_scale,
        prefill_tokens=sum(each.prefill_tokens for each in SERVICES) * token_scale,
        cached_prompt_tokens=sum(each.cached_prompt_tokens for each in SERVICES) * token_scale,
        requests=sum(each.requests for each in SERVICES) * token_scale,
        usd_per_million_tokens=PAID * scale / (OUTPUT * token_scale / 1e6),
        energy_joules=joules * 1.09 * scale,
        joules_per_million_tokens=joules * scale / (OUTPUT * token_scale / 1e6),
    )


def _parts() -> tuple[PartTime, ...]:
    parts = []
    for part, by_class in BY_PART.items():
        gpu_hours = sum(by_class.values())
        served = [each for each in SERVICES if each.part == part]
        paid, output = gpu_hours * USD[part], sum(each.generation_tokens for each in served)
        parts.append(
            PartTime(
                part=part,
                gpus=FLEET[part],
                gpu_hours=gpu_hours,
                hours_by_class=by_class,
                paid_usd=paid,
                idle_usd=by_class.get("idle", 0.0) * USD[part],
                unattributed_usd=paid - sum(each.usd or 0.0 for each in served),
                generation_tokens=output,
                usd_per_gpu_hour=USD[part],
                usd_per_million_tokens=paid / output * 1e6,
                energy_joules=gpu_hours * 3600 * 350,
                mean_dram_active_ratio=None if part == "L40S" else 0.41,
                mean_tensor_active_ratio=None if part == "L40S" else 0.073,
            )
        )
    return tuple(parts)


def _days() -> tuple[Day, ...]:
    recorded = _recorded()
    split = _split(BY_CLASS, recorded)
    days = []
    for number, by_class in enumerate(split):
        gpu_hours = sum(by_class.values())
        busy = 1 - by_class["idle"] / gpu_hours
        slow = 1.18 if number in THROTTLED else 1.0
        output = OUTPUT / 30 * busy / 0.66 / slow * recorded[number]
        days.append(
            Day(
                date=DAYS[number],
                coverage_ratio=recorded[number],
                gpu_hours=gpu_hours,
                hours_by_class=by_class,
                paid_usd=PAID * gpu_hours / GPU_HOURS,
                idle_usd=PAID * by_class["idle"] / GPU_HOURS,
                generation_tokens=output,
                usd_per_million_tokens=PAID * gpu_hours / GPU_HOURS / output * 1e6,
                joules_per_million_tokens=1.9e6 * slow,
            )
        )
    return tuple(days)


def _trend(service: Service) -> Trend:
    usd: list[float | None] = []
    joules: list[float | None] = []
    tokens = []
    for number, day in enumerate(DAYS):
        rhythm = (1.28 if day.weekday() >= 5 else 0.93) + 0.03 * ((number * 7) % 5 - 2)
        slow = 1.22 if number in THROTTLED and service.part == "H100-SXM5-80GB" else 1.0
        silent = service.engine == "llamacpp" and day.weekday() >= 5
        assert service.usd_per_million_tokens is not None
        assert service.joules_per_million_tokens is not None
        usd.append(None if silent else service.usd_per_million_tokens * rhythm * slow)
        joules.append(None if silent else service.joules_per_million_tokens * rhythm * (2 - slow))
        tokens.append(0.0 if silent else service.generation_tokens / 30 / rhythm)
    return Trend(
        model=service.model,
        engine=service.engine,
        part=service.part,
        namespace=service.namespace,
        cluster=service.cluster,
        usd_per_million_tokens=tuple(usd),
        joules_per_million_tokens=tuple(joules),
        generation_tokens=tuple(tokens),
    )


_SHAPES: dict[str, tuple[tuple[int, int, float], ...]] = {
    # in quarters of a decade: of intensity from 1, of FLOP/s from 1e12, and the share of the hours
    "llama-3.1-70b-instruct": (
        (3, 3, 0.06), (4, 4, 0.22), (4, 5, 0.18), (5, 5, 0.27), (5, 6, 0.11), (6, 6, 0.07), (7, 8, 0.03),
        (9, 10, 0.04), (10, 11, 0.02),
    ),
    "deepseek-v3-0324": (
        (5, 5, 0.05), (6, 6, 0.21), (7, 7, 0.25), (7, 8, 0.12), (8, 8, 0.13), (9, 9, 0.08), (10, 10, 0.09),
        (11, 11, 0.05), (11, 10, 0.02),
    ),
    "qwen2.5-32b-instruct-awq": ((2, 2, 0.2), (3, 3, 0.41), (4, 4, 0.22), (4, 3, 0.09), (9, 9, 0.08)),
    "llama-3.1-8b-instruct": (
        (4, 2, 0.12), (5, 3, 0.34), (5, 4, 0.14), (6, 4, 0.26), (7, 5, 0.11), (9, 7, 0.03),
    ),
    "mistral-small-24b": ((0, -3, 0.7), (1, -2, 0.3)),
}  # fmt: skip


def _roofline(service: Service) -> Roofline:
    dtype, flops, bandwidth = ROOFS[service.part]
    idle = service.hours_by_class["idle"]
    work = service.gpu_hours - idle
    return Roofline(
        model=service.model,
        part=service.part,
        dtype=dtype,
        roof_flops_per_second=flops,
        roof_dram_bytes_per_second=bandwidth,
        ridge_flops_per_byte=flops / bandwidth,
        cells=tuple(
            Cell(
                intensity_flops_per_byte=10 ** ((x + 0.5) / 4),
                flops_per_second=1e12 * 10 ** ((y + 0.5) / 4),
                gpu_hours=share * work,
            )
            for x, y, share in _SHAPES[service.model]
        ),
        idle_gpu_hours=idle,
    )


def _groups() -> tuple[Group, ...]:
    held = sum(each.gpu_hours for each in SERVICES)
    return tuple(
        Group(
            name=each.namespace,
            gpu_hours=each.gpu_hours,
            hours_by_class=each.hours_by_class,
            usd=each.usd,
            ratio=each.gpu_hours / held,
            idle_usd=each.idle_usd,
            generation_tokens=each.generation_tokens,
            usd_per_million_tokens=each.usd_per_million_tokens,
            previous_usd=None if each.engine == "llamacpp" else (each.usd or 0.0) * 0.93,
            previous_usd_per_million_tokens=each.previous_usd_per_million_tokens,
        )
        for each in SERVICES
    )


LOSSES = Losses(
    clocks=(
        ClockLoss(part="H100-SXM5-80GB", reason="sw_power_cap", gpu_hours=3120.0, ratio=0.138),
        ClockLoss(part="H100-SXM5-80GB", reason="hw_thermal", gpu_hours=214.0, ratio=0.0094),
        ClockLoss(part="L40S", reason="sw_power_cap", gpu_hours=96.0, ratio=0.0113),
    ),
    requests=(
        RequestLoss(
            cluster="prod-eu",
            engine="sglang",
            model="deepseek-v3-0324",
            namespace="agents",
            part="H200-SXM",
            requests=22.8e6,
            by_outcome={"abort": 18_400.0, "error": 312.0},
            rejected=940.0,
            failed_gpu_hours_estimate=9.1,
            preemptions=1840.0,
            preempted_gpu_hours_estimate=2.4,
        ),
        RequestLoss(
            cluster="prod-eu",
            engine="vllm",
            model="llama-3.1-70b-instruct",
            namespace="chat",
            part="H100-SXM5-80GB",
            requests=61.2e6,
            by_outcome={"abort": 402_000.0},
            rejected=0.0,
            failed_gpu_hours_estimate=None,
            preemptions=0.0,
            preempted_gpu_hours_estimate=None,
        ),
    ),
    faults=(
        FaultCount(part="H100-SXM5-80GB", kind="xid 79", count=1),
        FaultCount(part="H200-SXM", kind="ecc uncorrected", count=2),
    ),
    unobserved_gpu_hours=38.5,
)

SLOS = (
    Attainment(
        model="llama-3.1-70b-instruct",
        cluster="prod-eu",
        slo="ttft",
        events=61.2e6,
        good=60.1e6,
        ratio=0.98203,
        objective_ratio=0.99,
        previous_ratio=0.9921,
        budget_spent_ratio=1.797,
        worst_day=date(2026, 11, 11),
        worst_day_ratio=0.9412,
    ),
    Attainment(
        model="llama-3.1-70b-instruct",
        cluster="prod-eu",
        slo="inter_token",
        events=2.14e10,
        good=2.139e10,
        ratio=0.99953,
        objective_ratio=0.99,
        previous_ratio=0.99961,
        budget_spent_ratio=0.047,
        worst_day=date(2026, 11, 12),
        worst_day_ratio=0.9981,
    ),
    Attainment(
        model="deepseek-v3-0324",
        cluster="prod-eu",
        slo="ttft",
        events=22.8e6,
        good=22.65e6,
        ratio=0.9936,
        objective_ratio=0.99,
        previous_ratio=0.9902,
        budget_spent_ratio=0.64,
        worst_day=date(2026, 11, 24),
        worst_day_ratio=0.9871,
    ),
    Attainment(
        model="llama-3.1-8b-instruct",
        cluster="prod-eu",
        slo="ttft",
        events=40.1e6,
        good=40.09e6,
        ratio=0.99982,
        objective_ratio=0.99,
        previous_ratio=None,
        budget_spent_ratio=0.018,
        worst_day=None,
        worst_day_ratio=None,
    ),
    Attainment(
        model="mistral-small-24b",
        cluster="prod-eu",
        slo="ttft",
        events=0.31e6,
        good=0.30e6,
        ratio=0.971,
        objective_ratio=None,
        previous_ratio=None,
        budget_spent_ratio=None,
        worst_day=date(2026, 11, 2),
        worst_day_ratio=0.91,
    ),
)


def _service_named(model: str) -> Service:
    return next(each for each in SERVICES if each.model.startswith(model))


def _sizing(model: str, refused: str, alternatives: tuple[Alternative, ...]) -> RightSizing:
    service = _service_named(model)
    return RightSizing(
        cluster=service.cluster,
        model=service.model,
        engine=service.engine,
        part=service.part,
        namespace=service.namespace,
        gpus=service.gpus,
        usd=service.usd,
        busiest_hour_requests_per_second=service.requests / (HOURS * 3600) * 2.6,
        mean_requests_per_second=service.requests / (HOURS * 3600),
        prompt_tokens=service.prefill_tokens * 1.43 / service.requests,
        output_tokens=service.generation_tokens / service.requests,
        refused=refused,
        alternatives=alternatives,
    )


RIGHT_SIZING = (
    _sizing(
        "qwen2.5-32b",
        "",
        (
            Alternative(
                kind="fewer_replicas",
                what="Three replicas instead of eight carry the busiest hour at a batch of 14",
                gpu="H100-SXM5-80GB",
                gpus=3,
                weight_dtype="int4",
                batch=14.0,
                usd_per_gpu_hour=2.99,
                price_origin="measured",
                usd=6351.0,
                savings_usd=10585.0,
                savings_ratio=0.625,
                token_seconds=0.0142,
                present_token_seconds=0.0121,
                confidence="measured",
                because="its hours and requests are counted; only the batch at the peak is computed.",
            ),
            Alternative(
                kind="other_gpu",
                what="Four L40S serve the same traffic more slowly",
                gpu="L40S",
                gpus=4,
                weight_dtype="int4",
                batch=11.0,
                usd_per_gpu_hour=0.99,
                price_origin="measured",
                usd=2803.0,
                savings_usd=14133.0,
                savings_ratio=0.834,
                token_seconds=0.0311,
                present_token_seconds=0.0121,
                confidence="low",
                because="the model’s step on an L40S was never measured here.",
            ),
        ),
    ),
    _sizing(
        "llama-3.1-70b",
        "",
        (
            Alternative(
                kind="quantized",
                what="FP8 weights halve what each step reads",
                gpu="H100-SXM5-80GB",
                gpus=10,
                weight_dtype="fp8",
                batch=22.0,
                usd_per_gpu_hour=2.99,
                price_origin="measured",
                usd=21169.0,
                savings_usd=12702.0,
                savings_ratio=0.375,
                token_seconds=0.021,
                present_token_seconds=None,
                confidence="estimate",
                because=(
                    "the step is modelled from the bytes of FP8 weights; check the quality of answers first."
                ),
            ),
        ),
    ),
    _sizing("deepseek-v3", "its busiest hour fills the GPUs that it has", ()),
    _sizing("mistral-small", "llama.cpp gives no batch, so no peak can be computed", ()),
)

RUNBOOKS = "https://github.com/roofline-agent/roofline-agent/blob/main/rules/runbooks"


def _offender(
    rank: int,
    kind: str,
    title: str,
    model: str,
    gpu_hours: float,
    savings: float | None,
    runbook: str,
    why: str,
    action: str,
) -> Offender:
    service = _service_named(model)
    return Offender(
        rank=rank,
        kind=kind,
        title=title,
        subject={"model": service.model, "namespace": service.namespace, "part": service.part},
        gpu_hours=gpu_hours,
        usd=gpu_hours * USD[service.part],
        ratio=gpu_hours / GPU_HOURS,
        savings_usd=savings,
        confidence="measured" if kind == "idle" else "estimate",
        why=why,
        action=action,
        runbook=runbook,
        runbook_url=f"{RUNBOOKS}/{runbook}.md",
        queries=("gpu_class_seconds", "gpu_cost"),
    )


OFFENDERS = (
    _offender(
        1,
        "idle",
        "Idle while qwen2.5-32b-instruct-awq holds the GPUs",
        "qwen2.5-32b",
        3738.0,
        10585.0,
        "GpuIdleHeld",
        "eight H100 were idle for 66 % of the month, and no hour needed more than three",
        "Scale it to three replicas, or to zero at night.",
    ),
    _offender(
        2,
        "small_batch",
        "Decode at a small batch",
        "llama-3.1-70b",
        4984.0,
        6210.0,
        "GpuMemoryBoundUnderutilizedByTraffic",
        "a mean batch of 14 against a ridge of 340: each step reads all weights for few tokens",
        "Serve the same traffic with fewer replicas, so that each has a larger batch.",
    ),
    _offender(
        3,
        "throttled",
        "Clocks held down by power",
        "llama-3.1-70b",
        3120.0,
        None,
        "GpuRoofLoweredByPower",
        "9 to 15 November the power limit of two racks was lowered to 450 W",
        "Raise the limit again, or move prefill elsewhere.",
    ),
    _offender(
        4,
        "interconnect",
        "Waiting for other GPUs",
        "deepseek-v3",
        2719.0,
        None,
        "EngineInterconnectBound",
        "24 % of its time goes to all-to-all between two nodes",
        "Put the replica on one node with eight H200.",
    ),
    _offender(
        5,
        "idle",
        "Idle while mistral-small-24b holds the GPUs",
        "mistral-small",
        1763.0,
        1410.0,
        "GpuIdleHeld",
        "three L40S for one user at a time",
        "Let it share one L40S with another model.",
    ),
    _offender(
        6,
        "host",
        "Waiting for the host",
        "llama-3.1-8b",
        510.0,
        180.0,
        "GpuHostBound",
        "the GPU waits 9 % of the time between steps",
        "Switch on asynchronous scheduling and CUDA graphs.",
    ),
)

SUMMARY = (
    f"${PAID:,.0f} were paid for {GPU_HOURS:,.0f} GPU hours on 60 GPUs, 6 % more than in October.",
    "GPUs waited for memory for 35 % of the time and computed for 13 %; 34 % of what was paid was idle.",
    f"A million tokens of output cost ${PAID / OUTPUT * 1e6:.2f}, 9 % more than in October, most of it "
    "from a week "
    "of lowered power limits.",
    "The time to first token of llama-3.1-70b-instruct missed its objective: 98.2 % against 99 %.",
    "Three replicas fewer of qwen2.5-32b-instruct-awq and FP8 weights for llama-3.1-70b-instruct would save "
    "$23,287 in such a month.",
)

QUALITY = Quality(
    is_poor=False,
    remarks=("On 22 November nothing was recorded from 06:00 to 18:00 UTC.",),
    earliest_sample=datetime(2026, 7, 14, 9, 30, tzinfo=UTC),
    coverage_ratio=0.98333,
    node_coverage_ratio=0.9971,
    observed_gpu_hours=GPU_HOURS,
    unobserved_gpu_hours=38.5,
    contradicted_gpu_hours=4.2,
    gaps=(
        Gap(
            start=datetime(2026, 11, 22, 6, tzinfo=UTC),
            end=datetime(2026, 11, 22, 18, tzinfo=UTC),
            hours=12.0,
        ),
    ),
    evidence=(
        EvidenceShare(quantity="dram_bytes", evidence="gpm", ratio=0.78),
        EvidenceShare(quantity="dram_bytes", evidence="modelled", ratio=0.19),
        EvidenceShare(quantity="dram_bytes", evidence="none", ratio=0.03),
        EvidenceShare(quantity="flops", evidence="modelled", ratio=0.87),
        EvidenceShare(quantity="flops", evidence="gpm", ratio=0.1),
        EvidenceShare(quantity="flops", evidence="none", ratio=0.03),
    ),
    disagreements=(
        Disagreement(
            cluster="prod-eu",
            model="mistral-small-24b",
            engine="llamacpp",
            part="L40S",
            namespace="internal-tools",
            ratio=1.62,
        ),
    ),
)


def sample() -> Review:
    """November 2026: five models on 60 GPUs, a week of lowered power limits, half a day without samples."""
    return Review(
        agent_version="0.1.0",
        generated_at=datetime(2026, 12, 1, 6, 2, tzinfo=UTC),
        source="https://prometheus.example.com/",
        period=Period(name="2026-11", start=START, end=END, hours=HOURS),
        previous=Period(name="2026-10", start=datetime(2026, 10, 1, tzinfo=UTC), end=START, hours=744.0),
        selection=Selection(cluster="prod-eu", group_by="namespace"),
        is_complete=True,
        problems=(),
        quality=QUALITY,
        summary=SUMMARY,
        totals=_totals(),
        previous_totals=_totals(0.94, 1.03),
        previous_coverage_ratio=0.999,
        classes=tuple(
            ClassTime(
                name=name,
                gpu_hours=gpu_hours,
                ratio=gpu_hours / GPU_HOURS,
                usd=USD_BY_CLASS[name],
                previous_ratio=_PREVIOUS_RATIOS.get(name),
                by_part={part: by_class[name] for part, by_class in BY_PART.items() if name in by_class},
            )
            for name, gpu_hours in BY_CLASS.items()
        ),
        parts=_parts(),
        services=SERVICES,
        groups=_groups(),
        days=_days(),
        trends=tuple(_trend(each) for each in SERVICES),
        rooflines=tuple(_roofline(each) for each in SERVICES),
        losses=LOSSES,
        slos=SLOS,
        right_sizing=RIGHT_SIZING,
        offenders=OFFENDERS,
        identities=(
            Identity(
                name="seconds by class = seconds observed",
                left=GPU_HOURS,
                right=GPU_HOURS * 1.0004,
                error_ratio=0.0004,
                holds=True,
            ),
            Identity(
                name="engines + unattributed = paid", left=PAID, right=PAID, error_ratio=0.0, holds=True
            ),
        ),
        sources=SOURCES,
        queries=QUERIES,
    )


def poor() -> Review:
    """The same, of which a third was recorded and two queries were not answered."""
    review = sample()
    return review.model_copy(
        update={
            "is_complete": False,
            "problems": (
                Problem(
                    what="energy of engines",
                    message=(
                        "https://prometheus.example.com/: timeout after 120 s; ask for one cluster at a time"
                    ),
                    queries=("engine_energy",),
                    start=START,
                    end=END,
                ),
                Problem(
                    what="objectives",
                    message="422: query processing would load too many samples",
                    queries=("slo_good",),
                    start=START,
                    end=datetime(2026, 11, 8, tzinfo=UTC),
                ),
            ),
            "quality": QUALITY.model_copy(
                update={
                    "is_poor": True,
                    "coverage_ratio": 0.34,
                    "remarks": (
                        "Only 34 % of the period was recorded: what follows is a lower bound, not the month.",
                        "For 31 % of the GPU hours nothing is known about DRAM traffic.",
                    ),
                }
            ),
            "identities": (
                *review.identities,
                Identity(
                    name="engine phases = busy", left=410.0, right=389.0, error_ratio=0.0512, holds=False
                ),
            ),
        }
    )


_MONEY = ("usd", "_usd")


def without_money(value: Any) -> Any:
    """The same with `None` for every amount of money."""
    if isinstance(value, dict):
        return {
            key: None
            if "usd" in key and not isinstance(each, list | tuple)
            else [None] * len(each)
            if "usd" in key
            else without_money(each)
            for key, each in value.items()
        }
    if isinstance(value, list | tuple):
        return [without_money(each) for each in value]
    return value


def no_prices() -> Review:
    """No price is configured: nothing is known about money."""
    data = without_money(sample().model_dump(mode="json"))
    data["summary"] = [
        f"{GPU_HOURS:,.0f} GPU hours were observed on 60 GPUs, 6 % more than in October.",
        "GPUs waited for memory for 35 % of the time and computed for 13 %; 34 % were idle.",
    ]
    data["identities"] = data["identities"][:1]
    return Review.model_validate_json(_json(data))


def _json(data: Any) -> str:
    import json

    return json.dumps(data)


def empty() -> Review:
    """A month before anything was installed."""
    nothing = Totals(
        nodes=None,
        gpus=0.0,
        gpu_hours=0.0,
        idle_gpu_hours=0.0,
        idle_held_gpu_hours=0.0,
        paid_usd=None,
        used_usd=None,
        idle_usd=None,
        unallocated_usd=None,
        unattributed_usd=None,
        generation_tokens=0.0,
        prefill_tokens=0.0,
        cached_prompt_tokens=0.0,
        requests=0.0,
        usd_per_million_tokens=None,
        energy_joules=None,
        joules_per_million_tokens=None,
    )
    return sample().model_copy(
        update={
            "period": Period(
                name="2026-06",
                start=datetime(2026, 6, 1, tzinfo=UTC),
                end=datetime(2026, 7, 1, tzinfo=UTC),
                hours=HOURS,
            ),
            "previous": None,
            "quality": Quality(
                is_poor=True,
                remarks=("Nothing was recorded in this period; the earliest sample is of 14 July 2026.",),
                earliest_sample=datetime(2026, 7, 14, 9, 30, tzinfo=UTC),
                coverage_ratio=0.0,
                node_coverage_ratio=None,
                observed_gpu_hours=0.0,
                unobserved_gpu_hours=0.0,
                contradicted_gpu_hours=0.0,
                gaps=(),
                evidence=(),
                disagreements=(),
            ),
            "summary": ("Nothing was recorded in June 2026.",),
            "totals": nothing,
            "previous_totals": None,
            "previous_coverage_ratio": None,
            **dict.fromkeys(
                ("classes", "parts", "services", "groups", "days", "trends", "rooflines", "slos"), ()
            ),
            **dict.fromkeys(("right_sizing", "offenders", "identities"), ()),
            "losses": Losses(clocks=(), requests=(), faults=(), unobserved_gpu_hours=0.0),
        }
    )


def _renamed(review: Review, names: dict[str, str]) -> Review:
    data = review.model_dump_json()
    for old, new in names.items():
        data = data.replace(old, _json(new)[1:-1])
    return Review.model_validate_json(data)


HOSTILE = "<script>alert('1')</script>\"onload=x|`*_[a](javascript:b) $\\frac$ @all\nline\x1b[31m\u202e"


def hostile() -> Review:
    """Labels of a server that wants to be more than text."""
    review = _renamed(
        sample(), {"llama-3.1-70b-instruct": HOSTILE, "internal-tools": HOSTILE, "L40S": HOSTILE}
    )
    return review.model_copy(
        update={
            "source": HOSTILE,
            "summary": (HOSTILE, *review.summary),
            "offenders": tuple(
                each.model_copy(
                    update={"runbook_url": "javascript:alert(1)", "action": HOSTILE, "why": HOSTILE}
                )
                for each in review.offenders
            ),
            "queries": tuple(each.model_copy(update={"promql": HOSTILE}) for each in review.queries),
        }
    )


def many() -> Review:
    """Sixty models with very long names, on two clusters."""
    review = sample()
    first, trend, roofline, group = (
        review.services[0],
        review.trends[0],
        review.rooflines[0],
        review.groups[0],
    )

    def name(number: int) -> str:
        return f"our-organisation/an-experiment-with-a-remarkably-long-name-{number:02d}-instruct-fp8-dynamic"

    def cluster(number: int) -> dict[str, str]:
        return {"model": name(number), "cluster": f"prod-{'eu' if number % 2 else 'us'}"}

    numbers = range(60)
    return review.model_copy(
        update={
            "selection": Selection(cluster=None, group_by="model"),
            "services": tuple(first.model_copy(update=cluster(number)) for number in numbers),
            "trends": tuple(trend.model_copy(update=cluster(number)) for number in numbers),
            "rooflines": tuple(roofline.model_copy(update={"model": name(number)}) for number in numbers),
            "groups": tuple(group.model_copy(update={"name": name(number)}) for number in numbers),
            "slos": tuple(review.slos[0].model_copy(update=cluster(number)) for number in numbers),
            "right_sizing": tuple(
                review.right_sizing[0].model_copy(update=cluster(number)) for number in numbers
            ),
            "offenders": tuple(
                review.offenders[0].model_copy(update={"rank": number + 1, "title": f"Idle: {name(number)}"})
                for number in range(14)
            ),
        }
    )


def single() -> Review:
    """One model on one type of GPU, for a day, for the first time."""
    review = sample()
    service = review.services[0]
    part = next(each for each in review.parts if each.part == service.part)
    return review.model_copy(
        update={
            "period": Period(
                name="2026-11-03 – 2026-11-04", start=START, end=START + timedelta(days=1), hours=24.0
            ),
            "previous": None,
            "previous_totals": None,
            "previous_coverage_ratio": None,
            "services": (service,),
            "groups": review.groups[:1],
            "parts": (part,),
            "days": review.days[:1],
            "trends": (),
            "rooflines": review.rooflines[:1],
            "slos": (),
            "right_sizing": (),
            "offenders": (),
            "losses": Losses(clocks=(), requests=(), faults=(), unobserved_gpu_hours=0.0),
        }
    )


REVIEWS = {
    "a month": sample,
    "poor data": poor,
    "no prices": no_prices,
    "nothing recorded": empty,
    "hostile labels": hostile,
    "sixty models": many,
    "one model": single,
}
