"""Which GPUs of this node an engine runs on, and whence that is known.

In this order: the configuration, the processes that have a GPU open, the kubelet's allocation to the
engine's container, and else by elimination, where nothing but these GPUs can be meant. It is said which.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.readings import PodContainer
from agent.roster import MonitoredServer

PlacedBy = Literal["configuration", "process", "pod", "elimination", "unknown"]
UNTOLD = "which GPUs it runs on is not known; set gpus under this engine, or turn on a way of finding out"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """The GPUs of one server, over all its ranks."""

    uuids: tuple[str, ...] = ()
    by: PlacedBy = "unknown"
    problem: str | None = None
    """Why nothing is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the node offers to run on."""

    usable: Sequence[str] = ()
    """UUIDs of all GPUs, and in place of one in MIG mode of its instances."""
    in_use: Collection[str] = ()
    """Those on which somebody holds memory."""
    allocations: Sequence[tuple[PodContainer, str]] = ()
    """Which container has which of them."""


def place(
    server: MonitoredServer,
    ground: Ground,
    *,
    configured: tuple[str, ...] = (),
    ranks: int | None,
    only_server: bool,
) -> Placement:
    """The GPUs of one server.

    `configured` are the UUIDs meant by its entry; `ranks` is how many its model is split over, all
    data-parallel ranks together, if that is known; `only_server` whether this node has no other.
    """
    if server.gpus is not None:
        return Placement(
            uuids=configured,
            by="configuration",
            problem=None if configured else "its GPUs cannot be read now",
        )
    if not server.on_this_node:
        return Placement(problem=UNTOLD)
    if server.found is not None and server.found.gpu_uuids:
        held = tuple(uuid for uuid in server.found.gpu_uuids if uuid in ground.usable)
        if held:
            return Placement(uuids=held, by="process")
    allotted = _allotted(server, ground)
    if allotted:
        return Placement(uuids=allotted, by="pod")
    return _eliminate(ground, ranks=ranks, only_server=only_server)


def _allotted(server: MonitoredServer, ground: Ground) -> tuple[str, ...]:
    container = server.found.container if server.found is not None else None
    if container is None or not container.pod:
        return ()
    uuids = {
        uuid
        for owner, uuid in ground.allocations
        if (owner.namespace, owner.pod) == (container.namespace, container.pod)
        and (not container.container or owner.container == container.container)
    }
    return tuple(uuid for uuid in ground.usable if uuid in uuids)


def _eliminate(ground: Ground, *, ranks: int | None, only_server: bool) -> Placement:
    """The node's only GPU; for its only engine those in use, or all, if there are as many as it needs."""
    if len(ground.usable) == 1:
        return Placement(uuids=tuple(ground.usable), by="elimination")
    if not only_server or not ground.usable:
        return Placement(problem=UNTOLD)
    in_use = tuple(uuid for uuid in ground.usable if uuid in ground.in_use)
    if ranks is None and len(in_use) == 1:
        return Placement(uuids=in_use, by="elimination")
    for candidates in (in_use, tuple(ground.usable)):
        if len(candidates) == ranks:
            return Placement(uuids=candidates, by="elimination")
    return Placement(problem=UNTOLD)
