from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

import agent.simulate
from agent.errors import SourceError
from agent.readings import GpuReading
from agent.simulate.scenario import (
    Engine,
    Gpu,
    Lengths,
    Outage,
    Scenario,
    Server,
    Speculation,
    Traffic,
    TrafficChange,
)
from agent.simulate.scenarios import LLAMA_8B, SCENARIOS
from tests.simulate.conftest import NodeFactory
from tests.simulate.pages import page_of

ALLOWED = ("agent.simulate", "agent.readings", "agent.clock", "agent.errors", "agent.sources.base")
MODULES = sorted(Path(agent.simulate.__file__).parent.glob("**/*.py"))


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports here are absolute"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_the_simulator_shares_no_mathematics_with_the_agent(path: Path) -> None:
    ours = [name for name in imports(path) if name.split(".")[0] == "agent"]
    assert [name for name in ours if not f"{name}.".startswith(tuple(f"{a}." for a in ALLOWED))] == []


def test_the_import_test_sees_the_modules() -> None:
    assert {"node", "engine", "truth"} <= {path.stem for path in MODULES}


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS.keys())
def test_a_scenario_says_what_it_is_about(scenario: Scenario) -> None:
    assert scenario.description.endswith(".")
    assert scenario.servers


def test_kv_nearly_full_stays_nearly_full_without_preemption(make_node: NodeFactory) -> None:
    node, clock = make_node("kv-nearly-full")
    clock.advance(20)
    for _ in range(30):
        clock.advance(5)
        assert 0.85 <= page_of(node)["kv_cache_usage_perc"] < 1
    assert node.truth.work(0).preemptions == 0


def test_kv_filling_fills_for_five_minutes_without_preemption(make_node: NodeFactory) -> None:
    node, clock = make_node("kv-filling")
    clock.advance(15)
    used = [page_of(node)["kv_cache_usage_perc"]]
    for _ in range(19):
        clock.advance(15)
        used.append(page_of(node)["kv_cache_usage_perc"])
    assert used[0] < 0.1
    assert 0.75 < used[-1] < 0.9
    assert all(0.02 < later - earlier < 0.08 for earlier, later in pairwise(used))
    assert node.truth.work(0).preemptions == 0


def test_a_single_user_works_the_gpu_a_third_of_the_time_and_never_rests_for_long(
    make_node: NodeFactory,
) -> None:
    node, clock = make_node("single-user")
    clock.advance(300)
    work = node.truth.work(0)
    assert work.batch_sum == work.decode_steps > 0, "one sequence at a time"
    assert 0.2 < 1 - node.truth.seconds(0, 0, 300)["idle"] / 300 < 0.4
    for start in range(285):
        assert node.truth.seconds(0, start, start + 15)["idle"] < 14


def test_interference_keeps_tokens_waiting_for_the_prompts_of_others(make_node: NodeFactory) -> None:
    node, clock = make_node("interference")
    clock.advance(120)
    page = page_of(node)
    in_time = page.labelled("inter_token_latency_seconds_bucket", le="0.1")
    assert 0.05 < 1 - in_time / page["inter_token_latency_seconds_count"] < 0.15
    seconds = node.truth.seconds(0, 20, 120)
    assert seconds["compute"] > 0.45 * 100
    assert seconds["memory_bandwidth"] > 0.35 * 100


def test_overloaded_answers_later_and_later_beside_a_cache_that_is_nearly_empty(
    make_node: NodeFactory,
) -> None:
    node, clock = make_node("overloaded")
    clock.advance(30)
    pages = [page_of(node)]
    for _ in range(9):
        clock.advance(30)
        pages.append(page_of(node))
    for before, after in pairwise(pages):
        first = "time_to_first_token_seconds"
        late = [
            page[f"{first}_count"] - page.labelled(f"{first}_bucket", le="2.5") for page in (before, after)
        ]
        answered = after[f"{first}_count"] - before[f"{first}_count"]
        assert late[1] - late[0] == answered > 100
        assert after["num_requests_waiting"] > before["num_requests_waiting"] > 50
        assert after["kv_cache_usage_perc"] < 0.05


def test_traffic_that_fell_gives_a_fraction_of_the_tokens(make_node: NodeFactory) -> None:
    node, clock = make_node("traffic-fell")
    clock.advance(30)
    tokens, running = [node.truth.work(0).generation_tokens], [page_of(node)["num_requests_running"]]
    for _ in range(3):
        clock.advance(30)
        tokens.append(node.truth.work(0).generation_tokens)
        running.append(page_of(node)["num_requests_running"])
    assert min(running[:2]) > 120
    assert running[2:] == [4, 4]
    many, _, few = (later - earlier for earlier, later in pairwise(tokens))
    assert many > 10 * few


def test_heat_halves_the_clock_and_doubles_prefill(make_node: NodeFactory) -> None:
    node, clock = make_node("overheated")
    free, free_clock = make_node("compute-bound-prefill")
    for one, its_clock in ((node, clock), (free, free_clock)):
        one.nvml.read()
        its_clock.advance(60)
    hot, cool = (one.nvml.read().gpus[0] for one in (node, free))
    assert isinstance(hot, GpuReading)
    assert isinstance(cool, GpuReading)
    assert hot.clock_limit_reasons == ("hw_slowdown", "sw_thermal", "hw_thermal")
    assert hot.sm_clock_hertz == 990e6
    assert (hot.power_limit_watts, cool.power_limit_watts) == (700, 700)
    assert hot.temperature_celsius is not None
    assert hot.power_watts is not None
    assert hot.temperature_celsius >= 88
    assert hot.power_watts <= 350
    limited = hot.counters.clock_limited_seconds
    assert limited is not None
    assert {reason for reason, seconds in limited.items() if seconds > 50} == {"sw_thermal", "hw_thermal"}
    assert node.truth.work(0).prefill_tokens < 0.6 * free.truth.work(0).prefill_tokens


def test_a_fault_is_reported_from_its_time_on_and_work_goes_on(make_node: NodeFactory) -> None:
    node, clock = make_node("failing-memory")
    clock.advance(59)
    for gpu in node.nvml.read().gpus:
        assert gpu.health.xid_errors == {}
    before = node.truth.work(1).steps
    clock.advance(60)
    healthy, failing = node.nvml.read().gpus
    assert isinstance(failing, GpuReading)
    health = failing.health
    assert health.xid_errors == {48: 1, 63: 1, 94: 1}
    assert health.last_xid_unix_seconds == clock.unix() - 59
    assert (health.ecc_uncorrected_errors, health.row_remap_pending) == (1, True)
    assert health.recovery_action == "drain_and_reset"
    assert healthy.health.xid_errors == {}
    assert (healthy.health.ecc_uncorrected_errors, healthy.health.recovery_action) == (0, "none")
    assert node.truth.work(1).steps > before + 1000


def test_a_driver_that_is_down_tells_nothing_while_the_engine_works(make_node: NodeFactory) -> None:
    scenario = SCENARIOS["driver-down"]
    node, clock = make_node(replace(scenario, outages=(replace(scenario.outages[0], until_seconds=90),)))
    clock.advance(60)
    before = page_of(node)["generation_tokens_total"]
    with pytest.raises(SourceError, match="Timeout") as raised:
        node.nvml.read()
    assert raised.value.reason == "timeout"
    clock.advance(29)
    assert page_of(node)["generation_tokens_total"] > before
    clock.advance(1)
    assert len(node.nvml.read().gpus) == 1


def test_what_changes_is_known_beforehand() -> None:
    changes = {name: SCENARIOS[name].change_seconds for name in ("mixed", "gpu-lost", "hung-engine")}
    assert changes == {"mixed": (), "gpu-lost": (120, 240), "hung-engine": (60,)}
    assert SCENARIOS["traffic-fell"].change_seconds == SCENARIOS["failing-memory"].change_seconds == (60,)


def test_preempting_preempts_all_the_time_while_others_wait(make_node: NodeFactory) -> None:
    node, clock = make_node("preempting")
    clock.advance(20)
    for _ in range(10):
        before = node.truth.work(0).preemptions
        clock.advance(10)
        assert node.truth.work(0).preemptions > before
        assert page_of(node)["num_requests_waiting"] > 0


def test_at_max_num_seqs_others_wait_beside_a_cache_that_is_nearly_empty(make_node: NodeFactory) -> None:
    node, clock = make_node("max-num-seqs")
    clock.advance(60)
    page = page_of(node)
    assert page["num_requests_running"] + page["num_requests_waiting"] == 40
    assert 15 <= page["num_requests_running"] <= 16
    assert page["kv_cache_usage_perc"] < 0.1


def test_engines_that_share_a_gpu_each_get_their_turn(make_node: NodeFactory) -> None:
    node, clock = make_node("shared-gpu")
    alone, alone_clock = make_node("memory-bound-decode")
    clock.advance(60)
    alone_clock.advance(60)
    first, second = node.truth.work(0).generation_tokens, node.truth.work(1).generation_tokens
    assert first == pytest.approx(second, rel=0.02)
    assert first < 0.6 * alone.truth.work(0).generation_tokens


def test_speculation_gives_more_tokens_a_step_than_sequences_and_pays_for_a_model_that_guesses(
    make_node: NodeFactory,
) -> None:
    node, clock = make_node("speculative-decoding")
    alone, alone_clock = make_node("memory-bound-decode")
    clock.advance(60)
    alone_clock.advance(60)
    found, guessed, plain = node.truth.work(0), node.truth.work(1), alone.truth.work(0)
    assert found.generation_tokens > 1.5 * plain.generation_tokens
    for work in (found, guessed):
        assert work.draft_tokens == 3 * work.batch_sum
        assert work.batch_sum < work.generation_tokens <= work.batch_sum + work.accepted_tokens + 6 * 60
    assert guessed.accepted_tokens / guessed.draft_tokens > found.accepted_tokens / found.draft_tokens
    assert plain.steps > found.steps > guessed.steps


ENGINE = Engine(model=LLAMA_8B, gpus=(0,), traffic=Traffic(), num_gpu_blocks=100)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"traffic": Traffic(prompt=Lengths(low=1, high=2000))}, "wait forever"),
        (
            {"traffic": Traffic(output=Lengths(low=1, high=40_000)), "num_gpu_blocks": 3000},
            "longer than the model's context",
        ),
        ({"traffic": Traffic(shared_prefix_tokens=100)}, "whole blocks"),
        (
            {"traffic_changes": (TrafficChange(at_seconds=1, traffic=Traffic(shared_prefix_tokens=16)),)},
            "must keep it",
        ),
        ({"max_num_seqs": 4096}, "no tokens for prefill"),
        (
            {"max_num_seqs": 600, "speculation": Speculation(tokens=3, acceptance_ratio=0.5)},
            "no tokens for prefill",
        ),
    ],
)
def test_an_engine_that_could_not_run_is_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        replace(ENGINE, **change)  # type: ignore[arg-type]  # the table mixes fields


@pytest.mark.parametrize(
    ("gpus", "placements", "outage", "problem"),
    [
        (3, [(0, 1), (1, 2)], None, "all their GPUs or none"),
        (1, [(0, 1)], None, "of those that are there"),
        (2, [(0, 1)], Outage(what="gpu_lost", index=1, at_seconds=1), "can be lost"),
    ],
)
def test_a_node_that_could_not_be_is_refused(
    gpus: int, placements: list[tuple[int, ...]], outage: Outage | None, problem: str
) -> None:
    with pytest.raises(ValueError, match=problem):
        Scenario(
            name="bad",
            description="",
            gpus=(Gpu(),) * gpus,
            servers=tuple(Server(engines=(replace(ENGINE, gpus=place),)) for place in placements),
            outages=(outage,) if outage else (),
        )
