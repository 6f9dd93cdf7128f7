"""The terminal: what is drawn on it, the keys and signals that come, and that it is left as it was found.

Whatever ends the program, its last act on the terminal is to undo the first. A terminal that cannot move its
cursor (``TERM=dumb``) gets the frames beneath each other, now and then.
"""

from __future__ import annotations

import os
import select
import signal
import termios
import time
import tty
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Self

from agent.errors import AgentError
from agent.terminal.frame import Size
from agent.terminal.glyphs import encoded
from agent.terminal.keys import parse_keys

ENTER = "\x1b[?1049h\x1b[?25l\x1b[?7l\x1b[2J"
"""The other screen, no cursor, no line that flows over, nothing on it."""
LEAVE = "\x1b[?7h\x1b[?25h\x1b[0m\x1b[?1049l"
ESCAPE_SECONDS = 0.05
"""How long the rest of a sequence may take; Esc alone is a key."""
PLAIN_SECONDS = 10.0
"""Between two frames beneath each other, unless one is wanted at once."""
DEFAULT_SIZE = Size(width=80, height=24)

ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What came."""

    keys: tuple[str, ...] = ()
    ended_by: int | None = None
    """A signal; SIGHUP too where the terminal is gone."""


class Screen:
    """A terminal, from `__enter__` to `__exit__`, on the main thread."""

    def __init__(self, *, keyboard: int, display: int, term: str, encoding: str) -> None:
        """File descriptors, what TERM says, and how characters are written."""
        if not (os.isatty(keyboard) and os.isatty(display)):
            raise AgentError(
                "top draws on a terminal, and this is none: roofline-agent once prints the same, "
                "and with --format json it is for programs"
            )
        self._keyboard, self._display, self._encoding = keyboard, display, encoding
        self.is_plain = term in ("", "dumb")
        self._found: list[Any] | None = None
        self._drawn: Sequence[str] = ()
        self._drawn_seconds = float("-inf")
        self._begun = b""
        self._came: list[int] = []
        self._handlers: dict[int, Any] = {}
        self._wake_read, self._wake_write = -1, -1

    def __enter__(self) -> Self:
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_write, False)
        os.set_blocking(self._wake_read, False)
        for number in (*ENDS, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH):
            self._handlers[number] = signal.signal(number, self._note)
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        self._take()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._give_back()
        signal.set_wakeup_fd(-1)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        os.close(self._wake_read)
        os.close(self._wake_write)

    @property
    def size(self) -> Size:
        """In cells, now."""
        try:
            given = os.get_terminal_size(self._display)
        except OSError:
            return DEFAULT_SIZE
        if given.columns <= 0 or given.lines <= 0:  # a serial line says 0 × 0
            return DEFAULT_SIZE
        return Size(width=given.columns, height=given.lines)

    def draw(self, lines: Sequence[str], *, at_once: bool) -> None:
        """Show these lines, which hold escape sequences for colours at most."""
        if lines == self._drawn:
            return
        now = time.monotonic()
        if self.is_plain:
            if not at_once and now - self._drawn_seconds < PLAIN_SECONDS:
                return
            self._write("\r\n".join(lines) + "\r\n\r\n")
        else:
            self._write("\x1b[H" + "\r\n".join(f"{line}\x1b[0m\x1b[K" for line in lines) + "\x1b[J")
        self._drawn, self._drawn_seconds = lines, now

    def wait(self, seconds: float) -> Events:
        """Keys and signals, as soon as any come; none after so many seconds."""
        try:
            ready, _, _ = select.select([self._keyboard, self._wake_read], [], [], seconds)
        except OSError:
            return Events(ended_by=signal.SIGHUP)
        keys: tuple[str, ...] = ()
        if self._keyboard in ready:
            try:
                sent = os.read(self._keyboard, 1024)
            except InterruptedError:
                sent = b""
            except OSError:  # the terminal is gone
                return Events(ended_by=signal.SIGHUP)
            else:
                if not sent:
                    return Events(ended_by=signal.SIGHUP)
            keys, self._begun = parse_keys(self._begun + sent, complete=False)
            if self._begun and not select.select([self._keyboard], [], [], ESCAPE_SECONDS)[0]:
                more, self._begun = parse_keys(self._begun, complete=True)
                keys += more
        if "redraw" in keys:
            self._forget()
        return Events(keys=keys, ended_by=self._obey())

    # --- signals -----------------------------------------------------------------------------------

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came.append(number)

    def _obey(self) -> int | None:
        """Do what signals ask for; the one that asks to end, if one does."""
        with suppress(BlockingIOError):
            while os.read(self._wake_read, 512):
                pass
        came, self._came = self._came, []
        for number in came:
            if number in ENDS:
                return number
            if number == signal.SIGTSTP:
                self._stop()
            elif number == signal.SIGCONT:  # stopped by SIGSTOP, of which nobody is told
                self._take()
            self._forget()
        return None

    def _stop(self) -> None:
        """Give the terminal back, stop as any program does, and take it again when told to go on."""
        self._give_back()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._note)
        self._take()

    # --- the terminal ------------------------------------------------------------------------------

    def _take(self) -> None:
        try:
            if self._found is None:
                self._found = termios.tcgetattr(self._keyboard)
            tty.setcbreak(self._keyboard, termios.TCSANOW)
        except termios.error:
            self._came.append(signal.SIGHUP)
        if not self.is_plain:
            self._write(ENTER)
        self._forget()

    def _give_back(self) -> None:
        if not self.is_plain:
            self._write(LEAVE)
        if self._found is not None:
            with suppress(termios.error):
                termios.tcsetattr(self._keyboard, termios.TCSANOW, self._found)
            self._found = None

    def _forget(self) -> None:
        """All is drawn anew."""
        self._drawn, self._drawn_seconds = (), float("-inf")

    def _write(self, text: str) -> None:
        data = encoded(text, self._encoding)
        try:
            while data:
                data = data[os.write(self._display, data) :]
        except OSError:
            self._came.append(signal.SIGHUP)
