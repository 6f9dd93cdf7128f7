"""The rules of Grafana's dashboard-linter (4d0844b), over every panel of every type.

The linter itself looks at some panel types only; ours looks at all, and into collapsed rows. Each rule
yields what is wrong, and has a way to spoil a good board, so that its test can fail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from grafanalib import formatunits

from agent.metrics import TABLE
from tests.dashboards.boards import Asked, Json, data_panels_of, queries_of
from tests.dashboards.promql import (
    RATE_INTERVAL,
    Node,
    Selector,
    errors_in,
    labels_of_metric,
    parse,
    recording_rules,
    selectors_in,
)

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
UNITS = frozenset(value for value in vars(formatunits).values() if isinstance(value, str))
COUNTERS = frozenset(metric.full_name for metric in TABLE if metric.kind == "counter")
OVER_TIME = frozenset({"Rate", "Irate", "Increase", "Resets", "Changes"})

WITHOUT: Mapping[str, str] = {
    "roofline:model:": "sums over the nodes that serve a model, so that a node's end changes nothing",
    "roofline:cluster:": "sums over the nodes of a cluster",
    "ALERTS": "some alerts are about a model or a cluster; chosen by the alert's name instead",
}
"""Series that have no `instance`, or no `job`, by what their names begin with, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule: what it finds wrong, and a way to break it."""

    name: str
    complaints: Callable[[Json], Iterator[str]]
    spoil: Callable[[Json], object]


# --- variables -------------------------------------------------------------------------------------------


def variable_of(board: Json, name: str) -> Json:
    found = [one for one in board["templating"]["list"] if one["name"] == name]
    assert len(found) == 1, f"{name} stands {len(found)} times among the variables"
    variable = found[0]
    assert isinstance(variable, dict)
    return variable


def _queried_variables(board: Json) -> list[Json]:
    return [one for one in board["templating"]["list"] if one["type"] == "query"]


def _datasource_variable(board: Json) -> Iterator[str]:
    (variable,) = (one for one in board["templating"]["list"] if one["type"] == "datasource")
    if (variable["name"], variable["label"], variable["query"]) != (
        "datasource",
        "Data source",
        "prometheus",
    ):
        yield f"the data source variable is {variable['name']}, {variable['label']}, {variable['query']}"


def _chosen_by(label: str) -> Callable[[Json], Iterator[str]]:
    wanted = {
        "type": "query",
        "label": label.capitalize(),
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "datasource": DATASOURCE,
    }

    def complaints(board: Json) -> Iterator[str]:
        variable = variable_of(board, label)
        for key, value in wanted.items():
            if variable.get(key) != value:
                yield f"{label}: {key} is {variable.get(key)!r}, not {value!r}"

    return complaints


LABEL_VALUES = re.compile(r"label_values\((?P<series>.+), (?P<label>\w+)\)")


def _label_values(board: Json) -> Iterator[str]:
    for variable in _queried_variables(board):
        query = LABEL_VALUES.fullmatch(variable["query"])
        if query is None:
            yield f"{variable['name']}: {variable['query']} is no label_values(…)"
            continue
        (node,) = parse([query["series"]])
        yield from (f"{variable['name']}: {error}" for error in errors_in(node))
        for selector in selectors_in(node):
            labels = selector.labels
            if labels is not None and query["label"] not in labels:
                yield f"{variable['name']}: {selector.name} has no label {query['label']}"


def _reload_on_time_change(board: Json) -> Iterator[str]:
    for variable in _queried_variables(board):
        if variable["refresh"] != 2:
            yield f"{variable['name']}: refresh is {variable['refresh']}"


# --- panels ----------------------------------------------------------------------------------------------


def _panel_datasource(board: Json) -> Iterator[str]:
    for panel in data_panels_of(board):
        for where in (panel, *panel["targets"]):
            if where["datasource"] != DATASOURCE:
                yield f"{panel['title']}: {where['datasource']}"


def _title_and_description(board: Json) -> Iterator[str]:
    for panel in data_panels_of(board):
        if not panel.get("title") or not panel.get("description"):
            yield f"panel {panel['id']} has no title or no description"


def _units(board: Json) -> Iterator[str]:
    for panel in data_panels_of(board):
        defaults = panel["fieldConfig"]["defaults"]
        if defaults.get("unit") not in UNITS and not defaults.get("mappings"):
            yield f"{panel['title']}: unit {defaults.get('unit')}"
        for override in panel["fieldConfig"]["overrides"]:
            for one in override["properties"]:
                if one["id"] == "unit" and one["value"] not in UNITS:
                    yield f"{panel['title']}, {override['matcher']['options']}: unit {one['value']}"


def _has_targets(board: Json) -> Iterator[str]:
    for panel in data_panels_of(board):
        if not panel["targets"] or not all(target["expr"] for target in panel["targets"]):
            yield f"{panel['title']} asks nothing"


# --- queries ---------------------------------------------------------------------------------------------


def parse_together(boards: Iterable[Json]) -> None:
    """All that is asked for at once, rules and variables too: to start Node takes longer than to parse."""
    exprs = [rule["expr"] for rule in recording_rules()]
    for board in boards:
        exprs += [asked.expr for asked in queries_of(board)]
        found = (LABEL_VALUES.fullmatch(one["query"]) for one in _queried_variables(board))
        exprs += [query["series"] for query in found if query is not None]
    parse(exprs)


def parsed_queries(board: Json) -> list[tuple[Asked, Node]]:
    asked = queries_of(board)
    return list(zip(asked, parse(one.expr for one in asked), strict=True))


def _is_promql(board: Json) -> Iterator[str]:
    for asked, node in parsed_queries(board):
        yield from (f"{asked.place}: {error}" for error in errors_in(node))


def _rate_interval(board: Json) -> Iterator[str]:
    for asked, node in parsed_queries(board):
        for call in node.walk():
            if call.name == "FunctionCall" and call.children[0].children[0].name in ("Rate", "Irate"):
                windows = [
                    one.children[-1].text
                    for one in call.walk()
                    if one.name in ("MatrixSelector", "SubqueryExpr")
                ]
                if windows[:1] != [RATE_INTERVAL]:
                    yield f"{asked.place}: a rate over {windows}, not $__rate_interval"


def _matched_by(label: str) -> Callable[[Json], Iterator[str]]:
    def complaints(board: Json) -> Iterator[str]:
        for asked, node in parsed_queries(board):
            for selector in selectors_in(node):
                if not _chosen(selector, label) and not _may_be_without(selector, label):
                    yield f'{asked.place}: {selector.name} is not chosen by {label}=~"${label}"'

    return complaints


def _chosen(selector: Selector, label: str) -> bool:
    return any(
        (matcher.label, matcher.operator, matcher.value) == (label, "EqlRegex", f"${label}")
        for matcher in selector.matchers
    )


def _may_be_without(selector: Selector, label: str) -> bool:
    if not selector.name.startswith(tuple(WITHOUT)):
        return False
    labels = labels_of_metric(selector.name)
    return labels is None or label not in labels


def _counters_over_time(board: Json) -> Iterator[str]:
    for asked, node in parsed_queries(board):
        inside = {
            id(one)
            for call in node.walk()
            if call.name == "FunctionCall" and call.children[0].children[0].name in OVER_TIME
            for one in call.walk()
        }
        for one in node.walk():
            if one.name == "VectorSelector" and id(one) not in inside:
                (selector,) = selectors_in(one)[:1]
                if selector.name in COUNTERS:
                    yield f"{asked.place}: {selector.name} grows for ever; ask for its rate or increase"


def _no_logql(board: Json) -> Iterator[str]:
    for panel in data_panels_of(board):
        for target in panel["targets"]:
            if target["datasource"]["type"] != "prometheus":
                yield f"{panel['title']} asks {target['datasource']['type']}; this linter knows no LogQL"


def _no_auto_range(board: Json) -> Iterator[str]:
    for asked in queries_of(board):
        if "$__auto" in asked.expr:
            yield f"{asked.place}: $__auto is Loki's"


def _uneditable(board: Json) -> Iterator[str]:
    if board["editable"] is not False:
        yield "the board can be edited; what is edited is lost at the next import"


# --- ways to spoil a board -------------------------------------------------------------------------------


def first_panel(board: Json, kind: str = "timeseries") -> Json:
    return next(panel for panel in data_panels_of(board) if panel["type"] == kind)


def ask(expr: str, kind: str = "timeseries") -> Callable[[Json], object]:
    def spoil(board: Json) -> None:
        first_panel(board, kind)["targets"][0]["expr"] = expr

    return spoil


SCOPED = '{cluster=~"$cluster",job=~"$job",instance=~"$instance"}'

RULES = (
    Rule(
        name="template-datasource-rule",
        complaints=_datasource_variable,
        spoil=lambda board: variable_of(board, "datasource").update(label="Prometheus"),
    ),
    Rule(
        name="template-job-rule",
        complaints=_chosen_by("job"),
        spoil=lambda board: variable_of(board, "job").update(allValue=".*"),
    ),
    Rule(
        name="template-instance-rule",
        complaints=_chosen_by("instance"),
        spoil=lambda board: variable_of(board, "instance").update(multi=False),
    ),
    Rule(
        name="template-label-promql-rule",
        complaints=_label_values,
        spoil=lambda board: variable_of(board, "job").update(query="label_values(roofline_build_info{, job)"),
    ),
    Rule(
        name="template-on-time-change-reload-rule",
        complaints=_reload_on_time_change,
        spoil=lambda board: variable_of(board, "instance").update(refresh=1),
    ),
    Rule(
        name="panel-datasource-rule",
        complaints=_panel_datasource,
        spoil=lambda board: first_panel(board, "stat").update(
            datasource={"type": "prometheus", "uid": "P1809F7"}
        ),
    ),
    Rule(
        name="panel-title-description-rule",
        complaints=_title_and_description,
        spoil=lambda board: first_panel(board, "stat").update(description=""),
    ),
    Rule(
        name="panel-units-rule",
        complaints=_units,
        spoil=lambda board: first_panel(board)["fieldConfig"]["defaults"].update(unit="suffix:tokens/s"),
    ),
    Rule(
        name="panel-no-targets-rule",
        complaints=_has_targets,
        spoil=lambda board: first_panel(board).update(targets=[]),
    ),
    Rule(name="target-promql-rule", complaints=_is_promql, spoil=ask(f"sum(roofline_gpu_up{SCOPED}")),
    Rule(
        name="target-rate-interval-rule",
        complaints=_rate_interval,
        spoil=ask(f"rate(roofline_gpu_energy_joules_total{SCOPED}[5m])"),
    ),
    Rule(
        name="target-job-rule",
        complaints=_matched_by("job"),
        spoil=ask('roofline_gpu_up{job="$job",instance=~"$instance"}'),
    ),
    Rule(
        name="target-instance-rule",
        complaints=_matched_by("instance"),
        spoil=ask('roofline:node:gpu_flops:increase5m{job=~"$job"}'),
    ),
    Rule(
        name="target-counter-agg-rule",
        complaints=_counters_over_time,
        spoil=ask(f"sum(roofline_gpu_energy_joules_total{SCOPED})"),
    ),
    Rule(
        name="target-logql-rule",
        complaints=_no_logql,
        spoil=lambda board: first_panel(board)["targets"][0].update(datasource={"type": "loki", "uid": "x"}),
    ),
    Rule(name="target-logql-auto-rule", complaints=_no_auto_range, spoil=ask('rate({app="x"}[$__auto])')),
    Rule(
        name="uneditable-dashboard",
        complaints=_uneditable,
        spoil=lambda board: board.update(editable=True),
    ),
)
