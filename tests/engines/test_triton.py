"""Triton's pages, written by hand: several models, numbers under wrong names, and a core without tokens."""

from __future__ import annotations

import math
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.triton import TRITON
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading
from agent.sources.page import parse_page

FIXTURES = Path(__file__).parent.parent / "fixtures" / "triton"
TEXTS = {path.stem.removeprefix("constructed-"): path.read_text() for path in FIXTURES.glob("*.txt")}
LOAD = TEXTS["backend-load-1"]


def read(text: str) -> tuple[EngineReading, ...]:
    return TRITON.read(parse_page(text.encode(), TRITON.wanted), {})


def read_one(text: str) -> EngineReading:
    (engine,) = read(text)
    return engine


def counted(counters: EngineCounters) -> dict[str, float]:
    return {name: value for name in COUNTER_NAMES if (value := getattr(counters, name)) is not None}


def with_value(text: str, kind: str, value: float) -> str:
    """The page with another value of that kind: what a sub-label ends in."""
    changed, count = re.subn(rf'({kind}"\}}) .*', rf"\1 {value}", text)
    assert count == 1, kind
    return changed


def without(text: str, *kinds: str) -> str:
    return re.sub(rf'^.*="(?:{"|".join(kinds)})"\}}.*\n', "", text, flags=re.MULTILINE)


# --- the backend ---------------------------------------------------------------------------------


def test_counters_are_those_of_the_page() -> None:
    assert counted(read_one(LOAD).counters) == {
        "steps": 50_000,
        "generation_tokens": 90_000,
        "first_tokens": 300,
        "prefill_tokens": 300_000 - 1000 * 64,
        "cached_prompt_tokens": 1000 * 64,
        "requests_finished": 300,
        "requests_abort": 7,
        "requests_error": 3,
        "rejected_requests": 5,
    }


def test_only_the_backends_model_is_an_engine() -> None:
    assert LOAD.count('model="ensemble"') > 0
    engine = read_one(LOAD)
    assert (engine.engine, engine.rank, engine.model) == ("triton", "0", "tensorrt_llm")


def test_state_of_the_engine_is_read() -> None:
    engine = read_one(LOAD)
    assert (engine.requests_running, engine.requests_waiting, engine.facts.max_num_seqs) == (36, 1, 64)
    assert engine.tokens_at_end
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens, engine.kv_block_tokens) == (0.25, 6000 * 64, 64)


def test_latencies_are_in_seconds() -> None:
    engine = read_one(LOAD)
    assert engine.time_to_first_token is not None
    assert engine.time_to_first_token.bounds == (0.1, 0.5, 2.0, math.inf)
    assert engine.time_to_first_token.sum == 60.5
    assert engine.request_latency is not None
    assert engine.request_latency.sum == pytest.approx(630)
    assert (engine.request_latency.bounds, engine.request_latency.cumulative) == ((math.inf,), (300,))


def test_two_models_are_told_apart_by_their_names() -> None:
    first, second = read(TEXTS["backend-two-models"])
    assert [(engine.rank, engine.model) for engine in (first, second)] == [("llama",) * 2, ("qwen",) * 2]
    assert (first.counters.steps, second.counters.steps) == (50_000, 51_000)
    assert (first.kv_used_ratio, second.kv_used_ratio) == (0.25, 0.5)


def test_two_versions_of_a_model_are_told_apart_too() -> None:
    text = TEXTS["backend-two-models"].replace('model="qwen",version="1"', 'model="llama",version="2"')
    assert [(engine.rank, engine.model) for engine in read(text)] == [
        ("llama/1", "llama"),
        ("llama/2", "llama"),
    ]


@pytest.mark.parametrize(
    ("changes", "running"),
    [
        pytest.param({}, 36, id="the decode batch"),
        pytest.param({"generation_requests": 0}, 38, id="a step that only prefills"),
        pytest.param({"generation_requests": 0, "scheduled": 0}, 0, id="nothing"),
    ],
)
def test_running_is_the_batch_of_the_last_step(changes: dict[str, float], running: float) -> None:
    text = LOAD
    for kind, value in changes.items():
        text = with_value(text, kind, value)
    assert read_one(text).requests_running == running


def test_a_v1_model_runs_what_was_scheduled() -> None:
    assert read_one(without(LOAD, "generation_requests")).requests_running == 38


def test_a_page_of_23_11_says_less() -> None:
    engine = read_one(TEXTS["backend-23.11"])
    assert engine.requests_waiting == 40 - 38
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens) == (0.25, 6000 * 64)
    assert counted(engine.counters) == {"steps": 50_000}


def test_a_core_that_does_not_count_this_backend_has_counted_nothing() -> None:
    """Before 23.12 its counters stay 0; before the first step 0 is what they are."""
    text = TEXTS["backend-23.11"]
    assert read_one(text).request_latency is None
    assert read_one(with_value(text, "iteration_counter", 0)).counters.requests_finished == 0


# --- numbers under the wrong name ----------------------------------------------------------------

KV = {"max": 6000.0, "free": 4500.0, "used": 1500.0, "tokens_per": 64.0, "reused": 1000.0, "fraction": 0.25}


@pytest.mark.parametrize("missing", list(KV)[:-1])
def test_numbers_that_moved_up_by_one_are_not_believed(missing: str) -> None:
    """As the backend writes them where its engine leaves one out: the last keeps what it had."""
    moved = [value for name, value in KV.items() if name != missing] + [0.0]
    text = LOAD
    for name, value in zip(KV, moved, strict=True):
        text = with_value(text, f'block_type="{name}', value)
    engine = read_one(text)
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens, engine.kv_block_tokens) == (None, None, None)
    assert (engine.counters.prefill_tokens, engine.counters.cached_prompt_tokens) == (None, None)
    assert engine.counters.steps == 50_000


def test_blocks_that_do_not_add_up_are_not_believed() -> None:
    engine = read_one(with_value(TEXTS["backend-23.11"], 'block_type="free', 4501))
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens, engine.requests_running) == (None, None, 36)


def test_without_the_fraction_blocks_found_in_the_cache_are_not_believed() -> None:
    engine = read_one(without(LOAD, "fraction"))
    assert (engine.kv_used_ratio, engine.kv_block_tokens) == (0.25, 64)
    assert (engine.counters.prefill_tokens, engine.counters.cached_prompt_tokens) == (None, None)


@pytest.mark.parametrize("value", [0, 63, 0.25, 1000])
def test_a_block_of_no_power_of_two_tokens_is_another_number(value: float) -> None:
    engine = read_one(with_value(LOAD, "tokens_per", value))
    assert (engine.kv_used_ratio, engine.kv_block_tokens, engine.kv_capacity_tokens) == (0.25, None, None)


def test_a_cache_that_is_not_told_of_is_unknown() -> None:
    engine = read_one(without(LOAD, *KV))
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens, engine.requests_running) == (None, None, 36)


# --- the core alone ------------------------------------------------------------------------------


def test_a_core_tells_requests_and_no_tokens() -> None:
    text = TEXTS["core"]
    assert [(engine.rank, engine.model) for engine in read(text)] == [
        ("bert/1", "bert"),
        ("bert/2", "bert"),
        ("resnet", "resnet"),
    ]
    first, _, idle = read(text)
    assert counted(first.counters) == {
        "requests_finished": 40,
        "requests_abort": 7,
        "requests_error": 3,
        "rejected_requests": 5,
    }
    assert (first.requests_running, first.requests_waiting) == (None, 3)
    assert first.request_latency is not None
    assert first.request_latency.sum == 2
    assert counted(idle.counters) == {"requests_finished": 0}


def test_failures_without_a_reason_are_errors() -> None:
    text = 'nv_inference_request_failure{model="bert",version="1"} 4\n'
    assert counted(read_one(text).counters) == {"requests_error": 4}


# --- hostile input -------------------------------------------------------------------------------

LINES = [
    line
    for name in ("backend-two-models", "core")
    for line in TEXTS[name].splitlines()
    if line.split("{")[0] in TRITON.wanted
]


@given(st.sets(st.integers(0, len(LINES) - 1), min_size=1), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(kept: set[int], order: random.Random) -> None:
    lines = [LINES[index] for index in sorted(kept)]
    expected = read("".join(f"{line}\n" for line in lines))
    order.shuffle(lines)
    assert read("".join(f"{line}\n" for line in lines)) == expected
    assert len({engine.rank for engine in expected}) == len(expected) > 0


NUMBERS = st.floats(-1e29, 1e29) | st.sampled_from([0.0, -1.0, 64.0])


@given(st.lists(st.tuples(st.sampled_from(LINES), NUMBERS, st.booleans()), min_size=1))
def test_any_values_and_missing_labels_are_readings(lines: list[tuple[str, float, bool]]) -> None:
    named = [
        (line.split("{")[0] if bare else line.rpartition(" ")[0], number) for line, number, bare in lines
    ]
    for engine in read("".join(f"{series} {number!r}\n" for series, number in dict(named).items())):
        assert all(value >= 0 for value in counted(engine.counters).values())
        assert engine.kv_used_ratio is None or 0 <= engine.kv_used_ratio <= 1
