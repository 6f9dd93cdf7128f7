"""Pages of a Ray node, written by hand: many replicas of vLLM on one page, each read by vLLM's own tables."""

from __future__ import annotations

import random
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engines.ray import RAY
from agent.engines.vllm import VLLM
from agent.readings import COUNTER_NAMES, EngineCounters, EngineReading
from agent.sources.page import parse_page

TESTS = Path(__file__).parent.parent
TEXTS = {
    path.stem.removeprefix("constructed-"): path.read_text()
    for path in (TESTS / "fixtures" / "ray").glob("*.txt")
}
NODE = TEXTS["node-load-1"]
RECORDED = (TESTS / "fixtures" / "vllm" / "0.32.0-load-4.txt").read_text()


def read(text: str) -> tuple[EngineReading, ...]:
    return RAY.read(parse_page(text.encode(), RAY.wanted), {})


def counted(counters: EngineCounters) -> dict[str, float]:
    return {name: value for name in COUNTER_NAMES if (value := getattr(counters, name)) is not None}


# --- one page, many replicas ---------------------------------------------------------------------


def test_each_replica_is_an_engine_under_its_own_id() -> None:
    assert [(engine.engine, engine.rank, engine.model) for engine in read(NODE)] == [
        ("vllm", "m3p8w1cd", "qwen-32b"),
        ("vllm", "q7x2k9ab", "llama-8b"),
    ]


def test_counters_stand_twice_and_count_once() -> None:
    assert NODE.count("ray_vllm_generation_tokens{") == NODE.count("ray_vllm_generation_tokens_total{") == 2
    for engine in read(NODE):
        counters = counted(engine.counters)
        assert counters.pop("inter_token_seconds") == 89.64
        assert counters == {
            "generation_tokens": 5000,
            "prefill_tokens": 16_000,
            "cached_prompt_tokens": 4000,
            "steps": 600,
            "first_tokens": 20,
            "inter_token_intervals": 4980,
            "preemptions": 0,
            "requests_stop": 10,
            "requests_length": 5,
            "requests_abort": 0,
        }


def test_the_mean_decode_batch_is_between_the_requests_running() -> None:
    for before, after in zip(read(NODE), read(TEXTS["node-load-2"]), strict=True):
        tokens = (after.counters.inter_token_intervals or 0) - (before.counters.inter_token_intervals or 0)
        steps = (after.counters.steps or 0) - (before.counters.steps or 0)
        assert (before.requests_running, after.requests_running) == (8, 12)
        assert 8 <= tokens / steps <= 12


def test_state_and_histograms_are_read() -> None:
    for engine in read(NODE):
        assert (engine.requests_running, engine.requests_waiting, engine.kv_used_ratio) == (8, 0, 0.125)
        assert (engine.kv_capacity_tokens, engine.facts.kv_dtype) == (4096 * 16, "auto")
        assert engine.step_tokens is not None
        assert engine.step_tokens.count == engine.counters.steps
        assert engine.request_latency is not None


@pytest.mark.parametrize("only", ["bare", "total"])
def test_one_of_the_two_names_is_enough(only: str) -> None:
    counters = "generation_tokens|prompt_tokens|prefix_cache_hits|num_preemptions|request_success"
    suffix = "_total" if only == "bare" else ""
    text = re.sub(rf"^ray_vllm_({counters}){suffix}\{{.*\n", "", NODE, flags=re.MULTILINE)
    assert text != NODE
    assert read(text) == read(NODE)


def test_of_two_names_the_counters_own_is_believed() -> None:
    text = re.sub(r"^(ray_vllm_generation_tokens\{.*) 5000.0", r"\1 1.0", NODE, flags=re.MULTILINE)
    assert text != NODE
    assert read(text) == read(NODE)


def test_what_carries_no_id_is_nobodys_among_others() -> None:
    assert read(NODE + 'ray_vllm_num_requests_running{engine="0"} 99\n') == read(NODE)


def test_the_colons_of_2_32_are_read_and_processes_are_replicas_there() -> None:
    (engine,) = read(TEXTS["2.32"])
    (expected,) = [engine for engine in read(NODE) if engine.model == "llama-8b"]
    assert engine.rank == "abababab-ee7eebb4"
    assert replace(engine, rank="q7x2k9ab") == expected


def test_a_cut_id_stays_the_same_and_is_not_anothers() -> None:
    def rank(worker: str) -> str:
        (engine,) = read(TEXTS["2.32"].replace("ab" * 28, worker))
        return engine.rank

    assert rank("default#app#1") == "default#app#1"
    assert rank("default#application#1") == rank("default#application#1") != rank("default#application#2")


def test_without_any_id_it_is_one_replica() -> None:
    text = re.sub(r'(WorkerId|ReplicaId)="[^"]*",?', "", TEXTS["2.32"])
    assert [engine.rank for engine in read(text)] == ["0"]


def test_data_parallel_engines_of_a_replica_are_read_apart() -> None:
    second = TEXTS["2.32"].replace('engine="0"', 'engine="1"')
    ranks = [engine.rank for engine in read(TEXTS["2.32"] + second)]
    assert ranks == ["abababab-ee7eebb4/0", "abababab-ee7eebb4/1"]
    assert [engine.counters.steps for engine in read(TEXTS["2.32"] + second)] == [600, 600]


def test_minus_one_is_no_value() -> None:
    text = re.sub(r"(kv_cache_usage_perc.*) 0.125", r"\1 -1", NODE)
    assert [engine.kv_used_ratio for engine in read(text)] == [None, None]


def test_a_recorded_page_of_vllm_reads_alike_under_rays_names() -> None:
    """But for what only the server's own process has: its start, and what it rejects."""
    text = re.sub(r"^vllm:", "ray_vllm_", RECORDED, flags=re.MULTILINE)
    text = re.sub(r"^(ray_vllm_\w+)\{", r'\1{ReplicaId="r1",', text, flags=re.MULTILINE)
    (expected,) = VLLM.read(parse_page(RECORDED.encode(), VLLM.wanted), {})
    (engine,) = read(text)
    assert engine == replace(expected, rank="r1", start_time_seconds=None)


# --- hostile input -------------------------------------------------------------------------------

LINES = [line for line in NODE.splitlines() if line.split("{")[0] in RAY.wanted]


@given(st.sets(st.integers(0, len(LINES) - 1), min_size=1), st.randoms(use_true_random=False))
def test_any_part_of_a_page_in_any_order_is_a_reading(kept: set[int], order: random.Random) -> None:
    lines = [LINES[index] for index in sorted(kept)]
    expected = read("".join(f"{line}\n" for line in lines))
    order.shuffle(lines)
    assert read("".join(f"{line}\n" for line in lines)) == expected
    assert len({engine.rank for engine in expected}) == len(expected) <= 2


NUMBERS = st.floats(-1e29, 1e29) | st.sampled_from([0.0, -1.0])


@given(st.lists(st.tuples(st.sampled_from(LINES), NUMBERS, st.booleans()), min_size=1))
def test_any_values_and_missing_labels_are_readings(lines: list[tuple[str, float, bool]]) -> None:
    named = [
        (line.split("{")[0] if bare else line.rpartition(" ")[0], number) for line, number, bare in lines
    ]
    for engine in read("".join(f"{series} {number!r}\n" for series, number in dict(named).items())):
        assert all(value >= 0 for value in counted(engine.counters).values())
