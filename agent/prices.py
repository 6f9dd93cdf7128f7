"""What a GPU costs by the hour, from a list with dates, for its part and for the node it is in."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

ANY_GPU = "*"
"""As the part of a price: for every part that has none of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PricePeriod:
    """What an hour of a part costs from a day on."""

    gpu: str
    usd_per_hour: float
    since: dt.date
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """Only on nodes with all of these."""

    def holds(self, names: Collection[str], node_labels: Mapping[str, str], today: dt.date) -> bool:
        """Whether it is the price of a part with these names, on such a node, today."""
        return (
            self.since <= today
            and (self.gpu == ANY_GPU or self.gpu in names)
            and all(node_labels.get(label) == value for label, value in self.node_labels.items())
        )


def find_price(
    prices: Sequence[PricePeriod],
    names: Collection[str],
    *,
    unix_seconds: float,
    node_labels: Mapping[str, str] | None = None,
) -> float | None:
    """USD an hour for a part with these names; `None` without a price that holds.

    Of those that hold the most particular: the one with most labels of the node, then the one for the part
    itself, then the latest.
    """
    today = dt.datetime.fromtimestamp(unix_seconds, tz=dt.UTC).date()
    holding = [price for price in prices if price.holds(names, node_labels or {}, today)]
    if not holding:
        return None
    return max(holding, key=lambda p: (len(p.node_labels), p.gpu != ANY_GPU, p.since)).usd_per_hour
