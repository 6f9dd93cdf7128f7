"""What tokens cost: every GPU of the replica is paid, whichever of them works.

Charging one GPU's price for tokens that several made is the usual mistake; it reverses rankings.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.units import SECONDS_PER_HOUR

MILLION = 1e6


def usd_per_million_tokens(*, gpus: int, usd_per_hour: float, tokens_per_second: float) -> float:
    """Price of a million tokens; `gpus` are all of the replica, `usd_per_hour` is of one.

    At the rate by which the roof bounds it, this is the floor that no tuning can pass.
    """
    if gpus < 1 or usd_per_hour < 0 or tokens_per_second <= 0:
        raise ValueError("a cost needs a GPU, a price and tokens")
    return gpus * usd_per_hour / SECONDS_PER_HOUR / tokens_per_second * MILLION


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseCost:
    """A sum of money divided by what it was spent on; the parts sum to the whole."""

    prefill_usd: float
    decode_usd: float
    idle_usd: float

    @property
    def total_usd(self) -> float:
        """What was paid."""
        return self.prefill_usd + self.decode_usd + self.idle_usd


def split_by_phase(
    usd: float, *, prefill_seconds: float, decode_seconds: float, idle_seconds: float = 0.0
) -> PhaseCost:
    """Divide by the seconds that each took; with no seconds at all it was idle."""
    seconds = prefill_seconds + decode_seconds + idle_seconds
    if seconds <= 0:
        return PhaseCost(prefill_usd=0.0, decode_usd=0.0, idle_usd=usd)
    prefill, decode = usd * (prefill_seconds / seconds), usd * (decode_seconds / seconds)
    return PhaseCost(prefill_usd=prefill, decode_usd=decode, idle_usd=usd - prefill - decode)


def bandwidth_per_usd(*, dram_bytes_per_second: float, usd: float) -> float:
    """DRAM bytes/s for a dollar, of the purchase or of the hour: what decode is bought by."""
    return dram_bytes_per_second / usd
