"""A program in a terminal of its own: keys go in, and what stands on the screen can be asked."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from agent.terminal.screen import ENTER, LEAVE

COMMAND = str(Path(sys.executable).with_name("roofline-agent"))
PATIENCE_SECONDS = 60.0
"""What takes longer than this on a machine that is busy with other tests takes for ever."""
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class PseudoTerminal:
    """One program, from when it begins."""

    def __init__(self, pid: int, descriptor: int) -> None:
        self.pid, self._descriptor = pid, descriptor
        self.found = termios.tcgetattr(descriptor)
        """The modes before the program has changed any."""
        self.output = ""
        """All that it has written."""
        self._status: int | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    @property
    def modes(self) -> list[Any]:
        """As they are now."""
        return termios.tcgetattr(self._descriptor)

    @property
    def screen(self) -> str:
        """The last whole frame, without colours."""
        frame = self.output.rpartition("\x1b[J")[0].rpartition("\x1b[H")[2]
        return COLOURS.sub("", frame).replace("\x1b[K", "").replace("\r", "")

    def resize(self, width: int, height: int) -> None:
        """As a window does; the program is told by the kernel."""
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def press(self, keys: str) -> None:
        """Send these bytes."""
        os.write(self._descriptor, keys.encode())

    def forget(self) -> None:
        """What was written so far."""
        self.output = ""

    def kill(self, number: signal.Signals) -> None:
        """Send the program a signal."""
        os.kill(self.pid, number)

    def hang_up(self) -> None:
        """Close the terminal, as a connection that is lost does."""
        os.close(self._descriptor)

    def wait_for(self, words: str, *, where: str = "screen") -> str:
        """Read until these words stand on the screen, or anywhere in the `output`."""
        end = time.monotonic() + PATIENCE_SECONDS
        while words not in (shown := getattr(self, where)):
            assert time.monotonic() < end, f"{words!r} is not there:\n{self.output[-4000:]!r}"
            assert self._read(0.2) or self._status is None, f"it has ended:\n{self.output[-4000:]}"
        return str(shown)

    def wait_for_end(self) -> int:
        """Its exit status, as a shell has it."""
        end = time.monotonic() + PATIENCE_SECONDS
        while True:
            with suppress(OSError):
                self._read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
                return self._status
            assert time.monotonic() < end, f"it does not end:\n{self.output[-4000:]!r}"

    def is_restored(self) -> bool:
        """Whether the terminal is as it was found: its modes, its screen, its cursor."""
        taken, given_back = self.output.count(ENTER), self.output.count(LEAVE)
        return (
            self.modes == self.found
            and taken >= given_back >= 1
            and self.output.rfind(LEAVE) > self.output.rfind(ENTER)
        )

    def end(self) -> None:
        """Make sure that nothing is left of it."""
        if self._status is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            with suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        with suppress(OSError):
            os.close(self._descriptor)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._descriptor], [], [], seconds)[0]:
            return False
        try:
            data = os.read(self._descriptor, 65536)
        except OSError:  # the program's side is closed
            return False
        self.output += self._decoder.decode(data)
        return bool(data)


@contextmanager
def running(
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str | None] | None = None,
    width: int = 80,
    height: int = 24,
) -> Iterator[PseudoTerminal]:
    """The program in a terminal; variables that are `None` are not set."""
    wanted = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8"}
    wanted = {
        name: value
        for name, value in {**wanted, **_UNSET, **(environment or {})}.items()
        if value is not None
    }
    main, other = pty.openpty()
    fcntl.ioctl(main, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))
    pid = os.fork()
    if pid == 0:  # only what is safe in a forked process
        try:
            os.close(main)
            os.login_tty(other)
            os.execve(arguments[0], list(arguments), wanted)
        finally:
            os._exit(127)
    os.close(other)
    terminal = PseudoTerminal(pid, main)
    try:
        yield terminal
    finally:
        terminal.end()


_UNSET: Mapping[str, str | None] = dict.fromkeys(
    ("NO_COLOR", "COLORTERM", "ROOFLINE_AGENT_CREDENTIALS", "ROOFLINE_AGENT_BEARER_TOKEN", "COLUMNS", "LINES")
)
