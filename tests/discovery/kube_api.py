"""A local API server: pods in pages and in watches, over TLS, for who has a token, and faults on demand."""

from __future__ import annotations

import copy
import json
import ssl
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, urlsplit

NODE = "gpu-1"
TOKEN = "first-token"

Verb = Literal["list", "watch", "node"]
Json = dict[str, Any]


def pod(
    name: str,
    *,
    ip: str = "10.0.0.1",
    namespace: str = "chat",
    node: str = NODE,
    phase: str = "Running",
    labels: dict[str, str] | None = None,
    annotations: dict[str, str] | None = None,
    containers: list[Json] | None = None,
    **spec: Any,
) -> Json:
    """A pod that serves a model with vLLM, unless told otherwise."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "labels": labels or {},
            "annotations": annotations or {},
        },
        "spec": {
            "nodeName": node,
            "containers": [container()] if containers is None else containers,
            **spec,
        },
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def container(
    name: str = "server", *, image: str = "vllm/vllm-openai:v0.11.0", gpus: int = 0, **fields: Any
) -> Json:
    resources = {"resources": {"limits": {"nvidia.com/gpu": str(gpus)}}} if gpus else {}
    return {"name": name, "image": image, **resources, **fields}


@dataclass(frozen=True)
class Request:
    verb: Verb
    path: str
    query: dict[str, str]
    token: str
    at_seconds: float


Answer = Callable[["Handler"], None]
"""Says something else than an API server would."""


@dataclass
class KubeApi:
    """What the server knows, and what it was asked."""

    port: int = 0
    tokens: set[str] = field(default_factory=lambda: {TOKEN})
    forbidden: set[str] = field(default_factory=set)
    """Verbs, and paths."""
    node_labels: Json = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    answers: dict[Verb, deque[Answer]] = field(
        default_factory=lambda: {"list": deque(), "watch": deque(), "node": deque()}
    )
    """To be given once each, before the usual ones."""
    always: dict[Verb, Answer] = field(default_factory=dict)
    """To be given every time."""
    version: int = 100
    oldest: int = 100
    """What is before is forgotten."""
    stopping: bool = False
    streams: int = 0
    """Of watches, begun so far."""
    cut: int = 0
    """Streams up to this number are to end."""
    bookmarks: int = 0
    pods: dict[tuple[str, str], Json] = field(default_factory=dict)
    events: list[tuple[int, str, Json]] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def apply(self, one: Json) -> None:
        key = (one["metadata"]["namespace"], one["metadata"]["name"])
        with self.changed:
            self._record("MODIFIED" if key in self.pods else "ADDED", one)
            self.pods[key] = self.events[-1][2]

    def delete(self, name: str, namespace: str = "chat") -> None:
        with self.changed:
            self._record("DELETED", self.pods.pop((namespace, name)))

    def _record(self, kind: str, one: Json) -> None:
        self.version += 1
        kept = copy.deepcopy(one)
        kept["metadata"]["resourceVersion"] = str(self.version)
        self.events.append((self.version, kind, kept))
        self.changed.notify_all()

    def bookmark(self) -> int:
        """Tell all watches how far they are; something else than pods has moved on."""
        with self.changed:
            self.version += 7
            self.bookmarks = self.version
            self.changed.notify_all()
            return self.version

    def forget(self) -> None:
        """As after a compaction: no watch can begin at what has been."""
        with self.changed:
            self.version += 1
            self.oldest = self.version

    def end_streams(self) -> None:
        with self.changed:
            self.cut = self.streams
            self.changed.notify_all()

    def asked(self, verb: Verb) -> list[Request]:
        return [request for request in self.requests if request.verb == verb]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server
    timeout = 10.0

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        api = self.server.api
        self.close_connection = True
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        verb: Verb = "node" if "/nodes/" in parts.path else "watch" if "watch" in query else "list"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        api.requests.append(Request(verb, parts.path, query, token, time.monotonic()))
        if token not in api.tokens:
            self.fail(401)
        elif {verb, parts.path} & api.forbidden:
            self.fail(403)
        elif api.answers[verb]:
            api.answers[verb].popleft()(self)
        elif verb in api.always:
            api.always[verb](self)
        else:
            {"node": self.node, "list": self.list, "watch": self.watch}[verb](parts.path, query)

    # --- what an API server says -------------------------------------------------------------------

    def node(self, path: str, _: dict[str, str]) -> None:
        if path != f"/api/v1/nodes/{NODE}":
            self.fail(404)
            return
        self.say({"kind": "Node", "metadata": {"name": NODE, "labels": self.server.api.node_labels}})

    def list(self, path: str, query: dict[str, str]) -> None:
        api = self.server.api
        with api.changed:
            pods = [one for one in api.pods.values() if _selected(one, path, query)]
            version = api.version
        start, limit = int(query.get("continue", "0")), int(query.get("limit", "500"))
        metadata = {"resourceVersion": str(version)}
        if start + limit < len(pods):
            metadata["continue"] = str(start + limit)
        self.say({"kind": "PodList", "metadata": metadata, "items": pods[start : start + limit]})

    def watch(self, path: str, query: dict[str, str]) -> None:
        api = self.server.api
        told = int(query["resourceVersion"])
        if told < api.oldest:
            self.stream()
            self.event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired"})
            self.end_stream()
            return
        until = time.monotonic() + float(query["timeoutSeconds"])
        self.stream()
        with api.changed:
            api.streams += 1
            number, marked = api.streams, api.bookmarks
        while number > api.cut and not api.stopping and time.monotonic() < until:
            with api.changed:
                due = [event for event in api.events if event[0] > told]
                bookmark = api.bookmarks if api.bookmarks > marked else None
                if not due and bookmark is None:
                    api.changed.wait(0.05)
            for version, kind, one in due:
                told = version
                if _selected(one, path, query):
                    self.event(kind, one)
            if bookmark is not None:
                marked = told = bookmark
                self.event("BOOKMARK", {"kind": "Pod", "metadata": {"resourceVersion": str(bookmark)}})
        self.end_stream()

    # --- how it says it ----------------------------------------------------------------------------

    def say(self, document: Json, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status: int, headers: dict[str, str] | None = None) -> None:
        self.say({"kind": "Status", "code": status}, status, headers)

    def stream(self) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def event(self, kind: str, one: Json) -> None:
        """One line, in two chunks: their borders mean nothing."""
        line = json.dumps({"type": kind, "object": one}).encode() + b"\n"
        self.chunk(line[:10])
        self.chunk(line[10:])

    def end_stream(self) -> None:
        self.chunk(b"")


def _selected(one: Json, path: str, query: dict[str, str]) -> bool:
    namespace = path.split("/")[4] if "/namespaces/" in path else None
    node = query["fieldSelector"].removeprefix("spec.nodeName=")
    return one["spec"]["nodeName"] == node and namespace in (None, one["metadata"]["namespace"])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    api: KubeApi
    context: ssl.SSLContext

    def get_request(self) -> Any:
        plain, address = self.socket.accept()
        # The handshake comes with the first reading, on the connection's own thread.
        return self.context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, *_: Any) -> None:
        """The other end hung up, or did not trust us: what the tests are about."""


@contextmanager
def serving(api: KubeApi, certificate: Path) -> Iterator[KubeApi]:
    """The server runs, on the port that it had before if it had one."""
    server = _Server(("127.0.0.1", api.port), Handler)
    server.api = api
    server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.context.load_cert_chain(certificate)
    api.port = server.server_address[1]
    api.stopping = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield api
    finally:
        api.stopping = True
        server.shutdown()
        thread.join()
        server.server_close()


def make_certificate(path: Path) -> Path:
    """A certificate for 127.0.0.1 with its key, its own authority."""
    options = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test"
    command = ["openssl", "req", "-x509", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run([*command, "-keyout", "/dev/stdout"], check=True, capture_output=True)
    path.write_bytes(made.stdout)
    return path


def drip(handler: Handler, head: bytes, rest: bytes, every_seconds: float = 0.05) -> None:
    """One byte at a time, until the other end has had enough."""
    with suppress(OSError):
        handler.wfile.write(head)
        for byte in rest:
            handler.wfile.write(bytes([byte]))
            handler.wfile.flush()
            time.sleep(every_seconds)
