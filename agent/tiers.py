"""What the agent may be let to see beyond its own: how engines, their GPUs and their pods are found.

None is needed. Each is a privilege to be granted, so it is always said what it would give, what it takes,
and, where it is granted, what it still could not see.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agent.readings import Discovery
from agent.sources.base import SourceState


@dataclass(frozen=True, slots=True, kw_only=True)
class Tier:
    """One way of finding out."""

    name: str
    """Of its source, and of its key under `discovery` in the configuration."""
    missing: str
    """What it costs to go without, in words."""
    needs: str


TIERS: tuple[Tier, ...] = (
    Tier(
        name="processes",
        missing="engines, their GPUs and how their models are run must be configured or found otherwise, and "
        "a model that is not in the catalogue needs its config.json named",
        needs="the node's processes (a service on the host, or hostPID) and SYS_PTRACE for those of others",
    ),
    Tier(
        name="kubernetes",
        missing="the engines in this node's pods must be configured, and no pod stands beside an engine",
        needs="a Role that lets it get, list and watch pods",
    ),
    Tier(
        name="pod_resources",
        missing="which pod has which GPU is not known from the kubelet",
        needs="the kubelet's pod-resources directory, read as uid 0",
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TierStatus:
    """One of `TIERS` now."""

    tier: Tier
    enabled: bool
    found: int | None = None
    """Engines, or allocations; `None` before it was asked."""
    notes: tuple[str, ...] = ()
    """What it could not see or left out."""


def tier_statuses(states: Mapping[str, SourceState[Any]]) -> tuple[TierStatus, ...]:
    """Each tier; `states` are those of the sources that are on, by their names."""
    return tuple(_status(tier, states.get(tier.name)) for tier in TIERS)


def _status(tier: Tier, state: SourceState[Any] | None) -> TierStatus:
    if state is None:
        return TierStatus(tier=tier, enabled=False)
    if state.last_success is None:
        return TierStatus(tier=tier, enabled=True)
    reading = state.last_success.reading
    if isinstance(reading, Discovery):
        return TierStatus(tier=tier, enabled=True, found=len(reading.servers), notes=reading.notes)
    return TierStatus(tier=tier, enabled=True, found=len(reading.allocations))
