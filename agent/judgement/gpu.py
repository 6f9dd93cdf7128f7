"""Where one GPU stands on the roofline, and what bounds it: its engines' steps, and its own counters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agent.assessment import DEFAULT_COMPUTE_DTYPE, EngineAssessment, GpuAssessment, Quantity
from agent.judgement.engine import describe_step, hung_reason
from agent.readings import Evidence, GpuReading
from agent.roofline.bottleneck import (
    IDLE_RATIO,
    UNEXPLAINED_RATIO,
    Counters,
    Verdict,
    from_counters,
    from_shares,
)
from agent.roofline.gpus import GpuSpec
from agent.roofline.step import (
    COMPONENTS,
    Component,
)
from agent.units import render_percent
from agent.window import GpuWindow


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
    counters = _counters(facts)
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
        last_reading=reading,
        health=reading.health,
        spec=spec,
        window=window,
        compute_dtype=dtype,
        compute_clock_ratio=compute_clock,
        memory_clock_ratio=memory_clock,
        flops_per_second=flops,
        dram_bytes_per_second=moved,
        intensity=_intensity(flops, moved),
        attained_ratio=attained,
        throttle=_throttle(reading, compute_clock, memory_clock),
        contradicted=counters is not None and counters.contradictory,
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


THROTTLED_RATIO = 0.97
"""A clock below this part of its rated value has lowered the roof; less is the clock's own play."""


def _throttle(reading: GpuReading, compute_clock: float, memory_clock: float) -> str | None:
    causes = sorted({LOWERED[reason] for reason in reading.clock_limit_reasons or () if reason in LOWERED})
    lowered = [
        f"the {name} roof is {render_percent(1 - clock)} lower"
        for name, clock in (("compute", compute_clock), ("memory", memory_clock))
        if clock < THROTTLED_RATIO
    ]
    return f"{' and '.join(lowered)}: {', '.join(causes)}" if causes and lowered else None


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
        evidence=facts.window.evidence_by_ratio["tensor_ratio"],
    )


def _dram_bytes_per_second(facts: GpuFacts) -> Quantity | None:
    counters = _counters(facts)
    contradictory = counters is not None and counters.contradictory
    if facts.window.dram_ratio is not None and facts.spec is not None and not contradictory:
        value = facts.window.dram_ratio * facts.spec.dram_bytes_per_second
        return Quantity(value=value, evidence=facts.window.evidence_by_ratio["dram_ratio"])
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
    disbelieved = busy >= IDLE_RATIO and shares["unexplained"] > UNEXPLAINED_RATIO
    return from_shares(
        shares,
        busy_ratio=busy,
        detail=describe_step(busiest.work, busiest.traffic, busiest.ridge_flops_per_byte),
        # What lags behind the steps can neither confirm nor refuse them; where they say nothing, it is all
        # there is.
        counters=counters if disbelieved or not facts.window.coarse else None,
        dram_efficiency=busiest.constants.decode_dram_efficiency,
        compute_efficiency=busiest.constants.prefill_compute_efficiency,
        guessing=busiest.traffic.work.draft_tokens > 0,
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
        kernel_time_ratio=None if window.coarse else window.kernel_time_ratio,
        achievable_dram_ratio=facts.spec.achievable_dram_ratio if facts.spec is not None else 0.9,
    )
