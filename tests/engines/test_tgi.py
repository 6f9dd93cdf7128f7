"""TGI's page: one written after the source of 3.3.7, and what `/info` adds to it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.tgi import TGI
from agent.readings import COUNTER_NAMES, EngineReading, ModelFacts
from agent.sources.page import parse_page

TEXT = (Path(__file__).parent.parent / "fixtures/tgi/tgi-constructed-3.3.7.txt").read_text()
INFO = {
    "model_id": "meta-llama/Llama-3.1-8B-Instruct",
    "model_sha": "0e9e39f249a16976918f6564b8830bc894c89659",
    "max_concurrent_requests": 128,
    "max_total_tokens": 8192,
    "version": "3.3.7",
}


def read(text: str, **documents: object) -> EngineReading:
    (engine,) = TGI.read(parse_page(text.encode(), TGI.wanted), documents)
    return engine


def test_the_page_is_read_exactly() -> None:
    engine = read(TEXT)
    assert (engine.engine, engine.rank, engine.model) == ("tgi", "0", "")
    assert (engine.requests_running, engine.requests_waiting) == (1, 0)
    assert engine.kv_used_ratio is None
    assert engine.tokens_at_end
    counted = {n: v for n in COUNTER_NAMES if (v := getattr(engine.counters, n)) is not None}
    assert counted.pop("decode_step_seconds") == pytest.approx(1.5)
    assert counted == {
        "prefill_tokens": 2900,
        "generation_tokens": 300,
        "decode_steps": 120,
        "prefill_steps": 3,
        "prefill_step_seconds": 0.158,
        "requests_finished": 3,
        "requests_error": 0,
        "requests_abort": 0,
        "rejected_requests": 1,
    }
    assert engine.request_latency is not None
    assert engine.request_latency.count == 3
    assert engine.request_latency.sum == pytest.approx(4.2)


def test_failures_are_told_apart() -> None:
    failures = {"validation": 2, "dropped": 4, "generation": 8}
    more = "".join(f'tgi_request_failure{{err="{err}"}} {n}\n' for err, n in failures.items())
    counters = read(TEXT + more).counters
    assert (counters.requests_error, counters.requests_abort, counters.rejected_requests) == (10, 4, 1)


def test_what_never_happened_is_zero() -> None:
    engine = read("tgi_queue_size 0\n")
    assert engine.counters.generation_tokens == 0
    assert engine.counters.decode_steps == 0
    assert engine.request_latency is None


def test_which_model_it_serves_only_info_says() -> None:
    engine = read(TEXT, info=INFO)
    assert (engine.model, engine.version) == ("meta-llama/Llama-3.1-8B-Instruct", "3.3.7")
    assert engine.facts == ModelFacts(
        path="meta-llama/Llama-3.1-8B-Instruct",
        revision="0e9e39f249a16976918f6564b8830bc894c89659",
        served_names=("meta-llama/Llama-3.1-8B-Instruct",),
        max_model_len=8192,
    )
    assert engine.max_num_seqs is None  # concurrent requests are those that wait, too


def test_until_2_2_info_knew_the_cache_and_the_dtype() -> None:
    engine = read(TEXT, info={**INFO, "max_batch_total_tokens": 165_000, "model_dtype": "torch.float16"})
    assert (engine.kv_capacity_tokens, engine.facts.weight_dtype) == (165_000, "torch.float16")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@given(
    info=JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(INFO, JSON)),
    seed=st.integers(),
    kept=st.floats(0, 1),
)
def test_whatever_is_missing_or_odd_nothing_is_raised(info: object, seed: int, kept: float) -> None:
    shuffle = random.Random(seed)
    lines = [line for line in TEXT.splitlines(keepends=True) if shuffle.random() < kept]
    shuffle.shuffle(lines)
    page = parse_page(("x 1\n" + "".join(lines)).encode(), {*TGI.wanted, "x"})
    (engine,) = TGI.read(page, {"info": info})
    assert all((value := getattr(engine.counters, name)) is None or value >= 0 for name in COUNTER_NAMES)
