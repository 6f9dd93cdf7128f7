"""Every board keeps every rule, and each rule is seen to complain of a board that breaks it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.dashboards.boards import board, queries_of
from tests.dashboards.house_rules import HOUSE_RULES
from tests.dashboards.linter import RULES, WITHOUT, Rule, parse_together
from tests.dashboards.promql import labels_of_metric, parse, selectors_in
from tests.dashboards.specimen import JUDGED, judged

ALL = (*RULES, *HOUSE_RULES)

EXCUSED = {
    (
        "engine",
        "template-instance-rule",
    ): "a server is host and port, which may be the same on every node: one node's is shown",
    ("incident", "target-counter-agg-rule"): "an XID that is seen for the first time begins at 1, and a "
    "beginning is no increase: that it is there is asked for beside the increase",
    ("node", "target-counter-agg-rule"): "likewise",
    ("node", "template-instance-rule"): "it has a series for each GPU of one node: All of a fleet would be "
    "thousands of them in each panel, which is how boards bring a Grafana down",
}
"""Which board may break which rule, and why."""


@pytest.fixture(scope="module", autouse=True)
def parsed_together() -> None:
    parse_together(judged().values())


def test_the_linter_has_its_seventeen_rules() -> None:
    assert len({rule.name for rule in RULES}) == 17


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
@pytest.mark.parametrize("name", JUDGED)
def test_the_board_keeps_the_rule(name: str, rule: Rule) -> None:
    complaints = list(rule.complaints(judged()[name]))
    assert bool(complaints) == ((name, rule.name) in EXCUSED), complaints


@pytest.mark.parametrize("rule", ALL, ids=lambda rule: rule.name)
def test_a_board_that_breaks_the_rule_is_found(rule: Rule) -> None:
    spoiled = board("agent")
    rule.spoil(spoiled)
    assert list(rule.complaints(spoiled))


def _names() -> Iterator[str]:
    for content in judged().values():
        for node in parse(asked.expr for asked in queries_of(content)):
            yield from (selector.name for selector in selectors_in(node))


@pytest.mark.parametrize("prefix", WITHOUT)
def test_an_exclusion_is_of_series_that_lack_the_label(prefix: str) -> None:
    excluded = {name for name in _names() if name.startswith(prefix)}
    assert all((labels := labels_of_metric(name)) is None or "instance" not in labels for name in excluded)
