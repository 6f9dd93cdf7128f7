"""One deadline for a whole answer, however slowly it comes.

A socket's own time-out begins anew with each byte, so it is set to what is left before each wait.
"""

from __future__ import annotations

import io
import socket
import time
from http.client import HTTPResponse
from typing import Any


def seconds_until(deadline: float) -> float:
    """What is left until then, by `time.monotonic`; `TimeoutError` where that is nothing."""
    remaining = deadline - time.monotonic()
    if remaining <= 0:
        raise TimeoutError("past the deadline")
    return remaining


def end_at(deadline: float, response: HTTPResponse, sock: socket.socket) -> None:
    """Let all reading of a response that has not begun end at the deadline: status line, headers and body.

    The socket is not closed for good before the response is.
    """
    response.fp = io.BufferedReader(_Until(deadline, response.fp.detach(), sock))


class _Until(io.RawIOBase):
    """A socket's stream that ends at one deadline."""

    def __init__(self, deadline: float, stream: io.RawIOBase, sock: socket.socket) -> None:
        self._deadline = deadline
        self._stream = stream
        self._socket = sock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._socket.settimeout(seconds_until(self._deadline))
        return self._stream.readinto(buffer)

    def close(self) -> None:
        self._stream.close()
        super().close()
