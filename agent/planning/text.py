"""Text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap

WIDTH = 79


def wrapped(indent: str, text: str) -> list[str]:
    """Lines of the report's width; a percent sign stays with its number."""
    lines = textwrap.wrap(
        text.replace(" %", "\u00a0%"),
        width=WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
    )
    return [line.replace("\u00a0", " ") for line in lines]
