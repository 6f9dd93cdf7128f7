"""What is concluded at one instant: frozen, with its inputs and its reasons.

`assess_engine` and `assess_gpu` are functions of values. Anyone can call them at a prompt with the
readings of last night's incident and get last night's verdict.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agent.accounts import GpuTotals, WorkTotals
from agent.objectives import ObjectiveCount, count_objectives
from agent.readings import EngineReading, Evidence, GpuReading
from agent.roofline.bottleneck import (
    UNEXPLAINED_RATIO,
    Bottleneck,
    Counters,
    Verdict,
    from_counters,
    from_shares,
)
from agent.roofline.gpus import GpuSpec
from agent.roofline.kv_cache import KvCache, Limiter, batch_limiter, kv_cache
from agent.roofline.models import ServedModel
from agent.roofline.roof import Roof
from agent.roofline.step import (
    COMPONENTS,
    Attribution,
    Component,
    StepConstants,
    attribute,
    constants_for,
)
from agent.roofline.workload import Workload, max_decode_intensity, ridge_batch, workload
from agent.sources.base import SourceState
from agent.traffic import Traffic
from agent.units import render_number, render_percent, render_seconds
from agent.window import EngineTotals, EngineWindow, GpuWindow

HUNG_SECONDS = 30.0
"""Requests in flight, or kernels running, and no step for this long: the engine hangs."""
DEFAULT_COMPUTE_DTYPE = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number and where it comes from."""

    value: float
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """Which engine: a server, and the rank behind it."""

    server: str
    rank: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAssessment:
    """One engine (one data-parallel rank), over all its GPUs."""

    key: EngineKey
    engine: str
    model: str
    up: bool
    problem: str | None = None
    """Why it is not up, or what is not known of it."""
    gpu_uuids: tuple[str, ...] = ()
    reading: EngineReading | None = None
    window: EngineWindow | None = None
    served: ServedModel | None = None
    served_origin: str = "unknown"
    """Where the model's architecture is known from: ``configuration``, ``catalogue``, ``unknown``."""
    traffic: Traffic | None = None
    work: Workload | None = None
    """Of the window."""
    compute_dtype: str | None = None
    """What its products are computed in."""
    roof: Roof | None = None
    """Of one of its GPUs, at that dtype, as now clocked."""
    constants: StepConstants | None = None
    """What such a model achieves on such a part."""
    attribution: Attribution | None = None
    verdict: Verdict
    kv: KvCache | None = None
    limiter: Limiter = "unknown"
    limiter_reason: str = ""
    max_num_seqs: int | None = None
    ridge_flops_per_byte: float | None = None
    ridge_batch: float | None = None
    max_intensity_flops_per_byte: float | None = None
    agreement_ratio: float | None = None
    """Modelled ÷ measured DRAM bytes."""
    objectives: tuple[ObjectiveCount, ...] = ()
    totals: EngineTotals = field(default_factory=EngineTotals)
    work_totals: WorkTotals | None = None

    @property
    def busy_ratio(self) -> float | None:
        """Share of the window in which it worked; `None` where nobody can say."""
        if self.attribution is None or self.window is None:
            return None
        return self.attribution.busy_seconds / self.window.seconds

    @property
    def interference_ratio(self) -> float | None:
        """Share of the decoding steps' time that other requests' prefill takes in them.

        It is what disaggregation would give back to the time between tokens. `None` while nothing decodes.
        """
        if self.attribution is None or self.traffic is None or self.attribution.decode_seconds <= 0:
            return None
        carried = self.attribution.prefill_seconds * (1 - self.traffic.work.prefill_only_ratio)
        return carried / (carried + self.attribution.decode_seconds)

    @property
    def busy_by_phase(self) -> tuple[float, float]:
        """Share of the window in prefill and in decode."""
        if self.attribution is None or self.window is None:
            return 0.0, 0.0
        window = self.window.seconds
        return self.attribution.prefill_seconds / window, self.attribution.decode_seconds / window


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in one class."""

    start_unix_seconds: float
    end_unix_seconds: float
    bottleneck: Bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAssessment:
    """One GPU."""

    index: int
    uuid: str
    name: str
    up: bool
    problem: str | None = None
    reading: GpuReading | None = None
    spec: GpuSpec | None = None
    window: GpuWindow | None = None
    compute_dtype: str = DEFAULT_COMPUTE_DTYPE
    """Of the model it serves."""
    compute_clock_ratio: float = 1.0
    """SM clock ÷ the clock at which the peak is rated, while work runs."""
    memory_clock_ratio: float = 1.0
    flops_per_second: Quantity | None = None
    dram_bytes_per_second: Quantity | None = None
    intensity: Quantity | None = None
    """FLOP/byte over the window."""
    attained_ratio: float | None = None
    throttle: str | None = None
    """In words, when power or heat lowers the roof."""
    verdict: Verdict
    engines: tuple[EngineKey, ...] = ()
    totals: GpuTotals = field(default_factory=GpuTotals)
    history: tuple[Span, ...] = ()

    def peak_roof(self, dtype: str) -> Roof | None:
        """The datasheet's ceilings at a dtype."""
        return self.spec.roof(dtype) if self.spec is not None else None

    def current_roof(self, dtype: str) -> Roof | None:
        """The ceilings as the GPU is now clocked."""
        peak = self.peak_roof(dtype)
        if peak is None:
            return None
        return peak.scaled(compute=self.compute_clock_ratio, memory=self.memory_clock_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The whole node at one instant."""

    at_seconds: float
    """On the monotonic clock."""
    at_unix_seconds: float
    node: str
    started_unix_seconds: float
    interval_seconds: float
    driver_version: str | None = None
    gpus: tuple[GpuAssessment, ...] = ()
    engines: tuple[EngineAssessment, ...] = ()
    sources: tuple[SourceState[Any], ...] = ()


# --- one engine ----------------------------------------------------------------------------------


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
    gpus_problem: str | None = None
    """Why nothing is known of its GPUs."""
    alone_on_gpu: bool = True
    max_num_seqs: int | None = None
    objectives: Mapping[str, float] = field(default_factory=dict)

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


def assess_engine(facts: EngineFacts) -> EngineAssessment:
    """Everything that one engine's counters and its model say together."""
    reading, window, served = facts.reading, facts.window, facts.served
    traffic = Traffic.over(window) if window is not None else None
    work = workload(served, traffic.work) if served is not None and traffic is not None else None
    attribution = attribute_window(facts, traffic, work)
    context = traffic.context_tokens if traffic is not None else None
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
    max_num_seqs = facts.max_num_seqs or reading.max_num_seqs
    limiter, limiter_reason = batch_limiter(
        waiting=window.waiting_mean if window is not None else None,
        running=window.running_mean if window is not None else None,
        used_ratio=reading.kv_used_ratio,
        preemptions=(window.increments.preemptions or 0.0) if window is not None else 0.0,
        max_num_seqs=max_num_seqs,
    )
    return EngineAssessment(
        key=facts.key,
        engine=reading.engine,
        model=reading.model,
        up=True,
        problem=facts.served_problem,
        gpu_uuids=facts.gpu_uuids,
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
        verdict=_engine_verdict(facts, traffic, work, attribution),
        kv=cache,
        limiter=limiter,
        limiter_reason=limiter_reason,
        max_num_seqs=max_num_seqs,
        ridge_flops_per_byte=ridge,
        ridge_batch=(
            ridge_batch(served, ridge_flops_per_byte=facts.roof.ridge_flops_per_byte, context_tokens=context)
            if served is not None and facts.roof is not None and context is not None
            else None
        ),
        max_intensity_flops_per_byte=(
            max_decode_intensity(served, context) if served is not None and context is not None else None
        ),
        agreement_ratio=_agreement(facts, work, attribution),
        objectives=count_objectives(facts.totals, facts.objectives),
        totals=facts.totals,
    )


def attribute_window(
    facts: EngineFacts, traffic: Traffic | None, work: Workload | None
) -> Attribution | None:
    """Where the busy time of `facts.window` went; `None` without a model, all unexplained without a roof."""
    if traffic is None or work is None or facts.served is None or facts.window is None:
        return None
    return attribute(
        model=facts.served,
        work=work,
        tokens=traffic.work,
        decode_step_seconds=traffic.decode_step_seconds,
        window_seconds=facts.window.seconds,
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
        in_flight = render_number(window.running_mean or 0.0)
        quiet = render_seconds(window.seconds_stuck)
        return f"no step for {quiet}, with {in_flight} requests in flight: it may hang"
    resident = None
    if gpu is not None and alone:
        resident = gpu.graphics_ratio if gpu.graphics_ratio is not None else gpu.kernel_time_ratio
    if window.seconds_since_step >= HUNG_SECONDS and resident is not None and resident > 0.5:
        quiet, share = render_seconds(window.seconds_since_step), render_percent(resident)
        return f"no step for {quiet}, while kernels run {share} of the time: it hangs, or others use the GPU"
    return None


def _engine_verdict(
    facts: EngineFacts, traffic: Traffic | None, work: Workload | None, attribution: Attribution | None
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
    return from_shares(
        attribution.shares,
        busy_ratio=attribution.busy_seconds / window.seconds,
        detail=describe_step(work, traffic, facts.ridge_flops_per_byte),
    )


def describe_step(work: Workload, traffic: Traffic, ridge_flops_per_byte: float | None) -> str:
    """The arithmetic of a window in words."""
    words = []
    decode, prefill = work.decode.intensity_flops_per_byte, work.prefill.intensity_flops_per_byte
    if decode is not None and traffic.decode_batch is not None:
        batch = render_number(traffic.decode_batch)
        words.append(f"decode at batch {batch} has {render_number(decode)} FLOP/byte")
        if ridge_flops_per_byte is not None:
            words[-1] += f", the ridge is at {render_number(ridge_flops_per_byte)}"
    if prefill is not None and work.prefill.flops > 0.05 * work.flops:
        words.append(f"prefill is {render_percent(work.prefill.flops / work.flops)} of the FLOPs")
    return "; ".join(words) or "nothing was computed"


def _agreement(facts: EngineFacts, work: Workload | None, attribution: Attribution | None) -> float | None:
    """Modelled ÷ measured DRAM bytes, where one engine has the GPU to itself and mostly decodes.

    Prefill is left out: it reads weights with every chunk, and engines do not count the chunks. So are
    windows that do not span the same time, as after a restart.
    """
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


# --- one GPU -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What is known of one GPU that can be read."""

    reading: GpuReading
    window: GpuWindow
    spec: GpuSpec | None
    engines: Sequence[EngineAssessment] = ()
    """Those that run on it and answer."""
    claimed: bool = False
    """Some engine runs on it, whether it answers now or not."""


def assess_gpu(facts: GpuFacts) -> GpuAssessment:
    """Where one GPU stands on the roofline, and what bounds it."""
    reading, window, spec = facts.reading, facts.window, facts.spec
    compute_clock, memory_clock = clock_ratios(reading, window, spec)
    dtype = _compute_dtype(facts.engines)
    flops = _flops_per_second(facts, compute_clock, dtype)
    moved = _dram_bytes_per_second(facts)
    roof = spec.roof(dtype) if spec is not None else None
    attained = None
    if roof is not None and flops is not None and moved is not None:
        attained = roof.scaled(compute=compute_clock, memory=memory_clock).attained(
            flops_per_second=flops.value, dram_bytes_per_second=moved.value
        )
    return GpuAssessment(
        index=reading.index,
        uuid=reading.uuid,
        name=reading.name,
        up=True,
        problem=reading.activity_problem,
        reading=reading,
        spec=spec,
        window=window,
        compute_dtype=dtype,
        compute_clock_ratio=compute_clock,
        memory_clock_ratio=memory_clock,
        flops_per_second=flops,
        dram_bytes_per_second=moved,
        intensity=_intensity(flops, moved),
        attained_ratio=attained,
        throttle=_throttle(reading, compute_clock),
        verdict=_gpu_verdict(facts),
        engines=tuple(engine.key for engine in facts.engines),
    )


def clock_ratios(reading: GpuReading, window: GpuWindow | None, spec: GpuSpec | None) -> tuple[float, float]:
    """SM and memory clock against the clocks of the peaks; 1 while the GPU rests or they are not known.

    The SM clock is the window's mean, as the rates beside it are. A resting GPU lowers its clocks because
    nobody needs them: its roof is not lower for that.
    """
    compute = memory = 1.0
    if reading.clock_limit_reasons is not None and "idle" in reading.clock_limit_reasons:
        return compute, memory
    sm_clock = window.sm_clock_hertz if window is not None else reading.sm_clock_hertz
    if spec is not None and spec.rated_sm_clock_hertz and sm_clock:
        compute = sm_clock / spec.rated_sm_clock_hertz
    if reading.memory_clock_hertz and reading.memory_clock_max_hertz:
        memory = reading.memory_clock_hertz / reading.memory_clock_max_hertz
    return compute, memory


LOWERED: Mapping[str, str] = {
    "sw_power_cap": "power cap",
    "hw_slowdown": "hardware slowdown",
    "sw_thermal": "heat",
    "hw_thermal": "heat",
    "hw_power_brake": "power brake",
}


def _throttle(reading: GpuReading, compute_clock: float) -> str | None:
    causes = sorted({LOWERED[reason] for reason in reading.clock_limit_reasons or () if reason in LOWERED})
    if not causes or compute_clock >= 0.97:
        return None
    return f"the compute roof is {render_percent(1 - compute_clock)} lower: {', '.join(causes)}"


def _compute_dtype(engines: Sequence[EngineAssessment]) -> str:
    for engine in engines:
        if engine.compute_dtype is not None:
            return engine.compute_dtype
    return DEFAULT_COMPUTE_DTYPE


def _modelled_rate(engines: Sequence[EngineAssessment], name: str) -> float | None:
    """FLOP/s or bytes/s that the engines cause on one GPU; `None` when one of them is not known."""
    total = 0.0
    for engine in engines:
        if engine.work is None or engine.window is None or engine.served is None:
            return None
        total += getattr(engine.work, name) / engine.served.ranks / engine.window.seconds
    return total if engines else None


def _flops_per_second(facts: GpuFacts, compute_clock: float, dtype: str) -> Quantity | None:
    modelled = _modelled_rate(facts.engines, "flops")
    if modelled is not None:
        return Quantity(value=modelled, evidence="modelled")
    roof = facts.spec.roof(dtype) if facts.spec is not None else None
    if facts.claimed or facts.engines or roof is None or facts.window.tensor_ratio is None:
        return None
    # An estimate, and an upper bound: a pipe that is active need not be full.
    return Quantity(
        value=facts.window.tensor_ratio * roof.flops_per_second * compute_clock,
        evidence=facts.window.evidence,
    )


def _dram_bytes_per_second(facts: GpuFacts) -> Quantity | None:
    counters = _counters(facts)
    contradictory = counters is not None and counters.contradictory
    if facts.window.dram_ratio is not None and facts.spec is not None and not contradictory:
        value = facts.window.dram_ratio * facts.spec.dram_bytes_per_second
        return Quantity(value=value, evidence=facts.window.evidence)
    modelled = _modelled_rate(facts.engines, "bytes")
    return None if modelled is None else Quantity(value=modelled, evidence="modelled")


def _intensity(flops: Quantity | None, moved: Quantity | None) -> Quantity | None:
    if flops is None or moved is None or moved.value <= 0:
        return None
    evidence: Evidence = flops.evidence if flops.evidence == moved.evidence else "mixed"
    return Quantity(value=flops.value / moved.value, evidence=evidence)


def _gpu_verdict(facts: GpuFacts) -> Verdict:
    """The engines' shares, weighted by how busy each was, against the GPU's own counters."""
    counters = _counters(facts)
    alone = len(facts.engines) == 1
    hung = {engine.key: hung_reason(engine.window, facts.window, alone=alone) for engine in facts.engines}
    living = [engine for engine in facts.engines if hung[engine.key] is None]
    if facts.engines and not living:
        (first, *_) = facts.engines
        return Verdict(bottleneck="unknown", reason=f"{first.key.server}: {hung[first.key]}")
    if any(engine.window is None for engine in living):
        return Verdict(bottleneck="unknown", reason="the first window of its engine is not full yet")
    attributed = [engine for engine in living if engine.attribution is not None and engine.roof]
    if counters is not None and (len(attributed) < len(living) or not attributed):
        running = any(engine.window and engine.window.running_mean for engine in facts.engines)
        return from_counters(counters, requests_running=running)
    if not attributed:
        if facts.engines:
            return facts.engines[0].verdict
        return Verdict(
            bottleneck="unknown",
            reason=facts.reading.activity_problem
            or "no profiling counters, and no engine is known to run here",
        )
    busy, shares = _shares_of_gpu(attributed)
    busiest = max(attributed, key=lambda engine: engine.busy_ratio or 0.0)
    assert busiest.work is not None
    assert busiest.traffic is not None
    assert busiest.constants is not None
    return from_shares(
        shares,
        busy_ratio=busy,
        detail=describe_step(busiest.work, busiest.traffic, busiest.ridge_flops_per_byte),
        counters=counters,
        dram_efficiency=busiest.constants.decode_dram_efficiency,
        compute_efficiency=busiest.constants.prefill_compute_efficiency,
    )


def _shares_of_gpu(engines: Sequence[EngineAssessment]) -> tuple[float, dict[Component, float]]:
    """The busy part of the window, and where it went, over all engines on one GPU.

    What several engines leave over is the GPU's host time only where none of them had work on it.
    """
    busy = min(sum(engine.busy_ratio or 0.0 for engine in engines), 1.0)
    parts: dict[Component, float] = dict.fromkeys(COMPONENTS, 0.0)
    for engine in engines:
        if engine.attribution is not None and engine.window is not None:
            for component, seconds in engine.attribution.components.items():
                parts[component] += seconds / engine.window.seconds
    if len(engines) > 1:
        explained = sum(parts.values()) - parts["unexplained"] - parts["host"]
        disbelieved = all(
            engine.attribution is not None and engine.attribution.shares["unexplained"] > UNEXPLAINED_RATIO
            for engine in engines
        )
        if not disbelieved:
            parts = {**parts, "unexplained": 0.0, "host": max(busy - explained, 0.0)}
    whole = sum(parts.values())
    return busy, {name: part / whole if whole > 0 else 0.0 for name, part in parts.items()}


def _counters(facts: GpuFacts) -> Counters | None:
    window = facts.window
    if window.evidence == "none":
        return None
    return Counters(
        evidence=window.evidence,
        dram_ratio=window.dram_ratio,
        tensor_ratio=window.tensor_ratio,
        sm_ratio=window.sm_ratio,
        graphics_ratio=window.graphics_ratio,
        kernel_time_ratio=window.kernel_time_ratio,
        achievable_dram_ratio=facts.spec.achievable_dram_ratio if facts.spec is not None else 0.9,
    )
