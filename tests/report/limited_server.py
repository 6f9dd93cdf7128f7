"""Answers like a Prometheus in which one sample was recorded each second, within limits that a test sets.

A sum over a window is then its seconds, so that a period, however it is asked for, must sum to its length.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

Refusal = Callable[["Asked"], int | None]
"""Gives the status with which it is refused; `None` answers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query."""

    start: float
    """Of the first window."""
    end: float
    window: float
    promql: str
    headers: dict[str, str]

    @property
    def seconds(self) -> float:
        return self.end - self.start


@dataclass
class LimitedServer:
    """What it was asked, and how it refuses."""

    url: str = ""
    refuses: Refusal = lambda _: None
    lacks_a_store: Callable[[Asked], bool] = lambda _: False
    """Whether it answers, and says that it is not the whole answer."""
    asked: list[Asked] = field(default_factory=list)


@contextmanager
def limited_server() -> Iterator[LimitedServer]:
    """It runs until it is left."""
    state = LimitedServer()

    def answer(request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        given = {name: values[0] for name, values in parse_qs(parts.query).items()}
        asked = _asked(given, dict(request.headers.items()))
        state.asked.append(asked)
        status = state.refuses(asked)
        if status is not None:
            refusal = {"status": "error", "errorType": "execution", "error": "no"}
            send(request, status, json.dumps(refusal).encode())
            return
        value = f"{asked.window:.0f}"
        series: dict[str, object] = {"metric": {"cluster": "a"}}
        if parts.path.endswith("query_range"):
            instants = [asked.start + asked.window]
            while instants[-1] + float(given["step"]) <= asked.end:
                instants.append(instants[-1] + float(given["step"]))
            series["values"], kind = [[at, value] for at in instants], "matrix"
        else:
            series["value"], kind = [asked.end, value], "vector"
        document = {
            "status": "success",
            "isPartial": state.lacks_a_store(asked),
            "data": {"resultType": kind, "result": [series]},
        }
        send(request, 200, json.dumps(document).encode())

    with served(answer) as url:
        state.url = url
        yield state


@contextmanager
def served(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """The URL at which each GET is answered so, until it is left."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_request(self, code: object = None, size: object = None) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def send(request: BaseHTTPRequestHandler, status: int, body: bytes = b"") -> None:
    """The whole answer."""
    request.send_response(status)
    request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    request.wfile.write(body)


def _asked(given: dict[str, str], headers: dict[str, str]) -> Asked:
    match = re.search(r"\[(\d+)ms\]", given["query"])
    assert match is not None, given
    window = (int(match[1]) + 1) / 1000
    end = float(given.get("end") or given["time"])
    start = float(given.get("start") or given["time"]) - window
    return Asked(start=start, end=end, window=window, promql=given["query"], headers=headers)
