"""The panels of a board: a title, queries, a unit, and a description that says what to do.

The classes are grafanalib's, brought up to what Grafana reads now; boards call the functions below them.
A panel's width is in the 24 columns of Grafana's grid; `layout` finds its place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Required, TypedDict, Unpack

from grafanalib import core

from dashboards.links import BoardLink
from dashboards.queries import Quantity
from dashboards.units import COUNT, Unit
from dashboards.variables import DATASOURCE

Json = dict[str, Any]

ANYWHERE: Final = 0
"""Where a panel stands until `layout` has placed it."""


# --- grafanalib's classes, as Grafana reads them now ----------------------------------------------------


class PromTarget(core.Target):
    """A query to Prometheus: over the range in view, or of the instant at its end."""

    def to_json_data(self) -> Json:
        """Without the step and the interval factor of older Grafanas; those made charts coarse."""
        return {
            "datasource": DATASOURCE,
            "editorMode": "code",
            "expr": self.expr,
            "format": self.format,
            "instant": self.instant,
            "legendFormat": self.legendFormat,
            "range": not self.instant,
            "refId": self.refId,
        }


class TimeSeries(core.TimeSeries):
    """A chart over time."""


class Stat(core.Stat):
    """One number, large."""


class Table(core.Table):
    """A row for each thing."""

    def to_json_data(self) -> Json:
        """Without the cells' `displayMode`, which Grafana 9 replaced by `cellOptions`."""
        panel = super().to_json_data()
        del panel["fieldConfig"]["defaults"]["custom"]["displayMode"]
        return panel


class StateTimeline(core.StateTimeline):
    """Which state, when."""


class BarGauge(core.BarGauge):
    """A bar for each series."""

    def to_json_data(self) -> Json:
        """The options are in `extraJson`: grafanalib's are of Grafana 6."""
        return self.panel_json({"type": "bargauge"})


class Heatmap(core.Heatmap):
    """How a distribution moves."""

    def to_json_data(self) -> Json:
        """The options are in `extraJson`: grafanalib's are those of the Angular panel."""
        return self.panel_json({"type": "heatmap"})


class XYChart(core.Panel):
    """Points and lines in a plane; grafanalib has none."""

    def to_json_data(self) -> Json:
        """All of it is in `extraJson`."""
        return self.panel_json({"type": "xychart"})


class Text(core.Text):
    """Words."""


class Row(core.RowPanel):
    """A heading, and when collapsed the panels under it."""


# --- what boards write -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Query:
    """What to ask, and what to call each series of the answer."""

    expr: str
    legend: str = ""


class Look(TypedDict, total=False):
    """What all panels can say."""

    description: Required[str]
    """What it is, then what to do."""
    unit: Unit
    width: int
    height: int
    decimals: int
    minimum: float
    maximum: float
    no_value: str
    """Shown when there is no series: never a word that sounds as if all were well."""
    thresholds: Sequence[core.Threshold]
    mappings: Sequence[core.StatValueMappings | Json]
    links: Sequence[BoardLink]
    colours: Mapping[str, str]
    """By the name of a series."""


def steps(below: str, *above: tuple[float, str]) -> list[core.Threshold]:
    """Thresholds: a colour, then from each value on another."""
    levels = [(0.0, below), *above]
    return [core.Threshold(colour, index, float(value)) for index, (value, colour) in enumerate(levels)]


def names(meanings: Mapping[int, tuple[str, str]]) -> core.StatValueMappings:
    """Numbers that are words, each with its colour."""
    return core.StatValueMappings(
        *(
            core.StatValueMappingItem(word, str(value), colour, index)
            for index, (value, (word, colour)) in enumerate(meanings.items())
        )
    )


def not_a_number(text: str, colour: str = "text") -> Json:
    """What 0 divided by 0 means here: mostly that there was nothing to divide."""
    return {"type": "special", "options": {"match": "nan", "result": {"text": text, "color": colour}}}


def time_series(
    title: str,
    *queries: Query,
    stacked: bool = False,
    legend_values: Sequence[str] = (),
    lines_at_thresholds: bool = False,
    points: bool = False,
    **look: Unpack[Look],
) -> TimeSeries:
    """A chart; stacked where the parts make a whole."""
    unit = look.get("unit", COUNT)
    custom: Json = {
        "axisBorderShow": False,
        "axisCenteredZero": False,
        "axisColorMode": "text",
        "axisLabel": unit.axis,
        "axisPlacement": "auto",
        "barAlignment": 0,
        "drawStyle": "points" if points else "line",
        "fillOpacity": 60 if stacked else 8,
        "gradientMode": "none",
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
        "insertNulls": False,
        "lineInterpolation": "linear",
        "lineWidth": 1,
        "pointSize": 5,
        "scaleDistribution": {"type": "linear"},
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"group": "A", "mode": "normal" if stacked else "none"},
        "thresholdsStyle": {"mode": "line" if lines_at_thresholds else "off"},
    }
    options: Json = {
        "legend": {
            "calcs": list(legend_values),
            "displayMode": "table" if legend_values else "list",
            "placement": "right" if legend_values else "bottom",
            "showLegend": True,
        },
        "tooltip": {"mode": "multi", "sort": "desc"},
    }
    return TimeSeries(
        title=title,
        targets=_targets(queries),
        **common(look, custom=custom, options=options, colour="palette-classic"),
    )


def stat(
    title: str,
    *queries: Query,
    background: bool = False,
    sparkline: bool = False,
    names_shown: bool = False,
    **look: Unpack[Look],
) -> Stat:
    """One number for each series; over time behind it with `sparkline`, else of this instant."""
    options: Json = {
        "colorMode": "background" if background else "value",
        "graphMode": "area" if sparkline else "none",
        "justifyMode": "auto",
        "orientation": "auto",
        "percentChangeColorMode": "standard",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showPercentChange": False,
        "textMode": "value_and_name" if names_shown else "auto",
        "wideLayout": True,
    }
    look.setdefault("width", 4)
    look.setdefault("height", 4)
    look.setdefault("no_value", "no data")
    return Stat(
        title=title,
        targets=_targets(queries, instant=not sparkline),
        **common(look, options=options, colour="thresholds"),
    )


def bar_gauge(title: str, *queries: Query, **look: Unpack[Look]) -> BarGauge:
    """A bar for each series, of this instant."""
    options: Json = {
        "displayMode": "gradient",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": False},
        "maxVizHeight": 300,
        "minVizHeight": 16,
        "minVizWidth": 8,
        "namePlacement": "auto",
        "orientation": "horizontal",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
        "showUnfilled": True,
        "sizing": "auto",
        "valueMode": "color",
    }
    look.setdefault("no_value", "no data")
    return BarGauge(
        title=title,
        targets=_targets(queries, instant=True),
        **common(look, options=options, colour="thresholds"),
    )


def state_timeline(title: str, *queries: Query, **look: Unpack[Look]) -> StateTimeline:
    """Which state, when: the values are codes, and `mappings` names and colours each."""
    custom: Json = {
        "axisPlacement": "auto",
        "fillOpacity": 80,
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
        "lineWidth": 0,
    }
    options: Json = {
        "alignValue": "left",
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        "mergeValues": True,
        "rowHeight": 0.9,
        "showValue": "auto",
        "tooltip": {"mode": "single", "sort": "none"},
    }
    return StateTimeline(
        title=title,
        targets=_targets(queries),
        **common(look, custom=custom, options=options, colour="thresholds"),
    )


def heatmap(title: str, histogram: Quantity, *matchers: str, **look: Unpack[Look]) -> Heatmap:
    """A histogram of ours over time, all chosen series together."""
    unit = look.setdefault("unit", histogram.unit)
    options: Json = {
        "calculate": False,
        "cellGap": 1,
        "color": {
            "exponent": 0.5,
            "fill": "dark-orange",
            "mode": "scheme",
            "reverse": False,
            "scale": "exponential",
            "scheme": "Oranges",
            "steps": 64,
        },
        "exemplars": {"color": "rgba(255,0,255,0.7)"},
        "filterValues": {"le": 1e-9},
        "legend": {"show": True},
        "rowsFrame": {"layout": "auto"},
        "showValue": "never",
        "tooltip": {"mode": "single", "showColorScale": False, "yHistogram": False},
        "yAxis": {"axisPlacement": "left", "reverse": False, "unit": unit.code},
    }
    expr = f"sum by (le) ({histogram.part('bucket').increase(*matchers)})"
    return Heatmap(
        title=title,
        targets=[PromTarget(expr=expr, legendFormat="{{le}}", format="heatmap")],
        **common(
            look,
            custom={"hideFrom": {"legend": False, "tooltip": False, "viz": False}},
            options=options,
            colour=None,
        ),
    )


def text(title: str, content: str, *, width: int = 24, height: int = 4) -> Text:
    """Words in Markdown."""
    return Text(title=title, content=content, gridPos=core.GridPos(height, width, ANYWHERE, ANYWHERE))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cell:
    unit: Unit = COUNT
    mappings: Sequence[core.StatValueMappings | Json] = ()
    thresholds: Sequence[core.Threshold] = ()
    links: Sequence[BoardLink] = ()
    decimals: int | None = None
    width: int | None = None


@dataclass(frozen=True, slots=True)
class Column(_Cell):
    """A column of numbers: one query, aggregated by the labels that are the table's rows."""

    title: str
    expr: str


def table(
    title: str,
    *columns: Column,
    labels: Mapping[str, str],
    sort_by: str = "",
    descending: bool = True,
    **look: Unpack[Look],
) -> Table:
    """A row for each combination of labels, and a column for each query that has them.

    `labels` are the first columns, with their headings; `links` hang on the first of them.
    """
    # A frame that is alone calls its values "Value", one among several "Value #A".
    values = (
        {"Value": columns[0].title}
        if len(columns) == 1
        else {f"Value #{ref_id(index)}": column.title for index, column in enumerate(columns)}
    )
    order = ["Time", *labels, *values]
    transformations = [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True},
                "includeByName": {},
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {**labels, **values},
            },
        },
    ]
    links = look.pop("links", ())
    overrides = [
        override(next(iter(labels.values())), {"links": [link.of_row() for link in links]}),
        *(_column_override(column) for column in columns),
    ]
    custom: Json = {
        "align": "auto",
        "cellOptions": {"type": "auto"},
        "filterable": True,
        "inspect": False,
    }
    options: Json = {
        "cellHeight": "sm",
        "frameIndex": 0,
        "showHeader": True,
        "sortBy": [{"desc": descending, "displayName": sort_by}] if sort_by else [],
    }
    return Table(
        title=title,
        targets=table_targets(column.expr for column in columns),
        transformations=transformations,
        **common(look, custom=custom, options=options, colour="thresholds", overrides=overrides),
    )


def _column_override(column: Column) -> Json:
    properties: Json = {"unit": column.unit.code}
    if column.decimals is not None:
        properties["decimals"] = column.decimals
    if column.width is not None:
        properties["custom.width"] = column.width
    if column.mappings:
        properties["mappings"] = list(column.mappings)
    if column.thresholds:
        properties["thresholds"] = {"mode": "absolute", "steps": list(column.thresholds)}
    if column.mappings or column.thresholds:
        properties["custom.cellOptions"] = {"type": "color-text"}
    if column.links:
        properties["links"] = [link.of_row() for link in column.links]
    return override(column.title, properties)


def override(name: str, properties: Mapping[str, Any]) -> Json:
    """What is different in the series or column of that name."""
    said = [{"id": key, "value": value} for key, value in properties.items() if value != []]
    return {"matcher": {"id": "byName", "options": name}, "properties": said}


def ref_id(index: int) -> str:
    """A, B, C …: in the order of a panel's queries, which is also what `normalise` gives."""
    return chr(ord("A") + index)


def table_targets(exprs: Iterable[str]) -> list[PromTarget]:
    """Queries of this instant whose labels become columns."""
    return [
        PromTarget(expr=expr, format="table", instant=True, refId=ref_id(index))
        for index, expr in enumerate(exprs)
    ]


def _targets(queries: Sequence[Query], *, instant: bool = False) -> list[PromTarget]:
    return [
        PromTarget(expr=query.expr, legendFormat=query.legend, format="time_series", instant=instant)
        for query in queries
    ]


def common(
    look: Look,
    *,
    options: Json,
    colour: str | None,
    custom: Json | None = None,
    overrides: Sequence[Json] = (),
) -> Json:
    """The arguments that all of grafanalib's panels take."""
    defaults: Json = {
        "unit": look.get("unit", COUNT).code,
        "mappings": list(look.get("mappings", ())),
        "links": [link.of_series() for link in look.get("links", ())],
        "custom": custom or {},
        "color": {"mode": colour} if colour else None,
        "decimals": look.get("decimals"),
        "min": look.get("minimum"),
        "max": look.get("maximum"),
        "noValue": look.get("no_value"),
    }
    coloured = (
        override(name, {"color": {"mode": "fixed", "fixedColor": colour}})
        for name, colour in look.get("colours", {}).items()
    )
    return {
        "description": look["description"],
        "dataSource": DATASOURCE,
        "gridPos": core.GridPos(look.get("height", 8), look.get("width", 12), ANYWHERE, ANYWHERE),
        "thresholds": look.get("thresholds") or steps("green" if colour == "thresholds" else "text"),
        "extraJson": {
            "fieldConfig": {"defaults": defaults, "overrides": [*overrides, *coloured]},
            "options": options,
        },
    }
