"""Units: the few conversions the agent needs, and how quantities are written for people.

Inside the agent everything is in base units (bytes, seconds, hertz, ratios 0–1), in the floats' own
precision; these functions are for the last step, words.
"""

from __future__ import annotations

import math

KIBI = 1024
MEBI = 1024**2
GIBI = 1024**3
MEGA = 1e6
GIGA = 1e9
NANO = 1e-9
SECONDS_PER_HOUR = 3600.0

_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def render_quantity(value: float, unit: str) -> str:
    """Three significant digits and a decimal prefix: ``render_quantity(3.35e12, "B/s")`` is ``3.35 TB/s``."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor * 0.9995:
            return f"{render_number(value / factor)} {prefix}{unit}"
    return f"{render_number(value)} {unit}"


def render_number(value: float) -> str:
    """Three significant digits without an exponent: ``0.034``, ``1.05``, ``295``, ``12345``."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    text = f"{value:.{min(decimals, 6)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def render_percent(ratio: float) -> str:
    """A ratio as a percentage for people: ``0.8712`` is ``87 %``, ``0.0034`` is ``0.3 %``."""
    percent = ratio * 100
    return f"{percent:.1f} %" if abs(percent) < 9.95 else f"{percent:.0f} %"


def render_seconds(seconds: float) -> str:
    """A duration in the unit that fits: ``5.8 ms``, ``12 s``, ``3 min``, ``2.4 h``."""
    if seconds < 1e-3:
        return f"{render_number(seconds * 1e6)} µs"
    if seconds < 1:
        return f"{render_number(seconds * 1e3)} ms"
    if seconds < 120:
        return f"{render_number(seconds)} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{render_number(seconds / SECONDS_PER_HOUR)} h"
