"""What the monthly review costs at scale: `make bench-review`.

What it asks for is back-filled into a real Prometheus as the rules would have recorded it, for so many nodes
and models over a whole month; then the command runs as a user runs it. Said are its seconds, its memory and
that of the server, at several sizes, so that larger ones can be worked out on paper; docs/scale.md does so.
"""

from __future__ import annotations

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.readings import CLOCK_LIMITS
from agent.report.questions import QUESTIONS
from agent.roofline.bottleneck import BOTTLENECKS
from rules.recordings import INTERVAL_SECONDS, RECORDED
from tests.promtool import back_fill
from tests.rig.programs import Program, stored_prometheus

START = datetime(2026, 9, 1, tzinfo=UTC)
END = datetime(2026, 10, 1, tzinfo=UTC)
PARTS = ("H100-SXM5-80GB", "H200-SXM", "L40S")
LABELS: Mapping[str, Sequence[str]] = {
    "bottleneck": BOTTLENECKS,
    "reason": CLOCK_LIMITS,
    "quantity": ("dram_bytes", "flops", "dram_active", "tensor_active", "sm_active"),
    "evidence": ("gpm", "modelled", "none"),
    "severity": ("corrected", "uncorrected"),
    "xid": ("79",),
    "phase": ("prefill", "decode", "idle"),
    "location": ("local",),
    "outcome": ("stop", "length", "abort", "error"),
    "traffic": ("weights", "kv_cache", "activations"),
    "component": ("memory_bandwidth", "compute", "interconnect", "kernel_latency", "host"),
    "slo": ("ttft", "inter_token"),
    "tensor_parallel": ("4",),
    "pipeline_parallel": ("1",),
    "weight_dtype": ("bf16",),
    "kv_dtype": ("bf16",),
}
"""What the labels of recorded series may be, but for those that say of whom they are."""
MODEL = "meta-llama/Llama-3.1-70B-Instruct"
CHUNK_NODES = 50
"""Back-filled at once: promtool holds a block of all its series in memory."""


def owners(level: str, nodes: Sequence[int], models: int) -> list[dict[str, str]]:
    """Of whom there are series, with all labels that say so."""
    common = {"cluster": "a", "job": "roofline-agent"}
    if level == "node":
        return [{**common, "instance": f"node-{node}", "part": PARTS[node % 3]} for node in nodes]
    if level == "cluster":
        return [{**common, "part": part} for part in PARTS]
    return [
        {
            **common,
            "engine": "vllm",
            "model": f"{MODEL}-{model}",
            "workload_namespace": f"team-{model % 7}",
            "part": part,
        }
        for model in range(models)
        for part in PARTS[:2]
    ]


def series(levels: Sequence[str], nodes: Sequence[int], models: int) -> Iterator[str]:
    """The names and labels of all that a review asks for."""
    records = sorted({question.record for question in QUESTIONS})
    for record in records:
        level = record.split(":")[1]
        if level not in levels:
            continue
        told = set[str]()
        for owner in owners(level, nodes, models):
            own = {label: owner[label] for label in RECORDED[record] if label in owner}
            further = [label for label in RECORDED[record] if label not in owner]
            for values in itertools.product(*(LABELS[label] for label in further)):
                labels = {**own, **dict(zip(further, values, strict=True))}
                name = record + "{" + ",".join(f'{key}="{value}"' for key, value in labels.items()) + "}"
                if name not in told:
                    told.add(name)
                    yield name


def fill(directory: Path, names: Iterator[str]) -> tuple[int, int]:
    """Write them into blocks. Gives how many series and samples."""
    instants = [
        f" {at}\n" for at in range(int(START.timestamp()) + 37, int(END.timestamp()), INTERVAL_SECONDS)
    ]
    counted = 0

    def lines() -> Iterator[str]:
        nonlocal counted
        for number, name in enumerate(names):
            counted += 1
            value = f"{name} {100 + number % 200}."
            yield "".join([f"{value}{at % 10}{instant}" for at, instant in enumerate(instants)])

    back_fill(lines(), directory)
    return counted, counted * len(instants)


def measure(nodes: int, models: int, *, max_samples: int) -> None:
    """One size: a line."""
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        counted, samples = fill(directory, series(("cluster", "model"), (), models))
        for begin in range(0, nodes, CHUNK_NODES):
            more = fill(directory, series(("node",), range(begin, min(begin + CHUNK_NODES, nodes)), models))
            counted, samples = counted + more[0], samples + more[1]
        size = sum(path.stat().st_size for path in (directory / "data").rglob("*") if path.is_file())
        with stored_prometheus(directory, f"--query.max-samples={max_samples}") as program:
            seconds, cpu, resident = run(program, directory / "out")
            queries = sum(
                value
                for labels, value in program.metric("prometheus_http_requests_total").items()
                if "query" in labels
            )
            server = program.metric("process_cpu_seconds_total")[""]
            memory = peak_bytes(program.url.rpartition("/")[2])
        cells = (
            (f"{nodes}", 6),
            (f"{models}", 8),
            (f"{counted:,}", 10),
            (f"{samples / 1e6:.1f} M", 11),
            (f"{size / 1e6:.0f} MB", 12),
            (f"{seconds:.1f} s", 11),
            (f"{cpu:.1f} s", 10),
            (f"{resident / 2**20:.0f} MiB", 12),
            (f"{server:.1f} s", 10),
            (f"{memory / 2**20:.0f} MiB", 12),
            (f"{queries:.0f}", 9),
        )
        print("".join(f"{text:>{width}}" for text, width in cells), flush=True)


def run(program: Program, output: Path) -> tuple[float, float, float]:
    """The command; seconds by the clock and of the processor, and the most memory it had."""
    begin = time.monotonic()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "agent", "report", "--prometheus-url", program.url),
            *("--month", "2026-09", "--output", str(output)),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def peak_bytes(address: str) -> float:
    """The most memory that the Prometheus which listens there had."""
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            command = (status.parent / "cmdline").read_bytes()
            if address.encode() in command and b"prometheus" in command:
                (line,) = [each for each in status.read_text().splitlines() if each.startswith("VmHWM")]
                return float(line.split()[1]) * 1024
        except OSError:
            continue
    raise AssertionError(f"nobody listens at {address}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-review", description=__doc__)
    parser.add_argument("--nodes", type=int, nargs="+", default=[40, 100, 250])
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--max-samples", type=int, default=50_000_000, help="of Prometheus, for one query")
    options = parser.parse_args()
    print(
        f"{'nodes':>6}{'models':>8}{'series':>10}{'samples':>11}{'on disk':>12}{'review':>11}{'CPU':>10}"
        f"{'RSS':>12}{'server':>10}{'RSS':>12}{'queries':>9}"
    )
    for nodes in options.nodes:
        measure(nodes, options.models, max_samples=options.max_samples)


if __name__ == "__main__":
    main()
