"""Our own rules for boards, beside the linter's."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

from dashboards.links import uid
from dashboards.normalise import SCHEMA_VERSION
from tests.dashboards.boards import WRITTEN, Json, board, data_panels_of, panels_of, queries_of
from tests.dashboards.linter import SCOPED, Rule, ask, first_panel, parsed_queries, variable_of
from tests.dashboards.promql import Node, labels_after, selectors_in, wrong_labels, wrong_names

DEPRECATED = frozenset({"graph", "singlestat", "table-old", "heatmap-new", "gauge-old", "worldmap"})
LEGACY = (
    "rows",
    "hideControls",
    "sharedCrosshair",
    "style",
    "pluginVersion",
    "intervalFactor",
    "step",
    "maxDataPoints",
    "fieldOptions",
    "span",
)
"""Keys of older schemas, or of one Grafana's own."""


def _names_exist(content: Json) -> Iterator[str]:
    for asked, node in parsed_queries(content):
        yield from (f"{asked.place}: {wrong}" for wrong in wrong_names(node))


def _labels_exist(content: Json) -> Iterator[str]:
    for asked, node in parsed_queries(content):
        if not wrong_names(node):
            yield from (f"{asked.place}: {wrong}" for wrong in wrong_labels(node))


def _legends_survive(content: Json) -> Iterator[str]:
    for asked, node in parsed_queries(content):
        if wrong_names(node) or (labels := labels_after(node)) is None:
            continue
        for label in re.findall(r"{{\s*(\w+)\s*}}", asked.legend):
            if label not in labels:
                yield f"{asked.place}: the legend names {label}, which the query drops"


def _links_take_labels_that_come_back(content: Json) -> Iterator[str]:
    for panel in data_panels_of(content):
        text = str(panel["fieldConfig"])
        for wanted in re.findall(r"\$\{__field\.labels\.(\w+)", text):
            for asked, node in parsed_queries(content):
                if asked.place == panel["title"] and not wrong_names(node):
                    labels = labels_after(node)
                    if labels is not None and wanted not in labels:
                        yield f"{panel['title']}: a link takes {wanted}, which the query drops"


def _links_take_columns_that_are_there(content: Json) -> Iterator[str]:
    for panel in data_panels_of(content):
        # By the label that the column is, or by its heading: Grafana looks for both.
        columns = {
            name
            for one in panel.get("transformations", ())
            for pair in one["options"].get("renameByName", {}).items()
            for name in pair
        }
        for wanted in re.findall(r"\$\{__data\.fields\.(\w+)", str(panel["fieldConfig"])):
            if wanted not in columns:
                yield f"{panel['title']}: a link takes the column {wanted}, which is not there"


def _no_sum_of_ratios(content: Json) -> Iterator[str]:
    for asked, node in parsed_queries(content):
        for one in node.walk():
            if one.name == "AggregateExpr" and one.children[0].children[0].name == "Sum":
                yield from (
                    f"{asked.place}: a sum of {name}" for name in _summed_bare(one) if name.endswith("_ratio")
                )


def _summed_bare(aggregate: Node) -> Iterator[str]:
    """The metrics that a sum adds up as they are."""
    body = aggregate.child("FunctionCallBody")
    while body is not None and body.name in ("FunctionCallBody", "ParenExpr") and len(body.children) == 1:
        body = body.children[0]
    if body is not None and body.name == "VectorSelector":
        yield from (selector.name for selector in selectors_in(body))


def _refreshes_seldom(content: Json) -> Iterator[str]:
    amount, unit = re.fullmatch(r"(\d+)([smh])", content["refresh"]).groups()  # type: ignore[union-attr]
    if int(amount) * {"s": 1, "m": 60, "h": 3600}[unit] < 30:
        yield f"refreshes each {content['refresh']}"


def _ids_are_unique(content: Json) -> Iterator[str]:
    ids = [panel["id"] for panel in panels_of(content)]
    if ids != list(range(1, len(ids) + 1)):
        yield f"panel ids are {ids}"
    for panel in data_panels_of(content):
        refs = [target["refId"] for target in panel["targets"]]
        if refs != [chr(ord("A") + index) for index in range(len(refs))]:
            yield f"{panel['title']}: refIds are {refs}"


def _identity(content: Json) -> Iterator[str]:
    if len(content["uid"]) > 40 or not content["uid"].startswith("roofline-"):
        yield f"uid {content['uid']}"
    if content["id"] is not None:
        yield "the id is one Grafana's own"
    if content["tags"] != ["roofline-agent"] or not content["title"].startswith("Roofline / "):
        yield f"{content['title']} {content['tags']}"
    if not 39 <= content["schemaVersion"] <= 42 or content["schemaVersion"] != SCHEMA_VERSION:
        yield f"schema {content['schemaVersion']}"


def _logarithms_have_a_least_value(content: Json) -> Iterator[str]:
    for panel in data_panels_of(content):
        defaults = panel["fieldConfig"]["defaults"]
        axes = [(defaults.get("custom", {}).get("scaleDistribution"), defaults.get("min"))]
        for override in panel["fieldConfig"]["overrides"]:
            said = {one["id"]: one["value"] for one in override["properties"]}
            axes.append((said.get("custom.scaleDistribution"), said.get("min")))
        for scale, least in axes:
            if scale is not None and scale["type"] == "log" and not (least and least > 0):
                yield f"{panel['title']}: a logarithmic axis from {least}"


def _nothing_is_one_sites_own(content: Json) -> Iterator[str]:
    for asked, node in parsed_queries(content):
        for selector in selectors_in(node):
            for matcher in selector.matchers:
                bound = "$" not in matcher.value and matcher.value not in (".+", ".*", "")
                if matcher.label in ("cluster", "namespace", "job", "instance") and bound:
                    yield f"{asked.place}: {matcher.label} is {matcher.value}"


def _no_legacy(content: Json) -> Iterator[str]:
    for panel in panels_of(content):
        if panel["type"] in DEPRECATED:
            yield f"{panel['title']} is a {panel['type']}"
    yield from _legacy_keys(content)


def _legacy_keys(content: object) -> Iterator[str]:
    if isinstance(content, dict):
        yield from (f"the key {key}" for key in content if key in LEGACY)
        content = list(content.values())
    if isinstance(content, list):
        if "null" in content:
            yield "null as a word"
        for one in content:
            yield from _legacy_keys(one)


def _nothing_overlaps(content: Json) -> Iterator[str]:
    for group in (content["panels"], *(panel.get("panels", []) for panel in content["panels"])):
        for panel in group:
            if panel["gridPos"]["x"] + panel["gridPos"]["w"] > 24:
                yield f"{panel['title']} is outside the grid"
        for one, other in itertools.combinations(group, 2):
            if _overlap(one["gridPos"], other["gridPos"]):
                yield f"{one.get('title')} lies over {other.get('title')}"


def _overlap(one: Json, other: Json) -> bool:
    return bool(
        one["x"] < other["x"] + other["w"]
        and other["x"] < one["x"] + one["w"]
        and one["y"] < other["y"] + other["h"]
        and other["y"] < one["y"] + one["h"]
    )


def _links_lead_somewhere(content: Json) -> Iterator[str]:
    known = {uid(name): name for name in WRITTEN}
    for panel in data_panels_of(content):
        for target, query in re.findall(r"'/d/([\w-]+)\?([^']*)'", str(panel["fieldConfig"])):
            if target not in known:
                yield f"{panel['title']}: no board is {target}"
                continue
            there = {one["name"] for one in board(known[target])["templating"]["list"]}
            asked = set(re.findall(r"var-(\w+)=", query)) | set(re.findall(r"\$\{(\w+):queryparam\}", query))
            yield from (f"{panel['title']}: {target} has no variable {name}" for name in asked - there)
            if "${__url_time_range}" not in query:
                yield f"{panel['title']}: a link forgets the time range"


def _variables_exist(content: Json) -> Iterator[str]:
    known = {one["name"] for one in content["templating"]["list"]}
    for asked in queries_of(content):
        for name in re.findall(r"\$\{?([a-z]\w*)", asked.expr):
            if name not in known:
                yield f"{asked.place}: no variable is called {name}"


def _variables_are_used(content: Json) -> Iterator[str]:
    text = "".join(asked.expr for asked in queries_of(content))
    text += "".join(str(one.get("query")) for one in content["templating"]["list"])
    for one in content["templating"]["list"]:
        if one["type"] == "query" and f"${one['name']}" not in text:
            yield f"nothing is chosen by {one['name']}"


def _rates_in_heatmaps(content: Json) -> Iterator[str]:
    for panel in data_panels_of(content):
        if panel["type"] == "heatmap":
            for target in panel["targets"]:
                if target["format"] != "heatmap" or "[$__rate_interval]" not in target["expr"]:
                    yield f"{panel['title']}: {target['format']}, {target['expr']}"


def _descriptions_say_what_to_do(content: Json) -> Iterator[str]:
    for panel in data_panels_of(content):
        sentences = re.findall(r"[^.:;]+[.:;]", panel["description"])
        if len(sentences) < 2:
            yield f"{panel['title']}: what is one to do? {panel['description']}"


def _empty_is_not_well(content: Json) -> Iterator[str]:
    for panel in data_panels_of(content):
        if panel["fieldConfig"]["defaults"].get("noValue", "no data").lower() in (
            "ok",
            "up",
            "0",
            "none",
            "good",
        ):
            yield f"{panel['title']}: no data reads as if all were well"


def _spoil_refs(content: Json) -> None:
    first_panel(content)["targets"][0]["refId"] = "B"


def _spoil_uid(content: Json) -> None:
    content["uid"] = "roofline-" + "x" * 40


HOUSE_RULES = (
    Rule(name="every metric exists", complaints=_names_exist, spoil=ask(f"roofline_gpu_utilisation{SCOPED}")),
    Rule(
        name="every label exists where it is used",
        complaints=_labels_exist,
        spoil=ask(f"sum by (model) (roofline_gpu_up{SCOPED})"),
    ),
    Rule(
        name="legends name only labels that come back",
        complaints=_legends_survive,
        spoil=lambda content: first_panel(content)["targets"][0].update(
            expr=f"sum by (gpu) (roofline_gpu_up{SCOPED})", legendFormat="{{instance}}"
        ),
    ),
    Rule(
        name="links take only labels that come back",
        complaints=_links_take_labels_that_come_back,
        spoil=lambda content: first_panel(content)["fieldConfig"]["defaults"].update(
            links=[{"title": "x", "url": "/d/roofline-agent?var-instance=${__field.labels.nobody}"}]
        ),
    ),
    Rule(
        name="links take only columns that are there",
        complaints=_links_take_columns_that_are_there,
        spoil=lambda content: first_panel(content)["fieldConfig"]["defaults"].update(
            links=[{"title": "x", "url": "/d/roofline-node?var-instance=${__data.fields.Nodee}"}]
        ),
    ),
    Rule(
        name="no ratio is summed",
        complaints=_no_sum_of_ratios,
        spoil=ask(f"sum(roofline_gpu_roof_attained_ratio{SCOPED})"),
    ),
    Rule(
        name="refreshes at most twice a minute",
        complaints=_refreshes_seldom,
        spoil=lambda content: content.update(refresh="10s"),
    ),
    Rule(name="ids and refIds are unique and in order", complaints=_ids_are_unique, spoil=_spoil_refs),
    Rule(name="uid, id, tags, title and schema are ours", complaints=_identity, spoil=_spoil_uid),
    Rule(
        name="a logarithmic axis has a least value above 0",
        complaints=_logarithms_have_a_least_value,
        spoil=lambda content: first_panel(content)["fieldConfig"]["defaults"]["custom"].update(
            scaleDistribution={"type": "log", "log": 10}
        ),
    ),
    Rule(
        name="nothing is one site's own",
        complaints=_nothing_is_one_sites_own,
        spoil=ask('roofline_gpu_up{job=~"$job",instance=~"$instance",cluster="eu-1"}'),
    ),
    Rule(
        name="nothing is of an older schema",
        complaints=_no_legacy,
        spoil=lambda content: first_panel(content).update(maxDataPoints=100),
    ),
    Rule(
        name="panels lie side by side",
        complaints=_nothing_overlaps,
        spoil=lambda content: first_panel(content)["gridPos"].update(x=0, y=0, h=30, w=24),
    ),
    Rule(
        name="links lead to boards and variables that exist, with the time range",
        complaints=_links_lead_somewhere,
        spoil=lambda content: first_panel(content)["fieldConfig"]["defaults"].update(
            links=[{"title": "x", "url": "/d/roofline-agent?var-colour=red"}]
        ),
    ),
    Rule(
        name="queries use only the board's variables",
        complaints=_variables_exist,
        spoil=ask('roofline_gpu_up{job=~"$job",instance=~"$instance",gpu="$card"}'),
    ),
    Rule(
        name="every variable chooses something",
        complaints=_variables_are_used,
        spoil=lambda content: content["templating"]["list"].append(
            {**variable_of(content, "job"), "name": "colour"}
        ),
    ),
    Rule(
        name="heatmaps are of increases over the rate interval",
        complaints=_rates_in_heatmaps,
        spoil=lambda content: first_panel(content).update(type="heatmap"),
    ),
    Rule(
        name="descriptions say what to do",
        complaints=_descriptions_say_what_to_do,
        spoil=lambda content: first_panel(content).update(description="The power."),
    ),
    Rule(
        name="no data does not read as if all were well",
        complaints=_empty_is_not_well,
        spoil=lambda content: first_panel(content, "stat")["fieldConfig"]["defaults"].update(noValue="OK"),
    ),
)
