"""The HTTP side: routes, headers, limits, and that nobody is kept waiting by somebody else."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.errors import AgentError, ConfigurationError
from agent.exposition.access import OPEN, Access
from agent.exposition.authentication import MAX_CHECKS, Authenticator
from agent.exposition.listener import MAX_CONNECTIONS, MAX_HEADER_BYTES, WORKERS
from agent.exposition.server import (
    HEALTH_PATHS,
    PATHS,
    RELEASE_PATH,
    RELOAD_PATH,
    ExpositionServer,
    create_app,
)
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
    access: Access = OPEN,
    **environ: str,
) -> Reply:
    """One request to the application, without a socket."""
    clock = ManualClock(
        monotonic_seconds=(assessment.at_seconds if assessment is not None else 0.0) + late_seconds
    )
    app = create_app(
        metrics=metrics or Page(),
        latest=lambda: assessment,
        configuration=lambda: CONFIGURATION,
        clock=clock,
        access=lambda: access,
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
    assert reply.text.splitlines()[1:] == [
        *PATHS,
        "/-/release-gpus (only POST)",
        "/-/reload (only POST)",
    ]


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


def test_configured_headers_come_with_every_answer_and_loosen_nothing() -> None:
    added = {"X-Frame-Options": "deny", "Content-Security-Policy": "default-src *"}
    own = ask("/").headers
    for path in ("/", "/nowhere", "/-/healthy"):
        headers = ask(path, access=Access(headers=added)).headers
        assert headers["X-Frame-Options"] == "deny"
        assert headers["Content-Security-Policy"] == f"{own['Content-Security-Policy']}, default-src *"
        assert own.keys() <= headers.keys()


# --- the socket ------------------------------------------------------------------------------------


def start(
    assessment: Assessment | None = None,
    *,
    port: int = 0,
    access: Callable[[], Access] = lambda: OPEN,
    reload: Callable[[str], str] | None = None,
    request_seconds: float = 10.0,
) -> ExpositionServer:
    clock = ManualClock(monotonic_seconds=assessment.at_seconds if assessment is not None else 0.0)
    server = ExpositionServer(
        host="127.0.0.1",
        port=port,
        metrics=Page(),
        latest=lambda: assessment,
        configuration=lambda: CONFIGURATION,
        clock=clock,
        access=access,
        reload=reload,
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


def request(
    server: ExpositionServer, path: str, *, method: str = "GET", **headers: str
) -> tuple[http.client.HTTPResponse, str]:
    """The answer, and its text."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    connection.request(method, path, headers=headers)
    reply = connection.getresponse()
    text = reply.read().decode()
    connection.close()
    return reply, text


def fetch(
    server: ExpositionServer, path: str, *, method: str = "GET", **headers: str
) -> http.client.HTTPResponse:
    return request(server, path, method=method, **headers)[0]


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


@pytest.mark.parametrize("method", [b"GET", b"POST"])
@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1\r\n", b"Content-Length: 9000000\r\n", b"Transfer-Encoding: chunked\r\n"],
    ids=["one byte", "nine megabytes", "chunks"],
)
def test_a_body_is_refused_and_never_read_as_a_request(
    server: ExpositionServer, method: bytes, head: bytes
) -> None:
    smuggled = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"
    received = exchange(server, method + b" / HTTP/1.1\r\nHost: h\r\n" + head + b"\r\n" + smuggled)
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


def ask_again(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/metrics")
    reply = connection.getresponse()
    reply.read()
    connection.auto_open = 0  # from now on only this very connection will do
    return reply.status


def test_a_connection_is_kept_for_the_next_scrape(hasty_server: ExpositionServer) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", hasty_server.port, timeout=5)
    assert ask_again(connection) == 200
    time.sleep(1.5)  # three times what a request may take
    assert ask_again(connection) == 200
    connection.close()


def test_who_holds_most_connections_loses_them_first(server: ExpositionServer) -> None:
    kept = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
    assert ask_again(kept) == 200
    flood = [
        socket.create_connection(("127.0.0.1", server.port), source_address=("127.0.0.2", 0))
        for _ in range(2 * MAX_CONNECTIONS)
    ]
    assert ask_again(kept) == 200
    flood[0].settimeout(5)
    assert flood[0].recv(1) == b""
    assert fetch(server, "/-/healthy").status == 200
    kept.close()
    for connection in flood:
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


# --- who may look ----------------------------------------------------------------------------------

USERS = {"alice": "$2b$04$wonderland", "bob": "$2b$04$builder"}


@dataclass
class Checker:
    """Fits "x" to "$2b$04$x", and remembers what it was asked."""

    asked: list[tuple[bytes, bytes]] = field(default_factory=list)

    def __call__(self, password: bytes, hashed: bytes) -> bool:
        self.asked.append((password, hashed))
        return hashed == b"$2b$04$" + password


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


ALICE = basic("alice", "wonderland")


@contextmanager
def guarded(
    check: Callable[[bytes, bytes], bool],
    release: Callable[[float | None], str] | None = None,
    reload: Callable[[str], str] | None = None,
) -> Iterator[ExpositionServer]:
    access = Access(authenticator=Authenticator(USERS, check=check), release=release)
    server = start(
        scenes.memory_bound(),
        access=lambda: access,
        reload=reload,
    )
    try:
        yield server
    finally:
        server.close()


def test_with_users_only_the_health_pages_are_open() -> None:
    checker = Checker()
    with guarded(checker) as server:
        for path in (*PATHS, RELEASE_PATH, "/nowhere", "/./-/healthy", "/-/healthy/", "/-/Ready"):
            reply, text = request(server, path)
            if path in HEALTH_PATHS:
                assert reply.status == 200
                continue
            assert reply.status == 401
            assert reply.headers["WWW-Authenticate"] == 'Basic realm="roofline-agent", charset="UTF-8"'
            assert text == "a user's name and password are needed\n"
            assert fetch(server, path, method="PUT").status == 401
        assert checker.asked == []
        for path in PATHS:
            assert fetch(server, path, Authorization=ALICE).status == 200
        assert fetch(server, "/nowhere", Authorization=ALICE).status == 404
        assert fetch(server, "/", method="POST", Authorization=ALICE).status == 405


@pytest.mark.parametrize(
    ("authorization", "asked"),
    [
        (basic("alice", "builder"), True),
        (basic("alice", ""), True),
        (basic("Alice", "wonderland"), True),
        (basic("mallory", "wonderland"), True),
        (basic("", ""), True),
        (basic("alice", "wonderland\0"), False),
        ("Basic", False),
        ("Basic !", False),
        ("Basic " + base64.b64encode(b"alice").decode(), False),
        ("Basic " + base64.b64encode(b"\xff:wonderland").decode(), False),
        (ALICE.replace("Basic", "Bearer"), False),
        (ALICE + "\xe9", False),
        (ALICE + ", " + ALICE, False),
    ],
)
def test_other_credentials_are_refused_alike(authorization: str, asked: bool) -> None:
    """Whether user or password is wrong: bcrypt is asked once, and the answer is the same."""
    checker = Checker()
    with guarded(checker) as server:
        reply, text = request(server, "/metrics", Authorization=authorization)
    assert reply.status == 401
    assert text == "a user's name and password are needed\n"
    assert len(checker.asked) == asked


def test_an_unknown_user_takes_bcrypt_as_long_as_a_known_one() -> None:
    hashes = {name: bcrypt.hashpw(b"x", bcrypt.gensalt(cost)).decode() for name, cost in (("a", 4), ("b", 7))}
    costs = []
    for user in ("mallory", "a", "b"):
        checker = Checker()
        assert Authenticator(hashes, check=checker).user_of(basic(user, "wrong")) is None
        costs.append(sum(2 ** int(hashed[4:6]) for _, hashed in checker.asked))
    assert costs == [2**7] * 3


def test_a_right_password_is_checked_once_and_a_wrong_one_each_time() -> None:
    checker = Checker()
    with guarded(checker) as server:
        for _ in range(3):
            assert fetch(server, "/metrics", Authorization=ALICE).status == 200
        assert fetch(server, "/metrics", Authorization=ALICE.replace("Basic", "bAsIc")).status == 200
        assert len(checker.asked) == 1
        for _ in range(3):
            assert fetch(server, "/metrics", Authorization=basic("alice", "builder")).status == 401
        assert fetch(server, "/metrics", Authorization=basic("bob", "wonderland")).status == 401
        assert len(checker.asked) == 5
        assert fetch(server, "/metrics", Authorization=ALICE).status == 200
        assert len(checker.asked) == 5


def test_a_flood_of_wrong_passwords_keeps_nobody_who_is_known_waiting() -> None:
    checker, stop, busy = Checker(), threading.Event(), threading.Semaphore(0)

    def slow(password: bytes, hashed: bytes) -> bool:
        if password == b"wrong":
            busy.release()
            stop.wait(10)
        return checker(password, hashed)

    with guarded(slow) as server:
        assert fetch(server, "/metrics", Authorization=ALICE).status == 200
        statuses: list[int] = []
        flood = [
            threading.Thread(
                target=lambda: statuses.append(
                    fetch(server, "/metrics", Authorization=basic("alice", "wrong")).status
                )
            )
            for _ in range(MAX_CHECKS)
        ]
        for thread in flood:
            thread.start()
        for _ in flood:
            assert busy.acquire(timeout=5)
        reply, text = request(server, "/metrics", Authorization=basic("bob", "builder"))
        assert reply.status == 503
        assert reply.headers["Retry-After"] == "1"
        assert text == "other credentials are being checked; try again\n"
        assert fetch(server, "/metrics", Authorization=ALICE).status == 200
        assert fetch(server, "/-/healthy").status == 200
        stop.set()
        for thread in flood:
            thread.join()
        assert statuses == [401] * MAX_CHECKS
        assert fetch(server, "/metrics", Authorization=basic("bob", "builder")).status == 200


def test_real_hashes_are_understood_and_cut_where_bcrypt_cuts() -> None:
    hashes = {
        "alice": bcrypt.hashpw("grüße".encode(), bcrypt.gensalt(4)).decode().replace("$2b$", "$2y$"),
        "bob": bcrypt.hashpw(b"b" * 72, bcrypt.gensalt(4)).decode(),
    }
    authenticator = Authenticator(hashes)
    assert authenticator.user_of(basic("alice", "grüße")) == "alice"
    assert authenticator.user_of(basic("alice", "grüsse")) is None
    assert authenticator.user_of(basic("bob", "b" * 80)) == "bob"
    assert authenticator.user_of(basic("bob", "b" * 71)) is None
    assert authenticator.user_of(None) is None
    assert "gr" not in repr(vars(authenticator)["_known"])


# --- letting go of the GPUs ------------------------------------------------------------------------


@dataclass
class Releasing:
    """Remembers for how long it was asked to let go."""

    asked: list[float | None] = field(default_factory=list)

    def __call__(self, seconds: float | None) -> str:
        self.asked.append(seconds)
        return "let go of all GPUs"


@pytest.mark.parametrize("enabled", [False, True], ids=["lifecycle off", "lifecycle on"])
@pytest.mark.parametrize("users", [False, True], ids=["everybody", "users"])
def test_gpus_are_let_go_of_only_with_both_settings(enabled: bool, users: bool) -> None:
    release = Releasing()
    access = Access(
        authenticator=Authenticator(USERS, check=Checker()) if users else None,
        release=release if enabled else None,
    )
    server = start(access=lambda: access)
    try:
        reply, text = request(server, RELEASE_PATH, method="POST", Authorization=ALICE)
    finally:
        server.close()
    if enabled and users:
        assert reply.status == 200
        assert text == "let go of all GPUs\n"
        assert release.asked == [None]
        return
    assert reply.status == 403
    assert release.asked == []
    assert ("web.enable_lifecycle: true" in text) == (not enabled)
    assert ("basic_auth_users" in text) == (not users)


@pytest.mark.parametrize(
    ("query", "seconds"),
    [("", None), ("?", None), ("?seconds=1", 1.0), ("?seconds=90.5", 90.5), ("?seconds=86400", 86400.0)],
)
def test_the_release_lasts_as_long_as_asked(
    query: str, seconds: float | None, caplog: pytest.LogCaptureFixture
) -> None:
    release = Releasing()
    with guarded(Checker(), release) as server:
        assert fetch(server, RELEASE_PATH + query, method="POST", Authorization=ALICE).status == 200
    assert release.asked == [seconds]
    assert caplog.messages == ["http: alice asked to let go of the GPUs: let go of all GPUs"]


@pytest.mark.parametrize(
    "query",
    [
        *("seconds", "seconds=", "seconds=soon", "seconds=nan", "seconds=inf"),
        *("seconds=0", "seconds=0.9", "seconds=86401", "seconds=-5"),
        *("second=5", "seconds=5&seconds=6", "seconds=5&force=1", "5"),
    ],
)
def test_another_query_releases_nothing(query: str) -> None:
    release = Releasing()
    with guarded(Checker(), release) as server:
        reply, text = request(server, f"{RELEASE_PATH}?{query}", method="POST", Authorization=ALICE)
    assert reply.status == 400
    assert text == "the query must be seconds=N, with a number from 1 to 86400\n"
    assert release.asked == []


@pytest.mark.parametrize(
    ("method", "headers", "status"),
    [
        ("GET", {}, 405),
        ("HEAD", {}, 405),
        ("PUT", {}, 405),
        ("POST", {"Origin": "http://elsewhere"}, 403),
        ("POST", {"Origin": "null"}, 403),
        ("POST", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("POST", {"Sec-Fetch-Site": "same-origin"}, 403),
        ("POST", {"Authorization": basic("alice", "wrong")}, 401),
        ("POST", {"Content-Length": "1"}, 413),
        ("POST", {"Transfer-Encoding": "chunked"}, 413),
    ],
)
def test_what_is_no_plain_post_of_a_user_releases_nothing(
    method: str, headers: dict[str, str], status: int
) -> None:
    release = Releasing()
    with guarded(Checker(), release) as server:
        reply = fetch(server, RELEASE_PATH, method=method, **{"Authorization": ALICE, **headers})
    assert reply.status == status
    assert reply.headers["Allow"] == ("POST" if status == 405 else None)
    assert release.asked == []


def test_a_reload_says_what_is_different_and_for_whom_it_was() -> None:
    asked: list[str] = []

    def reload(who: str) -> str:
        asked.append(who)
        return "prices"

    with guarded(Checker(), Releasing(), reload) as server:
        reply, text = request(server, RELOAD_PATH, method="POST", Authorization=ALICE)
    assert (reply.status, text) == (200, "prices\n")
    assert asked == ["POST by alice"]


def test_a_reload_that_is_refused_says_all_that_is_wrong() -> None:
    def reload(who: str) -> str:
        raise ConfigurationError("agent.yaml", ("interval_seconds: must be a number", "web: unknown key"))

    with guarded(Checker(), Releasing(), reload) as server:
        reply, text = request(server, RELOAD_PATH, method="POST", Authorization=ALICE)
    assert reply.status == 400
    assert text.splitlines() == [
        "agent.yaml: interval_seconds: must be a number",
        "agent.yaml: web: unknown key",
    ]


@pytest.mark.parametrize(
    ("lifecycle", "users", "method", "headers", "status"),
    [
        (True, True, "GET", {}, 405),
        (True, True, "POST", {"Origin": "http://elsewhere"}, 403),
        (True, True, "POST", {"Authorization": basic("alice", "wrong")}, 401),
        (False, True, "POST", {}, 403),
        (True, False, "POST", {}, 403),
        (False, False, "POST", {}, 403),
    ],
)
def test_nobody_reloads_who_may_not(
    lifecycle: bool, users: bool, method: str, headers: dict[str, str], status: int
) -> None:
    access = Access(
        authenticator=Authenticator(USERS, check=Checker()) if users else None,
        release=Releasing() if lifecycle else None,
    )
    asked: list[str] = []

    def reload(who: str) -> str:
        asked.append(who)
        return "done"

    server = start(access=lambda: access, reload=reload)
    try:
        reply = fetch(server, RELOAD_PATH, method=method, **{"Authorization": ALICE, **headers})
    finally:
        server.close()
    assert reply.status == status
    assert asked == []


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
