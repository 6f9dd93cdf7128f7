"""What Grafana writes behind a number.

Units come from the table of metrics: a panel never spells its own where a metric has one. Grafana has no
code for FLOP/byte or tokens/s, and dashboard-linter refuses invented ones; those stand beside the axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grafanalib import formatunits


@dataclass(frozen=True, slots=True)
class Unit:
    """Grafana's code for a unit, and what an axis says where the code does not."""

    code: str
    axis: str = ""


COUNT = Unit(formatunits.SHORT)
RATIO = Unit(formatunits.PERCENT_UNIT)
SECONDS = Unit(formatunits.SECONDS)
SINCE = Unit(formatunits.DATE_TIME_FROM_NOW)
"""Milliseconds since 1970, shown as how long ago."""

OF_A_GAUGE: Mapping[str, Unit] = {
    "": COUNT,
    "tokens": Unit(formatunits.SHORT, "tokens"),
    "ratio": RATIO,
    "s": SECONDS,
    "bytes": Unit(formatunits.BYTES_IEC),
    "bytes/s": Unit(formatunits.BYTES_SEC),
    "FLOP": Unit(formatunits.SHORT, "FLOP"),
    "FLOP/s": Unit(formatunits.FLOPS_PER_SEC),
    "FLOP/byte": Unit(formatunits.NO_FORMAT, "FLOP/byte"),
    "W": Unit(formatunits.WATT),
    "J": Unit(formatunits.JOULE),
    "Hz": Unit(formatunits.HERTZ),
    "°C": Unit(formatunits.CELSUIS),
    "USD": Unit(formatunits.DOLLARS),
}
"""By the table's own units."""

OF_A_RATE: Mapping[str, Unit] = {
    "": Unit(formatunits.SHORT, "per second"),
    "tokens": Unit(formatunits.SHORT, "tokens/s"),
    "s": RATIO,
    "bytes": Unit(formatunits.BYTES_SEC),
    "FLOP": Unit(formatunits.FLOPS_PER_SEC),
    "J": Unit(formatunits.WATT),
    "USD": Unit(formatunits.DOLLARS, "USD/s"),
}
"""What a counter of that unit grows by in a second."""
