"""vLLM, V1 engine: 0.9 to 0.33.

The one thing to know: with several API servers (``--api-server-count``, and the default with data
parallel) each of them counts a step for the part of the batch that it serves, so the number of steps
on the page is too high by up to their number. Such a page is read without its steps.

Names, their dates and their traps: recorded pages of 0.32.0, and the sources of the releases.
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
    count_at,
    histogram_samples,
    integer_of,
    own_models,
    read_counters,
    read_histogram,
    split_ranks,
    text_at,
)
from agent.readings import EngineReading, ModelFacts
from agent.sources.page import Page

# --- where the page has what ---------------------------------------------------------------------


# As the text format has them, and as OpenMetrics without UTF-8 names does.
_SPELLING = Spelling(("vllm:", "vllm_"))
_spelled, _signal = _SPELLING.names, _SPELLING.signal


def _finished(*reasons: str) -> Signal:
    # A client that hangs up is not counted at all, so `abort` is a lower bound.
    return _signal("request_success_total", label="finished_reason", values=reasons)


COUNTERS: Mapping[str, Signal] = {
    "generation_tokens": _signal("generation_tokens_total"),
    # A histogram despite its name. A step of partial prefill chunks only gives no output and is not in it.
    "steps": _signal("iteration_tokens_total_count"),
    "first_tokens": _signal("time_to_first_token_seconds_count"),
    "inter_token_seconds": _signal(
        "inter_token_latency_seconds_sum",  # since 0.10.2
        "time_per_output_token_seconds_sum",  # until 0.14.1
    ),
    "inter_token_intervals": _signal(
        "inter_token_latency_seconds_count",  # since 0.10.2
        "time_per_output_token_seconds_count",  # until 0.14.1
    ),
    "preemptions": _signal("num_preemptions_total"),
    "requests_stop": _finished("stop", "repetition"),  # repetition: the engine stopped it
    "requests_length": _finished("length"),
    "requests_abort": _finished("abort"),
    "requests_error": _finished("error"),
    # With speculative decoding only.
    "drafts": _signal("spec_decode_num_drafts_total"),
    "draft_tokens": _signal("spec_decode_num_draft_tokens_total"),
    "accepted_draft_tokens": _signal("spec_decode_num_accepted_tokens_total"),
}

RUNNING = _signal("num_requests_running")
WAITING = _signal("num_requests_waiting")
KV_USED = _signal(
    "kv_cache_usage_perc",  # since 0.9.2; a ratio despite its name
    "gpu_cache_usage_perc",  # until 0.11.2
)

PROMPT = _signal("prompt_tokens_total")
COMPUTED = _signal("prompt_tokens_by_source_total", label="source", values=("local_compute",))  # since 0.16
CACHED = _signal("prompt_tokens_cached_total")  # since 0.16
PREFIX_HITS = _signal(
    "prefix_cache_hits_total",  # since 0.9.2
    "gpu_prefix_cache_hits_total",  # until 0.11.2
)
ESTIMATED_FLOPS = _signal("estimated_flops_per_gpu_total")  # since 0.17
REJECTED = _signal("admission_rejections_total")  # since 0.32

STEP_TOKENS = _spelled("iteration_tokens_total")
TIME_TO_FIRST_TOKEN = _spelled("time_to_first_token_seconds")
INTER_TOKEN_LATENCY = _spelled("inter_token_latency_seconds", "time_per_output_token_seconds")
REQUEST_LATENCY = _spelled("e2e_request_latency_seconds")
COMPUTED_PROMPT_LENGTHS = _spelled("request_prefill_kv_computed_tokens")  # since 0.13

CACHE_CONFIG = _spelled("cache_config_info")
MODEL_NAMES = _spelled("generation_tokens_total", "num_requests_running")
"""Families that carry the label `model_name`, which `cache_config_info` does not."""
START_TIME = "process_start_time_seconds"


# --- the reading ---------------------------------------------------------------------------------


def read(
    page: Page, documents: Documents = NO_DOCUMENTS, *, one_process: bool = False
) -> tuple[EngineReading, ...]:
    """The data-parallel engines of the page, by rank.

    With `one_process` it is known that one process made this page, though it names none.

    Requests in flight are the whole server's: they are given to the lowest rank.

    Admission rejections are counted before an engine is chosen and carry no rank: they are given to
    the lowest one, so that the sum over ranks is right.
    """
    # Without the label: what the process counts for all its engines, or all there is (0.8 and older).
    ranks, shared = split_ranks(page, "engine")
    readings = [_read_engine(rank, own, shared, engines=len(ranks)) for rank, own in ranks.items()]
    if not one_process and not _one_api_server(shared):
        readings = [_without_steps(reading) for reading in readings]
    readings[0] = replace(
        readings[0],
        counters=replace(readings[0].counters, rejected_requests=REJECTED.read(shared)),
        requests_in_flight=_requests_in_flight(documents),
    )
    model, version = _model_facts(documents), text_at(documents.get("version"), "version")
    return tuple(
        replace(reading, facts=replace(model, kv_dtype=reading.facts.kv_dtype), version=version)
        for reading in readings
    )


def _read_engine(rank: str, page: Page, shared: Page, *, engines: int) -> EngineReading:
    cache = page.labels_of(*CACHE_CONFIG) or shared.labels_of(*CACHE_CONFIG)
    start_time = shared.value(START_TIME)
    counters = replace(
        read_counters(page, COUNTERS),
        prefill_tokens=_prefill_tokens(page),
        cached_prompt_tokens=_cached_prompt_tokens(page),
        estimated_flops_per_gpu=_estimated_flops(page),
    )
    return EngineReading(
        engine="vllm",
        rank=rank,
        model=page.labels_of(*MODEL_NAMES).get("model_name", ""),
        start_time_seconds=start_time,
        requests_running=RUNNING.read(page),
        requests_waiting=WAITING.read(page),
        kv_used_ratio=KV_USED.read(page),
        kv_capacity_tokens=_kv_capacity_tokens(cache, engines),
        kv_block_tokens=integer_of(cache.get("block_size")),
        counters=counters,
        step_tokens=read_histogram(page, STEP_TOKENS),
        time_to_first_token=read_histogram(page, TIME_TO_FIRST_TOKEN),
        inter_token_latency=read_histogram(page, INTER_TOKEN_LATENCY),
        request_latency=read_histogram(page, REQUEST_LATENCY),
        computed_prompt_lengths=read_histogram(page, COMPUTED_PROMPT_LENGTHS),
        facts=ModelFacts(kv_dtype=cache.get("cache_dtype")),
    )


# --- what no table can say -----------------------------------------------------------------------


def _prefill_tokens(page: Page) -> float | None:
    """Prompt tokens that were really computed."""
    computed = COMPUTED.read(page)
    if computed is not None:
        return computed
    # Until 0.15 hits are booked when a request is admitted, its prompt only with its first token:
    # meanwhile the difference dips, hence `derived` below.
    prompt, cached = PROMPT.read(page), _cached_prompt_tokens(page)
    return None if prompt is None or cached is None else max(0.0, prompt - cached)


def _cached_prompt_tokens(page: Page) -> float | None:
    cached = CACHED.read(page)
    return PREFIX_HITS.read(page) if cached is None else cached


def _estimated_flops(page: Page) -> float | None:
    """`None` at zero: without ``--enable-mfu-metrics`` the counter is there and never moves."""
    return ESTIMATED_FLOPS.read(page) or None


def _kv_capacity_tokens(cache: Mapping[str, str], engines: int) -> float | None:
    """Of one engine. `num_gpu_blocks`, in every engine's row, is the sum over all engines."""
    tokens = integer_of(cache.get("kv_cache_size_tokens"))  # since 0.24, of one engine
    if tokens is not None:
        return tokens
    blocks, block_size = integer_of(cache.get("num_gpu_blocks")), integer_of(cache.get("block_size"))
    return None if blocks is None or block_size is None else blocks * block_size / engines


def _one_api_server(shared: Page) -> bool:
    """Whether one process made this page; several share files, and then no process speaks of itself."""
    return START_TIME in shared


def _without_steps(reading: EngineReading) -> EngineReading:
    return replace(reading, counters=replace(reading.counters, steps=None), step_tokens=None)


def _model_facts(documents: Documents) -> ModelFacts:
    rows = own_models(documents.get("models"))
    if not rows:
        return ModelFacts()
    return ModelFacts(
        path=text_at(rows[0], "root"),
        served_names=tuple(name for row in rows if (name := text_at(row, "id")) is not None),
        max_model_len=count_at(rows[0], "max_model_len"),
    )


def _requests_in_flight(documents: Documents) -> float | None:
    """`None` at zero: without ``--enable-server-load-tracking`` it is always that."""
    return count_at(documents.get("load"), "server_load") or None


def _looks_idle(page: Page) -> bool:
    """A hung engine does: its gauges are written only when a step ends. Then the front end may know more."""
    return not RUNNING.read(page)


# --- the definition ------------------------------------------------------------------------------

_SIGNALS = (
    *COUNTERS.values(),
    *(RUNNING, WAITING, KV_USED, PROMPT, COMPUTED, CACHED, PREFIX_HITS, ESTIMATED_FLOPS, REJECTED),
)
_HISTOGRAMS = (
    STEP_TOKENS + TIME_TO_FIRST_TOKEN + INTER_TOKEN_LATENCY + REQUEST_LATENCY + COMPUTED_PROMPT_LENGTHS
)
_FINGERPRINT = frozenset(RUNNING.names + COUNTERS["generation_tokens"].names + CACHE_CONFIG)

VLLM = EngineDefinition(
    name="vllm",
    fingerprint=_FINGERPRINT,
    wanted=_FINGERPRINT.union(
        histogram_samples(_HISTOGRAMS), *(signal.names for signal in _SIGNALS), (START_TIME,)
    ),
    read=read,
    documents=(
        Document(name="models", path="/v1/models"),
        Document(name="version", path="/version"),
        Document(name="load", path="/load", live=True, when=_looks_idle),
    ),
    ports=(8000,),
    derived=frozenset({"prefill_tokens"}),
)
