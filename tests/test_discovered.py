"""The whole agent with nothing configured: engines found, tied to GPUs and pods, as its page shows them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration, redacted
from agent.errors import SourceError
from agent.readings import (
    Discovery,
    FoundServer,
    GpuProcess,
    GpuReading,
    MigInstance,
    ModelFacts,
    NodeReading,
    PodContainer,
)
from agent.simulate.http_server import HttpServer
from agent.wiring import Wiring, own_node_name
from tests.discovery.kubelet import grpc_server, message, socket_path
from tests.simulated import Page

VLLM_PAGE = (Path(__file__).parent / "fixtures/vllm/0.32.0-load-4.txt").read_bytes()
GIB = 2**30


def gpu(index: int, **given: Any) -> GpuReading:
    reading = GpuReading(
        index=index,
        uuid=f"GPU-{index}",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=80 * GIB,
        memory_used_bytes=GIB,
    )
    return replace(reading, **given)


INSTANCE = gpu(
    3, uuid="MIG-a", mig=MigInstance(parent_uuid="GPU-3", gpu_instance_id=9, compute_instance_id=0)
)
FOUR = (gpu(0), gpu(1), gpu(2), gpu(3, partitioned=True), INSTANCE)


class Given:
    """A source that gives what it is told to."""

    failure_reasons: tuple[str, ...] = ()

    def __init__(self, name: str, reading: Any) -> None:
        self.name = name
        self.reading = reading

    def read(self) -> Any:
        return self.reading

    def close(self) -> None:
        pass


def pod(namespace: str, name: str, container: str, resource: str, *devices: str) -> bytes:
    held = message((1, resource), *((2, device) for device in devices))
    return message((1, name), (2, namespace), (3, message((1, container), (2, held))))


class Scene:
    """An agent over GPUs as given, with one engine's page and a kubelet's list over their real transports."""

    def __init__(
        self, socket: Path, *, port: int, gpus: tuple[GpuReading, ...], found: FoundServer | None
    ) -> None:
        self.clock = ManualClock()
        document = {
            "nvml": {"enabled": False},
            "discovery": {
                "processes": {"enabled": found is not None},
                "pod_resources": {"enabled": True, "socket": str(socket)},
            },
        }
        self.nvml = Given("nvml", NodeReading(gpus=gpus))
        self.agent = Agent(Configuration.model_validate(document), clock=self.clock, nvml=self.nvml)
        if found is not None:
            one = replace(found, url=f"http://127.0.0.1:{port}/metrics")
            (finder,) = self.agent.finders
            finder.source = Given("processes", Discovery(servers=(one,)))

    def page(self) -> Page:
        """After two readings of everything."""
        assert self.agent.pod_resources_poller is not None
        for _ in range(2):
            self.clock.advance(5)
            self.agent.pod_resources_poller.poll()
            for finder in self.agent.finders:
                finder.poll()
            self.agent.beat(engines=True)
            self.agent.beat(engines=True)  # what the first has found is read now
        return Page(text=self.agent.renderer.render(None, None).body.decode(), openmetrics="")


@contextmanager
def scene(
    *pods: bytes, gpus: tuple[GpuReading, ...] = FOUR, found: FoundServer | None = None
) -> Iterator[Scene]:
    with ExitStack() as stack:
        path = stack.enter_context(socket_path())
        answer = message(*((1, one) for one in pods))
        stack.enter_context(grpc_server(lambda request, context: answer, path=path))
        http = HttpServer(lambda asked: ("text/plain", VLLM_PAGE) if asked == "/metrics" else None)
        http.open()
        stack.callback(http.close)
        seen = Scene(path, port=http.port, gpus=gpus, found=found)
        stack.callback(seen.agent.close)
        yield seen


def labels(page: Page, name: str) -> list[dict[str, str]]:
    return [dict(found) for (sample, found) in page.samples() if sample == f"roofline_{name}"]


def test_gpus_are_joined_to_pods_whole_divided_and_shared() -> None:
    with scene(
        pod("chat", "llama-0", "vllm", "nvidia.com/gpu", "GPU-0", "GPU-1"),
        pod("dev", "a", "notebook", "nvidia.com/gpu.shared", "GPU-2::0", "GPU-2::1"),
        pod("dev", "b", "notebook", "nvidia.com/gpu.shared", "GPU-2::2"),
        pod("batch", "small", "job", "nvidia.com/mig-1g.10gb", "MIG-a"),
        pod("net", "fast", "nic", "rdma/hca", "mlx5_0"),
    ) as seen:
        found = labels(seen.page(), "gpu_allocation_info")
    told = sorted(
        (one["uuid"], one["workload_namespace"], one["workload_pod"], one["attribution"]) for one in found
    )
    assert told == [
        ("GPU-0", "chat", "llama-0", "exclusive"),
        ("GPU-1", "chat", "llama-0", "exclusive"),
        ("GPU-2", "dev", "a", "shared"),  # once, though it has two of its replicas
        ("GPU-2", "dev", "b", "shared"),
        ("MIG-a", "batch", "small", "exclusive"),
    ]


def test_googles_names_are_understood() -> None:
    with scene(
        pod("chat", "llama-0", "vllm", "nvidia.com/gpu", "nvidia0"),
        pod("batch", "small", "job", "nvidia.com/gpu", "nvidia3/gi9"),
    ) as seen:
        found = labels(seen.page(), "gpu_allocation_info")
    assert {(one["uuid"], one["workload_pod"]) for one in found} == {("GPU-0", "llama-0"), ("MIG-a", "small")}


FOUND = FoundServer(
    url="",
    engine="vllm",
    container=PodContainer(namespace="chat", pod="llama-0", container="vllm", uid="u"),
    facts=ModelFacts(tensor_parallel=2, config={"model_type": "llama"}),
)


@pytest.mark.parametrize(
    ("found", "gpus", "attribution", "uuids"),
    [
        pytest.param(FOUND, FOUR, "pod", {"GPU-0", "GPU-1"}, id="by the kubelet's list"),
        pytest.param(replace(FOUND, gpu_uuids=("GPU-2",)), FOUR, "process", {"GPU-2"}, id="by its processes"),
        pytest.param(
            replace(FOUND, container=None),
            (gpu(0), gpu(1, memory_used_bytes=70 * GIB), gpu(2, memory_used_bytes=70 * GIB)),
            "elimination",
            {"GPU-1", "GPU-2"},
            id="the two in use are those it is split over",
        ),
    ],
)
def test_an_engine_is_tied_to_its_gpus_and_it_is_said_whence(
    found: FoundServer, gpus: tuple[GpuReading, ...], attribution: str, uuids: set[str]
) -> None:
    with scene(
        pod("chat", "llama-0", "vllm", "nvidia.com/gpu", "GPU-0", "GPU-1"), gpus=gpus, found=found
    ) as seen:
        page = seen.page()
    joined = labels(page, "engine_gpu_info")
    assert {one["uuid"] for one in joined} == uuids
    assert {one["attribution"] for one in joined} == {attribution}
    (info,) = labels(page, "engine_info")
    assert info["workload_pod"] == ("llama-0" if found.container is not None else "")
    assert {one["gpu"] for one in joined} == {uuid.removeprefix("GPU-") for uuid in uuids}


def test_nvmls_processes_are_what_the_finder_looks_for() -> None:
    held = gpu(0, processes=(GpuProcess(pid=7), GpuProcess(pid=8)))
    with scene(gpus=(held, gpu(1)), found=FOUND) as seen:
        seen.page()
        assert seen.agent._gpu_processes() == {"GPU-0": [7, 8]}


def test_a_kubelet_that_goes_takes_its_joins_along_and_an_engine_keeps_its_gpus() -> None:
    with scene(pod("chat", "llama-0", "vllm", "nvidia.com/gpu", "GPU-0", "GPU-1"), found=FOUND) as seen:
        assert labels(seen.page(), "gpu_allocation_info")
        for _ in range(35):
            seen.clock.advance(1)
            seen.agent.beat(engines=True)
        page = Page(text=seen.agent.renderer.render(None, None).body.decode(), openmetrics="")
    assert not labels(page, "gpu_allocation_info")
    assert {one["attribution"] for one in labels(page, "engine_gpu_info")} == {"pod"}


# --- credentials -----------------------------------------------------------------------------------


class Listening(ThreadingHTTPServer):
    """Answers everything with a page of vLLM, and keeps what it was shown."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Asked)
        self.shown: list[str | None] = []


class Asked(BaseHTTPRequestHandler):
    server: Listening

    def do_GET(self) -> None:
        self.server.shown.append(self.headers.get("Authorization"))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(VLLM_PAGE)

    def log_message(self, *args: object) -> None:
        pass


@pytest.mark.parametrize(("credential", "shown"), [("1", "Bearer b"), ("0", "Bearer a"), (None, None)])
def test_a_found_server_is_shown_the_credentials_of_its_selector_and_no_others(
    credential: str | None, shown: str | None
) -> None:
    document = {
        "kubernetes": {
            "credentials": [
                {"pod_labels": [f"team={team}"], "headers": {"Authorization": f"Bearer {team}"}}
                for team in "ab"
            ]
        }
    }
    wiring = Wiring(Configuration.model_validate({"discovery": document}), ManualClock())
    with Listening() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/metrics"
        found = wiring.found(FoundServer(url=url, credential=credential), {})
        found.poller.poll()
        found.poller.close()
        server.shutdown()
        thread.join()
    assert set(server.shown) == {shown}


def test_found_servers_are_kept_unless_they_are_to_be_asked_with_other_credentials() -> None:
    def wiring(*headers: str) -> Wiring:
        credentials = [
            {"pod_labels": [f"team={at}"], "headers": {"A": one}} for at, one in enumerate(headers)
        ]
        kubernetes = {"enabled": True, "namespaces": ["chat"], "credentials": credentials}
        document = {"discovery": {"kubernetes": kubernetes}}
        return Wiring(Configuration.model_validate(document), ManualClock())

    one = FoundServer(url="http://127.0.0.1:8000/metrics", credential="0")
    poller = wiring("a", "b").found(one, {}).poller
    running = {poller.source.name: poller}
    assert wiring("a", "c").found(one, running).poller is poller
    assert wiring("new", "b").found(one, running).poller is not poller
    assert wiring("b", "a").found(replace(one, credential="1"), running).poller is poller
    assert wiring("a", "b").found(replace(one, credential=None), running).poller is not poller


def test_a_pod_that_is_not_told_its_node_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.delenv("NODE_NAME", raising=False)
    document = {"discovery": {"kubernetes": {"enabled": True}}}
    finder = Wiring(Configuration.model_validate(document), ManualClock()).kubernetes()
    assert finder is not None
    with (
        closing(finder.source) as source,
        pytest.raises(SourceError, match=r"NODE_NAME is not set.*spec\.nodeName"),
    ):
        source.read()


def test_a_node_is_called_as_kubernetes_calls_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NODE_NAME", "gpu-node-7")
    assert own_node_name() == "gpu-node-7"
    monkeypatch.delenv("NODE_NAME")
    assert own_node_name() == socket.gethostname()


def test_credentials_of_pods_are_shown_to_nobody() -> None:
    document = {
        "discovery": {
            "kubernetes": {
                "credentials": [{"pod_labels": ["a"], "headers": {"Authorization": "Bearer s3cret"}}]
            }
        }
    }
    configuration = Configuration.model_validate(document)
    assert "s3cret" not in json.dumps(redacted(configuration), default=str)
    assert "s3cret" not in repr(configuration)
