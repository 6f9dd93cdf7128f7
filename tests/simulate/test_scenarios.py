from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import agent.simulate
from agent.simulate.scenario import (
    Engine,
    Gpu,
    Lengths,
    Outage,
    Scenario,
    Server,
    Speculation,
    Traffic,
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
        ({"traffic": Traffic(shared_prefix_tokens=100)}, "whole blocks"),
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
