"""Which model an engine serves, in which dtypes, over how many GPUs."""

from __future__ import annotations

from typing import Any

import pytest

from agent.readings import EngineReading, ModelFacts
from agent.resolution import resolve_model
from agent.roofline.catalogue import find_config
from agent.roofline.gpus import find_gpu


def page(model: str, kv_dtype: str | None = None) -> EngineReading:
    return EngineReading(engine="vllm", model=model, facts=ModelFacts(kv_dtype=kv_dtype))


def test_the_configuration_comes_before_the_served_name() -> None:
    resolution = resolve_model(ModelFacts(config=find_config("qwen3-8b")), page("llama-3.1-8b"))
    assert resolution.origin == "configuration"
    assert resolution.served is not None
    assert resolution.served.architecture.layers == 36


def test_a_name_that_is_not_known_says_what_to_do() -> None:
    resolution = resolve_model(ModelFacts(), page("my-own-model"))
    assert resolution.served is None
    assert resolution.problem is not None
    assert "set model under this engine" in resolution.problem


@pytest.mark.parametrize(
    ("model", "gigabytes"),
    [("deepseek-ai/DeepSeek-R1", 673), ("openai/gpt-oss-120b", 65.3), ("moonshotai/Kimi-K2-Instruct", 1029)],
)
def test_a_checkpoint_that_is_published_quantized_is_taken_so(model: str, gigabytes: float) -> None:
    served = resolve_model(ModelFacts(), page(model)).served
    assert served is not None
    assert served.weight_bytes / 1e9 == pytest.approx(gigabytes, rel=0.01)


@pytest.mark.parametrize(
    ("named", "configured", "expected"),
    [("auto", None, "bf16"), ("fp8_e4m3", None, "fp8"), (None, "fp8", "fp8"), ("auto", "fp8", "fp8")],
)
def test_the_kv_caches_dtype(named: str | None, configured: str | None, expected: str) -> None:
    served = resolve_model(ModelFacts(kv_dtype=configured), page("llama-3.1-8b", named)).served
    assert served is not None
    assert served.kv_dtype.name == expected


def test_a_model_split_over_fewer_gpus_than_it_has_is_told() -> None:
    resolution = resolve_model(ModelFacts(tensor_parallel=1), page("llama-3.1-8b"), gpus=4)
    assert resolution.problem is not None
    assert "check tensor_parallel" in resolution.problem


def test_fp8_weights_are_widened_on_a_part_without_fp8() -> None:
    served = resolve_model(ModelFacts(weight_dtype="fp8"), page("llama-3.1-8b")).served
    a100, h100 = find_gpu("A100-SXM4-80GB"), find_gpu("H100-SXM5-80GB")
    assert served is not None
    assert a100 is not None
    assert h100 is not None
    assert (a100.compute_dtype(served.largest_dtype), h100.compute_dtype(served.largest_dtype)) == (
        "bf16",
        "fp8",
    )


def test_a_checkpoint_with_small_experts_alone_computes_in_16_bit() -> None:
    served = resolve_model(ModelFacts(), page("gpt-oss-20b")).served
    assert served is not None
    assert (served.weight_dtype.name, served.largest_dtype.name) == ("bf16", "mxfp4")


# --- who is believed before whom -------------------------------------------------------------------

SMALL, LARGE = find_config("llama-3.1-8b"), find_config("llama-3.1-70b")
HUB_8B, HUB_70B = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


@pytest.mark.parametrize(
    ("configured", "engine", "process", "served", "expected"),
    [
        ({"config": SMALL}, {"path": HUB_70B}, {"config": LARGE}, HUB_70B, ("configuration", 32)),
        ({}, {"path": HUB_8B}, {"config": LARGE}, HUB_70B, ("engine", 32)),
        ({}, {"path": "/models/llama-3.1-70b"}, {"config": SMALL}, "chat", ("process", 32)),
        ({}, {"path": "/models/llama-3.1-70b"}, {"path": HUB_8B}, "chat", ("process", 32)),
        ({}, {"path": "/models/x"}, {"path": "./x"}, HUB_8B, ("catalogue", 32)),
        ({}, {"served_names": ("chat", HUB_8B)}, {}, "chat", ("catalogue", 32)),
        ({}, {"path": "/models/llama-3.1-8b"}, {}, "chat", ("unknown", None)),
    ],
)
def test_the_architecture_is_of_the_first_that_tells_it(
    configured: dict[str, Any],
    engine: dict[str, Any],
    process: dict[str, Any],
    served: str,
    expected: tuple[str, int | None],
) -> None:
    resolution = resolve_model(
        ModelFacts(**configured),
        EngineReading(engine="vllm", model=served, facts=ModelFacts(**engine)),
        process=ModelFacts(**process),
    )
    layers = resolution.served.architecture.layers if resolution.served is not None else None
    assert (resolution.origin, layers) == expected


def test_how_it_is_run_is_told_fact_by_fact() -> None:
    resolution = resolve_model(
        ModelFacts(tensor_parallel=8),
        EngineReading(
            engine="sglang",
            model=HUB_70B,
            facts=ModelFacts(tensor_parallel=4, pipeline_parallel=2, kv_dtype="fp8_e5m2"),
        ),
        process=ModelFacts(pipeline_parallel=4, weight_dtype="fp8"),
        gpus=16,
    )
    served = resolution.served
    assert served is not None
    assert (served.tensor_parallel, served.pipeline_parallel) == (8, 2)
    assert (served.kv_dtype.name, served.weight_dtype.name) == ("fp8", "fp8")
    assert resolution.problem is None


@pytest.mark.parametrize(
    ("model", "said", "expected"),
    [
        ("llama-3.1-8b", "bfloat16", "bf16"),
        ("llama-3.1-8b", "auto", "bf16"),
        ("llama-3.1-8b", "fp8", "fp8"),
        ("llama-3.1-8b", "awq", "int4"),
        ("gpt-oss-20b", "bfloat16", "bf16"),
        ("deepseek-ai/DeepSeek-R1", "bfloat16", "fp8_block"),
    ],
)
def test_a_checkpoint_that_is_quantized_stays_so_whatever_it_is_computed_in(
    model: str, said: str, expected: str
) -> None:
    resolution = resolve_model(ModelFacts(), page(model), process=ModelFacts(weight_dtype=said))
    assert resolution.served is not None
    assert resolution.served.weight_dtype.name == expected


def test_a_method_nobody_knows_is_never_taken_for_16_bit() -> None:
    resolution = resolve_model(ModelFacts(), page("llama-3.1-8b"), process=ModelFacts(weight_dtype="hqq"))
    assert resolution.served is None
    assert resolution.problem is not None
    assert "'hqq', which is not known; set model.weight_dtype" in resolution.problem


def test_weights_of_mixed_blocks_cost_what_the_engine_says_they_take() -> None:
    facts = ModelFacts(weight_dtype="q4_k_m", weight_bytes=4.92e9, parameters=8.03e9)
    reading = EngineReading(engine="llamacpp", model="llama-3.1-8b", facts=facts)
    served = resolve_model(ModelFacts(), reading).served
    assert served is not None
    assert served.weight_dtype.bytes_per_weight == pytest.approx(0.6127, rel=1e-3)


def test_weights_of_another_size_than_the_models_are_told() -> None:
    reading = EngineReading(engine="sglang", model=HUB_8B, facts=ModelFacts(weight_bytes=141e9))
    resolution = resolve_model(ModelFacts(), reading)
    assert resolution.problem == (
        "its weights take 141.0 GB, and the model's would take 16.1 GB: check the model"
    )
