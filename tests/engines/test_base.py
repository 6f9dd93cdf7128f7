"""The frame of all engines: signals, histograms, and the source over real HTTP."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from agent.engines.base import (
    MAX_ENGINES,
    EngineDefinition,
    EngineSource,
    Signal,
    histogram_samples,
    read_counters,
    read_histogram,
)
from agent.engines.registry import ENGINES
from agent.errors import SourceError
from agent.labels import label_text
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading, Histogram, ServerReading
from agent.sources.base import Source
from agent.sources.page import Page, PageLimits, parse_page

# --- signals and histograms ----------------------------------------------------------------------


def page_of(text: str) -> Page:
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines()}
    return parse_page(text.encode(), names)


def test_the_newest_name_on_the_page_counts() -> None:
    signal = Signal(names=("new", "old"))
    assert signal.read(page_of("old 1\nnew 2\n")) == 2.0
    assert signal.read(page_of("old 1\n")) == 1.0
    assert signal.read(page_of("other 1\n")) is None


def test_a_signal_adds_over_labels_it_does_not_know() -> None:
    page = page_of('a{why="x",pid="1"} 1\na{why="x",pid="2"} 2\na{why="y",pid="1"} 4\na{why="z"} 8\n')
    assert Signal(names=("a",)).read(page) == 15.0
    assert Signal(names=("a",), label="why", values=frozenset({"x"})).read(page) == 3.0
    assert Signal(names=("a",), label="why", values=frozenset({"x", "y"})).read(page) == 7.0
    assert Signal(names=("a",), label="why", values=frozenset({"w"})).read(page) is None


def test_counters_that_the_page_lacks_stay_unknown() -> None:
    counters = read_counters(
        page_of("a 0\n"), {"steps": Signal(names=("a",)), "drafts": Signal(names=("b",))}
    )
    assert counters == EngineCounters(steps=0.0)


BUCKETS = 'h_bucket{le="1"} 1\nh_bucket{le="2.5"} 1\nh_bucket{le="+Inf"} 3\nh_sum 9\nh_count 3\n'


def test_histogram_has_the_bounds_of_the_page() -> None:
    expected = Histogram(bounds=(1.0, 2.5, math.inf), cumulative=(1.0, 1.0, 3.0), sum=9.0)
    assert read_histogram(page_of(BUCKETS), ("h",)) == expected
    assert read_histogram(page_of(BUCKETS), ("newer", "h")) == expected


def test_histogram_does_not_depend_on_the_order_of_lines() -> None:
    backwards = "\n".join(reversed(BUCKETS.splitlines())) + "\n"
    assert read_histogram(page_of(backwards), ("h",)) == read_histogram(page_of(BUCKETS), ("h",))


def test_histogram_adds_over_labels_it_does_not_know() -> None:
    twice = "".join(
        line.replace("h_bucket{", f'h_bucket{{pid="{pid}",').replace("h_sum", f'h_sum{{pid="{pid}"}}') + "\n"
        for pid in "12"
        for line in BUCKETS.splitlines()
    )
    histogram = read_histogram(page_of(twice), ("h",))
    assert histogram == Histogram(bounds=(1.0, 2.5, math.inf), cumulative=(2.0, 2.0, 6.0), sum=18.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('h_bucket{le="+Inf"} 3\n', "", id="no last bucket"),
        pytest.param("h_sum 9\n", "", id="no sum"),
        pytest.param('h_bucket{le="2.5"} 1', 'h_bucket{le="2.5"} 0', id="counts that fall"),
        pytest.param('le="2.5"', 'le="much"', id="a bound that is no number"),
        pytest.param('le="2.5"', 'le="NaN"', id="a bound that compares with none"),
        pytest.param('le="2.5"', 'ge="2.5"', id="a bucket without a bound"),
        pytest.param("h_", "g_", id="another family"),
    ],
)
def test_a_histogram_that_cannot_be_trusted_is_none(old: str, new: str) -> None:
    assert read_histogram(page_of(BUCKETS.replace(old, new)), ("h",)) is None


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("/models/llama-3.1 8B é", "/models/llama-3.1 8B é"),
        ("a\nb\x00c\x7f", r"a\nb\x00c\x7f"),
        ("left\u202eright\u2028", r"left\u202eright\u2028"),
        ("x" * 128, "x" * 128),
        ("x" * 129, "x" * 127 + "…"),
        ("\n" * 100, r"\n" * 63 + "\\…"),
    ],
)
def test_label_text_is_short_and_printable(text: str, label: str) -> None:
    assert label_text(text) == label
    assert len(label) <= 128
    assert label.isprintable()


def test_every_engine_has_a_name_of_its_own_and_wants_its_fingerprint() -> None:
    assert len({definition.name for definition in ENGINES}) == len(ENGINES)
    for definition in ENGINES:
        assert definition.fingerprint
        assert definition.fingerprint <= definition.wanted
        assert definition.derived <= set(COUNTER_NAMES)


# --- the source ----------------------------------------------------------------------------------


class PageServer(ThreadingHTTPServer):
    """Serves `text` at every path, and keeps the headers of the last request."""

    text = ""
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/metrics"


class Handler(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        body = self.server.text.encode()
        self.server.headers = dict(self.headers)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[PageServer]:
    with PageServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def definition_of(name: str) -> EngineDefinition:
    """An engine of a few families: one rank a value of the label `rank`."""
    tokens, prompt, cached, started = (f"{name}_{part}" for part in ("tokens", "prompt", "cached", "started"))

    def read(page: Page) -> tuple[EngineReading, ...]:
        return tuple(
            EngineReading(
                engine=name,
                rank=rank,
                model=part.samples(tokens)[0].labels.get("model", ""),
                kv_dtype=part.samples(tokens)[0].labels.get("dtype"),
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
            "http://node-7:8000/prometheus/metrics",
            "engine:node-7:8000/prometheus/metrics",
            "node-7:8000/prometheus/metrics",
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
    assert (engine.rank, engine.model, engine.kv_dtype) == (r"0\n", "m" * 127 + "…", r"\n")


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


def test_histogram_samples_are_those_that_are_read() -> None:
    assert histogram_samples(("h",)) == {"h_bucket", "h_sum"}
    page = parse_page(BUCKETS.encode(), histogram_samples(("h",)))
    assert read_histogram(page, ("h",)) is not None
