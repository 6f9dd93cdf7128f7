from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random

import pytest

from agent.simulate.arrivals import Request
from agent.simulate.decode_batch import DecodeBatch, SpeculativeBatch
from agent.simulate.scenario import BLOCK_TOKENS, Speculation


@dataclass
class Plain:
    """The same sequence, kept by hand: touched at every step."""

    request: Request
    held: int
    left: int


@pytest.mark.parametrize("seed", range(5))
def test_the_batch_counts_what_touching_every_sequence_would_count(seed: int) -> None:
    random, batch, plain = Random(seed), DecodeBatch(), list[Plain]()
    for _ in range(400):
        opening = sum(sequence.held % BLOCK_TOKENS == 0 for sequence in plain)
        assert batch.blocks_needed() == opening
        assert batch.advance() == (len(plain), ())
        for sequence in plain:
            sequence.held += 1
            sequence.left -= 1
        assert (batch.size, batch.kv_tokens) == (len(plain), sum(sequence.held for sequence in plain))

        ended = [sequence for sequence in plain if not sequence.left]
        plain = [sequence for sequence in plain if sequence.left]
        assert {id(request) for request in batch.take_ended()} == {id(s.request) for s in ended}
        assert [s.request.kv_tokens for s in ended] == [s.held for s in ended]
        assert all(s.request.generated_tokens == s.request.output_tokens for s in ended)

        if plain and random.random() < 0.2:
            gone = plain.pop(random.randrange(len(plain)))
            batch.leave(gone.request)
            assert gone.request.kv_tokens == gone.held
            assert gone.request.generated_tokens == gone.request.output_tokens - gone.left
        for _ in range(random.randrange(3)):
            prompt, output = random.randint(1, 100), random.randint(2, 40)
            request = Request(arrived_at=0, prompt_tokens=prompt, output_tokens=output, shared_tokens=0)
            request.kv_tokens, request.generated_tokens = prompt, 1
            batch.join(request)
            plain.append(Plain(request, held=prompt, left=output - 1))


def blocks(tokens: int) -> int:
    return math.ceil(tokens / BLOCK_TOKENS)


def request_of(*, held: int, output_tokens: int) -> Request:
    """One that has given its first token."""
    request = Request(arrived_at=0, prompt_tokens=held, output_tokens=output_tokens, shared_tokens=0)
    request.kv_tokens, request.generated_tokens = held, 1
    return request


@pytest.mark.parametrize("seed", range(5))
def test_what_a_speculative_batch_gives_is_what_its_sequences_gain(seed: int) -> None:
    random = Random(seed)
    batch = SpeculativeBatch(Speculation(tokens=3, acceptance_ratio=0.6), seed=str(seed))
    running: list[Request] = []
    for _ in range(400):
        before = {request: request.kv_tokens for request in running}
        needed = batch.blocks_needed()
        gains = batch.advance()
        gained = [request.kv_tokens - held for request, held in before.items()]
        assert all(1 <= gain <= 4 for gain in gained)
        assert gains.tokens == sum(gained) == batch.kv_tokens - sum(before.values())
        assert list(gains.accepted) == sorted(gains.accepted, reverse=True), (
            "a guess after a wrong one is wrong"
        )
        # At the end of an answer guesses may be right that nobody is given.
        assert gains.tokens <= batch.size + sum(gains.accepted)
        assert needed == sum(blocks(r.kv_tokens) - blocks(held) for r, held in before.items())

        ended = batch.take_ended()
        assert ended == [request for request in running if request.generated_tokens == request.output_tokens]
        running = [request for request in running if request not in ended]
        if running and random.random() < 0.2:
            batch.leave(running.pop(random.randrange(len(running))))
        assert (batch.size, batch.kv_tokens) == (len(running), sum(r.kv_tokens for r in running))
        for _ in range(random.randrange(3)):
            running.append(request_of(held=random.randint(1, 100), output_tokens=random.randint(2, 40)))
            batch.join(running[-1])


@pytest.mark.parametrize(("ratio", "each"), [(0.0, 1), (1.0, 4)])
def test_guesses_that_are_always_wrong_or_right_give_one_token_or_all(ratio: float, each: int) -> None:
    batch = SpeculativeBatch(Speculation(tokens=3, acceptance_ratio=ratio), seed="any")
    for _ in range(5):
        batch.join(request_of(held=10, output_tokens=1000))
    assert batch.advance() == (5 * each, (5 * (each > 1),) * 3)


def test_guesses_are_right_as_often_as_is_said() -> None:
    batch = SpeculativeBatch(Speculation(tokens=3, acceptance_ratio=0.6), seed="any")
    for _ in range(10_000):
        batch.join(request_of(held=10, output_tokens=1000))
    assert batch.advance().accepted == pytest.approx((6000, 3600, 2160), rel=0.05)
