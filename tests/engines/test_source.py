"""One server over real HTTP: its page, the documents beside it, and what is made of both."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.engines.base import Document, Documents, EngineDefinition, number_at, text_at
from agent.engines.documents import ASK_AGAIN_READS, root_of
from agent.engines.registry import ENGINES
from agent.engines.source import MAX_ENGINES, EngineSource
from agent.errors import SourceError
from agent.readings import EngineCounters, EngineReading, ModelFacts, ServerReading
from agent.sources.base import Source
from agent.sources.page import Page, PageLimits

# --- the page ------------------------------------------------------------------------------------


class PageServer(ThreadingHTTPServer):
    """Serves `documents` at their paths and `text` at every other, and keeps what it was asked."""

    text = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.documents: dict[str, tuple[int, str]] = {}
        self.asked: Counter[str] = Counter()
        self.headers: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"


class Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        status, text = self.server.documents.get(self.path, (200, self.server.text))
        body = text.encode()
        self.server.asked[self.path] += 1
        self.server.headers = dict(self.headers)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def definition_of(name: str) -> EngineDefinition:
    """An engine of a few families: one rank a value of the label `rank`."""
    tokens, prompt, cached, started = (f"{name}_{part}" for part in ("tokens", "prompt", "cached", "started"))

    def read(page: Page, documents: Documents) -> tuple[EngineReading, ...]:
        return tuple(
            EngineReading(
                engine=name,
                rank=rank,
                model=part.samples(tokens)[0].labels.get("model", ""),
                facts=ModelFacts(kv_dtype=part.samples(tokens)[0].labels.get("dtype")),
                start_time_seconds=part.value(started),
                counters=EngineCounters(
                    generation_tokens=part.value(tokens),
                    prefill_tokens=(part.value(prompt) or 0.0) - (part.value(cached) or 0.0),
                ),
            )
            for rank, part in page.by_label("rank").items()
        )

    return EngineDefinition(
        name=name,
        fingerprint=frozenset({tokens}),
        wanted=frozenset({tokens, prompt, cached, started}),
        read=read,
        derived=frozenset({"prefill_tokens"}),
    )


ABC, XYZ = definition_of("abc"), definition_of("xyz")


def test_source_reads_the_engine_whose_fingerprint_the_page_has(server: PageServer) -> None:
    source: Source[ServerReading] = EngineSource(server.url, definitions=(ABC, XYZ))
    server.text = "xyz_tokens 5\nabc_tokens ?\n"
    reading = source.read()
    assert [(engine.engine, engine.counters.generation_tokens) for engine in reading.engines] == [
        ("xyz", 5.0)
    ]
    assert reading.malformed_lines == 1
    server.text = "abc_tokens 6\n"  # another engine on the same port
    assert [engine.engine for engine in source.read().engines] == ["abc"]
    source.close()


def test_a_page_of_no_known_engine_is_unrecognised(server: PageServer) -> None:
    server.text = "process_start_time_seconds 1\n"
    source = EngineSource(server.url, definitions=(ABC, XYZ))
    with pytest.raises(SourceError) as raised:
        source.read()
    source.close()
    assert raised.value.reason == "unrecognised"
    assert str(raised.value) == (
        f"engine at {server.url}: no metrics of abc, xyz on the page; are they switched off in the engine?"
    )


def test_headers_are_sent_and_limits_hold(server: PageServer) -> None:
    server.text = "abc_tokens 5\n"
    source = EngineSource(
        server.url, definitions=(ABC,), headers={"Authorization": "Bearer k"}, limits=PageLimits(max_bytes=20)
    )
    source.read()
    assert server.headers["Authorization"] == "Bearer k"
    server.text *= 2
    with pytest.raises(SourceError, match=r"^abc at .*: more than 20 bytes"):
        source.read()
    source.close()


@pytest.mark.parametrize(
    ("url", "name", "server"),
    [
        ("http://node-7:8000/metrics", "engine:node-7:8000", "node-7:8000"),
        ("http://u:p@node-7:8000/metrics?key=k", "engine:node-7:8000", "node-7:8000"),
        (
            "http://node-7:8000/team-a/metrics",
            "engine:node-7:8000/team-a/metrics",
            "node-7:8000/team-a/metrics",
        ),
        (
            "http://node-7:8000/prometheus/metrics",
            "engine:node-7:8000",
            "node-7:8000",
        ),
        ("https://node-7/metrics", "engine:node-7:443", "node-7:443"),
        ("http://[::1]:8000/metrics", "engine:[::1]:8000", "[::1]:8000"),
    ],
)
def test_source_is_named_by_host_port_and_unusual_path(url: str, name: str, server: str) -> None:
    source = EngineSource(url, definitions=ENGINES)
    assert (source.name, source.server) == (name, server)
    source.close()


def test_texts_of_the_page_become_safe_labels(server: PageServer) -> None:
    server.text = rf'abc_tokens{{rank="0\n",model="{"m" * 200}",dtype="\n"}} 1' + "\n"
    source = EngineSource(server.url, definitions=(ABC,))
    (engine,) = source.read().engines
    source.close()
    assert (engine.rank, engine.model, engine.facts.kv_dtype) == (r"0\n", "m" * 127 + "…", r"\n")


def test_a_page_of_too_many_engines_is_refused(server: PageServer) -> None:
    lines = [f'abc_tokens{{rank="{rank}"}} 1\n' for rank in range(MAX_ENGINES + 1)]
    source = EngineSource(server.url, definitions=(ABC,))
    server.text = "".join(lines[:-1])
    assert len(source.read().engines) == MAX_ENGINES
    server.text = "".join(lines)
    with pytest.raises(SourceError) as raised:
        source.read()
    source.close()
    assert raised.value.reason == "too_large"


def test_a_derived_counter_does_not_fall_unless_the_engine_restarted(server: PageServer) -> None:
    source = EngineSource(server.url, definitions=(ABC,))

    def prefill_tokens(**values: float) -> float | None:
        server.text = "".join(f"abc_{name} {value}\n" for name, value in values.items())
        return source.read().engines[0].counters.prefill_tokens

    assert prefill_tokens(tokens=10, prompt=100, cached=20) == 80
    assert prefill_tokens(tokens=10, prompt=100, cached=60) == 80  # a hit is booked, its prompt is not yet
    assert prefill_tokens(tokens=11, prompt=160, cached=60) == 100
    assert prefill_tokens(tokens=3, prompt=30, cached=0) == 30  # a restart: the tokens fell too
    assert prefill_tokens(tokens=3, prompt=30, cached=9, started=7) == 21  # started at another time
    source.close()


# --- the documents beside it ---------------------------------------------------------------------


def read_documented(page: Page, documents: Documents) -> tuple[EngineReading, ...]:
    return (
        EngineReading(
            engine="abc",
            model="m",
            start_time_seconds=page.value("abc_started"),
            requests_running=number_at(documents.get("load"), "running"),
            counters=EngineCounters(generation_tokens=page.value("abc_tokens")),
            facts=ModelFacts(path=text_at(documents.get("about"), "path")),
        ),
    )


DOCUMENTED = EngineDefinition(
    name="abc",
    fingerprint=frozenset({"abc_tokens"}),
    wanted=frozenset({"abc_tokens", "abc_started"}),
    read=read_documented,
    documents=(
        Document(name="about", path="/about?all"),
        Document(name="load", path="/load", live=True, when=lambda page: page.value("abc_tokens") != 7),
    ),
    page_paths=("/metrics", "/prometheus/metrics"),
    switch="--metrics",
)


@pytest.fixture
def documented(server: PageServer) -> Iterator[EngineSource]:
    server.text = "abc_tokens 1\nabc_started 100\n"
    server.documents = {"/about?all": (200, '{"path": "/models/a"}'), "/load": (200, '{"running": 2}')}
    source = EngineSource(server.url, definitions=(DOCUMENTED,), headers={"Authorization": "Bearer k"})
    yield source
    source.close()


def test_facts_are_asked_for_once_and_live_documents_with_each_page(
    server: PageServer, documented: EngineSource
) -> None:
    for _ in range(3):
        (engine,) = documented.read().engines
        assert (engine.facts.path, engine.requests_running) == ("/models/a", 2.0)
    assert server.asked == {"/metrics": 3, "/about?all": 1, "/load": 3}
    assert server.headers["Authorization"] == "Bearer k"  # to the same server, so the same key


def test_a_document_is_not_asked_for_with_pages_that_leave_no_question(
    server: PageServer, documented: EngineSource
) -> None:
    server.text = "abc_tokens 7\n"
    assert documented.read().engines[0].requests_running is None
    assert server.asked["/load"] == 0


@pytest.mark.parametrize(
    ("text", "restarts"),
    [
        pytest.param("abc_tokens 2\nabc_started 100\n", 0, id="the same process goes on"),
        pytest.param("abc_tokens 2\nabc_started 200\n", 1, id="another start time"),
        pytest.param("abc_tokens 0\nabc_started 100\n", 1, id="a counter fell"),
    ],
)
def test_a_restarted_server_is_asked_again(
    server: PageServer, documented: EngineSource, text: str, restarts: int
) -> None:
    documented.read()
    server.text = text
    server.documents["/about?all"] = (200, '{"path": "/models/b"}')
    assert documented.read().engines[0].facts.path == ("/models/b" if restarts else "/models/a")
    assert server.asked["/about?all"] == 1 + restarts


def test_a_server_that_was_away_is_asked_again(server: PageServer, documented: EngineSource) -> None:
    documented.read()
    server.documents["/metrics"] = (503, "")
    with pytest.raises(SourceError, match=r"HTTP 503; .* It has them with --metrics$"):
        documented.read()
    del server.documents["/metrics"]
    documented.read()
    assert server.asked["/about?all"] == 2


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        pytest.param((404, ""), "HTTP 404", id="not there"),
        pytest.param((401, "{}"), "HTTP 401; does it need an API key?", id="not for us"),
        pytest.param((302, ""), "it redirects", id="a redirect is not followed"),
        pytest.param((200, "<html>secret"), "the answer is not JSON", id="not JSON"),
        pytest.param((200, "[" * 200_000), "the answer is not JSON", id="deeper than can be read"),
        pytest.param((200, " " * (2**20 + 1)), "more than 1048576 bytes", id="too large"),
    ],
)
def test_a_document_that_fails_costs_only_what_it_would_have_told(
    server: PageServer, documented: EngineSource, answer: tuple[int, str], problem: str
) -> None:
    server.documents["/about?all"] = answer
    reading = documented.read()
    (engine,) = reading.engines
    assert (engine.facts.path, engine.requests_running) == (None, 2.0)
    (said,) = reading.problems
    assert said.startswith(f"about of 127.0.0.1:{server.server_port}: {problem}")
    assert "secret" not in said
    documented.read()
    assert server.asked["/about?all"] == 1  # left alone for a while


def test_what_failed_is_asked_for_again_in_time(server: PageServer, documented: EngineSource) -> None:
    server.documents["/about?all"] = (200, "not JSON")
    documented.read()
    server.documents["/about?all"] = (200, '{"path": "/models/a"}')
    for _ in range(ASK_AGAIN_READS):
        assert documented.read().problems
    reading = documented.read()
    assert (reading.problems, reading.engines[0].facts.path) == ((), "/models/a")


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("http://h:1/metrics", "http://h:1"),
        ("http://h:1/metrics/", "http://h:1"),
        ("http://h:1/team-a/metrics?x=1", "http://h:1/team-a"),
        ("http://h:1/prometheus/metrics", "http://h:1"),
        ("http://h:1/other", None),
    ],
)
def test_the_root_is_what_the_pages_path_leaves(url: str, root: str | None) -> None:
    assert root_of(url, DOCUMENTED.page_paths) == root
