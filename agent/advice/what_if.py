"""One engine as it is, or as it would be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from agent.advice.model import Effect
from agent.assessment import EngineAssessment, GpuAssessment
from agent.readings import Evidence
from agent.roofline.gpus import GpuSpec
from agent.roofline.models import ServedModel
from agent.roofline.planner import MEMORY_USED_RATIO, OVERHEAD_BYTES
from agent.roofline.roof import Roof
from agent.roofline.step import (
    OVERPREDICTED_RATIO,
    Component,
    StepConstants,
    constants_for,
    decode_time,
    prefill_time,
)
from agent.roofline.workload import TokenWork, ridge_batch, workload
from agent.units import GIGA

KV_PLANNED_RATIO = 0.9
"""Of a cache that a batch is planned into: contexts grow while they are decoded."""
SPARE_RATIO = 2.0
"""Where work moves to, there is to be room for so many times the cache in use now."""


def usable_bytes(spec: GpuSpec) -> float:
    """Of one GPU's memory, for weights and cache."""
    return spec.memory_gigabytes * GIGA * MEMORY_USED_RATIO - OVERHEAD_BYTES


@dataclass(frozen=True, kw_only=True)  # no slots: what a what-if costs is formed once
class Setup:
    """One engine with the work of its window: what is changed in a what-if, and what that gives."""

    model: ServedModel
    spec: GpuSpec
    compute_clock_ratio: float
    memory_clock_ratio: float
    backend: str
    tokens: TokenWork
    running: float
    """Sequences in flight: as the engine said on the mean, and never fewer than a step decodes."""
    demand: float
    """As many as would be in flight if nothing held them back."""
    max_num_seqs: int | None
    kv_capacity_tokens: float | None
    scale: float = 1.0
    """The part of the modelled time that was really taken."""
    rest_seconds: float = 0.0
    """What was measured beyond it: the host's, or a neighbour's turn."""

    @property
    def compute_dtype(self) -> str:
        """Of its products, on this part."""
        return self.spec.compute_dtype(self.model.largest_dtype)

    @property
    def roof(self) -> Roof | None:
        """As clocked."""
        roof = self.spec.roof(self.compute_dtype)
        if roof is None:
            return None
        return roof.scaled(compute=self.compute_clock_ratio, memory=self.memory_clock_ratio)

    @property
    def constants(self) -> StepConstants:
        """What such a model achieves on such a part."""
        return constants_for(
            self.spec.name,
            dtype=self.compute_dtype,
            moe=bool(self.model.architecture.expert_ffn),
            backend=self.backend,
        )

    @cached_property
    def growth(self) -> float:
        """How many times the sequences of now would be in flight."""
        context, roof = self.tokens.decode_context, self.roof
        if self.demand <= self.running or self.running <= 0 or roof is None:
            return 1.0
        most = self.demand
        if self.max_num_seqs is not None:
            most = min(most, self.max_num_seqs)
        if self.kv_capacity_tokens is not None and context > 0:
            most = min(most, KV_PLANNED_RATIO * self.kv_capacity_tokens / context)
        if context > 0:
            ridge = ridge_batch(
                self.model,
                ridge_flops_per_byte=roof.ridge_flops_per_byte,
                context_tokens=context,
                tokens_per_sequence=self.tokens.tokens_per_sequence_step,
            )
            most = min(most, math.inf if ridge is None else ridge)
        return max(most / self.running, 1.0)

    @cached_property
    def times(self) -> tuple[float, float]:
        """(busy seconds for the window's steps, of which in steps that only prefill)."""
        roof, growth, tokens = self.roof, self.growth, self.tokens
        assert roof is not None, "a set-up is only made where there is a roof"
        tokens = replace(
            tokens,
            decode_tokens=tokens.decode_tokens * growth,
            draft_tokens=tokens.draft_tokens * growth,
            accepted_tokens=tokens.accepted_tokens * growth,
            prompts=tokens.prompts * growth,
            prefill_tokens=tokens.prefill_tokens * growth,
            prefill_logits=tokens.prefill_logits * growth,
            prefill_only_steps=tokens.prefill_only_steps * growth,
        )
        work = workload(self.model, tokens)
        decode = decode_time(self.model, work, tokens, roof, self.constants).total * self.scale
        prefill = prefill_time(self.model, work, tokens, roof, self.constants).total * self.scale
        return decode + prefill + self.rest_seconds, prefill * tokens.prefill_only_ratio

    @property
    def speed(self) -> float:
        """Work of the window ÷ the time that it takes."""
        return self.growth / self.times[0]

    @property
    def seconds_per_token(self) -> float | None:
        """Between the tokens of one sequence on the mean; `None` while nothing decodes."""
        busy, prefill_only = self.times
        tokens = self.tokens
        if tokens.decode_steps <= 0:
            return None
        # Of speculation the tokens that were guessed right come together.
        together = tokens.decode_tokens / tokens.sequence_steps if tokens.sequence_steps > 0 else 1.0
        return (busy - prefill_only) / tokens.decode_steps / together

    @property
    def usd_per_hour(self) -> float | None:
        """All GPUs of the replica, at typical prices."""
        usd = self.spec.typical_usd_per_hour
        return None if usd is None else usd * self.model.ranks

    @property
    def free_bytes(self) -> float:
        """What the weights leave of its GPUs' memory, as an engine divides it; below 0 they do not fit."""
        return self.model.ranks * usable_bytes(self.spec) - self.model.weight_bytes

    @property
    def cache_bytes(self) -> float:
        """Of the sequences in flight."""
        each = self.model.kv_bytes(self.tokens.decode_context) + self.model.state_bytes
        return self.running * self.growth * each


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An engine about which what-ifs can be asked."""

    engine: EngineAssessment
    gpus: tuple[GpuAssessment, ...]
    now: Setup
    shares: Mapping[Component, float]
    """Of the step, by component."""

    @property
    def memory_bound(self) -> bool:
        """By its step and by its GPUs' counters."""
        verdicts = (self.engine.verdict, *(gpu.verdict for gpu in self.gpus))
        return all(verdict.bottleneck == "memory_bandwidth" for verdict in verdicts)

    @property
    def alone(self) -> bool:
        """Nobody else is on its GPUs, so that their whole price is its own."""
        return all(len(gpu.engines) == 1 for gpu in self.gpus)

    @property
    def decode_share(self) -> tuple[float, float]:
        """Weights and KV cache, of the bytes that decode moves."""
        assert self.engine.work is not None
        decode = self.engine.work.decode
        total = decode.bytes or 1.0
        return decode.weight_bytes / total, decode.kv_cache_bytes / total

    @property
    def evidence(self) -> Evidence:
        """Mixed where the GPU's counters bear the step's shares out."""
        return self.gpus[0].verdict.evidence


def case_of(engine: EngineAssessment, gpus: Sequence[GpuAssessment]) -> Case | None:
    """The engine as it is; `None` where the step is not explained, so that a what-if would be a guess."""
    attribution, traffic, window, served = engine.attribution, engine.traffic, engine.window, engine.served
    if not engine.up or attribution is None or traffic is None or window is None or served is None:
        return None
    if not gpus or gpus[0].spec is None or engine.work is None or engine.reading is None:
        return None
    verdicts = [engine.verdict, *(gpu.verdict for gpu in gpus)]
    if any(verdict.bottleneck in ("idle", "unknown") for verdict in verdicts):
        return None
    seen, waiting = window.running_mean or 0.0, window.waiting_mean or 0.0
    # A few samples of a gauge may say less than the steps' own count, and a batch that grows from there
    # would pass the demand.
    running = max(seen, traffic.decode_batch or 0.0)
    held = engine.limiter in ("kv_cache", "max_num_seqs")
    now = Setup(
        model=served,
        spec=gpus[0].spec,
        compute_clock_ratio=gpus[0].compute_clock_ratio,
        memory_clock_ratio=gpus[0].memory_clock_ratio,
        backend=engine.reading.engine,
        tokens=traffic.work,
        running=running,
        demand=max(seen + waiting, running) if held else running,
        max_num_seqs=engine.max_num_seqs,
        kv_capacity_tokens=engine.kv.capacity_tokens if engine.kv is not None else None,
    )
    roof, busy = now.roof, attribution.busy_seconds
    if roof is None or roof.flops_per_second <= 0 or roof.dram_bytes_per_second <= 0 or busy <= 0:
        return None
    modelled, _ = replace(now, demand=running).times
    if modelled <= 0 or (busy - modelled) / busy < OVERPREDICTED_RATIO:
        return None
    now = replace(now, scale=min(busy / modelled, 1.0), rest_seconds=max(busy - modelled, 0.0))
    return Case(engine=engine, gpus=tuple(gpus), now=now, shares=attribution.shares)


def effect_of(before: Setup, after: Setup) -> Effect:
    """What the one gives beyond the other, as numbers."""
    speed = after.speed / before.speed
    paid_before, paid_after = before.usd_per_hour, after.usd_per_hour
    paid: float | None = after.model.ranks / before.model.ranks
    if after.spec is not before.spec:
        paid = paid_after / paid_before if paid_before and paid_after else None
    grown = after.growth / before.growth > 1.01
    steps = before.tokens.decode_steps
    waits, waited = after.seconds_per_token, before.seconds_per_token
    room = (
        after.kv_capacity_tokens - before.kv_capacity_tokens
        if after.kv_capacity_tokens is not None and before.kv_capacity_tokens is not None
        else 0.0
    )
    freed = before.model.weight_bytes - after.model.weight_bytes
    same_part = after.spec is before.spec
    return Effect(
        tokens_per_second_ratio=speed,
        seconds_per_token_ratio=None if waits is None or waited is None else waits / waited,
        usd_per_million_tokens_ratio=None if paid is None else paid / speed,
        batch=after.tokens.sequence_steps / steps * after.growth if grown and steps > 0 else None,
        kv_tokens=room if room > 0 and same_part else None,
        bytes_freed=freed if freed > 0 and after.model.ranks == before.model.ranks and same_part else None,
        gpus_freed=(before.model.ranks - after.model.ranks or None) if same_part else None,
    )
