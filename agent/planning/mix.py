"""Traffic as some engines have it now: what a set-up is sized for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Serving:
    """A model as some engines serve it, by the names that the agent exports; "" is not known."""

    model: str
    engine: str
    part: str
    tensor_parallel: str
    weight_dtype: str
    kv_dtype: str

    def is_named(self, name: str) -> bool:
        """Whether that is the model's served name, with or without its owner."""
        served = self.model.lower()
        return name.lower() in (served, served.rpartition("/")[2])


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Of all requests over the look-back, in seconds; `None` when there was none."""

    p50: float | None
    p99: float | None


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
