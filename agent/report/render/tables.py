"""The review as CSV files, one a table, for spreadsheets and joins.

They are RFC 4180: a header, commas, CRLF. Columns are the document's fields, whose names carry their units;
what nobody can tell is empty. Text that a spreadsheet would take for a formula begins with an apostrophe.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime

from agent.report.document import (
    Attainment,
    ClassTime,
    ClockLoss,
    Day,
    Disagreement,
    Element,
    EvidenceShare,
    FaultCount,
    Gap,
    Group,
    Identity,
    Offender,
    PartTime,
    Problem,
    Query,
    RequestLoss,
    Review,
    RightSizing,
    Roofline,
    Service,
    Totals,
)

Value = str | float | int | bool | None
Row = Mapping[str, Value]

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_DICTIONARIES = {
    "hours_by_class": "{}_gpu_hours",
    "by_part": "{}_gpu_hours",
    "by_outcome": "{}_requests",
    "subject": "{}",
}
"""How the keys of a field that is a dictionary become columns."""


def render_tables(review: Review) -> dict[str, str]:
    """The text of each file, by its name; a table without rows has its header alone."""
    days = [each.date for each in review.days]
    quality, losses = review.quality, review.losses
    tables: dict[str, list[Row]] = {
        "totals.csv": _totals(review),
        "classes.csv": _rows(review.classes),
        "parts.csv": _rows(review.parts),
        "services.csv": _rows(review.services),
        "groups.csv": _rows(review.groups),
        "days.csv": _rows(review.days),
        "trends.csv": [
            {
                "date": day.isoformat(),
                **{name: getattr(trend, name) for name in _SERVED},
                "usd_per_million_tokens": trend.usd_per_million_tokens[number],
                "joules_per_million_tokens": trend.joules_per_million_tokens[number],
                "generation_tokens": trend.generation_tokens[number],
            }
            for trend in review.trends
            for number, day in enumerate(days)
        ],
        "roofline_cells.csv": [
            {**_flat(roofline, without=("cells",)), **_flat(cell)}
            for roofline in review.rooflines
            for cell in roofline.cells
        ],
        "clock_losses.csv": _rows(losses.clocks),
        "request_losses.csv": _rows(losses.requests),
        "faults.csv": _rows(losses.faults),
        "slos.csv": _rows(review.slos),
        "right_sizing.csv": [
            {**_flat(sizing, without=("alternatives",)), **_prefixed("alternative", alternative)}
            for sizing in review.right_sizing
            for alternative in sizing.alternatives or (None,)
        ],
        "offenders.csv": _rows(review.offenders),
        "identities.csv": _rows(review.identities),
        "quality.csv": [
            _flat(quality, without=("remarks", "gaps", "evidence", "disagreements")),
        ],
        "gaps.csv": _rows(quality.gaps),
        "evidence.csv": _rows(quality.evidence),
        "disagreements.csv": _rows(quality.disagreements),
        "problems.csv": _rows(review.problems),
        "queries.csv": _rows(review.queries),
    }
    return {name: _written(rows, _header(name)) for name, rows in tables.items()}


_ELEMENTS: Mapping[str, type[Element]] = {
    "totals.csv": Totals,
    "classes.csv": ClassTime,
    "parts.csv": PartTime,
    "services.csv": Service,
    "groups.csv": Group,
    "days.csv": Day,
    "roofline_cells.csv": Roofline,
    "clock_losses.csv": ClockLoss,
    "request_losses.csv": RequestLoss,
    "faults.csv": FaultCount,
    "slos.csv": Attainment,
    "right_sizing.csv": RightSizing,
    "offenders.csv": Offender,
    "identities.csv": Identity,
    "gaps.csv": Gap,
    "evidence.csv": EvidenceShare,
    "disagreements.csv": Disagreement,
    "problems.csv": Problem,
    "queries.csv": Query,
}
_NESTED = ("batch", "cells", "alternatives")


def _header(file: str) -> tuple[str, ...]:
    """The columns that a file has whatever its rows, in the document's order."""
    if file == "trends.csv":
        return ("date", *_SERVED, "usd_per_million_tokens", "joules_per_million_tokens", "generation_tokens")
    element = _ELEMENTS.get(file)
    if element is None:
        return ()
    plain = (name for name in element.model_fields if name not in (*_DICTIONARIES, *_NESTED))
    return (("period",) if element is Totals else ()) + tuple(plain)


_SERVED = ("cluster", "model", "engine", "part", "namespace")


def _totals(review: Review) -> list[Row]:
    """The period, and the one before where there is one."""
    rows: list[Row] = [{"period": review.period.name, **_flat(review.totals)}]
    if review.previous is not None and review.previous_totals is not None:
        rows.append({"period": review.previous.name, **_flat(review.previous_totals)})
    return rows


def _rows(elements: Iterable[Element]) -> list[Row]:
    return [_flat(element) for element in elements]


def _prefixed(prefix: str, element: Element | None) -> Row:
    return {} if element is None else {f"{prefix}_{name}": value for name, value in _flat(element).items()}


def _flat(element: Element, *, without: Sequence[str] = ()) -> dict[str, Value]:
    """Its fields; those of elements in it and of dictionaries beside them."""
    row: dict[str, Value] = {}
    for name in type(element).model_fields:
        value = getattr(element, name)
        if name in without:
            continue
        if isinstance(value, Element):
            row |= _prefixed(name, value)
        elif isinstance(value, dict):
            row |= {_DICTIONARIES[name].format(key): each for key, each in value.items()}
        elif isinstance(value, tuple):
            row[name] = " ".join(str(each) for each in value)
        elif isinstance(value, datetime | date):
            row[name] = value.isoformat()
        else:
            row[name] = value
    return row


def _written(rows: Sequence[Row], header: Sequence[str]) -> str:
    columns = list(dict.fromkeys((*header, *(name for row in rows for name in row))))
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\r\n")
    writer.writerow([_safe(name) for name in columns])
    for row in rows:
        writer.writerow([_safe(row.get(name)) for name in columns])
    return written.getvalue()


def _safe(value: Value) -> Value:
    """Numbers as they are; text such that no spreadsheet computes it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str) and value.startswith(_FORMULA):
        return f"'{value}"
    return value
