"""LMDeploy's page: one that the code of 0.18.0 wrote, and what other versions make of it."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.lmdeploy import LMDEPLOY
from agent.engines.registry import ENGINES
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading, ModelFacts
from agent.sources.page import parse_page
from tests.json_values import JSON

TEXT = (Path(__file__).parent.parent / "fixtures" / "lmdeploy" / "lmdeploy-rendered-0.18.0.txt").read_text()
MODEL = 'engine="0",model_name="Qwen/Qwen3-8B"'


def read(text: str, **documents: object) -> tuple[EngineReading, ...]:
    return LMDEPLOY.read(parse_page(text.encode(), LMDEPLOY.wanted), documents)


def read_one(text: str, **documents: object) -> EngineReading:
    (engine,) = read(text, **documents)
    return engine


def with_value(text: str, name: str, value: object) -> str:
    text, count = re.subn(rf"(?m)^(lmdeploy:{name}(?:\{{.*\}})?) .*$", rf"\1 {value}", text)
    assert count == 1
    return text


def without(text: str, *names: str) -> str:
    text, count = re.subn(rf"(?m)^lmdeploy:(?:{'|'.join(names)}).*\n", "", text)
    assert count > 0
    return text


# --- the page ------------------------------------------------------------------------------------


def test_a_page_is_read_to_the_digit() -> None:
    assert read_one(TEXT).counters == EngineCounters(
        generation_tokens=168,
        prefill_tokens=4000,
        cached_prompt_tokens=0,
        first_tokens=8,
        inter_token_seconds=3.35999999999999,
        inter_token_intervals=160,
        requests_finished=0,
        drafts=0,
        draft_tokens=0,
        accepted_draft_tokens=0,
    )


def test_state_of_the_engine_is_read() -> None:
    engine = read_one(TEXT)
    assert (engine.engine, engine.rank, engine.model) == ("lmdeploy", "0", "Qwen/Qwen3-8B")
    assert engine.start_time_seconds == 1795474735.78
    assert (engine.requests_running, engine.kv_used_ratio) == (8, 0.21)
    assert (engine.kv_capacity_tokens, engine.version, engine.facts.max_num_seqs) == (None, None, None)
    assert engine.gauge_age_seconds == 10


def test_requests_wait_in_the_engine_and_in_the_server_before_it() -> None:
    text = with_value(TEXT, "num_requests_waiting", 3)
    assert read_one(text).requests_waiting == 5
    assert read_one(without(text, "num_api_requests_waiting")).requests_waiting == 3
    assert read_one(without(text, "num_(?:api_)?requests_waiting")).requests_waiting is None


def test_outputs_are_not_taken_for_steps() -> None:
    """8 requests made 21 steps together; the page has 168 of them."""
    assert f"lmdeploy:iteration_tokens_total_count{{{MODEL}}} 168.0" in TEXT
    engine = read_one(TEXT)
    assert (engine.counters.steps, engine.counters.decode_steps, engine.step_tokens) == (None, None, None)


def test_histograms_agree_with_the_counters() -> None:
    engine = read_one(TEXT)
    assert engine.time_to_first_token is not None
    assert engine.time_to_first_token.count == engine.counters.first_tokens
    assert engine.inter_token_latency is not None
    assert engine.inter_token_latency.sum == engine.counters.inter_token_seconds
    assert engine.inter_token_latency.count == engine.counters.inter_token_intervals
    assert engine.request_latency is not None
    assert engine.request_latency.count == 0


def test_each_output_token_is_a_first_one_or_ends_an_interval() -> None:
    counters = read_one(TEXT).counters
    assert counters.first_tokens is not None
    assert counters.inter_token_intervals is not None
    assert counters.generation_tokens == counters.first_tokens + counters.inter_token_intervals


def test_speculative_decoding_is_counted() -> None:
    text = with_value(TEXT, "spec_decode_num_drafts_total", 10)
    text = with_value(text, "spec_decode_num_draft_tokens_total", 40)
    text = with_value(text, "spec_decode_num_accepted_tokens_total", 25)
    text += f'lmdeploy:spec_decode_num_accepted_tokens_per_pos_total{{{MODEL},position="0"}} 9\n'
    counters = read_one(text).counters
    assert (counters.drafts, counters.draft_tokens, counters.accepted_draft_tokens) == (10, 40, 25)


def test_requests_that_finished_are_those_of_the_one_reason_that_is_counted() -> None:
    ends = {"FINISH": 7, "CANCEL": 9, "SUCCESS": 11}
    text = without(TEXT, "request_success_total") + "".join(
        f'lmdeploy:request_success_total{{{MODEL},finished_reason="ResponseType.{reason}"}} {number}\n'
        for reason, number in ends.items()
    )
    assert read_one(text).counters.requests_finished == 7


def test_failed_requests_are_not_errors_since_cancelled_ones_are_among_them() -> None:
    counters = read_one(with_value(TEXT, "num_requests_failed", 5)).counters
    assert (counters.requests_error, counters.requests_abort) == (None, None)


# --- the prefix cache ----------------------------------------------------------------------------


def test_cached_prompt_tokens_were_not_computed() -> None:
    counters = read_one(with_value(TEXT, "cached_tokens_total", 1500)).counters
    assert (counters.prefill_tokens, counters.cached_prompt_tokens) == (2500, 1500)
    assert "prefill_tokens" in LMDEPLOY.derived


def test_prefill_tokens_are_never_negative() -> None:
    assert read_one(with_value(TEXT, "cached_tokens_total", 1e9)).counters.prefill_tokens == 0


@pytest.mark.parametrize(
    ("hit_rate", "prefill_tokens"),
    [
        pytest.param("0.0", 4000, id="a cache that nothing hits is as good as none"),
        pytest.param("0.3", None, id="hits that nobody counted cannot be taken away"),
        pytest.param(None, 4000, id="no word of a cache"),
    ],
)
def test_before_0_14_prompts_are_computed_whole_unless_the_cache_is_in_use(
    hit_rate: str | None, prefill_tokens: float | None
) -> None:
    old = without(TEXT, "cached_tokens_total")
    name = "prefix_cache_hit_rate"
    old = without(old, name) if hit_rate is None else with_value(old, name, hit_rate)
    counters = read_one(old).counters
    assert (counters.prefill_tokens, counters.cached_prompt_tokens) == (prefill_tokens, None)


# --- other versions, several ranks ---------------------------------------------------------------

NEWER_THAN_0_12 = (
    "num_requests_succeeded",
    "num_requests_failed",
    "num_api_requests_",
    "prefix_cache_hit_rate",
    "request_success_total",
    "request_cache",
    "cached_tokens_total",
    "spec_decode_",
)


def test_a_page_with_the_names_of_0_12_gives_the_same_reading() -> None:
    old = without(TEXT, *NEWER_THAN_0_12)
    old += f"lmdeploy:num_requests_finished{{{MODEL}}} 10\nlmdeploy:num_requests_unfinished{{{MODEL}}} 10\n"
    now = read_one(TEXT)
    assert read_one(old) == replace(
        now,
        requests_waiting=0,
        counters=replace(
            now.counters,
            cached_prompt_tokens=None,
            drafts=None,
            draft_tokens=None,
            accepted_draft_tokens=None,
        ),
    )


def test_where_finished_requests_are_not_counted_those_with_a_latency_are() -> None:
    text = with_value(without(TEXT, "request_success_total"), "e2e_request_latency_seconds_count", 6)
    assert read_one(text).counters.requests_finished == 6


def test_the_oldest_pages_have_the_time_of_an_output_token_alone() -> None:
    assert read_one(without(TEXT, "iter_token_latency")) == read_one(TEXT)


def test_the_two_times_of_a_token_are_not_added() -> None:
    text = with_value(TEXT, "time_per_output_token_seconds_count", 320)
    assert read_one(text).counters.inter_token_intervals == 160


RANKS = "".join(
    f'lmdeploy:{name}{{engine="{rank}",model_name="m"}} {rank}\n'
    for rank in (10, 2, 0)
    for name in ("num_requests_running", "generation_tokens_total")
)


def test_ranks_are_read_apart_and_in_the_order_of_their_numbers() -> None:
    engines = read(f"process_start_time_seconds 7\n{RANKS}")
    assert [engine.rank for engine in engines] == ["0", "2", "10"]
    assert [engine.requests_running for engine in engines] == [0, 2, 10]
    assert {(engine.start_time_seconds, engine.model) for engine in engines} == {(7, "m")}


def test_a_page_without_the_label_engine_is_one_engine() -> None:
    assert read(TEXT.replace('engine="0",', "")) == read(TEXT)


def test_a_page_before_the_first_request_is_known() -> None:
    page = parse_page(TEXT.encode(), LMDEPLOY.fingerprint)
    assert page.families.keys() == LMDEPLOY.fingerprint


def test_no_other_engine_takes_the_page_for_its_own() -> None:
    wanted = frozenset[str]().union(*(engine.wanted for engine in ENGINES))
    page = parse_page(TEXT.encode(), wanted)
    knowing = [engine for engine in ENGINES if not engine.fingerprint.isdisjoint(page.families)]
    assert knowing == [LMDEPLOY]


# --- the document beside the page ----------------------------------------------------------------

MODELS = {
    "object": "list",
    "data": [
        {"id": "Qwen/Qwen3-8B", "object": "model", "owned_by": "lmdeploy", "root": "Qwen/Qwen3-8B"},
        {"id": "adapter", "object": "model", "owned_by": "lmdeploy", "root": "adapter", "parent": None},
    ],
}


def test_the_server_tells_the_names_it_serves_under() -> None:
    engine = read_one(TEXT, models=MODELS)
    assert engine.facts == ModelFacts(served_names=("Qwen/Qwen3-8B", "adapter"))
    assert engine.model == "Qwen/Qwen3-8B"


def test_a_page_without_the_name_of_its_model_has_that_of_the_server() -> None:
    text = re.sub(r',?model_name="[^"]*"', "", TEXT)
    assert (read_one(text).model, read_one(text, models=MODELS).model) == ("", "Qwen/Qwen3-8B")


def test_nothing_else_of_the_document_gets_into_a_reading() -> None:
    secret = "sk-abcdefghijklmnop"
    models = {**MODELS, "api_key": secret, "data": [{**MODELS["data"][0], "permission": [secret]}]}  # type: ignore[dict-item]
    assert secret not in repr(read(TEXT, models=models))


# --- hostile input -------------------------------------------------------------------------------

LINES = [line for line in TEXT.splitlines() if re.split("[{ ]", line)[0] in LMDEPLOY.wanted]


@given(st.lists(st.sampled_from(LINES), min_size=1, unique=True), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(kept: list[str], order: random.Random) -> None:
    order.shuffle(kept)
    engine, whole = read_one("".join(f"{line}\n" for line in kept)), read_one(TEXT)
    for name in COUNTER_NAMES:
        assert getattr(engine.counters, name) in (None, getattr(whole.counters, name))


@given(st.randoms(use_true_random=False))
def test_the_order_of_lines_says_nothing(order: random.Random) -> None:
    lines = list(LINES)
    order.shuffle(lines)
    assert read("".join(f"{line}\n" for line in lines)) == read(TEXT)


def spoilt(line: str, how: str) -> str:
    match how:
        case "no labels":
            return re.sub(r"\{.*\}", "", line)
        case "another rank":
            return line.replace('engine="0"', 'engine="x"')
        case "twice":
            return f"{line}\n{line}"
        case _:
            return line


HOWS = st.sampled_from(["no labels", "another rank", "twice", "as it is"])


@given(st.lists(HOWS, min_size=len(LINES), max_size=len(LINES)))
def test_labels_that_are_missing_or_wrong_still_give_readings(hows: list[str]) -> None:
    engines = read("".join(f"{spoilt(line, how)}\n" for line, how in zip(LINES, hows, strict=True)))
    assert engines
    assert {engine.rank for engine in engines} <= {"0", "x"}
    for counters in (engine.counters for engine in engines):
        assert all((value := getattr(counters, name)) is None or value >= 0 for name in COUNTER_NAMES)


ROWS = st.fixed_dictionaries({}, optional=dict.fromkeys(("id", "root", "parent"), JSON))


@given(models=JSON | st.fixed_dictionaries({"data": JSON | st.lists(ROWS | JSON, max_size=3)}))
def test_documents_of_any_shape_cost_at_most_what_they_would_have_told(models: object) -> None:
    engine = read_one(TEXT, models=models)
    assert replace(engine, facts=ModelFacts()) == read_one(TEXT)
    assert all(isinstance(name, str) and name for name in engine.facts.served_names)
