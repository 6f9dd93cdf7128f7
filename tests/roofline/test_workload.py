"""FLOPs and bytes against figures computed elsewhere, and the laws they obey."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.workload import (
    PhaseWork,
    TokenWork,
    causal_pairs,
    decode_intensity,
    decode_step,
    max_decode_intensity,
    ridge_batch,
    workload,
)
from tests.roofline.test_models import FACTS, served

GOLDEN = list(csv.DictReader((FACTS / "golden_costs.csv").read_text().splitlines()))


def work_of(row: dict[str, str]) -> TokenWork:
    batch, past, new = (float(row[key]) for key in ("batch", "past_or_context", "new_tokens_per_seq"))
    if row["phase"] == "decode":
        return decode_step(batch=batch, context_tokens=past)
    return TokenWork(
        prompts=batch,
        prefill_tokens=batch * new,
        prompt_past=past,
        prefill_logits=batch,
        prefill_only_steps=1,
        prefill_only_ratio=1,
    )


@pytest.mark.parametrize(
    "row", GOLDEN, ids=lambda row: f"{row['name']} {row['phase']} {row['batch']}x{row['past_or_context']}"
)
def test_costs_are_the_published_ones(row: dict[str, str]) -> None:
    both = workload(served(row["name"]), work_of(row))
    phase: PhaseWork = both.decode if row["phase"] == "decode" else both.prefill
    assert phase.flops == pytest.approx(float(row["total_flops"]), rel=1e-6)
    assert phase.bytes - phase.activation_bytes == pytest.approx(float(row["total_bytes"]), rel=1e-6)
    assert phase.weight_bytes == pytest.approx(float(row["weight_read_bytes"]), rel=1e-6)


def test_the_golden_points_are_100_of_20_models() -> None:
    assert len(GOLDEN) == 100
    assert len({row["name"] for row in GOLDEN}) == 20


def test_decode_at_batch_1_reads_every_weight_for_one_token() -> None:
    assert decode_intensity(served("llama-3.1-70b"), batch=1, context_tokens=2048) == pytest.approx(
        1.034, abs=0.001
    )


def test_a_long_context_keeps_any_batch_below_the_ridge() -> None:
    model = served("llama-3.1-70b")
    assert ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=8192) is None
    assert max_decode_intensity(model, 8192) == pytest.approx(59, abs=1)
    reachable = ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=1000)
    assert reachable is not None
    assert decode_intensity(model, batch=reachable, context_tokens=1000) == pytest.approx(295.3)


def test_prefill_is_charged_weights_only_where_nothing_decodes() -> None:
    mixed = TokenWork(decode_tokens=8, decode_context=1000, decode_steps=1, prompts=1, prefill_tokens=512)
    model = served("llama-3.1-8b")
    work = workload(model, mixed)
    assert work.prefill.weight_bytes == 0
    assert work.decode.weight_bytes == model.step_weight_bytes(520)


def test_a_step_that_carries_prefill_touches_more_experts() -> None:
    model = served("Mixtral-8x7B")
    alone = TokenWork(decode_tokens=1, decode_context=1000, decode_steps=1)
    carrying = replace(alone, prompts=1, prefill_tokens=512)
    assert workload(model, carrying).decode.weight_bytes > 3 * workload(model, alone).decode.weight_bytes


COUNTS = st.integers(min_value=0, max_value=10**9)
EXTENSIVE = (
    "decode_tokens",
    "draft_tokens",
    "accepted_tokens",
    "decode_steps",
    "prompts",
    "prefill_tokens",
    "prefill_logits",
    "prefill_only_steps",
)
"""What grows with time; the other fields are means."""


@given(
    work=st.builds(
        TokenWork,
        **dict.fromkeys(EXTENSIVE, COUNTS),
        decode_context=COUNTS,
        prompt_past=COUNTS,
        prefill_only_ratio=st.floats(min_value=0, max_value=1),
    ),
    scale=st.floats(min_value=1e-3, max_value=1e3),
    name=st.sampled_from(["qwen3-8b", "DeepSeek-V3", "gpt-oss-20b", "Qwen3.5-35B-A3B"]),
)
def test_intensity_does_not_change_when_time_is_scaled(work: TokenWork, scale: float, name: str) -> None:
    model = served(name)
    longer = replace(work, **{field: getattr(work, field) * scale for field in EXTENSIVE})
    for phase in ("prefill", "decode"):
        before = getattr(workload(model, work), phase).intensity_flops_per_byte
        after = getattr(workload(model, longer), phase).intensity_flops_per_byte
        assert before == after or after == pytest.approx(before, rel=1e-6)


@given(batch=st.floats(min_value=1, max_value=4096), context=st.floats(min_value=1, max_value=1e6))
def test_intensity_rises_with_the_batch_and_stays_below_its_limit(batch: float, context: float) -> None:
    model = served("llama-3.1-8b")
    intensity = decode_intensity(model, batch=batch, context_tokens=context)
    assert intensity <= decode_intensity(model, batch=batch * 2, context_tokens=context)
    assert intensity < max_decode_intensity(model, context)


@given(
    lengths=st.lists(st.integers(min_value=1, max_value=10_000), min_size=1, max_size=20),
    past=st.integers(min_value=0, max_value=10_000),
)
def test_causal_pairs_of_mean_and_dispersion_are_those_of_each_prompt(lengths: list[int], past: int) -> None:
    one_by_one = sum(sum(past + i for i in range(1, n + 1)) for n in lengths)
    mean = sum(lengths) / len(lengths)
    dispersion = sum(n * n for n in lengths) / len(lengths) / mean**2
    together = len(lengths) * causal_pairs(new_tokens=mean, past_tokens=past, dispersion=dispersion)
    assert together == pytest.approx(one_by_one)


def test_tensor_parallel_ranks_share_the_same_work() -> None:
    work = decode_step(batch=32, context_tokens=1024)
    alone = served("llama-3.1-70b")
    assert workload(replace(alone, tensor_parallel=8), work).decode == workload(alone, work).decode


# --- speculation -----------------------------------------------------------------------------------

GUESSES = st.integers(min_value=0, max_value=15)
SPECULATED = st.sampled_from(["llama-3.1-8b", "DeepSeek-V3", "gpt-oss-20b", "Qwen3.5-35B-A3B"])


@given(name=SPECULATED, batch=st.integers(1, 512), guesses=GUESSES, context=st.integers(1, 100_000))
def test_guesses_cost_what_as_many_sequences_cost_but_for_reading_their_cache(
    name: str, batch: int, guesses: int, context: int
) -> None:
    model, tokens = served(name), 1 + guesses
    verified = workload(
        model, decode_step(batch=batch, context_tokens=context, tokens_per_sequence=tokens)
    ).decode
    apart = workload(model, decode_step(batch=batch * tokens, context_tokens=context)).decode
    assert verified.flops == pytest.approx(apart.flops)
    assert verified.weight_bytes == pytest.approx(apart.weight_bytes)
    read_bytes = model.kv_bytes(context) + model.state_bytes
    saved = apart.kv_cache_bytes - verified.kv_cache_bytes
    assert saved == pytest.approx(batch * guesses * read_bytes, rel=1e-6, abs=1e-6 * apart.kv_cache_bytes)


@given(
    decoded=st.integers(1, 10**6),
    right=st.floats(0, 1),
    wrong=st.integers(0, 10**6),
    steps=st.integers(1, 10**4),
)
def test_wrong_guesses_are_work_and_right_ones_save_reading(
    decoded: int, right: float, wrong: int, steps: int
) -> None:
    plain = TokenWork(decode_tokens=decoded, decode_steps=steps, decode_context=1000)
    accepted = right * decoded * 0.9
    all_right = replace(plain, draft_tokens=accepted, accepted_tokens=accepted)
    some_wrong = replace(all_right, draft_tokens=accepted + wrong)
    model = served("llama-3.1-8b")
    none, saving, wasting = (workload(model, work).decode for work in (plain, all_right, some_wrong))
    # What was given is what was computed, as long as every guess is right.
    assert saving.flops == pytest.approx(none.flops)
    assert saving.kv_cache_bytes <= none.kv_cache_bytes * (1 + 1e-9)
    assert wasting.flops == pytest.approx(none.flops * (1 + wrong / decoded))
    assert wasting.kv_cache_bytes >= saving.kv_cache_bytes
    assert wasting.weight_bytes == saving.weight_bytes == none.weight_bytes


def test_guesses_touch_more_experts() -> None:
    model = served("Mixtral-8x7B")
    guessing = decode_step(batch=1, context_tokens=1000, tokens_per_sequence=4)
    assert workload(model, guessing).decode.weight_bytes == model.step_weight_bytes(4)


def test_without_decoding_sequences_a_token_stands_for_itself() -> None:
    assert TokenWork().tokens_per_sequence_step == 1
    late = TokenWork(draft_tokens=30, accepted_tokens=20)  # booked after the sequences were gone
    assert (late.sequence_steps, late.verified_tokens, late.tokens_per_sequence_step) == (0, 30, 1)


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-V3", "Llama-3.1-70B"])
@pytest.mark.parametrize("tokens", [1, 2.5, 4, 8])
def test_with_guesses_too_the_ridge_batch_has_the_ridge_as_its_intensity(name: str, tokens: float) -> None:
    model = served(name)
    batch = ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=32, tokens_per_sequence=tokens)
    assert batch is not None
    intensity = decode_intensity(model, batch=batch, context_tokens=32, tokens_per_sequence=tokens)
    assert intensity == pytest.approx(295.3, rel=1e-3)


@given(tokens=st.floats(1, 16), more=st.floats(0.01, 16), context=st.integers(1, 1000))
def test_the_more_tokens_a_sequence_brings_the_fewer_sequences_reach_the_ridge(
    tokens: float, more: float, context: int
) -> None:
    model = served("llama-3.1-70b")
    few, many = (
        ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=context, tokens_per_sequence=each)
        for each in (tokens, tokens + more)
    )
    assert few is not None
    assert many is not None
    # Sequences read their cache once for all their tokens: it falls faster than the tokens rise.
    assert many * (tokens + more) <= few * tokens * (1 + 1e-6)


def test_guesses_lift_a_context_that_no_batch_could_lift_to_the_ridge() -> None:
    model = served("llama-3.1-70b")
    assert ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=8192) is None
    assert max_decode_intensity(model, 8192, tokens_per_sequence=6) > 295.3
    assert ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=8192, tokens_per_sequence=6)


@given(
    new=st.integers(min_value=1, max_value=3000),
    past=st.integers(min_value=0, max_value=3000),
    window=st.integers(min_value=1, max_value=4000),
)
def test_a_window_bounds_what_each_token_sees(new: int, past: int, window: int) -> None:
    one_by_one = sum(min(past + i, window) for i in range(1, new + 1))
    assert causal_pairs(new_tokens=new, past_tokens=past, window=window) == pytest.approx(one_by_one)


@pytest.mark.parametrize("name", ["Mixtral-8x7B", "Qwen3-30B-A3B", "DeepSeek-V3", "Llama-3.1-70B"])
def test_the_ridge_batch_has_the_ridge_as_its_intensity(name: str) -> None:
    model = served(name)
    batch = ridge_batch(model, ridge_flops_per_byte=295.3, context_tokens=32)
    assert batch is not None
    assert decode_intensity(model, batch=batch, context_tokens=32) == pytest.approx(295.3, rel=1e-3)
