"""The characters that lines and bars are made of; others where the terminal does not know these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Glyphs:
    """Each character is one cell wide."""

    full: str = "█"
    empty: str = "·"
    selected: str = "▶"
    levels: str = "⎽⎼─⎻⎺"
    """A line at several heights of a cell, the lowest first."""
    ridge: str = "┊"
    axis: str = "│"
    floor: str = "─"
    corner: str = "└"
    gpu: str = "●"
    cursor: str = "▏"
    above: str = "↑"
    below: str = "↓"
    cut: str = "…"


ASCII = Glyphs(
    full="#",
    empty=".",
    selected=">",
    levels="_.-'",
    ridge=":",
    axis="|",
    floor="-",
    corner="+",
    gpu="O",
    cursor="_",
    above="^",
    below="v",
    cut="~",
)


def glyphs_for(encoding: str | None) -> Glyphs:
    """Those that this encoding has."""
    try:
        "".join(getattr(_UNICODE, name) for name in Glyphs.__slots__).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return _UNICODE


_UNICODE = Glyphs()
