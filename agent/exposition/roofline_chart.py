"""The live roofline: geometry only, in the user units of one SVG; the template draws it.

Both axes are logarithmic, so the memory roof is a straight line of slope 1 decade a decade and every
compute roof is level. A point is where a GPU is now; work can only be below its roof.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.exposition.headline import render_numbers
from agent.exposition.label_placement import Anchor, Box, LabelPlacer, PlacedLabel, text_width
from agent.roofline.bottleneck import WORDS, Bottleneck
from agent.roofline.gpus import GpuSpec
from agent.roofline.roof import Roof
from agent.roofline.workload import PhaseWork
from agent.units import render_number, render_percent, render_quantity

X_DECADES = (-1, 4)
MIN_Y_DECADE, MAX_Y_DECADE = 8, 11
"""Bounds of the lowest decade shown: it follows the lowest point."""
SAME_PLACE = 7.0
"""Points nearer than this share one marker and one label."""
LOWERED_RATIO = 0.98
"""A current roof below this part of its peak is drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A line of text; `angle` is in degrees, clockwise."""

    x: float
    y: float
    text: str
    anchor: Anchor = "start"
    angle: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A polyline: `points` as SVG wants them, `kind` a class of the style sheet."""

    points: str
    kind: str
    title: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """A point with its label. `bottleneck` is its class, or `None` for a phase of an engine."""

    x: float
    y: float
    bottleneck: Bottleneck | None
    titles: tuple[str, ...]
    """One line for each that is here."""
    label: PlacedLabel


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The plot's rectangle and its scales."""

    width: float
    height: float
    y_decades: tuple[int, int]
    left: float = 46.0
    right: float = 14.0
    top: float = 8.0
    bottom: float = 40.0

    @property
    def x_end(self) -> float:
        """The plot's right edge."""
        return self.width - self.right

    @property
    def y_end(self) -> float:
        """The plot's lower edge."""
        return self.height - self.bottom

    @property
    def slope_degrees(self) -> float:
        """The angle at which the memory roof rises."""
        decade_x = (self.x_end - self.left) / (X_DECADES[1] - X_DECADES[0])
        decade_y = (self.y_end - self.top) / (self.y_decades[1] - self.y_decades[0])
        return math.degrees(math.atan2(decade_y, decade_x))

    def x(self, flops_per_byte: float) -> float:
        """Where an intensity is; what is off the scale is at its edge."""
        return self._place(flops_per_byte, X_DECADES, self.left, self.x_end)

    def y(self, flops_per_second: float) -> float:
        """Where a speed is, likewise."""
        return self._place(flops_per_second, self.y_decades, self.y_end, self.top)

    @staticmethod
    def _place(value: float, decades: tuple[int, int], start: float, end: float) -> float:
        part = (math.log10(value) - decades[0]) / (decades[1] - decades[0])
        return round(start + min(max(part, 0.0), 1.0) * (end - start), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RooflineChart:
    """Everything the template needs."""

    frame: Frame
    x_ticks: tuple[Text, ...]
    y_ticks: tuple[Text, ...]
    grid: tuple[Line, ...]
    regions: tuple[Line, ...]
    """What lies under the roof of the most frequent part: left of the ridge, and right of it."""
    roofs: tuple[Line, ...]
    roof_labels: tuple[Text, ...]
    markers: tuple[Marker, ...]
    absent: str
    """The numbers of the GPUs that have no point."""
    has_lowered: bool
    """Whether a roof lower than its peak is drawn."""
    summary: str
    """What the picture shows, for who cannot see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part on the node, and the GPUs of that part."""

    spec: GpuSpec
    gpus: tuple[GpuAssessment, ...]

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that are computed in now, where the part has a roof for them."""
        return tuple(sorted({gpu.compute_dtype for gpu in self.gpus} & self.spec.flops_per_second.keys()))

    @property
    def shown_dtypes(self) -> tuple[str, ...]:
        """fp32 has no tensor cores: its roof is of interest only while something runs in it."""
        return tuple(name for name in self.spec.flops_per_second if name != "fp32" or name in self.dtypes)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    flops_per_byte: float
    flops_per_second: float
    title: str
    number: int
    """Of the GPU or engine, for the label."""
    bottleneck: Bottleneck | None = None
    phase: str = ""


def parts_of(gpus: Iterable[GpuAssessment]) -> tuple[Part, ...]:
    """The parts that have a memory roof, the most frequent first."""
    groups: dict[str, list[GpuAssessment]] = defaultdict(list)
    for gpu in gpus:
        if gpu.up and gpu.spec is not None:
            groups[gpu.spec.name].append(gpu)
    parts = [
        Part(spec=group[0].spec, gpus=tuple(group)) for group in groups.values() if group[0].spec is not None
    ]
    return tuple(sorted(parts, key=lambda part: -len(part.gpus)))


def roofline_chart(
    assessment: Assessment, *, width: float, height: float, brief: bool
) -> RooflineChart | None:
    """The chart of a node; `None` without any roof. `brief` shortens labels for a small screen."""
    parts = parts_of(assessment.gpus)
    if not parts:
        return None
    placed = {index: point for index, gpu in enumerate(assessment.gpus) if (point := _gpu_point(gpu))}
    gpu_points = tuple(placed.values())
    phase_points = tuple(_phase_points(assessment.engines))
    frame = Frame(width=width, height=height, y_decades=_y_decades(parts, (*gpu_points, *phase_points)))
    clusters = [*_clusters(frame, gpu_points), *_clusters(frame, phase_points)]
    placer = LabelPlacer(Box(left=frame.left + 2, top=frame.top, right=frame.x_end, bottom=frame.y_end - 2))
    for cluster in clusters:
        x, y = frame.x(cluster[0].flops_per_byte), frame.y(cluster[0].flops_per_second)
        placer.block(Box.around(x, y, 7.0))
    roofs, roof_labels = _roofs(frame, parts, placer, brief=brief)
    return RooflineChart(
        frame=frame,
        x_ticks=tuple(
            Text(x=frame.x(10.0**decade), y=frame.y_end + 15, text=_tick(decade), anchor="middle")
            for decade in range(X_DECADES[0], X_DECADES[1] + 1)
        ),
        y_ticks=tuple(
            Text(x=frame.left - 7, y=frame.y(10.0**decade) + 4, text=_tick(decade), anchor="end")
            for decade in range(frame.y_decades[0], frame.y_decades[1] + 1)
        ),
        grid=tuple(_grid(frame)),
        regions=_regions(frame, parts[0]),
        roofs=tuple(roofs),
        roof_labels=tuple(roof_labels),
        markers=tuple(_marker(frame, placer, cluster, brief=brief) for cluster in clusters),
        absent=render_numbers(
            [gpu.index for index, gpu in enumerate(assessment.gpus) if index not in placed]
        ),
        has_lowered=any(line.kind == "current-roof" for line in roofs),
        summary=_summary(parts, gpu_points),
    )


def _tick(decade: int) -> str:
    return render_quantity(10.0**decade, "").strip()


def _y_decades(parts: Sequence[Part], points: Sequence[_Point]) -> tuple[int, int]:
    highest = max([*(flops for part in parts for flops in part.spec.flops_per_second.values()), 1e12])
    lowest = min([point.flops_per_second for point in points], default=1e12)
    floor = min(max(math.floor(math.log10(lowest / 2)), MIN_Y_DECADE), MAX_Y_DECADE)
    return floor, math.ceil(math.log10(highest * 1.3))


def _summary(parts: Sequence[Part], points: Sequence[_Point]) -> str:
    roofs = ", ".join(part.spec.name for part in parts)
    where = "; ".join(point.title for point in points) or "no GPU does measurable work"
    return f"Roofline of {roofs}. {where}."


# --- points ----------------------------------------------------------------------------------------


def _gpu_point(gpu: GpuAssessment) -> _Point | None:
    """Where a GPU is; `None` when nothing is computed or a number is not known."""
    flops, intensity = gpu.flops_per_second, gpu.intensity
    if flops is None or intensity is None or flops.value <= 0 or intensity.value <= 0:
        return None
    attained = "" if gpu.attained_ratio is None else f", {render_percent(gpu.attained_ratio)} of its roof"
    return _Point(
        flops_per_byte=intensity.value,
        flops_per_second=flops.value,
        number=gpu.index,
        bottleneck=gpu.verdict.bottleneck,
        title=(
            f"GPU {gpu.index}: {WORDS[gpu.verdict.bottleneck]}; {_place_words(intensity.value)}, "
            f"{render_quantity(flops.value, 'FLOP/s')}{attained} ({intensity.evidence})"
        ),
    )


def _phase_points(engines: Iterable[EngineAssessment]) -> Iterator[_Point]:
    """How fast each phase runs while it runs, on each of its GPUs."""
    for number, engine in enumerate(engines, start=1):
        if engine.work is None or engine.attribution is None or engine.served is None:
            continue
        spans: tuple[tuple[str, PhaseWork, float], ...] = (
            ("prefill", engine.work.prefill, engine.attribution.prefill_seconds),
            ("decode", engine.work.decode, engine.attribution.decode_seconds),
        )
        for phase, work, seconds in spans:
            intensity = work.intensity_flops_per_byte
            if not intensity or seconds <= 0 or work.flops <= 0:
                continue
            speed = work.flops / engine.served.tensor_parallel / seconds
            yield _Point(
                flops_per_byte=intensity,
                flops_per_second=speed,
                number=number,
                phase=phase,
                title=(
                    f"{phase} of engine {number} ({engine.key.server}) while it runs: "
                    f"{_place_words(intensity)}, {render_quantity(speed, 'FLOP/s')} a GPU (modelled)"
                ),
            )


def _place_words(flops_per_byte: float) -> str:
    return f"{render_number(flops_per_byte)} FLOP/byte"


def _clusters(frame: Frame, points: Iterable[_Point]) -> list[list[_Point]]:
    """Points of one kind that would cover each other, together."""
    clusters: list[list[_Point]] = []
    for point in points:
        x, y = frame.x(point.flops_per_byte), frame.y(point.flops_per_second)
        for cluster in clusters:
            first = cluster[0]
            same_kind = (first.bottleneck, first.phase) == (point.bottleneck, point.phase)
            distance = math.hypot(x - frame.x(first.flops_per_byte), y - frame.y(first.flops_per_second))
            if same_kind and distance < SAME_PLACE:
                cluster.append(point)
                break
        else:
            clusters.append([point])
    return clusters


def _marker(frame: Frame, placer: LabelPlacer, cluster: Sequence[_Point], *, brief: bool) -> Marker:
    first = cluster[0]
    x, y = frame.x(first.flops_per_byte), frame.y(first.flops_per_second)
    numbers = render_numbers([point.number for point in cluster])
    noun = first.phase or "GPU"
    if brief:
        noun = noun if not first.phase else noun[0]
    return Marker(
        x=x,
        y=y,
        bottleneck=first.bottleneck,
        titles=tuple(point.title for point in cluster),
        label=placer.place(f"{noun} {numbers}", x, y),
    )


# --- grid and roofs --------------------------------------------------------------------------------


def _grid(frame: Frame) -> Iterator[Line]:
    for decade in range(X_DECADES[0], X_DECADES[1] + 1):
        x = frame.x(10.0**decade)
        yield Line(points=f"{x},{frame.top} {x},{frame.y_end}", kind="grid")
    for decade in range(frame.y_decades[0], frame.y_decades[1] + 1):
        y = frame.y(10.0**decade)
        yield Line(points=f"{frame.left},{y} {frame.x_end},{y}", kind="grid")


def _roof_points(frame: Frame, roof: Roof) -> str:
    """The memory roof from the plot's edge to the ridge, and the compute roof from there."""
    bandwidth, ridge = roof.dram_bytes_per_second, roof.ridge_flops_per_byte
    start = max(10.0 ** X_DECADES[0], 10.0 ** frame.y_decades[0] / bandwidth)
    return (
        f"{frame.x(start)},{frame.y(start * bandwidth)} "
        f"{frame.x(ridge)},{frame.y(roof.flops_per_second)} {frame.x_end},{frame.y(roof.flops_per_second)}"
    )


def _regions(frame: Frame, part: Part) -> tuple[Line, ...]:
    roof = next((part.spec.roof(dtype) for dtype in part.dtypes), None)
    if roof is None:
        return ()
    under = _roof_points(frame, roof).split(" ")
    ridge = under[1].split(",")[0]
    edge = under[0].split(",")[0]
    return (
        Line(points=f"{under[0]} {under[1]} {ridge},{frame.y_end} {edge},{frame.y_end}", kind="memory"),
        Line(
            points=f"{under[1]} {under[2]} {frame.x_end},{frame.y_end} {ridge},{frame.y_end}", kind="compute"
        ),
    )


@dataclass(slots=True)
class _Ceiling:
    """One level of FLOP/s, which several parts and dtypes may share."""

    flops_per_second: float
    names: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Dtypes by part."""
    in_use: bool = False

    def describe(self, *, several_parts: bool) -> str:
        dtypes = [
            (f"{part} " if several_parts else "") + "/".join(names) for part, names in self.names.items()
        ]
        return f"{', '.join(dtypes)} {render_quantity(self.flops_per_second, 'FLOP/s')}"


def _roofs(
    frame: Frame, parts: Sequence[Part], placer: LabelPlacer, *, brief: bool
) -> tuple[list[Line], list[Text]]:
    lines: list[Line] = []
    labels: list[Text] = []
    ceilings: dict[float, _Ceiling] = {}
    for position, part in enumerate(parts):
        for dtype in part.shown_dtypes:
            flops = part.spec.flops_per_second[dtype]
            ceiling = ceilings.setdefault(flops, _Ceiling(flops))
            ceiling.names[part.spec.name].append(dtype)
            ceiling.in_use = ceiling.in_use or dtype in part.dtypes
        lines += _part_lines(frame, part)
        labels.append(_memory_label(frame, placer, part, position, several_parts=len(parts) > 1))
        labels += _ridge_labels(frame, part, placer, brief=brief)
    for ceiling in sorted(ceilings.values(), key=lambda level: (not level.in_use, -level.flops_per_second)):
        text = ceiling.describe(several_parts=len(parts) > 1)
        labels.append(_level_label(frame, placer, text, ceiling.flops_per_second))
    return lines, labels


def _part_lines(frame: Frame, part: Part) -> Iterator[Line]:
    name = part.spec.name
    for dtype in part.shown_dtypes:
        roof = part.spec.roof(dtype)
        assert roof is not None  # the dtype is a key of the part's table
        used = dtype in part.dtypes
        yield Line(
            points=_roof_points(frame, roof),
            kind="roof" if used else "other-roof",
            title=f"{name} {dtype}: {_describe(roof)}",
        )
        if used:
            x = frame.x(roof.ridge_flops_per_byte)
            yield Line(points=f"{x},{frame.y(roof.flops_per_second)} {x},{frame.y_end}", kind="ridge")
            yield from _lowered(frame, part, dtype)
    if not part.shown_dtypes:
        bandwidth = part.spec.dram_bytes_per_second
        top = 10.0 ** frame.y_decades[1]
        yield Line(
            points=_roof_points(frame, Roof(flops_per_second=top, dram_bytes_per_second=bandwidth)),
            kind="roof",
            title=f"{name}: {render_quantity(bandwidth, 'B/s')}; its FLOP/s are not known",
        )


def _describe(roof: Roof) -> str:
    return (
        f"{render_quantity(roof.flops_per_second, 'FLOP/s')}, "
        f"{render_quantity(roof.dram_bytes_per_second, 'B/s')}, "
        f"ridge at {_place_words(roof.ridge_flops_per_byte)}"
    )


def _lowered(frame: Frame, part: Part, dtype: str) -> Iterator[Line]:
    """The lowest roof as now clocked, where clocks are held down; what is as at peak is not drawn twice."""
    lowest = min(part.gpus, key=lambda gpu: (gpu.compute_clock_ratio, gpu.memory_clock_ratio))
    roof = lowest.current_roof(dtype)
    if roof is None or min(lowest.compute_clock_ratio, lowest.memory_clock_ratio) >= LOWERED_RATIO:
        return
    points = _roof_points(frame, roof)
    if lowest.memory_clock_ratio >= LOWERED_RATIO:
        points = points.partition(" ")[2]
    yield Line(
        points=points,
        kind="current-roof",
        title=f"GPU {lowest.index} as now clocked, {dtype}: {_describe(roof)}",
    )


def _memory_label(
    frame: Frame, placer: LabelPlacer, part: Part, position: int, *, several_parts: bool
) -> Text:
    """Along the memory roof, just above it; each further part's stands further up."""
    bandwidth = part.spec.dram_bytes_per_second
    start = max(10.0 ** X_DECADES[0], 10.0 ** frame.y_decades[0] / bandwidth)
    intensity = start * 10 ** (0.25 + 1.1 * position)
    name = f"{part.spec.name} " if several_parts else ""
    text = f"{name}memory {render_quantity(bandwidth, 'B/s')}"
    rise = math.radians(frame.slope_degrees)
    across, up = math.cos(rise), math.sin(rise)
    x, y = frame.x(intensity) - 6 * up, frame.y(intensity * bandwidth) - 6 * across
    for along in range(0, int(text_width(text)), 8):
        placer.block(Box.around(x + along * across, y - along * up, 5.0))
    return Text(x=round(x, 1), y=round(y, 1), text=text, angle=round(-frame.slope_degrees, 1))


def _ridge_labels(frame: Frame, part: Part, placer: LabelPlacer, *, brief: bool) -> Iterator[Text]:
    ridges = {
        round(roof.ridge_flops_per_byte, 1)
        for dtype in part.dtypes
        if (roof := part.spec.roof(dtype)) is not None
    }
    for ridge in sorted(ridges):
        text = f"ridge {render_number(ridge)}" + ("" if brief else " at rated clocks")
        x = frame.x(ridge) + 5
        y = frame.y_end - 8
        while placer.blocked(Box.of_text(x, y, text)):
            y -= 14
        placer.block(Box.of_text(x, y, text))
        yield Text(x=x, y=y, text=text)


def _level_label(frame: Frame, placer: LabelPlacer, text: str, flops_per_second: float) -> Text:
    """Above its line at the right edge, moved left until it is free."""
    y = round(frame.y(flops_per_second) - 5, 1)
    end = frame.x_end - 4
    width = text_width(text)
    while placer.blocked(Box.of_text(end - width, y, text)) and end - width > frame.left:
        end -= 12
    placer.block(Box.of_text(end - width, y, text))
    return Text(x=end, y=y, text=text, anchor="end")
