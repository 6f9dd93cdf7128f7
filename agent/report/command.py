"""From the options to the files."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import AgentError, ConfigurationError, SourceError
from agent.planning.points import config_of
from agent.report import period
from agent.report.access import load_access
from agent.report.answers import Answer, Answers
from agent.report.document import Review, Selection
from agent.report.history import History, kept_answers
from agent.report.measured import Measured, recorded_hours
from agent.report.monthly import review
from agent.report.options import FORMATS
from agent.report.period import Span, instant
from agent.report.progress import Progress, progress
from agent.report.questions import QUESTIONS, Question
from agent.report.render import render_html, render_json, render_markdown, render_tables, require_drawing
from agent.report.teams import fetch_teams
from agent.sources.page import PageLimits
from agent.sources.prometheus import PrometheusServer
from agent.units import render_percent
from agent.whole_file import write_whole

EXIT_PARTIAL = 3
MAX_ANSWER_BYTES = 64 * 2**20
KEPT = ".roofline-report"
"""Where answers are kept until the review is whole, in the directory of the output."""


def run(options: argparse.Namespace) -> int:
    """Ask, compute, write; the exit status.

    Raises `ConfigurationError` when an option is wrong or a file that it names, and `AgentError` when nothing
    can be written.
    """
    chosen = _period(options)
    if "html" in options.format:
        require_drawing()
    problems: list[str] = []
    configs = _load_configs(options.model, problems)
    access = load_access(options, problems)
    if options.output.exists() and not options.output.is_dir():
        problems.append(f"{options.output}: is no directory")
    if problems:
        raise ConfigurationError("report", tuple(problems))
    try:
        server = PrometheusServer(
            options.prometheus_url,
            access=access,
            limits=PageLimits(deadline_seconds=options.timeout, max_bytes=MAX_ANSWER_BYTES),
        )
    except SourceError as error:
        raise ConfigurationError("report", (str(error),)) from None
    matchers = "" if options.cluster is None else f'cluster="{_escaped(options.cluster)}"'
    name = _name(chosen.name, options.cluster)
    kept = kept_answers(options.output / KEPT, name, server, matchers, chosen.span)
    if options.fresh:
        kept.forget()
    history = History(server, selection=matchers, kept=kept)
    try:
        measured = _measure(history, chosen, options.group_by, server)
    finally:
        server.close()
    document = review(
        measured,
        source=server.address,
        selection=Selection(cluster=options.cluster, group_by=options.group_by),
        matchers=matchers,
        generated_at=instant(int(time.time())),
        configs=configs,
    )
    for path in _write(document, options.output, options.format):
        sys.stdout.write(f"{path}\n")
    if document.is_complete:
        kept.forget()
        return 0
    for problem in document.problems:
        sys.stderr.write(
            f"missing: {problem.what}, {problem.start:%Y-%m-%d %H:%M} – {problem.end:%Y-%m-%d %H:%M}: "
            f"{problem.message}\n"
        )
    sys.stderr.write("The review is partial, and says so. The same command asks again for what is missing.\n")
    return EXIT_PARTIAL


# --- asking ----------------------------------------------------------------------------------------


def _measure(history: History, chosen: period.Periods, group_by: str, server: PrometheusServer) -> Measured:
    earliest = history.earliest_sample(chosen.span)
    if earliest is None:
        _say(f"{server.name}: nothing was recorded until the end of {chosen.name}")
        raise AgentError(
            f"{server.name} has nothing that the rules record until {instant(chosen.span.end):%Y-%m-%d}: are "
            "rules/recordings loaded, is this the server that keeps what they record, and for so long?"
        )
    _say(f"earliest sample: {instant(earliest):%Y-%m-%d %H:%M} UTC")
    first = next(each for each in QUESTIONS if each.id == "recorded")
    covered = Answers(span=chosen.span, by_id={first.id: history.fetch(first, chosen.span)})
    part = recorded_hours(covered) / chosen.span.hours
    least = "at least " if covered[first.id].missing else ""
    _say(f"coverage: {least}{render_percent(part)} of {chosen.name} was recorded")
    if not covered[first.id]:
        refused = covered[first.id].missing
        raise AgentError(
            refused[0].reason if refused else f"{server.name}: nothing was recorded in {chosen.name}"
        )
    teams = fetch_teams(history, group_by, chosen.span, now=time.time())
    before = tuple(each for each in QUESTIONS if each.also_before)
    with progress(len(QUESTIONS) + len(before)) as shown:
        now = _fetch(history, QUESTIONS, chosen.span, shown)
        then = _fetch(history, before, chosen.previous, shown)
    return Measured(
        name=chosen.name,
        now=now,
        before_name=chosen.previous_name,
        before=then,
        earliest_sample=earliest,
        group_by=group_by,
        teams=teams,
    )


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def _fetch(history: History, questions: Iterable[Question], span: Span, shown: Progress) -> Answers:
    found: dict[str, Answer] = {}
    for question in questions:
        shown.asks(question.what)
        found[question.id] = history.fetch(question, span)
        shown.answered()
    return Answers(span=span, by_id=found)


# --- options ---------------------------------------------------------------------------------------


def _period(options: argparse.Namespace) -> period.Periods:
    now = time.time()
    try:
        if options.since is not None:
            return period.between(options.since, options.until, now=now)
        if options.until is not None:
            raise ValueError("--until has no meaning without --since")
        if options.month is not None:
            return period.month(options.month, now=now)
    except ValueError as error:
        raise ConfigurationError("report", (str(error),)) from None
    return period.last_month(now)


def _load_configs(models: Iterable[tuple[str, Path]], problems: list[str]) -> dict[str, Mapping[str, Any]]:
    """By the name of the model; what cannot be read is added."""
    configs = {}
    for name, path in models:
        try:
            config = config_of(str(path))
        except AgentError as error:
            problems.append(str(error))
            continue
        if config is None:
            problems.append(f"{path}: no such file")
        else:
            configs[name] = config
    return configs


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


# --- writing ---------------------------------------------------------------------------------------


def _name(period_name: str, cluster: str | None) -> str:
    """For files."""
    name = period_name.replace(" – ", "--").replace(":", "")
    return name if cluster is None else f"{name}-{re.sub('[^a-zA-Z0-9_.-]', '_', cluster)}"


def _write(document: Review, directory: Path, formats: Iterable[str]) -> list[Path]:
    """Each file is whole or as it was."""
    name = f"review-{_name(document.period.name, document.selection.cluster)}"
    texts: dict[str, str] = {}
    for each in FORMATS:
        if each not in formats:
            continue
        if each == "html":
            texts[f"{name}.html"] = render_html(document)
        elif each == "markdown":
            texts[f"{name}.md"] = render_markdown(document)
        elif each == "json":
            texts[f"{name}.json"] = render_json(document)
        else:
            texts.update({f"{name}-{table}": text for table, text in render_tables(document).items()})
    written = []
    for file, text in texts.items():
        path = directory / file
        try:
            directory.mkdir(parents=True, exist_ok=True)
            write_whole(path, text)
        except OSError as error:
            raise AgentError(f"{path}: cannot be written: {error.strerror}") from None
        written.append(path)
    return written
