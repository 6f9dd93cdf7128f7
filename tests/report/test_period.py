"""The time that a review is about."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.report.period import Span, between, instant, last_month, month, parse_instant

NOW = datetime(2026, 11, 3, 9, 2, 30, tzinfo=UTC).timestamp()


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


@pytest.mark.parametrize(
    ("text", "start", "end", "before"),
    [
        ("2026-11", "2026-11-01", "2026-12-01", "2026-10-01"),
        ("2026-12", "2026-12-01", "2027-01-01", "2026-11-01"),
        ("2027-01", "2027-01-01", "2027-02-01", "2026-12-01"),
        ("2028-02", "2028-02-01", "2028-03-01", "2028-01-01"),
    ],
)
def test_a_month_is_compared_with_the_one_before(text: str, start: str, end: str, before: str) -> None:
    review = month(text, now=at("2029-01-01"))
    assert (review.span.start, review.span.end) == (at(start), at(end))
    assert (review.previous.start, review.previous.end) == (at(before), at(start))
    assert review.name == text
    assert review.previous_name == before[:7]


@pytest.mark.parametrize("text", ["2026-13", "2026-00", "2026-1", "26-01", "2026-01-01", "", "november"])
def test_what_is_no_month_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="month"):
        month(text, now=NOW)


@pytest.mark.parametrize("text", ["9999-12", "0001-01", "0000-01", "1970-01"])
def test_a_month_that_no_clock_of_ours_has_seen_is_refused(text: str) -> None:
    """Each is compared with the one before, and ends with the one after."""
    with pytest.raises(ValueError, match="years 1971 to 9998"):
        month(text, now=NOW)


@pytest.mark.parametrize(
    ("since", "until"),
    [
        ("0001-01-01", "2026-11-01"),
        ("2026-11-01", "9999-12-31"),
        ("0001-01-01T00:00+14:00", None),
        ("9999-12-31T23:59-12:00", None),
    ],
)
def test_a_span_that_no_clock_of_ours_has_seen_is_refused(since: str, until: str | None) -> None:
    with pytest.raises(ValueError, match="years 1971 to 9998"):
        between(since, until, now=NOW)


def test_a_span_with_less_time_before_it_since_1970_is_refused() -> None:
    with pytest.raises(ValueError, match="since 1970"):
        between("1971-01-01", "9998-01-01", now=NOW)


def test_the_last_month_is_one_that_has_ended() -> None:
    assert last_month(NOW).name == "2026-10"
    assert last_month(at("2026-11-01")).name == "2026-10"
    assert last_month(at("2026-10-31")).name == "2026-09"


@pytest.mark.parametrize(
    ("now", "end", "previous_end"),
    [
        ("2026-11-01T00:05", "2026-11-01T00:05", "2026-10-01T00:05"),
        ("2026-11-03T09:02:30", "2026-11-03T09:00", "2026-10-03T09:00"),
        ("2026-11-30T23:59", "2026-11-30T23:55", "2026-10-30T23:55"),
    ],
)
def test_a_month_that_goes_on_is_compared_with_as_much_of_the_one_before(
    now: str, end: str, previous_end: str
) -> None:
    """And is called by what of it has passed."""
    review = month("2026-11", now=at(now))
    assert review.span == Span(start=at("2026-11-01"), end=at(end))
    assert review.previous == Span(start=at("2026-10-01"), end=at(previous_end))
    assert review.name == f"2026-11-01 – {end}"
    assert review.previous_name == f"2026-10-01 – {previous_end}"


def test_a_month_that_is_nearly_over_may_have_more_than_the_one_before() -> None:
    review = month("2027-03", now=at("2027-03-31T12:00"))
    assert review.previous == Span(start=at("2027-02-01"), end=at("2027-03-01"))


def test_a_month_that_is_over_is_whole() -> None:
    assert month("2026-11", now=at("2026-12-01")).name == "2026-11"


@pytest.mark.parametrize("now", ["2026-10-31T23:59", "2026-11-01", "2026-11-01T00:04:59"])
def test_a_month_that_has_not_begun_is_refused(now: str) -> None:
    with pytest.raises(ValueError, match="still to come"):
        month("2026-11", now=at(now))


def test_what_of_a_span_is_still_to_come_is_no_part_of_it() -> None:
    review = between("2026-11-02", "2026-11-09", now=NOW)
    assert review.span == Span(start=at("2026-11-02"), end=at("2026-11-03T09:00"))
    assert review.previous == Span(start=at("2026-10-31T15:00"), end=at("2026-11-02"))
    assert review.name == "2026-11-02 – 2026-11-03T09:00"


def test_a_span_that_has_not_begun_is_refused() -> None:
    with pytest.raises(
        ValueError, match="2026-11-04 is still to come: it is not before now, 2026-11-03T09:00"
    ):
        between("2026-11-04", "2026-11-09", now=NOW)


def test_any_other_span_is_compared_with_as_much_before_it() -> None:
    review = between("2026-11-01", "2026-11-02T12:00", now=NOW)
    assert review.span == Span(start=at("2026-11-01"), end=at("2026-11-02T12:00"))
    assert review.previous == Span(start=at("2026-10-30T12:00"), end=at("2026-11-01"))
    assert review.name == "2026-11-01 – 2026-11-02T12:00"


def test_without_an_end_it_goes_until_the_last_whole_five_minutes() -> None:
    assert between("2026-11-01", None, now=NOW).span.end == at("2026-11-03T09:00")


@pytest.mark.parametrize(
    ("since", "until"),
    [("2026-11-02", "2026-11-01"), ("2026-11-01", "2026-11-01"), ("yesterday", None), ("2026-11-09", None)],
)
def test_a_span_without_time_in_it_is_refused(since: str, until: str | None) -> None:
    with pytest.raises(ValueError, match=r"before|written like"):
        between(since, until, now=NOW)


def test_a_time_may_name_its_zone() -> None:
    assert parse_instant("2026-11-01T02:00+02:00") == parse_instant("2026-11-01T00:00Z") == at("2026-11-01")


def test_pieces_are_the_whole() -> None:
    span = Span(start=at("2026-11-01"), end=at("2026-11-03T06:00"))
    assert [day.hours for day in span.days()] == [24, 24, 6]
    assert instant(span.days()[-1].start) == datetime(2026, 11, 3, tzinfo=UTC)
    assert sum(piece.seconds for piece in span.pieces(7000)) == span.seconds
