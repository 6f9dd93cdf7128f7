"""An engine's traffic: phases from counts of tokens and steps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.readings import EngineCounters
from agent.traffic import Traffic
from agent.window import EngineWindow

WINDOW = EngineWindow(
    seconds=30,
    increments=EngineCounters(),
    running_mean=1.0,
    running_ratio=1.0,
    waiting_mean=0.0,
    held_tokens_mean=500.0,
    kv_points=(),
    prompt_dispersion=1.0,
    seconds_since_step=0.0,
    seconds_stuck=0.0,
)


def traffic(**counts: float | None) -> Traffic | None:
    return Traffic.over(replace(WINDOW, increments=EngineCounters(**counts)))


def test_one_request_at_a_time_prefills_in_steps_of_its_own() -> None:
    seen = traffic(generation_tokens=1000, first_tokens=10, prefill_tokens=5000, steps=1000)
    assert seen is not None
    assert seen.work.prefill_only_steps == 10
    assert seen.work.decode_steps == 990
    assert seen.work.prefill_only_ratio == 1
    assert seen.decode_batch == 1


def test_a_full_batch_prefills_beside_decoding() -> None:
    seen = traffic(generation_tokens=32_000, first_tokens=100, prefill_tokens=50_000, steps=1000)
    assert seen is not None
    assert seen.work.prefill_only_steps == 0
    assert seen.work.decode_steps == 1000
    assert seen.work.carrying_ratio == 0.1


def test_an_engine_that_does_not_count_its_steps_has_them_estimated() -> None:
    seen = traffic(generation_tokens=1010, first_tokens=10, prefill_tokens=5000, steps=None)
    assert seen is not None
    assert not seen.steps_counted
    assert seen.work.decode_steps == 1000


@pytest.mark.parametrize("missing", ["generation_tokens", "first_tokens", "prefill_tokens"])
def test_without_its_tokens_nothing_is_said_of_an_engine(missing: str) -> None:
    counts: dict[str, float | None] = dict.fromkeys(
        ("generation_tokens", "first_tokens", "prefill_tokens", "steps"), 10.0
    )
    assert traffic(**{**counts, missing: None}) is None


@pytest.mark.parametrize(
    ("generated", "first", "computed", "cached", "role"),
    [
        (1000, 10, 5000, 0, "both"),
        (1000, 10, 2000, 3000, "both"),
        (10, 10, 5000, 0, "prefill"),
        (1000, 10, 10, 5000, "decode"),
        (0, 0, 0, 0, None),
    ],
    ids=["a chat", "a shared prefix", "gives first tokens only", "has its prompts from elsewhere", "idle"],
)
def test_a_disaggregated_role_is_recognised(
    generated: float, first: float, computed: float, cached: float, role: str | None
) -> None:
    seen = traffic(
        generation_tokens=generated,
        first_tokens=first,
        prefill_tokens=computed,
        cached_prompt_tokens=cached,
        steps=generated,
    )
    assert seen is not None
    assert seen.role == role
