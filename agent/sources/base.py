"""How a source is read: on a thread of its own, with a deadline, never raising.

A driver call that hangs strands only its own thread. What the rest of the agent sees is the last
`SourceState`, replaced by one reference assignment, so that nobody waits for anybody.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Protocol, TypeVar

from agent.clock import Clock, Metronome
from agent.errors import SourceAbsentError, SourceError
from agent.readings import Absent, Failed, Outcome, Read
from agent.units import render_seconds

log = logging.getLogger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

STALE_INTERVALS = 3
"""A source that has not answered for this many of its intervals takes its series with it."""


class Source(Protocol[T_co]):
    """Something that can be read.

    `read` returns a reading, or raises `SourceError` (it failed) or `SourceAbsentError` (there is no
    such thing here). `close` lets go of what it holds; it may be called from another thread.
    """

    @property
    def name(self) -> str:
        """The value of the label `source`."""

    @property
    def failure_reasons(self) -> tuple[str, ...]:
        """The reasons it knows, so that each is counted from 0."""

    def read(self) -> T_co:
        """Read once."""

    def close(self) -> None:
        """Let go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState(Generic[T]):
    """What is known of one source after its last attempt."""

    name: str
    interval_seconds: float
    outcome: Outcome[T] | None = None
    """Of the last attempt; `None` before the first one ends."""
    last_success: Read[T] | None = None
    last_success_unix_seconds: float | None = None
    read_duration_seconds: float | None = None
    reads: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    """Failed attempts by reason."""

    @property
    def up(self) -> bool:
        """Whether the last attempt succeeded."""
        return isinstance(self.outcome, Read)

    def fresh(self, now_seconds: float) -> Read[T] | None:
        """The last success, unless it is older than three intervals."""
        success = self.last_success
        if success is None or now_seconds - success.at_seconds > STALE_INTERVALS * self.interval_seconds:
            return None
        return success


STEADY_ANSWERS = 3
"""In a row, after which an outage is over: a source that fails now and then does not fill the log."""


class _Story:
    """What the log tells of one source, each change once: that it fails, each new reason, that it is back."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._reasons: set[str] = set()  # told in this outage
        self._since_seconds = 0.0
        self._answers = 0
        self._ever_answered = False

    def answers(self, now_seconds: float) -> None:
        self._answers += 1
        if not self._reasons:
            if not self._ever_answered:
                log.info("%s: answers", self._name, extra={"source": self._name})
        elif self._answers >= STEADY_ANSWERS:
            lasted = render_seconds(now_seconds - self._since_seconds)
            log.info("%s: answers again, after %s", self._name, lasted, extra={"source": self._name})
            self._reasons.clear()
        self._ever_answered = True

    def fails(
        self, reason: str, message: str, now_seconds: float, *, bug: BaseException | None = None
    ) -> None:
        self._answers = 0
        told = f"{reason} {type(bug).__name__}"  # of two bugs, both tracebacks
        if told in self._reasons:
            return
        if not self._reasons:
            self._since_seconds = now_seconds
        self._reasons.add(told)
        level = logging.WARNING if bug is None else logging.ERROR
        log.log(level, "%s", message, exc_info=bug, extra={"source": self._name, "reason": reason})


OWN_REASONS = ("timeout", "internal")
"""Reasons that the poller itself gives."""


def _one_more(failures: Mapping[str, int], reason: str) -> dict[str, int]:
    return {**failures, reason: failures.get(reason, 0) + 1}


class Poller(Generic[T]):
    """Reads one source at its interval and publishes its `SourceState`.

    `start` runs it on a thread of its own. `poll` is one attempt, for who brings time along
    themselves: `once`, and the tests with their own clock.
    """

    def __init__(
        self,
        source: Source[T],
        *,
        interval_seconds: float,
        deadline_seconds: float,
        clock: Clock,
        made_from: object = None,
    ) -> None:
        self.source = source
        self.made_from = made_from
        """What the configuration said of the source: one that is made from the same can stand for this."""
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._state: SourceState[T] = SourceState(
            name=source.name,
            interval_seconds=interval_seconds,
            failures=dict.fromkeys(sorted({*source.failure_reasons, *OWN_REASONS}), 0),
        )
        self._story = _Story(source.name)
        self._attempt_since: float | None = None
        # The attempt that was found overdue; it is counted once, now or when it ends.
        self._overdue_since: float | None = None
        self._metronome = Metronome(interval_seconds, clock=clock)
        self._retired = False
        self._thread: threading.Thread | None = None

    def state(self) -> SourceState[T]:
        """What is known now; an attempt past its deadline shows as failed while it still hangs."""
        state, since = self._state, self._attempt_since
        now = self._clock.monotonic()
        if since is not None and now - since > self._deadline_seconds:
            message = f"{state.name}: no answer for {now - since:.0f} s; the attempt is still waiting"
            if self._overdue_since != since:
                self._overdue_since = since
                self._story.fails("timeout", message, now)
            overdue = Failed(reason="timeout", message=message, at_seconds=now)
            return replace(state, outcome=overdue, failures=_one_more(state.failures, "timeout"))
        return state

    def poll(self) -> SourceState[T]:
        """One attempt, now, on the caller's thread."""
        started = self._clock.monotonic()
        self._attempt_since = started
        before = self._state
        outcome = self._attempt()
        success = outcome if isinstance(outcome, Read) else before.last_success
        failures = before.failures
        if self._overdue_since == started:
            failures = _one_more(failures, "timeout")
        elif isinstance(outcome, Failed):
            failures = _one_more(failures, outcome.reason)
        self._tell(outcome)
        self._state = SourceState(
            name=before.name,
            interval_seconds=self._metronome.interval_seconds,
            outcome=outcome,
            last_success=success,
            last_success_unix_seconds=(
                self._clock.unix() if isinstance(outcome, Read) else before.last_success_unix_seconds
            ),
            read_duration_seconds=self._clock.monotonic() - started,
            reads=before.reads + 1,
            failures=failures,
        )
        self._attempt_since = None
        return self._state

    def _attempt(self) -> Outcome[T]:
        try:
            reading = self.source.read()
        except SourceAbsentError as absent:
            return Absent(message=str(absent), at_seconds=self._clock.monotonic())
        except SourceError as error:
            return Failed(reason=error.reason, message=str(error), at_seconds=self._clock.monotonic())
        except Exception as error:  # the one place: a bug in a reader must cost its own series only
            message, now = f"{self.source.name}: the reader itself failed", self._clock.monotonic()
            self._story.fails("internal", message, now, bug=error)
            return Failed(reason="internal", message=f"{message}; the log has the traceback", at_seconds=now)
        return Read(reading=reading, at_seconds=self._clock.monotonic())

    def _tell(self, outcome: Outcome[Any]) -> None:
        if isinstance(outcome, Read):
            self._story.answers(outcome.at_seconds)
        elif isinstance(outcome, Absent):
            self._story.fails("absent", outcome.message, outcome.at_seconds)
        elif outcome.reason != "internal":  # else it was told, with its traceback
            self._story.fails(outcome.reason, outcome.message, outcome.at_seconds)

    def pace(self, interval_seconds: float) -> None:
        """Poll at this interval from now on, and once now: what was read stands until then."""
        self._metronome.pace(interval_seconds)

    def follow(self, former: Poller[T]) -> None:
        """Before `start`: know what `former` knows, who reads the same otherwise, and go on counting."""
        self._state = former.state()
        self._story = former._story

    def start(self) -> None:
        """Poll on a thread of its own until `close`."""
        self._thread = threading.Thread(target=self._run, name=f"source-{self.source.name}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for _ in self._metronome.beats():
            self.poll()
        if self._retired:
            self.source.close()

    def stop(self) -> None:
        """Begin no further attempt."""
        self._metronome.stop()

    def retire(self) -> None:
        """Stop for good without waiting: the source is let go of when the attempt that runs now ends."""
        self._retired = True
        self.stop()
        if self._thread is None:
            self.source.close()

    def close(self, *, patience_seconds: float = 1.0) -> None:
        """Stop polling and let go of the source; a hanging attempt is left behind, not waited for."""
        self.stop()
        if self._thread is not None:
            self._thread.join(timeout=patience_seconds)
        self.source.close()
