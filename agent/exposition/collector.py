"""From an assessment to the bytes of `/metrics`.

One collector walks THE TABLE; here, in one place, series without a value are left out, arity and
uniqueness are checked, and label values are bounded. The page is rendered at most once an assessment
and format, and served as bytes.

Why not the client library's own renderer: it costs about 5 µs a series, 7–10 ms of CPU for a node of 8
GPUs and 8 engines, where a scrape may cost 1 ms. The text of a series (name and labels) hardly ever
changes, so it is kept, and a page costs a look-up and a number a line. Tests hold the two equal.
"""

from __future__ import annotations

import gzip
import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder

from agent.assessment import Assessment
from agent.clock import Clock
from agent.labels import label_text
from agent.metrics import TABLE, Metric
from agent.readings import Histogram
from agent.sources.base import SourceState

log = logging.getLogger(__name__)

STALE_TICKS = 3
MIN_STALE_SECONDS = 10.0
"""An assessment older than three ticks, and this, speaks for nothing but the agent's own health."""

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendered:
    """One page, ready to be sent."""

    content_type: str
    content_encoding: str | None
    body: bytes


def collect(metric: Metric, assessment: Assessment) -> Iterator[tuple[tuple[str, ...], float | Histogram]]:
    """The series of one family: each once, each with its labels, none without a value."""
    seen: set[tuple[str, ...]] = set()
    arity = len(metric.labels)
    for labels, value in metric.read(assessment):
        if value is None:
            continue
        if len(labels) != arity:
            raise ValueError(f"{metric.full_name}: {len(labels)} label values for {metric.labels}")
        if labels in seen:
            _tell_of_two(metric.full_name)
            continue
        seen.add(labels)
        yield labels, value


@cache
def _tell_of_two(name: str) -> None:
    """Once for each family, not with each page."""
    log.warning("%s: a series twice; the second is left out", name)


_SPECIAL = {"inf": "+Inf", "-inf": "-Inf", "nan": "NaN"}


def render_float(value: float) -> str:
    """A number as both formats write it."""
    text = repr(value)
    return _SPECIAL.get(text, text)


def _escape(value: str) -> str:
    return label_text(value).replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


class _Family:
    """One family in one format; the text before each value is kept from page to page."""

    def __init__(self, metric: Metric, *, openmetrics: bool) -> None:
        self._metric = metric
        self._head = _head(metric, openmetrics=openmetrics)
        self._texts: dict[tuple[tuple[str, ...], tuple[float, ...]], tuple[str, ...]] = {}

    def render(self, assessment: Assessment) -> Iterator[str]:
        """Head and lines, or nothing when there is no series."""
        texts = self._texts
        count = 0
        for labels, value in collect(self._metric, assessment):
            if count == 0:
                yield self._head
            count += 1
            if isinstance(value, Histogram):
                yield from self._histogram(labels, value)
                continue
            known = texts.get((labels, ()))
            if known is None:
                known = texts[(labels, ())] = (_series(self._metric, "", labels),)
            yield f"{known[0]} {render_float(value)}\n"
        if count < len(texts):  # what is gone from the page goes from memory
            texts.clear()

    def _histogram(self, labels: tuple[str, ...], value: Histogram) -> Iterator[str]:
        known = self._texts.get((labels, value.bounds))
        if known is None:
            known = self._texts[(labels, value.bounds)] = (
                *(_series(self._metric, "_bucket", labels, render_float(bound)) for bound in value.bounds),
                _series(self._metric, "_sum", labels),
                _series(self._metric, "_count", labels),
            )
        for text, number in zip(known, (*value.cumulative, value.sum, value.count), strict=True):
            yield f"{text} {render_float(number)}\n"


def _head(metric: Metric, *, openmetrics: bool) -> str:
    family, kind, text = metric.full_name, metric.kind, metric.help.replace("\\", r"\\")
    if openmetrics:
        # OpenMetrics names the family without the suffix that its samples carry.
        family = family.removesuffix("_total" if kind == "counter" else "_info")
        text = text.replace('"', r"\"")
    elif kind == "info":
        kind = "gauge"
    return f"# HELP {family} {text}\n# TYPE {family} {kind}\n"


def _series(metric: Metric, suffix: str, values: tuple[str, ...], bound: str | None = None) -> str:
    pairs = [f'{name}="{_escape(value)}"' for name, value in zip(metric.labels, values, strict=True)]
    if bound is not None:
        pairs.append(f'le="{bound}"')
    return f"{metric.full_name}{suffix}" + (f"{{{','.join(pairs)}}}" if pairs else "")


_PROCESS = CollectorRegistry()
ProcessCollector(registry=_PROCESS)


def _own_process(*, openmetrics: bool) -> str:
    """CPU, memory and file descriptors of the agent itself, as the client library gives them."""
    encode, _ = choose_encoder(OPENMETRICS_TYPE if openmetrics else "")
    return encode(_PROCESS).decode()


class Renderer:
    """Serves the latest assessment as bytes, rendered when it is first asked for."""

    def __init__(
        self,
        latest: Callable[[], Assessment | None],
        *,
        clock: Clock,
        states: Callable[[], tuple[SourceState[Any], ...]] = tuple,
        table: Sequence[Metric] = TABLE,
    ) -> None:
        """`states` gives the sources as they are now, for a page without a fresh assessment."""
        self._latest = latest
        self._states = states
        self._clock = clock
        self._families = {
            openmetrics: [_Family(metric, openmetrics=openmetrics) for metric in table]
            for openmetrics in (True, False)
        }
        self._rendered: Mapping[tuple[bool, bool], Rendered] = {}
        self._rendered_for: Assessment | None = None
        # Guards the three fields above: scrapes that come together share one rendering.
        self._lock = threading.Lock()

    def render(self, accept: str | None, accept_encoding: str | None) -> Rendered:
        """The page in the best format and encoding that the client takes."""
        openmetrics = choose_encoder(accept or "")[1].startswith("application/openmetrics-text")
        compressed = _takes_gzip(accept_encoding or "")
        assessment = self._latest()
        with self._lock:
            if assessment is not self._rendered_for:
                self._rendered, self._rendered_for = {}, assessment
            stale = assessment is None or self._is_stale(assessment)
            if not stale and (cached := self._rendered.get((openmetrics, compressed))) is not None:
                return cached
            rendered = self._render(assessment, openmetrics=openmetrics, compressed=compressed)
            if not stale:
                self._rendered = {**self._rendered, (openmetrics, compressed): rendered}
            return rendered

    def forget(self) -> None:
        """Render again when next asked, though nothing is new: to measure what it costs."""
        with self._lock:
            self._rendered = {}

    def _is_stale(self, assessment: Assessment) -> bool:
        age = self._clock.monotonic() - assessment.at_seconds
        return age > max(STALE_TICKS * assessment.interval_seconds, MIN_STALE_SECONDS)

    def _render(self, assessment: Assessment | None, *, openmetrics: bool, compressed: bool) -> Rendered:
        if compressed:
            plain = self._rendered.get((openmetrics, False)) if assessment is self._rendered_for else None
            body = gzip.compress(
                plain.body if plain is not None else self._body(assessment, openmetrics=openmetrics),
                compresslevel=1,
                mtime=0,
            )
        else:
            body = self._body(assessment, openmetrics=openmetrics)
        return Rendered(
            content_type=OPENMETRICS_TYPE if openmetrics else TEXT_TYPE,
            content_encoding="gzip" if compressed else None,
            body=body,
        )

    def _body(self, assessment: Assessment | None, *, openmetrics: bool) -> bytes:
        if assessment is None:
            return _own_process(openmetrics=openmetrics).encode()
        if self._is_stale(assessment):
            now = self._clock.monotonic()
            assessment = replace(assessment, at_seconds=now, gpus=(), engines=(), sources=self._states())
        lines = [line for family in self._families[openmetrics] for line in family.render(assessment)]
        lines.append(_own_process(openmetrics=openmetrics))
        return "".join(lines).encode()


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.lower().split(","):
        coding, _, parameters = part.strip().partition(";")
        if coding.strip() in ("gzip", "*"):
            return parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
