"""An engine's traffic: phases from counts of tokens and steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@pytest.mark.parametrize("missing", ["generation_tokens", "prefill_tokens"])
def test_without_its_tokens_nothing_is_said_of_an_engine(missing: str) -> None:
    counts: dict[str, float | None] = dict.fromkeys(
        ("generation_tokens", "first_tokens", "prefill_tokens", "steps"), 10.0
    )
    assert traffic(**{**counts, missing: None}) is None


# --- speculation -----------------------------------------------------------------------------------


def guessing(**counts: float) -> Traffic:
    """As vLLM, ten requests of 100 tokens each, of which a step gave a sequence two and a half."""
    counted: dict[str, float] = {
        "generation_tokens": 1010,
        "first_tokens": 10,
        "prefill_tokens": 5000,
        "steps": 110,
        "drafts": 400,
        "draft_tokens": 1200,
        "accepted_draft_tokens": 600,
        "inter_token_seconds": 12.0,
        "inter_token_intervals": 400,
    }
    seen = traffic(**{**counted, **counts})
    assert seen is not None
    return seen


def test_tokens_that_were_guessed_are_no_sequences() -> None:
    seen = guessing()
    assert seen.work.decode_tokens == 1000
    assert seen.work.sequence_steps == 400
    assert seen.work.verified_tokens == 1600, "the wrong guesses too"
    assert seen.work.tokens_per_sequence_step == 4
    assert seen.decode_batch == pytest.approx(400 / 110)
    assert seen.decode_step_seconds == pytest.approx(0.030), "one interval a sequence and step"


def test_with_guesses_too_a_step_without_a_sequence_only_prefilled() -> None:
    seen = guessing(steps=405)
    assert (seen.work.prefill_only_steps, seen.work.decode_steps) == (5, 400)
    assert seen.decode_batch == 1


def test_guesses_beyond_the_end_of_an_answer_take_no_sequence_away() -> None:
    seen = guessing(accepted_draft_tokens=620)
    assert seen.work.sequence_steps == 400
    assert seen.work.verified_tokens == 1600


def test_an_engine_that_only_counts_how_often_it_guessed_is_read_as_before() -> None:
    seen = traffic(generation_tokens=1010, first_tokens=10, prefill_tokens=5000, steps=400, drafts=300)
    assert seen is not None
    assert (seen.work.sequence_steps, seen.work.verified_tokens) == (1000, 1000)


def test_guesses_beside_sequences_that_were_counted_live() -> None:
    """As llama.cpp: busy slots are sequences, and what was guessed is booked beside them."""
    seen = seen_by(
        replace(WINDOW, tokens_at_end=True),
        generation_tokens=900,
        prefill_tokens=0,
        steps=300,
        sequence_steps=600,
        drafts=500,
        draft_tokens=1500,
        accepted_draft_tokens=700,
    )
    assert seen.decode_batch == 2
    assert (seen.work.sequence_steps, seen.work.verified_tokens) == (600, 2100)


COUNT = st.integers(min_value=0, max_value=10**6)


@given(generated=COUNT, first=COUNT, steps=COUNT, drafts=COUNT, drafted=COUNT, accepted=COUNT)
def test_no_counts_of_guesses_give_more_steps_than_there_were_or_less_than_a_sequence_in_one(
    generated: int, first: int, steps: int, drafts: int, drafted: int, accepted: int
) -> None:
    seen = guessing(
        generation_tokens=generated,
        first_tokens=first,
        steps=steps,
        drafts=drafts,
        draft_tokens=drafted,
        accepted_draft_tokens=accepted,
    )
    work = seen.work
    assert 0 <= work.prefill_only_steps + work.decode_steps <= steps
    assert work.decode_steps <= work.sequence_steps <= max(generated - first, 0)
    assert work.verified_tokens >= work.sequence_steps
    assert seen.decode_batch is None or seen.decode_batch >= 1


# --- engines that count otherwise --------------------------------------------------------------------


def seen_by(window: EngineWindow, **counts: float | None) -> Traffic:
    seen = Traffic.over(replace(window, increments=EngineCounters(**counts)))
    assert seen is not None
    return seen


def test_steps_counted_by_phase_and_timed_by_the_engine_are_taken_so() -> None:
    """As TGI before 1.4: forward passes by method, tokens only when a request ends."""
    tgi = replace(WINDOW, running_mean=6.0, running_ratio=0.75, tokens_at_end=True, held_tokens_mean=None)
    seen = seen_by(
        tgi,
        generation_tokens=20_000,  # of requests that began long ago
        prefill_tokens=4000,
        requests_finished=20,
        decode_steps=1000,
        decode_step_seconds=20.0,
        prefill_steps=8,
    )
    assert seen.decode_batch == pytest.approx(8)  # while anything ran
    assert seen.work.decode_tokens == pytest.approx(8000)
    assert (seen.work.decode_steps, seen.work.prefill_only_steps, seen.work.prefill_only_ratio) == (
        1000,
        8,
        1,
    )
    assert seen.decode_step_seconds == pytest.approx(0.020)
    assert seen.work.prompts == 20


def test_sequences_counted_live_come_before_tokens_booked_late() -> None:
    """As llama.cpp: busy slots in each step; neither requests nor times of steps are counted."""
    seen = seen_by(
        replace(WINDOW, tokens_at_end=True, running_mean=4.0),
        generation_tokens=0,
        prefill_tokens=3000,
        steps=900,
        sequence_steps=3000,
    )
    assert seen.decode_batch == pytest.approx(3000 / 900)
    assert seen.work.decode_tokens == 3000
    assert seen.work.prompts == pytest.approx(6)  # at most: 3000 tokens, of which each holds 500
    assert seen.decode_step_seconds == pytest.approx(30 / 900)  # at most


def test_steps_that_are_not_counted_follow_from_the_time_of_one() -> None:
    """As trtllm-serve: the time of the last step, and tokens only when a request ends."""
    seen = seen_by(
        replace(
            WINDOW, tokens_at_end=True, running_mean=12.0, running_ratio=0.5, last_step_seconds_mean=0.010
        ),
        generation_tokens=0,
        first_tokens=0,
        prefill_tokens=0,
    )
    assert not seen.steps_counted
    assert seen.work.decode_steps == pytest.approx(1500)  # 15 s of steps of 10 ms
    assert seen.decode_batch == pytest.approx(24)
    assert seen.decode_step_seconds == pytest.approx(0.010)


def test_a_step_is_as_long_as_the_engine_measured_it() -> None:
    """As SGLang: moments of contiguous steps, without their own inter-token times."""
    seen = seen_by(
        WINDOW,
        generation_tokens=8010,
        first_tokens=10,
        prefill_tokens=100,
        decode_steps=1000,
        prefill_steps=10,
        timed_steps=500,
        timed_seconds=6.0,
    )
    assert seen.decode_step_seconds == pytest.approx(0.012)
    assert seen.decode_batch == 8


@pytest.mark.parametrize(
    ("counts", "prompts"),
    [
        ({"first_tokens": 7, "requests_finished": 5}, 7),
        ({"requests_finished": 5}, 5),
        ({"requests_stop": 3, "requests_length": 1}, 4),
        ({}, 10),
    ],
    ids=["first tokens", "requests that ended", "by how they ended", "by the length that they can have"],
)
def test_prompts_are_counted_by_the_best_there_is(counts: dict[str, float], prompts: float) -> None:
    seen = seen_by(WINDOW, generation_tokens=1000, prefill_tokens=5000, steps=1000, **counts)
    assert seen.work.prompts == prompts


def test_prompts_of_no_known_length_are_not_guessed() -> None:
    window = replace(
        WINDOW,
        held_tokens_mean=None,
        increments=EngineCounters(generation_tokens=1000, prefill_tokens=5000, steps=1000),
    )
    assert Traffic.over(window) is None


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
