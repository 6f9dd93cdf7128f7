"""Changes of one engine, each a what-if: the table `PROPOSALS` is the order in which one would make them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from agent.advice.model import Advice, Effect, GpuKey, Kind
from agent.advice.what_if import KV_PLANNED_RATIO, SPARE_RATIO, Case, Setup, effect_of
from agent.advice.words import counted, sentence
from agent.assessment import Assessment
from agent.roofline.cost import bandwidth_per_usd
from agent.roofline.dtypes import find_dtype
from agent.roofline.gpus import GPUS, GpuSpec
from agent.roofline.planner import OVERHEAD_BYTES
from agent.units import render_number, render_percent, render_quantity, render_seconds

MIN_GAIN = 1.10
"""A change that gives less is within the model's own error, and not worth a restart."""
HARDWARE_GAIN = 1.30
"""Typical prices differ by more than a tenth from supplier to supplier."""
DOMINANT_RATIO = 0.5
HOST_RATIO = 0.25
"""A smaller residual may be the error of the modelled parts."""
PHASE_RATIO = 0.2
"""A phase that takes less of the step is not what the other suffers from."""
LOW_INTENSITY_RATIO = 1 / 30
"""Of the ridge; on an H100 a batch of about ten. Below it the compute that was paid for is hardly used."""
READABLE_SECONDS = 0.05
"""Between tokens: an answer still comes faster than anyone reads, but not by much."""

RENTABLE: tuple[GpuSpec, ...] = tuple(
    spec
    for spec in GPUS
    if spec.typical_usd_per_hour is not None
    # Engines of today have no bf16 kernels before Ampere; GeForce is not licensed for data centres.
    and spec.architecture not in ("Volta", "Turing")
    and not any("GeForce" in name for name in spec.nvml_names)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """A what-if of one engine: what it would be, and the words."""

    kind: Kind
    title: str
    reason: str
    wrong_when: str
    setup: Setup
    min_gain: float = MIN_GAIN


def changes_of(case: Case) -> Iterator[Advice]:
    """What clearly helps one engine, each on top of those before."""
    setup, done = case.now, tuple[Kind, ...]()
    needed = float(setup.model.ranks)
    for propose in PROPOSALS:
        change = propose(case, setup)
        if change is None:
            continue
        effect = effect_of(setup, change.setup)
        cost = effect.usd_per_million_tokens_ratio
        if cost is None or cost * change.min_gain > 1:
            continue
        yield Advice(
            kind=change.kind,
            engines=(case.engine.key,),
            gpus=GpuKey.each_of(case.gpus),
            title=change.title,
            reason=change.reason,
            effect=effect,
            evidence=case.evidence,
            wrong_when=change.wrong_when,
            after=done,
            benefit_gpus=(1 - cost) * needed,
        )
        needed *= cost
        setup, done = change.setup, (*done, change.kind)


def _reduce_host_gaps(case: Case, setup: Setup) -> Change | None:
    share = case.shares["host"]
    if share < HOST_RATIO or setup.rest_seconds <= 0:
        return None
    return Change(
        kind="reduce_host_gaps",
        title="Close the gaps between steps",
        reason=(
            f"{render_percent(share)} of a step are gaps in which the GPU waits for its host. More CPU "
            "for the engine, asynchronous scheduling, CUDA graphs and fewer logprobs shorten them. The "
            "effect is what the GPU would give without any: the most that is to be had."
        ),
        wrong_when="the engine is not served as it is known here, and its steps are longer than modelled",
        setup=replace(setup, rest_seconds=0.0),
    )


def _remove_throttle(case: Case, setup: Setup) -> Change | None:
    throttles = [gpu.throttle for gpu in case.gpus if gpu.throttle is not None]
    if not throttles or setup.compute_clock_ratio >= 1:
        return None
    return Change(
        kind="remove_throttle",
        title="Let the clocks rise: raise the power limit, or cool it",
        reason=f"{sentence(throttles[0])} {render_percent(case.shares['compute'])} of a step is compute.",
        wrong_when="the rack has no more power or cooling to give; then the cap is the price of it",
        setup=replace(setup, compute_clock_ratio=1.0),
    )


def _raise_max_num_seqs(case: Case, setup: Setup) -> Change | None:
    engine, limit = case.engine, setup.max_num_seqs
    if engine.limiter != "max_num_seqs" or not case.memory_bound or limit is None:
        return None
    raised = replace(setup, max_num_seqs=None)
    most = math.ceil(setup.running * raised.growth)
    assert engine.work is not None
    intensity = engine.work.decode.intensity_flops_per_byte
    holds = engine.kv.limited_batch if engine.kv is not None else None
    words = [f"{sentence(engine.limiter_reason)} More of them would share the same read of the weights"]
    if intensity is not None and engine.ridge_flops_per_byte is not None:
        words.append(
            f"decode has {render_number(intensity)} FLOP/byte, the ridge is at "
            f"{render_number(engine.ridge_flops_per_byte)}"
        )
    if holds is not None:
        words.append(f"the KV cache holds {holds:,.0f} of this length")
    return Change(
        kind="raise_max_num_seqs",
        title=f"Raise max_num_seqs from {limit} to {most}",
        reason="; ".join(words) + ".",
        wrong_when=(
            "the time between tokens is at its target already, "
            "or contexts grow far beyond those of now and the cache preempts"
        ),
        setup=replace(setup, max_num_seqs=most),
    )


def _more_kv_memory(case: Case, setup: Setup) -> Change | None:
    engine, context = case.engine, setup.tokens.decode_context
    capacity, per_token = setup.kv_capacity_tokens, setup.model.kv_bytes_per_token
    if engine.limiter != "kv_cache" or capacity is None or context <= 0 or per_token <= 0:
        return None
    missing = setup.demand * context / KV_PLANNED_RATIO - capacity
    if missing <= 0:
        return None
    needed = missing * per_token
    free = _unused_bytes(case)
    if free is not None and free >= needed:
        how = f"{render_quantity(free, 'B')} of its GPUs' memory are unused: raise gpu_memory_utilization."
    else:
        unused = "" if free is None else f" Only {render_quantity(free, 'B')} of its GPUs' memory are unused."
        how = f"It takes larger or more GPUs, or shorter contexts.{unused}"
    return Change(
        kind="more_kv_memory",
        title=f"Give the KV cache {missing:,.0f} tokens more ({render_quantity(needed, 'B')})",
        reason=(
            f"{sentence(engine.limiter_reason)} {setup.demand:,.0f} requests of "
            f"{context:,.0f} tokens want to run; the cache holds {capacity:,.0f} tokens. {how}"
        ),
        wrong_when="the queue is a short burst, or requests share prefixes that the cache holds once",
        setup=replace(setup, kv_capacity_tokens=capacity + missing),
    )


def _unused_bytes(case: Case) -> float | None:
    """Over the replica's GPUs: memory that nobody has allocated, less what must stay free."""
    readings = [gpu.reading for gpu in case.gpus if gpu.reading is not None]
    free = [r.memory_free_bytes for r in readings if r.memory_free_bytes is not None]
    if len(free) < len(case.gpus):
        return None
    return max(min(free) - OVERHEAD_BYTES, 0.0) * case.now.model.ranks


def _kv_memory_at_hand(case: Case, setup: Setup) -> Change | None:
    change, free = _more_kv_memory(case, setup), _unused_bytes(case)
    if change is None or free is None or setup.kv_capacity_tokens is None:
        return None
    wanted = (change.setup.kv_capacity_tokens or 0.0) - setup.kv_capacity_tokens
    return change if free >= wanted * setup.model.kv_bytes_per_token else None


def _quantize_kv_cache(case: Case, setup: Setup) -> Change | None:
    share = case.decode_share[1]
    held = case.engine.limiter == "kv_cache"
    dominates = case.memory_bound and share > DOMINANT_RATIO
    fp8 = find_dtype("fp8")
    if not (held or dominates) or setup.model.kv_dtype.bytes_per_weight <= 1 or fp8 is None:
        return None
    model = replace(setup.model, kv_dtype=fp8)
    capacity = setup.kv_capacity_tokens
    if capacity is not None and model.kv_bytes_per_token > 0:
        capacity *= setup.model.kv_bytes_per_token / model.kv_bytes_per_token
    because = f"{sentence(case.engine.limiter_reason)} " if held else ""
    return Change(
        kind="quantize_kv_cache",
        title="Keep the KV cache in fp8",
        reason=(
            f"{because}The cache is {render_percent(share)} of the bytes that decode moves, in "
            f"{setup.model.kv_dtype.name}; in fp8 it takes half the room and half the time."
        ),
        wrong_when="the attention kernels have no fp8 path, or long contexts lose quality: evaluate first",
        setup=replace(setup, model=model, kv_capacity_tokens=capacity),
    )


def _quantize_weights(case: Case, setup: Setup) -> Change | None:
    share, present = case.decode_share[0], setup.model.weight_dtype
    fp8 = find_dtype("fp8")
    if not case.memory_bound or share < DOMINANT_RATIO or present.bytes_per_weight <= 1 or fp8 is None:
        return None
    model = replace(setup.model, weight_dtype=fp8)
    capacity = setup.kv_capacity_tokens
    if capacity is not None and model.kv_bytes_per_token > 0:
        capacity += (setup.model.weight_bytes - model.weight_bytes) / model.kv_bytes_per_token
    after = replace(setup, model=model, kv_capacity_tokens=capacity)
    widened = "" if after.compute_dtype != "bf16" else " (as storage only: this part computes them in bf16)"
    return Change(
        kind="quantize_weights",
        title="Serve the weights in fp8",
        reason=(
            f"Weights are {render_percent(share)} of the bytes that decode moves: "
            f"{render_quantity(setup.model.weight_bytes, 'B')} in {present.name}, "
            f"{render_quantity(model.weight_bytes, 'B')} in fp8{widened}. "
            f"Memory takes {render_percent(case.shares['memory_bandwidth'])} of a step."
        ),
        wrong_when="the answers get worse: evaluate the quantized checkpoint on your own tasks first",
        setup=after,
    )


def _fewer_ranks(case: Case, setup: Setup) -> Change | None:
    model, shares = setup.model, case.shares
    overhead = shares["interconnect"] + shares["kernel_latency"]
    if (
        not case.alone
        or model.tensor_parallel % 2
        or overhead <= shares["memory_bandwidth"] + shares["compute"]
    ):
        return None
    half = replace(setup, model=model.over(model.tensor_parallel // 2))
    if half.free_bytes < half.cache_bytes / KV_PLANNED_RATIO or half.model.kv_bytes_per_token <= 0:
        return None
    fewer = counted(half.model.tensor_parallel, "GPU")
    return Change(
        kind="fewer_tensor_parallel_ranks",
        title=f"Split the model over {fewer} instead of {model.tensor_parallel}",
        reason=(
            f"Collectives and small kernels take {render_percent(overhead)} of a step, which more GPUs "
            f"do not shorten; {fewer} hold the weights "
            f"({render_quantity(model.weight_bytes, 'B')}) and the cache in use. "
            "Two such replicas serve more than one large one."
        ),
        wrong_when="the time between tokens counts more than its price, or much longer contexts are to come",
        setup=replace(half, kv_capacity_tokens=half.free_bytes / half.model.kv_bytes_per_token),
    )


def _other_hardware(case: Case, setup: Setup) -> Change | None:
    """The part that gives this work for the least, of those that hold the model; waiting has its price."""
    engine = case.engine
    assert engine.work is not None
    intensity, ridge = engine.work.decode.intensity_flops_per_byte, engine.ridge_flops_per_byte
    if not (case.alone and case.memory_bound) or engine.limiter != "traffic":
        return None
    if intensity is None or ridge is None:
        return None
    paid = _weighed_cost(setup)
    if intensity > LOW_INTENSITY_RATIO * ridge or paid is None:
        return None
    moved = [_moved_to(spec, setup) for spec in RENTABLE if spec.name != setup.spec.name]
    offers = [(cost, other) for other in moved if other and (cost := _weighed_cost(other)) is not None]
    cost, best = min(offers, key=lambda offer: offer[0], default=(math.inf, setup))
    if cost * HARDWARE_GAIN > paid:
        return None
    return Change(
        kind="other_hardware",
        title=f"Compare the price of {best.model.ranks} × {best.spec.name}",
        reason=(
            f"Decode has {render_number(intensity)} FLOP/byte where {setup.spec.name} needs "
            f"{render_number(ridge)} to use its compute; bandwidth is what is bought. At typical prices "
            f"a dollar an hour buys {_bandwidth_for_a_dollar(setup.spec)} here and "
            f"{_bandwidth_for_a_dollar(best.spec)} there ({best.spec.price_origin}). "
            "Effects are at the same batch."
        ),
        wrong_when=(
            "your prices differ, traffic is about to grow, first tokens must come as fast as now, "
            "or these GPUs are paid for already"
        ),
        setup=best,
        min_gain=HARDWARE_GAIN,
    )


def _weighed_cost(setup: Setup) -> float | None:
    """Dollars for the work, times four where an answer comes no faster than it is read.

    A limit instead would make parts appear and vanish as the window moves across it, and a bare price would
    take the slower of two that cost the same.
    """
    usd, waits = setup.usd_per_hour, setup.seconds_per_token
    return None if usd is None or waits is None else usd / setup.speed * (1 + waits / READABLE_SECONDS) ** 2


def _moved_to(spec: GpuSpec, setup: Setup) -> Setup | None:
    """The same work on the fewest GPUs of another part; `None` where eight do not hold it."""
    for ranks in (1, 2, 4, 8):
        other = replace(
            setup,
            spec=spec,
            model=setup.model.over(ranks, pipeline_parallel=1),
            compute_clock_ratio=1.0,
            memory_clock_ratio=1.0,
            kv_capacity_tokens=None,
        )
        if other.roof is None or other.free_bytes < SPARE_RATIO * other.cache_bytes:
            continue
        if other.free_bytes >= other.cache_bytes * setup.speed / other.speed:
            return other
    return None


def _bandwidth_for_a_dollar(spec: GpuSpec) -> str:
    assert spec.typical_usd_per_hour is not None
    bandwidth = bandwidth_per_usd(
        dram_bytes_per_second=spec.dram_bytes_per_second, usd=spec.typical_usd_per_hour
    )
    return render_quantity(bandwidth, "B/s")


PROPOSALS: tuple[Callable[[Case, Setup], Change | None], ...] = (
    _reduce_host_gaps,
    _remove_throttle,
    _raise_max_num_seqs,
    _kv_memory_at_hand,
    _quantize_kv_cache,
    _quantize_weights,
    _more_kv_memory,
    _fewer_ranks,
    _other_hardware,
)
"""What changes no answer comes before what may; what needs no other hardware before what does."""


def disaggregate(case: Case) -> Iterator[Advice]:
    """Where prompts ride on the steps of others, and those wait."""
    attribution, waiting_ratio = case.engine.attribution, case.engine.interference_ratio
    waits = case.now.seconds_per_token
    assert attribution is not None
    if min(attribution.prefill_seconds, attribution.decode_seconds) < PHASE_RATIO * attribution.busy_seconds:
        return
    if waiting_ratio is None or waits is None or waiting_ratio < PHASE_RATIO:
        return
    yield Advice(
        kind="disaggregate",
        engines=(case.engine.key,),
        gpus=GpuKey.each_of(case.gpus),
        title="Keep prefill out of the decoding steps",
        reason=(
            f"Prefill takes {render_percent(waiting_ratio)} of the time of the steps that decode, so every "
            "sequence waits for others' prompts: "
            f"{render_seconds(waits)} between tokens. "
            "Engines of their own for prefill and decode, or smaller chunks (max_num_batched_tokens), "
            "keep them apart."
        ),
        effect=Effect(seconds_per_token_ratio=1 - waiting_ratio),
        evidence=case.evidence,
        wrong_when=(
            "the time between tokens is within its target; there is no second GPU, or no fast link to "
            "carry the KV cache. Smaller chunks make first tokens later"
        ),
        benefit_gpus=waiting_ratio * case.now.model.ranks,
    )


def throttled_alone(assessment: Assessment) -> Iterator[Advice]:
    """A lowered roof that binds a GPU whose engine is not known: by how much cannot be told."""
    for gpu in assessment.gpus:
        if gpu.up and gpu.throttle is not None and not gpu.engines and gpu.verdict.bottleneck == "compute":
            yield Advice(
                kind="remove_throttle",
                gpus=GpuKey.each_of([gpu]),
                title="Let the clocks rise: raise the power limit, or cool it",
                reason=f"{sentence(gpu.throttle)} It computes: {gpu.verdict.reason}.",
                evidence=gpu.verdict.evidence,
                wrong_when="the rack has no more power or cooling to give; then the cap is the price of it",
            )
