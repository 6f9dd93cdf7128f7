"""NVML fails at random, tick after tick, call by call, and what must always hold is checked at each.

The whole agent but for its threads and its server, in virtual time, over the stand-in library: lost GPUs,
drivers that are unloaded, refused calls, NaN, MIG instances made anew, XIDs, counters that fall, suspended
hosts.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.assessment import Assessment, GpuAssessment
from agent.exposition.collector import collect
from agent.metrics import TABLE
from tests.machines import Machine, Watched
from tests.nvml_standin import StandIn, compile_library

MACHINE = Machine(gpus=3, instances=2, driver=590)
CONFIGURATION = 'prices: [{gpu: "*", usd_per_hour: 3.6}]\n'

GPUS = ("gpu0", "gpu1", "gpu2", "gpu2.mig0", "gpu2.mig1")
CALLS = (
    "nvmlDeviceGetFieldValues",
    "nvmlDeviceGetMemoryInfo_v2",
    "nvmlDeviceGetClockInfo",
    "nvmlDeviceGetUtilizationRates",
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlGpmSampleGet",
    "nvmlGpmMigSampleGet",
    "nvmlGpmMetricsGet",
    "nvmlDeviceGetMigMode",
    "nvmlDeviceGetHandleByIndex_v2",
    "nvmlDeviceGetMigDeviceHandleByIndex",
    "nvmlDeviceGetUUID",
)
CODES = (2, 3, 4, 6, 7, 10, 11, 13, 14, 15, 16, 17, 20, 21, 25, 26, 27, 999)
SESSION_CODES = (1, 4, 9, 17, 18, 28, 999)


@dataclass
class Soak:
    """One run, and what it has seen."""

    watched: Watched
    dice: random.Random
    ticks: int = 0
    faults: int = 0
    lost_gpus: int = 0
    broken_sessions: int = 0
    gaps: int = 0
    remade: int = 0
    xids: int = 0
    _ticked_at: float = 0.0
    _first_seen: dict[str, float] = field(default_factory=dict)
    _counters: dict[tuple[str, tuple[str, ...]], float] = field(default_factory=dict)
    _active: dict[str, int] = field(default_factory=dict)  # settings in force, and the tick of their end

    def tick(self) -> None:
        """Break something, or heal it; let a second pass; look at everything."""
        self._break_and_heal()
        if self.dice.random() < 0.0005:  # the host was suspended
            self.gaps += 1
            self.watched.clock.advance(self.dice.uniform(4, 4000))
        assessment = self.watched.beat()
        self.ticks += 1
        self.lost_gpus += sum(not gpu.up for gpu in assessment.gpus)
        self.broken_sessions += not assessment.sources[0].up
        self._check(assessment)
        self._ticked_at = assessment.at_seconds

    def _break_and_heal(self) -> None:
        dice = self.dice
        healed = [key for key, until in self._active.items() if until <= self.ticks]
        for key in healed:
            del self._active[key]
        settings: dict[str, object] = dict.fromkeys(healed)
        if dice.random() < 0.05:
            settings |= self._fault()
        if dice.random() < 0.01:
            self.xids += 1
            settings["xids"] = f"{self.xids}:gpu{dice.randrange(3)}:{dice.choice((31, 79, 94))}"
        if dice.random() < 0.3:
            settings["gpu0.field.197"] = dice.randrange(2**40)  # it may fall, too
            settings["gpm.10"] = round(dice.uniform(0, 100), 2)
            settings["utilization_gpu_percent"] = dice.randrange(101)
        if dice.random() < 0.002:  # instances taken apart and made anew: other UUIDs, the same numbers
            self.remade += 1
            gone = f"MIG-remade-{self.remade - 1}"
            self._counters = {key: value for key, value in self._counters.items() if gone not in key[1]}
            settings["gpu2.mig0.uuid"] = f"MIG-remade-{self.remade}"
        if settings:
            self.watched.stand_in.set(settings)

    def _fault(self) -> Mapping[str, object]:
        self.faults += 1
        dice = self.dice
        kind = dice.random()
        if kind < 0.06:
            key, value = dice.choice(("return", "nvmlInit.return")), dice.choice(SESSION_CODES)
        elif kind < 0.25:
            key, value = f"{dice.choice(GPUS)}.return", dice.choice((11, 14, 15, 16, 999))
        elif kind < 0.35:
            key, value = f"{dice.choice(('gpm.10', 'gpm.5', 'gpm.1'))}.return", dice.choice(CODES)
        elif kind < 0.4:
            key, value = "gpu1.mig_mode", 1  # divided, but into nothing
        else:
            key, value = f"{dice.choice(GPUS)}.{dice.choice(CALLS)}.return", dice.choice(CODES)
        self._active[key] = self.ticks + int(dice.expovariate(1 / 20)) + 1
        return {key: value}

    # --- what must always hold -----------------------------------------------------------------------

    def _check(self, assessment: Assessment) -> None:
        for gpu in assessment.gpus:
            if gpu.uuid and (gpu.up or gpu.uuid in self._first_seen):
                # The tick that finds it tells of the time since the one before.
                self._first_seen.setdefault(gpu.uuid, self._ticked_at or assessment.at_seconds)
                self._check_time(gpu, assessment.at_seconds)
        for metric in TABLE:
            if metric.kind != "counter" or not metric.name.startswith("gpu_"):
                continue
            for labels, value in collect(metric, assessment):
                assert isinstance(value, float | int)
                series = (metric.name, labels)
                if metric.name not in DRIVERS_OWN:
                    assert value >= self._counters.get(series, 0.0), f"{series} fell"
                    self._counters[series] = value
        stand_in = self.watched.stand_in
        assert stand_in.event_sets <= 1
        assert stand_in.samples <= 2 * len(GPUS)
        # A success older than three intervals has no word any more.
        success = assessment.sources[0].last_success
        if success is None or assessment.at_seconds - success.at_seconds > 3.5:
            assert not assessment.gpus, "stale"

    def _check_time(self, gpu: GpuAssessment, now: float) -> None:
        totals = gpu.totals
        told = totals.observed_seconds + totals.unobserved_seconds
        parts = sum(totals.bottleneck_seconds.values())
        assert parts == pytest.approx(totals.observed_seconds, abs=1e-6)
        for quantity in {quantity for quantity, _ in totals.evidence_seconds}:
            seconds = sum(s for (name, _), s in totals.evidence_seconds.items() if name == quantity)
            assert seconds == pytest.approx(totals.observed_seconds, abs=1e-6)
        elapsed = now - self._first_seen[gpu.uuid]
        assert told <= elapsed + 1e-6
        if gpu.uuid not in SOMETIMES_DIVIDED:  # while it is, its time is its instances'
            assert told == pytest.approx(elapsed, abs=1e-6), (gpu.uuid, gpu.up, now, self.ticks)


DRIVERS_OWN = {"gpu_energy_joules_total", "gpu_ecc_errors_total", "gpu_remapped_rows_total"}
"""Counters that are the driver's own, and begin anew with it."""
SOMETIMES_DIVIDED = tuple(f"GPU-00000000-0000-0000-0000-{index:012d}" for index in (1, 2))


def soak(ticks: int, *, seed: int, directory: Path, report: Callable[[Soak], None] = lambda _: None) -> Soak:
    """Run so many ticks; raises AssertionError for whatever does not hold."""
    stand_in = StandIn(compile_library(directory), directory / "nvml")
    watched = Watched(MACHINE, stand_in, directory / "proc", configuration=CONFIGURATION)
    run = Soak(watched=watched, dice=random.Random(seed))
    threads = threading.active_count()
    try:
        for tick in range(ticks):
            run.tick()
            assert threading.active_count() <= threads + 1
            if tick % 1000 == 999:
                report(run)
    finally:
        watched.close()
    return run
