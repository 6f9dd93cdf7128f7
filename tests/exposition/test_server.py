"""The HTTP side: routes, headers, limits, and that nobody is kept waiting by somebody else."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.errors import AgentError
from agent.exposition.server import MAX_HEADER_BYTES, PATHS, WORKERS, ExpositionServer, create_app
from tests.browser import Browser, find_browser
from tests.exposition import scenes

CONFIGURATION = {"interval_seconds": 1, "engines": [{"url": "http://h/metrics", "headers": {"a": "****"}}]}


@dataclass
class Page:
    """A metrics page, and what it was asked for with."""

    content_type: str = "text/plain; version=0.0.4; charset=utf-8"
    content_encoding: str | None = None
    body: bytes = b"roofline_build_info 1\n"
    asked: list[tuple[str | None, str | None]] = field(default_factory=list)

    def render(self, accept: str | None, accept_encoding: str | None) -> Page:
        self.asked.append((accept, accept_encoding))
        return self


@dataclass(frozen=True)
class Reply:
    status: str
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()


def ask(
    path: str,
    *,
    method: str = "GET",
    assessment: Assessment | None = None,
    late_seconds: float = 0.0,
    metrics: Page | None = None,
    **environ: str,
) -> Reply:
    """One request to the application, without a socket."""
    clock = ManualClock(
        monotonic_seconds=(assessment.at_seconds if assessment is not None else 0.0) + late_seconds
    )
    app = create_app(
        metrics=metrics or Page(), latest=lambda: assessment, configuration=CONFIGURATION, clock=clock
    )
    replied: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        replied.append((status, headers))

    request = {"REQUEST_METHOD": method, "PATH_INFO": path, "QUERY_STRING": "", **environ}
    body = b"".join(app(request, start_response))
    ((status, headers),) = replied
    assert len(dict(headers)) == len(headers)
    return Reply(status, dict(headers), body)


# --- routes ----------------------------------------------------------------------------------------


def test_metrics_are_what_the_renderer_gives_for_what_the_client_accepts() -> None:
    page = Page(content_type="application/openmetrics-text", content_encoding="gzip", body=b"\x1f\x8b")
    reply = ask(
        "/metrics", metrics=page, HTTP_ACCEPT="application/openmetrics-text", HTTP_ACCEPT_ENCODING="gzip"
    )
    assert page.asked == [("application/openmetrics-text", "gzip")]
    assert reply.body == b"\x1f\x8b"
    assert reply.headers["Content-Type"] == "application/openmetrics-text"
    assert reply.headers["Content-Encoding"] == "gzip"
    assert reply.headers["Vary"] == "Accept, Accept-Encoding"


def test_metrics_are_served_before_the_first_assessment() -> None:
    reply = ask("/metrics")
    assert reply.status == "200 OK"
    assert reply.body == b"roofline_build_info 1\n"
    assert "Content-Encoding" not in reply.headers


def test_status_page_is_html_with_the_verdict() -> None:
    reply = ask("/", assessment=scenes.memory_bound())
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "waits for memory" in reply.text
    assert 'http-equiv="refresh"' in reply.text
    assert (
        'http-equiv="refresh"' not in ask("/", assessment=scenes.memory_bound(), QUERY_STRING="paused").text
    )


def test_assessment_is_json() -> None:
    reply = ask("/api/v1/assessment", assessment=scenes.memory_bound())
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert json.loads(reply.body)["schema_version"] == 1
    early = ask("/api/v1/assessment")
    assert early.status.startswith("503")
    assert early.headers["Retry-After"] == "1"
    assert "error" in json.loads(early.body)


def test_configuration_is_shown_as_it_was_given() -> None:
    reply = ask("/config")
    assert reply.headers["Content-Type"].startswith("text/plain")
    assert yaml.safe_load(reply.text) == CONFIGURATION


@pytest.mark.parametrize(
    ("late_seconds", "status", "words"),
    [
        (0.5, "200", "healthy: assessed 0.5 s ago"),
        (9.9, "200", "healthy"),
        (10.1, "503", "stalled: assessed 10 s"),
    ],
)
def test_healthy_while_the_sampler_samples(late_seconds: float, status: str, words: str) -> None:
    reply = ask("/-/healthy", assessment=scenes.memory_bound(), late_seconds=late_seconds)
    assert reply.status.startswith(status)
    assert words in reply.text


def test_before_the_first_assessment_the_agent_is_healthy_and_not_ready() -> None:
    assert ask("/-/healthy").status == "200 OK"
    assert ask("/-/ready").status.startswith("503")
    assert ask("/-/ready", assessment=scenes.no_gpu()).status == "200 OK"


def test_unknown_path_lists_the_known_ones_and_repeats_nothing() -> None:
    reply = ask("/nowhere<b>")
    assert reply.status.startswith("404")
    assert "nowhere" not in reply.text
    assert all(path in reply.text.splitlines() for path in PATHS)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE"])
def test_other_methods_are_refused(method: str) -> None:
    reply = ask("/metrics", method=method)
    assert reply.status.startswith("405")
    assert reply.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
def test_head_is_get_without_the_body(path: str) -> None:
    got, head = (ask(path, method=method, assessment=scenes.memory_bound()) for method in ("GET", "HEAD"))
    assert head.body == b""
    assert (head.status, head.headers) == (got.status, got.headers)
    assert int(got.headers["Content-Length"]) == len(got.body)


@pytest.mark.parametrize("path", [*PATHS, "/nowhere"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_every_answer_carries_the_security_headers(path: str, method: str) -> None:
    headers = ask(path, method=method).headers
    policy = headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cache-Control"] == "no-store"


# --- the socket ------------------------------------------------------------------------------------


def start(
    assessment: Assessment | None = None, *, port: int = 0, request_seconds: float = 10.0
) -> ExpositionServer:
    clock = ManualClock(monotonic_seconds=assessment.at_seconds if assessment is not None else 0.0)
    server = ExpositionServer(
        host="127.0.0.1",
        port=port,
        metrics=Page(),
        latest=lambda: assessment,
        configuration=CONFIGURATION,
        clock=clock,
        request_seconds=request_seconds,
    )
    server.start()
    return server


@pytest.fixture(scope="module")
def server() -> Iterator[ExpositionServer]:
    server = start(scenes.memory_bound())
    yield server
    server.close()


@pytest.fixture(scope="module")
def hasty_server() -> Iterator[ExpositionServer]:
    """Gives a request half a second."""
    server = start(scenes.memory_bound(), request_seconds=0.5)
    yield server
    server.close()


def fetch(
    server: ExpositionServer, path: str, *, method: str = "GET", **headers: str
) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers=headers)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    return reply


def exchange(server: ExpositionServer, request: bytes) -> bytes:
    """What comes back until the server hangs up."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
        client.sendall(request)
        received = b""
        while chunk := client.recv(65536):
            received += chunk
    return received


def test_real_answers_come_over_a_real_socket_without_a_banner(server: ExpositionServer) -> None:
    for path in PATHS:
        reply = fetch(server, path)
        assert reply.status == 200
        assert "heroot" not in str(reply.getheaders())
    assert fetch(server, "/nowhere").status == 404
    assert fetch(server, "/", method="HEAD").status == 200
    assert fetch(server, "/", method="POST").status == 405


def test_one_connection_serves_many_requests(server: ExpositionServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    for path in ("/metrics", "/-/healthy", "/metrics"):
        connection.request("GET", path)
        reply = connection.getresponse()
        assert reply.status == 200
        assert reply.read()
    connection.close()


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
    ],
    ids=["a long request line", "a long header"],
)
def test_too_large_a_request_is_refused(server: ExpositionServer, request_bytes: bytes) -> None:
    assert re.match(rb"HTTP/1\.1 41[34] ", exchange(server, request_bytes))


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1\r\n", b"Content-Length: 9000000\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["one byte", "nine megabytes", "chunks"],
)
def test_a_body_is_refused_and_never_read_as_a_request(server: ExpositionServer, head: bytes) -> None:
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
    received = exchange(server, b"GET / HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n" + smuggled)
    assert received.startswith(b"HTTP/1.1 413")
    assert received.count(b"HTTP/1.1 ") == 1


def test_idle_connections_cost_nobody_an_answer(server: ExpositionServer) -> None:
    idle = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(3 * WORKERS)]
    started = time.monotonic()
    assert fetch(server, "/-/healthy").status == 200
    assert time.monotonic() - started < 5
    for connection in idle:
        connection.close()


def test_one_slow_client_does_not_block_another(server: ExpositionServer) -> None:
    slow = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(WORKERS - 1)]
    for connection in slow:
        connection.sendall(b"GET / HT")
    started = time.monotonic()
    assert fetch(server, "/-/healthy").status == 200
    assert time.monotonic() - started < 5
    for connection in slow:
        connection.close()


def test_clients_that_drip_are_cut_off_and_the_others_answered(hasty_server: ExpositionServer) -> None:
    drip = [socket.create_connection(("127.0.0.1", hasty_server.port)) for _ in range(WORKERS)]
    stop = threading.Event()

    def send_now_and_then() -> None:
        for connection in drip:
            connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        while not stop.wait(0.1):  # more often than any time-out of a single read
            for connection in drip:
                try:
                    connection.sendall(b"a")
                except OSError:
                    return

    sender = threading.Thread(target=send_now_and_then)
    sender.start()
    time.sleep(0.2)
    assert fetch(hasty_server, "/-/healthy").status == 200
    stop.set()
    sender.join()
    for connection in drip:
        connection.close()


def test_a_port_in_use_is_named() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            AgentError, match=rf"cannot listen on 127\.0\.0\.1:{port} .*in use.*listen_address"
        ):
            start(port=port)


def test_closing_gives_the_port_back() -> None:
    server = start()
    port = server.port
    assert port > 0
    server.close()
    again = start(port=port)
    assert again.port == port
    assert fetch(again, "/-/ready").status == 503
    again.close()


# --- a browser -------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return find_browser(tmp_path)


@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_the_page_without_complaint(
    server: ExpositionServer, browser: Browser, width: int
) -> None:
    console, size = browser.open(f"http://127.0.0.1:{server.port}/", width=width)
    assert console == []
    assert size == (width, 1000)


def test_the_browser_would_have_complained(browser: Browser, tmp_path: Path) -> None:
    policy = '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'"/>'
    page = tmp_path / "page.html"
    page.write_text(f'<html><head>{policy}</head><body><p style="color: red">x</p></body></html>')
    console, _ = browser.open(page.as_uri(), width=390)
    assert any("Content Security Policy" in line for line in console)
