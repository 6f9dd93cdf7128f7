"""How many GPUs a live mix needs, and what it would cost there.

A replica spends a prefill and a share of each decode step on every request. The larger its batch, the smaller
that share: the batch at which it just keeps up with its part of the requests is the one it will run at.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError
from agent.planning.mix import LiveMix
from agent.roofline.cost import MILLION, usd_per_million_tokens
from agent.roofline.gpus import find_gpu
from agent.roofline.planner import BACKENDS, Plan, Point, plan
from agent.units import SECONDS_PER_HOUR

BUSY_RATIO_MAX = 0.8
"""Of what a replica can do; nearer to 1, queues grow without bound, and the mean is not the peak."""
BATCH_MAX = 256
"""Where no engine says what it allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizing:
    """One set-up, sized for a mix."""

    plan: Plan
    """Of decode, at the batch a replica will run at."""
    replicas: int | None
    """`None` when not even one sequence fits."""
    prefill_ratio: float
    """Of a replica's time."""
    generation_tokens_per_second: float
    """Of the mix."""

    @property
    def gpus(self) -> int | None:
        """Of all replicas."""
        return None if self.replicas is None else self.replicas * self.plan.gpus

    @property
    def tpot_seconds(self) -> float:
        """Between two tokens, with the prefills that come between."""
        return self.plan.tpot.expected / (1 - self.prefill_ratio)

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Generated ones, all GPUs paid all the time; `None` without a price."""
        if self.gpus is None or self.plan.usd_per_hour is None:
            return None
        return usd_per_million_tokens(
            gpus=self.gpus,
            usd_per_hour=self.plan.usd_per_hour,
            tokens_per_second=self.generation_tokens_per_second,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A mix, what the arithmetic says of how it is served now, and where it could be served."""

    mix: LiveMix
    today: Plan | None
    """Of decode as it is now; `None` when its GPU or its batch is not known."""
    today_usd_per_million_tokens: float | None
    """Generated ones, all GPUs paid, also while they are idle."""
    sizings: tuple[Sizing, ...]


def forecast(
    mix: LiveMix,
    setups: Iterable[Mapping[str, Any]],
    *,
    batch_limits: Iterable[int] = (),
    least_replicas: int = 1,
    config: Mapping[str, Any] | None = None,
) -> Forecast:
    """Size each set-up, given as fields of a `Point`, for the mix; what is not given is as it is now."""
    now = _fields(mix)
    part = find_gpu(mix.serving.part)
    if part is not None:
        now["gpu"] = part.name
    limits = tuple(batch_limits) or (int(mix.max_num_seqs or BATCH_MAX),)
    sizings = []
    for setup in setups:
        fields = {**now, **setup}
        if "gpu" not in fields:
            raise AgentError(f"the GPU that serves {mix.serving.model} is not known: give --gpu")
        candidate = _plan(mix, fields, config)
        sizings += [
            size(mix, candidate, batch_limit=limit, least_replicas=least_replicas) for limit in limits
        ]
    today = None
    if part is not None and mix.decode_batch:
        same = (each.plan.point.usd_per_hour for each in sizings if each.plan.spec == part)
        now["usd_per_hour"] = next(same, None)
        today = _plan(mix, {**now, "batch": max(round(mix.decode_batch), 1)}, config)
    return Forecast(
        mix=mix,
        today=today,
        today_usd_per_million_tokens=_usd_today(mix, today),
        sizings=tuple(sizings),
    )


def _fields(mix: LiveMix) -> dict[str, Any]:
    """The mix as a `Point` has it, all but the GPU and the dtypes."""
    return {
        "model": mix.serving.model,
        "tensor_parallel": int(mix.serving.tensor_parallel or 1),
        "pipeline_parallel": mix.serving.pipeline_parallel,
        "backend": mix.serving.engine if mix.serving.engine in BACKENDS else "vllm",
        "context": max(round(mix.context), 1),
        "prompt_tokens": max(round(mix.computed_prompt_tokens), 1),
        "output_tokens": max(round(mix.output_tokens), 1),
    }


def _plan(mix: LiveMix, fields: Mapping[str, Any], config: Mapping[str, Any] | None) -> Plan:
    """In the dtypes of now, unless others are given.

    Where they are the model's own they stay unsaid: its configuration may know them part by part.
    """
    own = plan(Point(**fields), config=config)
    now: dict[str, Any] = {
        name: dtype
        for name, dtype, its in (
            ("weight_dtype", mix.serving.weight_dtype, own.model.weight_dtype.name),
            ("kv_dtype", mix.serving.kv_dtype, own.model.kv_dtype.name),
        )
        if dtype and dtype != its and name not in fields
    }
    return own.vary(**now) if now else own


def _usd_today(mix: LiveMix, today: Plan | None) -> float | None:
    """By what the agent counted, else by the price of the GPUs."""
    usd_per_second = mix.usd_per_second
    if usd_per_second is None and today is not None and today.usd_per_hour is not None:
        usd_per_second = mix.gpus * today.usd_per_hour / SECONDS_PER_HOUR
    return None if usd_per_second is None else usd_per_second / mix.generation_tokens_per_second * MILLION


def size(mix: LiveMix, candidate: Plan, *, batch_limit: int, least_replicas: int = 1) -> Sizing:
    """The fewest replicas of a set-up that keep up with the mix, and the batch they then run at."""
    limit = min(batch_limit, candidate.kv_limited_batch)

    def requests_per_second(batch: int) -> float:
        decode_seconds = mix.output_tokens * candidate.vary(batch=batch).tpot.expected / batch
        return 1 / (candidate.ttft.expected + decode_seconds)

    if limit < 1:
        return Sizing(
            plan=candidate.vary(batch=1),
            replicas=None,
            prefill_ratio=0.0,
            generation_tokens_per_second=mix.generation_tokens_per_second,
        )
    needed = math.ceil(mix.requests_per_second / (BUSY_RATIO_MAX * requests_per_second(limit)))
    replicas = max(needed, least_replicas)
    demand = mix.requests_per_second / replicas
    batch = 1 + bisect.bisect_left(range(1, limit), demand, key=requests_per_second)
    return Sizing(
        plan=candidate.vary(batch=batch),
        replicas=replicas,
        prefill_ratio=demand * candidate.ttft.expected,
        generation_tokens_per_second=mix.generation_tokens_per_second,
    )
