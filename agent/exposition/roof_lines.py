"""The roofs as lines and labels in the user units of one SVG.

Both axes are logarithmic, so the memory roof is a straight line of slope 1 decade a decade and every
compute roof is level.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agent.assessment import GpuAssessment
from agent.exposition.label_placement import Anchor, Box, LabelPlacer, text_width
from agent.roofline.gpus import MIG_MEMORY_SLICES, GpuSpec
from agent.roofline.roof import Roof
from agent.units import render_number, render_quantity

Place = tuple[float, float]

X_DECADES = (-1, 4)
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
    """A polyline or the outline of an area; `kind` is a class of the style sheet."""

    places: tuple[Place, ...]
    kind: str
    title: str = ""

    @property
    def points(self) -> str:
        """The places as SVG wants them."""
        return " ".join(f"{x},{y}" for x, y in self.places)


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
        return self._scale(flops_per_byte, X_DECADES, self.left, self.x_end)

    def y(self, flops_per_second: float) -> float:
        """Where a speed is, likewise."""
        return self._scale(flops_per_second, self.y_decades, self.y_end, self.top)

    @staticmethod
    def _scale(value: float, decades: tuple[int, int], start: float, end: float) -> float:
        part = (math.log10(value) - decades[0]) / (decades[1] - decades[0])
        return round(start + min(max(part, 0.0), 1.0) * (end - start), 1)


# --- the parts of a node --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part on the node, and the GPUs of that part."""

    spec: GpuSpec
    gpus: tuple[GpuAssessment, ...]

    @property
    def name(self) -> str:
        """As labels call it."""
        if self.spec.share == 1:
            return self.spec.name
        slices = self.spec.share * MIG_MEMORY_SLICES
        return f"{self.spec.name} MIG {slices:.0f}/{MIG_MEMORY_SLICES}"

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The dtypes that are computed in now, where the part has a roof for them."""
        return tuple(sorted({gpu.compute_dtype for gpu in self.gpus} & self.spec.flops_per_second.keys()))

    @property
    def shown_dtypes(self) -> tuple[str, ...]:
        """fp32 has no tensor cores: its roof is of interest only while something runs in it."""
        return tuple(name for name in self.spec.flops_per_second if name != "fp32" or name in self.dtypes)


def parts_of(gpus: Iterable[GpuAssessment]) -> tuple[Part, ...]:
    """The parts that have a memory roof, the most frequent first."""
    groups: dict[tuple[str, float, int | None], list[GpuAssessment]] = defaultdict(list)
    for gpu in gpus:
        if gpu.up and gpu.spec is not None and not gpu.partitioned:
            groups[(gpu.spec.name, gpu.spec.share, gpu.spec.sm_count)].append(gpu)
    parts = [
        Part(spec=group[0].spec, gpus=tuple(group)) for group in groups.values() if group[0].spec is not None
    ]
    return tuple(sorted(parts, key=lambda part: -len(part.gpus)))


# --- their roofs ----------------------------------------------------------------------------------


def grid_lines(frame: Frame) -> Iterator[Line]:
    """One line a decade, both ways."""
    for decade in range(X_DECADES[0], X_DECADES[1] + 1):
        x = frame.x(10.0**decade)
        yield Line(places=((x, frame.top), (x, frame.y_end)), kind="grid")
    for decade in range(frame.y_decades[0], frame.y_decades[1] + 1):
        y = frame.y(10.0**decade)
        yield Line(places=((frame.left, y), (frame.x_end, y)), kind="grid")


def _start(frame: Frame, bandwidth: float) -> float:
    """The intensity at which a memory roof enters the plot."""
    return max(10.0 ** X_DECADES[0], 10.0 ** frame.y_decades[0] / bandwidth)


def _outline(frame: Frame, roof: Roof) -> tuple[Place, Place, Place]:
    """Where the memory roof enters the plot, the ridge, and where the compute roof leaves it."""
    start, level = _start(frame, roof.dram_bytes_per_second), frame.y(roof.flops_per_second)
    return (
        (frame.x(start), frame.y(start * roof.dram_bytes_per_second)),
        (frame.x(roof.ridge_flops_per_byte), level),
        (frame.x_end, level),
    )


def regions(frame: Frame, part: Part) -> tuple[Line, ...]:
    """What lies under the roof in use: left of the ridge, and right of it. Empty without such a roof."""
    roof = next((part.spec.roof(dtype) for dtype in part.dtypes), None)
    if roof is None:
        return ()
    enters, ridge, leaves = _outline(frame, roof)
    foot = (ridge[0], frame.y_end)
    return (
        Line(places=(enters, ridge, foot, (enters[0], frame.y_end)), kind="memory"),
        Line(places=(ridge, leaves, (leaves[0], frame.y_end), foot), kind="compute"),
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


def roofs(
    frame: Frame, parts: Sequence[Part], placer: LabelPlacer, *, brief: bool
) -> tuple[list[Line], list[Text]]:
    """All roofs with their ridges, and their labels, which the placer then keeps free."""
    lines: list[Line] = []
    labels: list[Text] = []
    ceilings: dict[float, _Ceiling] = {}
    for position, part in enumerate(parts):
        for dtype in part.shown_dtypes:
            flops = part.spec.flops_per_second[dtype]
            ceiling = ceilings.setdefault(flops, _Ceiling(flops))
            ceiling.names[part.name].append(dtype)
            ceiling.in_use = ceiling.in_use or dtype in part.dtypes
        lines += _part_lines(frame, part)
        labels.append(_memory_label(frame, placer, part, position, several_parts=len(parts) > 1))
        labels += _ridge_labels(frame, part, placer, brief=brief)
    for ceiling in sorted(ceilings.values(), key=lambda level: (not level.in_use, -level.flops_per_second)):
        text = ceiling.describe(several_parts=len(parts) > 1)
        labels.append(_level_label(frame, placer, text, ceiling.flops_per_second))
    return lines, labels


def _part_lines(frame: Frame, part: Part) -> Iterator[Line]:
    name = part.name
    for dtype in part.shown_dtypes:
        roof = part.spec.roof(dtype)
        assert roof is not None  # the dtype is a key of the part's table
        used = dtype in part.dtypes
        yield Line(
            places=_outline(frame, roof),
            kind="roof" if used else "other-roof",
            title=f"{name} {dtype}: {_describe(roof)}",
        )
        if used:
            x = frame.x(roof.ridge_flops_per_byte)
            yield Line(places=((x, frame.y(roof.flops_per_second)), (x, frame.y_end)), kind="ridge")
            yield from _lowered(frame, part, dtype)
    if not part.shown_dtypes:
        bandwidth = part.spec.dram_bytes_per_second
        top = 10.0 ** frame.y_decades[1]
        yield Line(
            places=_outline(frame, Roof(flops_per_second=top, dram_bytes_per_second=bandwidth)),
            kind="roof",
            title=f"{name}: {render_quantity(bandwidth, 'B/s')}; its FLOP/s are not known",
        )


def intensity_words(flops_per_byte: float) -> str:
    """An intensity with its unit."""
    return f"{render_number(flops_per_byte)} FLOP/byte"


def _describe(roof: Roof) -> str:
    return (
        f"{render_quantity(roof.flops_per_second, 'FLOP/s')}, "
        f"{render_quantity(roof.dram_bytes_per_second, 'B/s')}, "
        f"ridge at {intensity_words(roof.ridge_flops_per_byte)}"
    )


def _lowered(frame: Frame, part: Part, dtype: str) -> Iterator[Line]:
    """The lowest roof as now clocked, where clocks are held down; what is as at peak is not drawn twice."""
    lowest = min(part.gpus, key=lambda gpu: (gpu.compute_clock_ratio, gpu.memory_clock_ratio))
    roof = lowest.current_roof(dtype)
    if roof is None or min(lowest.compute_clock_ratio, lowest.memory_clock_ratio) >= LOWERED_RATIO:
        return
    outline = _outline(frame, roof)
    yield Line(
        places=outline if lowest.memory_clock_ratio < LOWERED_RATIO else outline[1:],
        kind="current-roof",
        title=f"GPU {lowest.number} as now clocked, {dtype}: {_describe(roof)}",
    )


def _memory_label(
    frame: Frame, placer: LabelPlacer, part: Part, position: int, *, several_parts: bool
) -> Text:
    """Along the memory roof, just above it; each further part's stands further up."""
    bandwidth = part.spec.dram_bytes_per_second
    intensity = _start(frame, bandwidth) * 10 ** (0.25 + 1.1 * position)
    name = f"{part.name} " if several_parts else ""
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
