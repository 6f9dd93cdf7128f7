"""How far it is: one line that changes where somebody watches, a line now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self, TextIO

LINE_SECONDS = 30.0
"""Between two lines of a log."""
WIDTH = 79


class Progress:
    """Writes to that stream, and leaves a terminal's line empty behind it."""

    def __init__(self, stream: TextIO, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._is_terminal = stream.isatty()
        self._monotonic = monotonic
        self._told = monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            self._stream.write(f"\r{'':{WIDTH}}\r")
            self._stream.flush()

    def tell(self, what: str, done: int, total: int) -> None:
        """What is measured now, after so many of so many."""
        line = f"{done} of {total} measured; now: {what}"
        if self._is_terminal:
            self._stream.write(f"\r{line[:WIDTH]:{WIDTH}}")
            self._stream.flush()
        elif self._monotonic() - self._told >= LINE_SECONDS:
            self._told = self._monotonic()
            self._stream.write(f"{line}\n")
