"""llama.cpp's pages: recorded ones of b11434, and what older and other ones make of them."""

from __future__ import annotations

import json
import random
import re
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.llamacpp import COUNTERS, LLAMACPP
from agent.readings import COUNTER_NAMES, EngineReading, ModelFacts
from agent.sources.page import parse_page
from tests.json_values import JSON

FIXTURES = Path(__file__).parent.parent / "fixtures" / "llamacpp"
TEXTS = {
    path.stem.removeprefix("b11434-"): path.read_text()
    for path in FIXTURES.glob("b11434-*.txt")
    if "llamacpp:" in path.read_text()
}
JSONS = {
    path.stem.removeprefix("b11434-"): json.loads(path.read_text()) for path in FIXTURES.glob("b11434-*.json")
}
DOCUMENTS = {"props": JSONS["props"], "models": JSONS["v1-models"], "slots": JSONS["slots-load"]}
ONE_SLOT = {
    **DOCUMENTS,
    "props": {**JSONS["props"], "total_slots": 1},
    "slots": JSONS["slots-load"][:1],
}
LOADS = tuple(f"load-{n}" for n in range(1, 9))
BEGINNING_TO_END = ("idle", *LOADS, "after", "rounded-1", "rounded-2")


def read(text: str, documents: dict[str, object] | None = None) -> EngineReading:
    (engine,) = LLAMACPP.read(parse_page(text.encode(), LLAMACPP.wanted), documents or {})
    return engine


def with_value(text: str, name: str, value: object) -> str:
    text, count = re.subn(rf"(?m)^llamacpp:{name} .*$", f"llamacpp:{name} {value}", text)
    assert count == 1
    return text


# --- the page ------------------------------------------------------------------------------------


def test_a_page_is_read_to_the_digit() -> None:
    engine = read(TEXTS["load-3"])
    assert {name: getattr(engine.counters, name) for name in COUNTER_NAMES} == {
        **dict.fromkeys(COUNTER_NAMES),
        "generation_tokens": 200,
        "prefill_tokens": 729,
        "cached_prompt_tokens": 81,
        "steps": 201,
        "sequence_steps": 804,
        "prefill_step_seconds": 0.569032,
        "drafts": 0,
        "draft_tokens": 0,
        "accepted_draft_tokens": 0,
    }
    assert (engine.requests_running, engine.requests_waiting) == (4, 3)
    assert (engine.engine, engine.rank, engine.model) == ("llamacpp", "0", "")
    assert engine.tokens_at_end


def test_an_idle_server_has_measured_zeros() -> None:
    engine = read(TEXTS["idle"])
    counted = {name for name in COUNTER_NAMES if getattr(engine.counters, name) is not None}
    assert counted == {*COUNTERS, "sequence_steps"}
    assert {getattr(engine.counters, name) for name in counted} == {0}
    assert (engine.requests_running, engine.requests_waiting) == (0, 0)


@pytest.mark.parametrize(("before", "after"), list(pairwise(LOADS)))
def test_the_batch_is_that_of_the_busy_slots_while_no_token_is_booked(before: str, after: str) -> None:
    first, second = read(TEXTS[before]).counters, read(TEXTS[after]).counters
    assert first.sequence_steps is not None
    assert second.sequence_steps is not None
    assert first.steps is not None
    assert second.steps is not None
    assert (second.sequence_steps - first.sequence_steps) / (second.steps - first.steps) == 4


@pytest.mark.parametrize("name", ["idle", "after", "rounded-1", "rounded-2"])
def test_once_all_slots_are_free_the_live_count_is_that_of_the_tokens(name: str) -> None:
    counters = read(TEXTS[name]).counters
    assert counters.sequence_steps == counters.generation_tokens


@pytest.mark.parametrize(("before", "after"), list(pairwise(BEGINNING_TO_END)))
def test_no_counter_falls_over_the_recorded_pages(before: str, after: str) -> None:
    first, second = read(TEXTS[before]).counters, read(TEXTS[after]).counters
    for name in COUNTER_NAMES:
        old, new = getattr(first, name), getattr(second, name)
        assert (old is None) == (new is None)
        assert old is None or old <= new, name


@given(
    steps=st.integers(1, 999_999),
    busy=st.floats(1, 64, exclude_min=True),
    later=st.integers(0, 10_000),
)
def test_the_live_count_is_as_good_as_six_digits_let_it_be(steps: int, busy: float, later: int) -> None:
    total = round(steps * busy)
    text = with_value(TEXTS["idle"], "n_decode_total", f"{steps:g}")
    read_total = read(
        with_value(text, "n_busy_slots_per_decode", f"{total / steps:g}")
    ).counters.sequence_steps
    assert read_total is not None
    assert read_total == pytest.approx(total, rel=6e-6, abs=0.5)
    # Whatever it loses, it is in the list of those that may dip.
    assert "sequence_steps" in LLAMACPP.derived
    assert "steps" not in LLAMACPP.derived


def test_rates_that_begin_anew_with_each_reader_are_not_read() -> None:
    assert not {"llamacpp:prompt_tokens_seconds", "llamacpp:predicted_tokens_seconds"} & LLAMACPP.wanted
    assert read(TEXTS["after"]) == read(TEXTS["after-second-scrape"])


def test_numbers_over_a_million_come_in_jumps_of_ten() -> None:
    first, second = read(TEXTS["rounded-1"]).counters, read(TEXTS["rounded-2"]).counters
    assert first.cached_prompt_tokens is not None
    assert second.cached_prompt_tokens is not None
    assert second.cached_prompt_tokens - first.cached_prompt_tokens == 1900  # and 1899 were added


# --- other versions ------------------------------------------------------------------------------


def test_a_page_of_2024_has_no_cached_tokens_and_no_speculation() -> None:
    old = re.sub(r"(?m)^.*llamacpp:(prompt_tokens_cached|spec_decode|n_tokens_max).*\n", "", TEXTS["load-3"])
    engine, now = read(old), read(TEXTS["load-3"])
    newer = dict.fromkeys(("cached_prompt_tokens", "drafts", "draft_tokens", "accepted_draft_tokens"))
    assert engine == replace(now, counters=replace(now.counters, **newer))


def test_until_may_2025_the_page_tells_how_full_the_cache_is() -> None:
    engine = read(TEXTS["load-3"] + "llamacpp:kv_cache_usage_ratio 0.25\nllamacpp:kv_cache_tokens 2048\n")
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens) == (0.25, None)


def test_a_page_without_the_mean_of_busy_slots_has_no_live_count() -> None:
    old = re.sub(r"(?m)^llamacpp:n_busy.*\n", "", TEXTS["load-3"])
    assert read(old).counters.sequence_steps is None


def test_speculation_is_counted() -> None:
    counts = {"drafts": 10, "draft_tokens": 40, "accepted_tokens": 25}
    text = TEXTS["load-3"]
    for name, count in counts.items():
        text = with_value(text, f"spec_decode_num_{name}_total", count)
    text += 'llamacpp:spec_decode_num_accepted_tokens_per_pos_total{position="0"} 9\n'
    counters = read(text).counters
    assert (counters.drafts, counters.draft_tokens, counters.accepted_draft_tokens) == (10, 40, 25)


def test_every_counter_of_the_table_is_on_a_recorded_page() -> None:
    assert all(getattr(read(TEXTS["idle"]).counters, field) is not None for field in COUNTERS)


# --- the documents beside the page ---------------------------------------------------------------


def test_the_servers_own_interface_says_what_the_page_does_not() -> None:
    engine = read(TEXTS["load-3"], DOCUMENTS)
    assert engine.facts == ModelFacts(
        path="/models/tiny.gguf",
        served_names=("/models/tiny.gguf",),
        weight_dtype="F16",
        max_num_seqs=4,
        max_model_len=2048,
        weight_bytes=115902464,
        parameters=57942528,
    )
    assert (engine.model, engine.version, engine.facts.max_num_seqs) == ("/models/tiny.gguf", "b0-unknown", 4)


def test_with_its_properties_alone_the_model_is_known_by_its_alias() -> None:
    engine = read(TEXTS["load-3"], {"props": {**JSONS["props"], "model_alias": "tiny"}})
    assert engine.model == "tiny"
    assert (engine.facts.weight_bytes, engine.facts.parameters) == (None, None)


def test_several_slots_do_not_tell_how_they_share_the_cache() -> None:
    engine = read(TEXTS["load-3"], DOCUMENTS)
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens) == (None, None)


def test_one_slot_has_the_whole_cache_and_holds_prompt_and_answer() -> None:
    engine = read(TEXTS["load-3"], ONE_SLOT)
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens) == (403 / 2048, 2048)


def test_what_an_idle_slot_keeps_for_reuse_is_free() -> None:
    engine = read(TEXTS["after"], {**ONE_SLOT, "slots": JSONS["slots-after"][:1]})
    assert engine.kv_used_ratio == 0
    assert JSONS["slots-after"][0]["n_prompt_tokens"] == 1901


@pytest.mark.parametrize(
    "slots",
    [
        pytest.param(None, id="they were not told"),
        pytest.param([], id="there are none"),
        pytest.param([{"is_processing": True}], id="a busy one does not say what it holds"),
    ],
)
def test_a_busy_cache_that_cannot_be_seen_is_unknown_not_empty(slots: object) -> None:
    engine = read(TEXTS["load-3"], {**ONE_SLOT, "slots": slots})
    assert (engine.kv_used_ratio, engine.kv_capacity_tokens) == (None, 2048)


def test_only_a_server_that_works_is_asked_for_its_slots() -> None:
    """One that sleeps would be woken: it would load its model again."""
    (slots,) = [document for document in LLAMACPP.documents if document.live]
    assert slots.when is not None
    assert slots.when(parse_page(TEXTS["load-1"].encode(), LLAMACPP.wanted))
    assert not slots.when(parse_page(TEXTS["after"].encode(), LLAMACPP.wanted))
    assert not slots.when(parse_page(b"llamacpp:n_decode_total 5\n", LLAMACPP.wanted))


def test_no_text_of_anybody_gets_into_a_reading() -> None:
    secret = "swordfish"
    documents = json.loads(json.dumps(DOCUMENTS))
    documents["props"] |= {"chat_template": secret, "api_key": secret, "ui_settings": {"key": secret}}
    documents["props"]["default_generation_settings"]["params"]["grammar"] = secret
    documents["models"]["data"][0] |= {"tags": [secret], "meta_extra": secret}
    for slot in documents["slots"]:
        slot |= {"prompt": secret, "generated": secret}
    assert secret not in repr(read(TEXTS["load-3"], documents))


# --- hostile input -------------------------------------------------------------------------------

LINES = [line for line in TEXTS["load-8"].splitlines() if line.split(" ")[0] in LLAMACPP.wanted]


@given(st.lists(st.sampled_from(LINES), min_size=1, unique=True), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(kept: list[str], order: random.Random) -> None:
    order.shuffle(kept)
    whole, engine = read(TEXTS["load-8"]), read("".join(f"{line}\n" for line in kept))
    for name in COUNTER_NAMES:
        assert getattr(engine.counters, name) in (None, getattr(whole.counters, name))


@given(st.dictionaries(st.sampled_from([line.split(" ")[0] for line in LINES]), st.floats(), min_size=1))
def test_whatever_the_numbers_are_there_is_a_reading(values: dict[str, float]) -> None:
    kept = {line.split(" ")[0]: line.split(" ")[1] for line in LINES}
    kept |= {name: str(value) for name, value in values.items()}
    engine = read("".join(f"{name} {value}\n" for name, value in kept.items()), ONE_SLOT)
    sequence_steps = engine.counters.sequence_steps
    assert sequence_steps is None or sequence_steps >= 0


def shaped(*keys: str, **parts: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    """Any JSON, or an object with some of these keys, which may hold anything."""
    return JSON | st.fixed_dictionaries({}, optional={**dict.fromkeys(keys, JSON), **parts})


PROPS = shaped(
    *("total_slots", "model_alias", "model_path", "model_ftype", "build_info"),
    default_generation_settings=shaped("n_ctx"),
)
MODELS = shaped(data=st.lists(shaped("id", meta=shaped("size", "n_params", "ftype")), max_size=2))
SLOTS = JSON | st.lists(shaped("n_prompt_tokens", is_processing=st.just(True) | JSON), max_size=3)


@given(props=PROPS, models=MODELS, slots=SLOTS)
def test_documents_of_any_shape_cost_at_most_what_they_would_have_told(
    props: object, models: object, slots: object
) -> None:
    engine = read(TEXTS["load-3"], {"props": props, "models": models, "slots": slots})
    assert engine.counters == read(TEXTS["load-3"]).counters
    assert isinstance(engine.model, str)
    for value in (engine.kv_used_ratio, engine.kv_capacity_tokens, engine.facts.weight_bytes):
        assert value is None or value >= 0
    assert engine.kv_used_ratio is None or engine.kv_used_ratio <= 1
    texts = {"path", "weight_dtype"}
    for field in fields(engine.facts):
        value = getattr(engine.facts, field.name)
        assert value is None or isinstance(value, str) == (field.name in texts)
