"""The log as people and machines read it, and that it tells each change once."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import logs
from agent.clock import ManualClock
from agent.errors import SourceAbsentError, SourceError
from agent.logs import JsonFormatter, TextFormatter
from agent.sources.base import STEADY_ANSWERS, Poller

FORMATTERS = (TextFormatter(), JsonFormatter())
RECORD_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (DEBUG|INFO|WARNING|ERROR|CRITICAL) ")


@pytest.fixture
def own_log() -> Iterator[Callable[[logs.Format, logs.Level], logging.Logger]]:
    """Logs as the daemon does; afterwards the test's own logging is back."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    hooks = threading.excepthook, sys.unraisablehook

    def begin(form: logs.Format, at: logs.Level) -> logging.Logger:
        logs.set_up(form, at)
        return logging.getLogger("agent.tests")

    yield begin
    logging.captureWarnings(False)
    root.setLevel(level)
    root.handlers[:] = handlers
    threading.excepthook, sys.unraisablehook = hooks
    logs._STDERR.setFormatter(TextFormatter())


def record(
    message: object, *args: object, error: BaseException | None = None, **extra: Any
) -> logging.LogRecord:
    info = (type(error), error, error.__traceback__) if error is not None else None
    made = logging.LogRecord("agent.x", logging.WARNING, __file__, 1, message, args, info)
    vars(made).update(extra)
    return made


def as_json(made: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(made)
    assert line.isprintable()
    document: dict[str, Any] = json.loads(line)
    return document


def caught(text: str) -> BaseException:
    try:
        raise ValueError(text)
    except ValueError as error:
        return error


class Unsayable:
    def __str__(self) -> str:
        raise RuntimeError("never")

    __repr__ = __str__


# --- formats ---------------------------------------------------------------------------------------


def test_text_is_a_line_a_record_with_its_time_and_level() -> None:
    made = record("nvml: %d GPUs", 8)
    made.created = 1_800_000_000.0625
    assert TextFormatter().format(made) == "2027-01-15T08:00:00.062Z WARNING nvml: 8 GPUs"


def test_json_is_an_object_a_line_with_what_the_record_has_besides() -> None:
    made = record("nvml: gone", source="nvml", reason="timeout", tries=3, error=caught("why"))
    made.created = 1_800_000_000.0625
    document = as_json(made)
    trace = document.pop("exception")
    assert trace.startswith("Traceback")
    assert trace.endswith("ValueError: why")
    assert document == {
        "time": "2027-01-15T08:00:00.062Z",
        "level": "warning",
        "logger": "agent.x",
        "message": "nvml: gone",
        "source": "nvml",
        "reason": "timeout",
        "tries": 3,
    }


def test_a_traceback_stays_under_its_record() -> None:
    first, *more = TextFormatter().format(record("failed", error=caught("why"))).split("\n")
    assert RECORD_LINE.match(first)
    assert more[0] == "    Traceback (most recent call last):"
    assert more[-1] == "    ValueError: why"
    assert all(line.startswith("    ") for line in more)


FORGED = "x\n2026-01-01T00:00:00.000Z ERROR all is lost\r\x1b[2J\x85\u2028{}\u202e\x00\ud800"


def test_no_text_from_outside_forges_a_line() -> None:
    made = record("pod %s", FORGED, error=caught(FORGED), server=FORGED)
    first, *more = TextFormatter().format(made).split("\n")
    assert first.endswith(
        r"pod x\n2026-01-01T00:00:00.000Z ERROR all is lost\r\x1b[2J\x85\u2028{}\u202e\x00\ud800"
    )
    assert all(line.startswith("    ") and line.isprintable() for line in more)
    document = as_json(made)
    assert document["message"] == f"pod {FORGED}"
    assert document["server"] == FORGED


@given(message=st.text(), extra=st.text(), error=st.text())
def test_any_text_is_one_record(message: str, extra: str, error: str) -> None:
    made = record("%s", message, error=caught(error), source=extra)
    text = TextFormatter().format(made)
    assert sum(RECORD_LINE.match(line) is not None for line in text.splitlines()) == 1
    assert set(as_json(made)) == {"time", "level", "logger", "message", "source", "exception"}


LOOP: list[object] = []
LOOP.append(LOOP)


@pytest.mark.parametrize(
    "value",
    [
        Unsayable(), float("nan"), float("inf"), 1 << 4000, 10**5000, b"\xff", {1: {2}}, LOOP, object, None,
        True, {"a": Unsayable()}, "x" * 100_000,
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_whatever_is_logged_nothing_is_raised(value: object) -> None:
    made = record("%s", value, given=value)
    TextFormatter().format(made)
    assert "given" in as_json(made)


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_a_record_that_is_wrong_is_shown_all_the_same(formatter: logging.Formatter) -> None:
    assert "%d seconds" in formatter.format(record("%d seconds", "no number"))
    odd = record("odd")
    odd.created = 1e300
    assert "odd" in formatter.format(odd)


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
def test_a_line_fits_what_container_runtimes_take(formatter: logging.Formatter) -> None:
    made = record("%s", "m" * 100_000, error=caught("e" * 100_000 + " the end"))
    line = formatter.format(made)
    assert len(line) < 10_000
    assert "the end" in line


@pytest.mark.parametrize("formatter", FORMATTERS, ids=["text", "json"])
@pytest.mark.parametrize(
    "words",
    [
        "http://user:s3cret-word@host:8000/metrics: refused",
        "url: /metrics?token=s3cret-word (Caused by …)",
        "http://host/metrics?a=1&token=s3cret-word",
        "Authorization: Bearer s3cret-word",
        "{'Authorization': 'Basic s3cret-word'}",
        "sent Bearer s3cret-word-of-some-length",
    ],
)
def test_what_looks_like_a_credential_is_hidden(formatter: logging.Formatter, words: str) -> None:
    shown = formatter.format(record("asked: %s", words, error=caught(words), given=words))
    assert "s3cret" not in shown
    assert logs.HIDDEN in shown


def test_words_are_left_alone() -> None:
    words = "basic authentication of alice at http://[::1]:8000/metrics: is the bearer token right? See a=b"
    assert words in TextFormatter().format(record(words))


# --- the process's own log -------------------------------------------------------------------------


def test_the_log_is_said_once_however_often_it_is_set_up(
    own_log: Callable[..., logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    own_log("text", "info")
    log = own_log("json", "warning")
    log.info("too low")
    log.warning("one")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["message"] == "one"
    logs.complain("the end")
    assert json.loads(capsys.readouterr().err)["level"] == "critical"
    own_log("text", "error")
    logs.complain("the end")
    assert capsys.readouterr().err == "roofline-agent: the end\n"


def test_what_nobody_has_caught_is_logged(
    own_log: Callable[..., logging.Logger], capsys: pytest.CaptureFixture[str]
) -> None:
    own_log("json", "info")
    thread = threading.Thread(target=lambda: 1 // 0, name="doomed")
    thread.start()
    thread.join()
    document = json.loads(capsys.readouterr().err)
    assert (document["level"], document["message"]) == ("critical", "the thread doomed has ended")
    assert document["exception"].endswith("ZeroDivisionError: integer division or modulo by zero")


def test_a_log_that_cannot_be_written_stops_nobody(
    own_log: Callable[..., logging.Logger], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Full:
        def write(self, _: str) -> int:
            raise OSError(28, "No space left on device")

    log = own_log("text", "info")
    monkeypatch.setattr(sys, "stderr", Full())
    log.error("lost")


# --- changes of state, once ------------------------------------------------------------------------


class Moody:
    """A source that does next what it is told."""

    name = "moody"
    failure_reasons = ("refused", "http_status")

    def __init__(self) -> None:
        self.error: Exception | None = None

    def read(self) -> int:
        if self.error is not None:
            raise self.error
        return 1

    def close(self) -> None:
        pass


class Watch:
    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self._caplog = caplog
        self.clock = ManualClock()
        self.source = Moody()
        self.poller = Poller(self.source, interval_seconds=1, deadline_seconds=5, clock=self.clock)

    def tick(self, times: int = 1) -> list[str]:
        """What is said meanwhile."""
        self._caplog.clear()
        for _ in range(times):
            self.poller.poll()
            self.poller.state()
            self.clock.advance(1)
        return [one.getMessage() for one in self._caplog.records]


@pytest.fixture
def moody(caplog: pytest.LogCaptureFixture) -> Watch:
    return Watch(caplog)


def test_an_outage_of_minutes_is_two_lines(moody: Watch) -> None:
    assert moody.tick(60) == ["moody: answers"]
    moody.source.error = SourceError("refused", "moody: refused; is it up?")
    assert moody.tick(600) == ["moody: refused; is it up?"]
    moody.source.error = None
    assert moody.tick(60) == ["moody: answers again, after 10 min"]


def test_each_reason_of_an_outage_is_said_once(moody: Watch) -> None:
    said = []
    for turn in range(100):
        reason = ("refused", "http_status")[turn % 2]
        moody.source.error = SourceError(reason, reason)
        said += moody.tick()
    assert said == ["refused", "http_status"]


def test_a_source_that_fails_now_and_then_does_not_fill_the_log(moody: Watch) -> None:
    said = []
    for turn in range(300):
        moody.source.error = SourceError("refused", "refused") if turn % STEADY_ANSWERS == 0 else None
        said += moody.tick()
    assert said == ["refused"]


def test_a_bug_in_a_reader_is_one_traceback(moody: Watch, caplog: pytest.LogCaptureFixture) -> None:
    moody.source.error = ZeroDivisionError()
    assert moody.tick(300) == ["moody: the reader itself failed"]
    assert caplog.records[0].exc_info is not None
    moody.source.error = KeyError("another")
    assert moody.tick(300) == ["moody: the reader itself failed"]


def test_what_is_not_there_is_said_once(moody: Watch, caplog: pytest.LogCaptureFixture) -> None:
    moody.source.error = SourceAbsentError("moody: no such thing here")
    assert moody.tick(300) == ["moody: no such thing here"]
    (told,) = caplog.records
    assert vars(told)["source"] == "moody"
    assert vars(told)["reason"] == "absent"
