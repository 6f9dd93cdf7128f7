"""What an advice is: one thing to do, why, what it is expected to give, and when that would be wrong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from agent.advice.words import counted
from agent.assessment import EngineKey, GpuAssessment
from agent.readings import Evidence
from agent.units import render_quantity

Kind = Literal[
    "engine_may_hang",
    "check_model_configuration",
    "reduce_host_gaps",
    "remove_throttle",
    "raise_max_num_seqs",
    "more_kv_memory",
    "quantize_kv_cache",
    "quantize_weights",
    "fewer_tensor_parallel_ranks",
    "other_hardware",
    "disaggregate",
    "consolidate_idle",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What is expected, `None` where this advice does not touch it. Ratios are new ÷ present.

    They are of the engine while it works: where traffic leaves it idle, the gain is in time and in idle,
    not in tokens.
    """

    tokens_per_second_ratio: float | None = None
    seconds_per_token_ratio: float | None = None
    """Between the tokens of one sequence."""
    usd_per_million_tokens_ratio: float | None = None
    batch: float | None = None
    """Sequences in a decode step, where they become more."""
    kv_tokens: float | None = None
    """That the cache would hold more."""
    bytes_freed: float | None = None
    """Of GPU memory, over the replica."""
    gpus_freed: int | None = None
    usd_per_hour_saved: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuKey:
    """Which GPU."""

    index: int
    uuid: str
    number: str
    """How people call it."""

    @classmethod
    def each_of(cls, gpus: Sequence[GpuAssessment]) -> tuple[GpuKey, ...]:
        """Of all these."""
        return tuple(cls(index=gpu.index, uuid=gpu.uuid, number=gpu.number) for gpu in gpus)


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """One thing to do, why, what it is expected to give, and when that would be wrong."""

    kind: Kind
    engines: tuple[EngineKey, ...] = ()
    gpus: tuple[GpuKey, ...] = ()
    title: str
    reason: str
    effect: Effect | None = None
    """`None` when it cannot be told."""
    evidence: Evidence = "modelled"
    """Of the state that it starts from; effects are always modelled."""
    wrong_when: str
    after: tuple[Kind, ...] = ()
    """Advice for the same engine on top of which the effect was computed."""
    benefit_gpus: float = 0.0
    """The order: GPUs that the same tokens would no longer need, or the same part of their waiting."""

    @property
    def subject(self) -> str:
        """Of whom it speaks, in words."""
        servers = [key.server + (f" rank {key.rank}" if key.rank != "0" else "") for key in self.engines]
        gpus = ", ".join(gpu.number for gpu in self.gpus)
        return " on ".join(part for part in (", ".join(servers), f"GPU {gpus}" if gpus else "") if part)

    @property
    def expected(self) -> str:
        """The effect in words; "" when it cannot be told."""
        effect = self.effect
        if effect is None:
            return ""
        words = [
            f"{ratio:.2g} × {what}"
            for ratio, what in (
                (effect.tokens_per_second_ratio, "the tokens/s"),
                (effect.seconds_per_token_ratio, "the time between tokens"),
                (effect.usd_per_million_tokens_ratio, "the cost of a token"),
            )
            if ratio is not None
        ]
        if effect.batch is not None:
            words.append(f"a batch of {effect.batch:.0f}")
        if effect.kv_tokens is not None:
            words.append(f"room for {effect.kv_tokens:,.0f} more tokens")
        if effect.bytes_freed is not None:
            words.append(f"{render_quantity(effect.bytes_freed, 'B')} freed")
        if effect.gpus_freed is not None:
            words.append(counted(effect.gpus_freed, "GPU") + " freed")
        if effect.usd_per_hour_saved is not None:
            words.append(f"${effect.usd_per_hour_saved:.2f} an hour saved")
        return ", ".join(words)
