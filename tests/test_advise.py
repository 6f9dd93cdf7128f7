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
        ("model,gpu,batch\nqwen3-8b,L4,none\n", "line 2"),
        ("model,gpu,batch\nqwen3-8b,L4,0\n", "line 2: must be 1 or more"),
        ("model,batch\nqwen3-8b,1\n", "line 2: gpu is missing"),
        ("model,gpu\nqwen3-8b,L9\n", "gpu 'L9' is not known"),
        ("model,gpu\n", "no point"),
    ],
)
def test_a_wrong_point_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "points.csv"
    path.write_text(text)
    with pytest.raises(AgentError, match=said):
        planning.run(options("--points", str(path)))


def test_a_model_may_be_a_config_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(find_config("llama-3.1-8b")))
    arguments = ("--gpu", "H100", "--phase", "decode", "--model")
    (named,) = records(capsys, *arguments, "llama-3.1-8b")
    for path in (tmp_path, tmp_path / "config.json"):
        (record,) = records(capsys, *arguments, str(path))
        assert {**record, "model": ""} == {**named, "model": ""}


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
    ],
    ids=["several GPUs", "long names", "the lesson"],
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


def test_the_lesson_is_shown_with_its_prices_and_the_reasons(capsys: pytest.CaptureFixture[str]) -> None:
    text = written(capsys, "--simplified")
    for said in ("4.15", "3.04", "4.42", "4.34", "3630.5", "320 KiB a token, not 2.5 MB", "Why they differ"):
        assert said in text
    prices = [r["usd_per_million_tokens"] for r in records(capsys, "--simplified")][-4:]
    assert prices == pytest.approx([4.15, 3.04, 4.42, 4.34], abs=0.005)


def test_nothing_heavy_is_imported() -> None:
    code = f"import sys, agent.planning; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_answers_at_once() -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = ["--model", "llama-3.1-70b,deepseek-v3", "--gpu", "H100,L40S,A100", "--batch", "1,8,32,128"]
    subprocess.run([COMMAND, "advise", *command], stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Its own seconds: the machine may be busy with other tests.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1
