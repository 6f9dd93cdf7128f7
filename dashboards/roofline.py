"""The roofline in Grafana: GPUs, or the phases of engines, as points under the roofs of their parts.

The XY chart draws one series for each frame that has its x and its y. Points come from two instant
queries, x and y, merged by their labels; the roofs of a dtype from two more. A roof is a line through its
left end, ridge and right end. Where the GPUs are of several parts, one line draws all their roofs: it goes
back to the left end of each, and crosses to the next on the axis itself.

The chart is in Grafana since 11.4. `without_the_chart` has the same numbers for older ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Unpack

from dashboards.layout import Section, row
from dashboards.panels import (
    Column,
    Look,
    Query,
    XYChart,
    bar_gauge,
    common,
    override,
    ref_id,
    table,
    table_targets,
)
from dashboards.queries import SCOPE, metric
from dashboards.units import OF_A_GAUGE, RATIO

Json = dict[str, Any]

INTENSITY: Final = "FLOP/byte"
LEFT_FLOPS_PER_BYTE, RIGHT_FLOPS_PER_BYTE = 0.1, 10_000
LOWEST_FLOPS_PER_SECOND, HIGHEST_FLOPS_PER_SECOND = 1e10, 1e16
"""Both axes are logarithmic, which needs a least value above 0."""

DTYPES = ("bf16", "fp8")
"""Of whose compute roofs there are lines; weights of four bits are computed in one of these too."""
POINT_COLOUR = "orange"
ROOF_COLOURS = ("blue", "purple", "green", "yellow")

GPU_LABELS: Mapping[str, str] = {"instance": "Node", "gpu": "GPU", "uuid": "UUID", "cluster": "Cluster"}
PHASE_LABELS: Mapping[str, str] = {
    "instance": "Node",
    "server": "Server",
    "rank": "Rank",
    "phase": "Phase",
    "cluster": "Cluster",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """What stands under the roofs: x and y by the same labels."""

    name: str
    """In the legend."""
    labels: Mapping[str, str]
    """Which tell the points apart, with their headings."""
    flops_per_byte: str
    flops_per_second: str


def gpu_points(*matchers: str) -> Points:
    """Each GPU, by the best evidence it has."""
    by = ", ".join(GPU_LABELS)
    flops = f"sum by ({by}) ({metric('gpu_flops_total').rate(*matchers)})"
    moved = f"sum by ({by}) ({metric('gpu_dram_bytes_total').rate(*matchers)})"
    return Points(
        name="GPUs",
        labels=GPU_LABELS,
        flops_per_byte=f"{flops} / ({moved} > 0) > 0",
        flops_per_second=f"{flops} > 0",
    )


def phase_points(*matchers: str) -> Points:
    """Each engine's prefill and decode, as fast as they are while they run, for one of its GPUs."""
    by = ", ".join(PHASE_LABELS)
    engine = ", ".join(label for label in PHASE_LABELS if label != "phase")
    flops = f"sum by ({by}) ({metric('engine_flops_total').rate(*matchers)})"
    moved = f"sum by ({by}) ({metric('engine_dram_bytes_total').rate(*matchers)})"
    busy = f"sum by ({by}) ({metric('engine_phase_seconds_total').rate(*matchers)})"
    gpus = f"sum by ({engine}) ({metric('engine_gpus').where(*matchers)})"
    return Points(
        name="phases",
        labels=PHASE_LABELS,
        flops_per_byte=f"{flops} / ({moved} > 0) > 0",
        flops_per_second=f"{flops} / ({busy} > 0) / on ({engine}) group_left () ({gpus} > 0) > 0",
    )


def roofline_chart(
    title: str, points: Points, *, dtypes: Sequence[str] = DTYPES, **look: Unpack[Look]
) -> XYChart:
    """The points under the peak roofs of the parts that are among the GPUs chosen."""
    look.setdefault("unit", OF_A_GAUGE["FLOP/s"])
    look.setdefault("minimum", LOWEST_FLOPS_PER_SECOND)
    look.setdefault("maximum", HIGHEST_FLOPS_PER_SECOND)
    look.setdefault("width", 24)
    look.setdefault("height", 14)
    links = [link.of_row() for link in look.pop("links", ())]
    x_axis = {
        "unit": OF_A_GAUGE["FLOP/byte"].code,
        "min": LEFT_FLOPS_PER_BYTE,
        "max": RIGHT_FLOPS_PER_BYTE,
        "custom.axisLabel": "arithmetic intensity, FLOP/byte",
        "custom.scaleDistribution": _LOGARITHMIC,
    }
    as_points = {
        "custom.show": "points",
        "custom.pointSize": {"fixed": 9},
        "color": {"mode": "fixed", "fixedColor": POINT_COLOUR},
        "links": links,
    }
    custom: Json = {
        "axisLabel": "FLOP/s",
        "axisPlacement": "auto",
        "fillOpacity": 50,
        "hideFrom": {"legend": False, "tooltip": False, "viz": False},
        "lineWidth": 2,
        "pointShape": "circle",
        "pointSize": {"fixed": 5},
        "pointStrokeWidth": 1,
        "scaleDistribution": _LOGARITHMIC,
        "show": "lines",
    }
    options: Json = {
        "legend": {"calcs": [], "displayMode": "list", "placement": "bottom", "showLegend": True},
        # Every frame that has the x gives a series: the points one, and the roofs of each dtype one.
        "mapping": "auto",
        "series": [{"x": {"matcher": {"id": "byName", "options": INTENSITY}}}],
        "tooltip": {"mode": "single", "sort": "none"},
    }
    overrides = [override(INTENSITY, x_axis), override(points.name, as_points)]
    overrides += [
        override(roofs_of(dtype), {"color": {"mode": "fixed", "fixedColor": colour}})
        for dtype, colour in zip(dtypes, ROOF_COLOURS, strict=False)
    ]
    answers = [points.flops_per_byte, points.flops_per_second]
    for dtype in dtypes:
        answers += _corners(dtype)
    return XYChart(
        title=title,
        targets=table_targets(answers),
        transformations=_frames(points, dtypes),
        **common(
            look,
            custom=custom,
            options=options,
            colour="palette-classic",
            overrides=overrides,
        ),
    )


def without_the_chart(points: Points, attained: Query) -> Section:
    """The same numbers, for Grafana before 11.4, which has no XY chart."""
    where = ", ".join(points.labels)
    return row(
        "The same without a chart (for Grafana before 11.4)",
        table(
            f"Where {points.name} stand",
            Column("FLOP/byte", points.flops_per_byte, unit=OF_A_GAUGE["FLOP/byte"], decimals=1),
            Column("FLOP/s", points.flops_per_second, unit=OF_A_GAUGE["FLOP/s"]),
            labels=points.labels,
            sort_by="FLOP/s",
            description=f"The points of the roofline by {where}. Left of the ridge, where FLOP/byte is below "
            "it, only a larger batch or fewer bytes help; right of it, only fewer or cheaper FLOPs.",
        ),
        bar_gauge(
            "How near the roof",
            attained,
            unit=RATIO,
            minimum=0,
            maximum=1,
            description=metric("gpu_roof_attained_ratio").tells(
                "Low with work at hand: something else holds the GPU up; the bottleneck says what."
            ),
        ),
        collapsed=True,
    )


_LOGARITHMIC: Final = {"type": "log", "log": 10}


def _frames(points: Points, dtypes: Sequence[str]) -> list[Json]:
    """From the answers, two by two, to a frame of the points and one of the roofs of each dtype."""
    names = (points.name, *(roofs_of(dtype) for dtype in dtypes))
    pairs = [(ref_id(2 * index), ref_id(2 * index + 1), name) for index, name in enumerate(names)]
    renamed = {f"Value #{x}": INTENSITY for x, _, _ in pairs} | {f"Value #{y}": name for _, y, name in pairs}
    order = (*points.labels, "part", "corner", "number", *renamed)
    return [
        *(
            {"id": "merge", "options": {}, "filter": {"id": "byRefId", "options": f"/^(?:{x}|{y})$/"}}
            for x, y, _ in pairs
        ),
        {"id": "sortBy", "options": {"fields": {}, "sort": [{"field": "corner", "desc": False}]}},
        {
            "id": "organize",
            "options": {
                "excludeByName": {"Time": True, "corner": True, "number": True},
                "includeByName": {},
                "indexByName": {name: index for index, name in enumerate(order)},
                "renameByName": {**points.labels, "part": "Part", **renamed},
            },
        },
    ]


def roofs_of(dtype: str) -> str:
    """What the legend calls them."""
    return f"{dtype} roof"


def _corners(dtype: str) -> tuple[str, str]:
    """Of each part's roof the corners in the order in which they are drawn, x and y."""
    compute = _of_part(metric("gpu_peak_flops_per_second").where(dtype=dtype))
    ridge = _of_part(metric("gpu_ridge_flops_per_byte").where(dtype=dtype))
    left = (f"0 * {ridge} + {LEFT_FLOPS_PER_BYTE}", f"{LEFT_FLOPS_PER_BYTE} * {compute} / {ridge}")
    at_ridge = (ridge, compute)
    right = (f"0 * {ridge} + {RIGHT_FLOPS_PER_BYTE}", compute)
    drawn = (left, at_ridge, right, at_ridge, left)
    return _numbered([x for x, _ in drawn]), _numbered([y for _, y in drawn])


def _of_part(by_gpu: str) -> str:
    """One series a part, whichever of its GPUs it is read from."""
    gpu = ", ".join((*SCOPE, "uuid"))
    parts = f"max by ({gpu}, part) ({metric('gpu_info').where()})"
    return f"max by (part) ({by_gpu} * on ({gpu}) group_left (part) {parts})"


def _numbered(corners: Sequence[str]) -> str:
    """With a label that sorts them, part by part."""
    numbered = " or ".join(
        f'label_replace({corner}, "number", "{number}", "", "")' for number, corner in enumerate(corners)
    )
    # Into a label of its own: VictoriaMetrics 1.79 overwrites one that is read.
    return f'label_join({numbered}, "corner", " ", "part", "number")'
