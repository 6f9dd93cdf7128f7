"""Triton: its core, and the TensorRT-LLM backend since 23.11.

The one thing to know: the backend fills its families by position. If its engine leaves out one number, all
that follow it stand under the wrong name. So the numbers of the KV cache are believed only where they
agree with one another.

A page holds every model of the server. With the backend there, the engines are the models that it runs;
the ensemble and the tokenizers beside them are not. Without it a page tells requests, and nothing of
tokens or steps: then each model is read, and no roofline can be drawn for it.

Names and their traps: the sources of the backend, and recorded pages of 23.11 and of a core of 2023.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

from agent.engines.base import (
    NO_DOCUMENTS,
    Documents,
    EngineDefinition,
    Signal,
    histogram_samples,
    read_counters,
    read_histogram,
)
from agent.readings import EngineCounters, EngineReading, Histogram, ModelFacts
from agent.sources.page import Page, Sample

# --- where the page has what ---------------------------------------------------------------------


def _part(family: str, label: str, *values: str) -> Signal:
    """One number of a family that holds several, told apart by a label."""
    return Signal(names=(f"nv_trt_llm_{family}",), label=label, values=frozenset(values))


def _requests(kind: str) -> Signal:
    return _part("request_metrics", "request_type", kind)


def _batcher(kind: str) -> Signal:
    return _part("inflight_batcher_metrics", "inflight_batcher_specific_metric", kind)


def _blocks(kind: str) -> Signal:
    return _part("kv_cache_block_metrics", "kv_cache_block_type", kind)


# The backend's. All are gauges to look at.
ACTIVE = _requests("active")
SCHEDULED = _requests("scheduled")
WAITING = _requests("waiting")  # not yet in 23.11
MAX_NUM_SEQS = _requests("max")
DECODING = _batcher("generation_requests")  # not of V1 models
KV_BLOCKS = _blocks("max")
KV_FREE = _blocks("free")
KV_USED = _blocks("used")
KV_BLOCK_TOKENS = _blocks("tokens_per")
KV_REUSED = _blocks("reused")  # blocks found in the cache since the start; not yet in 23.11, as the next
KV_USED_RATIO = _blocks("fraction")

PROMPT = Signal(names=("nv_llm_input_token_len_sum",))  # at the end of a request, with cached ones
COUNTERS: Mapping[str, Signal] = {
    "steps": _part("general_metrics", "general_type", "iteration_counter"),
    # Both at the end of a request.
    "generation_tokens": Signal(names=("nv_llm_output_token_len_sum",)),
    "first_tokens": Signal(names=("nv_llm_output_token_len_count",)),
}

# The core's.
SUCCEEDED = Signal(names=("nv_inference_request_success",))
FAILURES = "nv_inference_request_failure"
FAILURE_REASONS: Mapping[str, frozenset[str]] = {
    "requests_error": frozenset({"BACKEND", "OTHER", ""}),  # older ones give no reason
    "requests_abort": frozenset({"CANCELED"}),
    "rejected_requests": frozenset({"REJECTED"}),
}
PENDING = Signal(names=("nv_inference_pending_request_count",))
REQUEST_MICROSECONDS = Signal(names=("nv_inference_request_duration_us",))
FIRST_RESPONSE_MILLISECONDS = ("nv_inference_first_response_histogram_ms",)  # only if asked for

MICROSECOND = 1e-6
MILLISECONDS = 1000.0
"""In a second."""
RATIO_TOLERANCE = 0.01
"""How far the fraction may be from used ÷ max: it is rounded, and not written in the same instant."""


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The models of the page, each an engine.

    Its rank is "0" where there is one, else the model's name, and its version where there are several: two
    models are no ranks of one engine, but they share the server, and a rank is what tells its engines apart.
    """
    models = _models(page)
    with_backend = {key: part for key, part in models.items() if _has_backend(part)}
    served = with_backend or models
    return tuple(
        _read_model(rank, model, served[model, version])
        for (model, version), rank in sorted(_ranks(served).items(), key=lambda item: item[1])
    )


def _models(page: Page) -> dict[tuple[str, str], Page]:
    """The page by model and version, without what is negative and so no count of anything."""
    models: dict[tuple[str, str], dict[str, list[Sample]]] = {}
    for name, samples in page.families.items():
        for sample in samples:
            if sample.value >= 0:
                key = sample.labels.get("model", ""), sample.labels.get("version", "")
                models.setdefault(key, {}).setdefault(name, []).append(sample)
    return {key: Page(families=families) for key, families in models.items()}


def _ranks(models: Mapping[tuple[str, str], Page]) -> dict[tuple[str, str], str]:
    if len(models) == 1:
        return dict.fromkeys(models, "0")
    names = [model for model, _ in models]
    return {
        (model, version): model if names.count(model) == 1 else f"{model}/{version}"
        for model, version in models
    }


def _has_backend(part: Page) -> bool:
    return any(name.startswith("nv_trt_llm_") for name in part.families)


def _read_model(rank: str, model: str, part: Page) -> EngineReading:
    max_num_seqs = MAX_NUM_SEQS.read(part)
    reading = EngineReading(
        engine="triton",
        rank=rank,
        model=model,
        requests_running=_requests_running(part),
        requests_waiting=_requests_waiting(part),
        counters=_counters(part),
        time_to_first_token=_time_to_first_token(part),
        request_latency=_request_latency(part),
        tokens_at_end=True,
        facts=ModelFacts(max_num_seqs=int(max_num_seqs) if max_num_seqs else None),
    )
    return _with_kv_cache(reading, part) if _kv_cache_agrees(part) else reading


# --- what no table can say -----------------------------------------------------------------------


def _requests_running(part: Page) -> float | None:
    """Sequences that the last step decoded; where it decoded none, those that were in it."""
    decoding, scheduled = DECODING.read(part), SCHEDULED.read(part)
    return decoding if decoding or scheduled is None else scheduled


def _requests_waiting(part: Page) -> float | None:
    waiting, active, scheduled = WAITING.read(part), ACTIVE.read(part), SCHEDULED.read(part)
    if waiting is not None:
        return waiting
    if active is not None and scheduled is not None:
        return max(0.0, active - scheduled)
    return PENDING.read(part)  # before the model; with the backend they wait in it


def _counters(part: Page) -> EngineCounters:
    return replace(
        read_counters(part, COUNTERS),
        requests_finished=_requests_finished(part),
        **{field: _failed(part, reasons) for field, reasons in FAILURE_REASONS.items()},
    )


def _requests_finished(part: Page) -> float | None:
    """`None` at zero where steps were made: before 23.12 the core counted nothing of this backend's."""
    succeeded = SUCCEEDED.read(part)
    return None if succeeded == 0 and COUNTERS["steps"].read(part) else succeeded


def _failed(part: Page, reasons: frozenset[str]) -> float | None:
    found = [sample.value for sample in part.samples(FAILURES) if sample.labels.get("reason", "") in reasons]
    return sum(found) if found else None


def _request_latency(part: Page) -> Histogram | None:
    """Sum and count of the requests that succeeded; how their times are spread is not told."""
    requests, microseconds = _requests_finished(part), REQUEST_MICROSECONDS.read(part)
    if requests is None or microseconds is None:
        return None
    return Histogram(bounds=(math.inf,), cumulative=(requests,), sum=microseconds * MICROSECOND)


def _time_to_first_token(part: Page) -> Histogram | None:
    found = read_histogram(part, FIRST_RESPONSE_MILLISECONDS)
    if found is None:
        return None
    return replace(
        found, bounds=tuple(bound / MILLISECONDS for bound in found.bounds), sum=found.sum / MILLISECONDS
    )


# --- the KV cache --------------------------------------------------------------------------------


def _kv_cache_agrees(part: Page) -> bool:
    """Whether each number of the cache stands under its own name.

    Free and used blocks make up all of them; the fraction, if there is one, is that of the used ones.
    """
    blocks, free, used = KV_BLOCKS.read(part), KV_FREE.read(part), KV_USED.read(part)
    if not blocks or free is None or used is None or free + used != blocks:
        return False
    ratio = KV_USED_RATIO.read(part)
    return ratio is None or abs(ratio - used / blocks) <= RATIO_TOLERANCE


def _with_kv_cache(reading: EngineReading, part: Page) -> EngineReading:
    """The reading with the numbers of a cache that agree."""
    blocks, used, block_tokens = KV_BLOCKS.read(part), KV_USED.read(part), _block_tokens(part)
    assert blocks is not None
    assert used is not None
    reading = replace(reading, kv_used_ratio=used / blocks)
    if block_tokens is None:
        return reading
    cached = _cached_prompt_tokens(part, block_tokens)
    prompt = PROMPT.read(part)
    return replace(
        reading,
        kv_block_tokens=block_tokens,
        kv_capacity_tokens=blocks * block_tokens,
        counters=replace(
            reading.counters,
            cached_prompt_tokens=cached,
            prefill_tokens=None if prompt is None or cached is None else max(0.0, prompt - cached),
        ),
    )


def _block_tokens(part: Page) -> int | None:
    """It comes after those that agree and may itself be another number; it is always a power of two."""
    tokens = KV_BLOCK_TOKENS.read(part)
    if not tokens or tokens != int(tokens) or int(tokens) & (int(tokens) - 1):
        return None
    return int(tokens)


def _cached_prompt_tokens(part: Page, block_tokens: int) -> float | None:
    """Blocks found × their tokens; a block of which only a part is used counts whole.

    Only with the fraction: it comes last, so where it agrees all that stand before it are in their places.
    """
    reused = KV_REUSED.read(part)
    return None if reused is None or KV_USED_RATIO.read(part) is None else reused * block_tokens


# --- the definition ------------------------------------------------------------------------------

_BACKEND = (
    *(ACTIVE, SCHEDULED, WAITING, MAX_NUM_SEQS, DECODING),
    *(KV_BLOCKS, KV_FREE, KV_USED, KV_BLOCK_TOKENS, KV_REUSED, KV_USED_RATIO, COUNTERS["steps"]),
)
_FINGERPRINT = frozenset((FAILURES, *SUCCEEDED.names)).union(*(signal.names for signal in _BACKEND))

TRITON = EngineDefinition(
    name="triton",
    fingerprint=_FINGERPRINT,
    wanted=_FINGERPRINT.union(
        histogram_samples(FIRST_RESPONSE_MILLISECONDS),
        *(signal.names for signal in (*COUNTERS.values(), PROMPT, PENDING, REQUEST_MICROSECONDS)),
    ),
    read=read,
    # Its HTTP interface, which could say more of the models, listens on another port than its page.
    ports=(8002, 8000),
    switch="--allow-metrics",
    derived=frozenset({"prefill_tokens", "cached_prompt_tokens"}),
)
