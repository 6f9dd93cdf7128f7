"""The API server of the cluster we run in: one GET at a time, within limits, as our service account.

The one thing to know: `ApiClient.close`, from another thread, ends what is being asked.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from agent.errors import SourceError
from agent.sources.addresses import url_host
from agent.sources.deadline import end_at

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where the kubelet puts a pod's token, the cluster's authority and the pod's namespace."""
MAX_LINE_BYTES = 2**20
"""Of one event of a watch."""
MAX_ANSWER_BYTES = 16 * 2**20
MAX_TOKEN_BYTES = 64 * 1024
CHUNK_BYTES = 16 * 1024

ADVICE: Mapping[str, str] = {
    "refused": "refused; is the API server up?",
    "unreachable": "no route to it; is KUBERNETES_SERVICE_HOST right, and does a network policy let it pass?",
    "timeout": "no complete answer in time; is the API server overloaded?",
    "tls": "no trusted TLS connection; is ca.crt the cluster's own?",
    "disconnected": "the connection ended before the answer did; does the API server restart?",
    "unauthorized": "the token is not accepted; is the service account still there?",
    "forbidden": "forbidden; bind a {role} with get, list and watch on pods to the agent's service account",
    "throttled": "it asks to be left alone for a while; is the API server overloaded?",
    "http_status": "HTTP {status}; is the API server healthy?",
    "too_large": "more than is taken at once; is this the API server?",
    "malformed": "the answer is not what an API server says; is this one?",
    "no_token": "the service account's token or ca.crt cannot be read; is it mounted?",
    "no_node_name": "NODE_NAME is not set; take it from spec.nodeName (fieldRef) in the agent's pod",
}
"""Every reason for which pods cannot be known, and what to say and ask."""

STATUS_REASONS: Mapping[int, str] = {401: "unauthorized", 403: "forbidden", 429: "throttled"}

_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "refused"),
    (ssl.SSLError, "tls"),
    (TimeoutError, "timeout"),
    (http.client.IncompleteRead, "disconnected"),
    (ConnectionError, "disconnected"),
    (http.client.HTTPException, "malformed"),
    (OSError, "unreachable"),
)
"""By exception, the more telling first."""


class ApiError(SourceError):
    """One request to the API server failed."""

    def __init__(
        self, reason: str, *, status: int = 0, retry_after_seconds: float = 0.0, role: str = "ClusterRole"
    ) -> None:
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        super().__init__(reason, f"pods of this node: {ADVICE[reason].format(status=status, role=role)}")


# --- where it is, and how it is asked ------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServer:
    """Where it is, and what we show it."""

    host: str
    port: int
    service_account: Path = SERVICE_ACCOUNT

    @classmethod
    def from_environment(
        cls, environ: Mapping[str, str] = os.environ, service_account: Path = SERVICE_ACCOUNT
    ) -> ApiServer | None:
        """As the kubelet tells every pod; `None` outside a cluster."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host or not port.isdecimal():
            return None
        return cls(host=host.strip("[]"), port=int(port), service_account=service_account)

    @property
    def address(self) -> str:
        """Host and port, as in a URL."""
        return f"{url_host(self.host)}:{self.port}"

    def token(self) -> str:
        """The token as it is now: it is bound to a time, and the kubelet replaces it."""
        try:
            with (self.service_account / "token").open("rb") as file:
                token = file.read(MAX_TOKEN_BYTES).decode("ascii").strip()
        except (OSError, ValueError):
            raise ApiError("no_token") from None
        if not token or not token.isprintable() or " " in token:
            raise ApiError("no_token")
        return token

    def trust(self) -> ssl.SSLContext:
        """The cluster's own authority, and no other; as it is now, since it is replaced too."""
        authority = self.service_account / "ca.crt"
        if not authority.is_file():
            raise ApiError("no_token")
        context = ssl.create_default_context(cafile=str(authority))
        # The authorities of older clusters lack an identifier that the strict reading asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


class ApiClient:
    """Asks the API server one thing at a time. `close`, from another thread, ends what is being asked."""

    def __init__(self, server: ApiServer, *, connect_seconds: float) -> None:
        self._server = server
        self._connect_seconds = connect_seconds
        # Guards the next two, which `close` looks at from another thread.
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._closed = False

    @contextmanager
    def get(
        self, path: str, query: Mapping[str, str], *, deadline_seconds: float
    ) -> Iterator[http.client.HTTPResponse]:
        """The answer to one GET, if it is 200; whatever else happens within, `ApiError`."""
        deadline = time.monotonic() + deadline_seconds
        headers = {
            "Authorization": f"Bearer {self._server.token()}",
            "Accept": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": "roofline-agent",
            "Connection": "close",
        }
        try:
            with (
                self._connect(min(self._connect_seconds, deadline_seconds)) as sock,
                http.client.HTTPResponse(sock, method="GET") as response,
            ):
                end_at(deadline, response, sock)
                connection = http.client.HTTPConnection(self._server.address)
                connection.sock = sock
                connection.request("GET", f"{path}?{urlencode(query)}" if query else path, headers=headers)
                response.begin()
                if response.status != http.client.OK:
                    raise _refusal(response)
                yield response
        except (OSError, http.client.HTTPException) as error:
            reason = next(reason for kind, reason in _REASONS if isinstance(error, kind))
            raise ApiError(reason) from None

    def _connect(self, seconds: float) -> ssl.SSLSocket:
        family, kind, protocol, _, address = socket.getaddrinfo(
            self._server.host, self._server.port, type=socket.SOCK_STREAM
        )[0]
        plain = socket.socket(family, kind, protocol)
        try:
            # Before it connects: wrapped after the other end has reset it, a socket is lost open.
            sock = self._server.trust().wrap_socket(
                plain, server_hostname=self._server.host, do_handshake_on_connect=False
            )
        except BaseException:
            plain.close()
            raise
        try:
            self._hold(sock)
            sock.settimeout(seconds)
            # A watch may be silent for long; this tells whether anybody is still there.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in (
                (socket.TCP_KEEPIDLE, 15),
                (socket.TCP_KEEPINTVL, 5),
                (socket.TCP_KEEPCNT, 3),
            ):
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            sock.connect(address)
            sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return sock

    def _hold(self, sock: socket.socket) -> None:
        with self._lock:
            self._socket = sock
            if self._closed:
                raise ConnectionAbortedError("closed")

    def close(self) -> None:
        """Ask nothing any more."""
        with self._lock:
            self._closed = True
            if self._socket is not None:
                with suppress(OSError):  # not connected, or closed already
                    # The plain socket's: TLS would take its own state away under the reader.
                    socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


def _refusal(response: http.client.HTTPResponse) -> ApiError:
    after = response.headers.get("Retry-After", "")
    return ApiError(
        STATUS_REASONS.get(response.status, "http_status"),
        status=response.status,
        retry_after_seconds=float(after) if after.isdecimal() and len(after) < 7 else 0.0,
    )


# --- what it answers -----------------------------------------------------------------------------


def read_json(response: http.client.HTTPResponse) -> Any:
    """The document that is the whole answer; `ApiError` for none, and for one that is too large."""
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise ApiError("too_large")
    return parse_json(body)


def parse_json(text: bytes | bytearray) -> Any:
    """The document; `ApiError` where that is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ApiError("malformed") from None


def read_lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The lines as they come; what has no end when the stream ends is no line."""
    rest = b""
    while chunk := response.read1(CHUNK_BYTES):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            raise ApiError("too_large")
        yield from filter(None, lines)
