"""Labels that do not cover each other: the nearest free place, with a leader line when it is far."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

Anchor = Literal["start", "middle", "end"]

CHARACTER_WIDTH = 6.8
"""Mean width of a character of the chart's 12-unit text, a little generous."""
LINE_HEIGHT = 14.0

# Below and to the right first: a roofline's points lie below and to the right of its roof.
_DIRECTIONS: tuple[tuple[float, float, Anchor], ...] = tuple(
    (
        math.cos(math.radians(degrees)),
        math.sin(math.radians(degrees)),
        "middle" if degrees in (90, 270) else "end" if 90 < degrees < 270 else "start",
    )
    for degrees in (0, 45, 90, 180, 135, 315, 270, 225)
)
_DISTANCES = (11.0, 24.0, 40.0, 58.0, 80.0)


def text_width(text: str) -> float:
    """About how wide a line of text is."""
    return len(text) * CHARACTER_WIDTH


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A rectangle; y grows downwards."""

    left: float
    top: float
    right: float
    bottom: float

    @classmethod
    def around(cls, x: float, y: float, radius: float) -> Box:
        """The square around a point."""
        return cls(left=x - radius, top=y - radius, right=x + radius, bottom=y + radius)

    @classmethod
    def of_text(cls, x: float, baseline: float, text: str) -> Box:
        """What a line of text covers that starts at `x`."""
        return cls(left=x, top=baseline - LINE_HEIGHT + 3, right=x + text_width(text), bottom=baseline + 3)

    def overlap(self, other: Box) -> float:
        """The area that both cover."""
        wide = min(self.right, other.right) - max(self.left, other.left)
        high = min(self.bottom, other.bottom) - max(self.top, other.top)
        return wide * high if wide > 0 and high > 0 else 0.0

    def holds(self, other: Box) -> bool:
        """Whether the other one is inside."""
        return (
            self.left <= other.left
            and self.top <= other.top
            and self.right >= other.right
            and self.bottom >= other.bottom
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedLabel:
    """A label with its place: `anchor` says which part of it is at `x`; `y` is its baseline."""

    text: str
    x: float
    y: float
    anchor: Anchor
    leader: tuple[tuple[float, float], tuple[float, float]] | None
    """The line from the point to the label, when that is not beside it."""
    box: Box
    """What it covers."""


class LabelPlacer:
    """Finds places within an area; what is placed or blocked stays covered."""

    def __init__(self, area: Box) -> None:
        self._area = area
        self._covered: list[Box] = []

    def block(self, box: Box) -> None:
        """Keep labels away from here."""
        self._covered.append(box)

    def blocked(self, box: Box) -> bool:
        """Whether anything is there already."""
        return any(box.overlap(covered) > 0 for covered in self._covered)

    def place(self, text: str, x: float, y: float) -> PlacedLabel:
        """The nearest free place beside a point, or the least covered one where none is free."""
        chosen = next(
            (label for label in _around(text, x, y) if self._fits(label) and not self.blocked(label.box)),
            None,
        ) or min(_around(text, x, y), key=lambda label: (not self._fits(label), self._covering(label)))
        self.block(chosen.box)
        return chosen

    def _fits(self, label: PlacedLabel) -> bool:
        return self._area.holds(label.box)

    def _covering(self, label: PlacedLabel) -> float:
        return sum(label.box.overlap(covered) for covered in self._covered)


def _around(text: str, x: float, y: float) -> Iterator[PlacedLabel]:
    """A label in every direction, near first; it hangs on the side that faces its point."""
    width = text_width(text)
    shift = {"start": 0.0, "middle": width / 2, "end": width}
    for distance in _DISTANCES:
        for across, down, anchor in _DIRECTIONS:
            at = x + across * distance
            left = at - shift[anchor]
            top = y + down * distance - LINE_HEIGHT * (1 - down) / 2
            box = Box(left=left, top=top, right=left + width, bottom=top + LINE_HEIGHT)
            end = (
                round(min(max(x, box.left), box.right), 1),
                round(min(max(y, box.top), box.bottom), 1),
            )
            yield PlacedLabel(
                text=text,
                x=round(at, 1),
                y=round(box.bottom - 3.5, 1),
                anchor=anchor,
                leader=((x, y), end) if distance > _DISTANCES[0] else None,
                box=box,
            )
