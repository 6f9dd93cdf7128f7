"""Servers come, are found twice, restart elsewhere and leave; those configured stay."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.clock import ManualClock
from agent.errors import SourceError
from agent.readings import MAX_FOUND, Discovery, FoundServer, ModelFacts, PodContainer, ServerReading
from agent.roster import GONE_SECONDS, MonitoredServer, Roster
from agent.sources.base import Poller


class Finder:
    """Finds what it is told to."""

    failure_reasons = ("broken",)

    def __init__(self, name: str) -> None:
        self.name = name
        self.servers: tuple[FoundServer, ...] | None = ()

    def read(self) -> Discovery:
        if self.servers is None:
            raise SourceError("broken", "cannot look")
        return Discovery(servers=self.servers)

    def close(self) -> None:
        pass


class Server:
    """A server that answers with nothing."""

    failure_reasons: tuple[str, ...] = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.read_by: str | None = None
        self.closed = False

    def read(self) -> ServerReading:
        self.read_by = threading.current_thread().name
        return ServerReading(engines=())

    def close(self) -> None:
        self.closed = True


class Scene:
    """A roster with two finders and a clock of its own."""

    def __init__(self, *configured: str) -> None:
        self.clock = ManualClock()
        self.opened: dict[str, Server] = {}
        self.processes, self.pods = Finder("processes"), Finder("kubernetes")
        self.finders = [
            Poller(finder, interval_seconds=10, deadline_seconds=10, clock=self.clock)
            for finder in (self.processes, self.pods)
        ]
        self.roster = Roster(
            configured=[self._server(url) for url in configured],
            finders=self.finders,
            open_server=lambda found, _: replace(self._server(found.url), found=found, on_this_node=True),
            own_addresses=("10.0.0.9",),
            clock=self.clock,
        )

    def _server(self, url: str) -> MonitoredServer:
        source = self.opened[url] = Server(f"engine:{url}")
        poller = Poller(source, interval_seconds=5, deadline_seconds=10, clock=self.clock)
        return MonitoredServer(poller=poller, server=url.split("/")[2], url=url)

    def adopt(self, *configured: str, finders: list[Poller[Discovery]] | None = None) -> None:
        """Another configuration: these servers are listed, kept where they run, and these finders look."""
        running = {server.url: server for server in self.roster.servers}
        self.roster.adopt(
            configured=[
                replace(running[url], found=None) if url in running else self._server(url)
                for url in configured
            ],
            finders=self.finders if finders is None else finders,
            open_server=self._open_or_keep,
        )

    def _open_or_keep(self, found: FoundServer, running: Mapping[str, Poller[Any]]) -> MonitoredServer:
        server = self._server(found.url) if f"engine:{found.url}" not in running else None
        if server is None:
            poller = running[f"engine:{found.url}"]
            server = MonitoredServer(poller=poller, server=found.url.split("/")[2], url=found.url)
        return replace(server, found=found, on_this_node=True)

    def look(self, *, after: float = 10.0) -> dict[str, MonitoredServer]:
        """The servers, by their label, after both finders looked again."""
        self.clock.advance(after)
        for finder in self.finders:
            finder.poll()
        return {server.server: server for server in self.roster.update()}


def process(url: str, **given: object) -> FoundServer:
    return replace(FoundServer(url=url, engine="vllm", pid=7, gpu_uuids=("GPU-0",)), **given)  # type: ignore[arg-type]


POD = PodContainer(namespace="chat", pod="llama-0", container="vllm", uid="u")


def test_what_is_found_is_watched_and_what_is_gone_is_for_ten_minutes() -> None:
    scene = Scene()
    assert scene.look() == {}
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    assert list(scene.look()) == ["127.0.0.1:8000"]
    scene.processes.servers = ()
    assert list(scene.look(after=GONE_SECONDS - 1)) == ["127.0.0.1:8000"]
    assert not scene.opened["http://127.0.0.1:8000/metrics"].closed
    assert scene.look(after=2) == {}
    assert scene.opened["http://127.0.0.1:8000/metrics"].closed


def test_a_server_that_is_no_longer_found_is_known_to_be_gone_until_it_is_back() -> None:
    scene = Scene()
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    assert [server.gone for server in scene.look().values()] == [False]
    scene.processes.servers = ()
    assert [server.gone for server in scene.look().values()] == [True]
    scene.processes.servers = None  # who cannot look does not say that anything is gone or back
    assert [server.gone for server in scene.look().values()] == [True]
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    assert [server.gone for server in scene.look().values()] == [False]


def test_a_server_that_is_found_again_keeps_its_poller() -> None:
    scene = Scene()
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics", pid=7),)
    first = scene.look()["127.0.0.1:8000"]
    scene.processes.servers = ()
    scene.look(after=300)
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics", pid=8),)
    again = scene.look(after=200)["127.0.0.1:8000"]
    assert again.poller is first.poller
    assert again.found is not None
    assert again.found.pid == 8
    assert scene.look(after=500)


def test_a_server_that_restarts_on_another_port_is_another() -> None:
    scene = Scene()
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    scene.look()
    scene.processes.servers = (process("http://127.0.0.1:8001/metrics"),)
    assert list(scene.look()) == ["127.0.0.1:8000", "127.0.0.1:8001"]
    assert list(scene.look(after=GONE_SECONDS - 10)) == ["127.0.0.1:8000", "127.0.0.1:8001"]
    assert list(scene.look(after=1)) == ["127.0.0.1:8001"]


def test_a_finder_that_fails_knows_what_it_knew() -> None:
    scene = Scene()
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    scene.look()
    scene.processes.servers = None
    assert list(scene.look(after=10 * GONE_SECONDS)) == ["127.0.0.1:8000"]


@pytest.mark.parametrize(
    ("pod_url", "pod"),
    [
        pytest.param("http://10.1.2.3:8000/metrics", replace(POD, uid=""), id="by its address"),
        pytest.param("http://10.1.2.4:8000/metrics", POD, id="by its pod and port"),
    ],
)
def test_a_server_found_by_its_process_and_by_its_pod_is_one(pod_url: str, pod: PodContainer) -> None:
    scene = Scene()
    scene.processes.servers = (
        process(
            "http://10.1.2.3:8000/metrics",
            container=PodContainer(namespace="", pod="", uid="u"),
            facts=ModelFacts(tensor_parallel=4, path="/models/a"),
        ),
    )
    scene.pods.servers = (
        FoundServer(
            url=pod_url,
            container=pod,
            facts=ModelFacts(tensor_parallel=2, kv_dtype="fp8"),
            credential="chat",
        ),
    )
    (server,) = scene.look().values()
    assert server.found == FoundServer(
        url="http://10.1.2.3:8000/metrics",
        engine="vllm",
        pid=7,
        gpu_uuids=("GPU-0",),
        container=pod,
        facts=ModelFacts(tensor_parallel=4, path="/models/a", kv_dtype="fp8"),
        credential="chat",
    )


def test_two_ports_of_one_pod_are_two_servers() -> None:
    scene = Scene()
    scene.pods.servers = tuple(
        FoundServer(url=f"http://10.1.2.3:{port}/metrics", container=POD) for port in (8000, 8001)
    )
    assert list(scene.look()) == ["10.1.2.3:8000", "10.1.2.3:8001"]


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "10.0.0.9"])
def test_a_configured_server_is_not_found_but_described(host: str) -> None:
    scene = Scene(f"http://{host}:8000/team/metrics")
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    (server,) = scene.look().values()
    assert server.url == f"http://{host}:8000/team/metrics"
    assert server.found is not None
    assert server.found.gpu_uuids == ("GPU-0",)
    assert server.on_this_node
    assert len(scene.opened) == 1


def test_too_many_are_left_out_and_named() -> None:
    scene = Scene()
    urls = [f"http://10.1.0.{n}:8000/metrics" for n in range(MAX_FOUND + 2)]
    scene.pods.servers = tuple(FoundServer(url=url) for url in urls)
    assert len(scene.look()) == MAX_FOUND
    assert scene.roster.left_out == tuple(urls[-2:])


def test_a_server_found_later_is_read_on_a_thread_of_its_own() -> None:
    scene = Scene()
    scene.roster.start()
    scene.processes.servers = (process("http://127.0.0.1:8000/metrics"),)
    scene.look()
    source = scene.opened["http://127.0.0.1:8000/metrics"]
    for _ in range(500):
        if source.read_by is not None:
            break
        threading.Event().wait(0.01)
    assert source.read_by == f"source-{source.name}"
    scene.processes.servers = ()
    scene.look()
    scene.look(after=2 * GONE_SECONDS)
    for _ in range(500):
        if source.closed:
            break
        threading.Event().wait(0.01)
    assert source.closed  # by its own thread, without anyone waiting for it


# --- another configuration -------------------------------------------------------------------------

ONE = "http://127.0.0.1:8000/metrics"


def test_a_server_that_is_listed_no_longer_and_found_keeps_its_poller() -> None:
    scene = Scene(ONE)
    scene.processes.servers = (process(ONE),)
    listed = scene.look()["127.0.0.1:8000"]
    scene.adopt()
    (found,) = scene.roster.servers
    assert found.poller is listed.poller
    assert not scene.opened[ONE].closed
    scene.adopt(ONE)
    (again,) = scene.roster.servers
    assert again.poller is listed.poller
    assert again.found is not None
    assert len(scene.opened) == 1


def test_a_server_that_is_listed_no_longer_and_not_found_ends() -> None:
    scene = Scene(ONE, "http://127.0.0.1:8001/metrics")
    scene.look()
    scene.adopt("http://127.0.0.1:8001/metrics")
    assert [server.server for server in scene.roster.servers] == ["127.0.0.1:8001"]
    assert scene.opened[ONE].closed


def test_what_new_rules_do_not_find_leaves_when_they_have_looked_and_not_before() -> None:
    scene = Scene()
    other = "http://127.0.0.1:8001/metrics"
    scene.pods.servers = (process(ONE), process(other))
    assert list(scene.look()) == ["127.0.0.1:8000", "127.0.0.1:8001"]
    kept = scene.roster.servers[0].poller
    anew = Finder("kubernetes")
    anew.servers = (process(ONE),)
    finder = Poller(anew, interval_seconds=10, deadline_seconds=10, clock=scene.clock)
    scene.adopt(finders=[scene.finders[0], finder])
    assert [server.gone for server in scene.roster.update()] == [False, False]
    finder.poll()
    (server,) = scene.roster.update()
    assert server.poller is kept
    assert scene.opened[other].closed


def test_new_rules_that_cannot_look_end_nothing() -> None:
    scene = Scene()
    scene.pods.servers = (process(ONE),)
    scene.look()
    anew = Finder("kubernetes")
    anew.servers = None
    finder = Poller(anew, interval_seconds=10, deadline_seconds=10, clock=scene.clock)
    scene.adopt(finders=[scene.finders[0], finder])
    finder.poll()
    (server,) = scene.roster.update()
    assert not scene.opened[ONE].closed
    anew.servers = (process(ONE),)
    finder.poll()
    assert [one.poller for one in scene.roster.update()] == [server.poller]
    assert [one.gone for one in scene.roster.update()] == [False]


def test_what_nobody_looks_for_any_more_ends_at_once() -> None:
    scene = Scene()
    scene.processes.servers = (process(ONE),)
    scene.look()
    scene.adopt(finders=[])
    assert scene.roster.servers == ()
    assert scene.opened[ONE].closed
