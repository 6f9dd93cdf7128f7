"""Requests, and when they arrive."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from agent.simulate.scenario import Lengths, Traffic, TrafficChange


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

    def __init__(
        self, traffic: Traffic, changes: Sequence[TrafficChange] = (), *, seed: str, start: float
    ) -> None:
        self._traffic = traffic
        self._changes = deque(change for change in changes if change.at_seconds > start)
        for change in changes:
            if change.at_seconds <= start:
                self._traffic = change.traffic
        self._leaving = 0
        """Clients that have had their last question."""
        self._random = Random(seed)  # noqa: S311 - a simulation wants repeatable numbers, not secret ones
        self._asked: deque[Request] = deque()
        self._welcome(self._traffic.clients, start)
        self._next_stranger = start + self._gap()

    @property
    def next_at(self) -> float:
        """When the next request comes, or other traffic begins, with which one may come."""
        asked = self._asked[0].arrived_at if self._asked else math.inf
        change = self._changes[0].at_seconds if self._changes else math.inf
        return min(asked, self._next_stranger, change)

    def until(self, now: float) -> list[Request]:
        """Take those that have come."""
        came = []
        while self._changes and self._changes[0].at_seconds <= now:
            change = self._changes.popleft()
            came += self._take(change.at_seconds)
            self._change(change)
        return came + self._take(now)

    def _take(self, now: float) -> list[Request]:
        came = []
        while self._next_stranger <= now:
            came.append(self._request(self._next_stranger))
            self._next_stranger += self._gap()
        while self._asked and self._asked[0].arrived_at <= now:
            came.append(self._asked.popleft())
        return came

    def answered(self, now: float) -> None:
        """A request was answered in full; its client asks again, unless it leaves."""
        if self._leaving:
            self._leaving -= 1
        elif self._traffic.clients:
            self._asked.append(self._request(now + self._traffic.pause_seconds))

    def _change(self, change: TrafficChange) -> None:
        more = change.traffic.clients - self._traffic.clients
        staying = min(max(more, 0), self._leaving)
        self._leaving += max(-more, 0) - staying
        self._traffic = change.traffic
        self._welcome(max(more, 0) - staying, change.at_seconds)
        self._next_stranger = change.at_seconds + self._gap()

    def _welcome(self, clients: int, at: float) -> None:
        for _ in range(clients):
            # They begin in the middle of an answer, or all of them would end together.
            remaining = 1.0 if self._traffic.all_begin_at_once else self._random.random()
            self._asked.append(self._request(at, remaining))

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
