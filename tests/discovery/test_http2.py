"""One gRPC call, as a real gRPC server understands it, and as a server can spoil it."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from hpack import Encoder
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PushPromiseFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.discovery.http2 import DEFAULT_LIMITS, REASONS, CallError, CallLimits, call
from tests.discovery.kubelet import METHOD, grpc_server, raw_server, socket_path

QUICK = CallLimits(deadline_seconds=0.3)
PATIENT = CallLimits(deadline_seconds=30)


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_path() as path:
        yield path


def failure(path: Path | str, limits: CallLimits = DEFAULT_LIMITS) -> str:
    """The reason of a call that must fail."""
    with pytest.raises(CallError) as caught:
        call(str(path), METHOD, b"", limits=limits)
    assert caught.value.reason in REASONS
    return caught.value.reason


# --- a real gRPC server --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 16_000, 70_000, 3_000_000], ids="{} bytes".format)
def test_the_message_comes_back_whole_whatever_its_size(path: Path, size: int) -> None:
    # From 64 KiB on the server waits for windows, of the stream and of the connection.
    sent = os.urandom(size)
    with grpc_server(lambda request, context: sent, path=path):
        assert call(str(path), METHOD, b"", limits=PATIENT) == sent


def test_the_server_gets_the_request_and_the_deadline(path: Path) -> None:
    seen: list[tuple[bytes, float, dict[str, Any]]] = []

    def answer(request: bytes, context: Any) -> bytes:
        seen.append((request, context.time_remaining(), dict(context.invocation_metadata())))
        return b""

    with grpc_server(answer, path=path):
        call(str(path), METHOD, b"a request")
    ((request, remaining, metadata),) = seen
    assert request == b"a request"
    assert 0 < remaining <= DEFAULT_LIMITS.deadline_seconds
    assert metadata["user-agent"] == "roofline-agent"


def test_one_call_follows_another(path: Path) -> None:
    with grpc_server(lambda request, context: request, path=path):
        for number in range(20):
            assert call(str(path), METHOD, bytes([number])) == bytes([number])


@pytest.mark.parametrize(
    "code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK], ids=lambda code: code.name
)
def test_the_status_of_the_server_is_told(path: Path, code: Any) -> None:
    def answer(request: bytes, context: Any) -> bytes:
        context.abort(code, "details: with % and ü, which the headers must encode")
        raise AssertionError

    with grpc_server(answer, path=path), pytest.raises(CallError) as caught:
        call(str(path), METHOD, b"")
    assert (caught.value.reason, caught.value.status) == ("grpc_status", code.value[0])


def test_a_call_that_the_server_does_not_know_is_a_status(path: Path) -> None:
    with grpc_server(lambda request, context: b"", path=path), pytest.raises(CallError) as caught:
        call(str(path), "/v1.PodResourcesLister/Other", b"")
    assert caught.value.status == grpc.StatusCode.UNIMPLEMENTED.value[0]


def test_a_server_that_thinks_for_too_long_is_left(path: Path) -> None:
    left = threading.Event()

    def answer(request: bytes, context: Any) -> bytes:
        left.wait(10)
        return b""

    with grpc_server(answer, path=path):
        started = time.monotonic()
        # Whoever is quicker: the server knows the deadline too, and says so by status 4.
        assert failure(path, QUICK) in ("timeout", "grpc_status")
        assert time.monotonic() - started < 5
        left.set()


def test_more_than_the_limit_is_not_taken(path: Path) -> None:
    with grpc_server(lambda request, context: bytes(200_000), path=path):
        assert failure(path, CallLimits(max_bytes=100_000)) == "too_large"
        assert len(call(str(path), METHOD, b"", limits=CallLimits(max_bytes=300_000))) == 200_000


# --- nobody there --------------------------------------------------------------------------------


def test_no_socket_is_missing(path: Path) -> None:
    assert failure(path) == "missing"
    assert failure(path / "below") == "missing"


def test_a_path_below_a_file_is_missing(path: Path) -> None:
    path.write_text("")
    assert failure(path / "below") == "missing"


def test_a_socket_on_which_nobody_listens_refuses(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert failure(path) == "refused"


@pytest.mark.parametrize("name", ["x" * 200, "\ud800"], ids=["too long", "not text"])
def test_a_path_that_can_be_no_sockets_is_unreachable(path: Path, name: str) -> None:
    assert failure(f"{path.parent}/{name}") == "unreachable"


def test_a_server_that_accepts_nobody_is_a_timeout(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as before_us:
        listener.bind(str(path))
        listener.listen(0)
        before_us.connect(str(path))
        assert failure(path, QUICK) == "timeout"


def test_a_socket_that_is_not_ours_to_use_is_a_matter_of_permission(path: Path) -> None:
    with raw_server(said(WHOLE), path=path):
        path.chmod(0)
        path.parent.chmod(0o755)
        with as_nobody():
            assert failure(path) == "permission"


@contextmanager
def as_nobody() -> Iterator[None]:
    """Root may use what it may not; whoever else runs this has no right to a socket of mode 0 as it is."""
    ours = os.geteuid()
    if ours == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(ours)


# --- a server that spoils it ---------------------------------------------------------------------

OK = (("grpc-status", "0"),)
HEADERS = ((":status", "200"), ("content-type", "application/grpc"))
BODY = bytes(4) + b"\x05hello"

Pairs = tuple[tuple[str, str], ...]


def headers(pairs: Pairs, *flags: str) -> HeadersFrame:
    # An encoder of its own for each: nothing is indexed from one block to the next.
    return HeadersFrame(1, Encoder().encode(pairs), flags=["END_HEADERS", *flags])


def frames(*listed: Frame) -> bytes:
    return b"".join(frame.serialize() for frame in listed)


def answered(*middle: Frame, start: Pairs = HEADERS, end: Pairs = OK) -> bytes:
    """An answer with these frames between its headers and its trailers."""
    return frames(SettingsFrame(), headers(start), *middle, headers(end, "END_STREAM"))


WHOLE = answered(DataFrame(1, BODY))


def said(*parts: bytes) -> Callable[[socket.socket], None]:
    """A server that hears the request and says these, and then no more, nor does it hang up."""

    def serve(connection: socket.socket) -> None:
        for part in parts:
            connection.sendall(part)
        while connection.recv(65536):
            pass

    return serve


@contextmanager
def saying(path: Path, *parts: bytes) -> Iterator[None]:
    with raw_server(said(*parts), path=path):
        yield


def in_two(block: bytes) -> tuple[HeadersFrame, ContinuationFrame]:
    return HeadersFrame(1, block[:7]), ContinuationFrame(1, block[7:], flags=["END_HEADERS"])


TOLD_OTHERWISE = {
    "as it should be": WHOLE,
    "in many frames": answered(*(DataFrame(1, BODY[n : n + 1]) for n in range(len(BODY)))),
    "in padded frames": answered(DataFrame(1, BODY, pad_length=200, flags=["PADDED"])),
    "with empty frames between": answered(DataFrame(1, b""), DataFrame(1, BODY), DataFrame(1, b"")),
    "with headers in two frames": frames(
        SettingsFrame(),
        *in_two(Encoder().encode(HEADERS)),
        DataFrame(1, BODY),
        headers(OK, "END_STREAM"),
    ),
    "with a word before the headers": frames(SettingsFrame(), headers(((":status", "103"),)))
    + answered(DataFrame(1, BODY))[9:],
    "with frames of a kind that nobody knows": answered(DataFrame(1, BODY)).replace(
        DataFrame(1, BODY).serialize(), b"\0\0\3\xee\0\0\0\0\1abc" + DataFrame(1, BODY).serialize()
    ),
    "with windows opened": answered(WindowUpdateFrame(0, 1000), WindowUpdateFrame(1, 9), DataFrame(1, BODY)),
    "with a farewell behind it": WHOLE + frames(GoAwayFrame(0, last_stream_id=1)),
    "with an end of the stream behind it": WHOLE + frames(RstStreamFrame(1, error_code=0)),
}


@pytest.mark.parametrize("told", TOLD_OTHERWISE.values(), ids=TOLD_OTHERWISE)
def test_an_answer_may_come_in_any_shape_that_http2_allows(path: Path, told: bytes) -> None:
    with saying(path, told):
        assert call(str(path), METHOD, b"") == b"hello"


def test_an_answer_may_come_byte_by_byte_within_the_deadline(path: Path) -> None:
    with saying(path, *(WHOLE[n : n + 1] for n in range(len(WHOLE)))):
        assert call(str(path), METHOD, b"") == b"hello"


# One header of 4000 bytes, and nine thousand times "the same again".
BOMB = HeadersFrame(
    1, b"\x40\x01a\x7f\xa1\x1e" + b"v" * 4000 + b"\xbe" * 9000, flags=["END_HEADERS", "END_STREAM"]
)
PUSHED = Encoder().encode(
    ((":method", "GET"), (":scheme", "http"), (":authority", "localhost"), (":path", "/"))
)
SPOILT = {
    # Its first bytes announce a frame of 4 MB.
    "another protocol": (b"HTTP/1.1 400 Bad Request\r\n\r\n", "timeout"),
    "no status": (answered(DataFrame(1, BODY), end=(("grpc-message", "fine"),)), "malformed"),
    "a status that is no number": (answered(DataFrame(1, BODY), end=(("grpc-status", "0x0"),)), "malformed"),
    "a status of a thousand digits": (
        answered(DataFrame(1, BODY), end=(("grpc-status", "9" * 5000),)),
        "malformed",
    ),
    "a web page": (answered(DataFrame(1, BODY), start=((":status", "404"),)), "malformed"),
    "no message": (answered(), "malformed"),
    "two messages": (answered(DataFrame(1, BODY + BODY)), "malformed"),
    "a message shorter than it says": (answered(DataFrame(1, BODY[:-1])), "malformed"),
    "a message longer than it says": (answered(DataFrame(1, BODY + b"!")), "malformed"),
    "a compressed message": (answered(DataFrame(1, b"\1" + BODY[1:])), "malformed"),
    "half a prefix": (answered(DataFrame(1, BODY[:3])), "malformed"),
    "data before headers": (frames(SettingsFrame(), DataFrame(1, BODY)), "malformed"),
    "data of another stream": (answered(DataFrame(3, BODY)), "malformed"),
    "a frame that is too long": (answered(DataFrame(1, bytes(16_385))), "malformed"),
    "headers that never end": (
        frames(HeadersFrame(1, b"\x88")) + frames(ContinuationFrame(1)) * 100,
        "malformed",
    ),
    "headers that are no HPACK": (
        frames(SettingsFrame(), HeadersFrame(1, b"\xff\xff\xff\xff\xff", flags=["END_HEADERS"])),
        "malformed",
    ),
    "headers that grow when they are read": (frames(SettingsFrame(), BOMB), "malformed"),
    "a stream nobody asked for": (
        frames(SettingsFrame(), PushPromiseFrame(1, 2, PUSHED, flags=["END_HEADERS"])),
        "malformed",
    ),
    "settings that cannot be": (
        frames(SettingsFrame(settings={SettingsFrame.MAX_FRAME_SIZE: 1})),
        "malformed",
    ),
    "a window that overflows": (answered(*[WindowUpdateFrame(1, 2**31 - 1)] * 2), "disconnected"),
    "a farewell instead": (frames(SettingsFrame(), GoAwayFrame(0, error_code=11)), "disconnected"),
    "an end of the stream instead": (
        frames(SettingsFrame(), RstStreamFrame(1, error_code=8)),
        "disconnected",
    ),
    "half an answer and a farewell": (
        frames(SettingsFrame(), headers(HEADERS), DataFrame(1, BODY), GoAwayFrame(0)),
        "disconnected",
    ),
    "half an answer": (WHOLE[:-10], "timeout"),
    "nothing": (b"", "timeout"),
}


@pytest.mark.parametrize(("told", "reason"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_answer_fails_with_its_reason(path: Path, told: bytes, reason: str) -> None:
    with saying(path, told):
        # Only a time-out is waited for; on a busy machine the others may take longer.
        assert failure(path, QUICK if reason == "timeout" else DEFAULT_LIMITS) == reason


@pytest.mark.parametrize("length", [0, 5, 30, len(WHOLE) - 1], ids="after {} bytes".format)
def test_a_server_that_hangs_up_is_disconnected(path: Path, length: int) -> None:
    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(WHOLE[:length])

    with raw_server(serve, path=path):
        assert failure(path) == "disconnected"


def test_a_server_that_falls_silent_and_still_listens_is_disconnected(path: Path) -> None:
    def serve(connection: socket.socket) -> None:
        connection.sendall(WHOLE[:-1])
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    with raw_server(serve, path=path):
        assert failure(path) == "disconnected"


@pytest.mark.parametrize(
    "drop",
    [
        WHOLE[:-10] + bytes(1000),
        frames(SettingsFrame(), headers(HEADERS)) + frames(PingFrame(0, b"are you?")) * 10_000,
    ],
    ids=["bytes", "pings"],
)
def test_a_server_that_drips_is_left_at_the_deadline(path: Path, drop: bytes) -> None:
    def serve(connection: socket.socket) -> None:
        for n in range(len(drop)):
            connection.sendall(drop[n : n + 1])
            time.sleep(0.02)

    with raw_server(serve, path=path):
        started = time.monotonic()
        assert failure(path, QUICK) == "timeout"
        assert time.monotonic() - started < 10 * QUICK.deadline_seconds


def test_a_server_that_pings_without_reading_is_left(path: Path) -> None:
    # Our answers fill the socket, so it is sending that must end at the deadline.
    ping = frames(PingFrame(0, b"are you?"))

    def serve(connection: socket.socket) -> None:
        connection.sendall(frames(SettingsFrame()))
        while True:
            connection.sendall(ping * 1000)

    with raw_server(serve, path=path):
        started = time.monotonic()
        assert failure(path, QUICK) in ("timeout", "too_large")
        assert time.monotonic() - started < 10 * QUICK.deadline_seconds


def test_pings_and_settings_are_answered_and_windows_opened(path: Path) -> None:
    heard = bytearray()
    body = bytes(1) + (60_000).to_bytes(4) + bytes(60_000)
    data = [DataFrame(1, body[n : n + 16_000]) for n in range(0, len(body), 16_000)]

    def serve(connection: socket.socket) -> None:
        connection.sendall(frames(SettingsFrame(), PingFrame(0, b"are you?"), headers(HEADERS), *data))
        while b"are you?" not in heard or WindowUpdateFrame(1, 0).serialize()[:9] not in heard:
            heard.extend(connection.recv(65536))
        connection.sendall(frames(headers(OK, "END_STREAM")))

    with raw_server(serve, path=path):
        assert call(str(path), METHOD, b"") == bytes(60_000)
    assert heard.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    for answer in (SettingsFrame(flags=["ACK"]), PingFrame(0, b"are you?", flags=["ACK"])):
        assert answer.serialize() in heard
    for stream in (0, 1):
        assert WindowUpdateFrame(stream, 0).serialize()[:9] in heard


# --- anything ------------------------------------------------------------------------------------


def _spoilt_somewhere(spoil: tuple[int, int, bytes]) -> bytes:
    at, length, instead = spoil
    return WHOLE[:at] + instead + WHOLE[at + length :]


ANYTHING = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.integers(0, len(WHOLE)), st.integers(0, 9), st.binary(max_size=9)).map(_spoilt_somewhere),
    st.lists(
        st.tuples(
            st.integers(0, 11), st.integers(0, 255), st.sampled_from([0, 1, 2, 3]), st.binary(max_size=40)
        ),
        max_size=8,
    ).map(
        lambda listed: b"".join(
            len(body).to_bytes(3) + bytes([kind, flags]) + stream.to_bytes(4) + body
            for kind, flags, stream, body in listed
        )
    ),
)


class Repeater:
    """Says to each connection what it was last told to say, and hangs up."""

    told = b""

    def __call__(self, connection: socket.socket) -> None:
        connection.sendall(self.told)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass


def test_whatever_comes_is_a_message_or_a_reason() -> None:
    repeater = Repeater()

    def outcome(told: bytes) -> bytes | str:
        repeater.told = told
        try:
            return call(str(path), METHOD, b"")
        except CallError as error:
            return error.reason

    @settings(max_examples=400)
    @given(ANYTHING)
    def check(told: bytes) -> None:
        assert isinstance(outcome(told), bytes) or outcome(told) in REASONS

    with socket_path() as path, raw_server(repeater, path=path):
        assert outcome(WHOLE) == b"hello"
        check()
