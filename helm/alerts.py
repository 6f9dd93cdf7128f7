"""The alerts as the chart has them: a file that its template reads, and a switch for each in its values.

The one thing to know: expressions hold `PLACEHOLDER` where a threshold stands, so that values can put another
there. The file is data, never evaluated as a template: the braces of annotations need no escape.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from typing import Any

from rules import documents
from rules.alerts import ALERTS, Alert

PLACEHOLDER = "@threshold@"
"""Where the template puts the threshold."""


def key_of(alert: Alert) -> str:
    """What it is called in values: its name, and what tells it from others of that name."""
    if _NAMES[alert.name] == 1:
        return alert.name
    return alert.name + (alert.labels.get("long") or alert.severity.capitalize())


_NAMES = Counter(alert.name for alert in ALERTS)

KEYS: tuple[str, ...] = tuple(key_of(alert) for alert in ALERTS)
"""Of all alerts, in the order of the table; each once."""


def render_alerts() -> str:
    """The file that the template of the PrometheusRule reads."""
    return documents.render_alerts(_rule)


def _rule(alert: Alert) -> dict[str, Any]:
    threshold = {"threshold": alert.threshold.value} if alert.threshold is not None else {}
    return {"key": key_of(alert), **threshold, **documents.rule_of(alert), "expr": alert.expr(PLACEHOLDER)}


def render_switches(indent: int) -> str:
    """Their part of the values: what each is by default."""
    return "".join(f"{' ' * indent}{line}\n" for line in _switches())


def _switches() -> Iterator[str]:
    for name, alerts in groupby(ALERTS, key=lambda alert: alert.group):
        yield f"# {name}"
        for alert in alerts:
            threshold = f", threshold: {alert.threshold.text}" if alert.threshold is not None else ""
            yield (
                f"{key_of(alert)}: {{enabled: true, for: {alert.holds_for}, severity: {alert.severity}"
                f"{threshold}}}"
            )
