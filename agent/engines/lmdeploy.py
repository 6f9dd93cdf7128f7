"""LMDeploy: 0.9.2 to 0.18.

The one thing to know: its gauges are as old as its own log line, up to ten seconds, while tokens are counted
with each output. And `iteration_tokens_total` counts outputs of requests, whatever its help says: there is
no counter of steps.

Names, their dates and their traps: the sources of the releases, and a page that 0.18.0's own code rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.engines.base import (
    NO_DOCUMENTS,
    Document,
    Documents,
    EngineDefinition,
    Signal,
    count_at,
    histogram_samples,
    list_at,
    read_counters,
    read_histogram,
    text_at,
)
from agent.readings import EngineReading, ModelFacts
from agent.sources.page import Page

# --- where the page has what ---------------------------------------------------------------------


def _names(*names: str) -> tuple[str, ...]:
    return tuple(f"lmdeploy:{name}" for name in names)


def _signal(*names: str, label: str = "", values: tuple[str, ...] = ()) -> Signal:
    return Signal(names=_names(*names), label=label, values=frozenset(values))


COUNTERS: Mapping[str, Signal] = {
    "generation_tokens": _signal("generation_tokens_total"),
    "cached_prompt_tokens": _signal("cached_tokens_total"),  # since 0.14, when a request ends
    "first_tokens": _signal("time_to_first_token_seconds_count"),
    "inter_token_seconds": _signal("iter_token_latency_sum"),  # in seconds, whatever it is called
    "inter_token_intervals": _signal("iter_token_latency_count"),
    # The names of its response types; no other than the one that ends well is ever counted.
    "requests_finished": _signal(
        "request_success_total", label="finished_reason", values=("ResponseType.FINISH",)
    ),
    "requests_error": _signal("num_requests_failed"),  # since 0.12.1; a total in a gauge
    "drafts": _signal("spec_decode_num_drafts_total"),
    "draft_tokens": _signal("spec_decode_num_draft_tokens_total"),
    "accepted_draft_tokens": _signal("spec_decode_num_accepted_tokens_total"),
}
RUNNING = _signal("num_requests_running")
# In the engine, and before it in the server.
WAITING = (_signal("num_requests_waiting"), _signal("num_api_requests_waiting"))
KV_USED = _signal("gpu_cache_usage_perc")  # a ratio despite its name
PROMPT = _signal("prompt_tokens_total")  # with the tokens that were found in the prefix cache
HIT_RATE = _signal("prefix_cache_hit_rate")

TIME_TO_FIRST_TOKEN = _names("time_to_first_token_seconds")
INTER_TOKEN_LATENCY = _names("iter_token_latency")
REQUEST_LATENCY = _names("e2e_request_latency_seconds")
START_TIME = "process_start_time_seconds"

GAUGE_AGE_SECONDS = 10.0
"""Its `log_interval`, a constant of the source."""


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The data-parallel engines of the page, by rank; as a rule each has a server of its own."""
    ranks = page.by_label("engine")
    shared = ranks.pop("", Page(families={}))
    ranks = ranks or {"0": shared}
    facts = _model_facts(documents)
    return tuple(
        _read_engine(rank, ranks[rank], shared, facts)
        for rank in sorted(ranks, key=lambda rank: (len(rank), rank))
    )


def _read_engine(rank: str, page: Page, shared: Page, facts: ModelFacts) -> EngineReading:
    return EngineReading(
        engine="lmdeploy",
        rank=rank,
        model=_model(page) or next(iter(facts.served_names), ""),
        start_time_seconds=shared.value(START_TIME),
        requests_running=RUNNING.read(page),
        requests_waiting=_requests_waiting(page),
        kv_used_ratio=KV_USED.read(page),
        counters=replace(read_counters(page, COUNTERS), prefill_tokens=_prefill_tokens(page)),
        time_to_first_token=read_histogram(page, TIME_TO_FIRST_TOKEN),
        inter_token_latency=read_histogram(page, INTER_TOKEN_LATENCY),
        request_latency=read_histogram(page, REQUEST_LATENCY),
        gauge_age_seconds=GAUGE_AGE_SECONDS,
        facts=facts,
    )


# --- what no table can say -----------------------------------------------------------------------


def _model(page: Page) -> str:
    samples = (sample for family in page.families.values() for sample in family)
    return next((name for sample in samples if (name := sample.labels.get("model_name"))), "")


def _requests_waiting(page: Page) -> float | None:
    waiting = [count for signal in WAITING if (count := signal.read(page)) is not None]
    return sum(waiting) if waiting else None


def _prefill_tokens(page: Page) -> float | None:
    """Prompt tokens that were computed.

    A prompt is booked with its first token and what was cached of it when the request ends, so that the
    difference dips, hence `derived` below. Until 0.13 nobody says how much was cached, unless it is nothing.
    """
    prompt, cached = PROMPT.read(page), COUNTERS["cached_prompt_tokens"].read(page)
    if cached is None and HIT_RATE.read(page) == 0:
        cached = 0.0
    return None if prompt is None or cached is None else max(prompt - cached, 0.0)


def _model_facts(documents: Documents) -> ModelFacts:
    rows = list_at(documents.get("models"), "data")
    names = tuple(name for row in rows if (name := text_at(row, "id")) is not None)
    first = rows[0] if rows else None
    return ModelFacts(
        path=text_at(first, "root"), served_names=names, max_model_len=count_at(first, "max_model_len")
    )


# --- the definition ------------------------------------------------------------------------------

_SIGNALS = (*COUNTERS.values(), RUNNING, *WAITING, KV_USED, PROMPT, HIT_RATE)
_FINGERPRINT = frozenset(RUNNING.names + PROMPT.names + COUNTERS["generation_tokens"].names)

LMDEPLOY = EngineDefinition(
    name="lmdeploy",
    fingerprint=_FINGERPRINT,
    wanted=_FINGERPRINT.union(
        histogram_samples(TIME_TO_FIRST_TOKEN + INTER_TOKEN_LATENCY + REQUEST_LATENCY),
        *(signal.names for signal in _SIGNALS),
        (START_TIME,),
    ),
    read=read,
    documents=(Document(name="models", path="/v1/models"),),
    ports=(23333,),
    switch="--enable-metrics, or without --disable-metrics since 0.11",
    derived=frozenset({"prefill_tokens"}),
)
