"""GPUs that are held and do nothing, and engines that could share one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

from agent.advice.model import Advice, Effect, GpuKey
from agent.advice.what_if import SPARE_RATIO, usable_bytes
from agent.advice.words import counted
from agent.assessment import Assessment, EngineAssessment, EngineKey, GpuAssessment
from agent.roofline.gpus import GpuSpec
from agent.roofline.models import ServedModel
from agent.units import GIGA, SECONDS_PER_HOUR, render_percent, render_quantity, render_seconds

LONG_SECONDS = 300.0
"""A shorter rest is a lull."""
QUIET_RATIO = 0.5
"""Two engines busy for less than this together leave room for each other's peaks."""
HELD_BYTES = 2 * GIGA
"""A driver context alone takes less."""


def consolidate(assessment: Assessment) -> Iterator[Advice]:
    """GPUs that are held and rest, and engines that could share one."""
    resting = [gpu for gpu in assessment.gpus if _rests(gpu)]
    told = tuple(dict.fromkeys(key for gpu in resting for key in gpu.engines))
    if resting:
        yield _released(resting, told, assessment.at_unix_seconds)
    quiet = [
        candidate
        for engine in assessment.engines
        if engine.key not in told and (candidate := _quiet(engine, assessment)) is not None
    ]
    paired: set[EngineKey] = set()
    for one, other in combinations(sorted(quiet, key=lambda each: each.busy_ratio), 2):
        if not paired & {one.engine.key, other.engine.key} and _fit_together(one, other):
            paired |= {one.engine.key, other.engine.key}
            yield _shared(one, other)


def _rests(gpu: GpuAssessment) -> bool:
    if not gpu.up or gpu.verdict.bottleneck != "idle" or not gpu.history:
        return False
    last = gpu.history[-1]
    used = gpu.reading.memory_used_bytes if gpu.reading is not None else None
    return (
        last.bottleneck == "idle"
        and last.end_unix_seconds - last.start_unix_seconds >= LONG_SECONDS
        and (bool(gpu.engines) or (used or 0) >= HELD_BYTES)
    )


def _released(
    gpus: Sequence[GpuAssessment], engines: tuple[EngineKey, ...], now_unix_seconds: float
) -> Advice:
    since = max(gpu.history[-1].start_unix_seconds for gpu in gpus)
    held = sum(gpu.reading.memory_used_bytes or 0 for gpu in gpus if gpu.reading is not None)
    usd = sum(
        gpu.totals.cost_usd / gpu.totals.observed_seconds * SECONDS_PER_HOUR
        for gpu in gpus
        if gpu.totals.observed_seconds > 0
    )
    return Advice(
        kind="consolidate_idle",
        engines=engines,
        gpus=GpuKey.each_of(gpus),
        title=f"Release {counted(len(gpus), 'GPU')} that {'does' if len(gpus) == 1 else 'do'} nothing",
        reason=(
            f"Idle for {render_seconds(now_unix_seconds - since)} or longer, while "
            f"{render_quantity(held, 'B')} of memory are held{' by engines' if engines else ''}."
        ),
        effect=Effect(gpus_freed=len(gpus), usd_per_hour_saved=usd if usd > 0 else None),
        evidence=gpus[0].verdict.evidence,
        wrong_when="they are kept warm on purpose, for traffic that comes at other hours",
        benefit_gpus=float(len(gpus)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Quiet:
    """An engine alone on one GPU, and mostly at rest."""

    engine: EngineAssessment
    gpu: GpuAssessment
    spec: GpuSpec
    model: ServedModel
    busy_ratio: float
    cache_bytes: float


def _quiet(engine: EngineAssessment, assessment: Assessment) -> Quiet | None:
    gpus = [gpu for gpu in assessment.gpus if gpu.uuid in engine.gpu_uuids]
    totals, served, cache = engine.work_totals, engine.served, engine.kv
    if len(gpus) != 1 or not engine.up or served is None or served.ranks != 1 or totals is None:
        return None
    (gpu,) = gpus
    if gpu.spec is None or gpu.verdict.bottleneck == "unknown" or gpu.engines != (engine.key,):
        return None
    if totals.observed_seconds < LONG_SECONDS or cache is None or cache.capacity_tokens is None:
        return None
    busy = 1 - totals.phase_seconds.get("neither", 0.0) / totals.observed_seconds
    return Quiet(
        engine=engine,
        gpu=gpu,
        spec=gpu.spec,
        model=served,
        busy_ratio=max(busy, engine.busy_ratio or 0.0),
        cache_bytes=cache.used_ratio * cache.capacity_tokens * served.kv_bytes_per_token,
    )


def _fit_together(one: Quiet, other: Quiet) -> bool:
    weights = one.model.weight_bytes + (0 if one.model == other.model else other.model.weight_bytes)
    cache = SPARE_RATIO * (one.cache_bytes + other.cache_bytes)
    return (
        one.gpu.uuid != other.gpu.uuid
        and one.spec.name == other.spec.name
        and one.busy_ratio + other.busy_ratio <= QUIET_RATIO
        and weights + cache <= usable_bytes(one.spec)
    )


def _shared(one: Quiet, other: Quiet) -> Advice:
    same = one.model == other.model
    weights = "the weights" if same else "the weights of both"
    return Advice(
        kind="consolidate_idle",
        engines=(one.engine.key, other.engine.key),
        gpus=GpuKey.each_of([one.gpu, other.gpu]),
        title="Serve both with one replica" if same else "Put both engines on one GPU",
        reason=(
            f"They are busy {render_percent(one.busy_ratio)} and {render_percent(other.busy_ratio)} "
            f"of the time, and one {one.spec.name} holds {weights} and their caches."
        ),
        effect=Effect(gpus_freed=1, usd_per_million_tokens_ratio=0.5),
        evidence=one.gpu.verdict.evidence,
        wrong_when="their peaks fall together, or one must not slow the other down",
        benefit_gpus=1.0,
    )
