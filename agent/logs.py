"""The process's own log, on stderr: a record is one line of text, or one JSON object, whatever stands in it.

Names and reasons come from engines, pods and processes, whom nobody vouches for. So control characters are
escaped: only a record begins at the start of a line. What looks like a credential is hidden.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TextIO

log = logging.getLogger(__name__)

Format = Literal["text", "json"]
Level = Literal["debug", "info", "warning", "error"]

MAX_CHARACTERS = 4096
"""Of one message, field or traceback: container runtimes cut a line at 16 KiB, and half an object is none."""
LARGEST = 1 << 53
"""Of numbers: JSON's readers take them for doubles."""
HIDDEN = "**********"

_SECRETS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?<=://)[^/\s@'\"]+@"), f"{HIDDEN}@"),  # user and password of a URL
    (re.compile(r"\?[^\s?'\"<>()=]*=[^\s'\"<>()]*"), f"?{HIDDEN}"),  # its query
    (re.compile(r"(?i)\b(bearer|basic) +[\w.~+/=-]{16,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"(?i)\b((?:proxy-)?authorization|x-api-key)(['\"]?\s*[:=]\s*)\S.*"), rf"\1\2{HIDDEN}"),
)
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; all else was given as ``extra``."""


def set_up(form: Format, level: Level) -> None:
    """Log so from now on, in place of how it was. What no one has caught is logged too."""
    _STDERR.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    root = logging.getLogger()
    root.addHandler(_STDERR)  # once, however often it is asked for
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    threading.excepthook = _log_of_thread
    sys.unraisablehook = _log_unraisable


def complain(text: str) -> None:
    """Say why a command ends, to a person or, where the log is read by machines, as they read it."""
    if isinstance(_STDERR.formatter, JsonFormatter):
        log.critical("%s", text)
    else:
        sys.stderr.write(f"roofline-agent: {text}\n")


class _Stderr(logging.StreamHandler[TextIO]):
    """Whatever is stderr now. A line that cannot be written is lost; nobody is to fail for it."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write it."""
        self.stream = sys.stderr  # another one in a test
        super().emit(record)

    def flush(self) -> None:
        """Also when the process ends, and stderr may be closed by then."""
        with suppress(OSError, ValueError):
            super().flush()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """There is nowhere else to say it."""


_STDERR = _Stderr()


class TextFormatter(logging.Formatter):
    """``2026-01-01T00:00:00.000Z WARNING nvml: …``; the lines of a traceback follow, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Never raises."""
        lines = [f"{_time(record)} {record.levelname} {one_line(_message(record))}"]
        lines += [f"    {one_line(line)}" for line in _traceback(record).split("\n") if line]
        return "\n".join(lines)


class JsonFormatter(logging.Formatter):
    """One object a line: `time`, `level`, `logger`, `message`, what the record has besides, `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """Never raises."""
        document: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _shown(_message(record)),
        }
        given = {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        for name, value in given.items():
            document.setdefault(_shown(name), _value(value))
        if trace := _traceback(record):
            document["exception"] = _shown(trace)
        return _escaped(json.dumps(document, ensure_ascii=False, allow_nan=False), in_json=True)


def one_line(text: str) -> str:
    """The text with all escaped that ends a line, acts on a terminal, or turns the direction of text."""
    return _escaped(text, in_json=False)


def _escaped(text: str, *, in_json: bool) -> str:
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else json.dumps(c)[1:-1] if in_json else c.encode("unicode_escape").decode()
        for c in text
    )


def _time(record: logging.LogRecord) -> str:
    """As RFC 3339 has it, in UTC."""
    try:
        moment = datetime.fromtimestamp(record.created, UTC)
    except (OverflowError, ValueError, OSError):  # a clock that is out of its mind
        moment = datetime.fromtimestamp(0, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    message = _tried(record.getMessage)
    return _shown(f"{_text(record.msg)} {_text(record.args)}" if message is None else message)


def _traceback(record: logging.LogRecord) -> str:
    info = record.exc_info
    if not info or info[0] is None:
        return ""
    lines = _tried(lambda: "".join(traceback.format_exception(*info)).rstrip("\n"))
    text = _hidden(lines or f"{info[0].__name__} (it cannot be shown)")
    # The end says what happened.
    return text if len(text) <= MAX_CHARACTERS else "…" + text[1 - MAX_CHARACTERS :]


def _value(value: Any) -> Any:
    """As JSON has it."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float):
        return value if abs(value) < LARGEST else _text(value)  # NaN is not less
    return _shown(_text(value))


def _text(value: Any) -> str:
    text = _tried(lambda: str(value))
    return f"({type(value).__name__})" if text is None else text


def _tried(give: Callable[[], str]) -> str | None:
    """`None` where that raises: what is logged may be anything."""
    try:
        return str(give())
    except Exception:
        return None


def _shown(text: str) -> str:
    text = _hidden(text)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _hidden(text: str) -> str:
    """The text without what looks like a credential."""
    for pattern, instead in _SECRETS:
        text = pattern.sub(instead, text)
    return text


# --- what nobody has caught ----------------------------------------------------------------------


def _log_of_thread(failed: threading.ExceptHookArgs) -> None:
    if failed.exc_type is SystemExit:
        return
    name = failed.thread.name if failed.thread is not None else "?"
    cause = failed.exc_value or failed.exc_type()
    log.critical("the thread %s has ended", name, exc_info=(failed.exc_type, cause, failed.exc_traceback))


def _log_unraisable(failed: sys.UnraisableHookArgs) -> None:
    error = failed.exc_value or failed.exc_type()
    info = (type(error), error, failed.exc_traceback)
    log.error("%s", failed.err_msg or "an exception was ignored", exc_info=info)
