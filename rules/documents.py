"""Rules as Prometheus reads them, and the table of alerts as people do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import yaml

from rules.alerts import ALERTS, INTERVALS, MISTAKES, RUNBOOK_NAMES, Alert
from rules.recordings import RECORDINGS, Recording

_HEAD = "# Generated from {module}; make generate rewrites it.\n"


def render_recordings() -> str:
    """The file of recording rules."""
    groups = [
        {"name": group.name, **_interval(group.interval), "rules": [_recording(rule) for rule in group.rules]}
        for group in RECORDINGS
    ]
    return _HEAD.format(module="rules/recordings.py") + _yaml({"groups": groups})


def render_alerts(rule: Callable[[Alert], dict[str, Any]] | None = None) -> str:
    """The file of alerting rules; or of what else `rule` makes of each."""
    groups = [
        {
            "name": name,
            **_interval(INTERVALS.get(name)),
            "rules": [(rule or rule_of)(alert) for alert in alerts],
        }
        for name, alerts in groupby(ALERTS, key=lambda alert: alert.group)
    ]
    return _HEAD.format(module="rules/alerts.py") + _yaml({"groups": groups})


def _interval(interval: str | None) -> dict[str, str]:
    return {"interval": interval} if interval is not None else {}


def _recording(rule: Recording) -> dict[str, Any]:
    labels = {"labels": rule.labels} if rule.labels else {}
    return {"record": rule.record, "expr": rule.expr, **labels}


def rule_of(alert: Alert) -> dict[str, Any]:
    """An alert as Prometheus reads it."""
    return {
        "alert": alert.name,
        "expr": alert.expression,
        "for": alert.holds_for,
        "labels": {"severity": alert.severity, **alert.labels},
        "annotations": {
            "summary": alert.summary,
            "description": alert.description,
            "runbook_url": alert.runbook_url,
        },
    }


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as such; lists indented, as people write them."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def _yaml(document: dict[str, Any]) -> str:
    """As people write it: texts of several lines as such, keys in their order."""
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=110, allow_unicode=True)


# --- for people ------------------------------------------------------------------------------------


def render_alerts_document() -> str:
    """All alerts with what they are held against, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Alerts"
    yield ""
    yield "Generated from `rules/alerts.py` and `rules/thresholds.py`; `make generate` rewrites it."
    yield ""
    yield "critical wakes somebody, warning is for the next morning, info is for whoever plans hardware."
    yield "Every alert is silent without traffic and without evidence, but for those about GPUs that are held"
    yield "idle, about hardware, and about the agent."
    for name, alerts in groupby(ALERTS, key=lambda alert: alert.group):
        yield ""
        yield f"## {name}"
        yield ""
        yield "| alert | severity | for | threshold | why this one |"
        yield "|---|---|---|---|---|"
        for alert in alerts:
            yield _row(alert)
    yield ""
    yield "## Five common mistakes, and what shows them"
    yield ""
    for mistake in MISTAKES:
        names = _distinct(alert.name for alert in ALERTS if alert.mistake == mistake)
        yield f"* {mistake[0].upper()}{mistake[1:]}: {', '.join(_link(name) for name in names)}"


def _row(alert: Alert) -> str:
    threshold = alert.threshold
    held = f"{threshold.text} {threshold.unit}".strip() if threshold is not None else ""
    windows = f" ({alert.labels['long']} and {alert.labels['short']})" if "long" in alert.labels else ""
    reason = threshold.reason if threshold is not None else ""
    return f"| {_link(alert.name)}{windows} | {alert.severity} | {alert.holds_for} | {held} | {reason} |"


def _link(name: str) -> str:
    return f"[{name}](../rules/runbooks/{name}.md)"


def _distinct(names: Iterable[str]) -> list[str]:
    found = set(names)
    return [name for name in RUNBOOK_NAMES if name in found]
