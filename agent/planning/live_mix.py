"""What the engines do now, by a Prometheus that scrapes the agent.

Everything is a difference of the agent's own counters over the look-back, by engine, and summed here over the
engines that serve one model in one way; a rate is that sum over the time for which the node was watched.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

from agent.errors import AgentError
from agent.planning.mix import Latency, LiveMix, Serving
from agent.sources.prometheus import PrometheusServer, Sample

ENGINE = ("instance", "server", "rank")
"""What tells engines apart."""
INCREASES: Mapping[str, str] = {
    "prefill_tokens": "roofline_engine_prefill_tokens_total",
    "cached_tokens": "roofline_engine_cached_prompt_tokens_total",
    "generation_tokens": "roofline_engine_generation_tokens_total",
    "first_tokens": "roofline_engine_time_to_first_token_seconds_count",
    "finished": "roofline_engine_requests_total",
    "usd": "roofline_engine_cost_usd_total",
    "remote_usd": "roofline_engine_remote_cost_usd_total",
}
MEANS: Mapping[str, str] = {
    "decode_batch": "roofline_engine_decode_batch_size",
    "running": "roofline_engine_requests_running",
    "kv_capacity_tokens": "roofline_engine_kv_cache_capacity_tokens",
    "kv_free_tokens": "roofline_engine_kv_cache_free_tokens",
    "max_num_seqs": "roofline_engine_max_num_seqs",
}
TTFT = "roofline_engine_time_to_first_token_seconds_bucket"
TPOT = "roofline_engine_inter_token_latency_seconds_bucket"
MODEL_INFO = "roofline_engine_model_info"
ENGINE_GPU_INFO = "roofline_engine_gpu_info"
GPU_INFO = "roofline_gpu_info"
WATCHED_SECONDS = "roofline_gpu_observed_seconds_total"
ENGINE_UP, GPU_UP = "roofline_engine_up", "roofline_gpu_up"
"""How many samples there are of them says how long engines were there."""

_Key = tuple[str, ...]
_Value = TypeVar("_Value")


def fetch_mixes(server: PrometheusServer, *, since: str, models: Sequence[str] = ()) -> list[LiveMix]:
    """Every mix that generated anything; `models` are served names, with or without their owner.

    Raises `AgentError` when there is none, with what there is instead.
    """
    fetched = _Fetched(server, since)
    mixes = [mix for serving, keys in sorted(fetched.servings()) if (mix := fetched.mix(serving, keys))]
    if not mixes:
        raise AgentError(
            f"{server.name}: no engine generated anything in the last {since}; does it scrape roofline-agent?"
        )
    for model in models:
        if not any(mix.serving.is_named(model) for mix in mixes):
            found = ", ".join(sorted({mix.serving.model for mix in mixes}))
            raise AgentError(f"{server.name}: no traffic of {model!r} in the last {since}, but of {found}")
    return [mix for mix in mixes if not models or any(map(mix.serving.is_named, models))]


class _Fetched:
    """All answers that do not depend on which engines belong together."""

    def __init__(self, server: PrometheusServer, since: str) -> None:
        self._server, self._since = server, since
        self._seconds = self._one(f"max(increase({WATCHED_SECONDS}[{since}]))")
        self._samples = self._one(f"max(count_over_time({GPU_UP}[{since}]))")
        self._alive = self._by_engine(f"sum by ({', '.join(ENGINE)}) (sum_over_time({ENGINE_UP}[{since}]))")
        self._increases = {
            name: self._by_engine(f"sum by ({', '.join(ENGINE)}) (increase({metric}[{since}]))")
            for name, metric in INCREASES.items()
        }
        self._means = {
            name: self._by_engine(f"avg by ({', '.join(ENGINE)}) (avg_over_time({metric}[{since}]))")
            for name, metric in MEANS.items()
        }
        self._ttft, self._tpot = self._buckets(TTFT), self._buckets(TPOT)
        parts = {(_of(s, "instance"), _of(s, "uuid")): _of(s, "part") for s in self._latest(GPU_INFO)}
        self._parts: defaultdict[_Key, dict[str, str]] = defaultdict(dict)
        for sample in self._latest(ENGINE_GPU_INFO):
            uuid = _of(sample, "uuid")
            self._parts[_key(sample)][uuid] = parts.get((_of(sample, "instance"), uuid), "")

    def servings(self) -> Iterator[tuple[Serving, tuple[_Key, ...]]]:
        """What is served, each with the engines that do."""
        served = {}
        for sample in self._latest(MODEL_INFO):
            key = _key(sample)
            served[key] = Serving(
                model=_of(sample, "model"),
                engine=_of(sample, "engine"),
                part=next(iter(self._parts[key].values()), ""),
                tensor_parallel=_degree(sample, "tensor_parallel"),
                pipeline_parallel=int(_degree(sample, "pipeline_parallel") or 1),
                weight_dtype=_of(sample, "weight_dtype"),
                kv_dtype=_of(sample, "kv_dtype"),
            )
        for serving in set(served.values()):
            yield serving, tuple(sorted(key for key, each in served.items() if each == serving))

    def mix(self, serving: Serving, keys: Sequence[_Key]) -> LiveMix | None:
        """The traffic of those engines together; `None` when they generated nothing."""
        total = {name: sum(_at(values, keys)) for name, values in self._increases.items()}
        requests = total["first_tokens"] or total["finished"]
        if not self._seconds or not self._samples or not total["generation_tokens"] or not requests:
            return None
        prompt = total["prefill_tokens"] + total["cached_tokens"]
        present = {key: self._alive.get(key, 0.0) / self._samples for key in keys}
        limits = list(_at(self._means["max_num_seqs"], keys))
        return LiveMix(
            serving=serving,
            replicas=sum(present.values()),
            gpus=sum(part * max(len(self._parts[key]), serving.gpus) for key, part in present.items()),
            requests_per_second=requests / self._seconds,
            prefill_tokens_per_second=total["prefill_tokens"] / self._seconds,
            cached_ratio=total["cached_tokens"] / prompt if prompt else 0.0,
            generation_tokens_per_second=total["generation_tokens"] / self._seconds,
            prompt_tokens=prompt / requests,
            output_tokens=total["generation_tokens"] / requests,
            context=self._held_tokens(keys) or (prompt + total["generation_tokens"] / 2) / requests,
            decode_batch=self._decode_batch(keys),
            max_num_seqs=max(limits) if limits else None,
            usd_per_second=(total["usd"] + total["remote_usd"]) / self._seconds or None,
            ttft=_latency(self._ttft, keys),
            tpot=_latency(self._tpot, keys),
        )

    def _held_tokens(self, keys: Sequence[_Key]) -> float | None:
        """Tokens in the cache for each running request, where the engines say how much it holds."""
        capacity, free, running = (
            self._means[name] for name in ("kv_capacity_tokens", "kv_free_tokens", "running")
        )
        counted = [key for key in keys if key in capacity and key in free and key in running]
        requests = sum(_at(running, counted))
        held = sum(capacity[key] - free[key] for key in counted)
        return held / requests if requests else None

    def _decode_batch(self, keys: Sequence[_Key]) -> float | None:
        batches, tokens = self._means["decode_batch"], self._increases["generation_tokens"]
        weights = {key: tokens.get(key, 0.0) for key in keys if key in batches}
        whole = sum(weights.values())
        return sum(weight * batches[key] for key, weight in weights.items()) / whole if whole else None

    def _buckets(self, metric: str) -> Mapping[_Key, Mapping[float, float]]:
        """By engine: how much each bucket grew, by its upper bound."""
        found: defaultdict[_Key, dict[float, float]] = defaultdict(dict)
        by = ", ".join((*ENGINE, "le"))
        for sample in self._server.query(f"sum by ({by}) (increase({metric}[{self._since}]))"):
            if sample.value is not None:
                found[_key(sample)][float(_of(sample, "le"))] = sample.value
        return found

    def _one(self, expression: str) -> float | None:
        samples = self._server.query(expression)
        return samples[0].value if samples else None

    def _by_engine(self, expression: str) -> dict[_Key, float]:
        samples = self._server.query(expression)
        return {_key(sample): sample.value for sample in samples if sample.value is not None}

    def _latest(self, info: str) -> tuple[Sample, ...]:
        """Also of what has gone; what is there now comes last, and so wins."""
        return (*self._server.query(f"last_over_time({info}[{self._since}])"), *self._server.query(info))


def _latency(buckets: Mapping[_Key, Mapping[float, float]], keys: Sequence[_Key]) -> Latency:
    """Of the engines' buckets summed: one kind of engine has one set of bounds."""
    summed: Counter[float] = Counter()
    for each in _at(buckets, keys):
        summed.update(each)
    return Latency.of_buckets(summed)


def _key(sample: Sample) -> _Key:
    return tuple(_of(sample, name) for name in ENGINE)


def _of(sample: Sample, label: str) -> str:
    return sample.labels.get(label, "")


def _degree(sample: Sample, label: str) -> str:
    """How many ranks, or "" for what is no number: anybody can write a label."""
    text = _of(sample, label)
    return text if text.isdecimal() and int(text) else ""


def _at(values: Mapping[_Key, _Value], keys: Iterable[_Key]) -> Iterator[_Value]:
    return (values[key] for key in keys if key in values)
