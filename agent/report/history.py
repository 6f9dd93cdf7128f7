"""Fetches a period's answers from a server that may refuse to give so much at once.

A question is asked for the whole period. Where that is refused, or takes too long, the period is halved, and
the most that a server has answered is how much it is asked for from then on. What was answered is kept on
disk, so that a run that ends early goes on where it ended. What was not answered is said and left out.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from agent.errors import AgentError, SourceError
from agent.report.answers import Answer, Key, Piece
from agent.report.period import DAY_SECONDS, HOUR_SECONDS, RECORDED_SECONDS, Span
from agent.report.questions import RECORDED_AT_ALL, STEP_SECONDS, Question
from agent.sources.prometheus import PrometheusServer, Series
from agent.whole_file import write_whole

TOO_MUCH = (400, 413, 422)
"""Of HTTP: the query is understood and is more than the server gives."""
TIMED_OUT = (503, 504)
BUSY = (429, 500, 502, *TIMED_OUT)
WAITS_SECONDS = (1.0, 5.0, 15.0)
"""Before a server that was busy is asked again."""
SETTLED_SECONDS = 900
"""What is younger may still be recorded, and is not kept."""
LOOK_BACK_DAYS = 400
"""Before the period, for the earliest sample."""
PATIENCE = 3
"""Pieces in a row that are not answered: then the rest of the question is left unasked."""
GIVES_UP = 15
"""The same of all questions: then nothing more is asked."""
_GOES_ON = "What was answered until now is kept: the same command goes on from there."
_GONE = ("refused", "unreachable", "tls")

_log = logging.getLogger(__name__)

Rows = dict[Key, dict[int, float]]
_Found = TypeVar("_Found")


class Kept:
    """Answers on disk, each in a file of its own; none is ever half there."""

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory

    def get(self, name: str) -> Rows | None:
        """What was put there. A file that cannot be read is as good as none."""
        if self._directory is None:
            return None
        try:
            stored = json.loads((self._directory / f"{name}.json").read_bytes())
            if not isinstance(stored, list):
                return None
            return {tuple(key): {int(at): float(value) for at, value in row} for key, row in stored}
        except (OSError, ValueError, TypeError):
            return None

    def put(self, name: str, rows: Rows) -> None:
        """Keep it. A disk that is full costs the next run time, and this one nothing."""
        if self._directory is None:
            return
        path = self._directory / f"{name}.json"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps([[key, [*row.items()]] for key, row in rows.items()]))
        except OSError as error:
            _log.warning("%s: cannot be kept: %s", path, error.strerror)

    def forget(self) -> None:
        """Nothing is left of it, nor of the directory above it where that holds no other."""
        if self._directory is None:
            return
        try:
            if not self._directory.is_dir():
                return
            for path in self._directory.glob("*.json"):
                path.unlink(missing_ok=True)
            self._directory.rmdir()
            if not any(self._directory.parent.iterdir()):
                self._directory.parent.rmdir()
        except OSError as error:
            _log.warning("%s: cannot be deleted: %s", self._directory, error.strerror)


def kept_answers(root: Path, name: str, server: PrometheusServer, selection: str, span: Span) -> Kept:
    """Those of one review, apart from what was told of other series, by another server or to another user.

    `name` is for people, who may find them in `root`.
    """
    told = f"{server.digest()}\n{selection}\n{span.start}\n{span.end}"
    return Kept(root / f"{name}-{hashlib.sha256(told.encode()).hexdigest()[:16]}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Refused:
    """A piece that was not answered."""

    reason: str
    is_too_much: bool


class History:
    """What a server has recorded."""

    def __init__(
        self,
        server: PrometheusServer,
        *,
        selection: str = "",
        kept: Kept | None = None,
        sleep: Callable[[float], None] = time.sleep,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._server, self._selection = server, selection
        self._kept = kept or Kept()
        self._sleep, self._now = sleep, now
        self._longest: dict[tuple[str, str], int] = {}
        """By level and step: what the server was seen to answer at once, in seconds."""
        self._has_answered = False
        self._in_a_row = 0
        self.source = server.name
        """For people."""
        self.queries = 0
        """Asked until now."""

    def fetch(self, question: Question, span: Span) -> Answer:
        """The answer, as far as it is given. Raises `AgentError` when the server is gone or refuses us."""
        rows: Rows = {}
        missing: list[Piece] = []
        in_a_row = most = 0
        was_too_much = False
        step = STEP_SECONDS[question.step]
        longest = self._longest.get((question.level, question.step), span.seconds)
        waiting = [*reversed([*_pieces(span, step, longest)])]
        while waiting:
            piece = waiting.pop()
            found = self._ask(question, piece, step)
            if not isinstance(found, _Refused):
                self._in_a_row = in_a_row = 0
                most = max(most, piece.seconds)
                for key, row in found.items():
                    rows.setdefault(key, {}).update(row)
                continue
            was_too_much |= found.is_too_much
            halves = _halved(piece, step or DAY_SECONDS) if found.is_too_much else ()
            if halves:
                waiting += reversed(halves)
                continue
            missing.append(Piece(span=piece, reason=found.reason))
            in_a_row += 1
            self._in_a_row += 1
            if self._in_a_row >= GIVES_UP:
                raise AgentError(
                    f"{found.reason} {self._in_a_row} queries in a row were not answered. {_GOES_ON}"
                )
            if in_a_row >= PATIENCE:
                missing += [Piece(span=each, reason=found.reason) for each in reversed(waiting)]
                break
        # Not what was refused: a server that refuses everything says nothing of how much it gives.
        if was_too_much and most >= HOUR_SECONDS:
            self._longest[question.level, question.step] = most
        return Answer(question=question, rows=rows, missing=tuple(missing))

    def earliest_sample(self, span: Span) -> int | None:
        """Unix time of the first that was recorded until the period's end; `None` when there is none.

        Raises `AgentError` when nobody can tell.
        """
        within = Span(start=span.start - LOOK_BACK_DAYS * DAY_SECONDS, end=span.end)
        for step in (DAY_SECONDS, HOUR_SECONDS, RECORDED_SECONDS):
            found = self._first_step(within, step)
            if found is None:
                return None
            within = found
        return within.end

    def _first_step(self, within: Span, step: int) -> Span | None:
        """The first of such steps in which anything was recorded."""
        selected = f"{RECORDED_AT_ALL}{{{self._selection}}}" if self._selection else RECORDED_AT_ALL
        promql = f"count (last_over_time({selected}[{step * 1000 - 1}ms]))"
        waiting = [within]
        while waiting:
            piece = waiting.pop()
            series = self._patiently("earliest sample", partial(self._recorded_steps, promql, piece, step))
            if isinstance(series, _Refused):
                halves = _halved(piece, step) if series.is_too_much and piece.seconds > step else ()
                if not halves:
                    raise AgentError(series.reason)
                waiting += reversed(halves)
                continue
            found = [at for one in series for at in one.points]
            if found:
                return Span(start=int(min(found)) - step, end=int(min(found)))
        return None

    def _recorded_steps(self, promql: str, piece: Span, step: int) -> tuple[Series, ...]:
        return self._server.query_range(
            promql,
            start=piece.start + step,
            end=piece.start + -(-piece.seconds // step) * step,
            step_seconds=step,
        )

    def _ask(self, question: Question, piece: Span, step: int | None) -> Rows | _Refused:
        """What was kept of it, or else one query."""
        seconds = min(step or piece.seconds, piece.seconds)
        promql = question.promql(seconds, self._selection)
        name = hashlib.sha256(f"{promql}\n{piece.start}\n{piece.end}".encode()).hexdigest()[:32]
        stored = self._kept.get(name)
        if stored is not None:
            return stored
        rows = self._patiently(question.id, partial(self._query, question, promql, piece, seconds))
        if not isinstance(rows, _Refused) and piece.end < self._now() - SETTLED_SECONDS:
            self._kept.put(name, rows)
        return rows

    def _patiently(self, subject: str, ask: Callable[[], _Found]) -> _Found | _Refused:
        """One query, several times where the server is busy."""
        for wait in (*WAITS_SECONDS, None):
            self.queries += 1
            try:
                found = ask()
            except SourceError as error:
                _log.info("%s: %s", subject, error)
                if _is_closed(error) or (error.reason in _GONE and (wait is None or not self._has_answered)):
                    raise AgentError(f"{error} {_GOES_ON}" if self._has_answered else str(error)) from None
                was_patient = wait != WAITS_SECONDS[0]
                if _is_too_much(error, was_patient=was_patient):
                    return _Refused(reason=str(error), is_too_much=True)
                if wait is None or not _may_pass(error):
                    return _Refused(reason=str(error), is_too_much=False)
                self._sleep(wait)
            else:
                self._has_answered = True
                return found
        raise AssertionError("the last wait is none")

    def _query(self, question: Question, promql: str, piece: Span, seconds: int) -> Rows:
        """By the values of the labels; each number under the beginning of its step."""
        if seconds == piece.seconds:
            return {
                _key(question.by, sample.labels): {piece.start: sample.value}
                for sample in self._server.query(promql, at=piece.end)
                if sample.value is not None
            }
        return {
            _key(question.by, series.labels): {
                round(at) - seconds: value for at, value in series.points.items()
            }
            for series in self._server.query_range(
                promql, start=piece.start + seconds, end=piece.end, step_seconds=seconds
            )
        }


def _pieces(span: Span, step: int | None, longest: int) -> Iterator[Span]:
    """One after the other, none longer: each of whole steps, or within one; the end may be no whole step."""
    if step is None:
        yield from span.pieces(longest)
        return
    whole = span.seconds // step * step
    if whole:
        for steps in Span(start=span.start, end=span.start + whole).pieces(max(longest // step * step, step)):
            yield from steps.pieces(longest)
    if whole < span.seconds:
        yield from Span(start=span.start + whole, end=span.end).pieces(longest)


def _is_closed(error: SourceError) -> bool:
    """Whether asking anything else would end in the same way."""
    return error.http_status in (401, 403, 404) or error.reason == "redirect"


def _is_too_much(error: SourceError, *, was_patient: bool) -> bool:
    """Whether less of it may be answered. A server that has no time may only have had none just then."""
    if error.http_status in TIMED_OUT:
        return was_patient
    return error.http_status in TOO_MUCH or error.reason in ("too_large", "timeout")


def _may_pass(error: SourceError) -> bool:
    return error.http_status in BUSY or error.reason in ("disconnected", "partial", *_GONE)


def _key(by: Sequence[str], labels: Mapping[str, str]) -> Key:
    return tuple(labels.get(label, "") for label in by)


def _halved(piece: Span, step: int) -> tuple[Span, ...]:
    """Two of whole steps, or of whole hours where it is one step; none of what is an hour or less."""
    unit = step if piece.seconds > step else HOUR_SECONDS
    half = piece.seconds // 2 // unit * unit or unit
    if half >= piece.seconds:
        return ()
    middle = piece.start + half
    return Span(start=piece.start, end=middle), Span(start=middle, end=piece.end)
