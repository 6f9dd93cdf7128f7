"""How far it is: a bar where somebody watches, a line now and then where a log is kept."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

LINE_SECONDS = 30.0
"""Between two lines of a log."""


class Progress(Protocol):
    """Is told of each question."""

    def asks(self, what: str) -> None:
        """It is being asked now."""

    def answered(self) -> None:
        """And now it is answered."""


class _Lines:
    """For a log."""

    def __init__(self, total: int) -> None:
        self._total, self._done, self._told = total, 0, time.monotonic()

    def asks(self, what: str) -> None:
        if time.monotonic() - self._told >= LINE_SECONDS:
            self._told = time.monotonic()
            sys.stderr.write(f"{self._done} of {self._total} questions answered; now: {what}\n")

    def answered(self) -> None:
        self._done += 1


@contextmanager
def progress(total: int) -> Iterator[Progress]:
    """Of so many questions, on stderr."""
    if not sys.stderr.isatty():
        yield _Lines(total)
        return
    try:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress
    except ImportError:
        yield _Lines(total)
        return
    from rich.console import Console

    columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with RichProgress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("", total=total)

        class Bar:
            def asks(self, what: str) -> None:
                shown.update(task, description=what)

            def answered(self) -> None:
                shown.advance(task)

        yield Bar()
