"""vLLM's pages: recorded ones of 0.32.0, and what older and other ones make of them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.vllm import COUNTERS, VLLM
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading, ModelFacts
from agent.sources.page import parse_page
from tests.json_values import JSON

FIXTURES = Path(__file__).parent.parent / "fixtures" / "vllm"
TEXTS = {path.stem.removeprefix("0.32.0-"): path.read_text() for path in FIXTURES.glob("0.32.0-*.txt")}
PAGES = sorted(name for name, text in TEXTS.items() if "vllm" in text)
LOADS = ("load-1", "load-2", "load-3", "load-4")


def read(text: str) -> tuple[EngineReading, ...]:
    return VLLM.read(parse_page(text.encode(), VLLM.wanted), {})


def read_one(text: str) -> EngineReading:
    (engine,) = read(text)
    return engine


def increases(before: EngineCounters, after: EngineCounters) -> dict[str, float]:
    """By field, of the counters that both have."""
    return {
        name: getattr(after, name) - getattr(before, name)
        for name in COUNTER_NAMES
        if getattr(before, name) is not None and getattr(after, name) is not None
    }


# --- the plain page ------------------------------------------------------------------------------


def test_increases_are_those_of_the_recorded_pages() -> None:
    grown = increases(read_one(TEXTS["load-1"]).counters, read_one(TEXTS["load-4"]).counters)
    assert grown.pop("inter_token_seconds") == pytest.approx(98.4652, abs=1e-4)
    assert grown == {
        "generation_tokens": 24089 - 4778,
        "prefill_tokens": 58724 - 15740,
        "cached_prompt_tokens": 30464 - 8064,
        "steps": 1575 - 300,
        "first_tokens": 171,
        "inter_token_intervals": 19140,
        "preemptions": 0,
        "requests_stop": 0,
        "requests_length": 219 - 45,
        "requests_abort": 0,
        "requests_error": 0,
        "rejected_requests": 0,
        "estimated_flops_per_gpu": 6.98441457664e11 - 1.72192833536e11,
    }


@pytest.mark.parametrize(("before", "after"), list(pairwise(LOADS)))
def test_mean_decode_batch_agrees_with_the_requests_running(before: str, after: str) -> None:
    engines = read_one(TEXTS[before]), read_one(TEXTS[after])
    grown = increases(engines[0].counters, engines[1].counters)
    assert 13 <= grown["inter_token_intervals"] / grown["steps"] <= 16
    assert all(13 <= (engine.requests_running or 0) <= 16 for engine in engines)


def test_state_of_the_engine_is_read() -> None:
    engine = read_one(TEXTS["load-4"])
    assert (engine.engine, engine.rank, engine.model) == ("vllm", "0", "/models/tiny-llama")
    assert engine.start_time_seconds == 1795471637.56
    assert (engine.requests_running, engine.requests_waiting) == (13.0, 8.0)
    assert engine.kv_used_ratio == 0.0059821755585398595
    assert (engine.kv_capacity_tokens, engine.kv_block_tokens, engine.facts.kv_dtype) == (
        1048576,
        128,
        "auto",
    )
    assert engine.facts.max_num_seqs is None


def test_an_idle_engine_has_measured_zeros() -> None:
    engine = read_one(TEXTS["idle"])
    assert (engine.requests_running, engine.counters.generation_tokens, engine.counters.steps) == (0, 0, 0)
    assert engine.step_tokens is not None
    assert engine.step_tokens.count == 0


def with_steps(text: str) -> str:
    """The page, as if one API server had counted it alone."""
    return text if "process_start_time" in text else f"process_start_time_seconds 1\n{text}"


# The one page that was taken while one of its two processes was writing: the engine, and its missing tokens.
TORN = {("dp2-load-1", "1"): 6}


@pytest.mark.parametrize("name", PAGES)
def test_each_output_token_is_a_first_one_or_ends_an_interval(name: str) -> None:
    for engine in read(TEXTS[name]):
        counters = engine.counters
        assert counters.generation_tokens is not None
        assert counters.inter_token_intervals is not None
        assert counters.first_tokens is not None
        booked = counters.inter_token_intervals + counters.first_tokens
        assert counters.generation_tokens - booked == TORN.get((name, engine.rank), 0)


@pytest.mark.parametrize("name", PAGES)
def test_each_computed_token_is_in_a_step(name: str) -> None:
    for engine in read(with_steps(TEXTS[name])):
        counters, step_tokens = engine.counters, engine.step_tokens
        assert counters.generation_tokens is not None
        assert counters.prefill_tokens is not None
        assert step_tokens is not None
        computed = counters.prefill_tokens + counters.generation_tokens
        assert computed - step_tokens.sum == TORN.get((name, engine.rank), 0)
        assert step_tokens.count == counters.steps


@pytest.mark.parametrize("name", PAGES)
def test_histograms_agree_with_the_counters(name: str) -> None:
    for engine in read(TEXTS[name]):
        assert engine.inter_token_latency is not None
        assert engine.inter_token_latency.sum == engine.counters.inter_token_seconds
        assert engine.inter_token_latency.count == engine.counters.inter_token_intervals
        assert len(engine.inter_token_latency.bounds) == 20
        assert engine.time_to_first_token is not None
        assert engine.time_to_first_token.count == engine.counters.first_tokens
        assert engine.request_latency is not None
        assert engine.computed_prompt_lengths is not None
        assert engine.request_latency.count == engine.computed_prompt_lengths.count


# --- several engines, several API servers --------------------------------------------------------


def test_data_parallel_engines_are_read_apart() -> None:
    first, second = read(TEXTS["dp2-after"])
    assert (first.rank, second.rank) == ("0", "1")
    assert (first.counters.generation_tokens, second.counters.generation_tokens) == (3408, 2232)
    assert (first.model, second.model) == ("tiny-llama", "tiny-llama")


@pytest.mark.parametrize("newer", [True, False], ids=["with kv_cache_size_tokens", "before 0.24"])
def test_kv_capacity_is_of_one_data_parallel_engine(newer: bool) -> None:
    text = TEXTS["dp2-load-2"]
    assert text.count('num_gpu_blocks="16384"') == 2  # the sum over both, in each row
    text = text if newer else text.replace("kv_cache_size_tokens=", "other=")
    assert [engine.kv_capacity_tokens for engine in read(text)] == [8192 * 128, 8192 * 128]


@pytest.mark.parametrize("name", ["dp2-load-1", "dp2-load-2", "dp2-after", "api2-load-1", "api2-idle"])
def test_steps_counted_by_several_api_servers_are_unknown(name: str) -> None:
    for engine in read(TEXTS[name]):
        assert engine.start_time_seconds is None
        assert engine.counters.steps is None
        assert engine.step_tokens is None
        assert engine.counters.inter_token_intervals is not None


def test_several_api_servers_do_count_too_many_steps() -> None:
    """Why steps are left out: here the mean batch would be less than half of what ran."""
    before, after = (read(with_steps(TEXTS[name])) for name in ("dp2-load-1", "dp2-load-2"))
    for engine_before, engine_after in zip(before, after, strict=True):
        grown = increases(engine_before.counters, engine_after.counters)
        running = engine_after.requests_running
        assert running == 13
        assert grown["inter_token_intervals"] / grown["steps"] < 0.51 * running


def test_gauges_that_are_not_there_yet_are_unknown() -> None:
    engine = read_one(TEXTS["api2-idle"])
    assert (engine.requests_running, engine.requests_waiting, engine.kv_used_ratio) == (None, None, None)
    assert engine.counters.generation_tokens == 0


def test_ranks_come_in_the_order_of_their_numbers() -> None:
    lines = "".join(f'vllm:num_requests_running{{engine="{rank}"}} {rank}\n' for rank in (10, 9, 0, 2))
    assert [engine.rank for engine in read(lines)] == ["0", "2", "9", "10"]


def test_rejections_without_a_rank_are_given_to_the_lowest() -> None:
    text = re.sub(r"(vllm:admission_rejections_total.*) 0.0", r"\1 4", TEXTS["dp2-after"])
    assert [engine.counters.rejected_requests for engine in read(text)] == [8, None]


def test_lora_adapters_do_not_multiply_the_engine() -> None:
    engine = read_one(TEXTS["lora-load-1"])
    assert (engine.model, engine.requests_running, engine.requests_waiting) == ("tiny-llama", 16, 20)


# --- other spellings and versions ----------------------------------------------------------------


def test_openmetrics_gives_the_same_reading() -> None:
    text, openmetrics = TEXTS["after"], TEXTS["after.openmetrics"]
    assert "vllm_num_requests_running{" in openmetrics
    assert read(openmetrics) == read(text)


def renamed(text: str, names: dict[str, str]) -> str:
    for new, old in names.items():
        text, count = re.subn(rf"^vllm:{new}", f"vllm:{old}", text, flags=re.MULTILINE)
        assert count, new
    return text


def without(text: str, *names: str) -> str:
    return re.sub(rf"^vllm:(?:{'|'.join(names)}).*\n", "", text, flags=re.MULTILINE)


NAMES_OF_0_9 = {
    "inter_token_latency_seconds": "time_per_output_token_seconds",
    "kv_cache_usage_perc": "gpu_cache_usage_perc",
    "prefix_cache_hits_total": "gpu_prefix_cache_hits_total",
}
NEWER_THAN_0_9 = (
    "prompt_tokens_by_source",
    "prompt_tokens_cached",
    "estimated_",
    "admission_",
    "request_prefill_kv",
)


@pytest.mark.parametrize("name", ["load-2", "after"])
def test_a_page_with_the_names_of_0_9_gives_the_same_reading(name: str) -> None:
    old = renamed(without(TEXTS[name], *NEWER_THAN_0_9), NAMES_OF_0_9).replace("kv_cache_size_tokens=", "x=")
    now = read_one(TEXTS[name])
    assert read_one(old) == replace(
        now,
        computed_prompt_lengths=None,
        counters=replace(now.counters, estimated_flops_per_gpu=None, rejected_requests=None),
    )


def test_old_and_new_names_together_are_not_added() -> None:
    """0.10.2 and 0.11 show both."""
    new, old = "vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds"
    text = TEXTS["after"]
    lines = [line.replace(new, old) for line in text.splitlines() if line.startswith(new)]
    assert read("\n".join([*lines, text])) == read(text)


def test_a_page_without_the_label_engine_is_one_engine() -> None:
    text = re.sub(r'engine="0",?', "", TEXTS["load-3"])
    assert read(text) == read(TEXTS["load-3"])


@pytest.mark.parametrize(
    ("dropped", "prefill_tokens", "cached_tokens"),
    [
        pytest.param("nothing", 58724, 30464, id="0.16 and newer"),
        pytest.param("prompt_tokens_by_source", 58724, 30464, id="from prompt and cached tokens"),
        pytest.param("prompt_tokens_", None, 30464, id="no prompt tokens at all"),
        pytest.param("prompt_tokens_(by|cached)|prefix_cache", None, None, id="no cached tokens"),
    ],
)
def test_prefill_tokens_exclude_cached_ones_or_are_unknown(
    dropped: str, prefill_tokens: float | None, cached_tokens: float | None
) -> None:
    counters = read_one(without(TEXTS["load-4"], dropped)).counters
    assert (counters.prefill_tokens, counters.cached_prompt_tokens) == (prefill_tokens, cached_tokens)


def test_prefill_tokens_are_never_negative() -> None:
    text = 'vllm:prompt_tokens_total{engine="0"} 5\nvllm:prefix_cache_hits_total{engine="0"} 9\n'
    assert read_one(text).counters.prefill_tokens == 0


def test_flops_that_never_moved_are_unknown() -> None:
    assert read_one(TEXTS["idle"]).counters.estimated_flops_per_gpu is None


def test_speculative_decoding_is_counted() -> None:
    counts = {"drafts": 10, "draft_tokens": 40, "accepted_tokens": 25, "accepted_tokens_per_pos": 99}
    lines = "".join(f'vllm:spec_decode_num_{name}_total{{engine="0"}} {n}\n' for name, n in counts.items())
    counters = read_one(TEXTS["load-1"] + lines).counters
    assert (counters.drafts, counters.draft_tokens, counters.accepted_draft_tokens) == (10, 40, 25)


def test_requests_are_counted_by_how_they_ended() -> None:
    ends = {"stop": 1, "length": 2, "abort": 4, "error": 8, "repetition": 16, "unheard-of": 32}
    counters = read_one(
        "".join(
            f'vllm:request_success_total{{engine="0",finished_reason="{reason}"}} {n}\n'
            for reason, n in ends.items()
        )
    ).counters
    assert (counters.requests_stop, counters.requests_length) == (17, 2)
    assert (counters.requests_abort, counters.requests_error) == (4, 8)


@pytest.mark.parametrize("value", ["None", "", "many", "1.5"])
def test_cache_facts_that_are_no_numbers_are_unknown(value: str) -> None:
    text = re.sub(
        r'(kv_cache_size_tokens|num_gpu_blocks|block_size)="\d+"', rf'\1="{value}"', TEXTS["load-1"]
    )
    engine = read_one(text)
    assert (engine.kv_capacity_tokens, engine.kv_block_tokens) == (None, None)


def test_every_counter_of_the_table_is_on_a_recorded_page() -> None:
    engine = read_one(TEXTS["load-1"])
    speculative = {"drafts", "draft_tokens", "accepted_draft_tokens"}
    assert {field for field in COUNTERS if getattr(engine.counters, field) is None} == speculative


LINES = [line for line in TEXTS["dp2-load-1"].splitlines() if line.split("{")[0] in VLLM.wanted]


@given(st.sets(st.integers(0, len(LINES) - 1), min_size=1))
def test_any_part_of_a_page_is_a_reading(kept: set[int]) -> None:
    engines = read("".join(f"{LINES[index]}\n" for index in sorted(kept)))
    assert len(engines) in {1, 2}
    assert len({engine.rank for engine in engines}) == len(engines)


# --- the documents beside the page ---------------------------------------------------------------

DOCUMENTS = {
    name: json.loads((FIXTURES / f"0.32.0-{file}.json").read_text())
    for name, file in {"models": "v1-models", "version": "version", "load": "load"}.items()
}


def read_with(**documents: object) -> tuple[EngineReading, ...]:
    return VLLM.read(parse_page(TEXTS["dp2-load-1"].encode(), VLLM.wanted), documents)


def test_the_servers_own_interface_says_what_the_page_does_not() -> None:
    for engine in read_with(**DOCUMENTS):
        assert engine.version == "0.32.0"
        assert engine.facts == ModelFacts(
            path="/models/tiny-llama",
            served_names=("/models/tiny-llama",),
            kv_dtype="auto",
            max_model_len=4096,
        )


def test_adapters_are_not_the_model() -> None:
    lora = json.loads((FIXTURES / "0.32.0-lora-v1-models.json").read_text())
    assert read_with(models=lora)[0].facts == ModelFacts(
        path="/models/tiny-llama", served_names=("tiny-llama",), kv_dtype="auto", max_model_len=4096
    )


def test_requests_in_flight_are_the_servers_and_counted_once() -> None:
    assert [engine.requests_in_flight for engine in read_with(load={"server_load": 3})] == [3, None]
    assert [engine.requests_in_flight for engine in read_with(load={"server_load": 0})] == [None, None]


def test_only_a_page_without_running_requests_leaves_a_question() -> None:
    (load,) = [document for document in VLLM.documents if document.live]
    assert load.when is not None
    assert load.when(parse_page(TEXTS["idle"].encode(), VLLM.wanted))
    assert not load.when(parse_page(TEXTS["load-1"].encode(), VLLM.wanted))


ROWS = st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "root", "parent", "max_model_len"), JSON))


@given(
    models=JSON | st.fixed_dictionaries({"data": st.lists(ROWS | JSON, max_size=3)}),
    version=JSON | st.fixed_dictionaries({"version": JSON}),
    load=JSON | st.fixed_dictionaries({"server_load": JSON}),
)
def test_documents_of_any_shape_cost_at_most_what_they_would_have_told(
    models: object, version: object, load: object
) -> None:
    plain, told = read(TEXTS["dp2-load-1"]), read_with(models=models, version=version, load=load)
    assert [engine.counters for engine in told] == [engine.counters for engine in plain]
    for engine in told:
        assert engine.version is None or isinstance(engine.version, str)
        assert all(isinstance(name, str) for name in engine.facts.served_names)
