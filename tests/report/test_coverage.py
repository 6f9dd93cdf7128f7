"""What was recorded of a period is never more than the period, however it was recorded and asked for."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.report.answers import Answer, Answers
from agent.report.history import History
from agent.report.measured import Measured, recorded_hours
from agent.report.period import DAY_SECONDS, HOUR_SECONDS, Span
from agent.report.quality import quality
from agent.report.questions import BY_ID
from agent.sources.prometheus import PrometheusServer
from tests.promtool import back_fill
from tests.rig.programs import stored_prometheus

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


def test_what_two_jobs_recorded_at_once_is_recorded_once(tmp_path: Path) -> None:
    """Each every ten minutes, so that half of the time is known."""
    start, end = (int(datetime(2026, 9, day, tzinfo=UTC).timestamp()) for day in (3, 4))
    back_fill(
        (
            f'{BY_ID["recorded"].record}{{cluster="a",job="{job}",part="H100"}} 300 {at}\n'
            for job in ("one", "other")
            for at in range(start + 30, end, 600)
        ),
        tmp_path,
    )
    with stored_prometheus(tmp_path) as program:
        server = PrometheusServer(program.url)
        span = Span(start=start, end=end)
        answer = History(server).fetch(BY_ID["recorded"], span)
        server.close()
    assert recorded_hours(Answers(span=span, by_id={"recorded": answer})) == pytest.approx(12)


@pytest.mark.parametrize("seconds", [777, HOUR_SECONDS, HOUR_SECONDS + 299])
def test_an_odd_span_is_recorded_for_no_longer_than_it_is(seconds: int) -> None:
    """As many samples as can be in it."""
    span = Span(start=0, end=seconds)
    row = {hour.start: float(-(-hour.seconds // 300)) for hour in span.pieces(HOUR_SECONDS)}
    found = measured(span, recorded={("a", "H100"): row})
    assert found.recorded_hours == pytest.approx(span.hours)
    assert quality(found, is_complete=True).coverage_ratio == pytest.approx(1)
