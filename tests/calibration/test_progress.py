"""How far a measurement is, on a terminal and in a log."""

from __future__ import annotations

import io

from agent.calibration.progress import WIDTH, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_has_one_line_that_is_gone_at_the_end() -> None:
    terminal = Terminal()
    with Progress(terminal) as progress:
        progress.tell("copy of 503 MB", 0, 66)
        progress.tell("a long name " * 20, 1, 66)
    before, first, second, blank, end = terminal.getvalue().split("\r")
    assert (before, end) == ("", "")
    assert first.rstrip() == "0 of 66 measured; now: copy of 503 MB"
    assert len(first) == len(second) == len(blank) == WIDTH
    assert not blank.strip()
    assert "\n" not in terminal.getvalue()


def test_a_log_has_a_line_now_and_then() -> None:
    log, now = io.StringIO(), [0.0]
    with Progress(log, monotonic=lambda: now[0]) as progress:
        for at in range(61):
            now[0] = float(at)
            progress.tell("fp32", at, 66)
    assert log.getvalue() == "30 of 66 measured; now: fp32\n60 of 66 measured; now: fp32\n"
