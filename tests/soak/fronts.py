"""What stands between the agent and an engine, and answers as badly as anything on a network can.

A front has a port of its own. In its mood `good` it hands on what the engine says; in the others it lies,
stalls, or never ends.
"""

from __future__ import annotations

import random
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Answer = Callable[[str], tuple[str, bytes] | None]
Spoil = Callable[[bytes], bytes]

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4\r\n"
LINE = b'vllm:prompt_tokens_total{engine="0",model_name="m"} 1\n'
HUGE_BYTES = 30 << 20
DRIP_SECONDS = 0.2

FAILING = (
    "closed",
    "garbage",
    "status 500",
    "status 401",
    "redirect",
    "empty",
    "not a page",
    "huge",
    "endless",
    "cut short",
    "bad chunks",
    "headers without end",
)
"""Moods in which a page cannot be read, and must not be."""
SLOW = ("silent", "dripping")
"""Likewise, each at the price of the whole deadline."""


class Front:
    """One server's port."""

    def __init__(self, answer: Answer) -> None:
        self.mood = "good"
        self.spoil: Spoil | None = None
        """What is done to a page that is handed on."""
        self.answered = 0
        """Pages handed on, by count."""
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port: int = self._socket.getsockname()[1]
        self._closed = threading.Event()
        threading.Thread(target=self._accept, name=f"front-{self.port}", daemon=True).start()

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://127.0.0.1:{self.port}/metrics"

    def close(self) -> None:
        """Give the port back."""
        self._closed.set()
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                connection, _ = self._socket.accept()
            except OSError:
                if self._closed.wait(0.05):
                    return
                continue  # no descriptor was left
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.settimeout(10)
            request = b""
            while b"\r\n\r\n" not in request:
                more = connection.recv(65536)
                if not more:
                    return
                request += more
            path = request.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
            if self.mood == "good":
                self._hand_on(connection, path)
            elif self.mood != "closed":
                self._misbehave(connection, self.mood)

    def _hand_on(self, connection: socket.socket, path: str) -> None:
        answer = self._answer(path)
        if answer is None:
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
            return
        kind, body = answer
        if path == "/metrics" and self.spoil is not None:
            body = self.spoil(body)
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        self.answered += path == "/metrics"  # before, since who has all of it may look at once
        connection.sendall(head.encode() + body)

    def _misbehave(self, connection: socket.socket, mood: str) -> None:
        send = connection.sendall
        if mood == "garbage":
            send(bytes(range(256)) * 4)
        elif mood.startswith("status "):
            send(f"HTTP/1.1 {mood.split()[1]} No\r\nContent-Length: 0\r\n\r\n".encode())
        elif mood == "redirect":
            send(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/metrics\r\nContent-Length: 0\r\n\r\n")
        elif mood == "empty":
            send(OK + b"Content-Length: 0\r\n\r\n")
        elif mood == "not a page":
            body = b"<html><body>It works!</body></html>" * 100
            send(OK + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        elif mood == "huge":
            send(OK + b"Content-Length: %d\r\n\r\n" % HUGE_BYTES)
            for _ in range(HUGE_BYTES // (1 << 20)):
                send(LINE * ((1 << 20) // len(LINE)))
        elif mood == "endless":
            send(OK + b"Transfer-Encoding: chunked\r\n\r\n")
            block = LINE * 2000
            while not self._closed.is_set():
                send(b"%x\r\n" % len(block) + block + b"\r\n")
        elif mood == "cut short":
            send(OK + b"Content-Length: 100000\r\n\r\n" + LINE * 3)
        elif mood == "bad chunks":
            send(OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + LINE + b"\r\n")
        elif mood == "headers without end":
            send(OK + b"".join(b"X-%d: y\r\n" % number for number in range(1000)))
        elif mood == "silent":
            self._closed.wait(8)
        elif mood == "dripping":
            send(OK + b"\r\n")
            while not self._closed.wait(DRIP_SECONDS):
                send(b"#")
        else:
            raise AssertionError(mood)


# --- pages that are spoilt: what is left of them is true -------------------------------------------


def lines_left_out(dice: random.Random) -> Spoil:
    """Some lines are not there."""
    return lambda body: b"".join(line for line in body.splitlines(keepends=True) if dice.random() < 0.9)


def lines_twice(dice: random.Random) -> Spoil:
    """Some lines are there twice."""
    return lambda body: b"".join(line * dice.choice((1, 1, 1, 2)) for line in body.splitlines(keepends=True))


def lines_in_any_order(dice: random.Random) -> Spoil:
    """All lines, anywhere."""

    def spoil(body: bytes) -> bytes:
        lines = body.splitlines(keepends=True)
        dice.shuffle(lines)
        return b"".join(lines)

    return spoil


def cut_anywhere(dice: random.Random) -> Spoil:
    """Its beginning, as a proxy that dies would hand on."""
    return lambda body: body[: dice.randrange(len(body) // 2, len(body))]


def rubbish_between(dice: random.Random) -> Spoil:
    """Lines that are none, and labels that never end."""
    rubbish = (
        b"}{}{\n",
        b"\xff\xfe\x00\n",
        b'vllm:prompt_tokens_total{engine="0\n',
        b"vllm:prompt_tokens_total\n",
        b"vllm:generation_tokens_total{} 1_000\n",
        b"# TYPE \n",
        b"\n",
    )
    return lambda body: b"".join(
        line + (dice.choice(rubbish) if dice.random() < 0.2 else b"")
        for line in body.splitlines(keepends=True)
    )


TRUE_SPOILS = (lines_left_out, lines_twice, lines_in_any_order, cut_anywhere, rubbish_between)


# --- and pages that lie ------------------------------------------------------------------------------


def values_at_random(dice: random.Random) -> Spoil:
    """Some values are anything that is a float, or is not."""
    values = (b"NaN", b"+Inf", b"-Inf", b"-1", b"0", b"1e308", b"1e-320", b"9" * 40, b"0x10", b"", b"1 2 3")

    def spoil(body: bytes) -> bytes:
        lines = body.splitlines(keepends=True)
        return b"".join(
            line.rpartition(b" ")[0] + b" " + dice.choice(values) + b"\n" if dice.random() < 0.1 else line
            for line in lines
        )

    return spoil


def bytes_at_random(dice: random.Random) -> Spoil:
    """Some bytes are others."""

    def spoil(body: bytes) -> bytes:
        spoilt = bytearray(body)
        for _ in range(dice.randrange(1, 60)):
            spoilt[dice.randrange(len(spoilt))] = dice.randrange(256)
        return bytes(spoilt)

    return spoil


def another_rank(dice: random.Random) -> Spoil:
    """It calls itself otherwise."""
    name = dice.choice((b"7", b"-1", b"\\n\\n", b"x" * 500, "٣".encode()))
    return lambda body: body.replace(b'engine="0"', b'engine="' + name + b'"')


LIES = (values_at_random, bytes_at_random, another_rank)
