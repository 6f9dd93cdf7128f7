"""The whole command over a stand-in NVML and a stand-in torch: that its parts fit, and what it says.

Of a real GPU these tests say nothing: the stand-ins agree because they were made to.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.gpu.driver import ROOT
from tests.gpu.workloads import WORKLOADS
from tests.nvml_standin import StandIn

TORCH = Path(__file__).with_name("torch_standin.py")
H200 = {
    "name": "NVIDIA H200",
    "memory_total_bytes": 150_754_820_096,
    "bus_bits": 6144,
    "memory_clock_mhz": 3201,
    "memory_clock_max_mhz": 3201,
}


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    errors: str


class Command:
    """`python -m tests.gpu` in an environment of the test's making."""

    def __init__(self, stand_in: StandIn, modules: Path) -> None:
        self.stand_in = stand_in
        self.modules = modules
        stand_in.set(H200)

    def torch(self, text: str) -> None:
        (self.modules / "torch.py").write_text(text)

    def run(self, *arguments: str, **environment: str) -> Answer:
        directory = self.stand_in.path.parent
        done = subprocess.run(
            [sys.executable, "-m", "tests.gpu", *arguments],
            cwd=ROOT,
            env={
                **os.environ,
                "LD_LIBRARY_PATH": str(directory),
                "PYTHONPATH": str(self.modules),
                "TORCH_STANDIN_CONTROL": str(directory / "control"),
                **environment,
            },
            capture_output=True,
            text=True,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def command(stand_in: StandIn, tmp_path: Path) -> Command:
    shutil.copyfile(TORCH, tmp_path / "torch.py")
    return Command(stand_in, tmp_path)


def test_all_that_is_missing_is_said_at_once_with_how_to_get_it(command: Command) -> None:
    command.stand_in.set({"nvmlInit.return": 9})
    command.torch("""raise ImportError("No module named 'torch'")""")
    answer = command.run()
    assert answer.status == 2
    assert "the NVIDIA driver is not loaded" in answer.errors
    assert "PyTorch is not installed" in answer.errors
    assert "-m pip install torch" in answer.errors
    assert not answer.out


def test_a_gpu_without_torch_wants_torch_alone(command: Command) -> None:
    command.torch("""raise ImportError("No module named 'torch'")""")
    answer = command.run()
    assert answer.status == 2
    assert answer.errors.count("\n- ") == 1
    assert "pip install torch" in answer.errors


def test_torch_without_cuda_is_said_so(command: Command) -> None:
    answer = command.run(TORCH_STANDIN_CUDA="0")
    assert answer.status == 2
    assert "sees no CUDA device" in answer.errors


def test_a_gpu_in_use_by_others_is_not_measured(command: Command) -> None:
    answer = command.run(TORCH_STANDIN_FREE="1000000000")
    assert answer.status == 2
    assert "is somebody else using it?" in answer.errors


def test_no_gpu_at_all(command: Command) -> None:
    command.stand_in.set({"gpus": 0})
    answer = command.run()
    assert answer.status == 2
    assert "shows no GPU" in answer.errors


def test_a_gpu_that_is_as_we_say_passes_and_is_recorded(command: Command, tmp_path: Path) -> None:
    answer = command.run("--seconds", "1.5", "--output", str(tmp_path / "records"))
    assert answer.status == 0, answer.out + answer.errors
    assert "all held" in answer.out

    (path,) = (tmp_path / "records").iterdir()
    assert path.name == "nvidia-h200-570.86.15.json"
    record: dict[str, Any] = json.loads(path.read_text())
    assert record["passed"]
    assert list(record["workloads"]) == [workload.name for workload in WORKLOADS]
    assert record["dram_bases_bytes_per_second"]["better"] == "clock"
    assert record["workloads"]["gemv"]["verdict"]["bottleneck"] == "memory_bandwidth"
    assert record["workloads"]["tiny_paused"]["verdict_with_requests"]["bottleneck"] == "host"
    assert record["workloads"]["add"]["last_reading"]["name"] == "NVIDIA H200"
    assert {cost["state"] for cost in record["call_costs"]} == {"opening", "idle", "busy"}
    assert record["nonroot"]["reads_gpm"]
    if os.getuid() == 0:
        assert record["nonroot"]["uid"] == 65534
        assert int(record["nonroot"]["capabilities"], 16) == 0


def test_counters_that_are_wrong_and_calls_that_are_slow_fail(command: Command) -> None:
    command.stand_in.set({"nvmlDeviceGetUtilizationRates.delay_ms": 8})
    answer = command.run("--seconds", "1.5", "--only", "add", TORCH_STANDIN_SKEW="0.8")
    assert answer.status == 1
    assert "add: DRAM bytes" in answer.out
    assert "NVML calls: cost, busy GPU" in answer.out
    assert "recorded" not in answer.out


def test_a_gpu_without_gpm_is_checked_for_what_it_has(command: Command) -> None:
    command.stand_in.set({"name": "NVIDIA A100-SXM4-80GB", "compute_capability": "8.0", "gpm_supported": 0})
    answer = command.run("--seconds", "1.5", "--only", "matmul")
    assert answer.status == 0, answer.out + answer.errors
    assert "it takes Hopper or newer" in answer.out
    assert "unknown, without counters" in answer.out


def test_a_workload_that_fails_costs_its_own_checks(command: Command) -> None:
    text = TORCH.read_text() + (
        "\n\ndef add(*_: object, **__: object) -> None:\n    raise RuntimeError('out of memory')\n"
    )
    command.torch(text)
    answer = command.run("--seconds", "1.5", "--only", "add", "--only", "idle")
    assert answer.status == 1
    assert "out of memory" in answer.out
    assert "1 did not hold: add: runs" in answer.out
