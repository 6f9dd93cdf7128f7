"""The decode batch: sequences that gain tokens at each step.

Without speculation each gains one, at a cost that their number does not change: nobody touches a sequence
between its joining and its leaving. What a step needs to know is counted as they come and go: how many there
are, how many tokens they hold, how many will open a new KV block at a step (it depends on their length modulo
the block), and which of them end at a step.
"""

from __future__ import annotations

from collections import defaultdict
from random import Random
from typing import NamedTuple, Protocol

from agent.simulate.arrivals import Request
from agent.simulate.scenario import BLOCK_TOKENS, Speculation


class Gains(NamedTuple):
    """What a step gives to the sequences of the batch."""

    tokens: int
    """To all of them."""
    accepted: tuple[int, ...] = ()
    """Guesses that turn out right, by their place in the step; also those beyond the end of an answer."""


class Batch(Protocol):
    """Sequences that decode together."""

    size: int
    kv_tokens: int
    """Of all sequences, the tokens of the step in progress included."""

    def join(self, request: Request) -> None:
        """It has given a token, and will give more."""

    def leave(self, request: Request) -> None:
        """It goes before its end, with its progress written down."""

    def blocks_needed(self) -> int:
        """New blocks that the next step needs."""

    def advance(self) -> Gains:
        """A step: every sequence gains a token or more."""

    def take_ended(self) -> list[Request]:
        """Those whose last token the step gave; they leave, with their progress written down."""


class DecodeBatch:
    """One token a step; a request that joins after a step takes part from the next one on."""

    def __init__(self) -> None:
        self.size = 0
        self.kv_tokens = 0
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

    def advance(self) -> Gains:
        """Every sequence gains a token."""
        self._step += 1
        self.kv_tokens += self.size
        return Gains(self.size)

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


class SpeculativeBatch:
    """Each sequence gains a token a step, and those guessed tokens that are right: how many is its own luck.

    So every sequence is touched at each step. What a step will give is drawn before it, so that it can be
    said which blocks it needs; those that wrong guesses would open are left out.
    """

    def __init__(self, speculation: Speculation, *, seed: str) -> None:
        self.size = 0
        self.kv_tokens = 0
        self._speculation = speculation
        self._random = Random(seed)  # noqa: S311 - a simulation wants repeatable numbers, not secret ones
        self._right: dict[Request, int] = {}
        """Of the next step's guesses for each sequence, those that will turn out right."""

    def join(self, request: Request) -> None:
        """It has given a token, and will give more."""
        self.size += 1
        self.kv_tokens += request.kv_tokens
        self._right[request] = self._draw()

    def leave(self, request: Request) -> None:
        """It goes before its end."""
        del self._right[request]
        self.size -= 1
        self.kv_tokens -= request.kv_tokens

    def blocks_needed(self) -> int:
        """New blocks that the next step needs."""
        return sum(
            _blocks(request.kv_tokens + self._gain(request)) - _blocks(request.kv_tokens)
            for request in self._right
        )

    def advance(self) -> Gains:
        """Every sequence gains its tokens, and guesses for the step after."""
        before = self.kv_tokens
        accepted = [0] * self._speculation.tokens
        for request, right in self._right.items():
            gain = self._gain(request)
            request.kv_tokens += gain
            request.generated_tokens += gain
            self.kv_tokens += gain
            for place in range(right):
                accepted[place] += 1
        self._right = {request: self._draw() for request in self._right}
        return Gains(self.kv_tokens - before, tuple(accepted))

    def take_ended(self) -> list[Request]:
        """Those whose last token the step gave; they leave."""
        ended = [request for request in self._right if request.generated_tokens == request.output_tokens]
        for request in ended:
            self.leave(request)
        return ended

    def _gain(self, request: Request) -> int:
        return min(1 + self._right[request], request.output_tokens - request.generated_tokens)

    def _draw(self) -> int:
        right = 0
        while right < self._speculation.tokens and self._random.random() < self._speculation.acceptance_ratio:
            right += 1
        return right


def _blocks(tokens: int) -> int:
    return -(-tokens // BLOCK_TOKENS)
