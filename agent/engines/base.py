"""The frame for all engines: how a page of metrics becomes an `EngineReading`.

An engine is a value, not a class: an `EngineDefinition` with the names by which its page is known,
the samples it wants, and a function from the page to its readings. Most of that function is a table
of `Signal`s; what no table can say are small named functions in the engine's own file.
To add an engine: one such file, and one entry in `registry.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from urllib.parse import urlsplit

import requests

from agent.errors import SourceError
from agent.labels import label_text
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading, Histogram, ServerReading
from agent.sources.page import (
    ADVICE,
    DEFAULT_LIMITS,
    Page,
    PageLimits,
    PageParser,
    fetch_page,
    open_session,
    redacted_url,
)

MAX_ENGINES = 256
"""Engines that one page may hold; data-parallel ranks behind one server are fewer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineDefinition:
    """All that the agent knows of one serving engine's page."""

    name: str
    """The value of the label `engine`."""
    fingerprint: frozenset[str]
    """A page that has a sample of one of these names is this engine's."""
    wanted: frozenset[str]
    """The sample names that `read` looks at, the fingerprint included."""
    read: Callable[[Page], tuple[EngineReading, ...]]
    """From a page with the fingerprint: its engines, in the order of their rank."""
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


def server_of(url: str) -> str:
    """Host and port of a URL, and its path where it is unusual: behind a gateway only paths differ."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    path = parts.path.rstrip("/")
    return f"{host}:{port}" + ("" if path in ("", "/metrics") else path)


# --- the source ----------------------------------------------------------------------------------


class EngineSource:
    """One server's page of metrics, as a `Source[ServerReading]`.

    With several `definitions` the page says which of them it is, at each read: what listens on a
    port may change.
    """

    def __init__(
        self,
        url: str,
        *,
        definitions: Collection[EngineDefinition],
        limits: PageLimits = DEFAULT_LIMITS,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        """`ValueError` if the URL cannot be one; `session` as from `open_session`."""
        self.server = label_text(server_of(url))
        """The value of the label `server`."""
        self.name = label_text(f"engine:{self.server}")
        self._url = url
        self._definitions = tuple(definitions)
        self._limits = limits
        self._headers = dict(headers or {})
        self._session = session or open_session()
        kind = self._definitions[0].name if len(self._definitions) == 1 else "engine"
        self._subject = f"{kind} at {redacted_url(url)}"
        wanted = frozenset[str]().union(*(definition.wanted for definition in self._definitions))
        self._parser = PageParser(wanted, limits=limits, subject=self._subject)
        self._before: dict[str, EngineReading] = {}

    @property
    def failure_reasons(self) -> tuple[str, ...]:
        """Of fetching, and of recognising."""
        return (*ADVICE, "unrecognised")

    def read(self) -> ServerReading:
        """Fetch the page and read all engines on it."""
        body = fetch_page(
            self._url,
            session=self._session,
            limits=self._limits,
            headers=self._headers,
            subject=self._subject,
        )
        page = self._parser.parse(body)
        definition = self._identify(page)
        found = {reading.rank: reading for reading in map(_presentable, definition.read(page))}
        if len(found) > MAX_ENGINES:
            raise SourceError("too_large", f"{self._subject}: more than {MAX_ENGINES} engines on one page")
        self._before = {
            rank: _without_dips(self._before.get(rank), reading, definition.derived)
            for rank, reading in found.items()
        }
        return ServerReading(engines=tuple(self._before.values()), malformed_lines=page.malformed_lines)

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _identify(self, page: Page) -> EngineDefinition:
        for definition in self._definitions:
            if not definition.fingerprint.isdisjoint(page.families):
                return definition
        names = ", ".join(definition.name for definition in self._definitions)
        raise SourceError(
            "unrecognised",
            f"{self._subject}: no metrics of {names} on the page; are they switched off in the engine?",
        )


def _presentable(reading: EngineReading) -> EngineReading:
    """The reading with the texts that become labels made fit for it, whatever the page said."""
    return replace(
        reading,
        rank=label_text(reading.rank),
        model=label_text(reading.model),
        kv_dtype=None if reading.kv_dtype is None else label_text(reading.kv_dtype),
    )


def _without_dips(before: EngineReading | None, now: EngineReading, derived: frozenset[str]) -> EngineReading:
    """The reading with each derived counter held where it was, as long as only that one fell.

    To everyone after us a counter that falls is a restart, and all of it would be added once more.
    """
    if before is None:
        return now
    fell = {name for name in COUNTER_NAMES if _fell(before.counters, now.counters, name)}
    if not fell or not fell <= derived or before.start_time_seconds != now.start_time_seconds:
        return now
    return replace(now, counters=replace(now.counters, **{n: getattr(before.counters, n) for n in fell}))


def _fell(before: EngineCounters, now: EngineCounters, name: str) -> bool:
    old, new = getattr(before, name), getattr(now, name)
    return old is not None and new is not None and new < old
