"""Who pays for a GPU: its engines, by what they did on it; while it rests, in equal parts."""

from __future__ import annotations

from collections.abc import Sequence


def gpu_shares(busy: Sequence[tuple[float, float]]) -> list[dict[str, float]]:
    """Each engine's share of one GPU's time, by ``prefill``, ``decode`` and ``idle``; together they are 1.

    `busy` has each engine's prefill and decode seconds ÷ the window. Engines that claim more than the time
    there was share it in proportion; what none of them was busy for is split evenly.
    """
    claimed = sum(prefill + decode for prefill, decode in busy)
    scale = 1 / claimed if claimed > 1 else 1.0
    idle = max(1.0 - claimed, 0.0) / len(busy) if busy else 0.0
    return [{"prefill": p * scale, "decode": d * scale, "idle": idle} for p, d in busy]
