"""Reading the GPU while it works, and judging it as the agent does: source, history, window, verdict.

What is seen during the first seconds is not looked at, so that the window holds the workload alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from agent.assessment import GpuAssessment
from agent.clock import Clock
from agent.judgement.gpu import GpuFacts, assess_gpu
from agent.ladder import Ladder
from agent.readings import Activity, GpuReading, NodeReading
from agent.roofline.bottleneck import Counters, Verdict, from_counters
from agent.roofline.gpus import GpuSpec, bandwidth_from_clock, describe_gpu
from agent.sources.base import Source
from agent.window import GpuHistory, GpuWindow


class LostError(Exception):
    """The GPU under test was not among those that could be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reading of the GPU."""

    at_seconds: float
    """When it was complete, on the monotonic clock."""
    read_seconds: float
    """What it took to read the whole node."""
    reading: GpuReading


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time, and how active the GPU was over it."""

    begin_seconds: float
    end_seconds: float
    activity: Activity


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """What was seen of one workload."""

    samples: tuple[Sample, ...]
    window: GpuWindow
    assessment: GpuAssessment
    with_requests: Verdict | None
    """What the counters alone would say if an engine had requests in flight; `None` without counters."""

    @property
    def spans(self) -> tuple[Span, ...]:
        """The stretches over which there is activity, each once, the gaps between them left out."""
        spans: list[Span] = []
        for sample in self.samples:
            activity = sample.reading.activity
            if activity is None:
                continue
            begin = sample.at_seconds - activity.seconds
            # Asked again too early the source repeats its answer, which then reaches far into the last span.
            if not spans or begin >= spans[-1].end_seconds - activity.seconds / 2:
                spans.append(Span(begin_seconds=begin, end_seconds=sample.at_seconds, activity=activity))
        return tuple(spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bases:
    """What the ratio of DRAM activity may be a ratio of, in bytes/s."""

    catalogue: float | None
    """What the agent multiplies by."""
    clock: float | None
    """Two transfers a clock over the bus."""


def spec_of(reading: GpuReading) -> GpuSpec | None:
    """The GPU's row, as the agent finds it."""
    return describe_gpu(
        nvml_name=reading.name,
        memory_clock_max_hertz=reading.memory_clock_max_hertz,
        memory_bus_bits=reading.memory_bus_bits,
        memory_total_bytes=reading.memory_total_bytes,
    )


def bases_of(reading: GpuReading) -> Bases:
    """Both bases of the DRAM ratio."""
    spec = spec_of(reading)
    return Bases(
        catalogue=spec.dram_bytes_per_second if spec is not None else None,
        clock=bandwidth_from_clock(
            memory_clock_max_hertz=reading.memory_clock_max_hertz, memory_bus_bits=reading.memory_bus_bits
        ),
    )


def gpu_of(node: NodeReading, uuid: str) -> GpuReading:
    """The GPU under test; raises `LostError` when it cannot be read."""
    for gpu in node.gpus:
        if gpu.uuid == uuid:
            if isinstance(gpu, GpuReading):
                return gpu
            raise LostError(gpu.message)
    raise LostError(f"{uuid} is not among the GPUs that NVML shows")


def watch(
    source: Source[NodeReading],
    uuid: str,
    *,
    seconds: float,
    interval_seconds: float,
    clock: Clock,
    pause: Callable[[float], None] = time.sleep,
) -> tuple[Sample, ...]:
    """Read the GPU at every interval, for so long."""
    samples: list[Sample] = []
    due = began = clock.monotonic()
    while due <= began + seconds:
        pause(max(due - clock.monotonic(), 0.0))
        asked = clock.monotonic()
        node = source.read()
        at = clock.monotonic()
        samples.append(Sample(at_seconds=at, read_seconds=at - asked, reading=gpu_of(node, uuid)))
        due += interval_seconds
    return tuple(samples)


def judge(samples: Sequence[Sample], *, settle_seconds: float) -> Sight:
    """What the agent says of the readings, without those that reach into the first seconds."""
    settled_at = samples[0].at_seconds + settle_seconds
    settled = tuple(
        sample
        for sample in samples
        if sample.at_seconds - (sample.reading.activity.seconds if sample.reading.activity else 0.0)
        >= settled_at
    )
    history, ladder = GpuHistory(keep_seconds=float("inf")), Ladder()
    for sample in settled:
        rungs = (sample.reading.activity,) if sample.reading.activity is not None else ()
        measured = ladder.climb(rungs, now_seconds=sample.at_seconds)
        history.add(sample.at_seconds, sample.reading, measured)
    window = history.window()
    if window is None:
        raise LostError("no reading after the first seconds; give it more --seconds")
    spec = spec_of(settled[-1].reading)
    return Sight(
        samples=settled,
        window=window,
        assessment=assess_gpu(GpuFacts(reading=settled[-1].reading, window=window, spec=spec)),
        with_requests=_with_requests(window, spec),
    )


def _with_requests(window: GpuWindow, spec: GpuSpec | None) -> Verdict | None:
    if window.evidence == "none":
        return None
    counters = Counters(
        evidence=window.evidence,
        dram_ratio=window.dram_ratio,
        tensor_ratio=window.tensor_ratio,
        sm_ratio=window.sm_ratio,
        graphics_ratio=window.graphics_ratio,
        kernel_time_ratio=window.kernel_time_ratio,
        achievable_dram_ratio=spec.achievable_dram_ratio if spec is not None else 0.9,
    )
    return from_counters(counters, requests_running=True)
