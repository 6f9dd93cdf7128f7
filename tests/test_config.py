"""The configuration: what runs, and every error at once with its dotted path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.cli import main
from agent.config import Configuration, parse_configuration, redacted
from agent.errors import ConfigurationError

BAD = Path(__file__).parent / "fixtures" / "bad_configurations"

EXAMPLE = """
interval_seconds: 1
engines_interval_seconds: 5
window_seconds: 30
web: {listen_address: ":10095"}
nvml: {enabled: true, gpm: true}
engines:
  - url: http://127.0.0.1:8000/metrics
    engine: vllm
    gpus: [0, GPU-5d0ba1a4-0f3c-4bcf-9a3d-0d2bb0c5f8b1]
    model: {name: llama-3.1-8b, weight_dtype: fp8, kv_dtype: fp8, tensor_parallel: 2}
    max_num_seqs: 256
    headers: {Authorization: Bearer s3cret}
prices: [{gpu: "NVIDIA H100 80GB HBM3", usd_per_hour: 2.99, from: 2026-01-01}]
roofs: [{gpu: "NVIDIA H100 80GB HBM3", dram_bytes_per_second: 3.35e12}]
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as caught:
        parse_configuration(text, origin="agent.yaml")
    return caught.value.problems


@pytest.mark.parametrize("text", ["", "# only a comment\n", "{}"])
def test_an_empty_file_runs(text: str) -> None:
    assert parse_configuration(text, origin="x") == Configuration()


def test_every_key_of_the_example_is_taken() -> None:
    configuration = parse_configuration(EXAMPLE, origin="x")
    engine = configuration.engines[0]
    assert engine.gpus == (0, "GPU-5d0ba1a4-0f3c-4bcf-9a3d-0d2bb0c5f8b1")
    assert engine.model is not None
    assert engine.model.tensor_parallel == 2
    assert configuration.prices[0].since.isoformat() == "2026-01-01"
    assert configuration.web.port == 10095


@pytest.mark.parametrize("path", sorted(BAD.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_bad_configuration_is_explained_exactly(path: Path) -> None:
    """Each file ends with the messages it must give, as comments."""
    text = path.read_text()
    expected = tuple(line.removeprefix("#= ") for line in text.splitlines() if line.startswith("#= "))
    assert expected, f"{path} says nothing of what it must give"
    assert problems(text) == expected


def test_the_bad_configurations_are_there() -> None:
    assert len(list(BAD.glob("*.yaml"))) >= 8


def test_a_roof_goes_by_the_one_name_of_its_dtype() -> None:
    text = "roofs: [{gpu: H100, flops_per_second: {fp16: 9.0e14, fp8_block: 1.9e15, nvfp4: 4.0e15}}]"
    (roof,) = parse_configuration(text, origin="x").roofs
    assert roof.flops_per_second == {"bf16": 9e14, "fp8": 1.9e15, "fp4": 4e15}


def test_a_config_json_is_read_and_checked(tmp_path: Path) -> None:
    good = tmp_path / "config.json"
    shape = {
        "model_type": "llama",
        "hidden_size": 256,
        "intermediate_size": 688,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
        "vocab_size": 1024,
    }
    good.write_text(json.dumps(shape))
    document = "engines: [{url: 'http://h:1/metrics', model: {config_json: '%s'}}]"
    assert parse_configuration(document % good, origin="x").engines[0].model is not None
    good.write_text(json.dumps({**shape, "model_type": "rwkv"}))
    assert "model_type 'rwkv' is not known" in problems(document % good)[0]
    assert "No such file" in problems(document % (tmp_path / "none.json"))[0]


def test_secrets_are_shown_to_nobody() -> None:
    configuration = parse_configuration(
        EXAMPLE.replace("/metrics", "/metrics?token=s3cret"), origin="agent.yaml"
    )
    for shown in (repr(configuration), json.dumps(redacted(configuration), default=str)):
        assert "Bearer s3cret" not in shown
    assert "s3cret" not in json.dumps(redacted(configuration), default=str)


def test_check_config_names_every_problem_and_exits_with_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("interval_secs: 1\nwindow_seconds: long\n")
    assert main(["check-config", str(file)]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"{file}: window_seconds: must be a valid number, unable to parse string as a number",
        f"{file}: interval_secs: unknown key; did you mean interval_seconds?",
    ]
    file.write_text("")
    assert main(["check-config", str(file)]) == 0
    assert main(["check-config", str(tmp_path / "none.yaml")]) == 2


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [(":10095", "0.0.0.0", 10095), ("127.0.0.1:0", "127.0.0.1", 0), ("[::1]:80", "::1", 80)],
)
def test_listen_addresses(address: str, host: str, port: int) -> None:
    given: dict[str, Any] = {"web": {"listen_address": address}}
    web = Configuration.model_validate(given).web
    assert (web.host, web.port) == (host, port)


@pytest.mark.parametrize("text", ["[" * 3000, "{a: " * 3000, "- " * 3000], ids=["[", "{", "-"])
def test_what_is_nested_too_deeply_is_said_so(text: str) -> None:
    assert problems(text) == ("is nested too deeply",)
