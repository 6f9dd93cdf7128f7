"""Numbers by labels and by time are the same numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.report.answers import Answer, Answers
from agent.report.period import Span
from agent.report.questions import BY_ID, QUESTIONS, Question
from rules.recordings import INTERVAL_SECONDS, RECORDED
from tests.report.test_history import SEPTEMBER

SECONDS = BY_ID["gpu_bottleneck_seconds"]
ANSWER = Answer(
    question=SECONDS,
    rows={
        ("H100", "idle"): {0: 1.0, 10: 2.0},
        ("H100", "compute"): {0: 4.0},
        ("L40S", "idle"): {10: 8.0},
    },
)


def test_sums_are_over_what_is_not_named() -> None:
    assert ANSWER.total == 15
    assert ANSWER.value(bottleneck="idle") == 11
    assert ANSWER.value(part="H100", bottleneck="idle") == 3
    assert ANSWER.by("part") == {("H100",): 7, ("L40S",): 8}
    assert ANSWER.by("bottleneck", part="H100") == {("idle",): 3, ("compute",): 4}
    assert ANSWER.steps() == {(): {0: 5, 10: 10}}
    assert ANSWER.steps("part", bottleneck="idle") == {("H100",): {0: 1, 10: 2}, ("L40S",): {10: 8}}


def test_what_nobody_counted_is_not_zero() -> None:
    assert ANSWER.value(bottleneck="host") is None
    assert ANSWER.amount(bottleneck="host") == 0
    nothing = Answers(span=Span(start=0, end=1))["gpu_cost_usd"]
    assert nothing.total is None
    assert not nothing


def test_greatest_and_last_are_no_sums() -> None:
    greatest = replace(ANSWER, question=replace(SECONDS, over_time="max"))
    assert (greatest.total, greatest.value(part="H100")) == (8, 4)
    last = replace(ANSWER, question=replace(SECONDS, over_time="last"))
    assert last.value(part="H100", bottleneck="idle") == 2


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question.id)
def test_every_question_is_about_what_the_rules_record(question: Question) -> None:

    assert question.record in RECORDED
    assert {*question.by} <= {*RECORDED[question.record]}
    assert ":increase" in question.record or question.over_time != "sum" or question.id == "engines"


def test_a_window_holds_its_end_and_not_its_start() -> None:
    assert SECONDS.promql(3600, 'cluster="a"') == (
        "sum by (part, bottleneck) "
        '(sum_over_time(roofline:cluster:gpu_bottleneck_seconds:increase5m{cluster="a"}[3599999ms]))'
    )
    assert SEPTEMBER.seconds % INTERVAL_SECONDS == 0
