"""The whole command over a stand-in NVML and a stand-in torch, and the file that it writes in the agent.

Of a real GPU these tests say nothing: what is measured here is arithmetic.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.calibration.conditions import gpu_at, reasons_against, settled
from agent.calibration.measure import NEEDED_BYTES
from agent.cli import main
from agent.config import load_configuration
from agent.roofline.gpus import find_gpu
from tests.calibration import torch_standin
from tests.machines import Machine, Watch
from tests.nvml_standin import StandIn

ROOT = Path(__file__).parents[2]
TORCH = Path(__file__).with_name("torch_standin.py")
UUID = "GPU-00000000-0000-0000-0000-000000000000"
H200 = {
    "name": "NVIDIA H200",
    "memory_total_bytes": 150_754_820_096,
    "bus_bits": 6144,
    "memory_clock_mhz": 3201,
    "memory_clock_max_mhz": 3201,
}
IDLE = {
    "memory_used_bytes": 600_000_000,
    "utilization_gpu_percent": 0,
    "gpm.1": 0,
    "gpm.2": 0,
    "clock_event_reasons": 1,
}


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    errors: str


class Command:
    """``roofline-agent calibrate`` in an environment of the test's making."""

    def __init__(self, stand_in: StandIn, directory: Path) -> None:
        self.stand_in, self.directory = stand_in, directory
        stand_in.set({**H200, **IDLE})
        shutil.copyfile(TORCH, directory / "torch.py")

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        library = {"LD_LIBRARY_PATH": str(self.stand_in.path.parent), "PYTHONPATH": str(self.directory)}
        return {**os.environ, **library, "TORCH_STANDIN_UUID": UUID, **more}

    def start(self, *arguments: str, **more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "agent", "calibrate", *arguments],
            cwd=ROOT,
            env=self.environment(more),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Who runs the tests may ignore Ctrl-C, as behind a shell's "&"; children inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )

    def run(self, *arguments: str, **more: str) -> Answer:
        process = self.start(*arguments, **more)
        out, errors = process.communicate(timeout=120)
        return Answer(process.returncode, out, errors)


@pytest.fixture
def command(libraries: dict[int, Path], tmp_path: Path) -> Command:
    (tmp_path / "modules").mkdir()
    return Command(StandIn(libraries[570], tmp_path / "nvml"), tmp_path / "modules")


def test_the_roofs_are_measured_shown_beside_the_sheet_and_written_as_the_configuration_takes_them(
    command: Command, tmp_path: Path
) -> None:
    output = tmp_path / "roofs.yaml"
    answer = command.run("--seconds", "10", "--output", str(output))
    assert answer.status == 0, answer.errors
    rows = {words[0]: words for line in answer.out.splitlines() if (words := line.split())}
    assert rows["DRAM"][1:6] == ["4.4", "TB/s", "4.8", "TB/s", "0.916"]
    assert rows["bf16"][1:6] == ["720", "TFLOP/s", "989", "TFLOP/s", "0.728"]
    assert "NVIDIA H200, " + UUID + ", driver 570.86.15" in answer.out
    assert "The ridge of the measured roofs is at 164, the datasheet's at 206." in answer.out
    assert max(map(len, answer.out.splitlines())) <= 80

    (roof,) = load_configuration(output).roofs
    assert roof.gpu == "NVIDIA H200"
    assert roof.achievable_dram_bytes_per_second == pytest.approx(torch_standin.DRAM, rel=0.01)
    assert (roof.dram_bytes_per_second, roof.flops_per_second) == (None, {}), "the sheet's stay"
    assert "# bf16 reached 7.2" in output.read_text()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["roofs.yaml"]


def test_an_agent_with_the_file_keeps_the_peaks_and_knows_what_can_be_reached(
    command: Command, tmp_path: Path, watch: Watch
) -> None:
    output = tmp_path / "roofs.yaml"
    assert command.run("--dtypes", "bf16", "--seconds", "5", "--output", str(output)).status == 0

    sheet = find_gpu("NVIDIA H200")
    (measured,) = watch(Machine(gpus=1, settings=H200), configuration=output.read_text()).beat(3).gpus
    assert sheet is not None
    assert measured.spec is not None
    assert measured.spec.dram_bytes_per_second == sheet.dram_bytes_per_second == 4.8e12
    assert measured.spec.flops_per_second == sheet.flops_per_second
    assert measured.spec.origin == sheet.origin, "its roofs are the datasheet's"
    assert measured.spec.achievable_dram_ratio == pytest.approx(4.4 / 4.8, rel=0.01)
    # A counter's share stays one of the theoretical bandwidth.
    assert measured.dram_bytes_per_second is not None
    assert measured.dram_bytes_per_second.value == pytest.approx(0.875 * 4.8e12, rel=0.01)


def test_a_part_that_the_catalogue_does_not_know_gets_all_that_is_known(
    command: Command, tmp_path: Path, watch: Watch
) -> None:
    unknown = {**H200, "name": "NVIDIA X900"}
    command.stand_in.set({**unknown, **IDLE})
    output = tmp_path / "roofs.yaml"
    answer = command.run("--dtypes", "bf16", "--seconds", "5", "--output", str(output))
    assert answer.status == 0, answer.errors
    (gpu,) = watch(Machine(gpus=1, settings=unknown), configuration=output.read_text()).beat(3).gpus
    assert gpu.spec is not None
    by_clock = 2 * 3201e6 * 6144 / 8
    assert gpu.spec.dram_bytes_per_second == pytest.approx(by_clock, rel=1e-3)
    assert gpu.spec.achievable_dram_ratio == pytest.approx(4.4e12 / by_clock, rel=0.01)
    assert gpu.spec.flops_per_second == {"bf16": pytest.approx(7.2e14, rel=0.01)}
    assert gpu.spec.origin == "configuration"


def test_json_has_everything(command: Command) -> None:
    answer = command.run("--format", "json", "--seconds", "10")
    document = json.loads(answer.out)
    assert document["gpu"] == {"name": "NVIDIA H200", "uuid": UUID, "driver_version": "570.86.15"}
    assert document["library"] == "PyTorch 0.0+standin, CUDA 13.0"
    assert document["dram"]["of_datasheet_ratio"] == pytest.approx(4.4 / 4.8, rel=0.01)
    reached = {name: point["flops_per_second"] for name, point in document["compute"].items()}
    known = {"bf16": 7.2e14, "fp16": 7e14, "fp8": 1.3e15, "int8": 1.2e15, "tf32": 3.8e14, "fp32": 5.1e13}
    assert reached == {name: pytest.approx(peak, rel=0.01) for name, peak in known.items()}
    assert document["compute"]["fp16"]["datasheet"] == 989.4e12, "16 bit has one peak"
    assert document["compute"]["tf32"]["datasheet"] is None
    assert document["ridge"]["flops_per_byte"] == pytest.approx(164, rel=0.05)
    assert [point["m"] for point in document["curve"]][:4] == [1, 2, 4, 8]
    assert document["conditions"]["readings"] >= 1
    assert document["conditions"]["sm_clock_hertz"] == 1.755e9
    assert document["conditions"]["temperature_highest_celsius"] == 54
    assert document["warnings"] == []


def test_csv_has_a_line_for_each_measurement(command: Command) -> None:
    answer = command.run("--format", "csv", "--dtypes", "bf16,fp32", "--seconds", "5")
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    roofs = [(row["kind"], row["dtype"]) for row in rows if row["role"] == "roof"]
    assert roofs[1:] == [("product", "bf16"), ("product", "fp32")]
    assert {row["dtype"] for row in rows if row["role"] == "curve"} == {"bf16"}
    for row in rows:
        assert float(row["bytes"]) / float(row["seconds"]) == pytest.approx(float(row["bytes_per_second"]))


def test_clocks_held_by_power_are_warned_of_and_noted_in_the_file(command: Command, tmp_path: Path) -> None:
    command.stand_in.set({"clock_event_reasons": 4})
    output = tmp_path / "roofs.yaml"
    answer = command.run("--dtypes", "bf16", "--seconds", "5", "--output", str(output))
    assert answer.status == 0
    assert "power or heat held the clocks down (sw_power_cap in 100 % of" in answer.errors
    assert "# Warning: power or heat held the clocks down" in output.read_text()


def test_a_busy_gpu_is_refused_and_it_is_said_what_to_do(command: Command, tmp_path: Path) -> None:
    command.stand_in.set({"processes": "4242:8589934592"})
    output = tmp_path / "roofs.yaml"
    answer = command.run("--output", str(output))
    assert (answer.status, answer.out) == (1, "")
    assert "GPU 0 (NVIDIA H200) is busy: processes compute on it: 4242" in answer.errors
    assert "--force" in answer.errors
    assert not output.exists()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        ({"processes": "4242:8589934592"}, "processes compute on it: 4242 (not seen from here, 8.59 GB)"),
        ({"gpm.2": 20}, "its SMs are active for 20 %"),
        ({"gpm_supported": 0, "utilization_gpu_percent": 50}, "kernels run on it for 50 % of the time"),
        ({"memory_used_bytes": 64 * 10**9}, "64 GB of its memory are in use, by processes that cannot be"),
        ({"memory_used_bytes": 149 * 10**9, "processes": "4242"}, "are free, and 2.15 GB are needed"),
    ],
    ids=[
        "idle",
        "a process",
        "active SMs",
        "kernels, without GPM",
        "memory of somebody unseen",
        "no memory left",
    ],
)
def test_what_nvml_says_makes_a_gpu_busy(
    watch: Watch, settings: Mapping[str, object], said: str | None
) -> None:
    watched = watch(Machine(gpus=1, settings={**H200, **IDLE, **settings}))

    def sleep(seconds: float) -> None:
        watched.clock.advance(seconds)
        watched.stand_in.set({"now_ms": watched.clock.monotonic() * 1000})

    node = settled(watched.source.read, sleep=sleep)
    reasons = reasons_against(gpu_at(node, 0), needed_bytes=NEEDED_BYTES, name_of=lambda _: None)
    if said is None:
        assert reasons == ()
    else:
        assert any(said in reason for reason in reasons), reasons


def test_a_process_of_this_machine_is_named(command: Command) -> None:
    command.stand_in.set({"processes": f"{os.getpid()}:1000000000"})
    name = Path("/proc/self/comm").read_text().strip()
    assert f"{os.getpid()} ({name}, 1 GB)" in command.run().errors


def test_a_busy_gpu_is_measured_by_force_and_it_is_said(command: Command) -> None:
    command.stand_in.set({"gpm.2": 20})
    answer = command.run("--force", "--dtypes", "bf16", "--seconds", "5")
    assert answer.status == 0
    assert "the GPU was busy (its SMs are active for 20 %): the roofs may be too low" in answer.errors


def test_an_older_part_is_told_what_it_lacks(command: Command) -> None:
    answer = command.run("--format", "json", "--seconds", "5", TORCH_STANDIN_CAPABILITY="7.5")
    document = json.loads(answer.out)
    assert document["compute"].keys() == {"fp16", "int8", "fp32"}
    assert document["missing"] == {
        "bf16": "needs compute capability 8.0; this GPU has 7.5",
        "fp8": "needs compute capability 8.9; this GPU has 7.5",
        "tf32": "needs compute capability 8.0; this GPU has 7.5",
    }
    assert {point["dtype"] for point in document["curve"]} == {"fp16"}


def test_a_product_that_the_library_refuses_is_left_out_with_its_words(command: Command) -> None:
    answer = command.run("--dtypes", "bf16,int8", "--seconds", "5", TORCH_STANDIN_NO_INT8="1")
    assert answer.status == 0
    assert "CUBLAS_STATUS_NOT_SUPPORTED" in answer.out
    assert "with a long story" not in answer.out


@pytest.mark.parametrize(
    ("settings", "arguments", "said"),
    [
        ({}, ["--gpu", "3"], "--gpu 3: NVML lists 1 GPUs here"),
        ({"mig_mode": 1, "migs": 2}, [], "is in MIG mode"),
        ({"gpu0.return": 15}, [], "fallen off the bus"),
        ({"nvmlInit.return": 9}, [], "the NVIDIA driver is not loaded"),
    ],
    ids=["no such GPU", "divided", "lost", "no driver"],
)
def test_what_cannot_be_measured_says_why(
    command: Command, settings: Mapping[str, object], arguments: list[str], said: str
) -> None:
    command.stand_in.set(settings)
    answer = command.run(*arguments)
    assert (answer.status, answer.out) == (1, "")
    assert said in answer.errors


def test_torch_without_cuda_is_said_so(command: Command) -> None:
    answer = command.run(TORCH_STANDIN_CUDA="0")
    assert answer.status == 1
    assert "PyTorch 0.0+standin for CUDA 13.0 finds no GPU" in answer.errors


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"TORCH_STANDIN_FULL": "1"}, "NVIDIA H200: its memory does not suffice"),
        ({"TORCH_STANDIN_BROKEN": "1"}, "cannot: CUDA error: an illegal memory access was encountered"),
        ({"TORCH_STANDIN_FREE": "100000000"}, "the GPU has 100 MB of free memory, too little to measure"),
    ],
    ids=["no memory", "a fault", "little memory"],
)
def test_what_goes_wrong_on_the_way_is_said_without_a_traceback(
    command: Command, tmp_path: Path, environment: dict[str, str], said: str
) -> None:
    output = tmp_path / "roofs.yaml"
    answer = command.run("--output", str(output), **environment)
    assert (answer.status, answer.out) == (1, "")
    assert said in answer.errors
    assert "Traceback" not in answer.errors
    assert not output.exists()


def test_without_torch_it_says_how_to_get_it(command: Command) -> None:
    (command.directory / "torch.py").unlink()
    answer = command.run()
    assert answer.status == 1
    assert "pip install 'roofline-agent[calibrate]'" in answer.errors


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--output", "/nowhere/roofs.yaml"], "there is no directory /nowhere"),
        (["--output", "/tmp"], "is a directory"),
    ],
)
def test_a_file_that_cannot_be_written_is_said_before_anything_is_measured(
    command: Command, arguments: list[str], said: str
) -> None:
    answer = command.run(*arguments)
    assert (answer.status, answer.out) == (1, "")
    assert said in answer.errors


@pytest.mark.parametrize(
    "arguments", [["--dtypes", "bf17"], ["--seconds", "0"], ["--gpu", "-1"], ["--gpu", "first"]]
)
def test_wrong_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["calibrate", *arguments])
    assert ended.value.code == 2
    assert f"argument {arguments[0]}" in capsys.readouterr().err


def test_an_interrupt_leaves_the_old_file_as_it_was(command: Command, tmp_path: Path) -> None:
    output = tmp_path / "roofs.yaml"
    output.write_text("roofs: []\n")
    begun = tmp_path / "modules" / "begun"
    process = command.start("--output", str(output), TORCH_STANDIN_BEGUN=str(begun))
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert begun.exists(), "it must be measuring by now"
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), errors
    assert "Traceback" not in errors
    assert output.read_text() == "roofs: []\n"
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["roofs.yaml"]
