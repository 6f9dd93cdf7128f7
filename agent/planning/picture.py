"""The planned points on the rooflines of their GPUs: one self-contained SVG.

A colour is a part, a shape a phase. All is for each GPU: its roofs, and how fast it is expected to compute
while a step runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from agent.exposition.label_placement import Anchor, Box, LabelPlacer, text_width
from agent.exposition.roof_lines import X_DECADES, Frame, Place, grid_lines
from agent.planning.cases import Case, cases_of, described
from agent.roofline.planner import Plan
from agent.roofline.roof import Roof
from agent.units import render_number, render_quantity

WIDTH, PLOT_HEIGHT, LINE_HEIGHT = 900.0, 540.0, 20.0
MARKER_RADIUS = 5.0
NEIGHBOURS = 24.0
"""Neighbouring batches whose points are nearer than this share a label."""
HIGHEST_FLOOR = 12
"""The lowest decade shown is this or lower."""

# On light paper, and on dark. Who does not tell them apart has the numbers of the labels.
COLOURS = (
    ("#22598f", "#7cb7f2"),
    ("#b3430c", "#f59c5b"),
    ("#1b7a4b", "#5fd398"),
    ("#8a3d76", "#dd9bcb"),
    ("#6b5900", "#e6cf4a"),
    ("#4d5960", "#b4c0c8"),
)
STYLE = (
    "svg{color-scheme:light dark;--paper:#fff;--ink:#1a2024;--muted:#59636b;--line:#dde1dd}"
    + "".join(f".gpu{n}{{--gpu:{light}}}" for n, (light, _) in enumerate(COLOURS))
    + "@media (prefers-color-scheme:dark){"
    "svg{--paper:#181d22;--ink:#e6eaec;--muted:#98a4ac;--line:#2b333a}"
    + "".join(f".gpu{n}{{--gpu:{dark}}}" for n, (_, dark) in enumerate(COLOURS))
    + "}"
    ".paper{fill:var(--paper)}"
    "text{font:12px system-ui,'Segoe UI','Liberation Sans',sans-serif;fill:var(--ink);"
    "paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}"
    ".quiet{fill:var(--muted)}"
    "polyline,line{fill:none}.grid{stroke:var(--line)}"
    ".roof{stroke:var(--gpu);stroke-width:2;stroke-linejoin:round}"
    ".ridge{stroke:var(--gpu);stroke-dasharray:2 3}"
    ".leader{stroke:var(--muted)}"
    ".roof-label{fill:var(--gpu)}"
    ".decode{fill:var(--gpu);stroke:var(--paper);stroke-width:1.5}"
    ".prefill{fill:var(--paper);stroke:var(--gpu);stroke-width:2}"
)


def draw(plans: Sequence[Plan]) -> str:
    """The picture as text."""
    cases = cases_of(plans)
    roofs = {(plan.spec.name, plan.compute_dtype): plan.roof for plan in plans}
    colours = {name: f"gpu{n % len(COLOURS)}" for n, name in enumerate(dict.fromkeys(p for p, _ in roofs))}
    frame = Frame(width=WIDTH, height=PLOT_HEIGHT, y_decades=_y_decades(plans), right=20.0)
    placer = LabelPlacer(Box(left=frame.left, top=frame.top, right=frame.x_end, bottom=frame.y_end))
    marks = [mark for case in cases for mark in _marks(frame, case, several=len(cases) > 1)]
    for mark in marks:
        for place in mark.places:
            placer.block(Box.around(*place, MARKER_RADIUS))
    for roof in roofs.values():
        _keep_clear(placer, _outline(frame, roof))
    height = PLOT_HEIGHT + LINE_HEIGHT * (len(cases) + 1)
    picture = ElementTree.Element(
        "svg", xmlns="http://www.w3.org/2000/svg", viewBox=f"0 0 {WIDTH:g} {height:g}", role="img"
    )
    _add(picture, "title", "Roofline of the planned points, for each GPU")
    _add(picture, "style", STYLE)
    _add(picture, "rect", class_="paper", width="100%", height="100%")
    _draw_axes(picture, frame)
    for (name, dtype), roof in roofs.items():
        _draw_roof(_group(picture, colours[name]), frame, placer, name, dtype, roof)
    for mark in marks:
        _draw_mark(_group(picture, colours[mark.part]), placer, mark)
    _draw_legend(picture, cases, colours)
    return ElementTree.tostring(picture, encoding="unicode") + "\n"


def _y_decades(plans: Iterable[Plan]) -> tuple[int, int]:
    """All points, and room above the highest roof."""
    lowest = min(plan.flops_per_second for plan in plans)
    highest = max(plan.roof.flops_per_second for plan in plans)
    return min(math.floor(math.log10(lowest / 2)), HIGHEST_FLOOR), math.ceil(math.log10(highest * 1.3))


# --- points -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mark:
    """Points of one set-up and phase that lie near each other, with one label."""

    part: str
    phase: str
    places: tuple[Place, ...]
    titles: tuple[str, ...]
    label: str


def _marks(frame: Frame, case: Case, *, several: bool) -> Iterator[_Mark]:
    """All points of a case."""
    for phase in dict.fromkeys(plan.point.phase for plan in case.plans):
        for near in _chains(frame, [plan for plan in case.plans if plan.point.phase == phase]):
            number = f"{case.number}: " if several else ""
            yield _Mark(
                part=case.first.spec.name,
                phase=phase,
                places=tuple(_place(frame, plan) for plan in near),
                titles=tuple(_title(plan) for plan in near),
                label=f"{number}{phase} {', '.join(str(plan.point.batch) for plan in near)}",
            )


def _chains(frame: Frame, plans: Sequence[Plan]) -> list[list[Plan]]:
    """By batch, cut where the next point is far."""
    chains: list[list[Plan]] = []
    for plan in sorted(plans, key=lambda each: each.point.batch):
        if chains and math.dist(_place(frame, chains[-1][-1]), _place(frame, plan)) < NEIGHBOURS:
            chains[-1].append(plan)
        else:
            chains.append([plan])
    return chains


def _place(frame: Frame, plan: Plan) -> Place:
    return frame.x(plan.arithmetic_intensity_flops_per_byte), frame.y(plan.flops_per_second)


def _title(plan: Plan) -> str:
    return (
        f"{plan.point.model} on {plan.gpus} × {plan.spec.name}, {plan.point.phase} at batch "
        f"{plan.point.batch}: {render_number(plan.arithmetic_intensity_flops_per_byte)} FLOP/byte, "
        f"{render_quantity(plan.flops_per_second, 'FLOP/s')} a GPU; {plan.bottleneck}"
    )


def _draw_mark(group: Element, placer: LabelPlacer, mark: _Mark) -> None:
    for (x, y), title in zip(mark.places, mark.titles, strict=True):
        _add(_draw_marker(group, mark.phase, x, y), "title", title)
    x, y = max(mark.places)  # on the right there is most room
    label = placer.place(mark.label, x, y)
    if label.leader is not None:
        (x1, y1), (x2, y2) = label.leader
        _add(group, "line", class_="leader", x1=x1, y1=y1, x2=x2, y2=y2)
    _add(group, "text", label.text, class_="label", x=label.x, y=label.y, text_anchor=label.anchor)


def _draw_marker(group: Element, phase: str, x: float, y: float) -> Element:
    """A disc is decode, a square prefill."""
    if phase == "decode":
        return _add(group, "circle", class_="decode", cx=x, cy=y, r=MARKER_RADIUS)
    side = 2 * MARKER_RADIUS - 1
    return _add(group, "rect", class_="prefill", x=x - side / 2, y=y - side / 2, width=side, height=side)


# --- roofs and words ----------------------------------------------------------------------------------


def _draw_axes(picture: Element, frame: Frame) -> None:
    for line in grid_lines(frame):
        _add(picture, "polyline", class_="grid", points=line.points)
    for decade in range(X_DECADES[0], X_DECADES[1] + 1):
        at = frame.x(10.0**decade), frame.y_end + 16
        _write(picture, at, render_quantity(10.0**decade, "").strip(), "quiet", "middle")
    for decade in range(frame.y_decades[0], frame.y_decades[1] + 1):
        at = frame.left - 7, frame.y(10.0**decade) + 4
        _write(picture, at, render_quantity(10.0**decade, "").strip(), "quiet", "end")
    foot = frame.x_end, frame.height - 4
    _write(picture, foot, "arithmetic intensity, FLOP/byte →", "quiet", "end")
    _write(picture, (frame.left + 6, frame.top + 14), "↑ FLOP/s of each GPU", "quiet")


def _draw_roof(group: Element, frame: Frame, placer: LabelPlacer, name: str, dtype: str, roof: Roof) -> None:
    """The two roofs of a part at a dtype, their ridge, and what they are."""
    bandwidth, level = roof.dram_bytes_per_second, frame.y(roof.flops_per_second)
    outline = _outline(frame, roof)
    ridge = outline[1][0]
    line = _add(group, "polyline", class_="roof", points=" ".join(f"{x},{y}" for x, y in outline))
    memory, compute = render_quantity(bandwidth, "B/s"), render_quantity(roof.flops_per_second, "FLOP/s")
    _add(line, "title", f"{name}, {dtype}: {memory}, {compute}")
    _add(group, "line", class_="ridge", x1=ridge, y1=level, x2=ridge, y2=frame.y_end)
    _write_free(
        group, frame, placer, (frame.x_end - 4, level - 5), f"{name} {dtype} {compute}, {memory}", "end"
    )
    _write_free(
        group,
        frame,
        placer,
        (ridge + 5, frame.y_end - 8),
        f"ridge {render_number(roof.ridge_flops_per_byte)}",
    )


def _draw_legend(picture: Element, cases: Sequence[Case], colours: Mapping[str, str]) -> None:
    """What the numbers mean, a line each."""
    for row, case in enumerate(cases):
        y = PLOT_HEIGHT + LINE_HEIGHT * (row + 1)
        group = _group(picture, colours[case.first.spec.name])
        _draw_marker(group, "decode", 16, y - 4)
        _draw_marker(group, "prefill", 32, y - 4)
        _write(group, (46, y), f"{case.number}: {described(case.first)}", "case")


def _outline(frame: Frame, roof: Roof) -> tuple[Place, Place, Place]:
    """Where the memory roof enters the plot, the ridge, and where the compute roof leaves it."""
    bandwidth, level = roof.dram_bytes_per_second, frame.y(roof.flops_per_second)
    start = max(10.0 ** X_DECADES[0], 10.0 ** frame.y_decades[0] / bandwidth)
    return (
        (frame.x(start), frame.y(start * bandwidth)),
        (frame.x(roof.ridge_flops_per_byte), level),
        (frame.x_end, level),
    )


def _keep_clear(placer: LabelPlacer, outline: Sequence[Place]) -> None:
    """Labels beside a line, not on it."""
    for (x1, y1), (x2, y2) in itertools.pairwise(outline):
        pieces = max(int(math.dist((x1, y1), (x2, y2)) / 6), 1)
        for n in range(pieces + 1):
            placer.block(Box.around(x1 + (x2 - x1) * n / pieces, y1 + (y2 - y1) * n / pieces, 2.0))


def _write_free(
    group: Element, frame: Frame, placer: LabelPlacer, place: Place, text: str, anchor: Anchor = "start"
) -> None:
    """There, or as little below or above it as something else leaves room."""
    x = place[0]
    left = x - text_width(text) if anchor == "end" else x
    y = next(
        y
        for step in itertools.count()
        for y in (place[1] + step * LINE_HEIGHT, place[1] - step * LINE_HEIGHT)
        if y < frame.y_end and not placer.blocked(Box.of_text(left, y, text))
    )
    placer.block(Box.of_text(left, y, text))
    _write(group, (x, y), text, "roof-label", anchor)


def _write(parent: Element, place: Place, text: str, kind: str, anchor: Anchor = "start") -> None:
    _add(parent, "text", text, class_=kind, x=place[0], y=round(place[1], 1), text_anchor=anchor)


# --- elements -----------------------------------------------------------------------------------------


def _group(parent: Element, kind: str) -> Element:
    return _add(parent, "g", class_=kind)


def _add(parent: Element, tag: str, text: str | None = None, /, **attributes: object) -> Element:
    """An element at the end of another; in the names of attributes, ``_`` is for what Python forbids."""
    written = {name.rstrip("_").replace("_", "-"): str(value) for name, value in attributes.items()}
    element = ElementTree.SubElement(parent, tag, written)
    element.text = text
    return element
