"""How a review's numbers and names are written for people, the same in every format.

What nobody can tell is `UNKNOWN` in a sentence and `DASH` in a table.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Protocol

from agent.exposition.status_page import MEANINGS as GPU_MEANINGS
from agent.report.document import UNALLOCATED, Period
from agent.roofline.bottleneck import WORDS
from agent.units import render_number, render_percent, render_quantity

UNKNOWN = "unknown"
DASH = "–"
MINUS = "\N{MINUS SIGN}"
KILO, MILLION = 1e3, 1e6
JOULES_PER_WATT_HOUR = 3600.0

CLASS_WORDS: Mapping[str, str] = {str(name): word for name, word in WORDS.items()} | {
    UNALLOCATED: "unallocated"
}
CLASS_MEANINGS: Mapping[str, str] = {str(name): word for name, word in GPU_MEANINGS.items()} | {
    UNALLOCATED: "of boards in MIG mode, what no instance has",
}
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_UNPRINTABLE = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]"
)


def printable(text: str) -> str:
    """On one line; what cannot be seen, or turns the text around, shows as a replacement character."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


# --- numbers ------------------------------------------------------------------------------------------


def amount(value: float) -> str:
    """A number: ``12,340``, ``41.2``, ``0.034``, ``61.2 M``."""
    if value < 0:
        return MINUS + amount(-value)
    if value >= 1e7:
        return render_quantity(value, "").strip()
    return f"{value:,.0f}" if value >= 99.95 else render_number(value)


def money(usd: float) -> str:
    """US dollars: ``$12,340``, ``$41.20``, ``$0.412``."""
    if abs(usd) < 0.00005:
        return "$0"
    if usd < 0:
        return MINUS + money(-usd)
    if usd >= 99.995:
        return f"${usd:,.0f}"
    return f"${usd:.2f}" if usd >= 0.995 else f"${render_number(usd)}"


def hours(gpu_hours: float) -> str:
    """GPU hours: ``12,340 h``."""
    return f"{amount(gpu_hours)} h"


def millions(tokens: float) -> str:
    """A number in millions, without saying so."""
    return amount(tokens / MILLION)


def energy(joules: float) -> str:
    """Energy as electricity is billed: ``12.3 MWh``."""
    return render_quantity(joules / JOULES_PER_WATT_HOUR, "Wh")


def percent(ratio: float) -> str:
    """A ratio as a percentage: ``43 %``."""
    return render_percent(ratio).replace("-", MINUS)


def attainment(ratio: float) -> str:
    """A ratio near 1, with two digits of what is missing: ``99.93 %``, ``99.9982 %``."""
    missing = 1.0 - ratio
    decimals = 0 if missing >= 0.1 else 1
    while decimals < 4 and 0 < missing * 100 < 10.0 ** (1 - decimals) * 0.995:
        decimals += 1
    text = f"{ratio * 100:.{decimals}f}"
    return f"{text.rstrip('0').rstrip('.') if '.' in text else text} %"


def or_dash(text: str | None) -> str:
    """For a table."""
    return DASH if text is None else text


def change(now: float | None, before: float | None) -> str:
    """By how much something has changed: ``+12 %``; empty when one of the two is not known."""
    if now is None or before is None:
        return ""
    if before == 0:
        return "unchanged" if now == 0 else "was 0"
    ratio = now / before - 1
    if abs(ratio) < 0.0005:
        return "unchanged"
    if ratio >= 9.95:
        return f"× {amount(now / before)}"
    return ("+" if ratio > 0 else "") + percent(ratio)


# --- instants -----------------------------------------------------------------------------------------


def instant(at: datetime) -> str:
    """``2026-11-09 14:00 UTC``."""
    return f"{at:%Y-%m-%d %H:%M} UTC"


def day(at: date) -> str:
    """``9 November``."""
    return f"{at.day} {_MONTHS[at.month - 1]}"


def short_day(at: date) -> str:
    """``9 Nov``."""
    return f"{at.day} {_MONTHS[at.month - 1][:3]}"


def period_name(period: Period, *, brief: bool = False) -> str:
    """``November 2026`` for a month, or only ``November``; else as the period calls itself."""
    month = re.fullmatch(r"(\d{4})-(0[1-9]|1[0-2])", period.name)
    if month is None:
        return period.name
    name = _MONTHS[int(month[2]) - 1]
    return name if brief else f"{name} {month[1]}"


# --- names --------------------------------------------------------------------------------------------


class Served(Protocol):
    """What says which service it is of."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def part(self) -> str:
        """The GPU's type."""


_DETAILS = ("namespace", "engine", "cluster")


def service_names(services: Sequence[Served]) -> tuple[str, ...]:
    """What each is called among the others: the model, without whose it is, its GPUs, what tells it apart."""
    names = [f"{service.model.rsplit('/', 1)[-1]} on {service.part}" for service in services]
    for detail in _DETAILS:
        values: dict[str, set[str]] = {}
        for name, service in zip(names, services, strict=True):
            values.setdefault(name, set()).add(getattr(service, detail, ""))
        names = [
            f"{name}, {more}" if len(values[name]) > 1 and (more := getattr(service, detail, "")) else name
            for name, service in zip(names, services, strict=True)
        ]
    return tuple(
        name if names.count(name) == 1 else f"{service.model} on {service.part}"
        for name, service in zip(names, services, strict=True)
    )


def service_details(service: object, *, several_clusters: bool) -> str:
    """Where a service is, besides its model: engine, namespace, and the cluster where there are several."""
    fields = ("engine", "namespace", "cluster") if several_clusters else ("engine", "namespace")
    return " · ".join(value for field in fields if (value := getattr(service, field, "")))


def shortened(text: str, length: int) -> str:
    """With its middle left out where it is longer; both ends of a model's name say something."""
    if len(text) <= length:
        return text
    head = (length - 1) * 3 // 5
    return f"{text[:head]}…{text[len(text) - (length - 1 - head) :]}"


def counted(number: int, noun: str) -> str:
    """``1 model``, ``1,200 models``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")
