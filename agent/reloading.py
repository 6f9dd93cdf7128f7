"""The configuration file while the agent runs: when it is read again, and what comes of it.

It is read again when it has changed, on SIGHUP, and when somebody asks over HTTP. A change is believed when
two looks in a row show the same bytes, wherever symlinks lead by then: files are renamed, exchanged
behind a symlink, missing for a moment, and half written. What is wrong with it is logged and told, and
the configuration in force goes on.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import stat
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from agent.config import Configuration, load_configuration, parse_configuration
from agent.errors import AgentError, ConfigurationError

log = logging.getLogger(__name__)

LOOK_SECONDS = 2.0
"""Between two looks at the file: it is small, and read whole."""
MAX_FILE_BYTES = 1 << 20
CLOSE_SECONDS = 0.3
"""For a reload that is under way; the process ends soon."""
NOTHING = "there is nothing to reload: the agent was started without --config"


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """What the file held at one look; that it cannot be read is a content too."""

    text: str = ""
    problem: str | None = None

    @property
    def digest(self) -> bytes:
        """Equal for equal contents."""
        return hashlib.sha256(repr((self.problem, self.text)).encode()).digest()


class ConfigurationFile:
    """The file that `--config` names."""

    def __init__(
        self, path: Path, *, complete: Callable[[Configuration], Configuration] | None = None
    ) -> None:
        """`complete` adds to each configuration what the file does not say."""
        self.path = path
        self._complete = complete or (lambda configuration: configuration)

    def look(self) -> Content:
        """Read it. Never raises, and never waits."""
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                return Content(problem="is not a regular file, and cannot be read again")
            with self.path.open("rb") as file:
                held = file.read(MAX_FILE_BYTES + 1)
            if len(held) > MAX_FILE_BYTES:
                return Content(problem=f"cannot be read: it is larger than {MAX_FILE_BYTES} bytes")
            return Content(text=held.decode())
        except OSError as error:
            return Content(problem=f"cannot be read: {error.strerror}")
        except UnicodeDecodeError:
            return Content(problem="cannot be read: not UTF-8 text")

    def load(self) -> tuple[Configuration, Content]:
        """For the first time, when it may also be a pipe. Raises `ConfigurationError`."""
        content = self.look()
        if content.problem is not None:
            return self._complete(load_configuration(self.path)), content
        return self.parse(content), content

    def parse(self, content: Content) -> Configuration:
        """What that content says. Raises `ConfigurationError` with every problem."""
        if content.problem is not None:
            raise ConfigurationError(str(self.path), (content.problem,))
        return self._complete(parse_configuration(content.text, origin=str(self.path)))


class Reloadable(Protocol):
    """Who can go on by another configuration."""

    def adopt(self, configuration: Configuration) -> object:
        """Go on by it, and give what is different, in words; `ConfigurationError` leaves all as it was."""

    def note_refusal(self, problems: Sequence[str]) -> None:
        """Say that the last one was refused."""


class Reloader:
    """Brings what the file says into force."""

    def __init__(
        self,
        file: ConfigurationFile | None,
        agent: Reloadable,
        *,
        loaded: Content | None = None,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        """`loaded` is what the configuration in force was made from."""
        self._file = file
        self._agent = agent
        self._look_seconds = look_seconds
        # Guards the next two: whoever asks, one configuration after the other is loaded.
        self._lock = threading.Lock()
        self._tried = loaded.digest if loaded is not None else b""
        self._seen = self._tried
        # May be put into by a signal's handler, whatever that interrupts.
        self._asked: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="reload", daemon=True)

    def start(self) -> None:
        """Look at the file now and then, and do what was asked for with `ask`."""
        self._thread.start()

    def ask(self, who: str) -> None:
        """Load the file soon, on a thread of its own. Safe in a signal's handler."""
        self._asked.put(who)

    def reload(self, who: str) -> str:
        """Load the file now. Gives what is different, in words.

        Raises `ConfigurationError` with every problem, and all goes on as it was; `AgentError` for a bug.
        """
        if self._file is None:
            log.error("%s: %s", who, NOTHING)
            raise ConfigurationError(who, (NOTHING,))
        with self._lock:
            return self._take(self._file, self._file.look(), who)

    def look(self) -> None:
        """Load the file if it has changed, and held the same at the look before."""
        if self._file is None:
            return
        with self._lock:
            content = self._file.look()
            settled = content.digest == self._seen
            self._seen = content.digest
            if settled and content.digest != self._tried:
                self._take(self._file, content, "its change")

    def _take(self, file: ConfigurationFile, content: Content, who: str) -> str:
        self._tried = content.digest
        try:
            difference = str(self._agent.adopt(file.parse(content)))
        except ConfigurationError as error:
            self._agent.note_refusal(error.problems)
            problems = "; ".join(error.problems)
            log.error("%s: refused (%s), the last good configuration goes on: %s", file.path, who, problems)
            raise ConfigurationError(str(file.path), error.problems) from None
        except Exception as error:  # a bug must not pass for a success, nor end the thread that watches
            log.exception("%s: could not be brought into force (%s)", file.path, who)
            problem = f"could not be brought into force: {type(error).__name__}; the log has the traceback"
            self._agent.note_refusal((problem,))
            raise AgentError(f"{file.path}: {problem}") from error
        log.warning("%s: loaded (%s): %s", file.path, who, difference)
        return difference

    def _run(self) -> None:
        while True:
            with suppress(AgentError):  # it was logged
                try:
                    who = self._asked.get(timeout=self._look_seconds if self._file is not None else None)
                except queue.Empty:
                    self.look()
                    continue
                if who is None:
                    return
                self.reload(who)

    def close(self) -> None:
        """Load nothing more."""
        self._asked.put(None)
        if self._thread.is_alive():
            self._thread.join(timeout=CLOSE_SECONDS)
