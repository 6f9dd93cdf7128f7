"""What one more engine and one more GPU cost: a line through many sizes of node, and how straight it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench.beats import Beats, beats_of
from tests.bench.table import Figure, Table

ENGINES = (1, 2, 4, 8, 16, 32, 64)
GPUS = (1, 2, 4, 8, 16)
BESIDE = 8
"""GPUs while engines grow, and engines while GPUs do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """The least squares through points."""

    slope: float
    intercept: float
    r_squared: float
    """Of the variance, how much the line explains; 1 for points that do not vary."""
    deviation: float
    """The farthest point's distance from the line, in parts of what is measured there."""

    @classmethod
    def through(cls, points: Mapping[int, float]) -> Line:
        """Raises `ValueError` for fewer than two sizes."""
        if len(points) < 2:
            raise ValueError("a line needs two points")
        mean_x, mean_y = sum(points) / len(points), sum(points.values()) / len(points)
        spread = sum((x - mean_x) ** 2 for x in points)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in points.items()) / spread
        intercept = mean_y - slope * mean_x
        off = {x: y - (intercept + slope * x) for x, y in points.items()}
        variance = sum((y - mean_y) ** 2 for y in points.values())
        return cls(
            slope=slope,
            intercept=intercept,
            r_squared=1.0 - sum(one**2 for one in off.values()) / variance if variance else 1.0,
            deviation=max(abs(off[x]) / points[x] for x in points),
        )


def growth(
    table: Table, library: Path, *, seconds: int, engines: Sequence[int] = ENGINES, gpus: Sequence[int] = GPUS
) -> dict[tuple[int, int], Beats]:
    """Each size for so many seconds of its own time; by numbers of GPUs and engines."""
    sizes = dict.fromkeys([*((BESIDE, count) for count in engines), *((count, BESIDE) for count in gpus)])
    measured = {size: beats_of(library, gpus=size[0], engines=size[1], seconds=seconds) for size in sizes}
    of_engines = {count: measured[BESIDE, count] for count in engines}
    of_gpus = {count: measured[count, BESIDE] for count in gpus}
    for what, beside, line in (("engine", "GPUs", of_engines), ("GPU", "engines", of_gpus)):
        table.section(f"growth, {min(line)} to {max(line)} {what}s beside {BESIDE} {beside}")
        for count, beats in line.items():
            table.add(Figure(what=f"{count} {what}s", agent=beats.a_second_ms, unit="CPU ms a second"))
        table.add(*_told(what, line))
    return measured


def _told(what: str, sizes: Mapping[int, Beats]) -> tuple[Figure, ...]:
    line = Line.through({count: beats.a_second_ms for count, beats in sizes.items()})
    series = Line.through({count: float(beats.series) for count, beats in sizes.items()})
    return (
        Figure(what=f"each further {what}: slope", agent=line.slope, unit="CPU ms a second"),
        Figure(what="all else: intercept", agent=line.intercept, unit="CPU ms a second"),
        Figure(what="how straight: R²", agent=line.r_squared, unit=""),
        Figure(what="farthest point from the line", agent=line.deviation * 100, unit="% of it"),
        Figure(what=f"series of each further {what}", agent=series.slope, unit=""),
    )
