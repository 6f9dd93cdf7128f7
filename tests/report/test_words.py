"""How numbers, periods and names are written."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from agent.report.document import Period
from agent.report.render import words
from tests.report.sample import many, sample


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (119086.4, "$119,086"), (412.0, "$412"), (41.2, "$41.20"), (1.0, "$1.00"), (0.4123, "$0.412"),
        (0.0, "$0"), (-3.0, "−$3.00"), (-1e-9, "$0"), (99.996, "$100"),
    ],
)  # fmt: skip
def test_money_is_written_as_people_do(usd: float, text: str) -> None:
    assert words.money(usd) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(12340.4, "12,340"), (41.25, "41.2"), (0.034, "0.034"), (0, "0"), (61.2e6, "61.2 M"), (-5.0, "−5")],
)
def test_amounts_have_three_digits_or_all(value: float, text: str) -> None:
    assert words.amount(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        (1.0, "100 %"), (0.9999999, "100 %"),
        (0.99953, "99.953 %"), (0.99982, "99.982 %"), (0.9936, "99.36 %"), (0.98203, "98.2 %"),
        (0.9, "90 %"), (0.5, "50 %"), (0.0, "0 %"),
    ],
)  # fmt: skip
def test_what_misses_of_an_objective_can_be_read(ratio: float, text: str) -> None:
    assert words.attainment(ratio) == text


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (1.12, 1.0, "+12 %"),
        (0.97, 1.0, "−3.0 %"), (1.0, 1.0, "unchanged"), (1.0, None, ""), (None, 1.0, ""),
        (1.0, 0.0, "was 0"), (0.0, 0.0, "unchanged"), (25.0, 1.0, "× 25"),
    ],
)  # fmt: skip
def test_a_change_is_against_what_was(now: float | None, before: float | None, text: str) -> None:
    assert words.change(now, before) == text


def test_a_month_has_its_name_and_a_span_its_own() -> None:
    at = datetime(2026, 11, 1, tzinfo=UTC)
    month = Period(name="2026-11", start=at, end=at, hours=0)
    assert words.period_name(month) == "November 2026"
    assert words.period_name(month, brief=True) == "November"
    span = month.model_copy(update={"name": "2026-11-03 – 2026-11-10"})
    assert words.period_name(span) == "2026-11-03 – 2026-11-10"


def test_services_are_told_apart_by_as_little_as_it_takes() -> None:
    first, second = sample().services[:2]
    assert words.service_names((first, second)) == (
        "deepseek-v3-0324 on H200-SXM",
        "llama-3.1-70b-instruct on H100-SXM5-80GB",
    )
    elsewhere = first.model_copy(update={"cluster": "prod-us"})
    assert words.service_names((first, elsewhere)) == (
        "deepseek-v3-0324 on H200-SXM, prod-eu",
        "deepseek-v3-0324 on H200-SXM, prod-us",
    )
    other = first.model_copy(update={"model": "somebody/deepseek-v3-0324"})
    assert words.service_names((first, other))[1] == "somebody/deepseek-v3-0324 on H200-SXM"
    assert words.service_names((other,)) == ("deepseek-v3-0324 on H200-SXM",)
    names = words.service_names(many().services)
    assert len(set(names)) == 60


def test_long_names_keep_both_ends() -> None:
    assert words.shortened("abcdefghij", 10) == "abcdefghij"
    assert words.shortened("abcdefghijk", 7) == "abc…ijk"
    assert len(words.shortened("x" * 99, 30)) == 30


def test_what_cannot_be_seen_is_shown_as_that() -> None:
    assert words.printable("a\x1b\u202eb\n") == "a��b�"
    assert words.printable("模型 – ñ") == "模型 – ñ"
