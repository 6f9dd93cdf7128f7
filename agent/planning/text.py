"""Text for a terminal of 80 columns."""

from __future__ import annotations

import textwrap

from agent.units import SECONDS_PER_HOUR, render_number, render_quantity, render_seconds

WIDTH = 79
LONGEST_HOURS = 9999


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


def cell(value: float, width: int, decimals: int | None = 0) -> str:
    """A number at the right of a column, a blank before it; ``12.3M`` or ``3e-05`` where it is too long.

    Without `decimals` it has three significant digits.
    """
    text = render_number(value) if decimals is None else f"{value:.{decimals}f}"
    if len(text) >= width:
        text = render_quantity(value, "").replace(" ", "") if value >= 1 else f"{value:.0e}"
    return f"{text:>{width}}"


def seconds_text(seconds: float) -> str:
    """A duration of at most eight characters, as long as it is."""
    hours = seconds / SECONDS_PER_HOUR
    return render_seconds(seconds) if hours <= LONGEST_HOURS else render_quantity(hours, "h")
