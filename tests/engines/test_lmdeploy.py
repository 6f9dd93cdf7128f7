"""LMDeploy's pages: one rendered by the code of 0.18.0, and what older ones make of it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.lmdeploy import LMDEPLOY
from agent.readings import COUNTER_NAMES, EngineReading, ModelFacts
from agent.sources.page import parse_page

TEXT = (Path(__file__).parent.parent / "fixtures/lmdeploy/lmdeploy-rendered-0.18.0.txt").read_text()
LABELS = '{engine="0",model_name="Qwen/Qwen3-8B"}'
MODELS = {"object": "list", "data": [{"id": "Qwen/Qwen3-8B", "root": "Qwen/Qwen3-8B", "permission": []}]}


def read(text: str, **documents: object) -> tuple[EngineReading, ...]:
    return LMDEPLOY.read(parse_page(text.encode(), LMDEPLOY.wanted), documents)


def read_one(text: str, **documents: object) -> EngineReading:
    (engine,) = read(text, **documents)
    return engine


def test_the_page_of_its_own_code_is_read_exactly() -> None:
    engine = read_one(TEXT)
    assert (engine.engine, engine.rank, engine.model) == ("lmdeploy", "0", "Qwen/Qwen3-8B")
    assert (engine.requests_running, engine.requests_waiting, engine.kv_used_ratio) == (8, 2, 0.21)
    assert engine.start_time_seconds == 1.79547473578e9
    assert engine.gauge_age_seconds == 10
    counted = {n: v for n in COUNTER_NAMES if (v := getattr(engine.counters, n)) is not None}
    assert counted.pop("inter_token_seconds") == pytest.approx(3.36)
    assert counted == {
        "generation_tokens": 168,
        "prefill_tokens": 4000,
        "cached_prompt_tokens": 0,
        "first_tokens": 8,
        "inter_token_intervals": 160,
        "requests_finished": 0,
        "requests_error": 0,
        "drafts": 0,
        "draft_tokens": 0,
        "accepted_draft_tokens": 0,
    }
    assert engine.time_to_first_token is not None
    assert engine.time_to_first_token.count == 8
    assert engine.inter_token_latency is not None
    assert engine.inter_token_latency.count == 160


def test_outputs_are_not_taken_for_steps() -> None:
    assert "iteration_tokens_total_count" in TEXT
    assert read_one(TEXT).counters.steps is None


def test_what_was_cached_is_no_prefill() -> None:
    cached = TEXT.replace(
        'cached_tokens_total{engine="0",model_name="Qwen/Qwen3-8B"} 0.0',
        'cached_tokens_total{engine="0"} 900',
    )
    counters = read_one(cached).counters
    assert (counters.prefill_tokens, counters.cached_prompt_tokens) == (3100, 900)


@pytest.mark.parametrize(("rate", "expected"), [("0.3", None), ("0.0", 4000.0)])
def test_before_0_14_only_that_nothing_was_cached_can_be_known(rate: str, expected: float | None) -> None:
    old = "\n".join(line for line in TEXT.splitlines() if "cached_tokens_total" not in line) + "\n"
    old = old.replace(f"prefix_cache_hit_rate{LABELS} 0.3", f"prefix_cache_hit_rate{LABELS} {rate}")
    assert read_one(old).counters.prefill_tokens == expected


def test_only_what_ended_well_is_finished() -> None:
    ended = TEXT.replace('FINISH",model_name="Qwen/Qwen3-8B"} 0.0', 'FINISH",model_name="Qwen/Qwen3-8B"} 7')
    ended = ended.replace('CANCEL",model_name="Qwen/Qwen3-8B"} 0.0', 'CANCEL",model_name="Qwen/Qwen3-8B"} 5')
    assert read_one(ended).counters.requests_finished == 7


def test_ranks_are_apart_and_in_order() -> None:
    both = TEXT + "".join(
        line.replace('engine="0"', 'engine="10"') + "\n" + line.replace('engine="0"', 'engine="2"') + "\n"
        for line in TEXT.splitlines()
        if 'engine="0"' in line
    )
    assert [engine.rank for engine in read(both)] == ["0", "2", "10"]
    assert {engine.counters.generation_tokens for engine in read(both)} == {168}


def test_the_model_is_told_by_its_own_interface() -> None:
    assert read_one(TEXT, models=MODELS).facts == ModelFacts(
        path="Qwen/Qwen3-8B", served_names=("Qwen/Qwen3-8B",)
    )


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=9,
)


@given(models=JSON | st.fixed_dictionaries({"data": JSON}), seed=st.integers(), kept=st.floats(0, 1))
def test_whatever_is_missing_or_odd_nothing_is_raised(models: object, seed: int, kept: float) -> None:
    shuffle = random.Random(seed)
    lines = [line for line in TEXT.splitlines(keepends=True) if shuffle.random() < kept]
    shuffle.shuffle(lines)
    page = parse_page(("x 1\n" + "".join(lines)).encode(), {*LMDEPLOY.wanted, "x"})
    for engine in LMDEPLOY.read(page, {"models": models}):
        assert all((value := getattr(engine.counters, name)) is None or value >= 0 for name in COUNTER_NAMES)
