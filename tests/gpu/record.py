"""What one GPU said, kept as a fixture: `tests/fixtures/nvml/<gpu>-<driver>.json`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agent.readings import GpuReading
from tests.gpu.call_costs import CallCost
from tests.gpu.checks import Check, Rates, Traffic
from tests.gpu.nonroot import NonRoot
from tests.gpu.watch import Bases, Sample, Sight
from tests.gpu.workloads import Workload

SCHEMA_VERSION = 1
NO_UUID = "GPU-00000000-0000-0000-0000-000000000000"
"""Stands for the real one: the file goes into a repository, and the card's name is nobody's business."""

# Of each reading between the first and the last, what changes.
_COURSE = (
    "power_watts",
    "energy_joules",
    "temperature_celsius",
    "sm_clock_hertz",
    "memory_clock_hertz",
    "kernel_time_ratio",
    "memory_time_ratio",
    "clock_limit_reasons",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One workload: what was run, what was seen, what was concluded."""

    workload: Workload
    checks: tuple[Check, ...]
    calls: Mapping[str, float] = field(default_factory=dict)
    """Of each kind, over the time that was looked at."""
    sight: Sight | None = None
    """`None`, as the next, when it did not run."""
    rates: Rates | None = None
    traffic: Traffic | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """All of one run."""

    date: str
    """ISO 8601, UTC."""
    gpu: GpuReading
    driver_version: str | None
    nvml_version: str | None
    torch_version: str
    cuda_version: str
    bases: Bases
    better_base: str | None
    seen: tuple[Seen, ...]
    costs: tuple[CallCost, ...]
    nonroot: NonRoot
    checks: tuple[Check, ...]
    """Those of the run as a whole."""

    @property
    def all_checks(self) -> tuple[Check, ...]:
        """Of the workloads and of the whole."""
        return (*(check for seen in self.seen for check in seen.checks), *self.checks)

    @property
    def passed(self) -> bool:
        """Nothing failed."""
        return not any(check.outcome == "fail" for check in self.all_checks)


def file_name(gpu_name: str, driver_version: str | None) -> str:
    """``nvidia-h100-80gb-hbm3-570.86.15.json``."""
    slug = re.sub(r"[^a-z0-9]+", "-", gpu_name.lower()).strip("-")
    return f"{slug}-{driver_version or 'unknown'}.json"


def write_record(run: Run, directory: Path) -> Path:
    """Write it, over what was there of the same GPU and driver."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / file_name(run.gpu.name, run.driver_version)
    path.write_text(render_record(run))
    return path


def render_record(run: Run) -> str:
    """As JSON, without anything that names the one card."""
    record: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "date": run.date,
        "gpu": run.gpu.name,
        "driver_version": run.driver_version,
        "nvml_version": run.nvml_version,
        "torch_version": run.torch_version,
        "cuda_version": run.cuda_version,
        "passed": run.passed,
        "dram_bases_bytes_per_second": {**asdict(run.bases), "better": run.better_base},
        "workloads": {seen.workload.name: _workload(seen) for seen in run.seen},
        "call_costs": [asdict(cost) for cost in run.costs],
        "nonroot": asdict(run.nonroot),
        "checks": [asdict(check) for check in run.checks],
    }
    text = json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    own = [run.gpu.uuid, *([run.gpu.mig.parent_uuid] if run.gpu.mig is not None else [])]
    for uuid in own:
        text = text.replace(uuid, NO_UUID)
    return text


def _workload(seen: Seen) -> dict[str, Any]:
    record: dict[str, Any] = {
        "says": seen.workload.says,
        "calls": dict(seen.calls),
        "rates": asdict(seen.rates) if seen.rates is not None else None,
        "traffic": _traffic(seen.traffic),
        "checks": [asdict(check) for check in seen.checks],
    }
    if seen.sight is not None:
        sight = seen.sight
        record |= {
            "window": asdict(sight.window),
            "verdict": _verdict(sight.assessment.verdict),
            "verdict_with_requests": _verdict(sight.with_requests),
            "throttle": sight.assessment.throttle,
            "first_reading": asdict(sight.samples[0].reading),
            "last_reading": asdict(sight.samples[-1].reading),
            "samples": _course(sight.samples),
        }
    return record


def _traffic(traffic: Traffic | None) -> dict[str, float | None] | None:
    return None if traffic is None else {**asdict(traffic), "implied_peak": traffic.implied_peak}


def _verdict(verdict: Any) -> dict[str, Any] | None:
    return None if verdict is None else {**asdict(verdict), "shares": dict(verdict.shares)}


def _course(samples: Sequence[Sample]) -> list[dict[str, Any]]:
    return [
        {
            "at_seconds": round(sample.at_seconds - samples[0].at_seconds, 6),
            "read_seconds": sample.read_seconds,
            "activity": asdict(sample.reading.activity) if sample.reading.activity is not None else None,
            **{name: getattr(sample.reading, name) for name in _COURSE},
        }
        for sample in samples
    ]
