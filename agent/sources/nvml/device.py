"""One GPU of one NVML session: what it is, and what it does now.

In MIG mode it is read as several: itself, for what belongs to the whole board (power, heat, clocks,
links, faults), and each of its instances, for what belongs to those (memory, activity, processes).
Nothing is said twice, so that no sum over readings counts anything double.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pynvml

from agent.clock import Clock
from agent.readings import DIVIDED, FABRIC_HEALTH, FABRIC_STATES, Activity, GpuHealth, GpuLost, GpuReading
from agent.sources.nvml.asker import Asker, Handle
from agent.sources.nvml.fields import FieldReader, counters_of, health_of
from agent.sources.nvml.gpm import Gpm
from agent.sources.nvml.memory import read_host_memory, read_memory, read_memory_v1, read_processes
from agent.sources.nvml.mig import InstanceReader
from agent.sources.nvml.xids import XidListener

CLOCK_LIMIT_REASONS: Mapping[int, str] = {
    pynvml.nvmlClocksEventReasonGpuIdle: "idle",
    pynvml.nvmlClocksEventReasonApplicationsClocksSetting: "application_clocks",
    pynvml.nvmlClocksEventReasonSwPowerCap: "sw_power_cap",
    pynvml.nvmlClocksEventReasonHwSlowdown: "hw_slowdown",
    pynvml.nvmlClocksEventReasonSyncBoost: "sync_boost",
    pynvml.nvmlClocksEventReasonSwThermalSlowdown: "sw_thermal",
    pynvml.nvmlClocksEventReasonHwThermalSlowdown: "hw_thermal",
    pynvml.nvmlClocksEventReasonHwPowerBrakeSlowdown: "hw_power_brake",
    pynvml.nvmlClocksEventReasonDisplayClockSetting: "display_clock",
}
"""NVML's bits as words. A GPU with nothing to do lowers its clocks too: that is ``idle``."""


VIRTUALIZATION_MODES = ("none", "passthrough", "vgpu", "host_vgpu", "host_vsga")
"""By the number that NVML answers."""


class Device:
    """One GPU: its handle, what never changes about it, and its instances in MIG mode."""

    def __init__(
        self,
        index: int,
        *,
        clock: Clock,
        gpm: bool,
        xids: XidListener,
        proc: Path,
        driver_version: str | None,
    ) -> None:
        self.index = index
        handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.uuid = pynvml.nvmlDeviceGetUUID(handle)
        self.name = pynvml.nvmlDeviceGetName(handle)
        self._asker = Asker(handle, subject=f"GPU {index}", clock=clock)
        self._fields = FieldReader(handle, driver_version=driver_version)
        self._gpm = Gpm(handle, clock=clock) if gpm else None
        self._divided: bool | None = None
        self._instances = InstanceReader(handle, clock=clock, gpm=gpm)
        self._proc = proc
        self._xids = xids
        xids.listen(self.uuid, handle)

    def read(self) -> tuple[GpuReading | GpuLost, ...]:
        """All that it says now, and in MIG mode its instances behind it.

        Raises `NVMLError` when the GPU or the session is gone.
        """
        ask, asker = self._asker.ask, self._asker
        fixed = GpuReading(
            index=self.index,
            uuid=self.uuid,
            name=self.name,
            virtualization=asker.ask_once(_virtualization),
            pci_bus_id=asker.ask_once(_pci_bus_id),
            compute_capability=asker.ask_once(pynvml.nvmlDeviceGetCudaComputeCapability),
            memory_bus_bits=asker.ask_once(pynvml.nvmlDeviceGetMemoryBusWidth),
            sm_clock_max_hertz=asker.ask_once(_sm_clock_max_hertz),
            memory_clock_max_hertz=asker.ask_once(_memory_clock_max_hertz),
        )
        asker.begin()
        values = ask(self._read_fields) or {}
        kernel_time, memory_time = ask(_time_ratios) or (None, None)
        power, energy = values.get("power_watts"), values.get("energy_joules")
        board = replace(
            fixed,
            power_watts=power if power is not None else ask(_power_watts),
            power_instant_watts=values.get("power_instant_watts"),
            power_limit_watts=ask(_power_limit_watts),
            energy_joules=energy if energy is not None else ask(_energy_joules),
            temperature_celsius=ask(_temperature, _temperature_v0),
            memory_temperature_celsius=values.get("memory_temperature_celsius") or None,  # 0: no sensor
            sm_clock_hertz=ask(_sm_clock_hertz),
            memory_clock_hertz=ask(_memory_clock_hertz),
            clock_limit_reasons=ask(_clock_limit_reasons, _clock_limit_reasons_v0),
            kernel_time_ratio=kernel_time,
            memory_time_ratio=memory_time,
            counters=counters_of(values),
            health=self._health(values),
        )
        if (divided := ask(_mig_enabled)) is not None:  # else as before: to fail to say is no change
            if self._divided not in (None, divided):
                asker.forget_lacking()
                self._fields.forget_lacking()
            self._divided = divided
        if self._divided:
            asker.require_an_answer()
            if self._gpm is not None:
                self._gpm.close()
            instances = self._instances.read(board)
            return (replace(board, partitioned=True, activity_problem=DIVIDED), *instances)
        self._instances.close()
        memory = self._memory()
        asker.require_an_answer()
        activity = self._gpm.read() if self._gpm else "GPM is switched off"
        return (
            replace(
                board,
                **memory,
                processes=asker.ask_seldom(read_processes),
                activity=activity if isinstance(activity, Activity) else None,
                activity_problem=activity if isinstance(activity, str) else None,
            ),
        )

    def close(self) -> None:
        """Let go of what it holds in the session."""
        self._instances.close()
        if self._gpm is not None:
            self._gpm.close()

    def _read_fields(self, _: Handle) -> dict[str, float]:
        return self._fields.read()

    def _memory(self) -> dict[str, Any]:
        """The memory's fields of a reading."""
        memory, origin = self._asker.ask(read_memory, read_memory_v1), {}
        if memory is None and self._asker.why_lacking(read_memory_v1) == pynvml.NVML_ERROR_NOT_SUPPORTED:
            # A chip that shares the CPU's memory, such as GB10, has none of its own to tell of.
            memory, origin = read_host_memory(self._proc), {"memory_origin": "system"}
        total, used, free, reserved = memory or (None, None, None, None)
        return {
            **origin,
            "memory_total_bytes": total,
            "memory_used_bytes": used,
            "memory_free_bytes": free,
            "memory_reserved_bytes": reserved,
        }

    def _health(self, values: Mapping[str, float]) -> GpuHealth:
        state, health = self._asker.ask_seldom(_fabric, _fabric_v2) or (None, None)
        return replace(
            health_of(values),
            fabric_state=state,
            fabric_health=health,
            xid_errors=self._xids.counts(self.uuid),
            last_xid_unix_seconds=self._xids.last_unix_seconds(self.uuid),
        )


# --- the calls, each in base units ---------------------------------------------------------------
# Never nvmlDeviceGetPcieThroughput: it counts for 20 ms, and the caller waits.


def _pci_bus_id(gpu: Handle) -> str:
    return pynvml.nvmlDeviceGetPciInfo(gpu).busId


def _virtualization(gpu: Handle) -> str | None:
    mode = pynvml.nvmlDeviceGetVirtualizationMode(gpu)
    return VIRTUALIZATION_MODES[mode] if mode < len(VIRTUALIZATION_MODES) else None


def _mig_enabled(gpu: Handle) -> bool:
    current, _ = pynvml.nvmlDeviceGetMigMode(gpu)
    return bool(current)


def _fabric(gpu: Handle) -> tuple[str | None, str | None]:
    info = pynvml.c_nvmlGpuFabricInfo_v3_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    return _word(FABRIC_STATES, info.state), _word(FABRIC_HEALTH, info.healthSummary)


def _fabric_v2(gpu: Handle) -> tuple[str | None, str | None]:
    # Before driver 580: the health is bits of many meanings, without a summary.
    info = pynvml.c_nvmlGpuFabricInfo_v2_t()
    pynvml.nvmlDeviceGetGpuFabricInfoV(gpu, ctypes.byref(info))
    return _word(FABRIC_STATES, info.state), None


def _word(words: tuple[str, ...], number: int) -> str | None:
    """NVML counts these from 1; 0 is: not supported."""
    return words[number - 1] if 0 < number <= len(words) else None


def _power_watts(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetPowerUsage(gpu) / 1000


def _power_limit_watts(gpu: Handle) -> float:
    # The lowest of all limits in force, not the one that was asked for.
    return pynvml.nvmlDeviceGetEnforcedPowerLimit(gpu) / 1000


def _energy_joules(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetTotalEnergyConsumption(gpu) / 1000


def _temperature(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetTemperatureV(gpu, pynvml.NVML_TEMPERATURE_GPU)


def _temperature_v0(gpu: Handle) -> float:
    # Before driver 570; gone in CUDA 14.
    return pynvml.nvmlDeviceGetTemperature(gpu, pynvml.NVML_TEMPERATURE_GPU)


def _sm_clock_hertz(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6


def _sm_clock_max_hertz(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_SM) * 1e6


def _memory_clock_hertz(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetClockInfo(gpu, pynvml.NVML_CLOCK_MEM) * 1e6


def _memory_clock_max_hertz(gpu: Handle) -> float:
    return pynvml.nvmlDeviceGetMaxClockInfo(gpu, pynvml.NVML_CLOCK_MEM) * 1e6


def _time_ratios(gpu: Handle) -> tuple[float, float]:
    # Shares of *time* in which a kernel ran, or memory was touched at all: not load, not bandwidth.
    utilization = pynvml.nvmlDeviceGetUtilizationRates(gpu)
    return utilization.gpu / 100, utilization.memory / 100


def _clock_limit_reasons(gpu: Handle) -> tuple[str, ...]:
    return _words_of(pynvml.nvmlDeviceGetCurrentClocksEventReasons(gpu))


def _clock_limit_reasons_v0(gpu: Handle) -> tuple[str, ...]:
    # The call's name before driver 535; gone in CUDA 14.
    return _words_of(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(gpu))


def _words_of(reasons: int) -> tuple[str, ...]:
    return tuple(word for bit, word in CLOCK_LIMIT_REASONS.items() if reasons & bit)
