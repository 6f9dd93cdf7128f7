"""Architectures against the published counts."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from agent.errors import UnknownModelError
from agent.roofline.catalogue import find_config, known_names
from agent.roofline.dtypes import find_dtype
from agent.roofline.models import Architecture, ServedModel, parse_architecture

FACTS = Path(__file__).parents[1] / "fixtures" / "facts"
PUBLISHED = {row["name"]: row for row in csv.DictReader((FACTS / "models.csv").read_text().splitlines())}

CATALOGUE_NAMES = {
    "Llama-3.1-8B": "llama-3.1-8b",
    "Llama-3.1-70B": "llama-3.1-70b",
    "Llama-3.1-405B": "llama-3.1-405b",
    "Llama-3.2-1B": "llama-3.2-1b",
    "Llama-3.2-3B": "llama-3.2-3b",
    "Mistral-Nemo-12B": "mistral-nemo-2407",
    "Qwen2.5-7B": "qwen2.5-7b",
    "Qwen2.5-72B": "qwen2.5-72b",
    "Qwen3-0.6B": "qwen3-0.6b",
    "Qwen3-8B": "qwen3-8b",
    "Qwen3-32B": "qwen3-32b",
    "Phi-4-14B": "phi-4",
    "Nemotron-4-Minitron-8B": "minitron-8b",
    "Falcon-7B(MQA)": "falcon-7b",
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


@pytest.mark.parametrize(("published", "name"), CATALOGUE_NAMES.items(), ids=CATALOGUE_NAMES.values())
def test_parameters_are_the_published_ones(published: str, name: str) -> None:
    row = PUBLISHED[published]
    architecture = architecture_of(name)
    assert architecture.total_parameters == pytest.approx(int(row["total_params"]), rel=5e-5)
    assert architecture.linear_parameters == int(row["linear_params_per_token"])
    assert architecture.head_parameters == int(row["lm_head_params"])


@pytest.mark.parametrize(("published", "name"), CATALOGUE_NAMES.items(), ids=CATALOGUE_NAMES.values())
def test_kv_bytes_are_exactly_the_published_ones(published: str, name: str) -> None:
    assert served(name).kv_bytes_per_token == int(PUBLISHED[published]["kv_bytes_per_token_bf16"])


def test_biases_and_norms_make_llama_and_qwen_exact() -> None:
    for published in ("Llama-3.1-8B", "Llama-3.1-70B", "Qwen2.5-7B", "Qwen3-8B", "Falcon-7B(MQA)"):
        counted = architecture_of(CATALOGUE_NAMES[published]).total_parameters
        assert counted == int(PUBLISHED[published]["total_params"]), published


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
        ({"model_type": "deepseek_v3"}, "model_type 'deepseek_v3' is not known"),
        ({"model_type": None}, "model_type None is not known"),
        ({"sliding_window": 4096}, "sliding-window"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a whole number above 0"),
        ({"hidden_size": "4096"}, "hidden_size must be a whole number above 0"),
        ({"num_key_value_heads": 5}, "cannot share"),
    ],
)
def test_what_is_not_known_is_refused_with_the_reason(change: dict[str, Any], said: str) -> None:
    config = {**(find_config("llama-3.1-8b") or {}), **change}
    with pytest.raises(UnknownModelError, match=said):
        parse_architecture(config)


def test_a_window_that_is_switched_off_is_no_window() -> None:
    config = {**(find_config("qwen2.5-7b") or {}), "sliding_window": 131072, "use_sliding_window": False}
    assert parse_architecture(config) == architecture_of("qwen2.5-7b")


def test_key_value_heads_are_copied_when_there_are_more_ranks_than_heads() -> None:
    eight, sixteen = (served("llama-3.1-8b", tensor_parallel=n).kv_bytes_per_token for n in (8, 16))
    assert sixteen == 2 * eight


def test_quantized_weights_leave_the_head_in_sixteen_bit() -> None:
    int4 = find_dtype("awq")
    model = served("llama-3.1-8b", weight_dtype=int4)
    head = model.architecture.head_parameters * 2
    assert model.step_weight_bytes == pytest.approx(
        0.52 * model.architecture.linear_parameters + head, rel=1e-3
    )
