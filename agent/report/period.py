"""The time that a review is about, in UTC: a calendar month, or any other span."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

DAY_SECONDS = 86400
HOUR_SECONDS = 3600
RECORDED_SECONDS = 300
"""Between two samples of what is recorded."""
YEARS = range(1971, 9999)
"""Each has one before it since 1970, where Unix time begins, and one after it that still has four digits."""
_MONTH = re.compile(r"(\d{4})-(\d{2})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """From an instant up to another, which is not in it; Unix seconds."""

    start: int
    end: int

    def __post_init__(self) -> None:
        if self.end <= self.start:
            raise ValueError("a span that has no time in it")

    @property
    def seconds(self) -> int:
        """How long."""
        return self.end - self.start

    @property
    def hours(self) -> float:
        """How long."""
        return self.seconds / HOUR_SECONDS

    def pieces(self, seconds: int) -> Iterator[Span]:
        """One after the other, each so long; the last is what is left."""
        for start in range(self.start, self.end, seconds):
            yield Span(start=start, end=min(start + seconds, self.end))

    def days(self) -> tuple[Span, ...]:
        """Twenty-four hours each, and the rest."""
        return tuple(self.pieces(DAY_SECONDS))


def instant(seconds: float) -> datetime:
    """As people read it."""
    return datetime.fromtimestamp(seconds, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class Periods:
    """The span reviewed, and the one that it is compared with."""

    name: str
    span: Span
    previous_name: str
    previous: Span


def month(text: str, *, now: float) -> Periods:
    """`2026-11`, compared with the month before; while it goes on, until now, and with as much of the other.

    Raises `ValueError`.
    """
    match = _MONTH.fullmatch(text)
    if match is None or not 1 <= int(match[2]) <= 12:
        raise ValueError(f"a month is written like 2026-11, not {text!r}")
    _check_years(int(match[1]))
    first = date(int(match[1]), int(match[2]), 1)
    before = (first - timedelta(days=1)).replace(day=1)
    after = (first + timedelta(days=31)).replace(day=1)
    start, end, previous = _midnight(first), _midnight(after), _midnight(before)
    until = _recorded_until(now)
    if until < end:
        _check_begun(start, until)
        # A February has not as much as a March that is nearly over.
        return _periods(
            Span(start=start, end=until), Span(start=previous, end=min(previous + until - start, start))
        )
    return Periods(
        name=f"{first:%Y-%m}",
        span=Span(start=start, end=end),
        previous_name=f"{before:%Y-%m}",
        previous=Span(start=previous, end=start),
    )


def last_month(now: float) -> Periods:
    """The one that ended last."""
    first = instant(now).date().replace(day=1)
    return month(f"{first - timedelta(days=1):%Y-%m}", now=now)


def between(since: str, until: str | None, *, now: float) -> Periods:
    """Any span as far as it has passed, compared with the same length before it. Raises `ValueError`.

    Dates are midnights.
    """
    start, latest = parse_instant(since), _recorded_until(now)
    end = latest if until is None else parse_instant(until)
    if until is not None and end <= start:
        raise ValueError(f"{_named(start)} is not before {_named(end)}")
    _check_begun(start, latest)
    end = min(end, latest)
    length = end - start
    if length > start:
        raise ValueError("there is not as much time before it since 1970, to compare it with")
    return _periods(Span(start=start, end=end), Span(start=start - length, end=start))


def _periods(span: Span, previous: Span) -> Periods:
    """Named by where they begin and end."""
    return Periods(name=_span_name(span), span=span, previous_name=_span_name(previous), previous=previous)


def _recorded_until(now: float) -> int:
    """What is later is still to be recorded."""
    return int(now) // RECORDED_SECONDS * RECORDED_SECONDS


def _check_begun(start: int, until: int) -> None:
    if start >= until:
        raise ValueError(f"{_named(start)} is still to come: it is not before now, {_named(until)} UTC")


def parse_instant(text: str) -> int:
    """A date or a time of ISO 8601, UTC unless it says otherwise. Raises `ValueError`."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"a time is written like 2026-11-03 or 2026-11-03T12:00, not {text!r}") from None
    _check_years(given.year)
    return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp())


def _check_years(year: int) -> None:
    if year not in YEARS:
        raise ValueError(f"times are of the years {YEARS[0]} to {YEARS[-1]}")


def _midnight(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp())


def _named(seconds: int) -> str:
    at = instant(seconds)
    return f"{at:%Y-%m-%d}" if seconds % DAY_SECONDS == 0 else f"{at:%Y-%m-%dT%H:%M}"


def _span_name(span: Span) -> str:
    return f"{_named(span.start)} – {_named(span.end)}"
