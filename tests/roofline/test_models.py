"""Architectures against the published counts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UnknownModelError
from agent.roofline.catalogue import find_config, known_names
from agent.roofline.dtypes import find_dtype
from agent.roofline.families import parse_architecture
from agent.roofline.models import Architecture, ServedModel

FACTS = Path(__file__).parents[1] / "fixtures" / "facts"
PUBLISHED = {row["name"]: row for row in csv.DictReader((FACTS / "models.csv").read_text().splitlines())}

# Where a published count has parts that this one leaves out, or the other way round.
COUNTED_OTHERWISE = {
    "GLM-5": "its published linear parameters leave out the indexer of sparse attention",
    "gemma-4-26B-A4B": "its published total has norms of the experts' branch that are not counted here",
}


def architecture_of(name: str) -> Architecture:
    config = find_config(name)
    assert config is not None
    return parse_architecture(config)


def served(name: str, **choices: Any) -> ServedModel:
    bf16 = find_dtype("bf16")
    assert bf16 is not None
    given: dict[str, Any] = {"weight_dtype": bf16, "kv_dtype": bf16, **choices}
    return ServedModel(name=name, architecture=architecture_of(name), **given)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name: str) -> None:
    row, architecture = PUBLISHED[name], architecture_of(name)
    assert architecture.total_parameters == pytest.approx(int(row["total_params"]), rel=2e-5)
    assert architecture.active_parameters == pytest.approx(int(row["active_params"]), rel=1e-4)
    assert architecture.head_parameters == int(row["lm_head_params"])
    parts = architecture.parameters
    for part, column in (
        ("recurrent", "recurrent_params"),
        ("dense_ffn", "dense_ffn_params"),
        ("experts", "routed_expert_params"),
        ("shared_experts", "shared_expert_params"),
        ("router", "router_params"),
    ):
        assert parts[part] == int(row[column] or 0), part  # type: ignore[index]  # keys are literals
    if name not in COUNTED_OTHERWISE:
        assert architecture.linear_parameters == int(row["linear_params_per_token"])
        assert parts["attention"] == int(row["attn_params"])


@pytest.mark.parametrize("groups", [1, 2, 8])
@pytest.mark.parametrize("tensor_parallel", [1, 4])
def test_replicas_that_hold_the_experts_together_have_them_once(groups: int, tensor_parallel: int) -> None:
    alone = served("DeepSeek-V3", tensor_parallel=tensor_parallel)
    one = served("DeepSeek-V3", tensor_parallel=tensor_parallel, expert_parallel=tensor_parallel * groups)
    assert one.expert_groups == groups
    assert one.ranks == tensor_parallel, "the others are other engines"
    experts = alone.architecture.parameters["experts"] * alone.bytes_per_weight("experts")
    assert groups * one.weight_bytes == pytest.approx(groups * (alone.weight_bytes - experts) + experts)
    # All of them together read the experts that all their tokens touch.
    touched = one.step_weight_bytes(3) - one.step_weight_bytes(0)
    assert one.step_weight_bytes(0) == alone.step_weight_bytes(0)
    assert groups * touched == pytest.approx(alone.step_weight_bytes(3 * groups) - alone.step_weight_bytes(0))


@pytest.mark.parametrize(
    ("tensor", "expert", "ranks", "dealt", "groups"),
    [(8, 8, 2, 2, 1), (8, 1, 2, 1, 1), (1, 8, 2, 16, 8), (4, 8, 8, 16, 2), (2, 2, 8, 2, 1)],
)
def test_on_other_ranks_as_many_replicas_hold_the_experts_together(
    tensor: int, expert: int, ranks: int, dealt: int, groups: int
) -> None:
    model = served("DeepSeek-V3", tensor_parallel=tensor, expert_parallel=expert, pipeline_parallel=2)
    other = model.over(ranks)
    assert (other.tensor_parallel, other.expert_parallel, other.pipeline_parallel) == (ranks, dealt, 2)
    assert other.expert_groups == groups == model.expert_groups
    assert model.over(ranks, pipeline_parallel=1).pipeline_parallel == 1
    assert model.over(tensor) == model


def test_a_model_without_experts_is_held_by_each_replica_alone() -> None:
    dense, dealt = served("llama-3.1-8b"), served("llama-3.1-8b", expert_parallel=8)
    assert dealt.expert_groups == 1
    assert (dealt.weight_bytes, dealt.step_weight_bytes(9)) == (
        dense.weight_bytes,
        dense.step_weight_bytes(9),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_kv_cache_and_state_are_exactly_the_published_ones(name: str) -> None:
    model, row = served(name), PUBLISHED[name]
    assert model.kv_bytes_per_token == int(row["kv_bytes_per_token_bf16"])
    assert model.state_bytes == int(row["recurrent_state_bytes_per_seq"] or 0)
    grown = model.kv_bytes(2_000_001) - model.kv_bytes(2_000_000)
    assert grown == int(row["kv_bytes_per_token_bf16_full_layers"] or 0), "full windows do not grow"


def test_every_published_model_is_in_the_catalogue() -> None:
    assert len(PUBLISHED) == 40
    assert all(find_config(name) is not None for name in PUBLISHED)


def test_every_name_in_the_catalogue_is_understood() -> None:
    for name in known_names():
        assert architecture_of(name).total_parameters > 1e8


@pytest.mark.parametrize(
    ("served_name", "known"),
    [
        ("meta-llama/Llama-3.1-8B-Instruct", True),
        ("meta-llama/Meta-Llama-3.1-8B", True),
        ("/models/Qwen3-8B/", True),
        ("llama-3.1-8b", True),
        ("deepseek-ai/DeepSeek-V3-0324", True),
        ("Qwen/Qwen3-30B-A3B-Instruct-2507", True),
        ("mistralai/Mixtral-8x7B-Instruct-v0.1", True),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", False),
        ("someone/Llama-3.1-8B-Instruct-AWQ-INT4", False),
        ("my-own-model", False),
        ("", False),
    ],
)
def test_only_a_name_that_is_understood_whole_is_found(served_name: str, known: bool) -> None:
    assert (find_config(served_name) is not None) is known


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model_type": "rwkv"}, "model_type 'rwkv' is not known"),
        ({"model_type": None}, "model_type None is not known"),
        ({"model_type": "nemotron_h"}, "hybrid_override_pattern None is not known"),
        ({"model_type": "mixtral"}, "num_local_experts must be"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number above 0"),
        ({"hidden_size": "4096"}, "hidden_size must be a whole number above 0"),
        ({"num_key_value_heads": 5}, "cannot share"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and no model has more than 4096"),
        ({"vocab_size": 10**20}, "vocab_size is 1"),
        ({"num_attention_heads": 10**6}, "head_dim must be a whole number above 0"),
        ({"model_type": "gemma2", "layer_types": ["sliding_attention"] * 33}, "layer_types has 33 layers"),
        ({"model_type": "mixtral", "num_local_experts": 2, "num_experts_per_tok": 3}, "3 experts of 2"),
        (
            {"model_type": "qwen3_moe", "moe_intermediate_size": 1, "mlp_only_layers": {"0": 1}},
            "mlp_only_layers must be a list",
        ),
        (
            {"model_type": "deepseek_v3", "kv_lora_rank": 1, "moe_intermediate_size": 1}
            | {"first_k_dense_replace": -(10**12)},
            "first_k_dense_replace must be a whole number not below 0",
        ),
    ],
)
def test_what_is_not_known_is_refused_with_the_reason(change: dict[str, Any], said: str) -> None:
    config = {**(find_config("llama-3.1-8b") or {}), **change}
    with pytest.raises(UnknownModelError, match=said):
        parse_architecture(config)


def test_a_window_that_is_switched_off_is_no_window() -> None:
    config = {**(find_config("qwen2.5-7b") or {}), "sliding_window": 4096, "use_sliding_window": False}
    assert parse_architecture(config) == architecture_of("qwen2.5-7b")


def test_key_value_heads_are_copied_when_there_are_more_ranks_than_heads() -> None:
    eight, sixteen = (served("llama-3.1-8b", tensor_parallel=n).kv_bytes_per_token for n in (8, 16))
    assert sixteen == 2 * eight


def test_quantized_weights_leave_the_head_in_sixteen_bit() -> None:
    int4 = find_dtype("awq")
    model = served("llama-3.1-8b", weight_dtype=int4)
    head = model.architecture.head_parameters * 2
    assert model.step_weight_bytes(1) == pytest.approx(
        0.52 * model.architecture.linear_parameters + head, rel=1e-3
    )


def test_a_multimodal_config_is_read_through_to_its_language_part() -> None:
    inner = {**(find_config("gemma-3-27b") or {}), "model_type": "gemma3_text"}
    config = {"model_type": "gemma3", "text_config": inner, "vision_config": {"hidden_size": 1152}}
    assert parse_architecture(config) == architecture_of("gemma-3-27b")


@pytest.mark.parametrize(
    ("name", "batch", "expected"),
    [
        ("DeepSeek-V3", 32, 163.3),
        ("Mixtral-8x7B", 32, 7.999),
        ("gpt-oss-120b", 32, 81.7),
        ("DeepSeek-V3", 1, 8),
        ("Llama-4-Scout", 128, 15.996),
    ],
)
def test_a_batch_touches_so_many_distinct_experts(name: str, batch: float, expected: float) -> None:
    (experts,) = architecture_of(name).expert_ffn
    assert experts.distinct(batch) == pytest.approx(expected, rel=1e-3)
