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
    max_decode_intensity,
    ridge_batch,
    workload,
)
from tests.roofline.test_models import CATALOGUE_NAMES, FACTS, served

GOLDEN = [
    row
    for row in csv.DictReader((FACTS / "golden_costs.csv").read_text().splitlines())
    if row["name"] in CATALOGUE_NAMES
]


def work_of(row: dict[str, str]) -> TokenWork:
    batch, past, new = (float(row[key]) for key in ("batch", "past_or_context", "new_tokens_per_seq"))
    if row["phase"] == "decode":
        return TokenWork(decode_tokens=batch, decode_context_tokens=batch * past, decode_steps=1)
    return TokenWork(
        prefill_tokens=batch * new,
        prefill_pairs=batch * causal_pairs(new_tokens=new, past_tokens=past),
        prefill_past_tokens=batch * past,
        prefill_logits=batch,
        prefill_only_steps=1,
    )


@pytest.mark.parametrize(
    "row", GOLDEN, ids=lambda row: f"{row['name']} {row['phase']} {row['batch']}x{row['past_or_context']}"
)
def test_costs_are_the_published_ones(row: dict[str, str]) -> None:
    both = workload(served(CATALOGUE_NAMES[row["name"]]), work_of(row))
    phase: PhaseWork = both.decode if row["phase"] == "decode" else both.prefill
    assert phase.flops == pytest.approx(float(row["total_flops"]), rel=1e-4)
    assert phase.weight_bytes == pytest.approx(float(row["weight_read_bytes"]), rel=1e-4)
    assert phase.kv_cache_bytes == float(row["kv_read_bytes"]) + float(row["kv_write_bytes"])


def test_the_golden_points_cover_every_dense_model_in_the_catalogue() -> None:
    assert {row["name"] for row in GOLDEN} >= {"Llama-3.1-8B", "Llama-3.1-70B", "Qwen2.5-7B", "Qwen3-32B"}
    assert len(GOLDEN) >= 25


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
    mixed = TokenWork(
        decode_tokens=8, decode_context_tokens=8000, decode_steps=1, prefill_tokens=512, prefill_pairs=131_328
    )
    work = workload(served("llama-3.1-8b"), mixed)
    assert work.prefill.weight_bytes == 0
    assert work.decode.weight_bytes == served("llama-3.1-8b").step_weight_bytes


COUNTS = st.floats(min_value=0, max_value=1e9)


@given(
    work=st.builds(
        TokenWork,
        decode_tokens=COUNTS,
        decode_context_tokens=COUNTS,
        decode_steps=COUNTS,
        prefill_tokens=COUNTS,
        prefill_pairs=COUNTS,
        prefill_past_tokens=COUNTS,
        prefill_logits=COUNTS,
        prefill_only_steps=COUNTS,
    ),
    scale=st.floats(min_value=1e-3, max_value=1e3),
)
def test_intensity_does_not_change_when_time_is_scaled(work: TokenWork, scale: float) -> None:
    model = served("qwen3-8b")
    longer = TokenWork(**{name: getattr(work, name) * scale for name in TokenWork.__slots__})
    for phase in ("prefill", "decode"):
        before = getattr(workload(model, work), phase).intensity_flops_per_byte
        after = getattr(workload(model, longer), phase).intensity_flops_per_byte
        assert before == after or after == pytest.approx(before, rel=1e-9)


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
    work = TokenWork(decode_tokens=32, decode_context_tokens=32 * 1024, decode_steps=1)
    alone = served("llama-3.1-70b")
    assert workload(replace(alone, tensor_parallel=8), work).decode == workload(alone, work).decode
