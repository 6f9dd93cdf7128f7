"""Traffic as some engines have it now: what a set-up is sized for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Serving:
    """A model as some engines serve it, by the names that the agent exports; "" is not known."""

    model: str
    engine: str
    part: str
    tensor_parallel: str
    pipeline_parallel: int = 1
    weight_dtype: str
    kv_dtype: str

    @property
    def gpus(self) -> int:
        """Of one engine, by its degrees."""
        return int(self.tensor_parallel or 1) * self.pipeline_parallel

    def is_named(self, name: str) -> bool:
        """Whether that is the model's served name, with or without its owner."""
        served = self.model.lower()
        return name.lower() in (served, served.rpartition("/")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of all requests over the look-back, in seconds; `None` when there was none."""

    p50: float | None
    p99: float | None

    @classmethod
    def of_buckets(cls, buckets: Mapping[float, float]) -> Latency:
        """From a histogram: how many were no longer than each bound, the last of which is +Inf."""
        return cls(p50=_quantile(0.5, buckets), p99=_quantile(0.99, buckets))


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMix:
    """The mean traffic of one `Serving`."""

    serving: Serving
    replicas: float
    """Engines, on average over the time watched."""
    gpus: float
    """Likewise; a GPU that two engines share counts with both."""
    requests_per_second: float
    prefill_tokens_per_second: float
    """Computed."""
    cached_ratio: float
    """Of the prompts' tokens, those that the prefix cache had."""
    generation_tokens_per_second: float
    prompt_tokens: float
    """Of a mean prompt, the cached ones included."""
    output_tokens: float
    context: float
    """Mean tokens held by a running request."""
    decode_batch: float | None
    """Of the step that a token is generated in, on average over tokens."""
    max_num_seqs: float | None
    usd_per_second: float | None
    """What the GPUs on the engines' nodes cost, by the agent's prices; `None` where it has none."""
    ttft: Latency
    tpot: Latency

    @property
    def computed_prompt_tokens(self) -> float:
        """Of a mean prompt, those that are not cached."""
        return self.prompt_tokens * (1 - self.cached_ratio)


def _quantile(ratio: float, buckets: Mapping[float, float]) -> float | None:
    """As Prometheus has it: evenly spread within a bucket; beyond the last finite bound, that bound."""
    bounds = sorted(buckets)
    # Increases are extrapolated, so that a bucket may seem a little smaller than the one inside it.
    counts = list(accumulate((buckets[bound] for bound in bounds), max))
    if len(bounds) < 2 or bounds[-1] != math.inf or counts[-1] <= 0:
        return None
    wanted = ratio * counts[-1]
    at = next(n for n, reached in enumerate(counts) if reached >= wanted)
    if at == len(bounds) - 1:
        return bounds[-2]
    low, before = (bounds[at - 1], counts[at - 1]) if at else (0.0, 0.0)
    return low + (bounds[at] - low) * (wanted - before) / ((counts[at] - before) or 1.0)
