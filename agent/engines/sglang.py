"""SGLang: 0.4 to 0.5.23.

The one thing to know: a page has two speakers. Each scheduler counts tokens and passes as they happen,
under its own ranks; the server in front of all of them counts requests, under no rank at all, and their
tokens only when they end. So the schedulers are asked first, and what only the front end knows is given
to the lowest data-parallel rank, so that sums over ranks are right.

`/v1/loads` tells what the page does not: the moments of the times of decoding steps. Names, their dates
and their traps: the sources of the releases, and pages made by the code of 0.5.23.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from agent.engines.base import (
    NO_DOCUMENTS,
    Document,
    Documents,
    EngineDefinition,
    Signal,
    Spelling,
    count_at,
    histogram_samples,
    in_rank_order,
    integer_of,
    list_at,
    number_at,
    own_models,
    read_histogram,
    read_sum,
    text_at,
    value_at,
)
from agent.readings import EngineCounters, EngineReading, ModelFacts, ServingRole
from agent.sources.page import MAX_VALUE, Page, Sample

# --- where the page has what ---------------------------------------------------------------------


_SPELLING = Spelling(("sglang:",))
_spelled, _signal = _SPELLING.names, _SPELLING.signal

# The schedulers'.
REALTIME = "sglang:realtime_tokens_total"  # since 0.5.7, at each step
DECODED = _signal("realtime_tokens_total", label="mode", values=("decode",))
COMPUTED = _signal("realtime_tokens_total", label="mode", values=("prefill_compute",))
CACHED = _signal("realtime_tokens_total", label="mode", values=("prefill_cache",))
DECODE_PASSES = _signal(
    "cuda_graph_passes_total", label="mode", values=("decode_cuda_graph", "decode_none")
)  # since 0.5.7
PREFILL_PASSES = _signal(
    "cuda_graph_passes_total", label="mode", values=("prefill_cuda_graph", "prefill_none")
)  # since 0.5.10
BEGUN = _signal("queue_time_seconds_count")  # since 0.5.3: once a request, at its first pass
RETRACTED = _signal("num_retracted_requests_total")  # since 0.5.7

RUNNING = _signal("num_running_reqs")
QUEUES = (
    _signal("num_queue_reqs"),
    # Disaggregated: those that wait for the other side are in queues of their own.
    _signal(
        "num_prefill_bootstrap_queue_reqs",  # since 0.5.12
        "num_prefill_prealloc_queue_reqs",  # until 0.5.11
    ),
    _signal("num_decode_prealloc_queue_reqs"),
    _signal("num_decode_transfer_queue_reqs"),
)
KV_USED = _signal("token_usage")  # of the fullest pool; what the prefix cache could evict is not in it
KV_CAPACITY = _signal("max_total_num_tokens")  # since 0.5.6
PAGES = _signal("num_pages")  # since 0.5.11, as the next
PAGE_TOKENS = _signal("page_size")
CACHE_CONFIG = _spelled("cache_config_info")  # 0.5.9 to 0.5.10 only
WEIGHTS_GIB = _signal("weight_memory_usage_gb")  # since 0.5.17; of one GPU, in GiB despite its name
CONTEXT = _signal("context_len")  # since 0.5.11
ACCEPTED_LENGTH = _signal("spec_accept_length")  # 0 without speculation

# The front end's; those of tokens are booked when a request ends.
FIRST_TOKENS = _signal("time_to_first_token_seconds_count")
REQUEST_COUNTERS: Mapping[str, Signal] = {
    # Weighted by tokens: outputs that come several at a time count as so many intervals.
    "inter_token_seconds": _signal(
        "inter_token_latency_seconds_sum",  # since 0.4.3
        "time_per_output_token_seconds_sum",  # until 0.4.4
    ),
    "inter_token_intervals": _signal(
        "inter_token_latency_seconds_count",  # since 0.4.3
        "time_per_output_token_seconds_count",  # until 0.4.4
    ),
    # How a request ended is not said. One cut off while it ran is in both, one cut off in the queue only
    # in the second, so neither is taken from the other.
    "requests_finished": _signal("num_requests_total"),
    "requests_abort": _signal("num_aborted_requests_total"),
}
# Since 0.5.13, at the end of a request. How many tokens were drafted is not counted, and accepted ones
# could only be guessed from rounded means.
DRAFTS = _signal("spec_verify_calls_total")
PROMPT_AT_END = _signal("prompt_tokens_total")
GENERATED_AT_END = _signal("generation_tokens_total")
CACHED_AT_END = _signal("cached_tokens_total")  # by source; each token under one

TIME_TO_FIRST_TOKEN = _spelled("time_to_first_token_seconds")
INTER_TOKEN_LATENCY = _spelled("inter_token_latency_seconds", "time_per_output_token_seconds")
REQUEST_LATENCY = _spelled("e2e_request_latency_seconds")
COMPUTED_PROMPT_LENGTHS = _spelled("uncached_prompt_tokens_histogram")  # since 0.5.12

# All that the page of some releases has before the first request.
STARTED = _spelled("startup_time_seconds", "engine_startup_time")

SCHEDULER_LABELS = ("tp_rank", "pp_rank", "dp_rank")
ROLES: Mapping[str | None, ServingRole] = {"prefill": "prefill", "decode": "decode"}

MICROSECOND = 1e-6
MOMENTS: Mapping[str, float] = {
    "timed_steps": 1.0,
    "timed_sequences": 1.0,
    "timed_seconds": MICROSECOND,
    "timed_squared_sequences": 1.0,
    "timed_sequence_seconds": MICROSECOND,
}
"""The sums in `decode_moments`, in their order (since 0.5.17), and their units."""
GIB = 2.0**30
MAX_DIGITS = 9
"""Of a rank, or of a number of pages."""

DECODE_LOG_INTERVAL = 40
"""Decoding steps between two reports of the gauges, unless the server says otherwise."""
IDLE_REPORT_SECONDS = 30.0
"""How long the gauges of older releases stay as they were when the last request ended."""
WHOLE_PREFILL_TIMES = (0, 5, 21)
"""The first release that times every step that prefills; before, only those that followed one another."""


# --- the speakers of a page ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Speakers:
    """A page, taken apart by who says what."""

    schedulers: Mapping[str, Page]
    """By data-parallel rank: one scheduler each. On pages without ranks, the front end itself."""
    front: Page
    """The server before them."""
    data_parallel: bool
    """Whether the schedulers name their data-parallel rank."""
    live: bool
    """Whether they count tokens at each step. Then all their counters exist, and one that is not on the
    page has counted nothing yet: prometheus_client shows a labelled one from its first increment on."""
    prefill_passes: bool
    """The same of passes that prefill."""


def _take_apart(page: Page) -> _Speakers:
    """Every tensor-parallel rank may speak, and each pipeline stage does, all of the same requests.

    Of each data-parallel rank the first stage's lowest is heard.
    """
    front: dict[str, list[Sample]] = {}
    by_rank: dict[str, dict[tuple[int, int], dict[str, list[Sample]]]] = {}
    for name, sample in _believable(page):
        families = front
        if any(label in sample.labels for label in SCHEDULER_LABELS):
            # With priority scheduling the whole has an empty priority, and its parts stand beside it. (The
            # front end counts each request under one, so there all are added.)
            if sample.labels.get("priority"):
                continue
            rank = by_rank.setdefault(sample.labels.get("dp_rank") or "0", {})
            families = rank.setdefault(_position(sample), {})
        families.setdefault(name, []).append(sample)
    front_page = Page(families=front)
    heard = {rank: Page(families=places[min(places)]) for rank, places in by_rank.items()}
    return _Speakers(
        schedulers=heard or {"0": front_page},
        front=front_page,
        data_parallel=any(_label(scheduler, "dp_rank") is not None for scheduler in heard.values()),
        live=REALTIME in page,
        prefill_passes=PREFILL_PASSES.read(page) is not None,
    )


def _believable(page: Page) -> Iterator[tuple[str, Sample]]:
    """Without −1, which means "no value", and without what processes that are gone left behind."""
    for name, samples in page.families.items():
        for sample in samples:
            if sample.value >= 0 and "pid" not in sample.labels:
                yield name, sample


def _position(sample: Sample) -> tuple[int, int]:
    """Pipeline stage and tensor-parallel rank."""
    return _integer(sample.labels.get("pp_rank")) or 0, _integer(sample.labels.get("tp_rank")) or 0


# --- the documents beside it ---------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """The server's documents. Only named fields leave them, since they also hold keys."""

    loads: Any
    load_of: Mapping[str, Any]
    """Of the loads those of one data-parallel rank."""
    model: Any
    server: Any
    models: Any

    @property
    def version(self) -> str | None:
        """Of the software."""
        return text_at(self.loads, "version") or text_at(self.server, "version")

    @property
    def speculates(self) -> bool | None:
        """Whether it decodes speculatively; `None` where it does not say."""
        if not isinstance(self.server, dict) or "speculative_algorithm" not in self.server:
            return None
        return self.server["speculative_algorithm"] is not None

    @property
    def shares_gpus(self) -> bool | None:
        """Whether data-parallel ranks are on the same GPUs, each with the attention of its own requests."""
        value = value_at(self.server, "enable_dp_attention")
        return value if isinstance(value, bool) else None


def _told(documents: Documents) -> _Told:
    loads = documents.get("loads")
    return _Told(
        loads=loads,
        load_of={
            str(count_at(row, "dp_rank") or 0): row
            for row in list_at(loads, "loads")
            # A row of zeros stands there until the scheduler has something to say.
            if number_at(row, "max_total_num_tokens")
        },
        model=documents.get("model_info") or documents.get("get_model_info"),
        server=documents.get("server_info") or documents.get("get_server_info"),
        models=documents.get("models"),
    )


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The data-parallel ranks of the page, in their order; what only the front end knows is the lowest's.

    `gauge_age_seconds`: gauges are written at each prefill and every so many decoding steps, so it is so
    many of the mean length since the start, where `/v1/loads` times them (0.5.17 and newer); older releases
    leave those of the last request standing for up to 30 s.

    `facts.weight_bytes` are those of one GPU, as the engine saw its memory shrink, times the GPUs of the
    replica; unknown where data-parallel ranks share their GPUs.
    """
    speakers, told = _take_apart(page), _told(documents)
    lowest, *others = (_read_rank(rank, speakers, told) for rank in in_rank_order(speakers.schedulers))
    return (_with_requests(lowest, speakers, told), *others)


def _read_rank(rank: str, speakers: _Speakers, told: _Told) -> EngineReading:
    """What one scheduler says, and what the documents say of it."""
    own, load = speakers.schedulers[rank], told.load_of.get(rank)
    role = _role(own, load, told)
    facts = _model_facts(own, load, speakers, told)
    return EngineReading(
        engine="sglang",
        rank=rank,
        model=_label(own, "model_name") or _label(speakers.front, "model_name") or "",
        version=told.version,
        requests_running=RUNNING.read(own),
        requests_waiting=read_sum(own, QUEUES),
        kv_used_ratio=KV_USED.read(own),
        kv_capacity_tokens=_kv_capacity_tokens(own, load, told),
        kv_block_tokens=_kv_block_tokens(own, told),
        counters=_scheduler_counters(own, load, role, speakers, told),
        gauge_age_seconds=_gauge_age_seconds(load, told),
        role=role,
        facts=facts,
    )


def _scheduler_counters(
    own: Page, load: Any, role: ServingRole | None, speakers: _Speakers, told: _Told
) -> EngineCounters:
    decoded = _or_zero(DECODED.read(own), speakers.live)
    decode_steps = _or_zero(DECODE_PASSES.read(own), speakers.live)
    prefill_steps = _or_zero(PREFILL_PASSES.read(own), speakers.prefill_passes or role == "decode")
    begun = _or_zero(BEGUN.read(own), speakers.live)
    return EngineCounters(
        # First tokens are not decoded. But the scheduler learns that a request has ended only after it has
        # launched one more step for it, which it counts, so that the sum is that of the output. (Not with
        # --disable-overlap-schedule: there the first tokens are missing.)
        # A prefill server gives one token a request.
        generation_tokens=begun if role == "prefill" else decoded,
        prefill_tokens=_or_zero(COMPUTED.read(own), speakers.live),
        cached_prompt_tokens=_or_zero(CACHED.read(own), speakers.live),
        # The front end, who sees first tokens, sees no ranks, and on a prefill server no token at all.
        first_tokens=begun if role == "prefill" or (speakers.live and speakers.data_parallel) else None,
        steps=None if decode_steps is None or prefill_steps is None else decode_steps + prefill_steps,
        decode_steps=decode_steps,
        prefill_steps=prefill_steps,
        prefill_step_seconds=_prefill_step_seconds(load, told),
        # With speculation a sequence has several tokens a step.
        sequence_steps=decoded if told.speculates is False else None,
        preemptions=_or_zero(RETRACTED.read(own), speakers.live),
        **_timed_steps(load),
    )


def _with_requests(reading: EngineReading, speakers: _Speakers, told: _Told) -> EngineReading:
    """The reading of the lowest rank, with what the front end counts for all of them."""
    front, counters = speakers.front, reading.counters
    counted = {name: _or_zero(signal.read(front), speakers.live) for name, signal in REQUEST_COUNTERS.items()}
    if counters.first_tokens is None:
        counted["first_tokens"] = _or_zero(FIRST_TOKENS.read(front), speakers.live)
    if not speakers.live:
        counted["prefill_tokens"] = _prefill_tokens_at_end(front)
        counted["cached_prompt_tokens"] = CACHED_AT_END.read(front)
        if counters.generation_tokens is None:
            counted["generation_tokens"] = GENERATED_AT_END.read(front)
    if _speculates(speakers, told):
        # Several tokens a step: intervals between tokens are not those between steps.
        counted |= {"inter_token_seconds": None, "inter_token_intervals": None}
    return replace(
        reading,
        counters=replace(counters, drafts=DRAFTS.read(front), **counted),
        time_to_first_token=read_histogram(front, TIME_TO_FIRST_TOKEN),
        inter_token_latency=read_histogram(front, INTER_TOKEN_LATENCY),
        request_latency=read_histogram(front, REQUEST_LATENCY),
        computed_prompt_lengths=read_histogram(front, COMPUTED_PROMPT_LENGTHS),
    )


# --- what no table can say -----------------------------------------------------------------------


def _or_zero(value: float | None, exists: bool) -> float | None:
    """Zero where the engine has such a counter and does not show it yet."""
    return 0.0 if value is None and exists else value


def _kv_capacity_tokens(own: Page, load: Any, told: _Told) -> float | None:
    """Zero, which some releases show before the first request, is no capacity."""
    pages, page_tokens = PAGES.read(own), PAGE_TOKENS.read(own)
    config = own.labels_of(*CACHE_CONFIG)
    config_pages, config_page_tokens = _integer(config.get("num_pages")), _integer(config.get("page_size"))
    return (
        KV_CAPACITY.read(own)
        or (pages or 0.0) * (page_tokens or 0.0)
        or float((config_pages or 0) * (config_page_tokens or 0))
        or number_at(load, "max_total_num_tokens")
        or number_at(told.server, "max_total_num_tokens")
        or None
    )


def _kv_block_tokens(own: Page, told: _Told) -> int | None:
    on_page = PAGE_TOKENS.read(own)
    if on_page:
        return int(on_page)
    return (
        _integer(own.labels_of(*CACHE_CONFIG).get("page_size")) or count_at(told.server, "page_size") or None
    )


def _prefill_tokens_at_end(front: Page) -> float | None:
    """Prompt tokens that were computed, of the requests that have ended.

    The two counters are read one after the other, so the difference can dip: hence `derived` below.
    """
    prompt, cached = PROMPT_AT_END.read(front), CACHED_AT_END.read(front)
    # It shows from the first hit on, in the releases that have it: since 0.4.3, as this histogram.
    cached = _or_zero(cached, f"{INTER_TOKEN_LATENCY[0]}_sum" in front)
    return None if prompt is None or cached is None else max(0.0, prompt - cached)


def _prefill_step_seconds(load: Any, told: _Told) -> float | None:
    """From the launch of each step that prefills, or the end of the one before, to its own end."""
    if _release(told.version) < WHOLE_PREFILL_TIMES:
        return None
    microseconds = number_at(load, "total_prefill_busy_us")
    return None if microseconds is None else microseconds * MICROSECOND


def _timed_steps(load: Any) -> dict[str, float]:
    """The moments of decoding steps that followed one another, from launch to launch."""
    moments = list_at(load, "decode_moments")[: len(MOMENTS)]
    if len(moments) < len(MOMENTS) or not all(map(_is_sum, moments)):
        return {}
    return {name: moment * unit for (name, unit), moment in zip(MOMENTS.items(), moments, strict=True)}


def _is_sum(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= MAX_VALUE


def _gauge_age_seconds(load: Any, told: _Told) -> float:
    timed = _timed_steps(load)
    if not timed.get("timed_steps"):
        return IDLE_REPORT_SECONDS
    interval = count_at(told.server, "decode_log_interval") or DECODE_LOG_INTERVAL
    return interval * timed["timed_seconds"] / timed["timed_steps"]


def _role(own: Page, load: Any, told: _Told) -> ServingRole | None:
    """Of a server that can change its role, `/v1/loads` knows the present one."""
    return (
        ROLES.get(text_at(load, "disaggregation", "mode"))
        or ROLES.get(_label(own, "engine_type"))
        or ROLES.get(text_at(told.server, "disaggregation_mode"))
    )


def _speculates(speakers: _Speakers, told: _Told) -> bool:
    if told.speculates is not None:
        return told.speculates
    return bool(DRAFTS.read(speakers.front)) or any(
        bool(ACCEPTED_LENGTH.read(scheduler)) for scheduler in speakers.schedulers.values()
    )


def _release(version: str | None) -> tuple[int, ...]:
    """The numbers a version begins with; none of a version that is not known."""
    match = re.match(r"(\d{1,4})\.(\d{1,4})\.(\d{1,4})", version or "")
    return tuple(map(int, match.groups())) if match else ()


def _model_facts(own: Page, load: Any, speakers: _Speakers, told: _Told) -> ModelFacts:
    return ModelFacts(
        path=text_at(told.model, "model_path") or text_at(told.server, "model_path"),
        revision=text_at(told.server, "revision"),
        served_names=_served_names(told),
        weight_dtype=text_at(told.server, "quantization") or text_at(told.server, "dtype"),
        kv_dtype=text_at(told.server, "kv_cache_dtype"),
        tensor_parallel=_tensor_parallel(told),
        pipeline_parallel=count_at(told.server, "pp_size") or None,
        expert_parallel=count_at(told.server, "ep_size") or None,
        data_parallel=count_at(told.server, "dp_size") or None,
        max_num_seqs=_max_num_seqs(load, told),
        max_model_len=_max_model_len(own, told),
        weight_bytes=_weight_bytes(own, load, speakers, told),
    )


def _served_names(told: _Told) -> tuple[str, ...]:
    names = [text_at(row, "id") for row in own_models(told.models)]
    names += [text_at(document, "served_model_name") for document in (told.model, told.server)]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _max_model_len(own: Page, told: _Told) -> int | None:
    lengths = [count_at(row, "max_model_len") for row in own_models(told.models)]
    return next(filter(None, lengths), None) or int(CONTEXT.read(own) or 0) or None


def _tensor_parallel(told: _Told) -> int | None:
    """Of one data-parallel rank: where those share their GPUs, the server's is over all of them."""
    ranks, sharing = count_at(told.server, "tp_size"), count_at(told.server, "dp_size")
    if ranks and sharing and told.shares_gpus:
        ranks = ranks // sharing
    return ranks or None


def _max_num_seqs(load: Any, told: _Told) -> int | None:
    """Of one data-parallel rank. What was asked for is for all of them, so it counts only if there is one."""
    states = list_at(told.server, "internal_states")
    return (
        count_at(load, "max_running_requests")
        or count_at(states[0] if states else None, "effective_max_running_requests_per_dp")
        or (count_at(told.server, "max_running_requests") if count_at(told.server, "dp_size") == 1 else None)
        or None
    )


def _weight_bytes(own: Page, load: Any, speakers: _Speakers, told: _Told) -> float | None:
    """Of all ranks, which hold about the same; not told where data-parallel ranks share them."""
    shares = speakers.data_parallel if told.shares_gpus is None else told.shares_gpus
    gib = number_at(load, "memory", "weight_gb") or WEIGHTS_GIB.read(own)
    ranks = count_at(told.loads, "num_accelerators") or (
        (count_at(told.server, "tp_size") or 0) * (count_at(told.server, "pp_size") or 1)
    )
    return gib * GIB * ranks if gib and ranks and not shares else None


def _label(page: Page, label: str) -> str | None:
    """What the page says first under this label."""
    return next(page.label_values(label), None)


def _integer(text: str | None) -> int | None:
    return integer_of(text, digits=MAX_DIGITS)


def _has_new_paths(page: Page) -> bool:
    """Whether it is 0.5.6 or newer: it also answers the old ones, with a warning in its log."""
    return any(name in page for name in KV_CAPACITY.names)


def _has_old_paths(page: Page) -> bool:
    return not _has_new_paths(page)


def _publishes_loads(page: Page) -> bool:
    """Whether it is 0.5.17 or newer: older ones have no moments, and ask every scheduler for an answer."""
    return any(name in page for name in WEIGHTS_GIB.names)


# --- the definition ------------------------------------------------------------------------------

_SIGNALS = (
    *REQUEST_COUNTERS.values(),
    *QUEUES,
    *(DECODED, COMPUTED, CACHED, DECODE_PASSES, PREFILL_PASSES, BEGUN, RETRACTED, RUNNING, KV_USED),
    *(KV_CAPACITY, PAGES, PAGE_TOKENS, WEIGHTS_GIB, CONTEXT, ACCEPTED_LENGTH, FIRST_TOKENS, DRAFTS),
    *(PROMPT_AT_END, GENERATED_AT_END, CACHED_AT_END),
)
_HISTOGRAMS = TIME_TO_FIRST_TOKEN + INTER_TOKEN_LATENCY + REQUEST_LATENCY + COMPUTED_PROMPT_LENGTHS
_FINGERPRINT = frozenset(
    RUNNING.names + KV_USED.names + KV_CAPACITY.names + PROMPT_AT_END.names + (REALTIME, *STARTED)
)

SGLANG = EngineDefinition(
    name="sglang",
    fingerprint=_FINGERPRINT,
    wanted=_FINGERPRINT.union(
        histogram_samples(_HISTOGRAMS), *(signal.names for signal in _SIGNALS), CACHE_CONFIG
    ),
    read=read,
    documents=(
        Document(name="model_info", path="/model_info", when=_has_new_paths),
        Document(name="get_model_info", path="/get_model_info", when=_has_old_paths),
        Document(name="server_info", path="/server_info", when=_has_new_paths),
        Document(name="get_server_info", path="/get_server_info", when=_has_old_paths),
        Document(name="models", path="/v1/models"),
        Document(name="loads", path="/v1/loads?include=core,memory,disagg", live=True, when=_publishes_loads),
    ),
    ports=(30000,),
    switch="--enable-metrics",
    derived=frozenset({"prefill_tokens"}),
)
