"""One gRPC call over a Unix socket: a request goes out, one message comes back, and that is the connection.

HTTP/2 itself is h2's, which does no I/O. What is here is a socket, its limits, and the few rules of gRPC for
one message each way. The peer is not trusted: a call ends within its deadline and its bytes, also where
the answer comes one byte at a time.

To import this module is to load h2, about 1 MiB; so only who makes calls imports it.
"""

from __future__ import annotations

import re
import socket
import time
from dataclasses import dataclass

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings

from agent.errors import AgentError
from agent.sources.deadline import seconds_until

CHUNK_BYTES = 16 * 1024
"""Read at once, and the default for the longest frame, which we leave as it is."""
PREFIX_BYTES = 5
"""Before a message: whether it is compressed, and its length."""
STREAM = 1
"""The first that a client opens, and here the only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """What one call may cost us."""

    max_bytes: int = 4 * 2**20
    """Of all that the server sends, with its frames and headers."""
    deadline_seconds: float = 2.0
    """From the attempt to connect to the last byte."""


DEFAULT_LIMITS = CallLimits()

REASONS: tuple[str, ...] = (
    "missing",  # nothing at this path
    "permission",
    "refused",  # nobody listens
    "unreachable",  # the path can be no socket's
    "timeout",
    "disconnected",  # the server ended it: connection, stream, or by a GOAWAY
    "too_large",
    "malformed",  # this is no gRPC
    "grpc_status",  # an answer, and it is an error
)
"""Why a call can fail."""

# The more telling type first.
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (H2Error, "malformed"),
    (FileNotFoundError, "missing"),
    (NotADirectoryError, "missing"),
    (PermissionError, "permission"),
    (ConnectionRefusedError, "refused"),
    (TimeoutError, "timeout"),
    (BlockingIOError, "timeout"),  # connect, where the queue of those who wait to be accepted is full
    (ConnectionError, "disconnected"),
    (OSError, "unreachable"),
    (ValueError, "unreachable"),  # a path that no file can have
)


class CallError(AgentError):
    """A call that gave no message; `reason` is one of `REASONS`."""

    def __init__(self, reason: str, *, status: int | None = None) -> None:
        self.reason = reason
        self.status = status
        """The server's gRPC status, where that is the reason."""
        super().__init__(reason if status is None else f"{reason} {status}")


def call(socket_path: str, method: str, request: bytes, *, limits: CallLimits = DEFAULT_LIMITS) -> bytes:
    """The message with which the server answers, or `CallError`.

    `method` is the path of the call, ``/package.Service/Method``; messages are bytes, as protobuf has them.
    """
    deadline = time.monotonic() + limits.deadline_seconds
    exchange = _Exchange(method, request, limits)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(seconds_until(deadline))
            sock.connect(socket_path)
            while not exchange.ended:
                sock.settimeout(seconds_until(deadline))
                sock.sendall(exchange.data_to_send())
                sock.settimeout(seconds_until(deadline))
                exchange.receive(sock.recv(CHUNK_BYTES))
    except tuple(kind for kind, _ in _REASONS) as error:
        raise CallError(_reason(error)) from error
    return exchange.message()


def _reason(error: Exception) -> str:
    return next(reason for kind, reason in _REASONS if isinstance(error, kind))


class _Exchange:
    """What was said in one call so far; no I/O."""

    def __init__(self, method: str, request: bytes, limits: CallLimits) -> None:
        self.ended = False
        """Whether the server has said all of it."""
        self._limits = limits
        self._received_bytes = 0
        self._headers: dict[bytes, bytes] = {}
        self._body = bytearray()
        self._connection = H2Connection(H2Configuration(client_side=True))
        self._connection.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        self._connection.initiate_connection()
        self._connection.send_headers(
            STREAM,
            [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", method),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "roofline-agent"),
                ("grpc-timeout", f"{limits.deadline_seconds * 1000:.0f}m"),
            ],
        )
        # The window is 64 KiB at first, and requests are small.
        prefix = bytes(1) + len(request).to_bytes(PREFIX_BYTES - 1)
        self._connection.send_data(STREAM, prefix + request, end_stream=True)

    def data_to_send(self) -> bytes:
        """What is due: the request, and later the answers to settings and pings, and the windows."""
        return self._connection.data_to_send()

    def receive(self, data: bytes) -> None:
        """Take what the server sent next; no bytes mean that it sends no more."""
        if not data:
            raise CallError("disconnected")
        self._received_bytes += len(data)
        if self._received_bytes > self._limits.max_bytes:
            raise CallError("too_large")
        for event in self._connection.receive_data(data):
            if isinstance(event, ResponseReceived | TrailersReceived):
                self._headers.update(event.headers)
            elif isinstance(event, DataReceived):
                self._body += event.data
                self._connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.ended = True
                return  # what comes after it is about the connection, which is not used again
            elif isinstance(event, StreamReset | ConnectionTerminated):
                raise CallError("disconnected")

    def message(self) -> bytes:
        """The one message of an answer that has ended."""
        if self._headers.get(b":status") != b"200":
            raise CallError("malformed")
        # With the headers where there is no message, else with the trailers.
        status = self._headers.get(b"grpc-status", b"")
        if not re.fullmatch(rb"\d{1,3}", status):
            raise CallError("malformed")
        if int(status) != 0:
            raise CallError("grpc_status", status=int(status))
        prefix, message = self._body[:PREFIX_BYTES], bytes(self._body[PREFIX_BYTES:])
        # We did not say that we read compressed messages, so the first byte is 0.
        if prefix != bytes(1) + len(message).to_bytes(PREFIX_BYTES - 1):
            raise CallError("malformed")
        return message
