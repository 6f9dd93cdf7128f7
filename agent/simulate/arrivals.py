"""Requests, and when they arrive."""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass
from random import Random

from agent.simulate.scenario import Lengths, Traffic


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One request. Not frozen: the engine writes its progress here, as an engine does."""

    arrived_at: float
    prompt_tokens: int
    output_tokens: int
    shared_tokens: int
    """Of the prompt, those that begin every prompt."""

    cached_tokens: int = 0
    """Of the prompt, those found in the cache at its first admission."""
    shares_prefix: bool = False
    """Whether its first blocks are the shared ones, not its own."""
    scheduled_at: float | None = None
    first_token_at: float = math.nan
    last_token_at: float = math.nan
    generated_tokens: int = 0
    """As of the last time it was not in the decode batch, which counts for it."""
    kv_tokens: int = 0
    """Likewise: how far its KV cache is filled."""
    joined_step: int = 0
    preemptions: int = 0

    @property
    def tokens_to_compute(self) -> int:
        """Tokens that its cache must hold before it can give its next one."""
        return self.prompt_tokens + self.generated_tokens


class Arrivals:
    """The requests of one engine's traffic, in the order in which they come; the seed decides all."""

    def __init__(self, traffic: Traffic, *, seed: str, start: float) -> None:
        self._traffic = traffic
        self._random = Random(seed)  # noqa: S311 - a simulation wants repeatable numbers, not secret ones
        # Clients begin in the middle of an answer, or all of them would end together.
        self._asked = deque(
            self._request(start, remaining=self._random.random()) for _ in range(traffic.clients)
        )
        self._next_stranger = start + self._gap()

    @property
    def next_at(self) -> float:
        """When the next request comes."""
        return min(self._asked[0].arrived_at, self._next_stranger) if self._asked else self._next_stranger

    def until(self, now: float) -> list[Request]:
        """Take those that have come."""
        came = []
        while self._next_stranger <= now:
            came.append(self._request(self._next_stranger))
            self._next_stranger += self._gap()
        while self._asked and self._asked[0].arrived_at <= now:
            came.append(self._asked.popleft())
        return came

    def answered(self, now: float) -> None:
        """A request was answered in full; its client asks again."""
        if self._traffic.clients:
            self._asked.append(self._request(now))

    def _gap(self) -> float:
        rate = self._traffic.requests_per_second
        return self._random.expovariate(rate) if rate else math.inf

    def _request(self, at: float, remaining: float = 1.0) -> Request:
        shared = self._traffic.shared_prefix_tokens
        return Request(
            arrived_at=at,
            prompt_tokens=shared + self._draw(self._traffic.prompt),
            output_tokens=math.ceil(self._draw(self._traffic.output) * remaining) or 1,
            shared_tokens=shared,
        )

    def _draw(self, lengths: Lengths) -> int:
        return self._random.randint(lengths.low, lengths.high)
