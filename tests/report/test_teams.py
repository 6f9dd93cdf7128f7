"""Namespaces belong to whom their label says, as it was last."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from agent.errors import AgentError
from agent.report.history import WAITS_SECONDS, History
from agent.report.period import Span, month
from agent.report.teams import fetch_teams
from agent.sources.prometheus import PrometheusServer
from tests.promtool import back_fill
from tests.report.limited_server import LimitedServer, limited_server
from tests.rig.programs import Program, stored_prometheus

NOW = int(datetime(2026, 9, 12, 9, 2, 11, tzinfo=UTC).timestamp())
SEPTEMBER = month("2026-09", now=2e9).span


def lines() -> Iterator[str]:
    """One namespace as it is, two that changed hands, five hours and some minutes ago; one lost its label."""
    for hours_ago in reversed(range(30)):
        at = NOW - hours_ago * 3600 - 60
        for namespace, team in (
            ("a", "search"),
            ("b", "ads" if hours_ago < 5 else "zoo"),
            ("c", "" if hours_ago < 5 else "gone"),
        ):
            label = f',label_team="{team}"' if team else ""
            yield f'kube_namespace_labels{{cluster="x",namespace="{namespace}"{label}}} 1 {at}\n'
        for minutes_ago, team in ((31, "zoo"), (1, "ads")) if hours_ago == 0 else ((1, "zoo"),):
            then = at - (minutes_ago - 1) * 60
            yield f'kube_namespace_labels{{cluster="x",namespace="d",label_team="{team}"}} 1 {then}\n'


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("teams")
    back_fill(lines(), directory)
    with stored_prometheus(directory) as running:
        yield running


@pytest.fixture
def limited() -> Iterator[LimitedServer]:
    with limited_server() as server:
        yield server


def test_a_month_that_goes_on_has_the_labels_of_now(program: Program) -> None:
    history = History(PrometheusServer(program.url))
    assert fetch_teams(history, "label:team", SEPTEMBER, now=NOW) == {
        ("x", "a"): "search",
        ("x", "b"): "ads",
        ("x", "d"): "ads",
    }


def test_a_month_that_has_ended_has_those_of_its_end(program: Program) -> None:
    span = Span(start=SEPTEMBER.start, end=NOW - 6 * 3600)
    assert fetch_teams(History(PrometheusServer(program.url)), "label:team", span, now=NOW) == {
        ("x", "a"): "search",
        ("x", "b"): "zoo",
        ("x", "c"): "gone",
        ("x", "d"): "zoo",
    }


def test_a_label_that_no_namespace_has_is_said(program: Program) -> None:
    history = History(PrometheusServer(program.url))
    with pytest.raises(AgentError, match=r"label_cost_centre.*metric-labels-allowlist"):
        fetch_teams(history, "label:cost-centre", SEPTEMBER, now=NOW)


def test_a_busy_server_is_waited_for(limited: LimitedServer) -> None:
    waited: list[float] = []
    limited.refuses = lambda _: 429 if len(limited.asked) < 3 else None
    history = History(PrometheusServer(limited.url), sleep=waited.append)
    with pytest.raises(AgentError, match="no namespace has label_team"):
        fetch_teams(history, "label:team", SEPTEMBER, now=NOW)
    assert waited == [*WAITS_SECONDS[:2]]
    assert limited.asked[-1].end == NOW, "what is still to come has no labels"


def test_what_is_not_known_of_teams_is_no_review_by_team(limited: LimitedServer) -> None:
    limited.lacks_a_store = lambda _: True
    history = History(PrometheusServer(limited.url), sleep=lambda _: None)
    with pytest.raises(AgentError, match="not whole"):
        fetch_teams(history, "label:team", SEPTEMBER, now=NOW)


def test_whoever_does_not_group_by_a_label_asks_nothing(limited: LimitedServer) -> None:
    assert fetch_teams(History(PrometheusServer(limited.url)), "model", SEPTEMBER, now=NOW) == {}
    assert not limited.asked
