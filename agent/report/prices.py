"""What an hour of a GPU was paid at, by the nodes that have a price and for as long as they had it.

An hour without a price is none that cost nothing. What the instances of a board in MIG mode leave of it costs
and takes no time, so it is in no price.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from agent.report.answers import Answers
from agent.report.period import HOUR_SECONDS
from agent.roofline.gpus import is_part_of_one

NEEDED = (
    "node_gpu_cost_usd",
    "node_gpu_unallocated_cost_usd",
    "node_gpu_bottleneck_seconds",
    "node_recorded",
    "node_priced",
)
"""What prices are made of. Where a piece of one is missing, its sums are of other hours than the others'."""
ALL_PRICED = 0.99
"""Of the hours: more is rounding."""
ENOUGH_PRICED = 0.9
"""Of the hours: with less, money divided by all that was done is too little."""

Node = tuple[str, str, str]
"""Cluster, instance, part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """The GPUs of one part on one node."""

    usd: float
    """Paid for their hours."""
    gpu_hours: float
    """All that were observed."""
    priced_gpu_hours: float
    """Those of the time in which there was a price."""


@dataclass(frozen=True, kw_only=True)
class Prices:
    """Of an hour of a GPU, in USD. An instance of a GPU in MIG mode is a share of one, and has none."""

    nodes: Mapping[Node, Priced]
    """Also those without a price."""
    are_known: bool = True
    """Whether all that they are made of was answered."""

    @classmethod
    def of(cls, answers: Answers) -> Prices:
        """As they were paid; none where a part of what they are made of is not known."""
        if answers.lack(*NEEDED):
            return cls(nodes={}, are_known=False)
        labels = ("cluster", "instance", "part")
        paid, left, seconds, recorded, priced = (answers[question].by(*labels) for question in NEEDED)
        nodes: dict[Node, Priced] = {}
        for key, observed in seconds.items():
            cluster, instance, part = key
            hours = observed / HOUR_SECONDS
            share = min(priced.get(key, 0.0) / recorded[key], 1.0) if recorded.get(key) else 0.0
            nodes[cluster, instance, part] = Priced(
                usd=max(paid.get(key, 0.0) - left.get(key, 0.0), 0.0),
                gpu_hours=hours,
                priced_gpu_hours=hours * (share if share < ALL_PRICED else 1.0),
            )
        return cls(nodes=nodes)

    def of_node(self, cluster: str, instance: str, part: str) -> float | None:
        """Of what that node has of the part; of MIG instances the mean."""
        found = self.nodes.get((cluster, instance, part))
        return None if found is None else _per_hour([found])

    def of_part(self, part: str, *, cluster: str | None = None) -> float | None:
        """The mean over all hours that had a price, in that cluster or in all."""
        return None if is_part_of_one(part) else _per_hour(self._chosen(part, cluster))

    def priced_ratio(self, part: str | None = None, *, cluster: str | None = None) -> float | None:
        """The share of the observed hours that had a price, of one part or of all; `None` if nobody knows."""
        found = self._chosen(part, cluster)
        hours = sum(each.gpu_hours for each in found)
        return sum(each.priced_gpu_hours for each in found) / hours if hours else None

    def are_enough(self, part: str | None = None) -> bool:
        """Unless too few of the hours had a price, or how many had one was not answered."""
        if not self.are_known:
            return False
        ratio = self.priced_ratio(part)
        return ratio is None or ratio >= ENOUGH_PRICED

    def priced_ratio_at_most(self, cluster: str, part: str, *, usd: float, gpu_hours: float) -> float:
        """The most of a service's hours that can have had a price, by the least that was paid for one there.

        1 unless it is known that such GPUs of its cluster were there without a price.
        """
        ratio = self.priced_ratio(part, cluster=cluster)
        prices = (_per_hour([each]) for each in self._chosen(part, cluster))
        least = min((price for price in prices if price), default=None)
        if ratio is None or ratio >= ALL_PRICED or least is None or not gpu_hours or is_part_of_one(part):
            return 1.0
        return min(usd / least / gpu_hours, 1.0)

    @cached_property
    def clusters(self) -> Mapping[str, frozenset[str]]:
        """The parts of whole GPUs that have a price, by cluster."""
        found: defaultdict[str, set[str]] = defaultdict(set)
        for (cluster, part), rows in self._by_part.items():
            if _per_hour(rows) is not None and not is_part_of_one(part):
                found[cluster].add(part)
        return {cluster: frozenset(parts) for cluster, parts in found.items()}

    @cached_property
    def _by_part(self) -> Mapping[tuple[str, str], list[Priced]]:
        found: defaultdict[tuple[str, str], list[Priced]] = defaultdict(list)
        for (cluster, _, part), each in self.nodes.items():
            found[cluster, part].append(each)
        return found

    def _chosen(self, part: str | None, cluster: str | None) -> list[Priced]:
        return [
            each
            for (where, what), rows in self._by_part.items()
            if part in (None, what) and cluster in (None, where)
            for each in rows
        ]


def _per_hour(rows: list[Priced]) -> float | None:
    hours = sum(each.priced_gpu_hours for each in rows)
    usd = sum(each.usd for each in rows if each.priced_gpu_hours)
    return usd / hours if hours and usd else None
