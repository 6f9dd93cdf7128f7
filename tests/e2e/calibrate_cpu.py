"""The real command with the real PyTorch, on this machine's CPU: `make e2e-calibrate`.

All but CUDA is as on a GPU. What it measures must be what PyTorch's own stopwatch measures of the same
calls: `torch.utils.benchmark` shares nothing with ours. Of the roofs of a GPU this says nothing.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from agent.config import load_configuration

ROOT = Path(__file__).parents[2]
BIN = Path(os.environ.get("TORCH_DIR", ROOT / ".venv-torch")).absolute() / "bin"
APART = 0.5
"""How far outside its fastest and slowest repeat: others use the CPU as well, now more and now less."""

STOPWATCH = """
import json, sys, torch
from torch.utils.benchmark import Timer
kind, count, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
torch.set_float32_matmul_precision("highest")
threads = torch.get_num_threads()
arrays = [torch.rand(count) for _ in range({"copy": 2, "triad": 3, "read": 1}[kind])]
statement = {
    "copy": "arrays[1].copy_(arrays[0])",
    "triad": "torch.add(arrays[0], arrays[1], alpha=1.5, out=arrays[2])",
    "read": "torch.sum(arrays[0])",
}[kind]
moved = Timer(statement, globals=globals(), num_threads=threads)
a, b, out = (torch.randn(size, size) for _ in range(3))
product = Timer("torch.mm(a, b, out=out)", globals=globals(), num_threads=threads)
print(json.dumps([sorted(timer.blocked_autorange(min_run_time=5).times) for timer in (moved, product)]))
"""


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    output = tmp_path_factory.mktemp("calibrate") / "roofs.yaml"
    options = [
        "--device",
        "cpu",
        "--seconds",
        "15",
        "--dtypes",
        "bf16,fp8,int8,tf32,fp32",
        "--format",
        "json",
    ]
    done = subprocess.run(
        [BIN / "roofline-agent", "calibrate", *options, "--output", output],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout, done.stderr)
    return json.loads(done.stdout), output


def test_it_measures_what_torchs_own_stopwatch_measures(measured: tuple[dict[str, Any], Path]) -> None:
    document, _ = measured
    dram, product = document["dram"], document["compute"]["fp32"]
    arrays = {"copy": 2, "triad": 3, "read": 1}[dram["kind"]]
    count, size = dram["bytes"] // arrays // 4, product["m"]
    done = subprocess.run(
        [BIN / "python", "-c", STOPWATCH, dram["kind"], str(count), str(size)],
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    moved, multiplied = json.loads(done.stdout)
    assert moved[0] * (1 - APART) < dram["seconds"] < moved[-1] * (1 + APART)
    assert multiplied[0] * (1 - APART) < product["seconds"] < multiplied[-1] * (1 + APART)


def test_the_numbers_belong_together(measured: tuple[dict[str, Any], Path]) -> None:
    document, _ = measured
    assert document["library"].startswith("PyTorch 2.")
    assert document["missing"] == {"fp8": "a format of GPUs", "tf32": "a format of GPUs"}
    assert len(document["curve"]) == 13
    for point in (*document["compute"].values(), *document["curve"]):
        assert point["flops_per_second"] == pytest.approx(point["flops"] / point["seconds"])
    assert all(
        stream["bytes_per_second"] < 2 * document["dram"]["bytes_per_second"]
        for stream in document["tried"]
        if stream["kind"] != "product"
    )


def test_the_file_is_a_configuration(measured: tuple[dict[str, Any], Path]) -> None:
    document, output = measured
    (roof,) = load_configuration(output).roofs
    assert roof.gpu == "CPU"
    assert roof.dram_bytes_per_second == pytest.approx(document["dram"]["bytes_per_second"], rel=1e-3)
    assert roof.flops_per_second["fp32"] == pytest.approx(
        document["compute"]["fp32"]["flops_per_second"], rel=1e-3
    )
