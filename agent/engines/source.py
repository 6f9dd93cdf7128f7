"""One server's engines, as a `Source[ServerReading]`: its page of metrics, and the documents beside it.

The page says which engine it is, at each read: what listens on a port may change. The documents are
what only the server's own interface tells; without them the page alone is read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import requests

from agent.engines.base import NO_DOCUMENTS, EngineDefinition
from agent.engines.documents import DocumentShelf, root_of
from agent.errors import SourceError
from agent.labels import label_text
from agent.readings import (
    COUNTER_NAMES,
    HISTOGRAM_NAMES,
    EngineCounters,
    EngineReading,
    Histogram,
    ServerReading,
)
from agent.sources.addresses import url_host
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
PAGE_PATHS = ("/metrics", "/prometheus/metrics")
"""Where engines have their pages."""
MAX_NAMES = 16
"""Under which a model is served."""


def server_of(url: str) -> str:
    """Host and port of a URL, and what its path has before the page's: behind a gateway only paths differ."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = url_host(parts.hostname or "")
    path = parts.path.rstrip("/")
    return f"{host}:{port}" + ("" if path in ("", *PAGE_PATHS) else path)


def server_label_of(url: str) -> str:
    """The value of the label `server`."""
    return label_text(server_of(url))


def source_name_of(url: str) -> str:
    """What the source of a server at that URL is called."""
    return label_text(f"engine:{server_label_of(url)}")


class EngineSource:
    """One server, read again and again."""

    def __init__(
        self,
        url: str,
        *,
        definitions: Collection[EngineDefinition],
        limits: PageLimits = DEFAULT_LIMITS,
        headers: Mapping[str, str] | None = None,
        session: requests.Session | None = None,
    ) -> None:
        """`ValueError` if the URL cannot be one; `session` as from `open_session`.

        `headers` go to this server only: with its page, and with the documents under the same root.
        """
        self.server = server_label_of(url)
        """The value of the label `server`."""
        self.name = source_name_of(url)
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
        self._shelf = DocumentShelf(session=self._session, headers=self._headers)

    @property
    def failure_reasons(self) -> tuple[str, ...]:
        """Of fetching, and of recognising."""
        return (*ADVICE, "unrecognised")

    def read(self) -> ServerReading:
        """Fetch the page and read all engines on it."""
        try:
            body = self._fetch()
        except SourceError:
            self._shelf.forget()  # who answers next may be another
            raise
        page = self._parser.parse(body)
        definition = self._identify(page)
        readings = self._read_engines(definition, page)
        if self._restarted(readings, definition):
            self._shelf.forget()
            readings = self._read_engines(definition, page)
        self._before = {
            rank: _without_dips(self._before.get(rank), reading, definition.derived)
            for rank, reading in readings.items()
        }
        return ServerReading(
            engines=tuple(self._before.values()),
            malformed_lines=page.malformed_lines,
            problems=self._shelf.problems,
        )

    def close(self) -> None:
        """Let go of the connections."""
        self._session.close()

    def _fetch(self) -> bytes:
        try:
            return fetch_page(
                self._url,
                session=self._session,
                limits=self._limits,
                headers=self._headers,
                subject=self._subject,
            )
        except SourceError as error:
            if (
                error.reason != "http_status"
                or len(self._definitions) != 1
                or not self._definitions[0].switch
            ):
                raise
            raise SourceError(
                error.reason, f"{error} It has them with {self._definitions[0].switch}"
            ) from None

    def _identify(self, page: Page) -> EngineDefinition:
        for definition in self._definitions:
            if not definition.fingerprint.isdisjoint(page.families):
                return definition
        names = ", ".join(definition.name for definition in self._definitions)
        raise SourceError(
            "unrecognised",
            f"{self._subject}: no metrics of {names} on the page; are they switched off in the engine?",
        )

    def _read_engines(self, definition: EngineDefinition, page: Page) -> dict[str, EngineReading]:
        """By rank; with more than `MAX_ENGINES` of them the page is refused."""
        root = root_of(self._url, definition.page_paths)
        documents = NO_DOCUMENTS if root is None else self._shelf.gather(root, definition.documents, page)
        try:
            readings = definition.read(page, documents)
        except SourceError as error:  # it knows what the page is, and not where it is from
            raise SourceError(error.reason, f"{self._subject}: {error}") from None
        found = {reading.rank: reading for reading in map(_presentable, readings)}
        if len(found) > MAX_ENGINES:
            raise SourceError("too_large", f"{self._subject}: more than {MAX_ENGINES} engines on one page")
        return found

    def _restarted(self, readings: Mapping[str, EngineReading], definition: EngineDefinition) -> bool:
        """Whether the server is another one than at the last read, as far as its page shows."""
        for rank, now in readings.items():
            before = self._before.get(rank)
            if before is not None and (
                before.start_time_seconds != now.start_time_seconds
                or not _fallen(before, now) <= definition.derived
            ):
                return True
        return False


def _presentable(reading: EngineReading) -> EngineReading:
    """The reading made fit for what comes after, whatever the page said.

    Texts become labels; what is below zero was not counted.
    """
    facts = reading.facts
    numbers: dict[str, Any] = {name: _counted(getattr(reading, name)) for name in GAUGES}
    histograms: dict[str, Any] = {name: _believable(getattr(reading, name)) for name in HISTOGRAM_NAMES}
    counters = {name: _counted(getattr(reading.counters, name)) for name in COUNTER_NAMES}
    return replace(
        reading,
        **numbers,
        **histograms,
        counters=EngineCounters(**counters),
        rank=label_text(reading.rank),
        model=label_text(reading.model),
        version=_label(reading.version),
        facts=replace(
            facts,
            revision=_label(facts.revision),
            served_names=tuple(map(label_text, facts.served_names[:MAX_NAMES])),
            weight_dtype=_label(facts.weight_dtype),
            kv_dtype=_label(facts.kv_dtype),
        ),
    )


GAUGES = (
    "requests_running",
    "requests_waiting",
    "requests_in_flight",
    "kv_used_ratio",
    "kv_held_tokens",
    "kv_capacity_tokens",
    "last_step_seconds",
)


def _counted(value: float | None) -> float | None:
    return value if value is not None and value >= 0 else None


def _believable(histogram: Histogram | None) -> Histogram | None:
    if histogram is None or histogram.sum < 0 or histogram.cumulative[0] < 0:
        return None
    return histogram


def _label(text: str | None) -> str | None:
    return None if text is None else label_text(text)


def _without_dips(before: EngineReading | None, now: EngineReading, derived: frozenset[str]) -> EngineReading:
    """The reading with each derived counter held where it was, as long as only that one fell.

    To everyone after us a counter that falls is a restart, and all of it would be added once more.
    """
    if before is None:
        return now
    fell = _fallen(before, now)
    if not fell or not fell <= derived or before.start_time_seconds != now.start_time_seconds:
        return now
    return replace(now, counters=replace(now.counters, **{n: getattr(before.counters, n) for n in fell}))


def _fallen(before: EngineReading, now: EngineReading) -> set[str]:
    return {name for name in COUNTER_NAMES if _fell(before.counters, now.counters, name)}


def _fell(before: EngineCounters, now: EngineCounters, name: str) -> bool:
    old, new = getattr(before, name), getattr(now, name)
    return old is not None and new is not None and new < old
