"""The kubelet's list: over a real gRPC server, from messages of every shape, and when it cannot be had."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import ManualClock
from agent.discovery import http2
from agent.discovery.http2 import CallLimits
from agent.discovery.pod_resources import ADVICE, MAX_ALLOCATIONS, PodResourcesSource, parse_allocations
from agent.errors import SourceAbsentError, SourceError
from agent.readings import DeviceAllocation, Failed, PodContainer, PodResourcesReading, Read
from agent.sources.base import Poller
from tests.discovery.kubelet import grpc_server, message, raw_server, socket_path, varint

GPU = "GPU-8f3c1f2e-0b52-4a5e-9d0b-0f6f8a1c7d10"


@pytest.fixture
def path() -> Iterator[Path]:
    with socket_path() as path:
        yield path


# --- as a kubelet writes it ----------------------------------------------------------------------


def devices(resource: str, *ids: str) -> bytes:
    topology = message((1, varint(8) + varint(1)))  # a NUMA node, which nobody here asks for
    return message((1, resource), *((2, device_id) for device_id in ids), (3, topology))


def claimed(driver: str, *names: str) -> bytes:
    cdi = message((1, f"k8s.{driver}/claim=1-0"))
    return message(
        (2, "a-claim"),
        (3, "team"),
        *((4, message((1, cdi), (2, driver), (3, "node-1"), (4, name))) for name in names),
    )


def container(name: str, *held: bytes, claims: tuple[bytes, ...] = ()) -> bytes:
    cpus = varint(3 << 3 | 2) + varint(4) + bytes([1, 2, 3, 4])
    memory = message((4, message((1, "memory")) + varint(2 << 3) + varint(2**40)))
    return (
        message((1, name), *((2, one) for one in held)) + cpus + memory + message(*((5, c) for c in claims))
    )


def pod(namespace: str, name: str, *containers: bytes) -> bytes:
    return message((1, name), (2, namespace), *((3, one) for one in containers))


def listed(*pods: bytes) -> bytes:
    return message(*((1, one) for one in pods))


NODE = listed(
    pod("kube-system", "proxy", container("proxy")),
    pod("team", "llm-0", container("vllm", devices("nvidia.com/gpu", GPU)), container("sidecar")),
    pod(
        "team",
        "llm-1",
        container(
            "sglang", devices("nvidia.com/mig-1g.10gb", "MIG-1", "MIG-2"), devices("rdma/hca", "mlx5_0")
        ),
    ),
    pod("dra", "llm-2", container("engine", claims=(claimed("gpu.nvidia.com", "gpu-0", "gpu-1"),))),
)


def allocation(namespace: str, name: str, container: str, resource: str, device_id: str) -> DeviceAllocation:
    return DeviceAllocation(
        container=PodContainer(namespace=namespace, pod=name, container=container),
        resource=resource,
        device_id=device_id,
    )


ON_NODE = (
    allocation("team", "llm-0", "vllm", "nvidia.com/gpu", GPU),
    allocation("team", "llm-1", "sglang", "nvidia.com/mig-1g.10gb", "MIG-1"),
    allocation("team", "llm-1", "sglang", "nvidia.com/mig-1g.10gb", "MIG-2"),
    allocation("team", "llm-1", "sglang", "rdma/hca", "mlx5_0"),
    allocation("dra", "llm-2", "engine", "gpu.nvidia.com", "gpu-0"),
    allocation("dra", "llm-2", "engine", "gpu.nvidia.com", "gpu-1"),
)


def test_every_device_is_read_with_its_container(path: Path) -> None:
    requests: list[bytes] = []

    def answer(request: bytes, context: Any) -> bytes:
        requests.append(request)
        return NODE

    with grpc_server(answer, path=path):
        assert PodResourcesSource(str(path)).read() == PodResourcesReading(allocations=ON_NODE)
    assert requests == [b""]


def test_a_node_without_pods_is_an_empty_list(path: Path) -> None:
    with grpc_server(lambda request, context: b"", path=path):
        assert PodResourcesSource(str(path)).read() == PodResourcesReading(allocations=())


def test_a_full_node_is_read(path: Path) -> None:
    # 500 pods, each with every device of a shared GPU's 200: beyond any window, and within all limits.
    node = listed(
        *(
            pod(
                "team",
                f"pod-{n}",
                container("engine", devices("nvidia.com/gpu", *(f"{GPU}::{r}" for r in range(20)))),
            )
            for n in range(500)
        )
    )
    with grpc_server(lambda request, context: node, path=path):
        reading = PodResourcesSource(str(path), limits=CallLimits(deadline_seconds=30)).read()
    assert len(reading.allocations) == 10_000
    assert reading.allocations[-1] == allocation("team", "pod-499", "engine", "nvidia.com/gpu", f"{GPU}::19")


def test_it_reads_again_after_the_kubelet_restarted(path: Path) -> None:
    poller = Poller(
        PodResourcesSource(str(path)), interval_seconds=10, deadline_seconds=5, clock=ManualClock()
    )
    outcomes = []
    for _ in range(2):
        with grpc_server(lambda request, context: NODE, path=path):
            outcomes.append(poller.poll().outcome)
        path.unlink(missing_ok=True)
        outcomes.append(poller.poll().outcome)
    assert [type(outcome) for outcome in outcomes] == [Read, Failed, Read, Failed]
    assert {name: n for name, n in poller.state().failures.items() if n} == {"refused": 2}


# --- messages of every shape ---------------------------------------------------------------------


def test_fields_that_are_not_known_are_passed_over() -> None:
    unknown = b"".join(
        (
            varint(1000 << 3) + varint(2**64 - 1),
            varint(1001 << 3 | 1) + bytes(8),
            varint(1002 << 3 | 2) + varint(300) + bytes(300),
            varint(1003 << 3 | 5) + bytes(4),
            varint(1 << 3) + varint(7),  # the number of a known field, and another type
        )
    )
    spread = unknown + pod(
        "team", "llm-0", unknown + container("vllm", unknown + devices("nvidia.com/gpu", GPU))
    )
    # Of the pod itself `unknown` is inside, behind its own fields; of the list outside.
    assert (
        tuple(parse_allocations(unknown + listed(spread[len(unknown) :] + unknown) + unknown)) == ON_NODE[:1]
    )


def test_a_field_that_comes_twice_counts_as_it_last_was() -> None:
    twice = message((1, "old"), (2, "team")) + pod(
        "team", "llm-0", container("vllm", devices("nvidia.com/gpu", GPU))
    )
    assert tuple(parse_allocations(listed(twice))) == ON_NODE[:1]


def test_what_is_not_there_is_empty() -> None:
    (only,) = parse_allocations(listed(message((3, message((2, message((2, GPU))))))))
    assert only == allocation("", "", "", "", GPU)


MALFORMED = {
    "cut off in a text": NODE[:-3],
    "a length beyond the end": varint(1 << 3 | 2) + varint(10) + b"short",
    "a length of exabytes": varint(1 << 3 | 2) + varint(2**63) + b"short",
    "a number without an end": varint(1 << 3 | 2) + b"\xff" * 11,
    "a tag without anything": varint(1 << 3 | 2),
    "eight bytes that are four": varint(9 << 3 | 1) + bytes(4),
    "a field of number 0": varint(2) + varint(0),
    "a group": varint(9 << 3 | 3) + varint(9 << 3 | 4),
    "a name that is no text": listed(pod("team", "", container("c", message((1, b"\xff"), (2, GPU))))),
    "a device that is no text": listed(pod("team", "p", container("c", message((1, "r"), (2, b"\xff"))))),
    "text where a pod should be": listed(b"not a pod at all"),
}


@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_what_is_no_such_message_is_malformed(path: Path, body: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # any of them
        tuple(parse_allocations(body))
    with grpc_server(lambda request, context: body, path=path):
        assert reason(PodResourcesSource(str(path))) == "malformed"


TEXTS = st.text(max_size=20)
ALLOCATIONS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, st.lists(TEXTS, max_size=3)), max_size=6)


@given(ALLOCATIONS)
def test_what_is_written_is_what_is_read(rows: list[tuple[str, str, str, str, list[str]]]) -> None:
    node = listed(
        *(pod(space, name, container(part, devices(what, *ids))) for space, name, part, what, ids in rows)
    )
    assert [*parse_allocations(node)] == [
        allocation(space, name, part, what, device_id)
        for space, name, part, what, ids in rows
        for device_id in ids
    ]


SPOILT = st.one_of(
    st.binary(max_size=300),
    st.tuples(st.integers(0, len(NODE)), st.integers(0, 9), st.binary(max_size=9)).map(
        lambda spoil: NODE[: spoil[0]] + spoil[2] + NODE[spoil[0] + spoil[1] :]
    ),
)


@given(SPOILT)
def test_whatever_is_written_is_read_or_malformed(body: bytes) -> None:
    try:
        found = tuple(parse_allocations(body))
    except ValueError:
        return
    assert all(isinstance(one, DeviceAllocation) for one in found)


# --- when it cannot be had -----------------------------------------------------------------------


def reason(source: PodResourcesSource) -> str:
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason in source.failure_reasons
    return caught.value.reason


def test_where_no_kubelet_is_there_is_nothing_to_read(path: Path) -> None:
    with pytest.raises(SourceAbsentError, match=r"no directory .*/nowhere"):
        PodResourcesSource(f"{path.parent}/nowhere/kubelet.sock").read()


def test_a_directory_without_its_socket_is_a_kubelet_that_restarts(path: Path) -> None:
    assert reason(PodResourcesSource(str(path))) == "refused"


def aborting(code: grpc.StatusCode) -> Callable[[bytes, Any], bytes]:
    def answer(request: bytes, context: Any) -> bytes:
        context.abort(code, "a secret of the kubelet's")
        raise AssertionError

    return answer


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "status 12; it does not know this call"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "status 8; it limits how often"),
        (grpc.StatusCode.INTERNAL, "status 13; is the kubelet healthy"),
    ],
    ids=["too old", "asked too often", "sick"],
)
def test_its_status_is_told_in_our_words(path: Path, code: grpc.StatusCode, words: str) -> None:
    with grpc_server(aborting(code), path=path), pytest.raises(SourceError, match=words) as caught:
        PodResourcesSource(str(path)).read()
    assert caught.value.reason == "grpc_status"
    assert "secret" not in str(caught.value)


def test_more_devices_than_a_node_has_are_too_many(path: Path) -> None:
    many = listed(pod("team", "p", container("c", devices("r", *["x"] * (MAX_ALLOCATIONS + 1)))))
    with grpc_server(lambda request, context: many, path=path):
        assert reason(PodResourcesSource(str(path), limits=CallLimits(deadline_seconds=30))) == "too_large"


def test_a_kubelet_that_is_stuck_is_a_timeout(path: Path) -> None:
    def listen(connection: socket.socket) -> None:
        while connection.recv(4096):
            pass

    source = PodResourcesSource(str(path), limits=CallLimits(deadline_seconds=0.2))
    with raw_server(listen, path=path), pytest.raises(SourceError, match=r"within 0\.2 s") as caught:
        source.read()
    assert caught.value.reason == "timeout"


def test_every_reason_of_a_call_has_its_advice() -> None:
    assert {*ADVICE} == {*http2.REASONS} - {"missing"}


def test_who_does_not_ask_the_kubelet_does_not_hold_an_http2_library() -> None:
    program = "import sys, agent.daemon, agent.discovery.devices; sys.exit('h2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
