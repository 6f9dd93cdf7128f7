"""Everything that one engine's counters and its model say together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.assessment import DEFAULT_COMPUTE_DTYPE, EngineAssessment, EngineKey
from agent.objectives import Objective, count_objectives
from agent.readings import EngineCounters, EngineReading, PodContainer
from agent.roofline.bottleneck import (
    Verdict,
    from_shares,
)
from agent.roofline.gpus import GpuSpec
from agent.roofline.kv_cache import batch_limiter, kv_cache
from agent.roofline.models import ServedModel
from agent.roofline.roof import Roof
from agent.roofline.step import (
    Attribution,
    StepConstants,
    attribute,
    constants_for,
)
from agent.roofline.step_line import StepLine, fit_step_line
from agent.roofline.workload import Workload, max_decode_intensity, ridge_batch, workload
from agent.traffic import Traffic
from agent.units import render_number, render_percent, render_seconds
from agent.window import EngineTotals, EngineWindow, GpuWindow

HUNG_SECONDS = 30.0
"""Requests in flight, or kernels running, and no step for this long: the engine hangs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFacts:
    """What is known of one engine that answers."""

    key: EngineKey
    reading: EngineReading
    window: EngineWindow | None
    totals: EngineTotals
    served: ServedModel | None
    served_origin: str
    served_problem: str | None
    gpu_uuids: tuple[str, ...] = ()
    spec: GpuSpec | None = None
    """Of its GPUs."""
    roof: Roof | None = None
    gpu_window: GpuWindow | None = None
    """Of its first GPU."""
    placed_by: str = "unknown"
    """Whence its GPUs are known."""
    gpus_problem: str | None = None
    """Why nothing is known of its GPUs."""
    container: PodContainer | None = None
    """In which it runs, if that is known."""
    alone_on_gpu: bool = True
    max_num_seqs: int | None = None
    objectives: Mapping[str, Objective] = field(default_factory=dict)
    met_before: Mapping[str, float] = field(default_factory=dict)
    """Of each objective, what is to be added since its target was another one."""

    @property
    def compute_dtype(self) -> str | None:
        """What its products are computed in, on its part."""
        if self.served is None:
            return None
        weights = self.served.largest_dtype
        return self.spec.compute_dtype(weights) if self.spec is not None else weights.compute

    @property
    def constants(self) -> StepConstants:
        """What such a model achieves on such a part."""
        served = self.served
        return constants_for(
            self.spec.name if self.spec is not None else "",
            dtype=self.compute_dtype or DEFAULT_COMPUTE_DTYPE,
            moe=served is not None and bool(served.architecture.expert_ffn),
            backend=self.reading.engine,
        )

    @property
    def ridge_flops_per_byte(self) -> float | None:
        """Of the part at its rated clocks: a landmark that does not move with them."""
        peak = self.spec.roof(self.compute_dtype) if self.spec and self.compute_dtype else None
        return peak.ridge_flops_per_byte if peak is not None else None


LINE_TOLERANCE = 0.8
"""A line whose intercept is below this part of what reading the weights takes contradicts them."""


def step_line(window: EngineWindow | None) -> StepLine | None:
    """The engine's own record of its steps, as a line over the batch; `None` without one that can be told."""
    counts = window.increments if window is not None else EngineCounters()
    sums = (
        counts.timed_steps,
        counts.timed_sequences,
        counts.timed_seconds,
        counts.timed_squared_sequences,
        counts.timed_sequence_seconds,
    )
    if None in sums:
        return None
    steps, sequences, seconds, squared, products = (total or 0.0 for total in sums)
    return fit_step_line(
        steps=steps,
        sequences=sequences,
        seconds=seconds,
        squared_sequences=squared,
        sequence_seconds=products,
    )


def weight_read_seconds(facts: EngineFacts) -> float | None:
    """What reading all weights once takes one of its GPUs at the roof as it is clocked now.

    `None` for experts, of which a small batch reads few, and for stages, which take turns.
    """
    served = facts.served
    if served is None or facts.roof is None or served.architecture.expert_ffn or served.pipeline_parallel > 1:
        return None
    return served.step_weight_bytes(1) / served.ranks / facts.roof.dram_bytes_per_second


def assess_engine(facts: EngineFacts) -> EngineAssessment:
    """Everything that one engine's counters and its model say together."""
    reading, window, served = facts.reading, facts.window, facts.served
    traffic = Traffic.over(window) if window is not None else None
    work = workload(served, traffic.work) if served is not None and traffic is not None else None
    attribution = attribute_window(facts, window, traffic, work)
    context = traffic.context_tokens if traffic is not None else None
    tokens_per_sequence = traffic.work.tokens_per_sequence_step if traffic is not None else 1.0
    line, weights_seconds = step_line(window), weight_read_seconds(facts)
    ridge = facts.ridge_flops_per_byte
    cache = None
    if reading.kv_used_ratio is not None:
        cache = kv_cache(
            used_ratio=reading.kv_used_ratio,
            capacity_tokens=reading.kv_capacity_tokens,
            bytes_per_token=served.kv_bytes_per_token if served is not None else None,
            context_tokens=context,
            history=window.kv_points if window is not None else (),
        )
    limiter, limiter_reason = batch_limiter(
        waiting=window.waiting_mean if window is not None else None,
        running=window.running_mean if window is not None else None,
        used_ratio=reading.kv_used_ratio,
        preemptions=(window.increments.preemptions or 0.0) if window is not None else 0.0,
        max_num_seqs=facts.max_num_seqs,
    )
    return EngineAssessment(
        key=facts.key,
        engine=reading.engine,
        model=reading.model,
        up=True,
        problem=facts.served_problem,
        gpu_uuids=facts.gpu_uuids,
        placed_by=facts.placed_by,
        container=facts.container,
        reading=reading,
        window=window,
        served=served,
        served_origin=facts.served_origin,
        traffic=traffic,
        work=work,
        compute_dtype=facts.compute_dtype,
        roof=facts.roof,
        constants=facts.constants,
        attribution=attribution,
        verdict=_engine_verdict(facts, traffic, work, attribution, line, weights_seconds),
        kv=cache,
        limiter=limiter,
        limiter_reason=limiter_reason,
        max_num_seqs=facts.max_num_seqs,
        ridge_flops_per_byte=ridge,
        ridge_batch=(
            ridge_batch(
                served,
                ridge_flops_per_byte=facts.roof.ridge_flops_per_byte,
                context_tokens=context,
                tokens_per_sequence=tokens_per_sequence,
            )
            if served is not None and facts.roof is not None and context is not None
            else None
        ),
        max_intensity_flops_per_byte=(
            max_decode_intensity(served, context, tokens_per_sequence=tokens_per_sequence)
            if served is not None and context is not None
            else None
        ),
        agreement_ratio=_agreement(facts, traffic, work, attribution),
        step_line=line,
        weight_read_seconds=weights_seconds,
        objectives=count_objectives(facts.totals, facts.objectives, facts.met_before),
        totals=facts.totals,
    )


def attribute_window(
    facts: EngineFacts, window: EngineWindow | None, traffic: Traffic | None, work: Workload | None
) -> Attribution | None:
    """Where the busy time of a window went; `None` without a model, all unexplained without a roof."""
    if traffic is None or work is None or facts.served is None or window is None:
        return None
    return attribute(
        model=facts.served,
        work=work,
        tokens=traffic.work,
        decode_step_seconds=traffic.decode_step_seconds,
        window_seconds=window.seconds,
        roof=facts.roof,
        constants=facts.constants,
        alone=facts.alone_on_gpu,
    )


def hung_reason(window: EngineWindow | None, gpu: GpuWindow | None, *, alone: bool) -> str | None:
    """Why an engine seems to hang, or `None`: no step for long, though there is work.

    A hung engine may show no running request at all; then kernels that stay resident give it away, if no
    other engine can be meant.
    """
    if window is None:
        return None
    if window.seconds_stuck >= HUNG_SECONDS:
        in_flight = render_number(window.requests_in_hand)
        quiet = render_seconds(window.seconds_stuck)
        return f"no step for {quiet}, with {in_flight} requests in flight: it may hang"
    resident = None
    if gpu is not None and alone:
        measured = None if gpu.coarse else gpu.graphics_ratio
        resident = measured if measured is not None else gpu.kernel_time_ratio
    if window.seconds_since_step >= HUNG_SECONDS and resident is not None and resident > 0.5:
        quiet, share = render_seconds(window.seconds_since_step), render_percent(resident)
        return f"no step for {quiet}, while kernels run {share} of the time: it hangs, or others use the GPU"
    return None


def _engine_verdict(
    facts: EngineFacts,
    traffic: Traffic | None,
    work: Workload | None,
    attribution: Attribution | None,
    line: StepLine | None,
    weights_seconds: float | None,
) -> Verdict:
    window = facts.window
    if window is None:
        return Verdict(bottleneck="unknown", reason="the first window is not full yet")
    hung = hung_reason(window, facts.gpu_window, alone=facts.alone_on_gpu)
    if hung is not None:
        return Verdict(bottleneck="unknown", reason=hung)
    if attribution is None or traffic is None or work is None:
        return Verdict(
            bottleneck="unknown", reason=facts.served_problem or "the engine does not count its steps"
        )
    if facts.roof is None:
        if attribution.busy_seconds == 0:
            return Verdict(bottleneck="idle", confidence_ratio=1.0, evidence="modelled", reason="no steps")
        return Verdict(bottleneck="unknown", reason=facts.gpus_problem or "its GPU's roof is not known")
    detail = describe_step(work, traffic, facts.ridge_flops_per_byte)
    if line is not None and weights_seconds is not None:
        intercept, weights = render_seconds(line.intercept_seconds), render_seconds(weights_seconds)
        if line.intercept_seconds < LINE_TOLERANCE * weights_seconds:
            return Verdict(
                bottleneck="unknown",
                reason=f"by its own record a step takes {intercept} before its first sequence, less than the "
                f"{weights} in which the model's weights can be read: check the model",
            )
        detail += (
            f"; its steps take {intercept} before the first sequence, of which the weights are {weights}"
        )
    return from_shares(
        attribution.shares,
        busy_ratio=attribution.busy_seconds / window.seconds,
        detail=detail,
        guessing=traffic.work.draft_tokens > 0,
    )


def describe_step(work: Workload, traffic: Traffic, ridge_flops_per_byte: float | None) -> str:
    """The arithmetic of a window in words."""
    words = []
    decode, prefill = work.decode.intensity_flops_per_byte, work.prefill.intensity_flops_per_byte
    if decode is not None and traffic.decode_batch is not None:
        batch = render_number(traffic.decode_batch)
        each = traffic.work.tokens_per_sequence_step
        several = f" and {render_number(each)} tokens a sequence" if each > 1 else ""
        words.append(f"decode at batch {batch}{several} has {render_number(decode)} FLOP/byte")
        if ridge_flops_per_byte is not None:
            words[-1] += f", the ridge is at {render_number(ridge_flops_per_byte)}"
    if prefill is not None and work.prefill.flops > 0.05 * work.flops:
        words.append(f"prefill is {render_percent(work.prefill.flops / work.flops)} of the FLOPs")
    return "; ".join(words) or "nothing was computed"


def _agreement(
    facts: EngineFacts, traffic: Traffic | None, work: Workload | None, attribution: Attribution | None
) -> float | None:
    """Modelled ÷ measured DRAM bytes, where one engine has the GPU to itself and mostly decodes.

    Prefill is left out: it reads weights with every chunk, and engines do not count the chunks. So are
    windows that do not span the same time, as after a restart, and those in which tokens are guessed, since
    a model that guesses reads bytes of its own.
    """
    if traffic is None or traffic.work.draft_tokens > 0:
        return None
    if attribution is None or attribution.prefill_seconds > 0.2 * attribution.busy_seconds:
        return None
    gpu, window = facts.gpu_window, facts.window
    if gpu is None or window is None or gpu.seconds > 1.25 * window.seconds or window.seconds_since_step > 0:
        return None
    if work is None or facts.spec is None or not facts.alone_on_gpu:
        return None
    if gpu.dram_ratio is None or gpu.dram_ratio < 0.05 or facts.served is None:
        return None
    measured = gpu.dram_ratio * facts.spec.dram_bytes_per_second
    modelled = work.bytes / facts.served.ranks / window.seconds
    return modelled / measured if modelled > 0 else None
