"""Dynamo's pages, its own families written by hand, before those of the engines that its workers run."""

from __future__ import annotations

import random
import re
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.base import EngineDefinition
from agent.engines.dynamo import DYNAMO, INNER
from agent.engines.sglang import SGLANG
from agent.engines.source import EngineSource
from agent.engines.trtllm import TRTLLM
from agent.engines.vllm import VLLM
from agent.errors import SourceError
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading
from agent.sources.page import parse_page

FIXTURES = Path(__file__).parent.parent / "fixtures"


def fixture(name: str) -> str:
    return (FIXTURES / name).read_text()


WORKER = fixture("dynamo/constructed-worker.txt")
OLDER_WORKER = fixture("dynamo/constructed-worker-kvstats.txt")
FRONT_END = fixture("dynamo/constructed-front-end.txt")
# What a worker passes on are the engine's families alone; those of its process are not in them.
INSIDE: dict[str, tuple[EngineDefinition, str]] = {
    "vllm": (
        VLLM,
        re.sub(r"^process_.*\n", "", fixture("vllm/0.32.0-load-4.txt"), flags=re.MULTILINE),
    ),
    "sglang": (SGLANG, fixture("sglang/sglang-rendered-0.5.23-unified.txt")),
    "trtllm": (TRTLLM, fixture("trtllm/constructed-2026-load-1.txt")),
}


def read(text: str) -> tuple[EngineReading, ...]:
    return DYNAMO.read(parse_page(text.encode(), DYNAMO.wanted), {})


def read_one(text: str) -> EngineReading:
    (engine,) = read(text)
    return engine


def counted(counters: EngineCounters) -> dict[str, float]:
    return {name: value for name in COUNTER_NAMES if (value := getattr(counters, name)) is not None}


def of_component(text: str, component: str) -> str:
    return re.sub(r'dynamo_component="\w+"', f'dynamo_component="{component}"', text)


# --- an engine inside ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", INSIDE)
def test_the_reading_is_that_of_the_engine_inside(name: str) -> None:
    definition, text = INSIDE[name]
    (expected,) = definition.read(parse_page(text.encode(), definition.wanted), {})
    engine = read_one(WORKER + text)
    assert engine.engine == name
    assert engine == replace(
        expected,
        requests_in_flight=3,
        # vLLM's alone is without them where the page does not name its process.
        step_tokens=engine.step_tokens,
        counters=replace(expected.counters, steps=engine.counters.steps),
    )


def test_the_steps_of_vllm_are_those_of_one_process() -> None:
    whole = fixture("vllm/0.32.0-load-4.txt")
    (alone,) = VLLM.read(parse_page(whole.encode(), VLLM.wanted), {})
    engine = read_one(WORKER + INSIDE["vllm"][1])
    assert engine.counters == alone.counters
    assert engine.step_tokens == alone.step_tokens
    assert engine.counters.steps == 1575


def test_the_order_of_the_layers_does_not_matter() -> None:
    for _, text in INSIDE.values():
        assert read(WORKER + text) == read(text + WORKER)


@pytest.mark.parametrize(
    ("component", "role"),
    [("prefill", "prefill"), ("decode", "decode"), ("backend", None), ("tensorrt_llm", None)],
)
def test_the_component_tells_the_role(component: str, role: str | None) -> None:
    for text in ("", *(inner for _, inner in INSIDE.values())):
        assert {engine.role for engine in read(of_component(WORKER, component) + text)} == {role}


def test_the_role_that_the_engine_says_goes_first() -> None:
    decode = fixture("sglang/sglang-rendered-0.5.23-decode.txt")
    assert read_one(of_component(WORKER, "prefill") + decode).role == "decode"


def test_of_several_components_none_tells_the_role() -> None:
    text = of_component(WORKER, "prefill") + of_component(OLDER_WORKER, "decode")
    assert {engine.role for engine in read(text)} == {None}


def test_requests_in_hand_are_the_workers_and_counted_once() -> None:
    engines = read(WORKER + fixture("vllm/0.32.0-dp2-load-1.txt"))
    assert [engine.requests_in_flight for engine in engines] == [3, None]


def test_what_the_engine_lacks_is_dynamos() -> None:
    """An old engine says neither its model nor how full its cache is."""
    engine = read_one(WORKER + fixture("trtllm/constructed-1.1.txt"))
    assert (engine.engine, engine.model, engine.kv_used_ratio) == ("trtllm", "Qwen/Qwen3-0.6B", 0.25)
    assert engine.counters.first_tokens == 8
    assert engine.tokens_at_end


# --- no engine inside ----------------------------------------------------------------------------


def test_a_worker_alone_tells_its_own() -> None:
    first, second = read(WORKER)
    assert [(one.engine, one.rank, one.model) for one in (first, second)] == [
        ("dynamo", "0", "Qwen/Qwen3-0.6B"),
        ("dynamo", "1", "Qwen/Qwen3-0.6B"),
    ]
    assert (first.kv_used_ratio, second.kv_used_ratio) == (0.25, 0.75)
    assert (first.requests_in_flight, second.requests_in_flight) == (3, None)
    assert counted(first.counters) == {"requests_finished": 40, "requests_error": 2, "requests_abort": 4}
    assert counted(second.counters) == {}
    assert first.request_latency is not None
    assert (first.request_latency.count, first.request_latency.sum) == (40, 30)


def test_gauges_that_are_always_zero_are_no_values() -> None:
    engine = read_one(OLDER_WORKER)
    assert (engine.rank, engine.kv_used_ratio) == ("0", None)
    filled = re.sub(r"(kvstats_total_blocks.*) 0", r"\1 5000", OLDER_WORKER)
    filled = re.sub(r"(kvstats_gpu_cache_usage_percent.*) 0", r"\1 0.5", filled)
    assert read_one(filled).kv_used_ratio == 0.5


# --- no worker -----------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(FRONT_END)))
        self.end_headers()
        self.wfile.write(FRONT_END.encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def front_end() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/metrics"
        server.shutdown()
        thread.join()


def test_a_front_end_is_refused_with_advice(front_end: str) -> None:
    source = EngineSource(front_end, definitions=(DYNAMO, *INNER))
    with pytest.raises(SourceError, match=r"front end of NVIDIA Dynamo.*URLs of its workers") as caught:
        source.read()
    source.close()
    assert caught.value.reason == "unrecognised"
    assert caught.value.reason in source.failure_reasons


# --- hostile input -------------------------------------------------------------------------------

PAGES = {
    name: [line for line in (WORKER + text).splitlines() if line.split("{")[0] in DYNAMO.wanted]
    for name, text in {"alone": "", **{name: text for name, (_, text) in INSIDE.items()}}.items()
}


(IN_FLIGHT,) = [line for line in PAGES["alone"] if re.match('.*inflight.*"generate"', line)]


@given(st.sampled_from(sorted(PAGES)), st.data(), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(
    name: str, data: st.DataObject, order: random.Random
) -> None:
    lines = [IN_FLIGHT, *data.draw(st.sets(st.sampled_from(PAGES[name]).filter(IN_FLIGHT.__ne__)))]
    expected = read("".join(f"{line}\n" for line in lines))
    order.shuffle(lines)
    assert read("".join(f"{line}\n" for line in lines)) == expected
    assert len({engine.rank for engine in expected}) == len(expected) > 0


NUMBERS = st.floats(0, 1e29)
"""What is below zero is nobody's count; the frame passes over it for all engines."""


@given(st.lists(st.tuples(st.sampled_from(PAGES["alone"]), NUMBERS, st.booleans())))
def test_any_values_and_missing_labels_are_readings(lines: list[tuple[str, float, bool]]) -> None:
    named = [
        (line.split("{")[0] if bare else line.rpartition(" ")[0], number) for line, number, bare in lines
    ]
    values = {**dict(named), IN_FLIGHT.rpartition(" ")[0]: 3.0}
    engines = read("".join(f"{series} {number!r}\n" for series, number in values.items()))
    assert len({engine.rank for engine in engines}) == len(engines)
    for engine in engines:
        assert all(value >= 0 for value in counted(engine.counters).values())
        assert engine.kv_used_ratio is None or 0 <= engine.kv_used_ratio <= 1
