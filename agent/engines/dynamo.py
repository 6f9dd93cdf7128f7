"""NVIDIA Dynamo's workers, early 2026 and before.

The one thing to know: a worker's page has two layers. Dynamo's own families count requests; those of the
engine inside it follow on the same page, and are preferred: the reading is that engine's, under its name.
Dynamo adds what the engine does not say: which phase the worker does, and the requests it has in hand.

Its front end has no engine inside, and is refused with the advice to give the workers' URLs.

Names and their traps: the project's documentation, and recorded pages of a worker and of a front end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.engines.base import (
    NO_DOCUMENTS,
    Documents,
    EngineDefinition,
    Signal,
    Spelling,
    histogram_samples,
    in_rank_order,
    read_counters,
    read_histogram,
)
from agent.engines.sglang import SGLANG
from agent.engines.trtllm import TRTLLM
from agent.engines.vllm import VLLM
from agent.engines.vllm import read as read_vllm
from agent.errors import SourceError
from agent.readings import EngineReading, ServingRole
from agent.sources.page import Page

INNER: tuple[EngineDefinition, ...] = (VLLM, SGLANG, TRTLLM)
"""The engines that a worker can have inside."""

# --- where the page has what ---------------------------------------------------------------------


_signal = Spelling(("dynamo_component_",)).signal

ENDPOINT = "generate"
"""The endpoint of a worker that does its work; others empty caches and the like."""
IN_FLIGHT = _signal("inflight_requests")
COUNTERS: Mapping[str, Signal] = {
    "requests_finished": _signal("request_duration_seconds_count"),
    "requests_error": _signal("errors_total"),
    "requests_abort": _signal("cancellation_total"),
}
REQUEST_LATENCY = ("dynamo_component_request_duration_seconds",)

KV_BLOCKS = _signal(
    "total_blocks",  # since early 2026
    "kvstats_total_blocks",  # until then
)
KV_USED = _signal(
    "gpu_cache_usage_percent",  # a ratio despite its name, as the older one
    "kvstats_gpu_cache_usage_percent",
)

WORKER = frozenset(IN_FLIGHT.names + KV_BLOCKS.names + KV_USED.names)
FRONT_END = frozenset(
    f"dynamo_frontend_{name}"
    for name in ("disconnected_clients", "inflight_requests", "queued_requests", "requests_total")
)

ROLES: Mapping[str, ServingRole] = {"prefill": "prefill", "decode": "decode"}
"""By component. ``backend`` and the engines' names do both, or the decode part of both."""


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The engines of the worker, by data-parallel rank; `SourceError` for the page of a front end.

    What is the whole worker's is given to the lowest rank, so that sums over ranks are right.
    """
    inner = _inner(page)
    if inner is None and WORKER.isdisjoint(page.families):
        raise SourceError(
            "unrecognised",
            "this is the front end of NVIDIA Dynamo, which has no engine inside; "
            "give the URLs of its workers, at the port that DYN_SYSTEM_PORT sets",
        )
    readings = _own_readings(page) if inner is None else _inner_readings(inner, page, documents)
    return tuple(
        _with_what_dynamo_knows(reading, page, lowest=number == 0) for number, reading in enumerate(readings)
    )


def _inner(page: Page) -> EngineDefinition | None:
    return next((one for one in INNER if not one.fingerprint.isdisjoint(page.families)), None)


def _inner_readings(inner: EngineDefinition, page: Page, documents: Documents) -> tuple[EngineReading, ...]:
    """The engine's own, from its own families: labels such as `dp_rank` are Dynamo's too."""
    own = Page(families={name: found for name, found in page.families.items() if name in inner.wanted})
    if inner is VLLM:
        return read_vllm(own, documents, one_process=True)  # a worker is one, which its page does not name
    return inner.read(own, documents)


def _own_readings(page: Page) -> tuple[EngineReading, ...]:
    """All that Dynamo itself says, where the engine inside has its metrics switched off."""
    ranks = {rank or "0" for rank in _kv_gauges(page)} or {"0"}
    first, *others = (EngineReading(engine="dynamo", rank=rank, model="") for rank in in_rank_order(ranks))
    work = page.by_label("dynamo_endpoint").get(ENDPOINT, Page(families={}))
    return (
        replace(
            first,
            counters=read_counters(work, COUNTERS),
            request_latency=read_histogram(work, REQUEST_LATENCY),
        ),
        *others,
    )


def _with_what_dynamo_knows(reading: EngineReading, page: Page, *, lowest: bool) -> EngineReading:
    """The reading, with what it lacks and the worker says."""
    ratio = reading.kv_used_ratio
    return replace(
        reading,
        model=reading.model or _model(page),
        role=reading.role or _role(page),
        kv_used_ratio=_kv_used_ratio(page, reading.rank) if ratio is None else ratio,
        requests_in_flight=_requests_in_flight(page) if lowest else None,
    )


# --- what no table can say -----------------------------------------------------------------------


def _requests_in_flight(page: Page) -> float | None:
    return page.value(*IN_FLIGHT.names, dynamo_endpoint=ENDPOINT)


def _kv_used_ratio(page: Page, rank: str) -> float | None:
    """`None` without blocks: the older gauges were there and stayed 0 for SGLang and TensorRT-LLM."""
    gauges = _kv_gauges(page)
    own = gauges.get(rank) or gauges.get("", Page(families={}))
    used = KV_USED.read(own)
    return used if KV_BLOCKS.read(own) and used is not None and 0 <= used <= 1 else None


def _kv_gauges(page: Page) -> dict[str, Page]:
    """Dynamo's own gauges of the KV cache, by data-parallel rank; "" where they name none."""
    names = (name for name in KV_BLOCKS.names + KV_USED.names if name in page)
    return Page(families={name: page.samples(name) for name in names}).by_label("dp_rank")


def _labels(page: Page, label: str) -> set[str]:
    """All values of that label on Dynamo's own families."""
    own = {name: samples for name, samples in page.families.items() if name.startswith("dynamo_")}
    return set(Page(families=own).label_values(label))


def _model(page: Page) -> str:
    """The worker's model, where it names one."""
    models = _labels(page, "model")
    return models.pop() if len(models) == 1 else ""


def _role(page: Page) -> ServingRole | None:
    """The one phase that the worker's component does."""
    roles = {ROLES.get(component) for component in _labels(page, "dynamo_component")}
    return roles.pop() if len(roles) == 1 else None


# --- the definition ------------------------------------------------------------------------------

DYNAMO = EngineDefinition(
    name="dynamo",
    fingerprint=WORKER | FRONT_END,
    wanted=(WORKER | FRONT_END).union(
        histogram_samples(REQUEST_LATENCY),
        *(signal.names for signal in COUNTERS.values()),
        *(inner.wanted for inner in INNER),
    ),
    read=read,
    # The port of its page has none of the interfaces that the engine would have by itself.
    ports=(8081,),
    switch="DYN_SYSTEM_PORT in the worker's environment",
    derived=frozenset[str]().union(*(inner.derived for inner in INNER)),
)
