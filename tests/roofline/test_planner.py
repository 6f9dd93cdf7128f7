"""Plans: never faster than the roof, near to measured kernels, and honest about what fits."""

from __future__ import annotations

import csv
import json
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.roofline.catalogue import find_config
from agent.roofline.models import ServedModel
from agent.roofline.planner import Phase, Plan, Point, plan
from agent.roofline.simplified import PARAMETERS, cost_rows, decode_rows, differences
from agent.roofline.step import attribute, constants_for
from agent.roofline.workload import TokenWork, workload
from agent.units import GIGA
from tests.roofline.test_models import FACTS

MEASURED = list(csv.DictReader((FACTS / "measured_steps.csv").read_text().splitlines()))
LESSON = json.loads((FACTS / "lesson.json").read_text())
MODELS = ("llama-3.1-8b", "llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3", "gpt-oss-120b", "gemma-3-27b")
PARTS = ("H100", "A100", "L40S", "H200", "B200", "T4", "RTX-4090")


def planned(model: str = "llama-3.1-70b", gpu: str = "H100", **choices: Any) -> Plan:
    return plan(Point(model=model, gpu=gpu, **choices))


def measured_plan(row: dict[str, str]) -> Plan:
    return planned(
        row["model"],
        row["system"],
        tensor_parallel=int(row["tp"]),
        expert_parallel=int(row["ep"]),
        phase=row["phase"],
        batch=int(row["batch"]),
        context=int(row["context_len"]) or int(row["isl"]),
        weight_dtype=row["weight_quant"],
        kv_dtype=row["kv_dtype"],
        backend=row["backend"],
    )


# --- against measured kernels --------------------------------------------------------------------------


def test_no_measured_step_is_shorter_than_its_bound() -> None:
    for row in MEASURED:
        assert measured_plan(row).step_seconds_bound <= float(row["step_latency_ms"]) / 1e3, row


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_the_expected_step_is_near_the_measured_one(phase: str) -> None:
    errors = [
        measured_plan(row).step_seconds_expected / (float(row["step_latency_ms"]) / 1e3) - 1
        for row in MEASURED
        if row["phase"] == phase
    ]
    assert statistics.mean(map(abs, errors)) < 0.10
    assert max(map(abs, errors)) < 0.40


def test_the_bottleneck_is_the_measured_side_unless_latency_or_the_link_takes_more() -> None:
    side = {"memory": "memory_bandwidth", "compute": "compute"}
    for row in MEASURED:
        found = measured_plan(row).bottleneck
        if found == "interconnect":
            assert float(row["comm_share"]) > 0.5
        elif found == "kernel_latency":
            assert float(row["mbu"]) < 0.45
        elif abs(float(row["intensity"]) / measured_plan(row).ridge_flops_per_byte - 1) > 0.5:
            assert found == side[row["bound"]], row


# --- the roof, the batch, the context ------------------------------------------------------------------

SETUPS = st.fixed_dictionaries(
    {
        "model": st.sampled_from(MODELS),
        "gpu": st.sampled_from(PARTS),
        "tensor_parallel": st.sampled_from((1, 2, 4, 8)),
        "pipeline_parallel": st.sampled_from((1, 2)),
        "weight_dtype": st.sampled_from((None, "bf16", "fp8", "awq", "nvfp4", "mxfp4", "int8")),
        "kv_dtype": st.sampled_from((None, "fp8")),
        "backend": st.sampled_from(("vllm", "sglang", "trtllm")),
        "phase": st.sampled_from(("decode", "prefill")),
    }
)


@settings(max_examples=100, deadline=None)
@given(setup=SETUPS, batch=st.integers(1, 2048), context=st.integers(1, 100_000))
def test_a_plan_is_never_faster_than_its_roof(setup: dict[str, Any], batch: int, context: int) -> None:
    each = planned(**setup, batch=batch, context=context)
    assert each.step_seconds_expected >= each.step_seconds_bound > 0
    for step in (each.ttft, each.tpot):
        assert step.expected >= step.bound > 0
    assert each.step_seconds_expected == pytest.approx(sum(each.step.parts.values()))
    if each.usd_per_million_tokens is not None:
        assert each.usd_per_million_tokens_floor is not None
        assert each.usd_per_million_tokens_floor <= each.usd_per_million_tokens
    assert each.kv_limited_batch >= 0


@settings(max_examples=60, deadline=None)
@given(setup=SETUPS, batch=st.integers(1, 1024), more=st.integers(1, 1024), context=st.integers(1, 100_000))
def test_intensity_rises_with_the_batch(setup: dict[str, Any], batch: int, more: int, context: int) -> None:
    smaller, larger = (
        planned(**{**setup, "phase": "decode"}, batch=size, context=context) for size in (batch, batch + more)
    )
    # Only where a larger batch touches more experts for few tokens each does it stand still.
    slack = 1 - 1e-9 if not smaller.model.architecture.expert_ffn else 0.98
    assert larger.arithmetic_intensity_flops_per_byte >= smaller.arithmetic_intensity_flops_per_byte * slack


@settings(max_examples=60, deadline=None)
@given(setup=SETUPS, context=st.integers(1, 100_000), more=st.integers(1, 100_000))
def test_fewer_sequences_fit_as_the_context_grows(setup: dict[str, Any], context: int, more: int) -> None:
    shorter, longer = (planned(**setup, context=length) for length in (context, context + more))
    assert longer.kv_limited_batch <= shorter.kv_limited_batch


@settings(max_examples=60, deadline=None)
@given(gpu=st.sampled_from(PARTS[:5]), batch=st.integers(1, 255), context=st.integers(1, 8192))
def test_cost_falls_with_the_batch_up_to_the_ridge(gpu: str, batch: int, context: int) -> None:
    smaller, larger = (planned(gpu=gpu, batch=size, context=context) for size in (batch, batch + 1))
    if larger.ridge_batch is None or larger.point.batch <= larger.ridge_batch:
        assert smaller.usd_per_million_tokens is not None
        assert larger.usd_per_million_tokens is not None
        # At the ridge of what kernels achieve, which comes first, it stands still.
        assert larger.usd_per_million_tokens <= smaller.usd_per_million_tokens * (1 + 1e-9)


# --- memory --------------------------------------------------------------------------------------------


def test_the_batch_that_fits_is_the_room_beside_the_weights_of_all_ranks() -> None:
    each = planned(tensor_parallel=4, context=2048)
    room = 4 * (80 * GIGA * 0.9 - 1.5e9) - each.weight_bytes
    assert each.kv_limited_batch == int(room / (2048 * 327_680)) == 209
    assert planned(tensor_parallel=4, context=2048, batch=209).fits
    beyond = planned(tensor_parallel=4, context=2048, batch=210)
    assert not beyond.fits
    assert beyond.notes == ("a batch of 210 does not fit beside the weights: 209 at this context",)


def test_weights_that_do_not_fit_leave_no_batch_and_say_so() -> None:
    each = planned(tensor_parallel=2)
    assert each.kv_limited_batch == 0
    assert "the weights do not fit" in each.notes[0]
    assert each.gpus_needed == 3
    assert planned(tensor_parallel=2, weight_dtype="fp8").kv_limited_batch > 0


# --- splits --------------------------------------------------------------------------------------------


def test_a_pipeline_has_a_share_of_the_batch_in_each_stage() -> None:
    staged, whole = planned(pipeline_parallel=4, batch=128), planned(batch=32)
    assert staged.gpus == 4
    assert staged.step_seconds_bound == pytest.approx(whole.step_seconds_bound)
    assert staged.tokens_per_second == pytest.approx(4 * whole.tokens_per_second)


def test_tensor_parallel_shortens_the_step_and_adds_collectives() -> None:
    one, four = planned(), planned(tensor_parallel=4)
    assert four.step_seconds_bound == pytest.approx(one.step_seconds_bound / 4)
    assert one.step.interconnect == 0 < four.step.interconnect


def test_experts_divided_over_more_ranks_than_attention_copy_the_attention() -> None:
    shared, copied = (
        planned(
            "deepseek-v3",
            "H200",
            tensor_parallel=tensor,
            expert_parallel=8,
            batch=64,
            weight_dtype="fp8_block",
        )
        for tensor in (8, 1)
    )
    assert shared.gpus == copied.gpus == 8
    assert copied.weight_bytes > shared.weight_bytes
    # Each rank keeps the latent of its own sequences only, not of all of them.
    assert copied.kv_limited_batch > 4 * shared.kv_limited_batch
    # Tokens travel to the experts of other ranks, where no rank has a part of every token.
    assert 0 < copied.step.interconnect < shared.step.interconnect
    assert any(note.startswith("how long tokens take to experts on 8 GPUs") for note in copied.notes)
    assert not any("experts" in note for note in shared.notes)


@pytest.mark.parametrize("phase", ["decode", "prefill"])
@pytest.mark.parametrize(("tensor", "expert"), [(1, 1), (8, 1), (8, 8), (1, 8), (4, 8), (2, 32)])
@pytest.mark.parametrize("model", ["deepseek-v3", "qwen3-30b-a3b"])
def test_the_live_agent_divides_a_step_as_the_planner_does(
    model: str, tensor: int, expert: int, phase: Phase
) -> None:
    """Of replicas that hold the experts together the agent sees one, with its part of the batch."""
    each = planned(
        model, "H200", tensor_parallel=tensor, expert_parallel=expert, phase=phase, batch=64, context=1000
    )
    groups = max(expert // tensor, 1)
    ours = ServedModel(
        name=model,
        architecture=each.model.architecture,
        weight_dtype=each.model.weight_dtype,
        kv_dtype=each.model.kv_dtype,
        part_dtypes=each.model.part_dtypes,
        tensor_parallel=tensor,
        expert_parallel=expert,
    )
    sequences = 64 / groups
    tokens = {
        "decode": TokenWork(decode_tokens=sequences, decode_context=1000, decode_steps=1),
        "prefill": TokenWork(
            prompts=sequences,
            prefill_tokens=sequences * 1000,
            prefill_logits=sequences,
            prefill_only_steps=1,
            prefill_only_ratio=1,
        ),
    }[phase]
    step = each.step
    live = attribute(
        model=ours,
        work=workload(ours, tokens),
        tokens=tokens,
        decode_step_seconds=step.expected,
        window_seconds=1e3,
        roof=each.roof,
        constants=constants_for(each.spec.name, dtype=each.compute_dtype, moe=True),
    )
    assert {name: live.components[name] for name in step.parts} == pytest.approx(step.parts, abs=1e-9)
    assert live.busy_seconds == pytest.approx(step.expected), "nothing is left for the host"


def test_the_ridge_batch_is_of_all_replicas_that_hold_the_experts_together() -> None:
    split: dict[str, Any] = {"gpu": "H200", "expert_parallel": 8, "context": 10, "weight_dtype": "bf16"}
    ridge = planned("qwen3-30b-a3b", **split).ridge_batch
    assert ridge is not None
    there = planned("qwen3-30b-a3b", **split, batch=round(ridge))
    assert there.arithmetic_intensity_flops_per_byte == pytest.approx(there.ridge_flops_per_byte, rel=1e-3)


@pytest.mark.parametrize(("degree", "noted"), [(1, False), (2, False), (8, False), (16, True), (32, True)])
def test_a_degree_whose_all_reduce_was_not_measured_has_a_note(degree: int, noted: bool) -> None:
    notes = planned(tensor_parallel=degree, weight_dtype="fp8", batch=1).notes
    said = f"an all-reduce over {degree} × H100-SXM5-80GB was not measured"
    assert any(note.startswith(said) for note in notes) is noted


def test_gpu_prices_of_the_user_win_and_all_gpus_are_paid() -> None:
    typical, own = planned(tensor_parallel=4), planned(tensor_parallel=4, usd_per_hour=1.0)
    assert typical.usd_per_hour == 2.95
    assert own.usd_per_million_tokens == pytest.approx(4 / 3600 / own.tokens_per_second * 1e6)
    assert planned(gpu="NVIDIA GH200 480GB").usd_per_million_tokens is None


# --- dtypes and names ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "ridge", "gigabytes"),
    [
        ("bf16", 295.3, 139.0),
        ("bfloat16", 295.3, 139.0),
        ("fp8", 590.7, 70.55),
        ("fp8_block", 590.7, 70.55),
        ("int8", 590.7, 70.55),
        ("int4", 295.3, 37.7),
        ("awq", 295.3, 37.7),
        ("gptq", 295.3, 37.7),
        ("mxfp4", 295.3, 38.5),
        ("w4a16_mxfp4", 295.3, 38.5),
        ("nvfp4", 295.3, 40.6),
    ],
)
def test_each_dtype_has_its_bytes_and_its_roof(dtype: str, ridge: float, gigabytes: float) -> None:
    each = planned(weight_dtype=dtype)
    assert each.ridge_flops_per_byte == pytest.approx(ridge, abs=0.1)
    assert each.model.step_weight_bytes(1) / GIGA == pytest.approx(gigabytes, rel=0.005)


def test_a_part_without_the_dtypes_path_computes_in_16_bit_and_says_so() -> None:
    each = planned(gpu="A100", weight_dtype="fp8")
    assert each.ridge_flops_per_byte == pytest.approx(153.0, abs=0.1)
    assert "A100-SXM4-80GB has no fp8 path: fp8 weights are widened to bf16" in each.notes


def test_mxfp4_is_a_format_of_experts() -> None:
    each = planned("gpt-oss-120b", weight_dtype="mxfp4")
    assert each.model.bytes_per_weight("attention") == 2
    assert each.model.bytes_per_weight("experts") == pytest.approx(0.53125)
    assert each.fits


def test_a_dtype_that_is_chosen_wins_over_the_models_own() -> None:
    config = {**(find_config("llama-3.1-8b") or {}), "quantization_config": {"quant_method": "fp8"}}
    point = Point(model="mine", gpu="H100")
    assert plan(point, config=config).model.weight_dtype.name == "fp8"
    chosen = Point(model="mine", gpu="H100", weight_dtype="bf16")
    assert plan(chosen, config=config).model.weight_dtype.name == "bf16"


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"model": "lama-3.1-70b"}, r"model 'lama-3.1-70b' is not known.*llama-3.1-70b.*config.json"),
        ({"gpu": "H1000"}, r"gpu 'H1000' is not known.*H100"),
        ({"gpu": "NVIDIA A16-16Q"}, "gpu 'NVIDIA A16-16Q' is not known"),
        ({"weight_dtype": "fp9"}, r"dtype 'fp9' is not known.*fp8"),
        ({"kv_dtype": "auto"}, "dtype 'auto' is not known"),
        ({"backend": "vlm"}, r"backend 'vlm' is not known.*vllm"),
        ({"phase": "prefil"}, r"phase 'prefil' is not known.*prefill"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"expert_parallel": 2}, "expert_parallel is 2, but llama-3.1-70b has no experts"),
        (
            {"model": "deepseek-v3", "tensor_parallel": 4, "expert_parallel": 6},
            "expert_parallel 6 and tensor_parallel 4 do not divide each other",
        ),
        ({"tensor_parallel": 3}, "tensor_parallel 3 does not divide the 64 heads of llama-3.1-70b"),
        ({"pipeline_parallel": 81}, "pipeline_parallel is 81, but llama-3.1-70b has 80 layers"),
    ],
)
def test_what_is_not_known_is_refused_with_what_resembles_it(choice: dict[str, Any], said: str) -> None:
    with pytest.raises(AgentError, match=said):
        planned(**choice)


# --- the lesson ----------------------------------------------------------------------------------------


def test_the_lessons_decode_table_is_reproduced() -> None:
    assert LESSON["parameters"] == PARAMETERS
    rows = list(decode_rows())
    assert [(row.gpu, row.batch) for row in rows] == [
        (gpu, batch) for gpu in ("H100", "A100", "L40S") for batch in (1, 8, 32, 128)
    ]
    for row in rows:
        expected = LESSON["decode"][row.gpu]
        assert row.intensity_flops_per_byte == row.batch
        assert row.bottleneck == "memory_bandwidth"
        assert row.ridge_flops_per_byte == pytest.approx(expected["ridge"], abs=0.05)
        assert row.step_seconds * 1e3 == pytest.approx(expected["step_ms"], abs=0.006)
        utilization = expected["utilization_percent"][str(row.batch)]
        assert row.utilization_ratio * 100 == pytest.approx(utilization, abs=0.006)
        assert row.tokens_per_second == pytest.approx(expected["tokens_per_second"][str(row.batch)], abs=0.06)


def test_the_lessons_prices_are_reproduced_with_every_gpu_paid() -> None:
    rows = list(cost_rows())
    assert [row.gpu for row in rows] == list(LESSON["cost"])
    for row in rows:
        expected = LESSON["cost"][row.gpu]
        assert row.gpus == expected["gpus"]
        assert row.exact.usd_per_hour == expected["usd_per_hour"]
        assert row.step_seconds * 1e3 == pytest.approx(expected["step_ms"], abs=0.006)
        assert row.tokens_per_second == pytest.approx(expected["tokens_per_second"], abs=0.06)
        assert row.usd_per_million_tokens == pytest.approx(expected["usd_per_million_tokens"], abs=0.005)


def test_beside_the_lesson_the_exact_model_says_what_fits_and_costs_more() -> None:
    fits = {row.gpu: row.exact.fits for row in cost_rows()}
    assert fits == {"H100": False, "A100": False, "L40S": True, "A10G": False}
    for row in cost_rows():
        assert row.exact.usd_per_million_tokens is not None
        assert row.usd_per_million_tokens is not None
        assert row.exact.usd_per_million_tokens > row.usd_per_million_tokens


def test_each_difference_from_the_lesson_has_its_size() -> None:
    text = " ".join(differences())
    for said in (
        "70.55·10⁹, not 59.06·10⁹",
        "320 KiB a token, not 2.5 MB",
        "21.5 GB",
        "42.6, not 128",
        "no sequence",
    ):
        assert said in text
