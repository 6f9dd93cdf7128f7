"""KV-cache headroom: how much context is left, how soon it ends, and what batch it allows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from agent.units import render_number

Limiter = Literal["traffic", "kv_cache", "max_num_seqs", "unknown"]
LIMITERS: tuple[Limiter, ...] = ("traffic", "kv_cache", "max_num_seqs", "unknown")

HORIZON_SECONDS = 3600.0
"""A cache that would take longer to fill is not filling, as far as a window of half a minute can tell."""
FULL_RATIO = 0.95
"""From here on a scheduler that has requests waiting is held by the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KvCache:
    """The state of one engine's cache; `None` where the engine does not say enough."""

    used_ratio: float
    headroom_ratio: float
    capacity_tokens: float | None = None
    free_tokens: float | None = None
    free_bytes: float | None = None
    """Over all GPUs of the replica."""
    free_sequences: float | None = None
    """Sequences of the present length that still fit."""
    seconds_to_full: float | None = None
    """At the present trend; `None` while use does not clearly rise, or would take over an hour."""
    limited_batch: float | None = None
    """Sequences of the present length that fit."""


def kv_cache(
    *,
    used_ratio: float,
    capacity_tokens: float | None,
    bytes_per_token: float | None,
    context_tokens: float | None,
    history: Sequence[tuple[float, float]] = (),
) -> KvCache:
    """Headroom from the engine's own fill level; `history` is (seconds, used ratio) over the window."""
    used = min(max(used_ratio, 0.0), 1.0)
    headroom = 1.0 - used
    free_tokens = None if capacity_tokens is None else capacity_tokens * headroom
    free_sequences = free_tokens / context_tokens if free_tokens is not None and context_tokens else None
    trend = _trend(history)
    return KvCache(
        used_ratio=used,
        headroom_ratio=headroom,
        capacity_tokens=capacity_tokens,
        free_tokens=free_tokens,
        free_bytes=None if free_tokens is None or bytes_per_token is None else free_tokens * bytes_per_token,
        free_sequences=free_sequences,
        seconds_to_full=headroom / trend
        if trend is not None and trend * HORIZON_SECONDS > headroom
        else None,
        limited_batch=(
            None if capacity_tokens is None or not context_tokens else capacity_tokens / context_tokens
        ),
    )


def _trend(points: Sequence[tuple[float, float]]) -> float | None:
    """Rise of the used ratio a second (least squares); `None` when it does not rise clearly.

    Clearly: over the points' span it rises by more than twice what they scatter around the line.
    """
    if len(points) < 3:
        return None
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return None
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread
    scatter = math.sqrt(sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points) / len(points))
    span = points[-1][0] - points[0][0]
    return slope if slope > 0 and slope * span > 2 * scatter else None


def batch_limiter(
    *,
    waiting: float | None,
    running: float | None,
    used_ratio: float | None,
    preemptions: float,
    max_num_seqs: int | None,
) -> tuple[Limiter, str]:
    """Why the batch is not larger, and the reason in words. Means and increments over the window."""
    if waiting is None or running is None:
        return "unknown", "the engine does not say how many requests wait"
    if preemptions > 0:
        return "kv_cache", f"{preemptions:.0f} requests were preempted to free KV cache"
    if waiting < 1:
        return "traffic", "hardly a request waits: the batch is what the traffic gives"
    if used_ratio is not None and used_ratio >= FULL_RATIO:
        return "kv_cache", f"{render_number(waiting)} requests wait and the KV cache is {used_ratio:.0%} full"
    queue = f"{render_number(waiting)} requests wait"
    if max_num_seqs is None:
        return "unknown", f"{queue} though the KV cache has room; is max_num_seqs reached?"
    if running >= 0.95 * max_num_seqs:
        return "max_num_seqs", f"{queue} and all {max_num_seqs} sequences are in use"
    return "traffic", f"{queue}, but only for their prefill"
