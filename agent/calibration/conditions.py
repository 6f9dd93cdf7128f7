"""Under which conditions is measured: whether the GPU is free before, and how it was clocked meanwhile.

What shares the GPU takes bandwidth and time, and the roof measured beside it is too low, so a busy GPU is
refused. Clocks held down by power or heat belong to the machine, so they are reported and not refused.
"""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.errors import AgentError
from agent.readings import GpuLost, GpuProcess, GpuReading, NodeReading
from agent.units import GIBI, render_percent, render_quantity

BUSY_RATIO = 0.03
"""SMs active, or time with some kernel, above which something runs there."""
UNSEEN_MEMORY_BYTES = GIBI
"""Memory in use without a process that is seen to hold it: those of other containers are hidden."""
WATCH_SECONDS = 0.5
POWER_OR_HEAT = ("sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake")
"""In NVML's words; `application_clocks` are somebody's setting, and are told apart."""


def gpu_at(node: NodeReading, index: int) -> GpuReading:
    """The GPU at NVML's index. Raises `AgentError` where there is none that can be measured."""
    found = [gpu for gpu in node.gpus if gpu.index == index]
    if not found:
        count = len({gpu.index for gpu in node.gpus})
        raise AgentError(f"--gpu {index}: NVML lists {count} GPUs here, counted from 0")
    gpu = found[0]
    if isinstance(gpu, GpuLost):
        raise AgentError(gpu.message)
    if gpu.partitioned:
        raise AgentError(
            f"GPU {index} is in MIG mode: its instances have shares of the part's roofs; measure a GPU that "
            "is not divided"
        )
    return gpu


def load_process_name(pid: int, proc: Path = Path("/proc")) -> str | None:
    """What the kernel calls the process; `None` where it cannot be seen from here."""
    try:
        return (proc / str(pid) / "comm").read_text().strip() or None
    except OSError:
        return None


def reasons_against(
    gpu: GpuReading, *, needed_bytes: int, name_of: Callable[[int], str | None] = load_process_name
) -> tuple[str, ...]:
    """Why nothing should be measured there now; empty when the GPU is free."""
    reasons: list[str] = []
    processes = gpu.processes or ()
    if processes:
        reasons.append(f"processes compute on it: {', '.join(_told(each, name_of) for each in processes)}")
    elif (gpu.memory_used_bytes or 0) > UNSEEN_MEMORY_BYTES:
        used = render_quantity(gpu.memory_used_bytes or 0, "B")
        reasons.append(f"{used} of its memory are in use, by processes that cannot be seen from here")
    sm = gpu.activity.sm_ratio if gpu.activity is not None else None
    if sm is not None and sm > BUSY_RATIO:
        reasons.append(f"its SMs are active for {render_percent(sm)}")
    elif gpu.kernel_time_ratio is not None and gpu.kernel_time_ratio > BUSY_RATIO:
        reasons.append(f"kernels run on it for {render_percent(gpu.kernel_time_ratio)} of the time")
    if gpu.memory_free_bytes is not None and gpu.memory_free_bytes < needed_bytes:
        free, needed = (render_quantity(each, "B") for each in (gpu.memory_free_bytes, needed_bytes))
        reasons.append(f"{free} of its memory are free, and {needed} are needed")
    return tuple(reasons)


def _told(process: GpuProcess, name_of: Callable[[int], str | None]) -> str:
    name = name_of(process.pid) or "not seen from here"
    held = f", {render_quantity(process.memory_bytes, 'B')}" if process.memory_bytes is not None else ""
    return f"{process.pid} ({name}{held})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """How the GPU was while it was measured; `None` where NVML did not say."""

    readings: int
    sm_clock_hertz: float | None
    """The median, as the next."""
    memory_clock_hertz: float | None
    sm_clock_lowest_hertz: float | None
    sm_clock_max_hertz: float | None
    """What the part can be clocked to."""
    temperature_highest_celsius: float | None
    power_highest_watts: float | None
    power_limit_watts: float | None
    limited: tuple[tuple[str, float], ...]
    """What held the clocks, each with its share of the readings, the largest first; idleness is left out."""

    @property
    def by_power_or_heat(self) -> tuple[tuple[str, float], ...]:
        """Of what held the clocks, that which is neither a setting nor idleness."""
        return tuple((reason, share) for reason, share in self.limited if reason in POWER_OR_HEAT)


def conditions_of(readings: Sequence[GpuReading]) -> Conditions:
    """Of a run, from what was read meanwhile."""

    def values(name: str) -> list[float]:
        return [value for reading in readings if (value := getattr(reading, name)) is not None]

    counts: dict[str, int] = {}
    for reading in readings:
        for reason in reading.clock_limit_reasons or ():
            if reason != "idle":
                counts[reason] = counts.get(reason, 0) + 1
    return Conditions(
        readings=len(readings),
        sm_clock_hertz=_median(values("sm_clock_hertz")),
        memory_clock_hertz=_median(values("memory_clock_hertz")),
        sm_clock_lowest_hertz=min(values("sm_clock_hertz"), default=None),
        sm_clock_max_hertz=max(values("sm_clock_max_hertz"), default=None),
        temperature_highest_celsius=max(values("temperature_celsius"), default=None),
        power_highest_watts=max(values("power_watts"), default=None),
        power_limit_watts=min(values("power_limit_watts"), default=None),
        limited=tuple(
            (reason, count / len(readings))
            for reason, count in sorted(counts.items(), key=lambda each: (-each[1], each[0]))
        ),
    )


def _median(values: Iterable[float]) -> float | None:
    found = list(values)
    return statistics.median(found) if found else None


class Observer:
    """Reads one GPU again and again beside the measuring thread, which waits for its kernels meanwhile."""

    def __init__(
        self, read: Callable[[], GpuReading | None], *, interval_seconds: float = WATCH_SECONDS
    ) -> None:
        self._read = read
        self._interval_seconds = interval_seconds
        self._readings: list[GpuReading] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="calibrate-observer", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=2.0)

    @property
    def conditions(self) -> Conditions:
        """Of what was read so far."""
        return conditions_of(tuple(self._readings))

    def _watch(self) -> None:
        while not self._stop.wait(self._interval_seconds):
            reading = self._read()
            if reading is not None:
                self._readings.append(reading)


def settled(read: Callable[[], NodeReading], *, sleep: Callable[[float], None] = time.sleep) -> NodeReading:
    """The second of two readings: activity is measured between them."""
    read()
    sleep(1.0)
    return read()
