"""What can be said of a query without running it: which series it asks for, and which labels come back.

Queries are parsed by the grammar of `@prometheus-io/lezer-promql`; the rules for labels are those of
Prometheus's engine.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import yaml

from agent.metrics import TABLE
from dashboards.queries import BESIDE
from tests.dashboards.boards import ROOT
from tests.dashboards.grafana_packages import run_script

TARGET_LABELS = frozenset(
    {"cluster", "job", "instance", "namespace", "pod", "container", "service", "endpoint"}
)
"""What a scrape attaches, in Kubernetes and elsewhere."""
ALERTS: Mapping[str, frozenset[str] | None] = {"ALERTS": None, "ALERTS_FOR_STATE": None}
"""Prometheus's own; they have whatever labels the alert has."""

RATE_INTERVAL = "241s"
INTERVALS = {
    "$__rate_interval": RATE_INTERVAL,
    "$__interval": "61s",
    "$__range": "21601s",
    "$__from": "1700000000000",
    "$__to": "1700000001000",
}
"""What Grafana puts in; lengths that nobody writes by hand, so that they are known again."""

Labels = frozenset[str] | None
"""`None` where nobody can say."""


@dataclass(frozen=True, slots=True)
class Node:
    """A part of a query."""

    name: str
    children: tuple[Node, ...]
    text: str

    def walk(self) -> Iterator[Node]:
        """It and everything under it."""
        yield self
        for child in self.children:
            yield from child.walk()

    def child(self, *names: str) -> Node | None:
        """The first child of such a name."""
        return next((child for child in self.children if child.name in names), None)


@dataclass(frozen=True, slots=True)
class Matcher:
    """A label, how it is matched, and with what."""

    label: str
    operator: str
    value: str


@dataclass(frozen=True, slots=True)
class Selector:
    """The series that are asked for in one place."""

    name: str
    matchers: tuple[Matcher, ...]

    @property
    def labels(self) -> Labels:
        """What its series have."""
        return labels_of_metric(self.name)


def with_values(expr: str) -> str:
    """The query as Grafana would send it: intervals replaced, and variables in strings left as they are."""
    for variable, value in INTERVALS.items():
        expr = re.sub(re.escape(variable) + r"\b", value, expr)
    return expr


_parsed: dict[str, Node] = {}


def parse(exprs: Iterable[str]) -> list[Node]:
    """The queries, parsed together: starting Node takes longer than parsing."""
    wanted = list(exprs)
    new = [expr for expr in dict.fromkeys(wanted) if expr not in _parsed]
    if new:
        trees = run_script("promql.cjs", [with_values(expr) for expr in new])
        _parsed.update((expr, _node(tree)) for expr, tree in zip(new, trees, strict=True))
    return [_parsed[expr] for expr in wanted]


def _node(tree: Sequence[object]) -> Node:
    name, content = tree
    assert isinstance(name, str)
    if isinstance(content, str):
        return Node(name, (), content)
    assert isinstance(content, list)
    return Node(name, tuple(_node(child) for child in content), "")


def errors_in(node: Node) -> list[str]:
    """Where the grammar does not go."""
    return [f"not PromQL at {one.text!r}" for one in node.walk() if one.name == "⚠"]


def selectors_in(node: Node) -> list[Selector]:
    """All series that a query asks for."""
    return [_selector(one) for one in node.walk() if one.name == "VectorSelector"]


def _selector(node: Node) -> Selector:
    identifier = node.child("Identifier")
    matchers = []
    for one in node.walk():
        if one.name == "UnquotedLabelMatcher":
            label, operator, value = one.children
            matchers.append(Matcher(label.text, operator.children[0].name, json.loads(value.text)))
    return Selector(identifier.text if identifier is not None else "", tuple(matchers))


@cache
def labels_of_metric(name: str) -> Labels:
    """Of the table, of a recording rule, or of what stands beside them; a `LookupError` if of none."""
    for metric in TABLE:
        if name == metric.full_name and metric.kind != "histogram":
            return TARGET_LABELS | frozenset(metric.labels)
        if metric.kind == "histogram" and name.startswith(metric.full_name):
            part = name.removeprefix(metric.full_name)
            if part in ("_sum", "_count"):
                return TARGET_LABELS | frozenset(metric.labels)
            if part == "_bucket":
                return TARGET_LABELS | frozenset(metric.labels) | {"le"}
    if name in BESIDE:
        return TARGET_LABELS
    if name in ALERTS:
        return ALERTS[name]
    for rule in recording_rules():
        if rule["record"] == name:
            (node,) = parse([rule["expr"]])
            labels = labels_after(node)
            return labels | frozenset(rule.get("labels", ())) if labels is not None else None
    raise LookupError(f"no metric is called {name or 'nothing'}")


@cache
def recording_rules() -> Sequence[Mapping[str, str]]:
    """All of ours."""
    document = yaml.safe_load((ROOT / "rules" / "generated" / "recordings.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


# --- the labels that come back -----------------------------------------------------------------------------


def labels_after(node: Node) -> Labels:
    """The labels that the series of the result can have."""
    match node.name:
        case "VectorSelector":
            return _selector(node).labels
        case "AggregateExpr":
            return _aggregated(node)
        case "BinaryExpr":
            return _joined(node)
        case "FunctionCall":
            return _called(node)
        case "NumberDurationLiteral" | "StringLiteral":
            return frozenset()
    for child in node.children:
        if child.name.endswith(("Expr", "Selector", "Call")):
            return labels_after(child)
    return frozenset()


def _arguments(node: Node) -> list[Node]:
    body = node.child("FunctionCallBody")
    return list(body.children) if body is not None else []


def _grouping(node: Node | None) -> frozenset[str]:
    return frozenset(one.text for one in node.children if one.name == "LabelName") if node else frozenset()


def _aggregated(node: Node) -> Labels:
    operator = next(one.children[0].name for one in node.children if one.name == "AggregateOp")
    before = labels_after(_arguments(node)[-1])
    modifier = node.child("AggregateModifier")
    if operator in ("Topk", "Bottomk", "LimitK", "LimitRatio"):
        return before
    kept: Labels = frozenset()
    if modifier is not None:
        named = _grouping(modifier.child("GroupingLabels"))
        if modifier.child("By"):
            kept = named if before is None else named & before
        else:
            kept = None if before is None else before - named
    if operator == "CountValues" and kept is not None:
        kept |= {json.loads(_arguments(node)[0].text)}
    return kept


def _called(node: Node) -> Labels:
    function = node.children[0].children[0].name
    arguments = _arguments(node)
    if function in ("LabelReplace", "LabelJoin"):
        before = labels_after(arguments[0])
        return None if before is None else before | {json.loads(arguments[1].text)}
    if function == "HistogramQuantile":
        before = labels_after(arguments[-1])
        return None if before is None else before - {"le"}
    for argument in arguments:
        if argument.name not in ("NumberDurationLiteral", "StringLiteral") and argument.children:
            return labels_after(argument)
    return frozenset()


@dataclass(frozen=True, slots=True)
class Matching:
    """How the two sides of an operator find each other."""

    on: frozenset[str] | None
    ignoring: frozenset[str]
    group: str
    """"", "left" or "right": the side that may have many."""
    included: frozenset[str]
    """The labels that the many take from the one."""


def matching_of(node: Node) -> Matching:
    """Of a binary expression."""
    clause = node.child("MatchingModifierClause")
    words: dict[str, frozenset[str]] = {}
    last = ""
    for one in clause.children if clause is not None else ():
        if one.name == "GroupingLabels":
            words[last] = _grouping(one)
        else:
            last = one.name
            words.setdefault(last, frozenset())
    group = "left" if "GroupLeft" in words else "right" if "GroupRight" in words else ""
    return Matching(
        on=words.get("On"),
        ignoring=words.get("Ignoring", frozenset()),
        group=group,
        included=words.get("GroupLeft", frozenset()) | words.get("GroupRight", frozenset()),
    )


def sides_of(node: Node) -> tuple[Node, Node]:
    """Of a binary expression."""
    return node.children[0], node.children[-1]


def _is_scalar(node: Node) -> bool:
    if node.name == "NumberDurationLiteral":
        return True
    if node.name == "FunctionCall":
        return node.children[0].children[0].name in ("Time", "Scalar", "Pi")
    if node.name in ("ParenExpr", "UnaryExpr"):
        return _is_scalar(node.children[-1])
    return node.name == "BinaryExpr" and all(map(_is_scalar, sides_of(node)))


def _joined(node: Node) -> Labels:
    left, right = sides_of(node)
    if _is_scalar(left):
        return labels_after(right)
    if _is_scalar(right):
        return labels_after(left)
    before, other = labels_after(left), labels_after(right)
    operators = {child.name for child in node.children}
    if operators & {"And", "Unless"}:
        return before
    if operators & {"Or"}:
        return None if before is None or other is None else before | other
    matching = matching_of(node)
    if matching.group:
        many = before if matching.group == "left" else other
        return None if many is None else many | matching.included
    if matching.on is not None:
        return matching.on
    return None if before is None else before - matching.ignoring


# --- what is wrong with a query --------------------------------------------------------------------------


def wrong_names(node: Node) -> list[str]:
    """Metrics that do not exist."""
    wrong = []
    for selector in selectors_in(node):
        try:
            _ = selector.labels
        except LookupError as error:
            wrong.append(str(error))
    return wrong


def wrong_labels(node: Node) -> list[str]:
    """Labels that are matched, grouped by or joined on, and that the series there do not have."""
    wrong = []
    for one in node.walk():
        if one.name == "VectorSelector":
            selector = _selector(one)
            wrong += _absent(f"{selector.name} has", selector.labels, (m.label for m in selector.matchers))
        elif one.name == "AggregateExpr" and (modifier := one.child("AggregateModifier")) is not None:
            before = labels_after(_arguments(one)[-1])
            wrong += _absent("what is aggregated has", before, _grouping(modifier.child("GroupingLabels")))
        elif one.name == "BinaryExpr" and one.child("MatchingModifierClause") is not None:
            matching = matching_of(one)
            left, right = (labels_after(side) for side in sides_of(one))
            for side in (left, right):
                wrong += _absent("a side of the join has", side, matching.on or ())
            if matching.group:
                single = right if matching.group == "left" else left
                wrong += _absent("the one side has", single, matching.included)
    return wrong


def _absent(who: str, there: Labels, wanted: Iterable[str]) -> list[str]:
    return [] if there is None else [f"{who} no label {label}" for label in wanted if label not in there]
