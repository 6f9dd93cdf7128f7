"""What is missing is said as that: no sentence is made of an answer that was not given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from agent.report.answers import Answer, Answers, Piece
from agent.report.document import Review, Selection
from agent.report.measured import Measured, sums_compare
from agent.report.monthly import review
from agent.report.period import DAY_SECONDS, HOUR_SECONDS, Span, month
from agent.report.questions import BY_ID, QUESTIONS
from agent.report.render.sections import fleet_totals, sections_of
from agent.report.render.spending import compared_words, sum_since

PART = "H100-SXM5-80GB"
SERVICE = ("a", "m", "vllm", PART, "t")
NODE = ("a", "n", PART)
Rows = Mapping[tuple[str, ...], Mapping[int, float]]


def rows(span: Span) -> dict[str, Rows]:
    """One GPU that costs a dollar an hour, half idle, and makes a million tokens each day."""
    days = [day.start for day in span.days()]
    day: dict[str, dict[tuple[str, ...], float]] = {
        "node_recorded": {NODE: 288.0},
        "node_priced": {NODE: 288.0},
        "node_gpu_cost_usd": {NODE: 24.0},
        "gpu_observed_seconds": {(PART,): 86400.0},
        "gpu_bottleneck_seconds": {(PART, "compute"): 43200.0, (PART, "idle"): 43200.0},
        "node_gpu_bottleneck_seconds": {(*NODE, "compute"): 43200.0, (*NODE, "idle"): 43200.0},
        "model_gpu_bottleneck_seconds": {(*SERVICE, "compute"): 43200.0, (*SERVICE, "idle"): 43200.0},
        "gpu_cost_usd": {(PART,): 24.0},
        "gpu_idle_cost_usd": {(PART,): 12.0},
        "gpu_bottleneck_cost_usd": {(PART, "compute"): 12.0, (PART, "idle"): 12.0},
        "gpu_unattributed_cost_usd": {(PART,): 0.0},
        "engine_cost_usd": {(*SERVICE, "decode", "local"): 12.0, (*SERVICE, "idle", "local"): 12.0},
        "engine_generation_tokens": {SERVICE: 1e6},
        "engine_slo_events": {("a", "m", "ttft"): 1000.0, ("a", "m", "inter_token"): 1000.0},
        "engine_slo_good_events": {("a", "m", "ttft"): 999.0, ("a", "m", "inter_token"): 998.0},
        "slo_objective": {("a", "m", "ttft"): 0.99},
    }
    found: dict[str, Rows] = {
        name: {_placed(name, key): dict.fromkeys(days, value) for key, value in each.items()}
        for name, each in day.items()
    }
    found["recorded"] = {("a", PART): {hour.start: 12.0 for hour in span.pieces(HOUR_SECONDS)}}
    found["node_recorded"] = {NODE: dict.fromkeys(days, 288.0)}
    return found


def _placed(question: str, key: tuple[str, ...]) -> tuple[str, ...]:
    """The values in the order in which the question has their labels."""
    return key if len(key) == len(BY_ID[question].by) else key[: len(BY_ID[question].by)]


def answers(span: Span, *missing: str, left_out: tuple[str, ...] = (), piece: Span | None = None) -> Answers:
    """Of all questions; `missing` were not answered, or not of that piece."""
    found = rows(span)
    by_id = {}
    for question in QUESTIONS:
        given: Rows = {} if question.id in left_out else found.get(question.id, {})
        lost: tuple[Piece, ...] = ()
        if question.id in missing:
            lost = (Piece(span=piece or span, reason="HTTP 422"),)
            given = {
                key: {
                    at: value for at, value in row.items() if not lost[0].span.start <= at < lost[0].span.end
                }
                for key, row in given.items()
            }
            given = {key: row for key, row in given.items() if row}
        by_id[question.id] = Answer(question=question, rows=given, missing=lost)
    return Answers(span=span, by_id=by_id)


def measured(now: Answers, before: Answers | None = None) -> Measured:
    return Measured(
        name="this",
        now=now,
        before_name="that",
        before=_asked_before(before or Answers(span=Span(start=0, end=DAY_SECONDS))),
        earliest_sample=now.span.start,
        group_by="model",
        teams={},
    )


def _asked_before(of: Answers) -> Answers:
    """What a review asks of the period before, and no more."""
    return replace(of, by_id={name: each for name, each in of.by_id.items() if each.question.also_before})


def reviewed(of: Measured) -> Review:
    return review(
        of,
        source="here",
        selection=Selection(cluster=None, group_by="model"),
        matchers="",
        generated_at=datetime(2026, 12, 1, tzinfo=UTC),
        configs={},
    )


NOVEMBER = month("2026-11", now=2e9)
SPAN, BEFORE = NOVEMBER.span, NOVEMBER.previous
HALF = Span(start=SPAN.start, end=SPAN.start + 15 * DAY_SECONDS)


def said(*missing: str, piece: Span | None = None, left_out: tuple[str, ...] = ()) -> tuple[str, ...]:
    return reviewed(
        measured(answers(SPAN, *missing, piece=piece, left_out=left_out), answers(BEFORE))
    ).summary


def test_all_that_is_known_is_said() -> None:
    paid, spent, cost, changed, _ = said()
    assert paid.startswith("In this $720 was paid for 720 GPU hours (1 GPUs on average), and 30 million")
    assert (
        spent
        == "Of the GPU time 50 % computed as fast as it can and 50 % was idle; the idle hours cost $360."
    )
    assert cost == "A million output tokens cost $24, everything included."
    assert "the objective was met, and of 1 more it is not known" in changed


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("engine_generation_tokens", "how many tokens were generated was not answered"),
        ("engine_generation_tokens", "What a token cost cannot be told"),
        ("gpu_cost_usd", "what they cost was not answered"),
        ("gpu_bottleneck_seconds", "Where the GPU time went is not known"),
        ("engine_slo_events", "whether objectives were met cannot be told"),
        ("engine_slo_good_events", "whether objectives were met cannot be told"),
        ("slo_objective", "whether objectives were met cannot be told"),
        ("engine_requests", "Nothing is compared with that, for not all queries were answered"),
    ],
)
def test_what_was_not_answered_is_not_known(question: str, sentence: str) -> None:
    text = " ".join(said(question))
    assert sentence in text
    assert "0 tokens" not in text
    assert "no prices" not in text


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("engine_generation_tokens", "at least 15 million tokens were generated"),
        ("gpu_cost_usd", "at least $360 was paid for 720 GPU hours"),
        ("gpu_observed_seconds", "for at least 360 GPU hours, and"),
        ("gpu_bottleneck_seconds", "Of the GPU time that was answered for 50 %"),
        ("gpu_idle_cost_usd", "the idle hours cost at least $180"),
    ],
)
def test_a_sum_of_which_a_piece_was_not_answered_is_a_least(question: str, sentence: str) -> None:
    assert sentence in " ".join(said(question, piece=HALF))


def test_where_nothing_was_answered_nothing_is_said_to_be_fine() -> None:
    nodes = ("node_gpu_bottleneck_seconds", "node_gpu_unattributed_cost_usd", "node_gpu_cost_usd")
    missing = ("model_gpu_bottleneck_seconds", "engine_cost_usd", "engine_generation_tokens", *nodes)
    assert said(*missing)[-1] == "What wasted most cannot be told, for not all of it was answered."


def test_without_engines_nobody_knows_what_wasted_most() -> None:
    left_out = ("model_gpu_bottleneck_seconds", "engine_cost_usd", "engine_generation_tokens")
    text = said(left_out=left_out)
    assert text[-1] == "No engine is known, nor what wasted most."
    assert "no tokens were recorded" in text[0]


def test_no_objective_is_none_that_was_met() -> None:
    assert "no objective was measured" in said(left_out=("engine_slo_events",))[3]
    assert "whether objectives were met is not known" in said(left_out=("slo_objective",))[3]


def test_good_events_that_nobody_counted_are_not_none() -> None:
    found = reviewed(measured(answers(SPAN, left_out=("engine_slo_good_events",))))
    assert not found.slos


@pytest.mark.parametrize("question", ["engine_slo_events", "engine_slo_good_events"])
def test_what_users_got_is_of_the_time_that_both_were_answered_for(question: str) -> None:
    found = reviewed(measured(answers(SPAN, question, piece=HALF), answers(BEFORE)))
    (row,) = (each for each in found.slos if each.slo == "ttft")
    assert (row.events, row.good) == (15_000, 14_985)
    assert row.worst_day_ratio == pytest.approx(0.999)


@pytest.mark.parametrize(
    "question", ["engine_cost_usd", "gpu_cost_usd", "gpu_bottleneck_seconds", "gpu_evidence_seconds"]
)
def test_sums_of_different_times_are_no_identity(question: str) -> None:
    found = reviewed(measured(answers(SPAN, question, piece=HALF)))
    assert found.identities
    assert all(each.holds for each in found.identities)


def test_hours_that_were_not_answered_are_no_gap() -> None:
    found = reviewed(measured(answers(SPAN, "recorded", piece=HALF))).quality
    assert not found.gaps
    assert any(remark.startswith("At least 50 % of the period was recorded") for remark in found.remarks)


def test_series_that_were_not_answered_are_not_said_to_be_missing() -> None:
    found = reviewed(measured(answers(SPAN, "model_gpu_bottleneck_seconds", "gpu_cost_usd"))).quality
    assert not any("rules of" in remark or "no price" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("questions", "key"),
    [
        (("engine_slo_events", "engine_slo_good_events"), "slos"),
        (("model_gpu_bottleneck_seconds", "engine_cost_usd", "engine_generation_tokens"), "services"),
    ],
)
def test_a_section_of_which_nothing_was_answered_says_so(questions: tuple[str, ...], key: str) -> None:
    found = reviewed(measured(answers(SPAN, *questions)))
    (section,) = (each for each in sections_of(found) if each.key == key)
    (block,) = section.blocks
    assert getattr(block, "text", "").startswith("This cannot be told, for it was not answered: ")


def test_a_section_of_which_a_piece_was_not_answered_says_so() -> None:
    found = reviewed(measured(answers(SPAN, "gpu_cost_usd", piece=HALF)))
    (section,) = (each for each in sections_of(found) if each.key == "hours")
    assert "Not all of this was answered: what GPUs cost, by part." in getattr(section.blocks[0], "text", "")


@pytest.mark.parametrize("degrees", [("auto", "1"), ("8", "²"), ("8", "two"), ("0", "1"), ("-8", "1")])
def test_a_degree_that_is_no_number_is_not_known(degrees: tuple[str, str]) -> None:
    now = answers(SPAN)
    engines = Answer(
        question=BY_ID["engines"], rows={(*SERVICE, *degrees, "bf16", "bf16"): {SPAN.start: 8640.0}}
    )
    requests = {hour.start: 100.0 for hour in SPAN.pieces(HOUR_SECONDS)}
    further = {
        "engines": engines,
        "hourly_engine_requests": Answer(question=BY_ID["hourly_engine_requests"], rows={SERVICE: requests}),
        "engine_requests": Answer(
            question=BY_ID["engine_requests"], rows={(*SERVICE, "ok"): {SPAN.start: 72e3}}
        ),
    }
    (row,) = reviewed(measured(replace(now, by_id={**now.by_id, **further}))).right_sizing
    assert row.refused == "how it is divided over GPUs was not recorded"


@pytest.mark.parametrize("question", ["gpu_cost_usd", "engine_cost_usd", "engine_generation_tokens"])
def test_what_a_token_cost_is_not_known_where_a_piece_of_either_is_missing(question: str) -> None:
    found = reviewed(measured(answers(SPAN, question, piece=HALF)))
    total: list[float | None] = []
    served: list[float | None] = []
    if question != "engine_cost_usd":
        total = [found.totals.usd_per_million_tokens, *(each.usd_per_million_tokens for each in found.parts)]
    if question != "gpu_cost_usd":
        served = [each.usd_per_million_tokens for each in found.services]
        served += [each.usd_per_million_tokens for each in found.groups]
    assert {*total, *served} == {None}
    if served:
        (trend,) = found.trends
        assert trend.usd_per_million_tokens == (None,) * 15 + (24.0,) * 15
    if total:
        assert [day.usd_per_million_tokens for day in found.days] == [None] * 15 + [24.0] * 15
    shown = [key for key, of in (("hours", total), ("services", served)) if of]
    for section in (each for each in sections_of(found) if each.key in shown):
        assert "Not all of this was answered" in getattr(section.blocks[0], "text", "")
    assert ("not all of this was answered" in fleet_totals(found)[-1]) == bool(total)


def test_hours_of_which_the_owner_was_not_answered_are_not_nobodys() -> None:
    found = reviewed(measured(answers(SPAN, "model_gpu_bottleneck_seconds", piece=HALF)))
    assert {group.name for group in found.groups} == {"m"}


@pytest.mark.parametrize("question", ["engine_requests", "model_gpu_bottleneck_seconds"])
def test_an_estimate_of_sums_of_different_times_is_none(question: str) -> None:
    requests: Rows = {
        (*SERVICE, outcome): {SPAN.start + 20 * DAY_SECONDS: 1000.0} for outcome in ("ok", "error")
    }
    whole, lacking = answers(SPAN), answers(SPAN, question, piece=HALF)
    estimates = []
    for now in (whole, lacking):
        counted = replace(now["engine_requests"], rows=requests)
        found = reviewed(measured(replace(now, by_id={**now.by_id, "engine_requests": counted})))
        estimates += [row.failed_gpu_hours_estimate for row in found.losses.requests]
    assert estimates == [pytest.approx(180.0), None]


# --- comparisons -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("coverage", "before", "compare"),
    [(1.0, 1.0, True), (1.0, 0.89, False), (0.89, 1.0, False), (0.5, 0.52, True), (1.0, None, False)],
)
def test_sums_compare_where_as_much_was_recorded_of_both(
    coverage: float, before: float | None, compare: bool
) -> None:
    assert sums_compare(coverage, before) is compare


def test_a_february_that_costs_as_much_an_hour_saves_nothing() -> None:
    """It is three days shorter than the January before."""
    february = month("2027-02", now=2e9)
    found = reviewed(measured(answers(february.span), answers(february.previous)))
    assert "spending per hour is the same, output per hour is the same" in found.summary[3]
    assert sum_since(found, found.totals.paid_usd, 744.0) == "unchanged from that, per hour"
    assert compared_words(found) == "compared with that, sums by the hour: 672 were recorded, 744 then"


def test_months_of_one_length_are_compared_as_they_are() -> None:
    august = month("2026-08", now=2e9)
    found = reviewed(measured(answers(august.span), answers(august.previous)))
    assert "spending is the same" in found.summary[3]
    assert sum_since(found, 110.0, 100.0) == "+10 % from that"
    assert compared_words(found) == "compared with that"


def test_a_period_of_which_less_was_recorded_is_compared_by_quotients_alone() -> None:
    now = answers(SPAN)
    hours = dict.fromkeys(range(SPAN.start, HALF.end, HOUR_SECONDS), 12.0)
    recorded = Answer(question=BY_ID["recorded"], rows={("a", PART): hours})
    found = reviewed(measured(replace(now, by_id={**now.by_id, "recorded": recorded}), answers(BEFORE)))
    assert "spending" not in found.summary[3]
    assert "of which 100 % was recorded and so more than of this, the cost of a token is" in found.summary[3]
    assert sum_since(found, 1.0, 2.0) == ""
    assert "of which 100 % was recorded, and 50 % of this" in compared_words(found)


def test_a_review_that_is_not_complete_is_compared_with_nothing() -> None:
    found = reviewed(
        measured(
            answers(SPAN),
            answers(BEFORE, "gpu_cost_usd", piece=Span(start=BEFORE.start, end=BEFORE.start + DAY_SECONDS)),
        )
    )
    assert found.summary[3].startswith("Nothing is compared with that")
    assert sum_since(found, 1.0, 2.0) == ""
    assert compared_words(found) == "not compared with that, for not all queries were answered"
