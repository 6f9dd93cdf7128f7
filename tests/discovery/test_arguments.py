"""Command lines as people and charts write them, and as nobody should."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.discovery.arguments import (
    DIALECTS,
    FIELDS,
    VARIABLES,
    Dialect,
    ServerArguments,
    parse_arguments,
    parse_command_line,
    parse_environment,
    unwrap,
)
from agent.engines.base import EngineDefinition
from agent.engines.registry import ENGINES
from agent.readings import ModelFacts


def parse(line: str, **environ: str) -> ServerArguments:
    found = parse_arguments(line.split(), environ)
    assert found is not None, line
    return found


def facts(line: str, **environ: str) -> ModelFacts:
    return parse(line, **environ).facts


def said(found: ModelFacts) -> dict[str, object]:
    """What is said at all."""
    return {
        one.name: value for one in fields(ModelFacts) if (value := getattr(found, one.name)) not in (None, ())
    }


ONE_RANK = {"tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1}

# --- who is a server -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "engine", "port"),
    [
        ("vllm serve m", "vllm", 8000),
        ("/v/bin/python3.11 /v/bin/vllm serve m", "vllm", 8000),
        ("./venv/bin/python ./venv/bin/vllm serve --model m", "vllm", 8000),
        ("python -m vllm.entrypoints.openai.api_server --model m", "vllm", 8000),
        ("python3 -u -X dev -m vllm.entrypoints.cli.main serve m", "vllm", 8000),
        ("python3 /site-packages/vllm/entrypoints/openai/api_server.py --model m", "vllm", 8000),
        ("python3 -m sglang.launch_server --model-path m", "sglang", 30000),
        ("sglang serve --model-path m", "sglang", 30000),
        ("text-generation-launcher --model-id m", "tgi", 3000),
        ("text-generation-router --tokenizer-name m", "tgi", 3000),
        ("/usr/bin/python3 /usr/local/bin/trtllm-serve m", "trtllm", 8000),
        ("trtllm-serve serve m", "trtllm", 8000),
        ("/opt/tritonserver/bin/tritonserver --model-repository=/models", "triton", 8002),
        ("/app/llama-server -m m.gguf", "llamacpp", 8080),
        ("python /usr/local/bin/lmdeploy serve api_server m", "lmdeploy", 23333),
        ("python3 -m dynamo.vllm --model m", "dynamo", None),
        ("python3 -m dynamo.sglang --model-path m", "dynamo", None),
        ("python3 -m dynamo.trtllm --model-path m", "dynamo", None),
        ("/r/ray/core/src/ray/raylet/raylet --metrics-export-port=8081", "ray", 8081),
        ("tini -- vllm serve m", "vllm", 8000),
        ("/usr/bin/tini -g -- /usr/bin/env HF_HOME=/x python3 /usr/bin/vllm serve m", "vllm", 8000),
        ("env -i PATH=/bin vllm serve m", "vllm", 8000),
    ],
)
def test_a_server_is_known_however_it_is_started(line: str, engine: str, port: int | None) -> None:
    found = parse(line)
    assert (found.engine, found.port) == (engine, port)


@pytest.mark.parametrize(
    "line",
    [
        "vllm bench serve --model m",
        "vllm chat",
        "vllm",
        "grep vllm serve",
        "vim /usr/bin/vllm serve",
        "python -c import_vllm vllm serve m",
        "python -m pip install vllm serve",
        "python",
        "env",
        "VLLM::EngineCore",
        "lmdeploy serve proxy",
        "trtllm-serve disaggregated -c disagg.yaml",
        "python -m dynamo.frontend --http-port 8000",
        "sglang.launch_server_not --model m",
        "/sglang/launch_server.pyc",
        "tail -f /var/log/llama-server",
    ],
)
def test_what_only_looks_like_one_is_none(line: str) -> None:
    assert parse_arguments(line.split()) is None


def test_a_shell_command_is_not_taken_apart() -> None:
    assert parse_arguments(["bash", "-c", "exec vllm serve m"]) is None


def test_nothing_is_no_server() -> None:
    assert parse_arguments([]) is None
    assert parse_arguments([""]) is None


# --- what each engine is told --------------------------------------------------------------------


def test_vllm() -> None:
    found = parse(
        "vllm serve org/model --host 10.0.0.4 --port=8123 --ssl-keyfile k.pem --served-model-name a b "
        "--dtype bfloat16 --kv-cache-dtype fp8 -tp 4 --pipeline-parallel-size=2 -dp 2 -ep "
        "--max-num-seqs 256 --max-model-len 32k --revision abc --download-dir /d --hf-config-path /c"
    )
    assert (found.host, found.port, found.tls) == ("10.0.0.4", 8123, True)
    assert (found.download_dir, found.config_path, found.page_path) == ("/d", "/c", "/metrics")
    assert found.facts == ModelFacts(
        path="org/model",
        revision="abc",
        served_names=("a", "b"),
        weight_dtype="bfloat16",
        kv_dtype="fp8",
        tensor_parallel=4,
        pipeline_parallel=2,
        data_parallel=2,
        expert_parallel=8,
        max_num_seqs=256,
        max_model_len=32_000,
    )


def test_sglang() -> None:
    line = (
        "python -m sglang.launch_server --model-path org/m --tp 8 --ep-size 4 --quantization fp8 "
        "--dtype half --kv-cache-dtype fp8_e5m2 --max-running-requests 64 --context-length 8192 "
        "--served-model-name s"
    )
    assert said(facts(line)) == ONE_RANK | {
        "path": "org/m",
        "served_names": ("s",),
        "weight_dtype": "fp8",
        "kv_dtype": "fp8_e5m2",
        "tensor_parallel": 8,
        "expert_parallel": 4,
        "max_num_seqs": 64,
        "max_model_len": 8192,
    }
    # Of all its ranks together, and how it is divided depends on more than is said here.
    assert facts(f"{line} --dp 2").max_num_seqs is None


def test_tgi_by_its_environment_and_its_command_line() -> None:
    environ = {
        "MODEL_ID": "org/m",
        "PORT": "80",
        "NUM_SHARD": "2",
        "QUANTIZE": "awq",
        "MAX_TOTAL_TOKENS": "4096",
    }
    found = parse("text-generation-launcher --port 8080 --max-batch-size 32", **environ)
    assert found.port == 8080
    assert said(found.facts) == {
        "path": "org/m",
        "weight_dtype": "awq",
        "tensor_parallel": 2,
        "max_num_seqs": 32,
        "max_model_len": 4096,
    }
    assert parse("text-generation-launcher", **environ).port == 80


def test_trtllm() -> None:
    found = parse(
        "trtllm-serve org/m --tp_size 4 --ep_size 2 --max_batch_size 64 --max_seq_len 2048 "
        "--kv_cache_dtype fp8"
    )
    assert found.page_path == "/prometheus/metrics"
    assert said(found.facts) == {
        "path": "org/m",
        "kv_dtype": "fp8",
        "tensor_parallel": 4,
        "pipeline_parallel": 1,
        "expert_parallel": 2,
        "max_num_seqs": 64,
        "max_model_len": 2048,
    }


def test_triton_has_its_page_on_a_port_of_its_own() -> None:
    found = parse("tritonserver --model-repository /m --http-port 9000 --metrics-port 9002")
    assert (found.port, found.only_there) == (9002, True)
    assert said(found.facts) == {}


@pytest.mark.parametrize(
    ("line", "longest"),
    [
        ("llama-server -m m.gguf -np 4 -c 8192", 2048),
        ("llama-server -m m.gguf -np 4 -c 8192 -kvu", 8192),
        ("llama-server -m m.gguf -c 8192", 8192),
        ("llama-server -m m.gguf -np -1 -c 8192", 8192),
        ("llama-server -m m.gguf -np 4 -c 0", None),
        ("llama-server -m m.gguf -np 4", None),
    ],
)
def test_slots_of_llama_cpp_divide_the_context_unless_they_share_it(line: str, longest: int | None) -> None:
    assert facts(line).max_model_len == longest


def test_llama_cpp_by_its_environment() -> None:
    environ = {"LLAMA_ARG_MODEL": "/m.gguf", "LLAMA_ARG_PORT": "9000", "LLAMA_ARG_N_PARALLEL": "8"}
    found = parse("/app/llama-server --api-prefix /lm/ -ctk q8_0", **environ)
    assert (found.port, found.page_path) == (9000, "/lm/metrics")
    assert said(found.facts) == {"path": "/m.gguf", "max_num_seqs": 8, "kv_dtype": "int8"}


def test_lmdeploy() -> None:
    found = parse(
        "lmdeploy serve api_server org/m --server-port 9999 --tp 2 --quant-policy 8 --model-format awq --ssl "
        "--session-len 4096 --max-batch-size 128"
    )
    assert (found.port, found.tls) == (9999, True)
    assert said(found.facts) == {
        "path": "org/m",
        "weight_dtype": "awq",
        "kv_dtype": "int8",
        "tensor_parallel": 2,
        "data_parallel": 1,
        "max_num_seqs": 128,
        "max_model_len": 4096,
    }


def test_dynamo_has_a_page_only_where_its_environment_says() -> None:
    line = "python3 -m dynamo.vllm --model org/m --tensor-parallel-size 2"
    found = parse(line, DYN_SYSTEM_PORT="9090")
    assert (found.port, found.only_there) == (9090, True)
    assert said(found.facts) == ONE_RANK | {"path": "org/m", "tensor_parallel": 2}
    assert parse(line).port is None
    assert parse(line, DYN_SYSTEM_PORT="-1").port is None


def test_a_server_without_a_port_says_so() -> None:
    assert parse("vllm serve m --uds /run/vllm.sock").uds == "/run/vllm.sock"
    assert parse("llama-server -m m --host /run/llama.sock").uds == "/run/llama.sock"
    assert parse("vllm serve m --headless --data-parallel-size 16").headless


def test_vllms_internal_port_is_not_its_port() -> None:
    assert parse("vllm serve m", VLLM_PORT="9000", PORT="9001").port == 8000


# --- how things may be worded --------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "vllm serve org/m --port 8001",
        "vllm serve --port 8001 org/m",
        "vllm serve --port=8001 --model=org/m",
        "vllm serve --enforce-eager --port 8001 --model org/m",
        "vllm serve org/m --enforce-eager --port 8001",
        "vllm serve org/m --gpu-memory-utilization 0.9 --port 8001",
        "vllm serve org/m --port 1 --port 8001",
        "vllm serve org/m --port 8001 --chat-template x",
    ],
)
def test_flags_come_in_any_order_and_spelling(line: str) -> None:
    found = parse(line)
    assert (found.port, found.facts.path) == (8001, "org/m")


def test_underscores_are_hyphens() -> None:
    assert facts("vllm serve m --tensor_parallel_size 2").tensor_parallel == 2


def test_a_switch_is_taken_back() -> None:
    assert facts("vllm serve m -tp 2 --enable-expert-parallel").expert_parallel == 2
    assert (
        facts("vllm serve m -tp 2 --enable-expert-parallel --no-enable-expert-parallel").expert_parallel
        is None
    )


def test_the_value_of_an_unknown_flag_is_no_model() -> None:
    assert facts("vllm serve --chat-template x").path is None


def test_what_a_file_may_say_is_not_taken_for_the_default() -> None:
    found = parse("vllm serve --config /etc/vllm.yaml")
    assert found.arguments_file == "/etc/vllm.yaml"
    assert not found.only_there
    assert parse("vllm serve --config /etc/vllm.yaml --port 8001").only_there
    assert said(found.facts) == {}
    assert said(facts("vllm serve")) == ONE_RANK


@pytest.mark.parametrize(
    ("flags", "weights"),
    [
        ("", None),
        ("--dtype auto", None),
        ("--dtype float16", "float16"),
        ("--dtype float16 --quantization awq", "awq"),
        ("--dtype float16 --quantization None", "float16"),
    ],
)
def test_a_quantization_comes_before_a_dtype(flags: str, weights: str | None) -> None:
    assert facts(f"vllm serve m {flags}").weight_dtype == weights


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("4096", 4096),
        ("4k", 4000),
        ("4K", 4096),
        ("-1", None),
        ("auto", None),
        ("4e3", None),
        ("9" * 300, None),
    ],
)
def test_lengths_are_written_as_vllm_reads_them(text: str, length: int | None) -> None:
    assert facts(f"vllm serve m --max-model-len {text}").max_model_len == length


# --- what cannot be meant ------------------------------------------------------------------------


@pytest.mark.parametrize("port", ["0", "-1", "65536", "8000x", "", "٨٠٠٠", "9" * 5000])
def test_an_impossible_port_is_not_said(port: str) -> None:
    assert parse_arguments(["vllm", "serve", "m", "--port", port]) == parse("vllm serve m")


@pytest.mark.parametrize("ranks", ["0", "-2", "1000000", "two", "1.5"])
def test_impossible_ranks_are_not_said(ranks: str) -> None:
    assert facts(f"vllm serve m -tp {ranks}").tensor_parallel == 1


@pytest.mark.parametrize("model", ["a\x1b[31mb", "a\nb", "x" * 5000, "https://me:secret@hub/m", ""])
def test_a_text_that_is_no_name_is_not_said(model: str) -> None:
    assert facts_of(["vllm", "serve", model]).path is None


def facts_of(argv: list[str]) -> ModelFacts:
    found = parse_arguments(argv)
    assert found is not None
    return found.facts


def test_secrets_are_not_taken() -> None:
    found = parse(
        "vllm serve m --api-key sk-1 --hf-token sk-2 --port 8001",
        HF_TOKEN="sk-3",
        VLLM_API_KEY="sk-4",
        LLAMA_ARG_API_KEY="sk-5",
    )
    assert "sk-" not in repr(found)
    blob = b"HF_TOKEN=sk-3\0PORT=80\0VLLM_API_KEY=sk-4\0"
    assert parse_environment(blob) == {"PORT": "80"}


WORDS = st.text(st.characters(exclude_characters="\0"), max_size=20)
COMMANDS = st.sampled_from([words for dialect in DIALECTS for words in dialect.commands])
FLAGS = st.sampled_from(
    sorted({flag for dialect in DIALECTS for flag in (*dialect.options, *dialect.switches)})
)


@given(COMMANDS, st.lists(st.one_of(WORDS, FLAGS, st.integers().map(str)), max_size=12), st.data())
def test_any_command_line_gives_sound_values(
    command: tuple[str, ...], words: list[str], data: st.DataObject
) -> None:
    environ = data.draw(st.dictionaries(st.sampled_from(sorted(VARIABLES)), WORDS, max_size=4))
    found = parse_arguments([*command, *words], environ)
    if found is None:  # `trtllm-serve disaggregated`
        assert command == ("trtllm-serve",)
        return
    assert found.port is None or 1 <= found.port <= 65535
    assert re.fullmatch(r"(/[\w.~-]+)+", found.page_path)
    told = found.facts
    for text in (
        told.path,
        told.revision,
        told.weight_dtype,
        told.kv_dtype,
        found.download_dir,
        *told.served_names,
    ):
        assert text is None or (text and text.isprintable() and len(text) <= 4096)
    numbers = (told.tensor_parallel, told.pipeline_parallel, told.max_num_seqs, told.max_model_len)
    assert all(number is None or 1 <= number <= 10**9 for number in numbers)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_line(data: bytes) -> None:
    argv = parse_command_line(data)
    assert "\0" not in "".join(argv)
    assert len(unwrap(argv)) <= len(argv)
    parse_arguments(argv)


@given(st.lists(WORDS.filter(str.strip), min_size=1), st.integers(0, 40))
def test_a_command_line_is_its_words_whatever_blanks_follow(words: list[str], blanks: int) -> None:
    data = "\0".join(words).encode("utf-8", "replace") + b"\0" + b"\0 " * blanks
    expected = tuple(word.encode("utf-8", "replace").decode() for word in words)
    assert parse_command_line(data) == expected


@given(st.dictionaries(WORDS.filter(lambda name: "=" not in name), WORDS), st.integers(0, 9))
def test_an_environment_that_is_half_blanked_gives_what_is_left(environ: dict[str, str], blanks: int) -> None:
    clean = {name.encode("utf-8", "replace").decode(): value for name, value in environ.items()}
    lines = [f"{name}={value}".encode("utf-8", "replace") for name, value in clean.items()]
    found = parse_environment(b"\0" * blanks + b"\0".join(lines), frozenset(clean))
    assert found == {name: value.encode("utf-8", "replace").decode() for name, value in clean.items()}


# --- the tables ----------------------------------------------------------------------------------


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.commands[0][0])
def test_tables_fill_fields_that_there_are(dialect: Dialect) -> None:
    tables = (dialect.options, dialect.switches, dialect.variables)
    filled = {name for table in tables for name in table.values()}
    assert filled <= FIELDS


@pytest.mark.parametrize("definition", ENGINES, ids=lambda definition: definition.name)
def test_engines_are_called_and_found_as_their_definitions_say(definition: EngineDefinition) -> None:
    dialects = [one for one in DIALECTS if one.engine == definition.name]
    assert dialects
    for dialect in dialects:
        assert dialect.page_path in definition.page_paths
        assert dialect.port is None or dialect.port in definition.ports
