"""The pages of a vLLM 0.32.0 server, rendered from its engines' counters by prometheus_client.

As with the real one, a server of several data-parallel engines runs prometheus_client in its
multi-process mode: no `process_*`, no `_created`, and a histogram's sum comes before its buckets.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from agent.simulate.counters import Tally
from agent.simulate.engine import SimulatedEngine
from agent.simulate.scenario import BLOCK_TOKENS, Model

VERSION = "0.32.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Family:
    """A family of the page: for each value of its label the counter that stands there; `None` stays 0."""

    kind: str
    name: str
    label: str = ""
    counters: Mapping[str, str | None]
    per_engine: bool = True


def _plain(kind: str, *names: str) -> tuple[_Family, ...]:
    """Families without a label of their own, that bear the name of their counter."""
    return tuple(_Family(kind=kind, name=name, counters={"": name}) for name in names)


def _never_counted(*names: str) -> tuple[_Family, ...]:
    """Counters of what is switched off here; they are on the page all the same."""
    return tuple(_Family(kind="counter", name=name, counters={"": None}) for name in names)


_FAMILIES = (
    *_plain("gauge", "num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
    _Family(
        kind="gauge",
        name="num_requests_waiting_by_reason",
        label="reason",
        counters={"capacity": "num_requests_waiting", "deferred": None},
    ),
    _Family(
        kind="gauge",
        name="engine_sleep_state",
        label="sleep_state",
        counters={"awake": "awake", "weights_offloaded": None, "discard_all": None},
    ),
    *_never_counted(
        "estimated_flops_per_gpu", "estimated_read_bytes_per_gpu", "estimated_write_bytes_per_gpu"
    ),
    *_never_counted("external_prefix_cache_queries", "external_prefix_cache_hits"),
    *_never_counted("mm_cache_queries", "mm_cache_hits"),
    *_plain("counter", "prefix_cache_queries", "prefix_cache_hits", "num_preemptions"),
    *_plain("counter", "prompt_tokens", "prompt_tokens_cached", "generation_tokens"),
    _Family(
        kind="counter",
        name="prompt_tokens_by_source",
        label="source",
        counters={
            "local_compute": "prompt_tokens_computed",
            "local_cache_hit": "prompt_tokens_cached",
            "external_kv_transfer": None,
        },
    ),
    _Family(
        kind="counter",
        name="prompt_tokens_cached_by_source",
        label="source",
        counters={
            "device": "prefix_cache_hits",  # unlike the others counted at admission
            "host": None,
            "p2p": None,
            "disk": None,
            "external_unspecified": None,
        },
    ),
    _Family(
        kind="counter",
        name="request_success",
        label="finished_reason",
        counters={
            "stop": None,
            "length": "requests_length",
            "abort": None,
            "error": None,
            "repetition": None,
        },
    ),
    _Family(
        kind="counter",
        name="admission_rejections",
        label="reason",
        counters={"max_num_queued_reqs": None, "max_num_queued_tokens": None},
        per_engine=False,
    ),
    *_plain(
        "histogram",
        "request_prompt_tokens",
        "request_generation_tokens",
        "iteration_tokens_total",
        "request_max_num_generation_tokens",
        "request_params_n",
        "request_params_max_tokens",
        "time_to_first_token_seconds",
        "inter_token_latency_seconds",
        "request_time_per_output_token_seconds",
        "e2e_request_latency_seconds",
        "request_queue_time_seconds",
        "request_inference_time_seconds",
        "request_prefill_time_seconds",
        "request_decode_time_seconds",
        "request_num_preemptions",
        "request_prefill_kv_computed_tokens",
    ),
)

_OF_SPECULATION = _plain(
    "counter", *(f"spec_decode_num_{what}" for what in ("drafts", "draft_tokens", "accepted_tokens"))
)
"""On the page with speculation only."""


class VllmPage(Collector):
    """`/metrics` of one server, from its start to its end."""

    def __init__(self, engines: Sequence[SimulatedEngine], *, started_unix_seconds: float) -> None:
        self._engines = engines
        self._started_unix_seconds = started_unix_seconds
        self._single_process = len(engines) == 1
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def render(self) -> bytes:
        """The page, as of the engines' last finished steps."""
        return generate_latest(self._registry)

    def describe(self) -> list[Metric]:
        """Nothing: the registry is this page's own, so no name can clash."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Every family of the page."""
        if self._single_process:
            start_time = Metric("process_start_time_seconds", "process start time seconds", "gauge")
            start_time.add_sample(start_time.name, {}, self._started_unix_seconds)
            yield start_time
        yield from map(self._family, _FAMILIES)
        if any(engine.spec.speculation for engine in self._engines):
            yield from map(self._family, _OF_SPECULATION)
            yield self._accepted_by_position()
        yield self._cache_config()

    def _family(self, family: _Family) -> Metric:
        metric = Metric(f"vllm:{family.name}", family.name.replace("_", " "), family.kind)
        for rank, engine in enumerate(self._engines if family.per_engine else self._engines[:1]):
            for label_value, name in family.counters.items():
                labels = {"model_name": engine.spec.model.served_name}
                if family.per_engine:
                    labels["engine"] = str(rank)
                if family.label:
                    labels[family.label] = label_value
                self._add(metric, labels, getattr(engine.counters, name) if name else 0)
        return metric

    def _accepted_by_position(self) -> Metric:
        name = "spec_decode_num_accepted_tokens_per_pos"
        metric = Metric(f"vllm:{name}", name.replace("_", " "), "counter")
        for rank, engine in enumerate(self._engines):
            labels = {"model_name": engine.spec.model.served_name, "engine": str(rank)}
            for position, accepted in enumerate(getattr(engine.counters, name)):
                self._add(metric, {**labels, "position": str(position)}, accepted)
        return metric

    def _add(self, metric: Metric, labels: dict[str, str], value: float | Tally) -> None:
        if isinstance(value, Tally):
            self._add_histogram(metric, labels, value)
        else:
            metric.add_sample(metric.name + ("_total" if metric.type == "counter" else ""), labels, value)
        if self._single_process and metric.type != "gauge":
            metric.add_sample(f"{metric.name}_created", labels, self._started_unix_seconds)

    def _add_histogram(self, metric: Metric, labels: dict[str, str], tally: Tally) -> None:
        cumulative = list(accumulate(tally.counts))
        bounds = (*tally.bounds, math.inf)
        rows: list[tuple[str, dict[str, str], float]] = [
            ("_bucket", {**labels, "le": _number(bound)}, count)
            for bound, count in zip(bounds, cumulative, strict=True)
        ]
        rows.append(("_count", labels, cumulative[-1]))
        rows.insert(len(rows) if self._single_process else 0, ("_sum", labels, tally.sum))
        for suffix, row_labels, value in rows:
            metric.add_sample(metric.name + suffix, row_labels, value)

    def _cache_config(self) -> Metric:
        metric = Metric("vllm:cache_config_info", "Information of the LLMEngine CacheConfig", "gauge")
        # As in vLLM: the number of blocks is summed over the engines, the size in tokens is one engine's.
        num_gpu_blocks = sum(engine.spec.num_gpu_blocks for engine in self._engines)
        for rank, engine in enumerate(self._engines):
            size_tokens = engine.spec.num_gpu_blocks * BLOCK_TOKENS
            labels = {
                "engine": str(rank),
                "block_size": str(BLOCK_TOKENS),
                "cache_dtype": "auto",
                "enable_prefix_caching": "True",
                "gpu_memory_utilization": "0.92",
                "kv_cache_memory_bytes": "None",
                "kv_cache_max_concurrency": str(size_tokens / engine.spec.model.max_model_len),
                "kv_cache_size_tokens": str(size_tokens),
                "num_gpu_blocks": str(num_gpu_blocks),
                "num_gpu_blocks_override": "None",
                "sliding_window": "None",
            }
            metric.add_sample(metric.name, labels, 1)
        return metric


def render_version() -> bytes:
    """`/version`."""
    return _json({"version": VERSION})


def render_models(model: Model, created_unix_seconds: float) -> bytes:
    """`/v1/models`: the one model that is served."""
    entry = {
        "id": model.served_name,
        "object": "model",
        "created": int(created_unix_seconds),
        "owned_by": "vllm",
        "root": model.served_name,
        "parent": None,
        "max_model_len": model.max_model_len,
    }
    return _json({"object": "list", "data": [entry]})


def _number(bound: float) -> str:
    return "+Inf" if bound == math.inf else str(float(bound))


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()
