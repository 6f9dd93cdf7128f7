"""From what grafanalib writes to the classic model that Grafana 11 to 13 read.

grafanalib 0.7.1 writes schema 12, of 2016, with keys that newer Grafanas migrate, warn of or ignore. Here
each object keeps only the keys that the present schema has; ids and refIds are given in reading order, so
that the same board is the same file, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from grafanalib._gen import DashboardEncoder

Json = dict[str, Any]

SCHEMA_VERSION = 41
"""The last that Grafana 11.6 and 12.0 know; newer ones take it as it is."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_DASHBOARD = _words(
    "annotations description editable graphTooltip id links panels refresh schemaVersion tags templating "
    "time timepicker timezone title uid"
)
_PANEL = _words(
    "datasource description fieldConfig gridPos id links maxPerRow options repeat repeatDirection targets "
    "title transformations transparent type"
)
_ROW = _words("collapsed gridPos id panels title type")
_WITHOUT_QUERIES = _words("gridPos id options title type")
_VARIABLES = {
    "datasource": _words("current hide includeAll label multi name options query refresh regex type"),
    "query": _words(
        "allValue current datasource definition hide includeAll label multi name options query refresh "
        "regex sort type"
    ),
    "adhoc": _words("baseFilters datasource filters hide label name type"),
}

BUILT_IN_ANNOTATION: Json = {
    "builtIn": 1,
    "datasource": {"type": "grafana", "uid": "-- Grafana --"},
    "enable": True,
    "hide": True,
    "iconColor": "rgba(0, 211, 255, 1)",
    "name": "Annotations & Alerts",
    "type": "dashboard",
}


def normalised(dashboard: Json) -> Json:
    """The board as it is imported and provisioned."""
    plain: Json = json.loads(json.dumps(dashboard, cls=DashboardEncoder))
    numbers = iter(range(1, 1000))
    plain["panels"] = [_panel(panel, numbers) for panel in plain["panels"]]
    plain["templating"] = {"list": [_variable(one) for one in plain["templating"]["list"]]}
    plain["annotations"]["list"].insert(0, BUILT_IN_ANNOTATION)
    plain["schemaVersion"] = SCHEMA_VERSION
    plain["timepicker"] = {}
    return {key: plain[key] for key in sorted(_DASHBOARD)}


def _panel(panel: Json, numbers: Iterator[int]) -> Json:
    panel["id"] = next(numbers)
    if panel["type"] == "row":
        panel["panels"] = [_panel(inner, numbers) for inner in panel["panels"]]
        return _only(_ROW, panel)
    if panel["type"] == "text":
        return _only(_WITHOUT_QUERIES, panel)
    for index, target in enumerate(panel["targets"]):
        target["refId"] = chr(ord("A") + index)
    field_config = panel["fieldConfig"]
    field_config["defaults"] = _said(field_config["defaults"])
    field_config["defaults"]["custom"] = _said(field_config["defaults"]["custom"])
    field_config["overrides"] = [one for one in field_config["overrides"] if one["properties"]]
    _thresholds(field_config)
    return _only(_PANEL, _said(panel, but=("links", "transformations", "transparent")))


def _thresholds(field_config: Json) -> None:
    """The first step holds from minus infinity, which is null; grafanalib writes the word."""
    found = [field_config["defaults"].get("thresholds")]
    for override in field_config["overrides"]:
        found += [one["value"] for one in override["properties"] if one["id"] == "thresholds"]
    for thresholds in found:
        if thresholds is not None:
            thresholds["steps"] = [
                {"color": step["color"], "value": None if step["value"] == "null" else step["value"]}
                for step in thresholds["steps"]
            ]


def _variable(variable: Json) -> Json:
    kind = variable["type"]
    several = bool(variable["includeAll"])
    variable["regex"] = variable["regex"] or ""
    variable["definition"] = variable["query"]
    variable["filters"] = variable["baseFilters"] = []
    variable["current"] = {"selected": True, "text": ["All"], "value": ["$__all"]} if several else None
    return _said(_only(_VARIABLES[kind], variable))


def _only(keys: Iterable[str], found: Json) -> Json:
    return {key: found[key] for key in sorted(keys) if key in found}


def _said(found: Json, *, but: Iterable[str] = ()) -> Json:
    """Without what says nothing."""
    dropped = tuple(but)
    return {
        key: value
        for key, value in found.items()
        if value is not None and not (key in dropped and value in ([], False))
    }
