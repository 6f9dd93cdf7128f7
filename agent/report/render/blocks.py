"""What a review consists of when it is shown: sections of tables, charts, entries and sentences.

Every format renders these, so that HTML and Markdown cannot say different things.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.report.render.words import DASH

Tone = Literal["", "alarm", "quiet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """What stands in a table at one place."""

    text: str
    detail: str = ""
    """Beneath it, smaller."""
    tone: Tone = ""
    swatch: str = ""
    """The class whose colour stands beside it."""
    bar_ratio: float | None = None
    """Drawn as a bar, 0 to 1."""
    bar_kind: str = ""
    """The class in whose colour."""
    link: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column; numbers are set to the right."""

    title: str
    is_number: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows of cells, the first of each its name; `more` are rows that few will read."""

    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: tuple[tuple[Cell, ...], ...] = ()
    more_words: str = ""
    file: str = ""
    """The CSV file with the same and more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """A chart by its name; `caption` says how to read it."""

    name: str
    caption: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charts:
    """Small charts of one kind side by side; `rest` says what is not shown."""

    names: tuple[str, ...]
    caption: str
    rest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prose:
    """Sentences."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Something with a title and more to say about it than fits in a row."""

    title: str
    aside: str
    """Its most important number."""
    facts: tuple[str, ...]
    paragraphs: tuple[tuple[str, str], ...]
    """What each is about, and what it says."""
    link: str = ""
    link_text: str = ""
    queries: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """Entries, numbered where their order matters."""

    entries: tuple[Entry, ...]
    is_numbered: bool = False
    more: tuple[Entry, ...] = ()
    more_words: str = ""


Block = Table | Chart | Charts | Prose | Entries


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A part of the review that answers one question."""

    key: str
    title: str
    lead: str
    blocks: tuple[Block, ...]
    queries: tuple[str, ...] = ()
    """The ids of the queries that its numbers come from."""


def cell(text: str | None) -> Cell:
    """A plain one; a dash where there is nothing to tell."""
    return Cell(text=text) if text else Cell(text=DASH, tone="quiet")
