"""The decode batch: sequences that each gain one token a step, at a cost that their number does not change.

Nobody touches a sequence between its joining and its leaving. What a step needs to know is counted as
they come and go: how many there are, how many tokens they hold, how many will open a new KV block at
a step (it depends on their length modulo the block), and which of them end at a step.
"""

from __future__ import annotations

from collections import defaultdict

from agent.simulate.arrivals import Request
from agent.simulate.scenario import BLOCK_TOKENS


class DecodeBatch:
    """`advance` is one step; a request that joins after a step takes part from the next one on."""

    def __init__(self) -> None:
        self.size = 0
        self.kv_tokens = 0
        """Of all sequences, the token of the step in progress included."""
        self._step = 0
        self._openers = [0] * BLOCK_TOKENS
        self._ending: defaultdict[int, list[Request]] = defaultdict(list)

    def join(self, request: Request) -> None:
        """It has given a token, and will give more."""
        request.joined_step = self._step
        self.size += 1
        self.kv_tokens += request.kv_tokens
        self._openers[self._opens_at(request)] += 1
        self._ending[self._ends_at(request)].append(request)

    def leave(self, request: Request) -> None:
        """It goes before its end, with its progress written down."""
        self._ending[self._ends_at(request)].remove(request)
        self._drop(request)

    def blocks_needed(self) -> int:
        """New blocks that the next step needs."""
        return self._openers[(self._step + 1) % BLOCK_TOKENS]

    def advance(self) -> None:
        """Every sequence gains a token."""
        self._step += 1
        self.kv_tokens += self.size

    def take_ended(self) -> list[Request]:
        """Those whose last token the step gave; they leave, with their progress written down."""
        ended = self._ending.pop(self._step, [])
        for request in ended:
            self._drop(request)
        return ended

    def _drop(self, request: Request) -> None:
        self._openers[self._opens_at(request)] -= 1
        gained = self._step - request.joined_step
        request.kv_tokens += gained
        request.generated_tokens += gained
        self.size -= 1
        self.kv_tokens -= request.kv_tokens

    @staticmethod
    def _opens_at(request: Request) -> int:
        # With n tokens held, the first step opens a block if n fills its blocks exactly.
        return (request.joined_step + 1 - request.kv_tokens) % BLOCK_TOKENS

    @staticmethod
    def _ends_at(request: Request) -> int:
        return request.joined_step + request.output_tokens - request.generated_tokens
