"""TensorRT-LLM's pages, written by hand from its sources: old and new ones, and what misleads on them."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.trtllm import TRTLLM
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading, ModelFacts
from agent.sources.page import parse_page
from tests.json_values import JSON

FIXTURES = Path(__file__).parent.parent / "fixtures" / "trtllm"
TEXTS = {path.stem.removeprefix("constructed-"): path.read_text() for path in FIXTURES.glob("*.txt")}
LOAD = TEXTS["2026-load-1"]
BEFORE = TEXTS["2026-before-the-first-request"]


def read(text: str, **documents: object) -> EngineReading:
    (engine,) = TRTLLM.read(parse_page(text.encode(), TRTLLM.wanted), documents)
    return engine


def counted(counters: EngineCounters) -> dict[str, float]:
    return {name: value for name in COUNTER_NAMES if (value := getattr(counters, name)) is not None}


def without(text: str, *names: str) -> str:
    return re.sub(rf"^trtllm_(?:{'|'.join(names)}).*\n", "", text, flags=re.MULTILINE)


# --- the plain page ------------------------------------------------------------------------------


def test_counters_are_those_of_the_page() -> None:
    assert counted(read(LOAD).counters) == {
        "generation_tokens": 120_000,
        "prefill_tokens": 600_000,  # 800,000 less the cached ones
        "cached_prompt_tokens": 200_000,
        "first_tokens": 400,
        "inter_token_seconds": 2631.2,
        "inter_token_intervals": 119_600,
        "requests_stop": 300,
        "requests_length": 100,
        "requests_abort": 0,
        "requests_error": 4,
    }


def test_the_mean_time_between_tokens_is_that_of_the_steps() -> None:
    before, after = counted(read(LOAD).counters), counted(read(TEXTS["2026-load-2"]).counters)
    grown = {name: after[name] - before[name] for name in before}
    seconds = grown["inter_token_seconds"] / grown["inter_token_intervals"]
    assert seconds == pytest.approx(0.0228, abs=1e-4)
    assert seconds == pytest.approx(read(LOAD).last_step_seconds, rel=0.1)


def test_state_of_the_engine_is_read() -> None:
    engine = read(LOAD)
    assert (engine.engine, engine.rank, engine.model) == ("trtllm", "0", "llama-70b")
    assert (engine.requests_running, engine.requests_waiting) == (44, 0)
    assert engine.last_step_seconds == 0.0215
    assert engine.tokens_at_end
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens, engine.kv_block_tokens) == (0.25, 640_000, 32)
    assert (engine.facts.kv_dtype, engine.facts.max_num_seqs, engine.role) == ("fp8", 64, None)


def test_the_model_is_as_the_page_words_it() -> None:
    assert read(LOAD).facts == ModelFacts(
        path="nvidia/Llama-3.1-70B-Instruct-FP8",
        served_names=("llama-70b",),
        weight_dtype="FP8",
        kv_dtype="fp8",
        tensor_parallel=4,
        pipeline_parallel=2,
        expert_parallel=1,
        max_num_seqs=64,
        max_model_len=131_072,
    )


def test_histograms_are_the_engines_own() -> None:
    engine = read(LOAD)
    assert engine.time_to_first_token is not None
    assert engine.inter_token_latency is not None
    assert engine.request_latency is not None
    assert engine.time_to_first_token.cumulative == (100, 380, 400, 400)
    assert (engine.inter_token_latency.count, engine.inter_token_latency.sum) == (400, 8.8)
    assert engine.request_latency.sum == 2720.5


def test_its_json_is_never_asked_for() -> None:
    """`/metrics` empties a queue that others read."""
    assert TRTLLM.page_paths == ("/prometheus/metrics",)
    assert {document.path for document in TRTLLM.documents} == {"/v1/models", "/version"}


# --- what is there at which time -----------------------------------------------------------------


def test_before_the_first_request_nothing_was_counted_yet() -> None:
    engine = read(BEFORE)
    assert set(counted(engine.counters).values()) == {0}
    assert {"generation_tokens", "prefill_tokens", "first_tokens"} < set(counted(engine.counters))
    assert (engine.requests_running, engine.last_step_seconds, engine.kv_used_ratio) == (None, None, None)
    assert engine.facts.tensor_parallel == 4


def test_the_first_hit_in_the_cache_begins_its_counter() -> None:
    text = without(LOAD, "prompt_cached_tokens_total")
    text = re.sub(r"(trtllm_prompt_cached_tokens_per_request_sum.*) .*", r"\1 0.0", text)
    counters = read(text).counters
    assert (counters.cached_prompt_tokens, counters.prefill_tokens) == (0, 800_000)


def test_a_page_of_1_1_has_requests_and_latencies_only() -> None:
    engine = read(TEXTS["1.1"])
    assert counted(engine.counters) == {
        "first_tokens": 8,
        "requests_length": 8,
        "requests_stop": 0,
        "requests_abort": 0,
    }
    assert engine.model == ""
    assert engine.time_to_first_token is not None
    assert engine.facts == ModelFacts()


def test_without_its_own_counter_what_was_cached_is_unknown() -> None:
    counters = read(without(LOAD, "prompt_cached", ".*_config_info")).counters
    assert (counters.cached_prompt_tokens, counters.prefill_tokens) == (None, None)


@pytest.mark.parametrize(
    ("dropped", "running"),
    [
        pytest.param("nothing", 44, id="the decode batch"),
        pytest.param("num_generation_requests", 2, id="a step that only prefills"),
        pytest.param("num_(generation|context)_requests", 50, id="older: all that are active"),
        pytest.param("num_(generation|context|requests).*", None, id="without iteration statistics"),
    ],
)
def test_running_is_the_batch_of_the_last_step(dropped: str, running: float | None) -> None:
    assert read(without(LOAD, dropped)).requests_running == running


def test_a_decode_batch_of_none_leaves_those_that_prefill() -> None:
    text = re.sub(r"(num_generation_requests.*) 44.0", r"\1 0.0", LOAD)
    assert read(text).requests_running == 2
    assert read(re.sub(r"(num_context_requests.*) 2.0", r"\1 0.0", text)).requests_running == 0


def test_kv_use_is_taken_from_the_blocks_where_it_is_not_said() -> None:
    assert read(without(LOAD, "kv_cache_utilization")).kv_used_ratio == 0.25
    assert read(without(LOAD, "kv_cache_utilization", "kv_cache_max_blocks")).kv_used_ratio is None
    assert read(without(LOAD, "kv_cache_tokens_per_block")).kv_block_tokens == 32  # as configured


# --- labels --------------------------------------------------------------------------------------


def test_what_a_dead_process_left_is_not_added() -> None:
    left = [line for line in LOAD.splitlines() if 'pid="412"' in line]
    dead = "\n".join(line.replace('pid="412"', 'pid="99"') for line in left)
    assert read(f"{dead}\n{LOAD}") == read(LOAD)


def test_a_page_without_pids_says_the_same() -> None:
    assert read(LOAD.replace(',pid="412"', "")) == read(LOAD)


def test_negative_values_are_no_values() -> None:
    engine = read(re.sub(r"(kv_cache_utilization|num_requests_waiting)(.*) [\d.]+", r"\1\2 -1", LOAD))
    assert engine.requests_waiting is None
    assert engine.kv_used_ratio == 0.25  # from the blocks


@pytest.mark.parametrize("word", ["None", "none", "undefined", ""])
def test_weights_that_are_not_quantized_have_their_dtype(word: str) -> None:
    assert read(LOAD.replace('quantization="FP8"', f'quantization="{word}"')).facts.weight_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("engine_type", "role"),
    [("undefined", None), ("trtllm", None), ("context", "prefill"), ("generation", "decode")],
)
def test_the_role_is_what_the_engine_says(engine_type: str, role: str | None) -> None:
    assert read(LOAD.replace('engine_type="undefined"', f'engine_type="{engine_type}"')).role == role


@pytest.mark.parametrize("number", ["None", "many", "-4", "0", "9" * 40, "٤x"])
def test_facts_that_are_no_numbers_are_unknown(number: str) -> None:
    text = re.sub(r'(tensor_parallel_size|max_model_len)="\d+"', rf'\1="{number}"', LOAD)
    assert (read(text).facts.tensor_parallel, read(text).facts.max_model_len) == (None, None)


def test_with_speculation_tokens_are_no_intervals() -> None:
    """A step then gives a sequence several."""
    assert (
        read(LOAD.replace('spec_enabled="False"', 'spec_enabled="True"')).counters.inter_token_intervals
        is None
    )
    drafts = (
        "trtllm_spec_decode_num_draft_tokens_total 900\ntrtllm_spec_decode_num_accepted_tokens_total 600\n"
    )
    counters = read(LOAD + drafts).counters
    assert (counters.draft_tokens, counters.accepted_draft_tokens) == (900, 600)
    assert counters.inter_token_intervals is None


@pytest.mark.parametrize(
    ("ends", "field"), [("cancelled", "requests_abort"), ("timeout", "requests_abort"), ("new", None)]
)
def test_requests_are_counted_by_how_they_ended(ends: str, field: str | None) -> None:
    line = f'trtllm_request_success_total{{finished_reason="{ends}"}} 9\n'
    before, after = counted(read(LOAD).counters), counted(read(LOAD + line).counters)
    assert {name for name in before if before[name] != after[name]} == ({field} if field else set())


# --- hostile input -------------------------------------------------------------------------------

LINES = [line for line in LOAD.splitlines() if line.split("{")[0] in TRTLLM.wanted]


@given(st.sets(st.integers(0, len(LINES) - 1), min_size=1), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(kept: set[int], order: random.Random) -> None:
    lines = [LINES[index] for index in sorted(kept)]
    expected = read("".join(f"{line}\n" for line in lines))
    order.shuffle(lines)
    assert read("".join(f"{line}\n" for line in lines)) == expected
    assert all(value >= 0 for value in counted(expected.counters).values())


NUMBERS = st.floats(-1e29, 1e29) | st.sampled_from([0.0, -1.0])


@given(st.lists(st.tuples(st.sampled_from(LINES), NUMBERS, st.booleans()), min_size=1))
def test_any_values_and_missing_labels_are_a_reading(lines: list[tuple[str, float, bool]]) -> None:
    named = [(re.split(r"[{ ]", line)[0] if bare else line.rpartition(" ")[0], n) for line, n, bare in lines]
    counters = read("".join(f"{series} {number!r}\n" for series, number in dict(named).items())).counters
    assert all(value >= 0 for value in counted(counters).values())


@given(
    models=JSON | st.fixed_dictionaries({"data": st.lists(st.fixed_dictionaries({"id": JSON}) | JSON)}),
    version=JSON | st.fixed_dictionaries({"version": JSON}),
)
def test_documents_of_any_shape_cost_at_most_what_they_would_have_told(
    models: object, version: object
) -> None:
    told, plain = read(LOAD, models=models, version=version), read(LOAD)
    assert replace(told, version=None) == plain  # the page names the model itself
    assert told.version is None or isinstance(told.version, str)


def test_documents_say_what_the_page_does_not() -> None:
    models = {
        "data": [{"id": "llama-70b", "owned_by": "tensorrt_llm", "token": "hf_secret"}],
        "key": "hf_secret",
    }
    engine = read(TEXTS["1.1"], models=models, version={"version": "1.1.0", "api_key": "hf_secret"})
    assert (engine.model, engine.version, engine.facts.served_names) == ("llama-70b", "1.1.0", ("llama-70b",))
    assert "hf_secret" not in repr(engine)
