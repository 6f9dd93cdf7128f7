from __future__ import annotations

import csv
from pathlib import Path

import pytest

import agent.simulate
from agent.simulate.parts import H100, H200, L40S
from agent.simulate.step_times import Curve, load_step_times

PARTS = {part.measured_name: part for part in (H100, H200, L40S)}

MEASURED = Path(agent.simulate.__file__).with_name("measured_steps.csv")
ROWS = list(
    csv.DictReader(line for line in MEASURED.read_text("utf-8").splitlines() if not line.startswith("#"))
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: "-".join(list(row.values())[:7]))
def test_a_measured_step_takes_what_was_measured(row: dict[str, str]) -> None:
    times = load_step_times(PARTS[row["part"]], row["model"], int(row["tensor_parallel"]))
    batch, context, prompt = (int(row[key]) for key in ("batch", "context_tokens", "prompt_tokens"))
    if row["phase"] == "decode":
        seconds = sum(times.decode(batch, batch * context))
    else:
        seconds = sum(times.prefill([(0, prompt)], alone=False))
    measured = sum(float(row[f"{kind}_ms"]) for kind in ("gemm", "attention", "comm", "elementwise")) / 1000
    # Attention goes by the total of the context, though one long sequence takes a little more than four.
    assert seconds == pytest.approx(measured, rel=0.015)


def test_a_step_between_the_measured_ones_is_near_one_that_was_measured_elsewhere() -> None:
    # 9.63 ms for 32 sequences of 2048 tokens: in the same database, and not among our rows.
    times = load_step_times(H100, "Llama-3.1-8B", 1)
    assert sum(times.decode(32, 32 * 2048)) == pytest.approx(9.63e-3, rel=0.02)


def test_decode_takes_longer_with_more_sequences_and_with_more_context() -> None:
    times = load_step_times(H100, "Llama-3.1-70B", 4)
    by_batch = [sum(times.decode(batch, 100_000)) for batch in (1, 4, 16, 64, 256)]
    by_context = [sum(times.decode(32, tokens)) for tokens in (10_000, 100_000, 1_000_000)]
    assert by_batch == sorted(set(by_batch))
    assert by_context == sorted(set(by_context))


def test_a_prompt_in_chunks_takes_as_long_as_the_attention_of_the_whole() -> None:
    times = load_step_times(H100, "Llama-3.1-8B", 1)
    whole = times.prefill([(0, 6000)], alone=False)
    first, second = times.prefill([(0, 2048)], alone=False), times.prefill([(2048, 6000)], alone=False)
    assert first[3] + second[3] == pytest.approx(whole[3])
    assert second[3] / (6000 - 2048) > first[3] / 2048, "later tokens look back at more"


def test_a_few_prompt_tokens_alone_wait_for_the_weights() -> None:
    times = load_step_times(H100, "Llama-3.1-8B", 1)
    alone = times.prefill([(0, 10)], alone=True)
    beside_decode = times.prefill([(0, 10)], alone=False)
    assert sum(alone) > times.decode_gemm(1) > 10 * sum(beside_decode)
    assert times.prefill([(0, 4096)], alone=True) == times.prefill([(0, 4096)], alone=False)


def test_small_kernels_of_a_mixture_wait_for_each_other_more_than_for_bytes() -> None:
    times = load_step_times(H200, "Qwen3-235B-A22B", 8)
    gemm, attention, *_, latency = times.decode(1, 1024)
    # 5.5 GB at the 82 % of 4.8 TB/s that large kernels reach.
    assert gemm == pytest.approx(1.39e-3, rel=0.01)
    assert attention < 0.02 * 1.2e-3
    assert latency == pytest.approx(4.7620e-3 + 1.1991e-3 - gemm - attention)
    by_batch = [times.decode(batch, batch * 1024) for batch in (1, 2, 4, 8, 32)]
    shares = [step[-1] / sum(step) for step in by_batch]
    assert shares == sorted(shares, reverse=True), "more experts, more to read at once"


def test_large_kernels_read_all_the_time() -> None:
    assert load_step_times(H100, "Llama-3.1-70B", 8).decode(1, 1024)[-1] == 0


def test_a_curve_is_flat_below_its_points_and_straight_beyond_them() -> None:
    curve = Curve([(2, 10.0), (4, 20.0), (4, 22.0), (8, 29.0)])
    assert [curve(x) for x in (0, 2, 3, 4, 6, 8, 12)] == [10.0, 10.0, 15.5, 21.0, 25.0, 29.0, 37.0]


def test_a_model_that_was_not_measured_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no step of Llama-3\.1-8B on 2 × NVIDIA L40S was measured"):
        load_step_times(L40S, "Llama-3.1-8B", 2)
