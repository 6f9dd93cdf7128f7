"""LMDeploy: 0.9.2 to 0.18.

The one thing to know: it counts no steps. `iteration_tokens_total` claims to be one observation an engine
step, and is one an output of a request; so steps are estimated from tokens and batch. And its gauges, the
batch among them, are written every 10 seconds, while its counters move with each output.

Names, their dates and their traps: the sources of 0.18.0 and of earlier releases, and a page that the
engine's own code wrote.
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
    Spelling,
    histogram_samples,
    list_at,
    read_counters,
    read_histogram,
    read_sum,
    split_ranks,
    text_at,
)
from agent.readings import EngineReading, ModelFacts
from agent.sources.page import Page

# --- where the page has what ---------------------------------------------------------------------


_SPELLING = Spelling(("lmdeploy:",))
_spelled, _signal = _SPELLING.names, _SPELLING.signal

COUNTERS: Mapping[str, Signal] = {
    "generation_tokens": _signal("generation_tokens_total"),
    "cached_prompt_tokens": _signal("cached_tokens_total"),  # since 0.14, at the end of a request
    "first_tokens": _signal("time_to_first_token_seconds_count"),
    # One an output after the first of its request; outputs that come at once are one.
    "inter_token_seconds": _signal(
        "iter_token_latency_sum",  # no unit in its name, and seconds
        "time_per_output_token_seconds_sum",  # in the oldest alone; the same, but with speculation
    ),
    "inter_token_intervals": _signal("iter_token_latency_count", "time_per_output_token_seconds_count"),
    # With speculative decoding only; 0 without.
    "drafts": _signal("spec_decode_num_drafts_total"),
    "draft_tokens": _signal("spec_decode_num_draft_tokens_total"),
    "accepted_draft_tokens": _signal("spec_decode_num_accepted_tokens_total"),
}

PROMPT = _signal("prompt_tokens_total")  # with the first token, cached ones included
CACHE_HIT_RATE = _signal("prefix_cache_hit_rate")

# No other reason is ever counted. Failed requests are, in a gauge, but cancelled ones are among them.
FINISHED = _signal("request_success_total", label="finished_reason", values=("ResponseType.FINISH",))
FINISHED_LATENCIES = _signal("e2e_request_latency_seconds_count")

RUNNING = _signal("num_requests_running")
WAITING = _signal("num_requests_waiting")
WAITING_IN_SERVER = _signal("num_api_requests_waiting")  # for a free handle of the engine; not in older ones
KV_USED = _signal("gpu_cache_usage_perc")  # a ratio despite its name

TIME_TO_FIRST_TOKEN = _spelled("time_to_first_token_seconds")
INTER_TOKEN_LATENCY = _spelled("iter_token_latency", "time_per_output_token_seconds")
REQUEST_LATENCY = _spelled("e2e_request_latency_seconds")

START_TIME = "process_start_time_seconds"
GAUGE_AGE_SECONDS = 10.0


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The data-parallel engines of the page, by rank: one, as a rule, as each has a server of its own."""
    ranks, shared = split_ranks(page, "engine")  # and what the process says of itself
    facts = _model_facts(documents)
    return tuple(
        _read_engine(rank, own, start_time_seconds=shared.value(START_TIME), facts=facts)
        for rank, own in ranks.items()
    )


def _read_engine(
    rank: str, page: Page, *, start_time_seconds: float | None, facts: ModelFacts
) -> EngineReading:
    return EngineReading(
        engine="lmdeploy",
        rank=rank,
        model=next(page.label_values("model_name"), None) or next(iter(facts.served_names), ""),
        start_time_seconds=start_time_seconds,
        requests_running=RUNNING.read(page),
        requests_waiting=read_sum(page, (WAITING, WAITING_IN_SERVER)),
        kv_used_ratio=KV_USED.read(page),
        counters=replace(
            read_counters(page, COUNTERS),
            prefill_tokens=_prefill_tokens(page),
            requests_finished=_requests_finished(page),
        ),
        time_to_first_token=read_histogram(page, TIME_TO_FIRST_TOKEN),
        inter_token_latency=read_histogram(page, INTER_TOKEN_LATENCY),
        request_latency=read_histogram(page, REQUEST_LATENCY),
        gauge_age_seconds=GAUGE_AGE_SECONDS,
        facts=facts,
    )


# --- what no table can say -----------------------------------------------------------------------


def _prefill_tokens(page: Page) -> float | None:
    """Prompt tokens that were really computed.

    Hits are booked when a request ends, its prompt with its first token: meanwhile it counts whole, and then
    the difference dips, hence `derived` below. Before 0.14 hits are not counted at all: then the prompts are
    all there is, unless the page shows that the prefix cache is in use, which it is only if asked for.
    """
    prompt, cached = PROMPT.read(page), COUNTERS["cached_prompt_tokens"].read(page)
    if prompt is None:
        return None
    if cached is not None:
        return max(0.0, prompt - cached)
    return None if CACHE_HIT_RATE.read(page) else prompt


def _requests_finished(page: Page) -> float | None:
    """Older pages do not count them, but have a latency of each."""
    finished = FINISHED.read(page)
    return FINISHED_LATENCIES.read(page) if finished is None else finished


def _model_facts(documents: Documents) -> ModelFacts:
    """The names alone: `root` and the rest of a row say nothing else."""
    names = (text_at(row, "id") for row in list_at(documents.get("models"), "data"))
    return ModelFacts(served_names=tuple(name for name in names if name is not None))


# --- the definition ------------------------------------------------------------------------------

_SIGNALS = (
    *COUNTERS.values(),
    *(PROMPT, CACHE_HIT_RATE, FINISHED, FINISHED_LATENCIES),
    *(RUNNING, WAITING, WAITING_IN_SERVER, KV_USED),
)
# All are there from the start.
_FINGERPRINT = frozenset(RUNNING.names + COUNTERS["generation_tokens"].names + PROMPT.names)

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
    switch="--enable-metrics (0.9.2 to 0.10; later they are on without --disable-metrics)",
    derived=frozenset({"prefill_tokens"}),
)
