"""The roofline in characters: both axes logarithmic, the roofs as lines, what runs as points.

Geometry only: a grid of marks, of which `frame` makes text.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from agent.exposition.picture import EnginePicture, GpuPicture, RoofPicture
from agent.exposition.roof_lines import X_DECADES
from agent.terminal.glyphs import Glyphs
from agent.units import render_number, render_quantity

Kind = Literal["grid", "peak", "roof", "ridge", "gpu", "phase", "label"]

LEFT = 8
"""Cells for what stands beside the vertical axis."""
MIN_DECADE, MAX_DECADE = 8, 12
"""Bounds of the lowest decade shown: it follows the lowest point."""
LOWERED_RATIO = 0.98
"""A roof that is less of its peak than this has its peak drawn too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """Where something is."""

    flops_per_byte: float
    flops_per_second: float
    glyph: str
    kind: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """One character."""

    character: str
    kind: Kind


Grid = dict[tuple[int, int], Mark]
"""By column and line, from the upper left corner."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A grid and its size."""

    width: int
    height: int
    grid: Grid

    def lines(self) -> Iterator[tuple[Mark, ...]]:
        """From above; blanks are marks of the grid."""
        blank = Mark(character=" ", kind="grid")
        for line in range(self.height):
            yield tuple(self.grid.get((column, line), blank) for column in range(self.width))


def points_of(
    gpus: Sequence[GpuPicture], engines: Sequence[EnginePicture], glyphs: Glyphs
) -> tuple[Point, ...]:
    """GPUs as they are now, and phases while they run; what is not known has none."""
    phases = (phase for engine in engines for phase in engine.phases)
    return (
        *(
            Point(
                flops_per_byte=phase.flops_per_byte,
                flops_per_second=phase.flops_per_second,
                glyph=phase.name[0],
                kind="phase",
            )
            for phase in phases
        ),
        *(
            Point(
                flops_per_byte=gpu.intensity.value,
                flops_per_second=gpu.flops.value,
                glyph=glyphs.gpu,
                kind="gpu",
            )
            for gpu in gpus
            if gpu.flops is not None and gpu.intensity is not None
            if gpu.flops.value > 0 and gpu.intensity.value > 0
        ),
    )


def roofline(
    roof: RoofPicture,
    peak: RoofPicture | None,
    points: Sequence[Point],
    *,
    width: int,
    height: int,
    glyphs: Glyphs,
) -> Chart:
    """The chart of one roof; its last two lines are the horizontal axis."""
    scale = _Scale.of(roof, peak, points, width=width, height=height)
    grid: Grid = {}
    for x in range(LEFT, width):
        grid[x, height - 2] = Mark(character=glyphs.floor, kind="grid")
    for y in range(height - 2):
        grid[LEFT - 1, y] = Mark(character=glyphs.axis, kind="grid")
    grid[LEFT - 1, height - 2] = Mark(character=glyphs.corner, kind="grid")
    for decade in range(scale.low, math.floor(scale.high) + 1):
        _write(grid, f"{render_quantity(10.0**decade, ''):>{LEFT - 2}}", 0, scale.line(10.0**decade), width)
    for decade in range(X_DECADES[0], X_DECADES[1] + 1):
        label = render_number(10.0**decade)
        at = min(max(scale.column(10.0**decade) - len(label) // 2, 0), width - len(label))
        _write(grid, label, at, height - 1, width)
    if peak is not None and roof.flops_per_second < LOWERED_RATIO * peak.flops_per_second:
        _draw_roof(grid, scale, peak, "peak", glyphs)
    _draw_roof(grid, scale, roof, "roof", glyphs)
    ridge = scale.column(roof.ridge_flops_per_byte)
    for y in range(scale.line(roof.flops_per_second) + 1, height - 2):
        grid[ridge, y] = Mark(character=glyphs.ridge, kind="ridge")
    lowered = (
        ""
        if peak is None or abs(roof.ridge_flops_per_byte / peak.ridge_flops_per_byte - 1) < 0.02
        else " as clocked"
    )
    _write(grid, f"ridge {render_number(roof.ridge_flops_per_byte)}{lowered}", ridge + 2, height - 3, width)
    level = render_quantity(roof.flops_per_second, "FLOP/s")
    _write(grid, level, width - len(level), max(scale.line(roof.flops_per_second) - 1, 0), width)
    bandwidth = render_quantity(roof.dram_bytes_per_second, "B/s")
    foot = scale.column(10.0**scale.low / roof.dram_bytes_per_second * 30)
    _write(grid, bandwidth, foot + 3, scale.line(10.0**scale.low * 30), width)
    for point in points:
        place = scale.column(point.flops_per_byte), scale.line(point.flops_per_second)
        grid[place] = Mark(character=point.glyph, kind=point.kind)
    return Chart(width=width, height=height, grid=grid)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scale:
    width: int
    height: int
    low: int
    high: float
    """Decades."""

    @classmethod
    def of(
        cls, roof: RoofPicture, peak: RoofPicture | None, points: Sequence[Point], *, width: int, height: int
    ) -> _Scale:
        highest = max(roof.flops_per_second, peak.flops_per_second if peak is not None else 0.0)
        lowest = min([point.flops_per_second for point in points], default=1e12)
        low = min(max(math.floor(math.log10(lowest / 2)), MIN_DECADE), MAX_DECADE)
        high = max(math.log10(highest * 2), low + 1.0)
        return cls(width=width, height=height, low=low, high=high)

    def column(self, flops_per_byte: float) -> int:
        """What is off the scale is at its edge."""
        part = (math.log10(flops_per_byte) - X_DECADES[0]) / (X_DECADES[1] - X_DECADES[0])
        return LEFT + round(min(max(part, 0.0), 1.0) * (self.width - LEFT - 1))

    def intensity(self, column: int) -> float:
        part = (column - LEFT) / (self.width - LEFT - 1)
        return float(10 ** (X_DECADES[0] + part * (X_DECADES[1] - X_DECADES[0])))

    def line(self, flops_per_second: float) -> int:
        return round(min(max(self.height_of(flops_per_second), 0.0), self.height - 3.0))

    def height_of(self, flops_per_second: float) -> float:
        """In lines from above, off the scale as well."""
        part = (math.log10(flops_per_second) - self.low) / (self.high - self.low)
        return (1 - part) * (self.height - 3)


def _draw_roof(grid: Grid, scale: _Scale, roof: RoofPicture, kind: Kind, glyphs: Glyphs) -> None:
    for x in range(LEFT, scale.width):
        level = min(scale.intensity(x) * roof.dram_bytes_per_second, roof.flops_per_second)
        height = scale.height_of(level)
        y = round(height)
        if 0 <= y <= scale.height - 3:
            step = int((y - height + 0.5) * len(glyphs.levels))
            character = glyphs.levels[min(max(step, 0), len(glyphs.levels) - 1)]
            grid[x, y] = Mark(character=character, kind=kind)


def _write(grid: Grid, text: str, column: int, line: int, width: int) -> None:
    """Where there is room: nothing that was drawn is written over."""
    places = [(column + offset, line) for offset in range(len(text))]
    if places[-1][0] < width and not any(place in grid for place in places):
        for place, character in zip(places, text, strict=True):
            grid[place] = Mark(character=character, kind="label")
