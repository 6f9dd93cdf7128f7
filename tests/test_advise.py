"""The command: what it takes, what it writes, and that it is quick and readable."""

from __future__ import annotations

import argparse
import csv
import io
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent import planning
from agent.errors import AgentError
from agent.model_files import load_config_json
from agent.roofline.catalogue import find_config
from tests.roofline.test_models import FACTS
from tests.test_demo import COMMAND

CONTRACT = (
    "arithmetic_intensity_flops_per_byte",
    "ridge_flops_per_byte",
    "bottleneck",
    "step_seconds_bound",
    "step_seconds_expected",
    "tokens_per_second",
    "kv_limited_batch",
    "usd_per_million_tokens",
)
COLUMNS = (
    "model",
    "gpu",
    "tensor_parallel",
    "expert_parallel",
    "phase",
    "batch",
    "context",
    "weight_dtype",
    "kv_dtype",
    "backend",
)
# CPython's own modules and ours are enough for arithmetic.
HEAVY = ("pydantic", "requests", "cheroot", "jinja2", "prometheus_client", "pynvml", "yaml")


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    planning.add_arguments(parser)
    return parser.parse_args(arguments)


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert planning.run(options(*arguments)) == 0
    return capsys.readouterr().out


def records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(written(capsys, *arguments, "--format", "json"))
    return found


def test_each_record_has_its_point_and_the_contracts_fields(capsys: pytest.CaptureFixture[str]) -> None:
    (record,) = records(
        capsys,
        *("--model", "Llama-3.1-70B", "--gpu", "NVIDIA H100 80GB HBM3", "--tensor-parallel", "4"),
        *("--phase", "decode", "--batch", "32", "--context", "2048", "--price", "2"),
    )
    assert set(COLUMNS) | set(CONTRACT) <= set(record)
    assert record["model"] == "Llama-3.1-70B"
    assert record["gpu"] == "NVIDIA H100 80GB HBM3"
    assert (record["batch"], record["context"]) == (32, 2048)
    assert record["arithmetic_intensity_flops_per_byte"] == pytest.approx(28.8, abs=0.05)
    assert record["ridge_flops_per_byte"] == pytest.approx(295.3, abs=0.1)
    assert record["bottleneck"] == "memory_bandwidth"
    rate, usd = record["tokens_per_second"], record["usd_per_million_tokens"]
    assert rate == pytest.approx(32 / record["step_seconds_expected"])
    assert usd == pytest.approx(4 * 2 / 3600 / rate * 1e6)
    assert record["kv_limited_batch"] == 209


def test_lists_are_combined(capsys: pytest.CaptureFixture[str]) -> None:
    found = records(
        capsys,
        *("--model", "llama-3.1-8b,qwen3-8b", "--gpu", "H100, L40S", "--price", "2,1"),
        *("--batch", "1,8", "--phase", "decode"),
    )
    assert len(found) == 8
    assert {(each["gpu"], each["usd_per_hour"]) for each in found} == {("H100", 2), ("L40S", 1)}
    assert {each["model"] for each in found} == {"llama-3.1-8b", "qwen3-8b"}


def test_a_context_is_the_prompt_where_no_other_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    base = ("--model", "llama-3.1-8b", "--gpu", "H100")
    decode, prefill = records(capsys, *base, "--context", "2048")
    assert (decode["context"], prefill["context"]) == (2048, 2048)
    decode, prefill = records(capsys, *base, "--prompt-tokens", "1000", "--output-tokens", "500")
    assert (decode["context"], prefill["context"]) == (1250, 1000)


def test_csv_and_json_hold_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--model", "llama-3.1-8b", "--gpu", "GH200", "--batch", "4")
    from_json = records(capsys, *arguments)
    from_csv = list(csv.DictReader(io.StringIO(written(capsys, *arguments, "--format", "csv"))))
    for ours, theirs in zip(from_json, from_csv, strict=True):
        assert list(ours) == list(theirs)
        assert {k: "" if v is None else str(v) for k, v in ours.items()} == theirs
    assert from_csv[0]["usd_per_million_tokens"] == "", "a part without a price has no cost"


def test_points_are_read_from_a_file_and_keep_their_own_words(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    measured = list(csv.DictReader((FACTS / "measured_steps.csv").read_text().splitlines()))
    path = tmp_path / "points.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for row in measured:
            context = row["context_len"] if row["phase"] == "decode" else row["isl"]
            writer.writerow(
                [row[k] for k in ("model", "system", "tp", "ep", "phase", "batch")]
                + [context, row["weight_quant"], row["kv_dtype"], row["backend"]]
            )
    found = records(capsys, "--points", str(path))
    with path.open(newline="") as file:
        for point, record, row in zip(csv.DictReader(file), found, measured, strict=True):
            assert {name: str(record[name]) for name in COLUMNS} == point
            assert record["step_seconds_bound"] <= float(row["step_latency_ms"]) / 1e3
    assert len(written(capsys, "--points", str(path)).splitlines()) >= len(measured)


def test_a_point_may_leave_out_the_backend_and_empty_cells_take_defaults(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "points.csv"
    path.write_text("model,gpu,tensor_parallel,phase,batch,context,weight_dtype\nqwen3-8b,L4,,,8,512,\n")
    (record,) = records(capsys, "--points", str(path))
    assert (record["backend"], record["tensor_parallel"], record["weight_dtype"]) == ("vllm", 1, "bf16")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "model,gpu,batch\nqwen3-8b,L4,none\n",
            "line 2: batch must be a whole number from 1 to 10000000, not 'n",
        ),
        ("model,gpu,batch\nqwen3-8b,L4,0\n", "line 2: batch must be a whole number"),
        ("model,gpu,usd_per_hour\nqwen3-8b,L4,-1\n", "line 2: usd_per_hour must be a number from 0.0001"),
        ("model,batch\nqwen3-8b,1\n", "line 2: gpu is missing"),
        ("model,gpu\nqwen3-8b,L4\nqwen3-8b,L9\n", "line 3: gpu 'L9' is not known"),
        ("model,gpu,phase\nqwen3-8b,L4,prefil\n", "line 2: phase 'prefil' is not known"),
        ("model,gpu,tensor_parallel\nqwen3-8b,L4,5\n", "line 2: tensor_parallel 5 does not divide"),
        ('model,gpu\n\n"qwen3-8b","L4"\n\nqwen3-8b,L9\n', "line 5: gpu 'L9'"),
        ('model,gpu\nqwen3-8b,"L4\n"\nqwen3-8b,L9\n', "line 4: gpu 'L9'"),
        ("model,gpu,batchsize\nqwen3-8b,L4,8\n", "line 1: column 'batchsize' is not known, is it batch"),
        ("model,gpu,tp\nqwen3-8b,L4,8\n", "column 'tp' is not known.*Known are model, gpu, tensor_parallel"),
        ("model,gpu,gpu\nqwen3-8b,L4,L4\n", "line 1: column 'gpu' is there twice"),
        ("model,gpu\nqwen3-8b,L4,8,fp8\n", "line 2: more cells than columns: '8', 'fp8'"),
        ("model,gpu\n", "no point"),
        ("", "no point"),
    ],
)
def test_a_wrong_point_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(AgentError, match=said):
        planning.run(options("--points", str(path)))


def test_names_and_columns_are_upper_or_lower_case(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "points.csv"
    path.write_text("Model,GPU,Phase,Backend,weight_dtype\nQwen3-8B,l4,Prefill,vLLM,FP8\n")
    (from_file,) = records(capsys, "--points", str(path))
    (from_options,) = records(
        capsys,
        *("--model", "Qwen3-8B", "--gpu", "l4", "--phase", "PREFILL", "--backend", "VLLM"),
        *("--weight-dtype", "FP8", "--context", "2048"),
    )
    assert from_file == from_options
    assert (from_file["phase"], from_file["backend"]) == ("prefill", "vllm")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--points", "x.csv", "--batch", "8", "--price", "2"),
            "--batch, --price would have no effect beside --po",
        ),
        (("--points", "x.csv", "--output-tokens", "256"), "--output-tokens would have no effect"),
        (("--simplified", "--model", "qwen3-8b"), "--model would have no effect beside --simplified"),
        (("--simplified", "--phase", "decode"), "--phase would have no effect"),
        (("--simplified", "--since", "1h"), "--since would have no effect"),
        (
            ("--traffic", "http://localhost:9", "--context", "1"),
            "--context would have no effect beside --traffic",
        ),
        (
            ("--model", "qwen3-8b", "--gpu", "L4", "--since", "1h"),
            "--since would have no effect without --traffic",
        ),
    ],
)
def test_an_option_without_effect_is_refused(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(AgentError, match=said):
        planning.run(options(*arguments))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ("--batch", "10000001"),
            "argument --batch: must be a whole number from 1 to 10000000, not '10000001'",
        ),
        (("--context", "9" * 5000), "argument --context: must be a whole number"),
        (("--batch", "1,x"), "argument --batch: must be a whole number from 1 to 10000000, not 'x'"),
        (("--prompt-tokens", "1e3"), "argument --prompt-tokens: must be a whole number"),
        (("--tensor-parallel", "1025"), "must be a whole number from 1 to 1024"),
        (("--price", "1e-5"), "argument --price: must be a number from 0.0001 to 1000000, not '1e-5'"),
        (("--price", "nan"), "must be a number from"),
        (("--price", "free"), "must be a number from"),
        (("--batch", ","), "argument --batch: names nothing"),
        (("--model", ""), "argument --model: names nothing"),
        (("--since", "0s"), "argument --since: must be as in PromQL and above 0"),
        (("--since", "0h00m"), "above 0"),
        (("--since", "5m1h"), "as in PromQL"),
        (("--since", ""), "as in PromQL"),
    ],
)
def test_a_wrong_value_is_refused_in_words(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], said: str
) -> None:
    with pytest.raises(SystemExit):
        options(*arguments)
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("since", ["30m", "1h30m", "7d", "1w2d", "500ms"])
def test_a_look_back_is_as_promql_writes_it(since: str) -> None:
    assert options("--since", since).since == since


def test_a_model_may_be_a_config_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(find_config("llama-3.1-8b")))
    arguments = ("--gpu", "H100", "--phase", "decode", "--model")
    (named,) = records(capsys, *arguments, "llama-3.1-8b")
    for path in (tmp_path, tmp_path / "config.json"):
        (record,) = records(capsys, *arguments, str(path))
        assert {**record, "model": ""} == {**named, "model": ""}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{" + b" " * (1 << 20) + b"}", "larger than 1 MiB"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a JSON object"),
        (b"{", "Expecting"),
        (b'{"a": "\xff"}', "utf-8"),
    ],
)
def test_what_is_no_config_json_is_said(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "config.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=said):
        load_config_json(path)
    with pytest.raises(AgentError, match=said):
        planning.run(options("--model", str(path), "--gpu", "H100"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "needs --model and --gpu"),
        (("--model", "qwen3-8b", "--gpu", "L4,L40S,H100", "--price", "1,2"), "2 prices for 3 GPUs"),
        (("--model", "none/config.json", "--gpu", "L4"), "no such file"),
        (("--model", "qwen3-9b", "--gpu", "L4"), "qwen3-8b"),
        (("--points", "none.csv"), "cannot be read"),
    ],
)
def test_what_cannot_be_answered_is_said(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(AgentError, match=said):
        planning.run(options(*arguments))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "llama-3.1-70b", "--gpu", "H100,L40S,T4", "--tensor-parallel", "4,8", "--batch", "1,640"),
        ("--model", "deepseek-v3", "--gpu", "RTX-PRO-6000-BW-Workstation", "--weight-dtype", "fp8_block"),
        ("--simplified",),
        (
            *(
                "--model",
                "llama-3.1-405b",
                "--gpu",
                "T4,RTX-PRO-6000-BW-Workstation",
                "--tensor-parallel",
                "128",
            ),
            *("--batch", "10000000", "--context", "10000000", "--output-tokens", "10000000"),
            *("--price", "1000000"),
        ),
        (
            *(
                "--model",
                "llama-3.2-1b",
                "--gpu",
                "B200",
                "--pipeline-parallel",
                "1,16",
                "--batch",
                "1,10000000",
            ),
            *("--context", "1", "--output-tokens", "10000000", "--price", "0.0001"),
        ),
        ("--model", "deepseek-v3", "--gpu", "H200", "--expert-parallel", "1024", "--pipeline-parallel", "61"),
    ],
    ids=["several GPUs", "long names", "the lesson", "too much", "cheap and short", "many GPUs"],
)
def test_the_table_fits_in_80_columns(capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]) -> None:
    lines = written(capsys, *arguments).splitlines()
    assert [line for line in lines if len(line) > 80] == []


def test_the_table_walks_through_the_five_stages(capsys: pytest.CaptureFixture[str]) -> None:
    text = written(capsys, "--model", "llama-3.1-70b", "--gpu", "H100", "--tensor-parallel", "2")
    places = [text.index(f"\n{n} ") for n in range(1, 6)]
    assert places == sorted(places)
    for said in ("over NVLink", "over PCIe", "pipeline parallel", "does not fit", "RunPod", "ncu"):
        assert said in text


def test_a_split_that_cannot_be_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    staged = ("--gpu", "H100", "--pipeline-parallel", "4")
    assert "tensor parallel over" in written(capsys, "--model", "llama-3.1-8b", *staged)
    text = written(capsys, "--model", "falcon-7b", *staged)
    assert "tensor parallel over" not in text, "it has 71 heads"
    assert "a token" in text.partition("How the model is split")[2]


def test_the_lesson_is_shown_with_its_prices_and_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    text = written(capsys, "--simplified")
    for said in ("4.15", "3.04", "4.42", "4.34", "3630.5", "320 KiB a token, not 2.5 MB", "Why they differ"):
        assert said in text
    prices = [r["usd_per_million_tokens"] for r in records(capsys, "--simplified")][-4:]
    assert prices == pytest.approx([4.15, 3.04, 4.42, 4.34], abs=0.005)


def test_nothing_heavy_is_imported() -> None:
    assert imported_with("agent.planning.command", HEAVY) == "[]"


def test_other_commands_do_not_import_the_arithmetic() -> None:
    assert imported_with("agent.cli", (*HEAVY, "agent.planning.command", "agent.roofline")) == "[]"


def imported_with(module: str, names: tuple[str, ...]) -> str:
    code = f"import sys, {module}; print([name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_answers_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["--model", "llama-3.1-70b,deepseek-v3", "--gpu", "H100,L40S,A100", "--batch", "1,8,32,128"]
    subprocess.run([COMMAND, "advise", *command], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its own seconds: the machine may be busy with other tests.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
