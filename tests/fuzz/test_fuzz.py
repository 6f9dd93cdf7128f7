"""A slice of the fuzzing, by hypothesis, which shrinks what it finds; and all that was ever found."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.__main__ import place_of, run_round, smaller
from tests.fuzz.parsers import CORPUS, Check, Parser, table

PARSERS = table()
CASES = 40


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_whatever_is_written_is_read_or_refused_in_words(parser: Parser) -> None:
    check = parser.begin()

    @settings(
        max_examples=max(int(CASES * min(parser.weight, 1.0)), 4),
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(dice=st.randoms(use_true_random=False))
    def each(dice: Random) -> None:
        check(parser.case(dice))

    each()


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_what_was_recorded_is_read(parser: Parser) -> None:
    for seed in parser.seeds[:3]:
        parser.begin()(seed)


@pytest.mark.parametrize(
    ("parser", "path"),
    [(parser, path) for parser in PARSERS for path in parser.corpus],
    ids=lambda value: value.name if isinstance(value, Parser | Path) else None,
)
def test_what_was_found_once_is_found_no_more(parser: Parser, path: Path) -> None:
    parser.begin()(path.read_bytes())


def test_every_input_that_is_kept_has_a_parser() -> None:
    assert set(CORPUS.iterdir()) <= {parser.directory for parser in PARSERS}


def test_a_parser_that_breaks_is_found_and_its_input_made_small() -> None:
    def begin() -> Check:
        def check(data: bytes) -> None:
            if b"!" in data:
                raise KeyError(data)

        return check

    broken = Parser(
        name="broken", seeds=(b"a" * 500,), mutations=(lambda _, data: data + b"!" * 3,), begin=begin
    )
    data = broken.case(Random(1))
    with pytest.raises(KeyError) as raised:
        broken.begin()(data)
    assert smaller(broken, data, place_of(raised.value)) == b"!"


def test_the_same_seed_is_the_same_cases() -> None:
    parser = PARSERS[0]
    assert parser.case(Random(5)) == parser.case(Random(5)) != parser.case(Random(6))
    assert run_round(parser, Random(5), 3).crashes.total() == 0
