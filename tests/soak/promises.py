"""What must always hold, of each assessment and of each page, whatever happens.

A `Ledger` sees all of them in turn, and raises `AssertionError` at the first that breaks a promise.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.assessment import Assessment, EngineAssessment, EngineKey, GpuAssessment
from agent.roofline.bottleneck import BOTTLENECKS
from agent.units import SECONDS_PER_HOUR

DRIVERS_OWN = ("gpu_energy_joules_total", "gpu_ecc_errors_total", "gpu_remapped_rows_total")
"""Counters that are the driver's own, and begin anew with it."""
ROUNDING = 1e-6

WITHIN_ONE = (
    "roofline_gpu_dram_active_ratio",
    "roofline_gpu_tensor_active_ratio",
    "roofline_gpu_sm_active_ratio",
    "roofline_gpu_bottleneck_confidence_ratio",
    "roofline_engine_gpu_share_ratio",
    "roofline_engine_kv_cache_used_ratio",
    "roofline_engine_kv_cache_headroom_ratio",
)
STAYS = ("roofline_engine_up{", "roofline_engine_gone{")
"""What is said of an engine that does not answer."""


@dataclass(frozen=True, slots=True)
class Page:
    """The agent's page, taken apart."""

    values: Mapping[str, float]
    """By series, as it is written."""
    counters: Mapping[str, float]
    """Those that may only rise."""

    @classmethod
    def parse(cls, text: str) -> Page:
        """A page in the text format; `AssertionError` if a series is there twice, or no number."""
        values: dict[str, float] = {}
        counters: dict[str, float] = {}
        kind = ""
        for line in text.split("\n"):
            if not line:
                continue
            if line[0] == "#":
                if line.startswith("# TYPE "):
                    kind = line.rpartition(" ")[2]
                continue
            series, _, value = line.rpartition(" ")
            assert series not in values, f"{series} twice"
            number = values[series] = float(value)
            if kind in ("counter", "histogram"):
                counters[series] = number
        return cls(values, counters)

    def of(self, *, server: str) -> list[str]:
        """The series of one engine's server."""
        label = f'server="{server}"'
        return [series for series in self.values if series.startswith("roofline_engine_") and label in series]


@dataclass
class Ledger:
    """What was seen so far."""

    assessments: int = 0
    pages: int = 0
    _ticked_at: float | None = None
    _first_seen: dict[str, float] = field(default_factory=dict)
    _observed: dict[str, float] = field(default_factory=dict)
    _paid: dict[str, tuple[float, float]] = field(default_factory=dict)
    _charged: dict[EngineKey, float] = field(default_factory=dict)
    _counters: dict[str, float] = field(default_factory=dict)

    def forget(self, server: str) -> None:
        """Another source will be read for it, if any."""
        self._counters = {
            key: value for key, value in self._counters.items() if f'source="engine:{server}"' not in key
        }

    # --- assessments -------------------------------------------------------------------------------

    def see(self, assessment: Assessment, *, usd_per_hour: float | None = None) -> None:
        """One a tick. `usd_per_hour` is the price of every GPU since the tick before."""
        self.assessments += 1
        now = assessment.at_seconds
        before = self._ticked_at
        for gpu in assessment.gpus:
            if gpu.uuid and (gpu.up or gpu.uuid in self._first_seen):
                self._first_seen.setdefault(gpu.uuid, before if before is not None else now)
                self._see_time(gpu, now)
        for engine in assessment.engines:
            self._see_engine(engine)
        self._see_money(assessment, usd_per_hour=usd_per_hour)
        self._ticked_at = now

    def _see_time(self, gpu: GpuAssessment, now: float) -> None:
        totals = gpu.totals
        told = totals.observed_seconds + totals.unobserved_seconds
        elapsed = now - self._first_seen[gpu.uuid]
        assert told == pytest.approx(elapsed, abs=ROUNDING), f"{gpu.uuid}: {told} of {elapsed} s"
        parts = sum(totals.bottleneck_seconds.values())
        assert parts == pytest.approx(totals.observed_seconds, abs=ROUNDING), gpu.uuid
        for quantity in {quantity for quantity, _ in totals.evidence_seconds}:
            seconds = sum(s for (name, _), s in totals.evidence_seconds.items() if name == quantity)
            assert seconds == pytest.approx(totals.observed_seconds, abs=ROUNDING), (gpu.uuid, quantity)
        assert gpu.verdict is None or gpu.verdict.bottleneck in BOTTLENECKS

    def _see_engine(self, engine: EngineAssessment) -> None:
        work = engine.work_totals
        if work is None:
            return
        steps = sum(work.step_seconds.values())
        phases = dict(work.phase_seconds)
        busy = phases["prefill"] + phases["decode"]
        assert steps == pytest.approx(busy, rel=ROUNDING, abs=ROUNDING), (engine.key, steps, busy)
        assert sum(phases.values()) == pytest.approx(work.observed_seconds, rel=ROUNDING, abs=ROUNDING), (
            engine.key
        )

    def _see_money(self, assessment: Assessment, *, usd_per_hour: float | None) -> None:
        paid = unattributed = charged = 0.0
        for gpu in assessment.gpus:
            if not gpu.uuid:
                continue
            cost_before, left_before = self._paid.get(gpu.uuid, (0.0, 0.0))
            cost = gpu.totals.cost_usd - cost_before
            paid += cost
            unattributed += gpu.totals.unattributed_cost_usd - left_before
            self._paid[gpu.uuid] = gpu.totals.cost_usd, gpu.totals.unattributed_cost_usd
            observed = gpu.totals.observed_seconds - self._observed.get(gpu.uuid, 0.0)
            self._observed[gpu.uuid] = gpu.totals.observed_seconds
            if usd_per_hour is not None:
                expected = usd_per_hour * observed / SECONDS_PER_HOUR
                assert cost == pytest.approx(expected, rel=ROUNDING, abs=1e-9), f"{gpu.uuid}: paid {cost}"
        watched = {engine.key for engine in assessment.engines}
        self._charged = {key: usd for key, usd in self._charged.items() if key in watched}
        for engine in assessment.engines:
            if engine.work_totals is not None:
                total = sum(engine.work_totals.cost_usd.values())
                charged += total - self._charged.get(engine.key, 0.0)
                self._charged[engine.key] = total
        assert charged + unattributed == pytest.approx(paid, rel=ROUNDING, abs=1e-9), (
            f"engines {charged} + unattributed {unattributed}, paid {paid}"
        )

    # --- pages -------------------------------------------------------------------------------------

    def read(self, text: str) -> Page:
        """A page, as a scraper gets it."""
        self.pages += 1
        page = Page.parse(text)
        engines = set(map(_engine, page.values))
        if {engine for series in self._counters if (engine := _engine(series))} - engines:
            # It is watched no longer, or forgotten; if it comes back, it begins anew.
            self._counters = {
                series: value for series, value in self._counters.items() if _engine(series) in {"", *engines}
            }
        for series, value in page.counters.items():
            if not series.startswith(tuple(f"roofline_{name}" for name in DRIVERS_OWN)):
                before = self._counters.get(series, 0.0)
                assert value >= before, f"{series} fell from {before} to {value}"
                self._counters[series] = value
        chosen: dict[str, float] = {}
        for series, value in page.values.items():
            name, _, labels = series.partition("{")
            assert math.isfinite(value), f"{series} {value}"
            if name.endswith("_ratio"):
                assert value >= 0, f"{series} {value}"
                assert value <= 1 + ROUNDING or name not in WITHIN_ONE, f"{series} {value}"
            elif name == "roofline_gpu_bottleneck":
                gpu = labels.partition(',bottleneck="')[0]
                chosen[gpu] = chosen.get(gpu, 0.0) + value
        assert all(count == 1 for count in chosen.values()), f"not one class each: {chosen}"
        return page

    def silent(self, page: Page, *, server: str) -> None:
        """Nothing is said any more of an engine that has not answered for three intervals."""
        said = [series for series in page.of(server=server) if not series.startswith(STAYS)]
        assert not said, f"stale: {said[:3]}"
        up = [page.values[series] for series in page.of(server=server) if series.startswith(STAYS[0])]
        assert up, f"{server} has left the page"
        assert not any(up), f"{server} is shown as up"


def _engine(series: str) -> str:
    """Whose it is, by server and rank, or nothing."""
    return series.partition('server="')[2].partition('",model="')[0]


# --- what a process holds ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What a process holds."""

    at_seconds: float
    mebibytes: float
    threads: int
    files: int

    @classmethod
    def by_us(cls, at_seconds: float) -> Held:
        """By this one."""
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return cls(
            at_seconds=at_seconds,
            mebibytes=pages * os.sysconf("SC_PAGE_SIZE") / 2**20,
            threads=threading.active_count(),
            files=len(os.listdir("/proc/self/fd")),
        )


def slope_per_hour(points: list[tuple[float, float]]) -> float:
    """Of (seconds, value), by least squares; 0 with fewer than two."""
    if len(points) < 2:
        return 0.0
    mean_x = sum(x for x, _ in points) / len(points)
    mean_y = sum(y for _, y in points) / len(points)
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    if spread == 0:
        return 0.0
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread * SECONDS_PER_HOUR
