"""What checkpoints say of their dtypes, in each method's own words."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import UnknownModelError
from agent.roofline.quantization import parse_quantization

IGNORED_HEAD = {"ignore": ["lm_head"]}


def compressed(num_bits: int, kind: str, *, activations: bool = True, **weights: Any) -> dict[str, Any]:
    group = {
        "weights": {"num_bits": num_bits, "type": kind, **weights},
        "input_activations": {"num_bits": 8} if activations else None,
    }
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}, **IGNORED_HEAD}


CASES: list[tuple[str, dict[str, Any] | None, str, float, str]] = [
    ("none at all", None, "bf16", 2.0, "bf16"),
    ("fp8 a tensor", {"quant_method": "fp8"}, "fp8", 1.0, "fp8"),
    ("fp8 in blocks", {"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp8_block", 1.0002, "fp8"),
    ("awq", {"quant_method": "awq", "bits": 4, "group_size": 128}, "int4", 0.52, "bf16"),
    ("gptq in groups of 64", {"quant_method": "gptq", "bits": 4, "group_size": 64}, "int4", 0.539, "bf16"),
    ("gptq of 8 bits", {"quant_method": "gptq", "bits": 8, "group_size": -1}, "int8", 1.0, "bf16"),
    ("compressed fp8", compressed(8, "float"), "fp8", 1.0, "fp8"),
    ("compressed fp8, weights only", compressed(8, "float", activations=False), "fp8", 1.0, "bf16"),
    ("compressed int8", compressed(8, "int"), "int8", 1.0, "int8"),
    ("compressed int4", compressed(4, "int", activations=False, group_size=128), "int4", 0.52, "bf16"),
    ("compressed nvfp4", compressed(4, "float", group_size=16), "nvfp4", 0.5625, "fp4"),
    ("modelopt fp8", {"quant_method": "modelopt", "quant_algo": "FP8"}, "fp8", 1.0, "fp8"),
    ("modelopt nvfp4", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, "nvfp4", 0.5625, "fp4"),
    ("bitsandbytes", {"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", 0.5625, "bf16"),
]


@pytest.mark.parametrize(
    ("given", "name", "size", "compute"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_each_method_is_understood(
    given: dict[str, Any] | None, name: str, size: float, compute: str
) -> None:
    weights = parse_quantization({"quantization_config": given}).weights
    assert (weights.name, weights.compute) == (name, compute)
    assert weights.bytes_per_weight == pytest.approx(size, rel=2e-3)


def test_gpt_oss_keeps_all_but_its_experts_in_16_bit() -> None:
    given = {
        "quant_method": "mxfp4",
        "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router", "lm_head"],
    }
    quantization = parse_quantization({"quantization_config": given})
    assert quantization.weights.name == "bf16"
    assert quantization.parts["experts"].name == "mxfp4"
    assert quantization.parts["attention"].name == "bf16"


def test_attention_that_was_left_out_layer_by_layer_is_in_16_bit() -> None:
    names = [f"model.layers.{layer}.self_attn.{matrix}_proj" for layer in range(32) for matrix in "qkvo"]
    given = {**compressed(8, "float"), "ignore": ["lm_head", *names]}
    config = {"num_hidden_layers": 32, "quantization_config": given}
    assert parse_quantization(config).parts["attention"].name == "bf16"
    few = {**config, "quantization_config": {**given, "ignore": names[:4]}}
    assert "attention" not in parse_quantization(few).parts


def test_a_checkpoint_may_prescribe_the_kv_cache() -> None:
    given = {"quant_method": "modelopt", "quant_algo": "FP8", "kv_cache_quant_algo": "FP8"}
    kv = parse_quantization({"quantization_config": given}).kv_cache
    assert kv is not None
    assert kv.name == "fp8"
    assert parse_quantization({}).kv_cache is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"quant_method": "quip"}, "quantization 'quip' is not known"),
        ({"quant_method": "gptq", "bits": 3}, "weights of 3 bits"),
        ({"quant_method": "compressed-tensors"}, "without config_groups"),
        ({"quant_method": "compressed-tensors", "config_groups": ["weights"]}, "without config_groups"),
        (compressed(6, "float"), "6 bits"),
        ({"quant_method": "awq", "bits": "four"}, "bits must be a whole number, not 'four'"),
        ({"quant_method": "fp8", "ignored_layers": "lm_head"}, "ignored_layers must be a list"),
        ({"quant_method": "modelopt", "quant_algo": "W4A8"}, "'W4A8' is not known"),
    ],
)
def test_what_is_not_known_is_refused_with_the_reason(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UnknownModelError, match=said):
        parse_quantization({"quantization_config": given})


def test_the_dtype_of_an_unquantized_checkpoint_is_its_own() -> None:
    assert parse_quantization({"torch_dtype": "float16"}).weights.name == "bf16"
    assert parse_quantization({"dtype": "float32"}).weights.name == "fp32"


def test_blocks_of_several_widths_are_one_mean_with_the_head() -> None:
    given = {"quant_method": "gguf", "format": "q4_k", "bits_per_weight": 4.83}
    quantization = parse_quantization({"quantization_config": given})
    assert quantization.weights.bytes_per_weight == pytest.approx(0.604, abs=1e-3)
    assert quantization.parts["head"] is quantization.weights
    assert quantization.weights.compute == "bf16"


@pytest.mark.parametrize("bits", [None, 0, 64, "4", True, float("nan")])
def test_blocks_of_no_known_width_are_unknown(bits: object) -> None:
    with pytest.raises(UnknownModelError, match="unknown width"):
        parse_quantization({"quantization_config": {"quant_method": "gguf", "bits_per_weight": bits}})
