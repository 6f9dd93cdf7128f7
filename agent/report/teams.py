"""Whose a namespace is: one of its labels, as kube-state-metrics has it."""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.errors import AgentError
from agent.report.history import History
from agent.report.options import LABEL
from agent.report.period import DAY_SECONDS, Span
from agent.report.questions import Question


def fetch_teams(history: History, group_by: str, span: Span, *, now: float) -> Mapping[tuple[str, str], str]:
    """By cluster and namespace: the label that `group_by` names; empty where it names none.

    As it was last in the day until the span's end, or until now where that is still to come. Raises
    `AgentError` when it is not known of the whole day, or no namespace has it.
    """
    if not group_by.startswith(LABEL):
        return {}
    label = "label_" + re.sub("[^a-zA-Z0-9_]", "_", group_by.removeprefix(LABEL))
    end = min(span.end, int(now))
    answer = history.fetch(_question(label), Span(start=end - DAY_SECONDS, end=end))
    if answer.missing:
        raise AgentError(answer.missing[0].reason)
    last: dict[tuple[str, str], tuple[int, int, str]] = {}
    for (cluster, namespace, team), hours in answer.rows.items():
        found = max(hours), min(hours), team  # of two in the last hour the one that came later
        last[cluster, namespace] = max(found, last.get((cluster, namespace), found))
    teams = {key: team for key, (*_, team) in last.items() if team}
    if not teams:
        raise AgentError(
            f"no namespace has {label}: does {history.source} scrape kube-state-metrics, and is the label "
            "among its --metric-labels-allowlist (namespaces=[…])?"
        )
    return teams


def _question(label: str) -> Question:
    return Question(
        id=label,
        what=f"{label} of each namespace",
        unit="",
        level="namespace",
        record="kube_namespace_labels",
        by=("cluster", "namespace", label),
        # A label that changed within the day is two series of it, and the later hour tells which is the last.
        step="hour",
        over_time="last",
    )
