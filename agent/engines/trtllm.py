"""TensorRT-LLM's ``trtllm-serve``: 1.1 to the builds of 2026.

The one thing to know: it counts when a request ends, and it counts no steps. What moves with each step
are gauges of the last one, its batch and its time; so token counters come in jumps, as long as an answer
takes, and the number of steps can only be estimated from tokens and batch.

Its page is ``/prometheus/metrics``. ``/metrics`` must never be asked for: that is a queue of JSON, and
whoever reads it takes what its other readers then miss.

Names and their traps: the sources of one commit of 2026, and a recorded page of 1.1.0rc5, which has five
families. Which release brought which of the others is not known, so each may be missing.
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
    integer_of,
    list_at,
    read_counters,
    read_histogram,
    text_at,
)
from agent.readings import EngineCounters, EngineReading, ModelFacts, ServingRole
from agent.sources.page import Page, Sample

# --- where the page has what ---------------------------------------------------------------------


_SPELLING = Spelling(("trtllm_",))
_spelled, _signal = _SPELLING.names, _SPELLING.signal


def _finished(*reasons: str) -> Signal:
    return _signal("request_success_total", label="finished_reason", values=reasons)


# All at the end of a request.
REQUEST_COUNTERS: Mapping[str, Signal] = {
    "generation_tokens": _signal("generation_tokens_total"),
    "cached_prompt_tokens": _signal(
        "prompt_cached_tokens_total",  # begun by the first hit
        "prompt_cached_tokens_per_request_sum",  # begun by the first request
    ),
    "first_tokens": _signal("time_to_first_token_seconds_count"),
    # From a request's first token to its last.
    "inter_token_seconds": _signal("request_decode_time_seconds_sum"),
    "requests_stop": _finished("stop"),
    "requests_length": _finished("length"),
    "requests_abort": _finished("cancelled", "timeout"),
    "requests_error": _signal("request_error_total"),
}
PROMPT = _signal("prompt_tokens_total")  # with cached ones

# At each step, and only with speculation. How many drafts they were is not counted.
SPECULATION: Mapping[str, Signal] = {
    "draft_tokens": _signal("spec_decode_num_draft_tokens_total"),
    "accepted_draft_tokens": _signal("spec_decode_num_accepted_tokens_total"),
}

# Gauges of the last step, with `enable_iter_perf_stats` only.
DECODING = _signal("num_generation_requests")
PREFILLING = _signal("num_context_requests")
ACTIVE = _signal("num_requests_running")  # those that had no place in the step are in it
WAITING = _signal("num_requests_waiting")
STEP_SECONDS = _signal("iteration_latency_seconds")
KV_USED = _signal("kv_cache_utilization")
KV_BLOCKS = _signal("kv_cache_max_blocks")
KV_BLOCKS_USED = _signal("kv_cache_used_blocks")
KV_BLOCK_TOKENS = _signal("kv_cache_tokens_per_block")
MAX_NUM_SEQS = _signal("max_batch_size_runtime", "max_batch_size_static")  # the first may be tuned as it runs

TIME_TO_FIRST_TOKEN = _spelled("time_to_first_token_seconds")
INTER_TOKEN_LATENCY = _spelled("time_per_output_token_seconds")
"""Of each request its mean, where other engines have one for each token."""
REQUEST_LATENCY = _spelled("e2e_request_latency_seconds")

# Written at start, all of them.
MODEL_CONFIG, PARALLEL_CONFIG, SPECULATIVE_CONFIG, KV_CONFIG = CONFIGS = _spelled(
    "model_config_info", "parallel_config_info", "speculative_config_info", "kv_cache_config_info"
)

ROLES: Mapping[str | None, ServingRole] = {
    "prefill": "prefill",
    "context": "prefill",
    "decode": "decode",
    "generation": "decode",
}
"""By the label `engine_type` of newer builds. ``trtllm`` and ``undefined`` say nothing of it."""

NOTHING_SAID = frozenset({"", "undefined", "unknown", "none"})
"""Texts of labels, in lower case, that stand for no text; ``undefined`` is every label's until 1.2."""


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The one engine of the page.

    `requests_running` is the batch of the last step. `last_step_seconds` is that step's time, whatever its
    kind and however long ago: it is the time of steps only while something runs.
    """
    page = _without_the_dead(page)
    facts = _model_facts(page, documents)
    return (
        EngineReading(
            engine="trtllm",
            model=_label(page, "model_name") or next(iter(facts.served_names), None) or facts.path or "",
            version=text_at(documents.get("version"), "version"),
            requests_running=_requests_running(page),
            requests_waiting=WAITING.read(page),
            kv_used_ratio=_kv_used_ratio(page),
            kv_capacity_tokens=_kv_capacity_tokens(page),
            kv_block_tokens=_kv_block_tokens(page),
            counters=_counters(page),
            time_to_first_token=read_histogram(page, TIME_TO_FIRST_TOKEN),
            inter_token_latency=read_histogram(page, INTER_TOKEN_LATENCY),
            request_latency=read_histogram(page, REQUEST_LATENCY),
            tokens_at_end=True,
            last_step_seconds=STEP_SECONDS.read(page) or None,  # 0 before the first step
            role=ROLES.get(_label(page, "engine_type")),
            facts=facts,
        ),
    )


def _without_the_dead(page: Page) -> Page:
    """The page of the process that lives, without negative values, which mean "no value".

    Each process of the server keeps gauges of its own, with its pid, and what a dead one wrote stands
    there until someone empties the directory. Pids rise, so the highest is the one that lives.
    """
    pids = {sample.labels.get("pid", "") for samples in page.families.values() for sample in samples}
    alive = {"", max(pids, key=lambda pid: (len(pid), pid), default="")}
    kept: dict[str, list[Sample]] = {}
    for name, samples in page.families.items():
        for sample in samples:
            if sample.value >= 0 and sample.labels.get("pid", "") in alive:
                kept.setdefault(name, []).append(sample)
    return Page(families=kept)


# --- what no table can say -----------------------------------------------------------------------


def _counters(page: Page) -> EngineCounters:
    counted = {name: _count(page, signal) for name, signal in REQUEST_COUNTERS.items()}
    prompt, cached = _count(page, PROMPT), counted["cached_prompt_tokens"]
    return replace(
        read_counters(page, SPECULATION),
        **counted,
        prefill_tokens=None if prompt is None or cached is None else max(0.0, prompt - cached),
        inter_token_intervals=_inter_token_intervals(page, counted),
    )


def _count(page: Page, signal: Signal) -> float | None:
    """The counter, which appears with its first event: 0 before that, where it is known to be there.

    Builds that write their configuration at start have all of them.
    """
    value = signal.read(page)
    expected = any(name in page for name in (*CONFIGS, *signal.names))
    return 0.0 if value is None and expected else value


def _inter_token_intervals(page: Page, counted: Mapping[str, float | None]) -> float | None:
    """One a token after the first, as long as a step gives a sequence one token: not with speculation."""
    tokens, firsts = counted["generation_tokens"], counted["first_tokens"]
    if tokens is None or firsts is None or _speculates(page):
        return None
    return max(0.0, tokens - firsts)


def _speculates(page: Page) -> bool:
    enabled = _said(page.labels_of(SPECULATIVE_CONFIG), "spec_enabled") or ""
    return enabled.lower() == "true" or any(signal.read(page) for signal in SPECULATION.values())


def _requests_running(page: Page) -> float | None:
    """Sequences that the last step decoded; where it decoded none, those it prefilled."""
    decoding, prefilling = DECODING.read(page), PREFILLING.read(page)
    if decoding is None and prefilling is None:
        return ACTIVE.read(page)
    return decoding or prefilling or 0.0


def _kv_used_ratio(page: Page) -> float | None:
    used, blocks = KV_BLOCKS_USED.read(page), KV_BLOCKS.read(page)
    ratio = KV_USED.read(page)
    return ratio if ratio is not None or used is None or not blocks else used / blocks


def _kv_block_tokens(page: Page) -> int | None:
    tokens = KV_BLOCK_TOKENS.read(page)
    return int(tokens) if tokens else _integer(page.labels_of(KV_CONFIG), "page_size")


def _kv_capacity_tokens(page: Page) -> float | None:
    blocks, tokens = KV_BLOCKS.read(page), _kv_block_tokens(page)
    return blocks * tokens if blocks and tokens else None


def _model_facts(page: Page, documents: Documents) -> ModelFacts:
    """Of the model, what the page says; its names, if it does not say them, as the server lists them."""
    model, parallel = page.labels_of(MODEL_CONFIG), page.labels_of(PARALLEL_CONFIG)
    named = _said(model, "served_model_name")
    listed = (text_at(row, "id") for row in list_at(documents.get("models"), "data"))
    max_num_seqs = MAX_NUM_SEQS.read(page)
    return ModelFacts(
        path=_said(model, "model"),
        served_names=(named,) if named else tuple(name for name in listed if name),
        weight_dtype=_said(model, "quantization") or _said(model, "dtype"),
        kv_dtype=_said(page.labels_of(KV_CONFIG), "cache_dtype"),
        tensor_parallel=_integer(parallel, "tensor_parallel_size"),
        pipeline_parallel=_integer(parallel, "pipeline_parallel_size"),
        expert_parallel=_integer(parallel, "expert_parallel_size"),
        max_num_seqs=int(max_num_seqs) if max_num_seqs else None,
        max_model_len=_integer(model, "max_model_len"),
    )


def _label(page: Page, name: str) -> str | None:
    """What the page's samples carry, all of them alike."""
    return next((text for text in page.label_values(name) if text.lower() not in NOTHING_SAID), None)


def _said(labels: Mapping[str, str], name: str) -> str | None:
    text = labels.get(name, "")
    return None if text.lower() in NOTHING_SAID else text


def _integer(labels: Mapping[str, str], name: str) -> int | None:
    """The number, if it is one above zero."""
    return integer_of(labels.get(name)) or None


# --- the definition ------------------------------------------------------------------------------

_SIGNALS = (
    *(*REQUEST_COUNTERS.values(), *SPECULATION.values(), PROMPT),
    *(DECODING, PREFILLING, ACTIVE, WAITING, STEP_SECONDS, MAX_NUM_SEQS),
    *(KV_USED, KV_BLOCKS, KV_BLOCKS_USED, KV_BLOCK_TOKENS),
)
_WANTED = frozenset(CONFIGS).union(
    histogram_samples(TIME_TO_FIRST_TOKEN + INTER_TOKEN_LATENCY + REQUEST_LATENCY),
    *(signal.names for signal in _SIGNALS),
)

TRTLLM = EngineDefinition(
    name="trtllm",
    # Any of them: what the page has depends on the release, the options and what has happened so far.
    fingerprint=_WANTED,
    wanted=_WANTED,
    read=read,
    documents=(Document(name="models", path="/v1/models"), Document(name="version", path="/version")),
    page_paths=("/prometheus/metrics",),
    ports=(8000,),
    switch="return_perf_metrics: true in its YAML (and enable_iter_perf_stats: true for its gauges)",
    derived=frozenset({"prefill_tokens", "inter_token_intervals"}),
)
