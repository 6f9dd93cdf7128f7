"""The status page: one self-contained HTML document, no script, no request for anything else.

The template reads the assessment itself; here are the words, the geometry and how numbers are written.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agent.advice.node import advise_node
from agent.advice.words import counted
from agent.assessment import Assessment, EngineAssessment, GpuAssessment, Span
from agent.exposition.headline import engine_name, headline, notes, render_numbers
from agent.exposition.line_breaks import with_units
from agent.exposition.roofline_chart import roofline_chart
from agent.readings import Absent, Failed, ServerReading
from agent.roofline.bottleneck import BOTTLENECKS, WORDS, Bottleneck
from agent.roofline.step import COMPONENTS
from agent.sources.base import SourceState
from agent.units import render_number, render_percent, render_quantity, render_seconds

REFRESH_SECONDS = 5
STRIP_SECONDS = 15 * 60.0

MEANINGS: Mapping[Bottleneck, str] = {
    "memory_bandwidth": "weights and KV cache come no faster from DRAM",
    "compute": "the tensor cores are the limit",
    "interconnect": "waits for other GPUs, PCIe or a KV transfer",
    "kernel_latency": "many small kernels, no roof is near",
    "host": "the GPU waits between steps",
    "idle": "there is nothing to do",
    "unknown": "evidence is missing or contradicts itself",
}
COMPONENT_WORDS: Mapping[str, str] = {name: name.replace("_", " ") for name in COMPONENTS}


def _or_dash(render: Callable[..., str]) -> Callable[..., str]:
    """What is not known is a dash."""
    return lambda value, *more: "–" if value is None else render(value, *more)


def _finalize(value: object) -> object:
    """What an expression of a template gives, as it is to be written; markup was made by one already."""
    return with_units(value) if type(value) is str else value


def _instant(unix_seconds: float, form: str = "%Y-%m-%d %H:%M:%S UTC") -> str:
    return dt.datetime.fromtimestamp(unix_seconds, tz=dt.UTC).strftime(form)


FILTERS: Mapping[str, Callable[..., str]] = {
    "number": _or_dash(render_number),
    "percent": _or_dash(render_percent),
    "quantity": _or_dash(render_quantity),
    "seconds": _or_dash(render_seconds),
    "count": _or_dash(lambda value: f"{value:,.0f}"),
    "ago": _or_dash(lambda seconds: "just now" if seconds < 2 else f"{render_seconds(round(seconds))} ago"),
    "counted": counted,
    "instant": _instant,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of a bar; start and length are percentages of the whole."""

    start: float
    length: float
    kind: str
    title: str


def _recent(history: Sequence[Span], now_unix_seconds: float) -> Iterator[tuple[Span, float, float]]:
    """What the strip shows of each span: how long after its left edge it begins, and how long it is."""
    begin = now_unix_seconds - STRIP_SECONDS
    for span in history:
        start = max(span.start_unix_seconds, begin)
        if span.end_unix_seconds > start:
            yield span, start - begin, span.end_unix_seconds - start


def history_pieces(history: Sequence[Span], now_unix_seconds: float) -> tuple[Piece, ...]:
    """The classes of the last quarter of an hour, oldest first; it ends at the right."""
    return tuple(
        Piece(
            start=round(start / STRIP_SECONDS * 100, 2),
            length=round(length / STRIP_SECONDS * 100, 2),
            kind=span.bottleneck,
            title=(
                f"{WORDS[span.bottleneck]} for {render_seconds(length)} "
                f"from {_instant(span.start_unix_seconds, '%H:%M:%S UTC')}"
            ),
        )
        for span, start, length in _recent(history, now_unix_seconds)
    )


def history_words(history: Sequence[Span], now_unix_seconds: float) -> str:
    """The same in words: each class with its part of the time that was seen."""
    milliseconds: Counter[Bottleneck] = Counter()
    for span, _, length in _recent(history, now_unix_seconds):
        milliseconds[span.bottleneck] += max(round(length * 1000), 1)
    total = milliseconds.total()
    return ", ".join(
        f"{WORDS[name]} {render_percent(part / total)}" for name, part in milliseconds.most_common()
    )


def step_pieces(engine: EngineAssessment) -> tuple[Piece, ...]:
    """The components of a step side by side; empty while nothing was done."""
    if engine.attribution is None:
        return ()
    pieces = []
    start = 0.0
    shares = engine.attribution.shares
    for name in COMPONENTS:
        length = round(shares[name] * 100, 2)
        if length <= 0:
            continue
        title = f"{COMPONENT_WORDS[name]} {render_percent(shares[name])}"
        pieces.append(Piece(start=round(start, 2), length=length, kind=name, title=title))
        start += length
    return tuple(pieces)


def age_seconds(state: SourceState[Any], now_seconds: float) -> float | None:
    """Since the source last answered."""
    return None if state.last_success is None else max(now_seconds - state.last_success.at_seconds, 0.0)


def source_status(state: SourceState[Any]) -> tuple[str, str]:
    """One word for a source, and what it said."""
    outcome = state.outcome
    if outcome is None:
        return "waiting", "the first attempt is still under way"
    if isinstance(outcome, Absent):
        return "absent", outcome.message
    if isinstance(outcome, Failed):
        return "failed", outcome.message
    problems = outcome.reading.problems if isinstance(outcome.reading, ServerReading) else ()
    return "up", "; ".join(problems)


def gpus_by_class(gpus: Sequence[GpuAssessment]) -> dict[Bottleneck, str]:
    """The numbers of the GPUs in each class, as people list them."""
    return {
        name: render_numbers(
            [gpu.number for gpu in gpus if gpu.up and not gpu.partitioned and gpu.verdict.bottleneck == name]
        )
        for name in BOTTLENECKS
    }


class StatusPage:
    """Renders assessments; all templates are compiled at the start."""

    def __init__(self, *, version: str) -> None:
        environment = Environment(
            loader=PackageLoader("agent.exposition"),
            autoescape=True,
            auto_reload=False,  # no look at the files while a request waits
            undefined=StrictUndefined,
            finalize=_finalize,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        environment.filters.update(FILTERS)
        css = files("agent.exposition").joinpath("templates/status_page.css").read_text(encoding="utf-8")
        environment.globals.update(
            version=version,
            css=Markup(css),  # noqa: S704 - the package's own file, not input
            refresh_seconds=REFRESH_SECONDS,
            classes=BOTTLENECKS,
            words=WORDS,
            meanings=MEANINGS,
            component_words=COMPONENT_WORDS,
            history_pieces=history_pieces,
            history_words=history_words,
            step_pieces=step_pieces,
            age_seconds=age_seconds,
            source_status=source_status,
            engine_name=engine_name,
        )
        for name in environment.list_templates(extensions=("html",)):
            environment.get_template(name)
        self._template = environment.get_template("status_page.html")
        digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
        self.style_source = f"'sha256-{digest}'"
        """What a Content-Security-Policy must allow as style, and nothing else."""

    def render(self, assessment: Assessment | None, *, now_seconds: float, paused: bool = False) -> str:
        """The page; `now_seconds` is on the clock of the assessment. `paused` leaves out the refresh."""
        if assessment is None:
            return self._template.render(assessment=None, paused=paused)
        return self._template.render(
            assessment=assessment,
            paused=paused,
            now_seconds=now_seconds,
            age=max(now_seconds - assessment.at_seconds, 0.0),
            headline=headline(assessment),
            notes=notes(assessment),
            advice=advise_node(assessment),
            nvml=next((source for source in assessment.sources if source.name == "nvml"), None),
            by_class=gpus_by_class(assessment.gpus),
            charts=[
                (kind, chart)
                for kind, width, height in (("wide", 900.0, 530.0), ("narrow", 400.0, 420.0))
                if (chart := roofline_chart(assessment, width=width, height=height, brief=kind == "narrow"))
            ],
        )
