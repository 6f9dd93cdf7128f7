"""Which model an engine serves, in which dtypes, over how many GPUs."""

from __future__ import annotations

import pytest

from agent.readings import EngineReading
from agent.resolution import ModelChoice, resolve_model
from agent.roofline.catalogue import find_config
from agent.roofline.gpus import find_gpu


def page(model: str, kv_dtype: str | None = None) -> EngineReading:
    return EngineReading(engine="vllm", model=model, kv_dtype=kv_dtype)


def test_the_configuration_comes_before_the_served_name() -> None:
    resolution = resolve_model(ModelChoice(config=find_config("qwen3-8b")), page("llama-3.1-8b"))
    assert resolution.origin == "configuration"
    assert resolution.served is not None
    assert resolution.served.architecture.layers == 36


def test_a_name_that_is_not_known_says_what_to_do() -> None:
    resolution = resolve_model(ModelChoice(), page("my-own-model"))
    assert resolution.served is None
    assert resolution.problem is not None
    assert "set model under this engine" in resolution.problem


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    [("deepseek-ai/DeepSeek-R1", 673), ("openai/gpt-oss-120b", 65.3), ("moonshotai/Kimi-K2-Instruct", 1029)],
)
def test_a_checkpoint_that_is_published_quantized_is_taken_so(model: str, gigabytes: float) -> None:
    served = resolve_model(ModelChoice(), page(model)).served
    assert served is not None
    assert served.weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(
    ("named", "configured", "expected"),
    [("auto", None, "bf16"), ("fp8_e4m3", None, "fp8"), (None, "fp8", "fp8"), ("auto", "fp8", "fp8")],
)
def test_the_kv_caches_dtype(named: str | None, configured: str | None, expected: str) -> None:
    served = resolve_model(ModelChoice(kv_dtype=configured), page("llama-3.1-8b", named)).served
    assert served is not None
    assert served.kv_dtype.name == expected


def test_a_model_split_over_fewer_gpus_than_it_has_is_told() -> None:
    resolution = resolve_model(ModelChoice(tensor_parallel=1), page("llama-3.1-8b"), gpus=4)
    assert resolution.problem is not None
    assert "check tensor_parallel" in resolution.problem


def test_fp8_weights_are_widened_on_a_part_without_fp8() -> None:
    served = resolve_model(ModelChoice(weight_dtype="fp8"), page("llama-3.1-8b")).served
    a100, h100 = find_gpu("A100-SXM4-80GB"), find_gpu("H100-SXM5-80GB")
    assert served is not None
    assert a100 is not None
    assert h100 is not None
    assert (a100.compute_dtype(served.largest_dtype), h100.compute_dtype(served.largest_dtype)) == (
        "bf16",
        "fp8",
    )


def test_a_checkpoint_with_small_experts_alone_computes_in_16_bit() -> None:
    served = resolve_model(ModelChoice(), page("gpt-oss-20b")).served
    assert served is not None
    assert (served.weight_dtype.name, served.largest_dtype.name) == ("bf16", "mxfp4")
