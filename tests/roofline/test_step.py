"""Step attribution: parts that sum to the whole, and agree with kernels that somebody measured."""

from __future__ import annotations

import csv
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.gpus import find_gpu
from agent.roofline.models import ServedModel
from agent.roofline.roof import Roof
from agent.roofline.step import COMPONENTS, Attribution, attribute, constants_for
from agent.roofline.workload import TokenWork, workload
from tests.roofline.test_models import FACTS, served

H100 = "H100-SXM5-80GB"


def roof_of(part: str) -> Roof:
    spec = find_gpu(part)
    assert spec is not None
    roof = spec.roof("bf16")
    assert roof is not None
    return roof


def attributed(
    model: ServedModel,
    tokens: TokenWork,
    *,
    step_seconds: float,
    part: str = H100,
    window_seconds: float = 30.0,
    roof: Roof | None = None,
) -> Attribution:
    return attribute(
        model=model,
        work=workload(model, tokens),
        tokens=tokens,
        decode_step_seconds=step_seconds,
        window_seconds=window_seconds,
        roof=roof or roof_of(part),
        constants=constants_for(part),
    )


def decoding(batch: float, context: float, steps: float) -> TokenWork:
    return TokenWork(decode_tokens=batch * steps, decode_context=context, decode_steps=steps)


MEASURED = [
    row
    for row in csv.DictReader((FACTS / "measured_steps.csv").read_text().splitlines())
    if row["phase"] == "decode"
    and row["weight_quant"] == "bfloat16"
    and row["model"].startswith("Llama")
    and row["system"] in ("h100_sxm", "h200_sxm")
]
PARTS = {"h100_sxm": H100, "h200_sxm": "H200-SXM"}


@pytest.mark.parametrize(
    "row", MEASURED, ids=lambda r: f"{r['model']} {r['system']} tp{r['tp']} b{r['batch']}"
)
def test_measured_decode_steps_leave_little_to_the_host(row: dict[str, str]) -> None:
    """The measured rows are sums of kernels, without a host: what is left over is the model's error."""
    model = served(row["model"].lower(), tensor_parallel=int(row["tp"]))
    steps = 100.0
    tokens = decoding(float(row["batch"]), float(row["context_len"]), steps)
    step_seconds = float(row["step_latency_ms"]) / 1e3
    result = attributed(
        model, tokens, step_seconds=step_seconds, part=PARTS[row["system"]], window_seconds=1e4
    )
    assert result.residual_ratio == pytest.approx(0.0, abs=0.12)


def test_the_measured_rows_span_both_parts_and_all_degrees() -> None:
    assert {row["system"] for row in MEASURED} == set(PARTS)
    assert {row["tp"] for row in MEASURED} >= {"1", "2", "4", "8"}


def test_decode_at_a_small_batch_waits_for_memory() -> None:
    result = attributed(served("llama-3.1-8b"), decoding(8, 1024, 4000), step_seconds=0.0066)
    assert result.shares["memory_bandwidth"] > 0.7
    assert result.shares["compute"] < 0.02, "what memory does not hide of it"


def test_what_the_model_does_not_explain_is_the_hosts() -> None:
    tokens = decoding(8, 1024, 1500)
    quick, slow = (attributed(served("llama-3.1-8b"), tokens, step_seconds=t) for t in (0.0066, 0.0166))
    assert slow.host == pytest.approx(quick.host + 1500 * 0.010, rel=0.05)
    assert slow.memory_bandwidth == pytest.approx(quick.memory_bandwidth, rel=0.05)


def test_a_model_that_needs_more_than_there_was_is_not_believed() -> None:
    result = attributed(served("llama-3.1-70b"), decoding(8, 1024, 1500), step_seconds=0.0066)
    assert result.unexplained == pytest.approx(result.busy_seconds)
    assert result.residual_ratio is not None
    assert result.residual_ratio < -0.15


def test_without_a_roof_nothing_is_explained_and_the_time_is_still_there() -> None:
    model, tokens = served("llama-3.1-8b"), decoding(8, 1024, 1500)
    result = attribute(
        model=model,
        work=workload(model, tokens),
        tokens=tokens,
        decode_step_seconds=0.01,
        window_seconds=30,
        roof=None,
        constants=constants_for(""),
    )
    assert result.unexplained == pytest.approx(15.0)


def test_a_prompt_at_a_time_is_prefill_that_computes() -> None:
    tokens = TokenWork(
        prompts=100,
        prefill_tokens=8192 * 100,
        prefill_logits=100,
        prefill_only_steps=100,
        prefill_only_ratio=1.0,
    )
    result = attributed(served("llama-3.1-8b"), tokens, step_seconds=0.0)
    assert result.shares["compute"] > 0.9
    assert result.prefill_seconds == pytest.approx(result.busy_seconds)
    assert result.busy_seconds / 100 == pytest.approx(0.1997, rel=0.15)  # measured: 199.7 ms


LONG_PROMPTS = {"prompts": 45, "prefill_tokens": 6000.0 * 45, "prefill_logits": 45}


def test_prefill_that_no_decoding_step_had_time_for_was_done_apart() -> None:
    # The counters would have it carried by steps that took no longer than their own work.
    tokens = replace(decoding(1, 6000, 430), **LONG_PROMPTS)
    result = attributed(served("llama-3.1-8b"), tokens, step_seconds=0.0062)
    assert result.residual_ratio == pytest.approx(0, abs=0.02)
    assert result.shares["unexplained"] == 0
    assert result.busy_seconds == pytest.approx(430 * 0.0062 + result.prefill_seconds, rel=0.1)
    assert result.carried_seconds is not None
    assert result.carried_seconds < 0.05 * result.prefill_seconds


def test_prefill_that_made_decoding_steps_longer_was_carried_by_them() -> None:
    tokens = replace(decoding(1, 6000, 430), **LONG_PROMPTS)
    apart = attributed(served("llama-3.1-8b"), tokens, step_seconds=0.0062)
    longer = 0.0062 + apart.prefill_seconds / 430
    carried = attributed(served("llama-3.1-8b"), tokens, step_seconds=longer)
    assert carried.busy_seconds == pytest.approx(430 * longer, rel=0.05)
    assert carried.carried_seconds == pytest.approx(carried.prefill_seconds, rel=0.05)


def test_a_model_that_is_too_large_for_its_decoding_steps_is_not_believed_beside_prefill() -> None:
    tokens = replace(decoding(8, 1000, 3000), prompts=10, prefill_tokens=10_000.0, prefill_logits=10)
    result = attributed(served("llama-3.1-70b"), tokens, step_seconds=0.0075)
    assert result.shares["unexplained"] == 1


def test_collectives_are_seen_over_pcie() -> None:
    result = attributed(
        served("llama-3.1-70b", tensor_parallel=8), decoding(32, 1024, 100), step_seconds=0.101, part="L40S"
    )
    assert result.interconnect == max(result.components.values())


def test_what_speculation_leaves_over_may_be_the_guessing_models_and_is_not_called_the_hosts() -> None:
    plain = decoding(8, 1024, 1500)
    guessed = replace(
        plain, decode_tokens=2 * 8 * 1500.0, draft_tokens=3 * 8 * 1500, accepted_tokens=8 * 1500
    )
    alone, guessing = (
        attributed(served("llama-3.1-8b"), tokens, step_seconds=0.0166) for tokens in (plain, guessed)
    )
    assert alone.host > 0.5 * alone.busy_seconds
    assert alone.unexplained == guessing.host == 0
    assert guessing.unexplained > 0.5 * guessing.busy_seconds
    assert guessing.residual_ratio is not None
    assert guessing.residual_ratio > 0, "the model is not wrong: the step is longer than it says"


def test_all_tokens_of_a_guess_go_through_the_collectives() -> None:
    model, batch = served("llama-3.1-70b", tensor_parallel=8), 32
    plain, guessed = (
        attributed(model, tokens, step_seconds=0.5, part="L40S")
        for tokens in (
            decoding(batch, 1024, 10),
            replace(decoding(batch, 1024, 10), draft_tokens=3.0 * batch * 10),
        )
    )
    link = constants_for("L40S").all_reduce[8]
    more = 161 * 10 * (3 * batch * 8192 * 2) / link.bytes_per_second
    assert guessed.interconnect - plain.interconnect == pytest.approx(more)


# --- experts over several ranks ----------------------------------------------------------------------


def test_experts_dealt_within_the_tensor_parallel_group_cost_the_same_collectives() -> None:
    sliced, dealt = (
        attributed(
            served("Qwen3-235B-A22B", tensor_parallel=8, expert_parallel=ranks),
            decoding(32, 1024, 100),
            step_seconds=0.02,
        )
        for ranks in (1, 8)
    )
    assert sliced == dealt


def test_experts_held_with_other_replicas_take_an_all_to_all_each_way_in_each_of_their_layers() -> None:
    """DeepSeek-V3 with data-parallel attention over eight: no all-reduce is left, 58 layers have experts."""
    model = served("DeepSeek-V3", expert_parallel=8)
    result = attributed(model, decoding(16, 1024, 10), step_seconds=0.2, part="H200-SXM")
    link = constants_for("H200-SXM").all_reduce[8]
    sent_bytes = 16 * 8 * 7168 * 2 * 7 / 8  # tokens, experts each, width in 16 bit, those on other ranks
    seconds = link.latency_seconds + sent_bytes / (link.bytes_per_second * 2 * 7 / 8)
    assert result.interconnect == pytest.approx(10 * 2 * 58 * seconds)


def test_a_token_goes_to_a_rank_once_for_all_its_experts_there() -> None:
    """So over two GPUs half of the tokens travel, not four times as many."""
    constants = constants_for("H200-SXM")
    two = attributed(
        served("DeepSeek-V3", expert_parallel=2), decoding(512, 1024, 10), step_seconds=1, part="H200-SXM"
    )
    link = constants.all_reduce[2]
    seconds = link.latency_seconds + 512 * 7168 * 2 / link.bytes_per_second
    assert two.interconnect == pytest.approx(10 * 2 * 58 * seconds)


def test_replicas_of_several_ranks_keep_the_all_reduce_after_attention() -> None:
    alone, together = (
        attributed(
            served("DeepSeek-V3", tensor_parallel=4, expert_parallel=ranks),
            decoding(1, 1024, 10),
            step_seconds=0.2,
            part="H200-SXM",
        ).interconnect
        for ranks in (4, 8)
    )
    all_reduce, over_eight = (constants_for("H200-SXM").all_reduce[ranks] for ranks in (4, 8))
    one = all_reduce.latency_seconds + 7168 * 2 / all_reduce.bytes_per_second
    assert alone == pytest.approx(10 * (2 * 61 + 1) * one)
    sent_bytes = 8 * 7168 * 2 * 7 / 8 / 4
    travel = over_eight.latency_seconds + sent_bytes / (over_eight.bytes_per_second * 2 * 7 / 8)
    assert together == pytest.approx(10 * ((2 * 61 + 1 - 58) * one + 2 * 58 * travel))


AMOUNT = st.integers(min_value=0, max_value=10**6)


@given(
    tokens=st.builds(
        TokenWork,
        decode_tokens=AMOUNT,
        draft_tokens=AMOUNT,
        accepted_tokens=AMOUNT,
        decode_context=AMOUNT,
        decode_steps=AMOUNT,
        prompts=AMOUNT,
        prefill_tokens=AMOUNT,
        prompt_past=AMOUNT,
        prefill_logits=AMOUNT,
        prefill_only_steps=AMOUNT,
        prefill_only_ratio=st.floats(min_value=0, max_value=1),
    ),
    step_seconds=st.floats(min_value=0, max_value=1),
    degree=st.sampled_from([1, 2, 8]),
)
def test_components_and_phases_sum_to_the_same_busy_time(
    tokens: TokenWork, step_seconds: float, degree: int
) -> None:
    result = attributed(
        served("llama-3.1-8b", tensor_parallel=degree),
        tokens,
        step_seconds=step_seconds,
    )
    assert sum(result.components.values()) == pytest.approx(result.busy_seconds, abs=1e-9)
    assert 0 <= result.busy_seconds <= 30 * (1 + 1e-9)
    assert all(result.components[name] >= 0 for name in COMPONENTS)
    assert result.prefill_seconds >= 0
    assert result.decode_seconds >= -1e-9
    assert result.carried_seconds is None or 0 <= result.carried_seconds <= result.prefill_seconds + 1e-9
    assert sum(result.shares.values()) == pytest.approx(1.0 if result.busy_seconds > 0 else 0.0)
