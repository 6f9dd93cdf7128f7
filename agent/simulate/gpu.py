"""The GPUs of a simulated node, and what NVML says of them."""

from __future__ import annotations

from dataclasses import replace
from operator import attrgetter

from agent.readings import Activity, GpuCounters, GpuHealth, GpuLost, GpuProcess, GpuReading
from agent.simulate.activity import KERNEL_KINDS, Kind, Ledger, activity_between, joules, watts
from agent.simulate.engine import SimulatedEngine
from agent.simulate.scenario import BLOCK_TOKENS, Engine, Fault, Gpu
from agent.simulate.timeline import Timeline

MEMORY_RESERVED_BYTES = 600 << 20
_RUNTIME_BYTES = 3_000_000_000
"""What an engine holds besides weights and KV cache: context, graphs, activations."""

_NVLINK_BYTES_PER_SECOND = 150e9
"""While a collective runs, each way."""
_PCIE_BYTES_PER_SECOND = 40e6
"""While kernels run, each way: tokens, block tables, launches."""
_FALLEN_OFF_THE_BUS = 79
_TIMED_REASONS = ("sw_power_cap", "sync_boost", "sw_thermal", "hw_thermal", "hw_power_brake")
"""What may hold the clock down, as far as NVML counts how long it does."""

_SHORTEST_SAMPLE_SECONDS = 0.2
"""Profiling samples must not be closer: who reads earlier gets the last result again."""

_NO_GPM = "this GPU or its driver has no GPM; it takes Hopper or newer, and driver 525 or newer"
"""In the words of the real source."""

_next_at = attrgetter("next_at")


class GpuGroup:
    """GPUs that work in step for the same engines; one timeline tells of each of them."""

    def __init__(self, gpus: tuple[int, ...]) -> None:
        self.gpus = gpus
        self.timeline = Timeline()
        self.engines: list[SimulatedEngine] = []

    def run(self, until: float) -> None:
        """Let the engines have their turns, in the order of time."""
        while self.engines:
            engine = min(self.engines, key=_next_at)
            if engine.next_at > until:
                break
            engine.turn()
        self.timeline.account(until)


class SimulatedGpu:
    """One GPU as NVML shows it."""

    def __init__(self, index: int, spec: Gpu, group: GpuGroup) -> None:
        self.spec = spec
        self.group = group
        self.lost = False
        """Whether it is off the bus now."""
        self._faults: list[Fault] = []
        self._xids: dict[int, int] = {}
        self._last_xid_unix_seconds: float | None = None
        self.index = index
        self.uuid = f"GPU-00000000-0000-0000-0000-{index:012d}"
        self.pci_bus_id = f"00000000:{0x18 + index:02X}:00.0"
        self._sampled_at = group.timeline.accounted_until
        self._sampled_ledger = group.timeline.ledger
        self._activity: Activity | None = None
        self._limit_watts = (
            spec.part.power_limit_watts if spec.power_limit_watts is None else spec.power_limit_watts
        )
        capped = "sw_power_cap" in spec.clock_held_by
        self._most_watts = self._limit_watts if capped else self._limit_watts * spec.sm_clock_ratio
        self._power_watts = watts(Kind.IDLE, spec.part, self._most_watts)

    @property
    def memory_used_bytes(self) -> int:
        """By its engines."""
        return round(sum(_bytes_per_gpu(engine.spec) for engine in self.group.engines))

    @property
    def memory_free_bytes(self) -> int:
        """What neither engines nor the driver hold."""
        return self.spec.part.memory_total_bytes - MEMORY_RESERVED_BYTES - self.memory_used_bytes

    @property
    def sm_clock_hertz(self) -> float:
        """As clocked now."""
        part = self.spec.part
        if not self.group.engines:
            return part.sm_clock_unused_hertz
        return part.sm_clock_max_hertz * self.spec.sm_clock_ratio

    def joules(self, ledger: Ledger) -> float:
        """Energy drawn from the start up to this ledger."""
        return joules(ledger, self.spec.part, self._most_watts)

    def lose(self, unix_seconds: float) -> None:
        """It falls off the bus, which the driver reports as XID 79."""
        self.lost = True
        self._report(_FALLEN_OFF_THE_BUS, unix_seconds)

    def fail(self, fault: Fault, unix_seconds: float) -> None:
        """Something of it breaks, which it reports; it works on."""
        self._faults.append(fault)
        for xid in fault.xids:
            self._report(xid, unix_seconds)

    def _report(self, xid: int, unix_seconds: float) -> None:
        self._xids[xid] = self._xids.get(xid, 0) + 1
        self._last_xid_unix_seconds = unix_seconds

    def read(self) -> GpuReading | GpuLost:
        """As of what is accounted for; the activity is of the time since it was read before."""
        self._sample()
        part = self.spec.part
        if self.lost:
            return GpuLost(
                index=self.index,
                uuid=self.uuid,
                name=part.name,
                reason="gpu_is_lost",
                message=f"GPU {self.index} has fallen off the bus; it needs a reset, or the node a reboot",
                health=GpuHealth(
                    xid_errors=dict(self._xids), last_xid_unix_seconds=self._last_xid_unix_seconds
                ),
            )
        activity = self._activity
        kernel_time_ratio = activity.graphics_ratio if activity else None
        if activity and self.spec.profiling_reads_zero:
            activity = replace(activity, dram_ratio=0.0, tensor_ratio=0.0, sm_ratio=0.0, graphics_ratio=0.0)
        problem = None if activity else "the first of two samples was only just taken"
        if not part.has_gpm:
            activity, problem = None, _NO_GPM
        return GpuReading(
            index=self.index,
            uuid=self.uuid,
            name=part.name,
            pci_bus_id=self.pci_bus_id,
            compute_capability=part.compute_capability,
            memory_total_bytes=part.memory_total_bytes,
            memory_used_bytes=self.memory_used_bytes,
            memory_free_bytes=self.memory_free_bytes,
            memory_reserved_bytes=MEMORY_RESERVED_BYTES,
            memory_bus_bits=part.memory_bus_bits,
            power_watts=self._power_watts,
            power_instant_watts=self._power_watts,
            power_limit_watts=self._limit_watts,
            energy_joules=self.joules(self.group.timeline.ledger),
            temperature_celsius=temperature_celsius(self.spec, self._power_watts),
            memory_temperature_celsius=memory_temperature_celsius(self.spec, self._power_watts),
            sm_clock_hertz=self.sm_clock_hertz,
            sm_clock_max_hertz=part.sm_clock_max_hertz,
            memory_clock_hertz=part.memory_clock_hertz,
            memory_clock_max_hertz=part.memory_clock_hertz,
            kernel_time_ratio=kernel_time_ratio,
            memory_time_ratio=kernel_time_ratio,  # of time, too: memory is hardly ever untouched by a kernel
            clock_limit_reasons=self._clock_limit_reasons(),
            counters=self._counters(),
            health=self._health(),
            processes=tuple(
                GpuProcess(pid=4000 + number, memory_bytes=round(_bytes_per_gpu(engine.spec)))
                for number, engine in enumerate(self.group.engines)
            ),
            virtualization="none",
            activity=activity,
            activity_problem=problem,
        )

    def _clock_limit_reasons(self) -> tuple[str, ...]:
        if not self.group.engines:
            return ("idle",)
        return self._clock_held_by

    @property
    def _clock_held_by(self) -> tuple[str, ...]:
        return self.spec.clock_held_by if self.spec.sm_clock_ratio < 1 else ()

    def _counters(self) -> GpuCounters:
        ledger = self.group.timeline.ledger
        worked = sum(ledger[:KERNEL_KINDS])
        over_pcie = pcie_bytes(ledger)
        over_links = ledger[Kind.COMM] * _NVLINK_BYTES_PER_SECOND
        return GpuCounters(
            pcie_receive_bytes=over_pcie,
            pcie_transmit_bytes=over_pcie,
            nvlink_receive_bytes=over_links,
            nvlink_transmit_bytes=over_links,
            clock_limited_seconds={
                reason: worked if reason in self._clock_held_by else 0.0 for reason in _TIMED_REASONS
            },
        )

    def _health(self) -> GpuHealth:
        return GpuHealth(
            ecc_corrected_errors=0,
            ecc_uncorrected_errors=sum(fault.ecc_uncorrected_errors for fault in self._faults),
            remapped_rows_corrected=0,
            remapped_rows_uncorrected=0,
            row_remap_pending=any(fault.row_remap_pending for fault in self._faults),
            row_remap_failed=False,
            recovery_action=self._faults[-1].recovery_action if self._faults else "none",
            xid_errors=dict(self._xids),
            last_xid_unix_seconds=self._last_xid_unix_seconds,
        )

    def _sample(self) -> None:
        now, ledger = self.group.timeline.accounted_until, self.group.timeline.ledger
        seconds = now - self._sampled_at
        if seconds < _SHORTEST_SAMPLE_SECONDS:
            return
        was_lost = ledger[Kind.LOST] > self._sampled_ledger[Kind.LOST]
        self._activity = None if was_lost else activity_between(self._sampled_ledger, ledger, seconds)
        self._power_watts = (self.joules(ledger) - self.joules(self._sampled_ledger)) / seconds
        self._sampled_at, self._sampled_ledger = now, ledger


def temperature_celsius(spec: Gpu, power_watts: float) -> int:
    """Of a chip that draws this much."""
    return round(30 + 0.06 * power_watts) + spec.hotter_celsius


def memory_temperature_celsius(spec: Gpu, power_watts: float) -> int | None:
    """Of its memory, where that has a sensor."""
    return round(34 + 0.07 * power_watts) + spec.hotter_celsius if spec.part.has_memory_sensor else None


def pcie_bytes(ledger: Ledger) -> float:
    """Since the start, each way."""
    return sum(ledger[:KERNEL_KINDS]) * _PCIE_BYTES_PER_SECOND


def _bytes_per_gpu(spec: Engine) -> float:
    kv_bytes = spec.num_gpu_blocks * BLOCK_TOKENS * spec.model.kv_bytes_per_token
    return (spec.model.weight_bytes + kv_bytes) / len(spec.gpus) + _RUNTIME_BYTES
