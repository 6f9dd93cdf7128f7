"""Hugging Face's text-generation-inference: 1.4 to 3.3, the last.

The one thing to know: it counts forward passes by method and takes their time, which few do; but tokens it
books as histograms of whole requests, a prompt when it arrives and an answer when it has ended. What was
found in the prefix cache it does not tell, so that all of a prompt counts as computed.

A series is on the page only once something has happened to it: a counter that is missing is 0.

Names and their traps: the source of 3.3.7, and a page written by hand after it.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.engines.base import (
    NO_DOCUMENTS,
    Document,
    Documents,
    EngineDefinition,
    Signal,
    count_at,
    histogram_samples,
    number_at,
    read_histogram,
    text_at,
)
from agent.readings import EngineCounters, EngineReading, ModelFacts
from agent.sources.page import Page

# --- where the page has what ---------------------------------------------------------------------


def _signal(name: str, *, label: str = "", values: tuple[str, ...] = ()) -> Signal:
    return Signal(names=(f"tgi_{name}",), label=label, values=frozenset(values))


def _passes(part: str, method: str) -> Signal:
    return _signal(f"batch_{part}", label="method", values=(method,))


def _failed(*errors: str) -> Signal:
    return _signal("request_failure", label="err", values=errors)


COUNTERS: Mapping[str, Signal] = {
    "prefill_tokens": _signal("request_input_length_sum"),  # when a request was found valid
    "generation_tokens": _signal("request_generated_tokens_sum"),  # when it has ended
    "decode_steps": _passes("inference_count", "decode"),
    "prefill_steps": _passes("inference_count", "prefill"),
    "decode_step_seconds": _passes("forward_duration_sum", "decode"),
    "prefill_step_seconds": _passes("forward_duration_sum", "prefill"),
    "requests_finished": _signal("request_success"),
    "requests_error": _failed("validation", "generation", "incomplete", "template"),
    "requests_abort": _failed("dropped"),
    "rejected_requests": _failed("overloaded"),
}
RUNNING = _signal("batch_current_size")
WAITING = _signal("queue_size")

INTER_TOKEN_LATENCY = ("tgi_request_mean_time_per_token_duration",)
"""Of each request the mean, over its tokens."""
REQUEST_LATENCY = ("tgi_request_duration",)


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The one engine of the page; which model it serves only `/info` says."""
    info = documents.get("info")
    model = text_at(info, "model_id")
    return (
        EngineReading(
            engine="tgi",
            model=model or "",
            version=text_at(info, "version"),
            requests_running=RUNNING.read(page) or 0.0,
            requests_waiting=WAITING.read(page) or 0.0,
            kv_capacity_tokens=number_at(info, "max_batch_total_tokens"),  # until 2.2
            counters=EngineCounters(**{name: signal.read(page) or 0.0 for name, signal in COUNTERS.items()}),
            inter_token_latency=read_histogram(page, INTER_TOKEN_LATENCY),
            request_latency=read_histogram(page, REQUEST_LATENCY),
            tokens_at_end=True,
            facts=ModelFacts(
                path=model,
                revision=text_at(info, "model_sha"),
                served_names=(model,) if model is not None else (),
                weight_dtype=text_at(info, "model_dtype"),  # until 2.2
                max_model_len=count_at(info, "max_total_tokens"),
            ),
        ),
    )


# --- the definition ------------------------------------------------------------------------------

_WANTED = frozenset[str]().union(
    histogram_samples(INTER_TOKEN_LATENCY + REQUEST_LATENCY),
    *(signal.names for signal in (*COUNTERS.values(), RUNNING, WAITING)),
)

TGI = EngineDefinition(
    name="tgi",
    fingerprint=_WANTED,  # any of them: what the page has depends on what has happened
    wanted=_WANTED,
    read=read,
    documents=(Document(name="info", path="/info"),),
    ports=(80, 3000),
)
