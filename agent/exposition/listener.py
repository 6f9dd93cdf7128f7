"""The socket: cheroot's workers, behind a front that hands them only requests which are complete.

One thread accepts, shakes hands and collects, and never waits for anybody: a client that is slow or
silent costs one of a bounded number of places, which goes to somebody else when they are needed.
"""

from __future__ import annotations

import enum
import logging
import queue
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any
from wsgiref.types import WSGIApplication

from cheroot import server as cheroot
from cheroot import wsgi
from cheroot.makefile import StreamWriter

from agent.exposition.access import Access
from agent.exposition.tls import Tls

log = logging.getLogger(__name__)

WORKERS = 4
WAITING_REQUESTS = 32
MAX_CONNECTIONS = 128
"""Each holds some kilobytes, up to 50 of them while it shakes hands."""
BACKLOG = 1024
"""Connections that the kernel holds for us; it takes less if net.core.somaxconn says so."""
KEPT_SECONDS = 150.0
"""For a connection without a request: longer than common scrape intervals, since a TLS handshake costs more
than a scrape. Who needs the place gets it before."""
SEND_BUFFER_BYTES = 1 << 20
"""The kernel takes a whole page at once, so that a client that does not read keeps no worker."""
MAX_HEADER_BYTES = 16 << 10

_BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nRetry-After: 1\r\nConnection: close\r\n\r\n"
)
_NO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n"
    b"this port speaks only HTTPS\n"
)


class Step(enum.Enum):
    """What is to be done with a connection next."""

    WAIT = enum.auto()
    WORK = enum.auto()
    END = enum.auto()


class Inbox:
    """What a client has sent and nobody has read yet. It never waits: at its end it is empty."""

    bytes_read = 0

    def __init__(self) -> None:
        self._held = bytearray()

    def __len__(self) -> int:
        return len(self._held)

    def add(self, received: bytes) -> None:
        """More has come."""
        self._held += received

    def has_data(self) -> bool:
        """Whether there is a whole head of a request, or as much as is read of one."""
        return len(self._held) > MAX_HEADER_BYTES or b"\r\n\r\n" in self._held

    def read(self, size: int = -1) -> bytes:
        """Up to so many bytes."""
        return self._take(len(self._held) if size < 0 else size)

    def readline(self, size: int = -1) -> bytes:
        """Up to the end of the line, or so many bytes."""
        length = self._held.find(b"\n") + 1 or len(self._held)
        return self._take(length if size < 0 else min(length, size))

    def close(self) -> None:
        """Forget it."""
        self._held.clear()

    def _take(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken


def _open_file(sock: socket.socket, mode: str, size: int) -> Any:
    return Inbox() if "r" in mode else StreamWriter(sock, mode, size)


class _Connection(cheroot.HTTPConnection):
    """A client, from when it is accepted until it is closed. One thread at a time has it."""

    server: Listener
    rfile: Inbox

    def __init__(self, server: Listener, sock: socket.socket, _makefile: object = None) -> None:
        super().__init__(server, sock, _open_file)
        sock.setblocking(False)
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        self.since = time.monotonic()  # it was accepted, or its last request ended, or the next one began
        self.is_new = True  # no request of it was answered yet
        self.waits = True  # it is the front's, not a worker's, and not given up
        self.network = ""
        self._tls: Tls | None = None
        self._has_begun = self._has_met = False  # a byte has come; hands are shaken, if there is need

    # --- at the front, which does not wait ---

    def advance(self) -> Step:
        """Read what has come."""
        try:
            return self._advance()
        except (BlockingIOError, ssl.SSLWantReadError):
            return Step.WAIT
        except ssl.SSLWantWriteError:
            return Step.END if self._has_met else Step.WORK  # a worker can wait until it is sent
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                with suppress(OSError):
                    socket.socket.send(self.socket, _NO_TLS)  # below TLS
            return Step.END
        except (OSError, ValueError):  # ssl says so of a connection that has ended
            return Step.END

    def _advance(self) -> Step:
        tls = self.server.access().tls
        if not self._has_begun:
            self._begin(tls)
        elif tls is not self._tls:
            return Step.END  # a connection does not outlive the settings that it was made under
        if not self._has_met:
            self._meet()
        if self.rfile.has_data():
            return Step.WORK  # it came along with the last request
        if not self.is_new and not len(self.rfile):
            self.since = time.monotonic()  # its next request begins
        return self._receive()

    def _begin(self, tls: Tls | None) -> None:
        self._tls = tls
        if tls is None:
            self._has_met = True
        else:
            self.socket = tls.context.wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
            self.wfile = StreamWriter(self.socket, "wb", self.wbufsize)
            self.ssl_env = {"wsgi.url_scheme": "https", "HTTPS": "on"}
        self._has_begun = True

    def _meet(self) -> None:
        self.socket.do_handshake()
        if self._tls is not None and not self._tls.admits(self.socket):
            raise ConnectionRefusedError("the client's certificate has ended, or no name in it is allowed")
        self._has_met = True

    def _receive(self) -> Step:
        while True:
            received = self.socket.recv(MAX_HEADER_BYTES)
            if not received:
                # Who has sent half a request hears what is wrong with it.
                return Step.WORK if len(self.rfile) else Step.END
            self.rfile.add(received)
            # What TLS has deciphered already shows at no socket.
            if self.rfile.has_data() and not (self._tls is not None and self.socket.pending()):
                return Step.WORK

    def is_overdue(self, now: float, seconds: float) -> bool:
        """Whether it takes too long for its request."""
        return (self.is_new or len(self.rfile) > 0 or not self.waits) and now - self.since > seconds

    def hang_up(self) -> None:
        """From any thread: whoever has it finds it ended."""
        self.waits = False
        with suppress(OSError):  # it ended by itself just now
            # Below TLS: SSLSocket.shutdown would have the thread that writes to it go on in clear.
            socket.socket.shutdown(self.socket, socket.SHUT_RDWR)

    # --- in a worker, which waits for as long as a request may take ---

    def communicate(self) -> Any:
        """Answer one request; whether the connection is kept."""
        self.since = time.monotonic()
        self.socket.settimeout(self.server.request_seconds)
        try:
            if self._has_met:
                kept = super().communicate()  # type: ignore[no-untyped-call]  # cheroot's stub leaves it bare
                self.is_new = False
            else:
                self._meet()
                kept = True
        except OSError:
            return False
        if kept:
            self.socket.setblocking(False)
            self.since = time.monotonic()
            self.waits = True
        return kept

    def close(self) -> None:
        """Give the place free."""
        self.server.open.pop(self, None)
        super().close()


class Listener(wsgi.Server):
    """Accepts, and answers by the application, until it is stopped."""

    ConnectionClass = _Connection
    max_request_header_size = MAX_HEADER_BYTES
    max_request_body_size = 1  # bytes; 0 would be no limit

    def __init__(
        self,
        host: str,
        port: int,
        app: WSGIApplication,
        *,
        access: Callable[[], Access],
        request_seconds: float,
    ) -> None:
        super().__init__(
            (host, port),
            app,
            numthreads=WORKERS,
            max=WORKERS,
            # Goes out as the header Server: the library and its version are nobody's business.
            server_name="roofline-agent",
            request_queue_size=BACKLOG,
            timeout=KEPT_SECONDS,  # type: ignore[arg-type]  # without a request; a socket takes floats
            shutdown_timeout=1,
            accepted_queue_size=WAITING_REQUESTS,
            accepted_queue_timeout=0,  # when the queue is full the answer is 503, at once
        )
        self.access = access
        self.request_seconds = request_seconds
        # Added to by the front, removed from by whoever closes one, read as a copy: no lock needed.
        self.open: dict[_Connection, None] = {}

    @property
    def can_add_keepalive_connection(self) -> bool:
        """Always: who needs the place gets it."""
        return bool(self.ready)

    def process_conn(self, conn: _Connection) -> None:
        """A connection is new, or it can be read."""
        if conn.last_used is None:
            self._admit(conn)
            return
        step = conn.advance()
        if step is Step.WAIT:
            self.put_conn(conn)
        elif step is Step.END:
            conn.close()
        else:
            conn.waits = False
            try:
                self.requests.put(conn)
            except queue.Full:
                with suppress(OSError):
                    conn.socket.send(_BUSY)
                conn.close()

    def _admit(self, conn: _Connection) -> None:
        conn.network = _network(conn.remote_addr)
        if len(self.open) >= MAX_CONNECTIONS:
            self._make_room()
        self.open[conn] = None
        self.put_conn(conn)

    def _make_room(self) -> None:
        """The network that has most places loses the one that has waited longest for its first request."""
        waiting = [conn for conn in tuple(self.open) if conn.waits]
        places = Counter(conn.network for conn in waiting)
        if waiting:
            max(waiting, key=lambda conn: (places[conn.network], conn.is_new, -conn.since)).hang_up()

    def end_overdue(self) -> None:
        """Hang up on the clients that take too long."""
        now = time.monotonic()
        for conn in tuple(self.open):
            if conn.is_overdue(now, self.request_seconds):
                conn.hang_up()

    @staticmethod
    def bind_socket(socket_: Any, bind_addr: Any) -> Any:
        """Bind it, or close it."""
        try:
            return wsgi.Server.bind_socket(socket_, bind_addr)  # type: ignore[no-untyped-call]  # as above
        except OSError:
            socket_.close()
            raise

    def error_log(self, msg: str = "", level: int = logging.INFO, traceback: bool = False) -> None:
        """Into our own log."""
        log.log(level, "http: %s", msg, exc_info=traceback)


def _network(address: str | None) -> str:
    """Whom to count as one: an IPv4 address, or the /64 that an IPv6 host has all of."""
    if address is None or ":" not in address or "." in address:
        return address or ""
    return socket.inet_pton(socket.AF_INET6, address.partition("%")[0])[:8].hex()
