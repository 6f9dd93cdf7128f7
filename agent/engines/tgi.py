"""Hugging Face's text-generation-inference (TGI): 0.6 to 3.3.

The one thing to know: a series appears with its first event, and before the first request the page is empty.
So what is missing on a page has not happened yet, and is 0, where every version would have it by then.

What generates tokens live is hidden in a family about speculation: since 1.4 `tgi_request_skipped_tokens`
has one observation a sequence and step, the tokens of that step beyond the first. The counters that speak of
tokens move when a request arrives, and when it ends.

A prompt counts whole, at arrival: since 2.3 a part of it may be found in the prefix cache, and nothing tells
how much. So from then on what was computed is at most what is read here.

Names, their dates and their traps: the sources of 3.3.7 and of earlier releases; no recorded page is known.
"""

from __future__ import annotations

from collections.abc import Mapping

from agent.engines.base import (
    NO_DOCUMENTS,
    Document,
    Documents,
    EngineDefinition,
    Signal,
    Spelling,
    count_at,
    histogram_samples,
    read_histogram,
    text_at,
)
from agent.readings import EngineCounters, EngineReading, ModelFacts
from agent.sources.page import Page

# --- where the page has what ---------------------------------------------------------------------


_SPELLING = Spelling(("tgi_",))
_spelled, _signal = _SPELLING.names, _SPELLING.signal


def _failed(*errors: str) -> Signal:
    return _signal("request_failure", label="err", values=errors)


def _calls(method: str) -> Signal:
    """Those that came to their end, and so have a time."""
    names = (
        "batch_forward_duration_count",  # since 1.4
        "batch_inference_duration_count",  # also before
    )
    return _signal(*names, label="method", values=(method,))


def _call_seconds(method: str) -> Signal:
    names = (
        "batch_forward_duration_sum",  # since 1.4; of the model alone
        "batch_inference_duration_sum",  # also before; with what the router adds
    )
    return _signal(*names, label="method", values=(method,))


# Of every version, and of every backend: the router counts them.
REQUEST_COUNTERS: Mapping[str, Signal] = {
    "prefill_tokens": _signal("request_input_length_sum"),
    "requests_finished": _signal("request_success"),
    "requests_abort": _failed("dropped"),
    "requests_error": _failed("generation", "incomplete"),
    # Requests that are wrong in themselves (`validation`, `template`) are none of these.
    "rejected_requests": _failed("overloaded"),
}

PREFILLS, DECODES = _calls("prefill"), _calls("decode")
JOINED = _signal("batch_concat", label="reason", values=("chunking",))  # since 3.0
CALLS = (PREFILLS, _call_seconds("prefill"), DECODES, _call_seconds("decode"), JOINED)

STARTED = _signal("batch_next_size_sum")
"""Requests that were taken into a batch: each gives its first token with that step, or a chunk later."""
OUTPUTS = _signal("request_skipped_tokens_count")  # since 1.4, as the next; a histogram first, then a summary
GUESSED = _signal("request_skipped_tokens_sum")
OF_THOSE_THAT_COUNT_OUTPUTS = _spelled("request_skipped_tokens_count", "batch_forward_duration_count")
"""Both came with 1.4: the second tells that the first is missing, and not of an older version."""
ENDED = _signal("request_generated_tokens_count")
TOKENS_AT_END = _signal("request_generated_tokens_sum")

DECODING = _signal("batch_current_size")
WAITING = _signal("queue_size")
# Since 2.4, but set before anybody counts, so most likely never on a page. What of it the batch has reserved,
# `tgi_batch_current_max_tokens`, is what it may grow to and not what it holds.
KV_CAPACITY = _signal("batch_max_total_tokens")

INTER_TOKEN_LATENCY = _spelled("request_mean_time_per_token_duration")
"""Of each request its mean, the time to its first token included."""
REQUEST_LATENCY = _spelled("request_duration")


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The one engine of the page, which does not name its model: `/info` does.

    `requests_running` is the batch that decodes; while the first of it are prefilled it is still 0.
    """
    facts = _model_facts(documents)
    return (
        EngineReading(
            engine="tgi",
            model=facts.path or "",
            version=text_at(documents.get("info"), "version"),
            requests_running=_once_begun(page, DECODING),
            requests_waiting=_once_begun(page, WAITING),
            kv_capacity_tokens=_kv_capacity_tokens(page, documents),
            counters=_counters(page),
            inter_token_latency=read_histogram(page, INTER_TOKEN_LATENCY),
            request_latency=read_histogram(page, REQUEST_LATENCY),
            tokens_at_end=_has_begun(page) and not _counts_outputs(page),
            facts=facts,
        ),
    )


def _counters(page: Page) -> EngineCounters:
    return EngineCounters(
        **{name: _so_far(page, signal) for name, signal in REQUEST_COUNTERS.items()},
        **_steps(page),
        generation_tokens=_generation_tokens(page),
        first_tokens=_once_begun(page, STARTED),
        sequence_steps=_sequence_steps(page),
        accepted_draft_tokens=_once_begun(page, GUESSED),  # how many were guessed is not counted
    )


# --- what no table can say -----------------------------------------------------------------------


def _makes_steps(page: Page) -> bool:
    return any(name in page for name in (*PREFILLS.names, *DECODES.names))


def _counts_outputs(page: Page) -> bool:
    """Whether this version counts each token as it comes."""
    return any(name in page for name in OF_THOSE_THAT_COUNT_OUTPUTS)


def _has_begun(page: Page) -> bool:
    """Whether anything was generated yet; before that no version can be told from another."""
    return _makes_steps(page) or bool(ENDED.read(page))


def _so_far(page: Page, signal: Signal) -> float | None:
    """Of what every version has once it has happened; `None` where a line that cannot be read may be it."""
    value = signal.read(page)
    return 0.0 if value is None and not page.malformed_lines else value


def _once_begun(page: Page, signal: Signal) -> float | None:
    """Of what newer versions have with the first tokens: 0 before them, `None` where it is missing after."""
    return signal.read(page) if _has_begun(page) else _so_far(page, signal)


def _steps(page: Page) -> dict[str, float]:
    """Nothing where requests ended without any step: of other backends (TensorRT-LLM) only the router counts.

    Since 3.0 newcomers join the batch in a call named prefill, which decodes for the others too
    (`tgi_batch_concat` with ``chunking``). Their share of those calls is decoding here, and of their time.
    That time is a mean over all prefills so far, so the sums can dip, hence `derived` below.
    """
    if _has_begun(page) and not _makes_steps(page):
        return {}
    known = [value for signal in CALLS if (value := _so_far(page, signal)) is not None]
    if len(known) < len(CALLS):
        return {}
    prefills, prefill_seconds, decodes, decode_seconds, joined = known
    joined = min(joined, prefills)  # it is counted before its call has ended
    joined_ratio = joined / prefills if prefills > 0 else 0.0
    return {
        "steps": prefills + decodes,
        "prefill_steps": prefills - joined,
        "prefill_step_seconds": prefill_seconds * (1 - joined_ratio),
        "decode_steps": decodes + joined,
        "decode_step_seconds": decode_seconds + prefill_seconds * joined_ratio,
    }


def _generation_tokens(page: Page) -> float | None:
    """Live since 1.4; before that, and of other backends, at the end of a request."""
    outputs, guessed = _once_begun(page, OUTPUTS), _once_begun(page, GUESSED)
    if outputs is not None and guessed is not None:
        return outputs + guessed
    return None if _counts_outputs(page) else _so_far(page, TOKENS_AT_END)


def _sequence_steps(page: Page) -> float | None:
    """Outputs but for the first of each request.

    A request is counted before its prefill, its output after: meanwhile the difference dips.
    """
    outputs, started = _once_begun(page, OUTPUTS), _once_begun(page, STARTED)
    return None if outputs is None or started is None else max(0.0, outputs - started)


def _kv_capacity_tokens(page: Page, documents: Documents) -> float | None:
    told = count_at(documents.get("info"), "max_batch_total_tokens")  # until 2.2
    return KV_CAPACITY.read(page) or (float(told) if told else None)


def _model_facts(documents: Documents) -> ModelFacts:
    """Not of it: `max_concurrent_requests`, which may run or wait; `model_dtype`, in which it computes."""
    info = documents.get("info")
    model = text_at(info, "model_id")
    return ModelFacts(
        path=model,
        revision=text_at(info, "model_sha"),
        served_names=() if model is None else (model,),
        max_num_seqs=count_at(info, "max_batch_size") or None,  # until 2.2, and only where it was limited
        max_model_len=count_at(info, "max_total_tokens") or None,
    )


# --- the definition ------------------------------------------------------------------------------

_SIGNALS = (
    *REQUEST_COUNTERS.values(),
    *CALLS,
    *(STARTED, OUTPUTS, GUESSED, ENDED, TOKENS_AT_END, DECODING, WAITING, KV_CAPACITY),
)
# Any of them, and what nobody reads but every request moves: which ones are there depends on what happened.
_WANTED = frozenset(_spelled("request_count")).union(
    histogram_samples(INTER_TOKEN_LATENCY + REQUEST_LATENCY), *(signal.names for signal in _SIGNALS)
)

TGI = EngineDefinition(
    name="tgi",
    fingerprint=_WANTED,
    wanted=_WANTED,
    read=read,
    documents=(Document(name="info", path="/info"),),
    ports=(3000, 80),  # of the launcher, and in its image
    derived=frozenset(
        {
            "sequence_steps",
            "prefill_steps",
            "prefill_step_seconds",
            "decode_steps",
            "decode_step_seconds",
        }
    ),
)
