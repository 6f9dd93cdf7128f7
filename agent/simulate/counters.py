"""What an engine counts, exactly as vLLM does.

* Prompt tokens are booked when a request gives its first token, cached ones in the total.
* A step is counted only if it gave output. Its tokens are the computed prompt tokens of requests whose
  prefill ended with it, and the tokens it generated; what is computed again after a preemption is in neither.
* One inter-token latency for each token that is not its request's first; with speculation, where a step may
  give a sequence several, one for each such step.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field

_TIME_TO_FIRST_TOKEN = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_TOKEN_LATENCY = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
_REQUEST_LATENCY = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip
_STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
_PARAMETER_N = (1, 2, 5, 10, 20)
_PREEMPTIONS = (1, 2, 3, 4, 5, 10, 20)


def _one_two_five(largest: int) -> tuple[int, ...]:
    decades = (10**power for power in range(len(str(largest))))
    return tuple(m * decade for decade in decades for m in (1, 2, 5) if m * decade <= largest)


class Tally:
    """A histogram in the making; observations that are equal can be counted at once."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        """One a bound, not cumulative, and those above the last bound."""
        self.sum: float = 0

    def observe(self, value: float, times: int = 1) -> None:
        """Count it in the first bucket whose bound is not below it."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


@dataclass(slots=True, kw_only=True)
class EngineCounters:
    """Since the engine's start, as of its last finished step. Most names are those of vLLM's page."""

    max_model_len: int

    awake: int = 1
    """An engine here never sleeps."""
    num_requests_running: int = 0
    num_requests_waiting: int = 0
    kv_cache_usage_perc: float = 0.0

    prompt_tokens: int = 0
    prompt_tokens_computed: int = 0
    prompt_tokens_cached: int = 0
    generation_tokens: int = 0
    prefix_cache_queries: int = 0
    prefix_cache_hits: int = 0
    num_preemptions: int = 0
    requests_length: int = 0

    spec_decode_num_drafts: int = 0
    """One for each sequence and step, however many tokens were guessed."""
    spec_decode_num_draft_tokens: int = 0
    spec_decode_num_accepted_tokens: int = 0
    spec_decode_num_accepted_tokens_per_pos: list[int] = field(default_factory=list)

    iteration_tokens_total: Tally = field(default_factory=lambda: Tally(_STEP_TOKENS))
    time_to_first_token_seconds: Tally = field(default_factory=lambda: Tally(_TIME_TO_FIRST_TOKEN))
    inter_token_latency_seconds: Tally = field(default_factory=lambda: Tally(_TOKEN_LATENCY))
    request_time_per_output_token_seconds: Tally = field(default_factory=lambda: Tally(_TOKEN_LATENCY))
    e2e_request_latency_seconds: Tally = field(default_factory=lambda: Tally(_REQUEST_LATENCY))
    request_queue_time_seconds: Tally = field(default_factory=lambda: Tally(_REQUEST_LATENCY))
    request_inference_time_seconds: Tally = field(default_factory=lambda: Tally(_REQUEST_LATENCY))
    request_prefill_time_seconds: Tally = field(default_factory=lambda: Tally(_REQUEST_LATENCY))
    request_decode_time_seconds: Tally = field(default_factory=lambda: Tally(_REQUEST_LATENCY))
    request_params_n: Tally = field(default_factory=lambda: Tally(_PARAMETER_N))
    request_num_preemptions: Tally = field(default_factory=lambda: Tally(_PREEMPTIONS))
    request_prompt_tokens: Tally = field(init=False)
    request_generation_tokens: Tally = field(init=False)
    request_prefill_kv_computed_tokens: Tally = field(init=False)
    request_params_max_tokens: Tally = field(init=False)
    request_max_num_generation_tokens: Tally = field(init=False)

    def __post_init__(self) -> None:
        bounds = _one_two_five(self.max_model_len)
        self.request_prompt_tokens = Tally(bounds)
        self.request_generation_tokens = Tally(bounds)
        self.request_prefill_kv_computed_tokens = Tally(bounds)
        self.request_params_max_tokens = Tally(bounds)
        self.request_max_num_generation_tokens = Tally(bounds)
