"""Tables from rows of the review: a field is a column and how it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from agent.report.render.blocks import Cell, Column, Table
from agent.report.render.words import counted

Row = TypeVar("Row")

TOP = 12
"""So many rows are shown at once; the rest is one click away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Field(Generic[Row]):
    """A column, and the cell in it for a row."""

    column: Column
    cell_of: Callable[[Row], Cell]


def numbers(title: str, cell_of: Callable[[Row], Cell]) -> Field[Row]:
    """A column of numbers."""
    return Field(column=Column(title=title), cell_of=cell_of)


def worded(title: str, cell_of: Callable[[Row], Cell]) -> Field[Row]:
    """A column of words."""
    return Field(column=Column(title=title, is_number=False), cell_of=cell_of)


def table(
    caption: str,
    rows: Sequence[Row],
    fields: Sequence[Field[Row] | None],
    *,
    file: str = "",
    noun: str = "row",
    top: int = TOP,
) -> Table:
    """A table of the fields that there are; of many rows the first `top` at once."""
    shown = [field for field in fields if field is not None]
    cells = tuple(tuple(field.cell_of(row) for field in shown) for row in rows)
    if len(cells) <= top + 2:  # to hide one or two is more trouble than to show them
        top = len(cells)
    return Table(
        caption=caption,
        columns=tuple(field.column for field in shown),
        rows=cells[:top],
        more=cells[top:],
        more_words=f"{counted(len(cells) - top, noun)} more" if len(cells) > top else "",
        file=file,
    )
