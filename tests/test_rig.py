"""The rig's own arithmetic: durations are shortened in order, variables are filled in, tables are whole."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.rig.compression import (
    COMPRESSED,
    compress_duration,
    compress_expression,
    compress_rules,
    seconds_of,
)
from tests.rig.questions import fill_in


def test_what_is_longer_is_not_shorter() -> None:
    table = sorted((seconds_of(given), seconds_of(compressed)) for given, compressed in COMPRESSED.items())
    assert all(shorter <= longer for (_, shorter), (_, longer) in pairwise(table))


@pytest.mark.parametrize(
    ("given", "compressed"),
    [
        ("rate(x[5m])", "rate(x[8s])"),
        ("max_over_time(rate(x[1h])[1d:5m])", "max_over_time(rate(x[21s])[24s:8s])"),
        ("avg_over_time(y[30m:])", "avg_over_time(y[16s:])"),
        ("x offset 1d - x offset -24h", "x offset 24s - x offset -24s"),
        ("predict_linear(x[15m], 900) < 600", "predict_linear(x[14s], 900) < 600"),
        ('x{a=~"[a-z]5m"}', 'x{a=~"[a-z]5m"}'),
    ],
)
def test_ranges_and_offsets_are_shortened(given: str, compressed: str) -> None:
    assert compress_expression(given) == compressed


def test_a_duration_that_the_table_lacks_is_named() -> None:
    with pytest.raises(AssertionError, match="47m is not in the table"):
        compress_duration("47m")


def test_for_and_interval_are_shortened() -> None:
    rules = "groups: [{name: a, interval: 5m, rules: [{alert: B, expr: 'x > 1', for: 15m}]}]"
    assert "interval: 8s" in compress_rules(rules)
    assert "for: 14s" in compress_rules(rules)


@pytest.mark.parametrize(
    ("given", "filled_in"),
    [
        ('x{a="$instance"}', 'x{a=~".+"}'),
        ('x{a=~"$instance", b!="${server}"}', 'x{a=~".+", b!=""}'),
        ("rate(x[$__rate_interval])", "rate(x[15s])"),
        ('label_replace(x, "a", "$1", "b", "(.*)")', 'label_replace(x, "a", "$1", "b", "(.*)")'),
        ("x * ${price:raw}", "x * 3"),
        ("sum_over_time(x[1d] offset 7d)", "sum_over_time(x[1d] offset 30s)"),
    ],
)
def test_variables_are_filled_in(given: str, filled_in: str) -> None:
    assert fill_in(given, {"__rate_interval": "15s", "price": "3"}) == filled_in
