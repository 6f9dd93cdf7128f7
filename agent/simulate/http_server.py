"""The HTTP face of a simulated server: one port that can refuse, and later answer again.

Not `http.server`'s own server class: closing that one waits for its polling loop, and frees the port.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from threading import Thread

Answer = Callable[[str], tuple[str, bytes] | None]
"""Content type and body for a path, `None` for 404; an `OSError` breaks the connection off."""

_NOT_FOUND = b'{"detail":"Not Found"}'

_IDLE_CONNECTION_SECONDS = 30


class HttpServer:
    """Serves pages on the loopback interface, at an ephemeral port that stays the same."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        # Bound but never listening: it keeps the port ours while nobody listens, and such a port refuses.
        self._reserved = _bound(0)
        self.port: int = self._reserved.getsockname()[1]
        self._listener: socket.socket | None = None

    def open(self) -> None:
        """Answer from now on."""
        if self._listener is None:
            self._listener = _bound(self.port)
            self._listener.listen()
            Thread(
                target=self._accept, args=(self._listener,), name=f"simulated-{self.port}", daemon=True
            ).start()

    def refuse(self) -> None:
        """Refuse connections from now on; those that are open end when they are next asked anything."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in `accept`
            self._listener.close()
            self._listener = None

    def close(self) -> None:
        """Refuse, and give the port back."""
        self.refuse()
        self._reserved.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:  # the listener was closed
                return
            Thread(target=self._talk, args=(connection, address), daemon=True).start()

    def _talk(self, connection: socket.socket, address: object) -> None:
        with connection, contextlib.suppress(OSError):  # whoever asked may leave at any time
            connection.settimeout(_IDLE_CONNECTION_SECONDS)
            _Handler(connection, address, self._answer)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "uvicorn"
    sys_version = ""
    disable_nagle_algorithm = True  # headers and body are written apart

    def __init__(self, connection: socket.socket, address: object, answer: Answer) -> None:
        self._answer = answer
        super().__init__(connection, address, None)  # type: ignore[arg-type]  # never asks its server for anything

    def do_GET(self) -> None:
        answer = self._answer(self.path.partition("?")[0])
        content_type, body = answer or ("application/json", _NOT_FOUND)
        self.send_response(200 if answer else 404)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """A scrape is not worth a line on the agent's own terminal."""


def _bound(port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.bind(("127.0.0.1", port))
    return bound
