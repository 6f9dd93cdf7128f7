"""The frame for all engines: how a page of metrics becomes an `EngineReading`.

An engine is a value, not a class: an `EngineDefinition` with the names by which its page is known,
the samples it wants, and a function from the page to its readings. Most of that function is a table
of `Signal`s; what no table can say are small named functions in the engine's own file.
To add an engine: one such file, and one entry in `registry.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from agent.readings import EngineCounters, EngineReading, Histogram
from agent.sources.page import Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A JSON document of a server's own interface, beside its page of metrics."""

    name: str
    """By which `EngineDefinition.read` is given it."""
    path: str
    """From the server's root, with its query: ``/v1/models``."""
    live: bool = False
    """Asked for with every page; else once in the life of the server."""
    when: Callable[[Page], bool] | None = None
    """If given, it is asked for only with pages for which this holds: where it says what they do not."""


Documents = Mapping[str, Any]
"""The documents that the server gave, as JSON has them, by name; a reader trusts none of their shapes."""
NO_DOCUMENTS: Documents = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDefinition:
    """All that the agent knows of one serving engine's page."""

    name: str
    """The value of the label `engine`."""
    fingerprint: frozenset[str]
    """A page that has a sample of one of these names is this engine's."""
    wanted: frozenset[str]
    """The sample names that `read` looks at, the fingerprint included."""
    read: Callable[[Page, Documents], tuple[EngineReading, ...]]
    """From a page with the fingerprint: its engines, in the order of their rank."""
    documents: tuple[Document, ...] = ()
    """What else the server can be asked for without changing it; a reader does without any of them."""
    page_paths: tuple[str, ...] = ("/metrics",)
    """Where its page is, seen from the server's root."""
    ports: tuple[int, ...] = ()
    """Where it listens when nothing else is said, the page's port first."""
    switch: str = ""
    """What turns its page of metrics on, where that is off unless asked for."""
    derived: frozenset[str] = frozenset()
    """Counters formed from two that the engine books at different moments, so that they can dip."""


# --- from samples to fields ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One number, and where a page has it."""

    names: tuple[str, ...]
    """Sample names, the newest first; the first that the page has counts, the others are not read."""
    label: str = ""
    """If given, only samples where this label has one of `values`."""
    values: frozenset[str] = frozenset()

    def read(self, page: Page) -> float | None:
        """The sum over the samples, since labels are an open set; `None` if the page has none."""
        for name in self.names:
            if name in page:
                found = [
                    sample.value
                    for sample in page.samples(name)
                    if not self.label or sample.labels.get(self.label) in self.values
                ]
                return sum(found) if found else None
        return None


@dataclass(frozen=True, slots=True)
class Spelling:
    """How an engine's names begin; where there are several ways, a name is looked for in each."""

    prefixes: tuple[str, ...]

    def names(self, *names: str) -> tuple[str, ...]:
        """The names as a page has them."""
        return tuple(prefix + name for name in names for prefix in self.prefixes)

    def signal(self, *names: str, label: str = "", values: Iterable[str] = ()) -> Signal:
        """The signal of these names."""
        return Signal(names=self.names(*names), label=label, values=frozenset(values))


def read_sum(page: Page, signals: Iterable[Signal]) -> float | None:
    """The sum of those that the page has; `None` if it has none of them."""
    known = [value for signal in signals if (value := signal.read(page)) is not None]
    return sum(known) if known else None


def read_counters(page: Page, table: Mapping[str, Signal]) -> EngineCounters:
    """The counters of one engine's part of a page; the table's keys are fields of `EngineCounters`."""
    return EngineCounters(**{field: signal.read(page) for field, signal in table.items()})


def read_histogram(page: Page, names: Iterable[str]) -> Histogram | None:
    """The histogram of the first of these families that the page has, with the engine's own bounds.

    `None` if it cannot be trusted: no sum, no +Inf bucket, a bound that is no number, counts that fall.
    """
    for name in names:
        buckets = page.samples(f"{name}_bucket")
        if buckets:
            break
    else:
        return None
    counts: dict[float, float] = {}
    try:
        for labels, value in buckets:
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value
    except (KeyError, ValueError):
        return None
    total = page.value(f"{name}_sum")
    bounds = tuple(sorted(counts))
    cumulative = tuple(counts[bound] for bound in bounds)
    if total is None or any(map(math.isnan, bounds)) or bounds[-1] != math.inf:
        return None
    if any(below > count for below, count in pairwise(cumulative)):
        return None
    return Histogram(bounds=bounds, cumulative=cumulative, sum=total)


def histogram_samples(names: Iterable[str]) -> frozenset[str]:
    """The sample names that `read_histogram` looks at."""
    return frozenset(f"{name}_{part}" for name in names for part in ("bucket", "sum"))


# --- ranks and labels ----------------------------------------------------------------------------

MAX_DIGITS = 17
"""Of a number that is one; whatever is longer is not."""


def in_rank_order(ranks: Iterable[str]) -> list[str]:
    """Data-parallel ranks, "10" after "9"."""
    return sorted(ranks, key=lambda rank: (len(rank), rank))


def split_ranks(page: Page, label: str) -> tuple[dict[str, Page], Page]:
    """The parts of the page by rank, in their order, and what stands under no rank.

    Where nothing names a rank, all of it is that of "0".
    """
    ranks = page.by_label(label)
    shared = ranks.pop("", Page(families={}))
    return {rank: ranks[rank] for rank in in_rank_order(ranks)} or {"0": shared}, shared


def integer_of(text: str | None, *, digits: int = MAX_DIGITS) -> int | None:
    """The whole number that a label has for its text, if it is one of so many digits."""
    return int(text) if text and len(text) <= digits and text.isdecimal() else None


# --- from documents to facts ---------------------------------------------------------------------

MAX_TEXT = 4096
"""Characters of a text in a document; whatever is longer is no name and no path."""
MAX_COUNT = 10**15


def value_at(document: Any, *path: str) -> Any:
    """What stands at that path of keys; `None` where the document has another shape."""
    for key in path:
        document = document.get(key) if isinstance(document, dict) else None
    return document


def text_at(document: Any, *path: str) -> str | None:
    """The text there, not an empty one."""
    value = value_at(document, *path)
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT else None


def number_at(document: Any, *path: str) -> float | None:
    """The number there, finite and not negative."""
    value = value_at(document, *path)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_COUNT:
        return None
    return float(value)


def count_at(document: Any, *path: str) -> int | None:
    """The whole number there, not negative."""
    value = number_at(document, *path)
    return int(value) if value is not None and value == int(value) else None


def list_at(document: Any, *path: str) -> list[Any]:
    """The list there, or an empty one."""
    value = value_at(document, *path)
    return value if isinstance(value, list) else []


def own_models(document: Any) -> list[dict[str, Any]]:
    """Of ``/v1/models`` the rows of the model and its aliases; LoRA adapters beside them have a parent."""
    rows = list_at(document, "data")
    return [row for row in rows if isinstance(row, dict) and row.get("parent") is None]
