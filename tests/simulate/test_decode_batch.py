from __future__ import annotations

from dataclasses import dataclass
from random import Random

import pytest

from agent.simulate.arrivals import Request
from agent.simulate.decode_batch import DecodeBatch
from agent.simulate.scenario import BLOCK_TOKENS


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
        batch.advance()
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
