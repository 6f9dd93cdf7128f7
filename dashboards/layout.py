"""Where panels stand: rows, filled from the left; nobody writes a position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from grafanalib.core import GridPos, Panel

from dashboards.panels import Row

COLUMNS = 24


@dataclass(frozen=True, slots=True)
class Section:
    """Panels under a heading."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool


def banner(*panels: Panel) -> Section:
    """What stands at the top, without a heading, always open."""
    return Section("", panels, collapsed=False)


def row(title: str, *panels: Panel, collapsed: bool = False) -> Section:
    """A heading with its panels; a collapsed one queries nothing until it is opened."""
    return Section(title, panels, collapsed)


def laid_out(sections: Iterable[Section]) -> list[Panel]:
    """All panels in their places, in the order in which they are read."""
    placed: list[Panel] = []
    top = 0
    for section in sections:
        heading = None
        if section.title:
            heading = Row(
                title=section.title, collapsed=section.collapsed, gridPos=GridPos(1, COLUMNS, 0, top)
            )
            placed.append(heading)
            top += 1
        bottom = top
        for line in _lines(section):
            bottom = _place(line, bottom)
        if heading is not None and section.collapsed:
            heading.panels = list(section.panels)
        else:
            placed += section.panels
            top = bottom
    return placed


def _lines(section: Section) -> Iterator[list[Panel]]:
    """As many panels as fill a line exactly: a ragged board is a mistake in its widths."""
    line: list[Panel] = []
    for panel in section.panels:
        line.append(panel)
        if sum(one.gridPos.w for one in line) >= COLUMNS:
            yield _whole(section, line)
            line = []
    if line:
        yield _whole(section, line)


def _whole(section: Section, line: list[Panel]) -> list[Panel]:
    if sum(panel.gridPos.w for panel in line) != COLUMNS:
        widths = " + ".join(f"{panel.title} {panel.gridPos.w}" for panel in line)
        raise ValueError(f"{section.title or 'banner'}: {widths} is not {COLUMNS} columns")
    return line


def _place(line: Sequence[Panel], top: int) -> int:
    """Where the next line begins; all panels of a line are as high as its highest."""
    height = max(panel.gridPos.h for panel in line)
    left = 0
    for panel in line:
        panel.gridPos = GridPos(height, panel.gridPos.w, left, top)
        left += panel.gridPos.w
    return top + height
