"""A GPU that obeys a roof that is known: its kernels take what the roofline says, and then are disturbed."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.calibration.device import Traffic, UnsupportedError
from agent.calibration.timings import Timed
from agent.clock import ManualClock

BATCH_SECONDS = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is to be found out."""

    bytes_per_second: float = 4.4e12
    """By its best kernel."""
    flops_per_second: Mapping[str, float] = field(
        default_factory=lambda: {
            "bf16": 7.2e14,
            "fp16": 7.0e14,
            "fp8": 1.3e15,
            "tf32": 3.8e14,
            "fp32": 5.1e13,
        }
    )
    kinds: Mapping[Traffic, float] = field(default_factory=lambda: {"copy": 0.96, "triad": 1.0, "read": 0.92})
    launch_seconds: float = 5e-7
    noise_ratio: float = 0.0
    """Standard deviation of a repeat."""
    disturbed_ratio: float = 0.0
    """Repeats that something else makes twice as long."""


class KnownGpu:
    """A device without hardware, in a time of its own."""

    name = "NVIDIA H200"
    library = "arithmetic 1.0"

    def __init__(
        self, truth: Truth, clock: ManualClock, *, free_bytes: int = 140 * 10**9, seed: int = 7
    ) -> None:
        self.truth, self.free_bytes = truth, free_bytes
        self.l2_bytes: int | None = 60 * 1024**2
        self.moved: list[tuple[Traffic, int]] = []
        self.multiplied: list[tuple[int, str]] = []
        self._clock = clock
        self._random = random.Random(seed)

    def traffic(self, kind: Traffic, moved_bytes: int) -> Timed:
        self.moved.append((kind, moved_bytes))
        truth = self.truth
        return self._timed(moved_bytes / (truth.bytes_per_second * truth.kinds[kind]))

    def product(self, m: int, k: int, n: int, dtype: str) -> Timed:
        peak = self.truth.flops_per_second.get(dtype)
        if peak is None:
            raise UnsupportedError(f"has no {dtype}")
        self.multiplied.append((m, dtype))
        element = {"fp8": 1, "int8": 1, "bf16": 2, "fp16": 2}.get(dtype, 4)
        output = {"fp8": 2}.get(dtype, max(element, 2))
        moved = (m * k + k * n) * element + m * n * output
        return self._timed(max(moved / self.truth.bytes_per_second, 2 * m * k * n / peak))

    def _timed(self, work_seconds: float) -> Timed:
        seconds = work_seconds + self.truth.launch_seconds

        def once() -> float:
            taken = seconds * math.exp(self._random.gauss(0, self.truth.noise_ratio))
            if self._random.random() < self.truth.disturbed_ratio:
                taken *= 2
            self._clock.advance(max(taken, BATCH_SECONDS))
            return taken

        return once
