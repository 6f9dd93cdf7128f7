"""The other end of the pod-resources socket: a real gRPC server, and one that does anything at all."""

from __future__ import annotations

import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]

METHOD = "/v1.PodResourcesLister/List"

Answer = Callable[[bytes, Any], bytes]
"""From a request and grpcio's context of the call; messages are bytes here too."""


def message(*fields: tuple[int, str | bytes]) -> bytes:
    """A protobuf message of texts and messages."""
    written = bytearray()
    for number, value in fields:
        payload = value.encode() if isinstance(value, str) else value
        written += varint(number << 3 | 2) + varint(len(payload)) + payload
    return bytes(written)


def varint(value: int) -> bytes:
    written = bytearray()
    while value >= 0x80:
        written.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*written, value])


@contextmanager
def socket_path() -> Iterator[Path]:
    """A path short enough for a socket, in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="kubelet-") as directory:
        yield Path(directory) / "kubelet.sock"


@contextmanager
def grpc_server(answer: Answer, *, path: Path) -> Iterator[None]:
    """Grpcio's server, with List as its one call."""
    handler = grpc.unary_unary_rpc_method_handler(answer)
    server = grpc.server(ThreadPoolExecutor(max_workers=2), options=[("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("v1.PodResourcesLister", {"List": handler}),)
    )
    server.add_insecure_port(f"unix:{path}")
    server.start()
    try:
        yield
    finally:
        server.stop(grace=None).wait()


@contextmanager
def raw_server(serve: Callable[[socket.socket], None], *, path: Path) -> Iterator[None]:
    """A server that does to each connection whatever `serve` does; that the client has gone ends it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=_accept, args=(listener, serve))
        thread.start()
        try:
            yield
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _accept(listener: socket.socket, serve: Callable[[socket.socket], None]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:  # the listener was shut down
            return
        with connection:
            try:
                serve(connection)
            except ConnectionError:  # the client has heard enough
                continue
