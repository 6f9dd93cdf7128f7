"""SGLang's pages: those that the code of 0.5.23 renders, and what older and other ones make of them."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.sglang import IDLE_REPORT_SECONDS, MOMENTS, SGLANG
from agent.readings import COUNTER_NAMES, EngineReading, ModelFacts
from agent.sources.page import parse_page
from tests.json_values import JSON

FIXTURES = Path(__file__).parent.parent / "fixtures" / "sglang"
UNIFIED, DECODE = (
    (FIXTURES / f"sglang-rendered-0.5.23-{name}.txt").read_text() for name in ("unified", "decode")
)
LOADS: dict[str, Any] = json.loads((FIXTURES / "sglang-rendered-0.5.23-v1-loads.json").read_text())
LOAD: dict[str, Any] = LOADS["loads"][0]
# By the names of the fields of ServerArgs, with all that must stay where it is.
SERVER: dict[str, Any] = {
    "model_path": "/models/qwen3-8b",
    "revision": "main",
    "served_model_name": "qwen",
    "tp_size": 2,
    "pp_size": 1,
    "dp_size": 1,
    "ep_size": 1,
    "enable_dp_attention": False,
    "dtype": "bfloat16",
    "quantization": None,
    "kv_cache_dtype": "fp8_e4m3",
    "page_size": 64,
    "max_running_requests": 100,
    "max_total_num_tokens": 300_000,
    "decode_log_interval": 80,
    "disaggregation_mode": "null",
    "speculative_algorithm": None,
    "version": "0.5.23",
    "internal_states": [{"effective_max_running_requests_per_dp": 96, "env": {"HF_TOKEN": "hunter2"}}],
    "api_key": "hunter2",
    "admin_api_key": "hunter2",
    "ssl_keyfile_password": "hunter2",
    "launch_command": "python -m sglang.launch_server --api-key hunter2",
}


def read(text: str, **documents: object) -> tuple[EngineReading, ...]:
    return SGLANG.read(parse_page(text.encode(), SGLANG.wanted), documents)


def read_one(text: str, **documents: object) -> EngineReading:
    (engine,) = read(text, **documents)
    return engine


def counted(engine: EngineReading) -> dict[str, float]:
    """The counters that it has."""
    return {name: value for name, value in asdict(engine.counters).items() if value is not None}


def without(text: str, *names: str) -> str:
    text, count = re.subn(rf"^sglang:(?:{'|'.join(names)})[{{_ ].*\n", "", text, flags=re.MULTILINE)
    assert count, names
    return text


def renamed(text: str, new: str, old: str) -> str:
    text, count = re.subn(rf"^sglang:{new}", f"sglang:{old}", text, flags=re.MULTILINE)
    assert count, new
    return text


def lines(text: str) -> str:
    """A page out of indented lines without the prefix."""
    return "".join(f"sglang:{line.strip()}\n" for line in text.strip().splitlines())


def with_load(**fields: object) -> dict[str, Any]:
    return {**LOADS, "loads": [{**LOAD, **fields}]}


# --- the plain page ------------------------------------------------------------------------------


def test_counters_are_those_of_the_page() -> None:
    assert counted(read_one(UNIFIED)) == {
        "generation_tokens": 6400,
        "prefill_tokens": 24000,
        "cached_prompt_tokens": 10000,
        "steps": 212,
        "decode_steps": 200,
        "prefill_steps": 12,
        "first_tokens": 1,
        "inter_token_seconds": 0.024,
        "inter_token_intervals": 2,
        "preemptions": 0,
        "requests_finished": 1,
        "requests_abort": 0,
    }


def test_state_of_the_engine_is_read() -> None:
    engine = read_one(UNIFIED)
    assert (engine.engine, engine.rank, engine.model) == ("sglang", "0", "Qwen/Qwen3-8B")
    assert (engine.requests_running, engine.requests_waiting) == (32, 5)
    assert engine.kv_used_ratio == 0.1143
    assert (engine.kv_capacity_tokens, engine.kv_block_tokens) == (420_000, 1)
    assert engine.facts == ModelFacts(max_model_len=40960)
    assert (engine.role, engine.version, engine.start_time_seconds) == (None, None, None)


def test_histograms_are_the_front_ends() -> None:
    engine = read_one(UNIFIED)
    assert engine.time_to_first_token is not None
    assert (engine.time_to_first_token.count, engine.time_to_first_token.sum) == (1, 0.12)
    assert engine.inter_token_latency is not None
    assert (engine.inter_token_latency.count, engine.inter_token_latency.sum) == (2, 0.024)
    assert engine.request_latency is not None
    assert (engine.request_latency.count, engine.request_latency.sum) == (1, 2.5)
    assert engine.computed_prompt_lengths is not None
    assert (engine.computed_prompt_lengths.count, engine.computed_prompt_lengths.sum) == (1, 700)


def test_reused_prefix_is_not_computed_and_not_held() -> None:
    """21,994 tokens could be evicted; they are in neither."""
    engine = read_one(UNIFIED)
    assert engine.kv_used_ratio is not None
    assert engine.kv_capacity_tokens is not None
    assert engine.kv_used_ratio * engine.kv_capacity_tokens == pytest.approx(48006)


def test_a_server_that_has_only_started_is_known_and_knows_nothing_yet() -> None:
    engine = read_one(lines('engine_startup_time{model_name="m"} 31.5'))
    assert (engine.rank, engine.model) == ("0", "m")
    assert counted(engine) == {}
    assert (engine.requests_running, engine.kv_used_ratio) == (None, None)


def test_what_has_not_happened_yet_is_zero_once_anything_is_counted() -> None:
    """A labelled counter is on the page from its first increment on."""
    engine = read_one(
        lines(
            """
            realtime_tokens_total{tp_rank="0",mode="prefill_compute"} 7
            cuda_graph_passes_total{tp_rank="0",mode="prefill_none"} 1
            """
        )
    )
    assert counted(engine) == {
        **dict.fromkeys(counted(read_one(UNIFIED)), 0),
        "prefill_tokens": 7,
        "prefill_steps": 1,
        "steps": 1,
    }


def test_a_gauge_of_minus_one_has_no_value() -> None:
    text = re.sub(r"^(sglang:(?:token_usage|num_running_reqs)\{.*) .*", r"\1 -1.0", UNIFIED, flags=re.M)
    engine = read_one(text)
    assert (engine.requests_running, engine.kv_used_ratio, engine.requests_waiting) == (None, None, 5)


def test_what_a_process_left_behind_is_not_read() -> None:
    text = re.sub(r"^(sglang:num_running_reqs\{)(.*) .*", r'\g<0>\n\1pid="22",\2 99.0', UNIFIED, flags=re.M)
    assert text.count("sglang:num_running_reqs{") == 2
    assert read(text) == read(UNIFIED)


# --- several ranks -------------------------------------------------------------------------------


def rank_page(*ranks: tuple[str, int, int], scale: float = 1.0) -> str:
    """What schedulers say, each with its data-parallel, pipeline and tensor-parallel rank."""
    return "".join(
        lines(
            f"""
            num_running_reqs{{model_name="m",dp_rank="{dp}",pp_rank="{pp}",tp_rank="{tp}"}} {tp * scale}
            realtime_tokens_total{{dp_rank="{dp}",pp_rank="{pp}",tp_rank="{tp}",mode="decode"}} {100 + tp}
            queue_time_seconds_count{{dp_rank="{dp}",pp_rank="{pp}",tp_rank="{tp}"}} {10 + tp}
            """
        )
        for dp, pp, tp in ranks
    )


FRONT = lines(
    """
    time_to_first_token_seconds_count{model_name="m",is_streaming="true"} 20
    time_to_first_token_seconds_count{model_name="m",is_streaming="false"} 5
    inter_token_latency_seconds_sum{model_name="m"} 2
    inter_token_latency_seconds_count{model_name="m"} 180
    num_requests_total{model_name="m",is_streaming="true"} 18
    generation_tokens_total{model_name="m",is_streaming="true"} 150
    prompt_tokens_total{model_name="m",is_streaming="true"} 900
    """
)


def test_data_parallel_ranks_are_read_apart_and_in_the_order_of_their_numbers() -> None:
    engines = read(FRONT + rank_page(("10", 0, 3), ("9", 0, 2), ("0", 0, 0), ("2", 0, 1)))
    assert [engine.rank for engine in engines] == ["0", "2", "9", "10"]
    assert [engine.requests_running for engine in engines] == [0, 1, 2, 3]
    assert [engine.counters.generation_tokens for engine in engines] == [100, 101, 102, 103]
    assert {engine.model for engine in engines} == {"m"}


def test_requests_are_counted_once_over_all_ranks() -> None:
    first, second = read(FRONT + rank_page(("0", 0, 0), ("1", 0, 4)))
    assert (first.counters.requests_finished, second.counters.requests_finished) == (18, None)
    assert (first.counters.inter_token_intervals, second.counters.inter_token_intervals) == (180, None)


def test_first_tokens_of_a_rank_are_the_requests_that_it_began() -> None:
    """The front end's 25 first tokens name no rank; each scheduler sees its requests leave the queue."""
    engines = read(FRONT + rank_page(("0", 0, 0), ("1", 0, 4)))
    assert [engine.counters.first_tokens for engine in engines] == [10, 14]
    single = re.sub(r'dp_rank="\d+",', "", FRONT + rank_page(("0", 0, 0)))
    assert read_one(single).counters.first_tokens == 25


def test_of_each_rank_the_first_stages_lowest_is_heard() -> None:
    """As with --enable-metrics-for-all-schedulers and pipeline stages: all of them count the same."""
    heard = rank_page(("0", 0, 0), ("1", 0, 2))
    all_of_them = rank_page(("1", 1, 2), ("0", 0, 1), ("0", 1, 0), ("0", 0, 0), ("1", 0, 3), ("1", 0, 2))
    assert read(FRONT + all_of_them) == read(FRONT + heard)


def test_tensor_parallel_ranks_are_compared_as_numbers() -> None:
    assert read_one(rank_page(("0", 0, 10), ("0", 0, 9))).requests_running == 9


def test_a_page_without_ranks_is_one_engine() -> None:
    text = re.sub(r'(?:tp_rank|pp_rank|moe_ep_rank|pid)="\d+",?', "", UNIFIED)
    assert "tp_rank" not in text
    assert read(text) == read(UNIFIED)


def test_with_priorities_the_schedulers_whole_counts_and_not_its_parts() -> None:
    text = lines(
        """
        num_running_reqs{tp_rank="0",priority=""} 5
        num_running_reqs{tp_rank="0",priority="1"} 2
        num_running_reqs{tp_rank="0",priority="None"} 3
        realtime_tokens_total{tp_rank="0",priority="",mode="decode"} 9
        num_requests_total{priority=""} 4
        num_requests_total{priority="1"} 8
        """
    )
    engine = read_one(text)
    assert (engine.requests_running, engine.counters.generation_tokens) == (5, 9)
    # The front end counts each request under its own priority, those without one under "".
    assert engine.counters.requests_finished == 12


# --- disaggregation ------------------------------------------------------------------------------


def test_a_decode_server_says_so() -> None:
    assert read_one(DECODE).role == "decode"
    assert counted(read_one(DECODE)) == counted(read_one(UNIFIED))


def test_a_decode_server_does_not_prefill() -> None:
    """Then its passes are all of its steps, whether its release counts the others or not."""
    text = without(DECODE, r"cuda_graph_passes_total.*prefill", "realtime_tokens_total.*prefill")
    counters = read_one(text).counters
    assert (counters.steps, counters.decode_steps, counters.prefill_steps) == (200, 200, 0)
    assert counters.prefill_tokens == 0


def test_a_prefill_server_gives_one_token_a_request() -> None:
    """It sees no first tokens, and decodes none: what counts is who left the queue."""
    text = lines(
        """
        queue_time_seconds_count{tp_rank="0",engine_type="prefill"} 7
        realtime_tokens_total{tp_rank="0",engine_type="prefill",mode="prefill_compute"} 7000
        cuda_graph_passes_total{tp_rank="0",engine_type="prefill",mode="prefill_none"} 5
        num_requests_total{engine_type="prefill"} 6
        generation_tokens_total{engine_type="prefill"} 6
        """
    )
    engine = read_one(text)
    assert engine.role == "prefill"
    assert (engine.counters.first_tokens, engine.counters.generation_tokens) == (7, 7)
    assert (engine.counters.decode_steps, engine.counters.prefill_steps) == (0, 5)
    older = read_one(without(text, "realtime_tokens_total", "cuda_graph_passes_total")).counters
    assert (older.first_tokens, older.generation_tokens, older.steps) == (7, 7, None)


def test_the_present_role_is_what_the_loads_say() -> None:
    text = UNIFIED.replace('"unified"', '"dynamic"')
    assert read_one(text).role is None
    assert read_one(text, loads=with_load(disaggregation={"mode": "prefill"})).role == "prefill"
    assert read_one(UNIFIED, loads=LOADS).role is None
    assert read_one(UNIFIED, server_info={**SERVER, "disaggregation_mode": "decode"}).role == "decode"


@pytest.mark.parametrize(
    "queue", ["prefill_bootstrap", "prefill_prealloc", "decode_prealloc", "decode_transfer"]
)
def test_who_waits_for_the_other_side_waits(queue: str) -> None:
    names = "num_queue_reqs", f"num_{queue}_queue_reqs"
    engine = read_one(lines("".join(f'{name}{{tp_rank="0"}} 3\n' for name in names)))
    assert engine.requests_waiting == 6


# --- other versions ------------------------------------------------------------------------------

NEWER_THAN_0_5_6 = ("realtime_tokens_total", "cuda_graph_passes_total", "page_size", "num_pages")


def test_without_live_counters_tokens_are_those_of_ended_requests() -> None:
    """0.5.6 and older."""
    counters = read_one(without(UNIFIED, *NEWER_THAN_0_5_6)).counters
    assert (counters.generation_tokens, counters.first_tokens) == (200, 1)
    assert (counters.prefill_tokens, counters.cached_prompt_tokens) == (700, 300)
    assert (counters.steps, counters.decode_steps, counters.sequence_steps) == (None, None, None)
    assert (counters.requests_abort, counters.preemptions) == (None, None)  # not there is not zero


def test_ended_requests_never_stand_in_for_a_rank_that_has_not_begun() -> None:
    """Else its tokens would fall to what is its own when it does."""
    text = FRONT + rank_page(("1", 0, 4)) + lines('num_running_reqs{dp_rank="0",tp_rank="0"} 0')
    first, second = read(text)
    assert (first.counters.generation_tokens, second.counters.generation_tokens) == (0, 104)
    assert (first.counters.prefill_tokens, second.counters.prefill_tokens) == (0, 0)


def test_prefix_hits_show_from_the_first_on() -> None:
    text = without(UNIFIED, *NEWER_THAN_0_5_6, "cached_tokens_total")
    assert read_one(text).counters.prefill_tokens == 1000


def test_prefill_tokens_are_unknown_where_hits_were_not_counted() -> None:
    """0.4.2 and older, by their time per output token."""
    text = without(UNIFIED, *NEWER_THAN_0_5_6, "cached_tokens_total")
    text = renamed(text, "inter_token_latency_seconds", "time_per_output_token_seconds")
    assert read_one(text).counters.prefill_tokens is None


def test_prefill_tokens_are_never_negative() -> None:
    text = lines("prompt_tokens_total 5\ncached_tokens_total 9")
    assert read_one(text).counters.prefill_tokens == 0
    assert SGLANG.derived == {"prefill_tokens"}


def test_the_old_name_of_the_time_between_tokens_is_read() -> None:
    text = renamed(UNIFIED, "inter_token_latency_seconds", "time_per_output_token_seconds")
    assert read(text) == read(UNIFIED)


def test_before_passes_that_prefill_were_counted_all_steps_are_unknown() -> None:
    """0.5.7 to 0.5.9."""
    counters = read_one(without(UNIFIED, "cuda_graph_passes_total.*prefill")).counters
    assert (counters.steps, counters.decode_steps, counters.prefill_steps) == (None, 200, None)


@pytest.mark.parametrize(
    ("text", "capacity", "block"),
    [
        pytest.param("max_total_num_tokens{tp_rank='0'} 640", 640, None, id="0.5.6 and newer"),
        pytest.param("num_pages{tp_rank='0'} 10\npage_size{tp_rank='0'} 64", 640, 64, id="pages"),
        pytest.param(
            "cache_config_info{tp_rank='0',num_pages='10',page_size='64'} 1", 640, 64, id="0.5.9 and 0.5.10"
        ),
        pytest.param(
            "cache_config_info{tp_rank='0',num_pages='None',page_size='many'} 1", None, None, id="no numbers"
        ),
        pytest.param("max_total_num_tokens{tp_rank='0'} 0", None, None, id="before the first request"),
        pytest.param("num_running_reqs{tp_rank='0'} 0", None, None, id="0.5.5 and older"),
    ],
)
def test_kv_capacity_is_found_in_every_version(text: str, capacity: float | None, block: int | None) -> None:
    page = lines("num_queue_reqs{tp_rank='0'} 0\n" + text).replace("'", '"')
    engine = read_one(page)
    assert (engine.kv_capacity_tokens, engine.kv_block_tokens) == (capacity, block)
    told = read_one(page, get_server_info=SERVER)
    assert (told.kv_capacity_tokens, told.kv_block_tokens) == (capacity or 300_000, block or 64)


# --- speculation ---------------------------------------------------------------------------------


def test_without_speculation_decoded_tokens_are_sequences_of_steps() -> None:
    assert read_one(UNIFIED, server_info=SERVER).counters.sequence_steps == 6400
    assert read_one(UNIFIED).counters.sequence_steps is None  # who knows


def test_with_speculation_intervals_between_tokens_are_not_those_between_steps() -> None:
    speculative = {**SERVER, "speculative_algorithm": "EAGLE"}
    drafts = lines('spec_verify_calls_total{model_name="m"} 80')
    accepted = re.sub(r"^(sglang:spec_accept_length\{.*) .*", r"\1 2.6", UNIFIED, flags=re.M)
    for engine in (
        read_one(UNIFIED, server_info=speculative),
        read_one(UNIFIED + drafts),
        read_one(accepted),
    ):
        assert engine.counters.sequence_steps is None
        assert (engine.counters.inter_token_seconds, engine.counters.inter_token_intervals) == (None, None)
        assert engine.inter_token_latency is not None
        assert engine.counters.generation_tokens == 6400
    assert read_one(UNIFIED + drafts).counters.drafts == 80


# --- the documents beside the page ---------------------------------------------------------------


def test_loads_time_the_steps() -> None:
    engine = read_one(UNIFIED, loads=LOADS)
    counters = engine.counters
    assert (counters.timed_steps, counters.timed_sequences) == (200, 6400)
    assert counters.timed_seconds == pytest.approx(2.414)
    assert counters.timed_squared_sequences == 204_800
    assert counters.timed_sequence_seconds == pytest.approx(77.248)
    assert counters.prefill_step_seconds == pytest.approx(0.912345)
    assert engine.version == "0.5.23"
    assert engine.facts.max_num_seqs == 2048


def test_loads_are_given_to_their_ranks() -> None:
    rows = [
        {"dp_rank": rank, "max_total_num_tokens": 9, "decode_moments": [rank, 1, 2, 3, 4, 5]}
        for rank in (1, 0, 7)
    ]
    engines = read(rank_page(("0", 0, 0), ("1", 0, 1), ("2", 0, 2)), loads={"loads": rows})
    assert [engine.counters.timed_steps for engine in engines] == [0, 1, None]


def test_a_row_that_was_never_written_says_nothing() -> None:
    empty = dict.fromkeys(LOAD, 0)
    engine = read_one(UNIFIED, loads={**LOADS, "loads": [empty]})
    assert engine.counters.timed_steps is None
    assert engine.counters.prefill_step_seconds is None


@pytest.mark.parametrize(
    ("version", "seconds"),
    [("0.5.20", None), ("0.5.21", 0.912345), ("0.6.0rc1", 0.912345), ("dev", None), (None, None)],
)
def test_prefill_is_timed_where_every_step_is(version: str | None, seconds: float | None) -> None:
    engine = read_one(UNIFIED, loads={**LOADS, "version": version})
    assert engine.counters.prefill_step_seconds == (None if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    "moments",
    [None, [], [1, 2, 3, 4], [1, 2, None, 4, 5], [1, 2, -3, 4, 5], [1, 2, "3", 4, 5], [1, 2, 1e31, 4, 5], 7],
)
def test_moments_that_are_none_time_nothing(moments: object) -> None:
    counters = read_one(UNIFIED, loads=with_load(decode_moments=moments)).counters
    assert [getattr(counters, name) for name in MOMENTS] == [None] * 5


def test_gauges_are_as_old_as_the_steps_between_two_reports() -> None:
    assert read_one(UNIFIED, loads=LOADS).gauge_age_seconds == pytest.approx(40 * 2.414 / 200)
    assert read_one(UNIFIED, loads=LOADS, server_info=SERVER).gauge_age_seconds == pytest.approx(
        80 * 2.414 / 200
    )
    assert read_one(UNIFIED).gauge_age_seconds == IDLE_REPORT_SECONDS


MODELS: dict[str, Any] = {
    "data": [
        {"id": "qwen", "root": "qwen", "parent": None, "max_model_len": 32768},
        {"id": "lora", "root": "/lora", "parent": "qwen", "max_model_len": None},
    ]
}


def test_the_servers_own_interface_says_what_the_page_does_not() -> None:
    model = {"model_path": "/models/swapped-in", "served_model_name": "qwen"}
    engine = read_one(UNIFIED, model_info=model, server_info=SERVER, models=MODELS)
    assert engine.version == "0.5.23"
    assert engine.facts == ModelFacts(
        path="/models/swapped-in",
        revision="main",
        served_names=("qwen",),
        weight_dtype="bfloat16",
        kv_dtype="fp8_e4m3",
        tensor_parallel=2,
        pipeline_parallel=1,
        expert_parallel=1,
        data_parallel=1,
        max_num_seqs=96,
        max_model_len=32768,
        weight_bytes=15.27 * 2**30 * 2,
    )


def test_the_old_paths_say_the_same() -> None:
    text = without(UNIFIED, "max_total_num_tokens")
    new = read(text, model_info={"model_path": "/m"}, server_info=SERVER)
    assert read(text, get_model_info={"model_path": "/m"}, get_server_info=SERVER) == new


def test_a_quantization_is_what_the_weights_are_in() -> None:
    engine = read_one(UNIFIED, server_info={**SERVER, "quantization": "fp8"})
    assert engine.facts.weight_dtype == "fp8"


def test_most_sequences_asked_for_are_those_of_one_rank_only_if_there_is_one() -> None:
    server = {**SERVER, "internal_states": []}
    assert read_one(UNIFIED, server_info=server).facts.max_num_seqs == 100
    assert read_one(UNIFIED, server_info={**server, "dp_size": 4}).facts.max_num_seqs is None


def test_weights_are_those_of_all_gpus_of_a_replica() -> None:
    one = 15.27 * 2**30
    assert read_one(UNIFIED, loads=LOADS).facts.weight_bytes == one
    assert read_one(UNIFIED, loads={**LOADS, "num_accelerators": 4}).facts.weight_bytes == 4 * one
    pipelined = {**SERVER, "pp_size": 3}
    assert read_one(UNIFIED, server_info=pipelined).facts.weight_bytes == 6 * one
    assert read_one(UNIFIED).facts.weight_bytes is None  # of how many GPUs is not on the page


def test_ranks_that_share_their_gpus_have_a_part_of_them() -> None:
    server = {**SERVER, "tp_size": 8, "dp_size": 4, "ep_size": 8, "enable_dp_attention": True}
    facts = read_one(UNIFIED, loads=LOADS, server_info=server).facts
    assert (facts.tensor_parallel, facts.data_parallel, facts.expert_parallel) == (2, 4, 8)
    assert facts.weight_bytes is None
    apart = read_one(UNIFIED, server_info={**server, "enable_dp_attention": False}).facts
    assert (apart.tensor_parallel, apart.data_parallel) == (8, 4)


def test_no_secret_gets_into_a_reading() -> None:
    document = {**SERVER, **{f"{name}_too": "hunter2" for name in SERVER}}
    for engine in read(
        UNIFIED, server_info=document, model_info=document, loads={**document, **LOADS}, models=document
    ):
        assert "hunter2" not in repr(engine)


@pytest.mark.parametrize(
    ("text", "asked"),
    [
        pytest.param(UNIFIED, {"/model_info", "/server_info", "/v1/models", "/v1/loads"}, id="0.5.17"),
        pytest.param(
            without(UNIFIED, "weight_memory_usage_gb"),
            {"/model_info", "/server_info", "/v1/models"},
            id="0.5.6",
        ),
        pytest.param(
            without(UNIFIED, "weight_memory_usage_gb", "max_total_num_tokens"),
            {"/get_model_info", "/get_server_info", "/v1/models"},
            id="older",
        ),
    ],
)
def test_a_server_is_asked_for_what_its_release_has(text: str, asked: set[str]) -> None:
    page = parse_page(text.encode(), SGLANG.wanted)
    documents = [one for one in SGLANG.documents if one.when is None or one.when(page)]
    assert {one.path.split("?")[0] for one in documents} == asked
    assert {one.path.split("?")[0] for one in documents if one.live} <= {"/v1/loads"}


# --- whatever comes ------------------------------------------------------------------------------


def shaped(example: dict[str, Any]) -> st.SearchStrategy[object]:
    """Anything, and also what has the right keys with anything in them."""
    return JSON | st.fixed_dictionaries({}, optional={name: JSON | st.just(v) for name, v in example.items()})


def listed(name: str, rows: st.SearchStrategy[object]) -> st.SearchStrategy[object]:
    return st.fixed_dictionaries({name: st.lists(rows, max_size=3)})


@given(
    model=shaped({"model_path": "/m", "served_model_name": "m"}),
    server=shaped(SERVER),
    models=JSON | listed("data", shaped(MODELS["data"][0])),
    loads=shaped(LOADS) | listed("loads", shaped(LOAD)),
)
def test_documents_of_any_shape_cost_at_most_what_they_would_have_told(
    model: object, server: object, models: object, loads: object
) -> None:
    plain = read_one(UNIFIED)
    told = read_one(UNIFIED, model_info=model, server_info=server, models=models, loads=loads)
    timed = {name: getattr(told.counters, name) for name in (*MOMENTS, "prefill_step_seconds")}
    assert all(value is None or value >= 0 for value in timed.values())
    assert told.requests_running == plain.requests_running
    assert told.counters.prefill_tokens == plain.counters.prefill_tokens
    assert all(isinstance(name, str) for name in told.facts.served_names)
    for size in (told.facts.tensor_parallel, told.facts.data_parallel, told.facts.max_num_seqs):
        assert size is None or size > 0
    assert told.gauge_age_seconds is not None
    assert told.gauge_age_seconds >= 0


WANTED_LINES = [
    line for line in UNIFIED.splitlines() if re.split(r"[{ ]", line, maxsplit=1)[0] in SGLANG.wanted
]


@given(shuffled=st.permutations(WANTED_LINES))
def test_the_order_of_lines_does_not_matter(shuffled: list[str]) -> None:
    assert read("\n".join(shuffled) + "\n") == read(UNIFIED)


@st.composite
def hostile_pages(draw: st.DrawFn) -> str:
    """Lines that are missing, without labels, with other ranks, with other values."""
    kept = draw(st.lists(st.sampled_from(WANTED_LINES), min_size=1, max_size=30))
    page = []
    for line in kept:
        label = draw(st.sampled_from(["tp_rank", "pp_rank", "engine_type", "mode", "le", "model_name"]))
        text = draw(st.sampled_from(["", "0", "1", "-1", "prefill", "decode", "9" * 5000, "x", "²"]))
        value = draw(st.floats(allow_nan=False, allow_infinity=False, min_value=-1e12, max_value=1e12))
        series = re.sub(rf'\b{label}="[^"]*"', f'{label}="{text}",dp_rank="{text}"', line.rsplit(" ", 1)[0])
        page.append(f"{series} {value!r}")
    return "\n".join(page) + "\n"


@given(page=hostile_pages())
def test_whatever_the_page_says_counters_are_not_negative(page: str) -> None:
    engines = read(page, loads=LOADS, server_info=SERVER)
    assert len({engine.rank for engine in engines}) == len(engines) > 0
    for engine in engines:
        for name in COUNTER_NAMES:
            value = getattr(engine.counters, name)
            assert value is None or value >= 0


def test_every_wanted_name_of_0_5_23_is_on_its_page() -> None:
    """The rest are of other releases, or need a mode of their own."""
    elsewhere = {
        "sglang:cache_config_info",
        "sglang:engine_startup_time",
        "sglang:startup_time_seconds",
        "sglang:num_aborted_requests_total",
        "sglang:num_prefill_prealloc_queue_reqs",
        "sglang:num_retracted_requests_total",
        "sglang:spec_verify_calls_total",
        *(f"sglang:time_per_output_token_seconds_{part}" for part in ("bucket", "sum", "count")),
    }
    assert SGLANG.wanted - parse_page(UNIFIED.encode(), SGLANG.wanted).families.keys() == elsewhere


def test_aborted_and_retracted_requests_are_counted() -> None:
    engine = read_one(
        UNIFIED
        + lines(
            """
            num_aborted_requests_total{model_name="m"} 3
            num_retracted_requests_total{tp_rank="0",pp_rank="0"} 4
            """
        )
    )
    plain = read_one(UNIFIED)
    assert engine == replace(plain, counters=replace(plain.counters, requests_abort=3, preemptions=4))
