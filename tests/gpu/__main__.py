"""The agent against a real GPU, known work and counted bytes: `make gpu-check`.

Each workload runs for some seconds in a process of its own while our source reads the GPU and our
judgement says what bounds it. Beside that: what each NVML call costs, and whether GPM needs root. All of
it is recorded as a fixture. Exit status: 0 all held, 1 something did not, 2 it cannot be tried here.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pynvml

from agent.clock import SystemClock
from agent.errors import AgentError
from agent.readings import GpuReading, NodeReading
from agent.sources.nvml import NvmlSource
from agent.units import render_quantity, render_seconds
from tests.gpu.call_costs import CallCost, CallTimes, timed
from tests.gpu.checks import (
    Check,
    better_base,
    check_costs,
    check_gpm,
    check_nonroot,
    checks_of,
    note_base,
    note_reading,
    rates_of,
    traffic_of,
)
from tests.gpu.driver import ROOT, Torch, WorkerError, describe_torch, running
from tests.gpu.nonroot import try_as_nobody
from tests.gpu.record import Run, Seen, write_record
from tests.gpu.watch import LostError, bases_of, judge, watch
from tests.gpu.workloads import NEEDED_BYTES, WORKLOADS, Workload

FIXTURES = ROOT / "tests/fixtures/nvml"
SETTLE_SECONDS, INTERVAL_SECONDS = 2.0, 0.5
LEAST_SECONDS = 1.5
"""Below it too few readings are left to judge by: GPM wants 0.2 s between two."""
MARKS = {"pass": "ok", "fail": "FAIL", "skip": "--", "note": ""}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make gpu-check", description=__doc__)
    parser.add_argument("--output", type=Path, metavar="DIR", help=f"default {FIXTURES.relative_to(ROOT)}")
    parser.add_argument("--seconds", type=float, default=10, help="how long each workload is watched (10)")
    parser.add_argument(
        "--only",
        action="append",
        choices=[workload.name for workload in WORKLOADS],
        help="this workload alone; may be repeated; recorded only with --output",
    )
    parser.add_argument(
        "--python", default=sys.executable, help="the interpreter that has PyTorch (this one)"
    )
    options = parser.parse_args(arguments)
    if options.seconds < LEAST_SECONDS:
        parser.error(f"--seconds: at least {LEAST_SECONDS}")
    workloads = tuple(workload for workload in WORKLOADS if not options.only or workload.name in options.only)
    output = options.output or (None if options.only else FIXTURES)

    with timed() as times:
        source = NvmlSource(clock=SystemClock(), gpm=True)
        try:
            return check(source, times, workloads, options.seconds, options.python, output)
        finally:
            source.close()


def check(
    source: NvmlSource,
    times: CallTimes,
    workloads: Sequence[Workload],
    seconds: float,
    python: str,
    output: Path | None,
) -> int:
    """What can be tried is tried; what is missing is said, all at once."""
    node = _read(source)
    torch = describe_torch(python)
    gpu = find_gpu(node, torch) if isinstance(node, NodeReading) and isinstance(torch, Torch) else None
    missing = [thing for thing in (node, torch, gpu) if isinstance(thing, str)]
    if missing or not isinstance(gpu, GpuReading) or isinstance(torch, str) or isinstance(node, str):
        print("gpu-check needs an NVIDIA GPU, and PyTorch with CUDA to give it work:", file=sys.stderr)
        for problem in missing:
            print(f"- {problem}", file=sys.stderr)
        return 2

    nvml_version = _nvml_version()
    print(f"{gpu.name}, driver {node.driver_version}, NVML {nvml_version}, PyTorch {torch.version}")
    print(f"{len(workloads)} workloads, {render_seconds(seconds)} each\n")
    print(_line("", "of", "claim", "found", "wanted"))
    seen = tuple(_see(source, times, workload, gpu, seconds, python) for workload in workloads)

    sights = [one.sight for one in seen if one.sight is not None]
    traffics = [one.traffic for one in seen if one.traffic is not None]
    bases = bases_of(gpu)
    nonroot = try_as_nobody(gpu.uuid)
    costs = times.costs()
    we_read_gpm = any(sight.window.evidence != "none" for sight in sights)
    checks = (
        check_gpm(sights, gpu.compute_capability),
        check_nonroot(nonroot, we_read_gpm=we_read_gpm),
        *check_costs(costs),
        note_reading(sights, len(node.gpus)),
        note_base(traffics, bases),
    )
    _show(checks)
    run = Run(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        gpu=gpu,
        driver_version=node.driver_version,
        nvml_version=nvml_version,
        torch_version=torch.version,
        cuda_version=torch.cuda_version,
        bases=bases,
        better_base=better_base(traffics, bases),
        seen=seen,
        costs=costs,
        nonroot=nonroot,
        checks=checks,
    )
    _show_costs(costs)
    if output is not None:
        print(f"\nrecorded in {write_record(run, output)}")
    failed = [f"{one.subject}: {one.claim}" for one in run.all_checks if one.outcome == "fail"]
    print("\nall held" if run.passed else f"\n{len(failed)} did not hold: {'; '.join(failed)}")
    return 0 if run.passed else 1


def _read(source: NvmlSource) -> NodeReading | str:
    try:
        node = source.read()
    except AgentError as error:
        return str(error)
    return node if node.gpus else "NVML answers, and shows no GPU; see nvidia-smi"


def find_gpu(node: NodeReading, torch: Torch) -> GpuReading | str:
    """NVML's view of the GPU that PyTorch uses, or in words why there is none.

    By UUID, since the two count in different orders.
    """
    gpus = [gpu for gpu in node.gpus if isinstance(gpu, GpuReading) and not gpu.partitioned]
    named = [gpu for gpu in gpus if torch.device_uuid and gpu.uuid.endswith(torch.device_uuid)]
    found = named or (gpus if len(gpus) == 1 else [])
    if not found:
        return (
            f"which of NVML's {len(gpus)} GPUs PyTorch uses ({torch.device_name}, {torch.device_uuid}) "
            "is not clear; show this process one GPU only, or take PyTorch 2.4 or newer"
        )
    if torch.free_bytes < NEEDED_BYTES:
        return (
            f"{render_quantity(NEEDED_BYTES, 'B')} of free GPU memory; {torch.device_name} has "
            f"{render_quantity(torch.free_bytes, 'B')}: is somebody else using it?"
        )
    return found[0]


def _nvml_version() -> str | None:
    library: Any = pynvml
    try:
        return str(library.nvmlSystemGetNVMLVersion())
    except pynvml.NVMLError:
        return None


def _see(
    source: NvmlSource, times: CallTimes, workload: Workload, gpu: GpuReading, seconds: float, python: str
) -> Seen:
    """Run one workload and judge it, with a word on how it goes."""
    if sys.stdout.isatty():
        print(f"… {workload.name}: {workload.says}", end="", flush=True)
    try:
        with running(workload, python=python) as worker:
            times.state = "busy" if workload.shares else "idle"
            samples = watch(
                source,
                gpu.uuid,
                seconds=seconds,
                interval_seconds=max(min(INTERVAL_SECONDS, seconds / 6), 0.25),
                clock=SystemClock(),
            )
            progress = worker.finish()
        sight = judge(samples, settle_seconds=min(SETTLE_SECONDS, seconds / 5))
    except (WorkerError, LostError, AgentError) as error:
        failed = Check(
            subject=workload.name,
            claim="runs",
            outcome="fail",
            found="it does not",
            wanted=workload.says,
            reason=str(error),
        )
        seen = Seen(workload=workload, checks=(failed,))
    else:
        begin, end = sight.samples[0].at_seconds, sight.samples[-1].at_seconds
        seen = Seen(
            workload=workload,
            checks=checks_of(workload, sight, progress, bases_of(gpu)),
            calls=progress.calls_between(begin, end),
            sight=sight,
            rates=rates_of(workload, sight, progress),
            traffic=traffic_of(workload, sight, progress),
        )
    if sys.stdout.isatty():
        print("\r\033[K", end="")
    _show(seen.checks)
    return seen


# --- the tables ----------------------------------------------------------------------------------


def _line(mark: str, subject: str, claim: str, found: str, wanted: str) -> str:
    return f"{mark:5}{subject:15}{claim:21}{found:51}{wanted}".rstrip()


def _show(checks: Sequence[Check]) -> None:
    for one in checks:
        print(_line(MARKS[one.outcome], one.subject, one.claim, one.found, one.wanted), flush=True)
        if one.reason and (one.outcome in ("fail", "skip") or one.subject == "NVML calls"):
            print(f"{'':20}{one.reason}")


def _show_costs(costs: Sequence[CallCost]) -> None:
    print(f"\n{'NVML call, µs':52}{'GPU':9}{'count':>7}{'median':>10}{'p99':>10}{'max':>10}")
    for cost in costs:
        times = (cost.median_seconds, cost.p99_seconds, cost.max_seconds)
        figures = "".join(f"{seconds * 1e6:>10.1f}" for seconds in times)
        print(f"{cost.name:52}{cost.state:9}{cost.count:>7}{figures}{'  slow' if cost.is_slow else ''}")


if __name__ == "__main__":
    sys.exit(main())
