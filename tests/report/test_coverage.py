"""What was recorded of a period is never more than the period, however it was recorded and asked for."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.report.answers import Answer, Answers
from agent.report.measured import Measured
from agent.report.period import DAY_SECONDS, Span
from agent.report.quality import quality
from agent.report.questions import BY_ID

PER_DAY = DAY_SECONDS / 300


def measured(span: Span, **rows: Mapping[tuple[str, ...], Mapping[int, float]]) -> Measured:
    answers = {name: Answer(question=BY_ID[name], rows=each) for name, each in rows.items()}
    return Measured(
        name="this",
        now=Answers(span=span, by_id=answers),
        before_name="that",
        before=Answers(span=span),
        earliest_sample=span.start,
        group_by="model",
        teams={},
    )


def test_a_node_is_recorded_for_a_whole_day_also_where_that_was_asked_for_in_pieces() -> None:
    """One with GPUs of two parts is still one node."""
    halves = dict.fromkeys(range(0, 3 * DAY_SECONDS, DAY_SECONDS // 2), PER_DAY / 2)
    rows: dict[tuple[str, ...], Mapping[int, float]]
    rows = {("a", "n", part): halves for part in ("H100", "L40S")}
    found = quality(measured(Span(start=0, end=3 * DAY_SECONDS), node_recorded=rows), is_complete=True)
    assert found.node_coverage_ratio == pytest.approx(1)
