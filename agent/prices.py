"""What a GPU costs by the hour, from a list with dates."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass

ANY_GPU = "*"
"""As the part of a price: for every part that has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricePeriod:
    """What an hour of a part costs from a day on."""

    gpu: str
    usd_per_hour: float
    since: dt.date


def find_price(prices: Sequence[PricePeriod], names: Collection[str], *, unix_seconds: float) -> float | None:
    """USD an hour for a part with these names, by the latest price then valid; `None` without one."""
    today = dt.datetime.fromtimestamp(unix_seconds, tz=dt.UTC).date()
    for wanted in (names, {ANY_GPU}):
        valid = [price for price in prices if price.gpu in wanted and price.since <= today]
        if valid:
            return max(valid, key=lambda price: price.since).usd_per_hour
    return None
