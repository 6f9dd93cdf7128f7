"""TGI's page: one constructed after the sources of 3.3.7, and what other moments and versions make of it."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.registry import ENGINES
from agent.engines.tgi import TGI
from agent.readings import COUNTER_NAMES, EngineReading, ModelFacts
from agent.sources.page import parse_page
from tests.json_values import JSON

TEXT = (Path(__file__).parent.parent / "fixtures" / "tgi" / "tgi-constructed-3.3.7.txt").read_text()

INFO_OF_3_3 = {
    "model_id": "mistralai/Mistral-7B-v0.1",
    "model_sha": "26bca36bde8333b5d7f72e9ed20ccda6a618af24",
    "model_pipeline_tag": "text-generation",
    "max_concurrent_requests": 128,
    "max_best_of": 2,
    "max_stop_sequences": 4,
    "max_input_tokens": 4095,
    "max_total_tokens": 4096,
    "validation_workers": 2,
    "max_client_batch_size": 4,
    "router": "text-generation-router",
    "version": "3.3.7",
    "sha": "db931fcf",
    "docker_label": None,
}
INFO_OF_2_2 = INFO_OF_3_3 | {
    "version": "2.2.0",
    "model_dtype": "torch.float16",
    "model_device_type": "cuda",
    "waiting_served_ratio": 0.3,
    "max_batch_total_tokens": 143872,
    "max_batch_size": None,
}


def read(text: str, **documents: object) -> EngineReading:
    (engine,) = TGI.read(parse_page(text.encode(), TGI.wanted), documents)
    return engine


def counted(text: str) -> dict[str, float]:
    """The counters that the engine has."""
    counters = read(text).counters
    return {name: value for name in COUNTER_NAMES if (value := getattr(counters, name)) is not None}


def without(text: str, *names: str) -> str:
    return re.sub(rf"(?m)^tgi_(?:{'|'.join(names)}).*\n", "", text)


NOTHING_YET = {
    "generation_tokens": 0,
    "prefill_tokens": 0,
    "steps": 0,
    "first_tokens": 0,
    "sequence_steps": 0,
    "prefill_steps": 0,
    "prefill_step_seconds": 0,
    "decode_steps": 0,
    "decode_step_seconds": 0,
    "accepted_draft_tokens": 0,
    "requests_abort": 0,
    "requests_error": 0,
    "requests_finished": 0,
    "rejected_requests": 0,
}


# --- the page ------------------------------------------------------------------------------------


def test_a_page_is_read_to_the_digit() -> None:
    assert counted(TEXT) == {
        **NOTHING_YET,
        "generation_tokens": 300,
        "prefill_tokens": 2900,
        "steps": 123,
        "first_tokens": 3,
        "sequence_steps": 297,
        "prefill_steps": 3,
        "prefill_step_seconds": 0.158,
        "decode_steps": 120,
        "decode_step_seconds": pytest.approx(1.5),
        "requests_finished": 3,
        "rejected_requests": 1,
    }


def test_state_of_the_engine_is_read() -> None:
    engine = read(TEXT)
    assert (engine.engine, engine.rank, engine.model) == ("tgi", "0", "")
    assert (engine.requests_running, engine.requests_waiting) == (1, 0)
    assert not engine.tokens_at_end
    assert engine.request_latency is not None
    assert engine.request_latency.count == 3
    assert engine.request_latency.sum == pytest.approx(4.2)
    assert len(engine.request_latency.bounds) == 36
    assert engine.inter_token_latency is not None
    assert engine.inter_token_latency.sum == pytest.approx(0.0412)


def test_tokens_the_batch_has_reserved_are_not_taken_for_those_it_holds() -> None:
    assert "tgi_batch_current_max_tokens 1300" in TEXT
    assert (read(TEXT).kv_used_ratio, read(TEXT).kv_capacity_tokens) == (None, None)


def test_tokens_are_counted_as_they_come_and_not_when_their_request_ends() -> None:
    running = TEXT.replace("skipped_tokens_count 300", "skipped_tokens_count 320")
    assert counted(running)["generation_tokens"] == 320
    assert counted(running)["sequence_steps"] == 317


def test_tokens_that_were_guessed_came_in_the_step_of_another() -> None:
    guessing = TEXT.replace("skipped_tokens_sum 0", "skipped_tokens_sum 150")
    counters = counted(guessing)
    assert (counters["generation_tokens"], counters["sequence_steps"]) == (450, 297)
    assert counters["accepted_draft_tokens"] == 150


def test_a_request_whose_prefill_has_not_ended_makes_no_negative_count() -> None:
    text = "tgi_batch_next_size_sum 8\ntgi_request_count 8\n"
    assert counted(text) == {**NOTHING_YET, "first_tokens": 8}


@pytest.mark.parametrize(
    ("error", "field"),
    [
        ("overloaded", "rejected_requests"),
        ("dropped", "requests_abort"),
        ("generation", "requests_error"),
        ("incomplete", "requests_error"),
        ("validation", None),
        ("template", None),
    ],
)
def test_requests_that_fail_are_told_apart(error: str, field: str | None) -> None:
    expected = NOTHING_YET | ({} if field is None else {field: 7})
    assert counted(f'tgi_request_failure{{err="{error}"}} 7\n') == expected


# --- what has not happened yet -------------------------------------------------------------------


@pytest.mark.parametrize("line", ["tgi_request_count 1", "tgi_queue_size 0", "tgi_batch_current_size 0"])
def test_a_page_on_which_nothing_was_generated_yet_has_zeros(line: str) -> None:
    engine = read(f"{line}\n")
    assert counted(f"{line}\n") == NOTHING_YET
    assert (engine.requests_running, engine.requests_waiting) == (0, 0)
    assert not engine.tokens_at_end


def test_before_the_first_token_is_decoded_there_are_prefills_alone() -> None:
    text = "".join(line for line in TEXT.splitlines(keepends=True) if 'method="decode"' not in line)
    counters = counted(text)
    assert (counters["prefill_steps"], counters["decode_steps"]) == (3, 0)
    assert counters["decode_step_seconds"] == 0


FAMILIES = sorted(
    {match[1] for match in re.finditer(r"(?m)^# TYPE (tgi_\w+) ", TEXT)} - {"tgi_batch_current_max_tokens"}
)


@pytest.mark.parametrize("family", FAMILIES)
def test_each_family_alone_is_enough_to_know_the_engine(family: str) -> None:
    """Which ones a page has depends on what has happened; the companions of others never stand alone."""
    page = parse_page(
        "".join(line for line in TEXT.splitlines(keepends=True) if line.startswith(family)).encode(),
        TGI.wanted | {family},
    )
    companions = {
        "tgi_batch_concat_duration",
        "tgi_batch_decode_duration",
        "tgi_batch_filter_duration",
        "tgi_batch_inference_count",
        "tgi_batch_inference_success",
        "tgi_request_inference_duration",
        "tgi_request_max_new_tokens",
        "tgi_request_queue_duration",
        "tgi_request_validation_duration",
    }
    assert (not TGI.fingerprint.isdisjoint(page.families)) == (family not in companions)


def test_no_other_engine_takes_the_page_for_its_own() -> None:
    wanted = frozenset[str]().union(*(engine.wanted for engine in ENGINES))
    page = parse_page(TEXT.encode(), wanted)
    knowing = [engine for engine in ENGINES if not engine.fingerprint.isdisjoint(page.families)]
    assert knowing == [TGI]


BEGUN = "tgi_request_input_length_sum 2900\n"


@pytest.mark.parametrize("line", ["tgi_request_success three", 'tgi_request_success{a="b} 3'])
def test_a_line_that_cannot_be_read_is_not_a_counter_at_zero(line: str) -> None:
    """It would look as if the engine had begun anew, and all of it be counted again a page later."""
    counters = counted(f"{BEGUN}{line}\n")
    assert "requests_finished" not in counters
    assert counters["prefill_tokens"] == 2900


# --- other versions and backends -----------------------------------------------------------------


def test_a_page_before_1_4_has_the_time_of_whole_calls_and_tokens_at_the_end() -> None:
    old = without(TEXT, *(f"batch_{kind}_duration" for kind in ("forward", "decode", "filter", "concat")))
    old = without(old, "request_skipped_tokens")
    counters = counted(old)
    assert read(old).tokens_at_end
    assert counters["generation_tokens"] == 300
    assert (counters["steps"], counters["prefill_steps"], counters["decode_steps"]) == (123, 3, 120)
    assert counters["prefill_step_seconds"] == 0.161
    assert counters["decode_step_seconds"] == pytest.approx(1.572)
    assert counters.keys().isdisjoint({"sequence_steps", "accepted_draft_tokens"})


def test_before_1_4_tokens_are_zero_until_the_first_request_ends() -> None:
    text = 'tgi_batch_inference_duration_count{method="decode"} 9\n'
    assert counted(text)["generation_tokens"] == 0
    assert read(text).tokens_at_end


def test_a_live_counter_that_is_missing_once_is_not_replaced_by_the_one_at_the_end() -> None:
    """That one is lower, and a counter that falls is a restart."""
    counters = counted(without(TEXT, "request_skipped_tokens"))
    assert counters.keys().isdisjoint({"generation_tokens", "sequence_steps"})
    assert not read(without(TEXT, "request_skipped_tokens")).tokens_at_end


def test_the_histogram_that_guessed_tokens_were_once_reads_as_the_summary() -> None:
    bounds = ("0", "1", "+Inf")
    buckets = "".join(f'tgi_request_skipped_tokens_bucket{{le="{bound}"}} 300\n' for bound in bounds)
    histogram = re.sub(r"(?m)^tgi_request_skipped_tokens\{.*\n", "", TEXT) + buckets
    assert counted(histogram) == counted(TEXT)


def test_of_a_backend_that_makes_no_steps_of_its_own_steps_are_unknown() -> None:
    counters = counted(without(TEXT, "batch_", "queue_size", "request_skipped_tokens"))
    assert counters == {
        "generation_tokens": 300,
        "prefill_tokens": 2900,
        "requests_abort": 0,
        "requests_error": 0,
        "requests_finished": 3,
        "rejected_requests": 1,
    }
    assert read(without(TEXT, "batch_", "request_skipped_tokens")).requests_running is None


CHUNKING = TEXT.replace('tgi_batch_concat{reason="backpressure"} 2', 'tgi_batch_concat{reason="chunking"} 2')


def test_a_prefill_that_newcomers_share_with_the_batch_decodes_too() -> None:
    counters = counted(CHUNKING)
    assert (counters["steps"], counters["prefill_steps"], counters["decode_steps"]) == (123, 1, 122)
    assert counters["prefill_step_seconds"] == pytest.approx(0.158 / 3)
    assert counters["decode_step_seconds"] == pytest.approx(1.5 + 0.158 * 2 / 3)


def test_a_prefill_that_makes_the_batch_wait_is_one_alone() -> None:
    assert 'reason="backpressure"' in TEXT
    assert counted(TEXT)["prefill_steps"] == 3


@given(joined=st.integers(0, 10**6))
def test_all_calls_and_their_time_are_dealt_out(joined: int) -> None:
    before = counted(TEXT)
    after = counted(CHUNKING.replace('{reason="chunking"} 2', f'{{reason="chunking"}} {joined}'))
    for whole, parts in {
        before["steps"]: ("prefill_steps", "decode_steps"),
        before["prefill_step_seconds"] + before["decode_step_seconds"]: (
            "prefill_step_seconds",
            "decode_step_seconds",
        ),
    }.items():
        assert sum(after[part] for part in parts) == pytest.approx(whole)
        assert min(after[part] for part in parts) >= 0


# --- the document beside the page ----------------------------------------------------------------


def test_the_model_is_known_from_the_servers_own_interface() -> None:
    engine = read(TEXT, info=INFO_OF_3_3)
    assert (engine.model, engine.version) == ("mistralai/Mistral-7B-v0.1", "3.3.7")
    assert engine.facts == ModelFacts(
        path="mistralai/Mistral-7B-v0.1",
        revision="26bca36bde8333b5d7f72e9ed20ccda6a618af24",
        served_names=("mistralai/Mistral-7B-v0.1",),
        max_model_len=4096,
    )
    assert (engine.kv_capacity_tokens, engine.facts.max_num_seqs) == (None, None)


def test_until_2_2_it_also_tells_the_size_of_the_cache_and_of_the_batch() -> None:
    engine = read(TEXT, info=INFO_OF_2_2)
    assert (engine.kv_capacity_tokens, engine.facts.max_num_seqs) == (143872, None)
    limited = read(TEXT, info=INFO_OF_2_2 | {"max_batch_size": 48})
    assert limited.facts.max_num_seqs == 48


def test_what_it_computes_in_is_not_taken_for_the_dtype_of_its_weights() -> None:
    assert read(TEXT, info=INFO_OF_2_2).facts.weight_dtype is None


def test_a_capacity_on_the_page_comes_first() -> None:
    text = TEXT + "tgi_batch_max_total_tokens 99000\n"
    assert read(text, info=INFO_OF_2_2).kv_capacity_tokens == 99000


def test_nothing_else_of_the_document_gets_into_a_reading() -> None:
    secret = "hf_abcdefghijklmnop"  # what a launcher might one day repeat of its environment
    info = INFO_OF_2_2 | {"api_key": secret, "env": {"HF_TOKEN": secret}, "docker_label": secret}
    assert secret not in repr(read(TEXT, info=info))


# --- hostile input -------------------------------------------------------------------------------

LINES = [line for line in TEXT.splitlines() if re.split("[{ ]", line)[0] in TGI.wanted]


@given(st.lists(st.sampled_from(LINES), min_size=1, unique=True), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(kept: list[str], order: random.Random) -> None:
    order.shuffle(kept)
    engine = read("".join(f"{line}\n" for line in kept))
    for name in COUNTER_NAMES:
        value = getattr(engine.counters, name)
        assert value is None or value >= 0


@given(st.randoms(use_true_random=False))
def test_the_order_of_lines_says_nothing(order: random.Random) -> None:
    lines = list(LINES)
    order.shuffle(lines)
    assert read("".join(f"{line}\n" for line in lines)) == read(TEXT)


def spoilt(line: str, how: str) -> str:
    match how:
        case "no labels":
            return re.sub(r"\{.*\}", "", line)
        case "one label more":
            return line.replace("{", '{pod="a",')
        case "twice":
            return f"{line}\n{line}"
        case _:
            return line


HOWS = st.sampled_from(["no labels", "one label more", "twice", "as it is"])


@given(st.lists(HOWS, min_size=len(LINES), max_size=len(LINES)))
def test_labels_that_are_missing_or_doubled_still_give_a_reading(hows: list[str]) -> None:
    text = "".join(f"{spoilt(line, how)}\n" for line, how in zip(LINES, hows, strict=True))
    counters = read(text).counters
    assert counters.requests_finished == 3
    assert all((value := getattr(counters, name)) is None or value >= 0 for name in COUNTER_NAMES)


@given(info=JSON | st.fixed_dictionaries({}, optional=dict.fromkeys(INFO_OF_2_2, JSON)))
def test_documents_of_any_shape_cost_at_most_what_they_would_have_told(info: object) -> None:
    engine = read(TEXT, info=info)
    assert engine.counters == read(TEXT).counters
    assert isinstance(engine.model, str)
    assert engine.version is None or isinstance(engine.version, str)
    for value in (engine.kv_capacity_tokens, engine.facts.max_num_seqs, engine.facts.max_model_len):
        assert value is None or value > 0
