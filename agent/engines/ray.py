"""vLLM inside Ray Serve, as the metrics agent of a Ray node shows it: Ray 2.32 to today.

The one thing to know: it is one page for the whole node. vLLM's families stand on it once a replica, told
apart by a label, with ``ray_`` before their names, and each counter stands there twice. Renamed and taken
apart, each replica's part is a page of vLLM, and vLLM's own tables read it.

Names: vLLM's wrapper for Ray, and what is known of a page of 2.32.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

from agent.engines.base import NO_DOCUMENTS, Documents, EngineDefinition
from agent.engines.vllm import VLLM
from agent.engines.vllm import read as read_vllm
from agent.readings import EngineReading
from agent.sources.page import Page, Sample

# --- where the page has what ---------------------------------------------------------------------

PREFIX = "ray_"
TOTAL = "_total"
REPLICA_LABELS = ("ReplicaId", "WorkerId")
"""The first is Ray Serve's own, and empty or missing outside of it; the second is every process's."""
LONGEST_RANK = 16
"""Characters of an id that is a rank as it is."""

# Both spellings of vLLM's are Ray's: ``ray_vllm:…`` in 2.32, ``ray_vllm_…`` today.
_NAMES = {PREFIX + name: name for name in VLLM.wanted if name.startswith("vllm")}
_BARE = {name.removesuffix(TOTAL): new for name, new in _NAMES.items() if name.endswith(TOTAL)}
"""Each counter's second name, as a gauge, which can be switched off (``RAY_EXPORT_COUNTER_AS_GAUGE``)."""


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The replicas of the node, by rank, which is a replica's id.

    A long one is cut, and a few digits made from the whole of it follow: the same in every life of the
    agent, and not the same for two. A replica with several data-parallel engines has each of them as
    ``replica/engine``.
    """
    readings = [
        reading
        for replica, part in _replicas(page).items()
        for reading in _read_replica(_rank(replica), _as_vllm(part))
    ]
    return tuple(sorted(readings, key=lambda reading: reading.rank))


def _replicas(page: Page) -> dict[str, Page]:
    """The page by replica; what carries no id is a replica's only where there is no other."""
    replicas: dict[str, dict[str, list[Sample]]] = {}
    for name, samples in page.families.items():
        for sample in samples:
            if sample.value >= 0:  # −1 means "no value"
                replicas.setdefault(_replica(sample), {}).setdefault(name, []).append(sample)
    if len(replicas) > 1:
        replicas.pop("", None)
    return {replica: Page(families=families) for replica, families in replicas.items()}


def _replica(sample: Sample) -> str:
    return next((found for label in REPLICA_LABELS if (found := sample.labels.get(label))), "")


def _rank(replica: str) -> str:
    if len(replica) <= LONGEST_RANK:
        return replica or "0"
    half = LONGEST_RANK // 2
    return f"{replica[:half]}-{hashlib.sha256(replica.encode()).hexdigest()[:half]}"


def _as_vllm(part: Page) -> Page:
    """One replica's families under vLLM's names; a counter's second one only where the first is missing."""
    families = {_BARE[name]: found for name, found in part.families.items() if name in _BARE}
    families |= {_NAMES[name]: found for name, found in part.families.items() if name in _NAMES}
    return Page(families=families)


def _read_replica(rank: str, page: Page) -> list[EngineReading]:
    """A replica is one process, which its page does not name."""
    engines = read_vllm(page, one_process=True)
    return [
        replace(engine, rank=rank if len(engines) == 1 else f"{rank}/{engine.rank}") for engine in engines
    ]


# --- the definition ------------------------------------------------------------------------------

RAY = EngineDefinition(
    name="ray",
    fingerprint=frozenset(name for name, new in (_NAMES | _BARE).items() if new in VLLM.fingerprint),
    wanted=frozenset(_NAMES | _BARE),
    read=read,
    # What stands behind its port is Ray's, so there is nothing of vLLM's own interface to ask.
    ports=(8080,),
    switch="log_engine_metrics: true in the LLM's configuration (on by default since Ray 2.51)",
    derived=VLLM.derived,
)
