"""Clients that mean no good: a scrape is answered in time meanwhile, and the ticks go on.

The agent is a process of its own, as its operator runs it. The attackers come from other loopback
addresses than the one who scrapes, as attackers do: who has most connections loses them first.
"""

from __future__ import annotations

import json
import resource
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
import requests

from agent.exposition.listener import MAX_CONNECTIONS, MAX_HEADER_BYTES, WORKERS
from agent.exposition.server import STALLED_SECONDS
from tests.rig.programs import free_port
from tests.web.certificates import Authority

SCRAPE_SECONDS = 10.0
"""A Prometheus' own time-out. On a machine of one's own it takes milliseconds, and some tenths at worst."""
TICK_SECONDS = STALLED_SECONDS
"""Without an assessment, one of which is due five times a second: then the agent calls itself sick."""
CONNECTIONS = 10_000
MORE_BYTES = 16 << 20
"""That all of them together may cost: connections in the midst of a handshake hold some 50 kB each."""


class Victim:
    """An agent, how to reach it, and what became of its ticks."""

    def __init__(self, port: int, pid: int, authority: Path | None) -> None:
        self.port, self.pid, self.authority = port, pid, authority
        self.rss_bytes_before = 0

    @property
    def scheme(self) -> str:
        return "http" if self.authority is None else "https"

    def get(self, path: str) -> requests.Response:
        return requests.get(
            f"{self.scheme}://localhost:{self.port}{path}",
            verify=str(self.authority) if self.authority is not None else None,
            timeout=SCRAPE_SECONDS,
        )

    def assessed_seconds(self) -> float:
        """When it last ticked."""
        return float(json.loads(self.get("/api/v1/assessment").text)["at_unix_seconds"])

    def connect(self, attacker: int) -> socket.socket:
        """From one of a few addresses."""
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=5, source_address=(f"127.0.1.{attacker % 8 + 1}", 0)
        )

    def speak(self, attacker: int) -> socket.socket:
        """A connection on which a request can be sent."""
        plain = self.connect(attacker)
        if self.authority is None:
            return plain
        context = ssl.create_default_context(cafile=str(self.authority))
        return context.wrap_socket(plain, server_hostname="localhost")

    @property
    def rss_bytes(self) -> int:
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def assert_serves_and_ticks(self, seconds: float = 2.0) -> None:
        """For so long each scrape is answered in time, and none is of an old assessment."""
        end = time.monotonic() + seconds
        first = self.assessed_seconds()
        while time.monotonic() < end:
            started = time.monotonic()
            assert self.get("/metrics").status_code == 200
            assert time.monotonic() - started < SCRAPE_SECONDS
            assert time.time() - self.assessed_seconds() < TICK_SECONDS
            time.sleep(0.05)
        end = time.monotonic() + TICK_SECONDS
        while seconds and self.assessed_seconds() <= first:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert self.rss_bytes < self.rss_bytes_before + MORE_BYTES


@pytest.fixture(scope="module", params=["http", "https"])
def victim(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Victim]:
    directory = tmp_path_factory.mktemp("victim")
    port = free_port()
    web = f"{{listen_address: '127.0.0.1:{port}'"
    authority: Path | None = None
    if request.param == "https":
        made = Authority(directory)
        made.vouch("server")
        authority = made.certificate
        file = directory / "web-config.yml"
        file.write_text("tls_server_config: {cert_file: server.crt, key_file: server.key}\n")
        web += f", config_file: {file}"
    configuration = directory / "agent.yaml"
    configuration.write_text(
        f"interval_seconds: 0.2\nweb: {web}}}\nnvml: {{enabled: false}}\n"
        "discovery: {processes: {enabled: false}}\n"
    )
    with (directory / "agent.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "agent", "run", "--config", str(configuration)],
            stdout=log,
            stderr=log,
        )
    found = Victim(port, process.pid, authority)
    try:
        end = time.monotonic() + 60
        while True:
            with suppress(requests.RequestException):
                if found.get("/-/ready").status_code == 200:
                    break
            assert time.monotonic() < end, (directory / "agent.log").read_text()
            time.sleep(0.1)
        found.rss_bytes_before = found.rss_bytes
        yield found
        assert process.poll() is None, (directory / "agent.log").read_text()
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def doing(work: object, *, every_seconds: float) -> Iterator[None]:
    """Something again and again, on a thread of its own."""
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(every_seconds):
            assert callable(work)
            work()

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_clients_that_dribble_a_request(victim: Victim) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(victim.speak(number)) for number in range(8 * WORKERS)]
        for connection in slow:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: h\r\nX-Slow: ")

        def dribble() -> None:
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(b"a")

        with doing(dribble, every_seconds=0.2):
            victim.assert_serves_and_ticks()


def test_clients_that_dribble_what_comes_before_a_request(victim: Victim) -> None:
    """A handshake where there is TLS; else one byte after another of what may become a method."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    hello = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with suppress(ssl.SSLWantReadError):
        hello.do_handshake()
    text = outgoing.read()
    with ExitStack() as stack:
        slow = [stack.enter_context(victim.connect(number)) for number in range(8 * WORKERS)]
        sent = iter(text)

        def dribble() -> None:
            byte = bytes([next(sent)])
            for connection in slow:
                with suppress(OSError):
                    connection.sendall(byte)

        with doing(dribble, every_seconds=0.1):
            victim.assert_serves_and_ticks()


def test_clients_that_do_not_read_what_they_asked_for(victim: Victim) -> None:
    with ExitStack() as stack:
        for number in range(4 * WORKERS):
            deaf = stack.enter_context(victim.speak(number))
            deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            with suppress(OSError):
                deaf.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n" * 40)
        victim.assert_serves_and_ticks()


def test_ten_thousand_connections(victim: Victim) -> None:
    """Each end of them is a descriptor: ours of the attackers; the agent holds no more than its places."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = CONNECTIONS + 200
    assert hard == resource.RLIM_INFINITY or hard >= needed, f"ulimit -Hn is {hard}, and must be {needed}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    held: list[socket.socket] = []
    try:

        def attack() -> None:
            for number in range(CONNECTIONS):
                with suppress(OSError):
                    held.append(victim.connect(number))

        attacker = threading.Thread(target=attack)
        attacker.start()
        while attacker.is_alive():
            victim.assert_serves_and_ticks(0.5)
        attacker.join()
        assert len(held) == CONNECTIONS
        victim.assert_serves_and_ticks()
        descriptors = len(list(Path(f"/proc/{victim.pid}/fd").iterdir()))
        assert descriptors < MAX_CONNECTIONS + 50
    finally:
        for connection in held:
            connection.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"a" * MAX_HEADER_BYTES + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"a" * MAX_HEADER_BYTES + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: a\r\n" * (MAX_HEADER_BYTES // 6) + b"\r\n",
        b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1000\r\n\r\n" + b"a" * 1000,
        b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\naaaaa\r\n0\r\n\r\n",
    ],
    ids=["a long line", "a long header", "many headers", "a body", "chunks"],
)
def test_too_much_is_refused(victim: Victim, request_bytes: bytes) -> None:
    with victim.speak(0) as connection:
        connection.sendall(request_bytes)
        received = b""
        with suppress(ConnectionError):
            while chunk := connection.recv(65536):
                received += chunk
    assert received.startswith((b"HTTP/1.1 413", b"HTTP/1.1 414"))
    assert received.count(b"HTTP/1.1 ") == 1
    victim.assert_serves_and_ticks(0.0)


def test_endless_headers_and_bodies(victim: Victim) -> None:
    def pour(head: bytes) -> None:
        with suppress(OSError), victim.speak(0) as connection:
            connection.sendall(head)
            for _ in range(1000):
                connection.sendall(b"a" * 65536)

    heads = (b"GET / HTTP/1.1\r\nX: ", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 9999999999\r\n\r\n")
    threads = [threading.Thread(target=pour, args=(head,)) for head in heads for _ in range(2 * WORKERS)]
    for thread in threads:
        thread.start()
    victim.assert_serves_and_ticks()
    for thread in threads:
        thread.join()


def test_noise(victim: Victim) -> None:
    """What is neither HTTP nor TLS, and connections that end anywhere."""
    for number, noise in enumerate((b"\x16\x03\x01" + b"\xff" * 500, b"\0" * 500, b"\r\n\r\n", b"\x16", b"")):
        for _ in range(5):
            with suppress(OSError), victim.connect(number) as connection:
                connection.sendall(noise)
    victim.assert_serves_and_ticks(0.5)
