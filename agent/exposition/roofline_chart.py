"""The live roofline: geometry only, in the user units of one SVG; the template draws it.

A point is where a GPU is now, or how fast a phase of an engine runs while it runs; work can only be
below its roof.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.exposition.headline import render_numbers
from agent.exposition.label_placement import Box, LabelPlacer, PlacedLabel
from agent.exposition.roof_lines import (
    X_DECADES,
    Frame,
    Line,
    Part,
    Text,
    grid_lines,
    intensity_words,
    parts_of,
    regions,
    roofs,
)
from agent.roofline.bottleneck import WORDS, Bottleneck
from agent.roofline.workload import PhaseWork
from agent.units import render_percent, render_quantity

MIN_Y_DECADE, MAX_Y_DECADE = 8, 11
"""Bounds of the lowest decade shown: it follows the lowest point."""
NEIGHBOURS = 16.0
"""Points of one kind in a chain with gaps smaller than this share one label."""
MARKER_RADIUS = 7.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Points of one kind that are near each other, with one label for all."""

    places: tuple[tuple[float, float], ...]
    bottleneck: Bottleneck | None
    """Their class, or `None` for phases of engines."""
    titles: tuple[str, ...]
    """A line for each."""
    label: PlacedLabel


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
    clusters: tuple[Cluster, ...]
    absent: str
    """The numbers of the GPUs that have no point."""
    has_phases: bool
    has_lowered: bool
    """Whether a roof lower than its peak is drawn."""
    summary: str
    """What the picture shows, for who cannot see it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Point:
    flops_per_byte: float
    flops_per_second: float
    title: str
    number: str
    """Of the GPU or engine, for the label."""
    bottleneck: Bottleneck | None = None
    phase: str = ""


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
    groups = [*_groups(frame, gpu_points), *_groups(frame, phase_points)]
    placer = LabelPlacer(Box(left=frame.left + 2, top=frame.top, right=frame.x_end, bottom=frame.y_end - 2))
    for point in (*gpu_points, *phase_points):
        placer.block(Box.around(*_place(frame, point), MARKER_RADIUS))
    roof_lines, roof_labels = roofs(frame, parts, placer, brief=brief)
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
        grid=tuple(grid_lines(frame)),
        regions=regions(frame, parts[0]),
        roofs=tuple(roof_lines),
        roof_labels=tuple(roof_labels),
        clusters=tuple(_cluster(frame, placer, group, brief=brief) for group in groups),
        absent=render_numbers(
            [
                gpu.number
                for index, gpu in enumerate(assessment.gpus)
                if index not in placed and not gpu.partitioned
            ]
        ),
        has_phases=bool(phase_points),
        has_lowered=any(line.kind == "current-roof" for line in roof_lines),
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
    names = ", ".join(part.name for part in parts)
    where = "; ".join(point.title for point in points) or "no GPU does measurable work"
    return f"Roofline of {names}. {where}."


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
        number=gpu.number,
        bottleneck=gpu.verdict.bottleneck,
        title=(
            f"GPU {gpu.number}: {WORDS[gpu.verdict.bottleneck]}; {intensity_words(intensity.value)}, "
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
                number=str(number),
                phase=phase,
                title=(
                    f"{phase} of engine {number} ({engine.key.server}) while it runs: "
                    f"{intensity_words(intensity)}, {render_quantity(speed, 'FLOP/s')} a GPU (modelled)"
                ),
            )


def _groups(frame: Frame, points: Iterable[_Point]) -> list[list[_Point]]:
    """Points of one kind that lie in a chain, together."""
    groups: list[list[_Point]] = []
    for point in points:
        near = [group for group in groups if any(_neighbours(frame, point, other) for other in group)]
        groups = [group for group in groups if group not in near]
        groups.append([*(other for group in near for other in group), point])
    return groups


def _place(frame: Frame, point: _Point) -> tuple[float, float]:
    return frame.x(point.flops_per_byte), frame.y(point.flops_per_second)


def _neighbours(frame: Frame, one: _Point, other: _Point) -> bool:
    if (one.bottleneck, one.phase) != (other.bottleneck, other.phase):
        return False
    return math.dist(_place(frame, one), _place(frame, other)) < NEIGHBOURS


def _cluster(frame: Frame, placer: LabelPlacer, group: Sequence[_Point], *, brief: bool) -> Cluster:
    noun = group[0].phase or "GPU"
    if brief and group[0].phase:
        noun = noun[0]
    # The label stands at the rightmost point: on its right there is most room.
    x, y = max(_place(frame, point) for point in group)
    return Cluster(
        places=tuple(_place(frame, point) for point in group),
        bottleneck=group[0].bottleneck,
        titles=tuple(point.title for point in group),
        label=placer.place(f"{noun} {render_numbers([point.number for point in group])}", x, y),
    )
