"""Of a day of which an hour was not answered nothing is counted: the other answer may have all of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.report.answers import Answer, Piece
from agent.report.attainment import attainments
from agent.report.period import HOUR_SECONDS, Span
from tests.report.test_missing import SPAN, answers, measured

LOST = Span(start=SPAN.start + 10 * HOUR_SECONDS, end=SPAN.start + 11 * HOUR_SECONDS)


def without_an_hour(answer: Answer) -> Answer:
    """As it comes when a day is asked in pieces, and one of them is refused."""
    rows = {
        key: {at: value * 23 / 24 if at == SPAN.start else value for at, value in row.items()}
        for key, row in answer.rows.items()
    }
    return replace(answer, rows=rows, missing=(Piece(span=LOST, reason="HTTP 422"),))


@pytest.mark.parametrize("question", ["engine_slo_events", "engine_slo_good_events"])
def test_a_day_that_lacks_an_hour_is_left_out_on_both_sides(question: str) -> None:
    whole = answers(SPAN)
    now = replace(whole, by_id={**whole.by_id, question: without_an_hour(whole[question])})
    (row,) = (each for each in attainments(measured(now)) if each.slo == "ttft")
    assert (row.events, row.good) == (29_000, 28_971)
    assert row.ratio == pytest.approx(0.999)
    assert row.worst_day_ratio == pytest.approx(0.999)
