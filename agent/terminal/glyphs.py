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
    dot: str = "·"
    """Between two things said of the node."""


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
    dot="-",
)


def glyphs_for(encoding: str | None) -> Glyphs:
    """Those that this encoding has."""
    try:
        "".join(getattr(_UNICODE, name) for name in Glyphs.__slots__).encode(encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return _UNICODE


def encoded(text: str, encoding: str) -> bytes:
    """The text as this encoding has it; what is in none of its characters is spelled by others."""
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_SPELLED).encode(encoding, "replace")


_UNICODE = Glyphs()
_SPELLED = str.maketrans({"–": "-", "×": "x", "°": "", "µ": "u", "·": "-", "…": "...", "’": "'"})
