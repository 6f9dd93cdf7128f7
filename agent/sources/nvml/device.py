"""One GPU of one NVML session: what it is, what it does now, and the calls that it lacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from agent.clock import Clock
from agent.readings import Activity, GpuReading
from agent.sources.nvml.errors import LACKING, OF_THE_GPU, OF_THE_SESSION
from agent.sources.nvml.gpm import Gpm

log = logging.getLogger(__name__)

T = TypeVar("T")
Handle = pynvml.c_nvmlDevice_t

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


class Device:
    """One GPU of one session: its handle, what never changes about it, and the calls that it lacks."""

    def __init__(self, index: int, *, clock: Clock, gpm: bool) -> None:
        self.index = index
        self._handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        self.uuid = pynvml.nvmlDeviceGetUUID(self._handle)
        self.name = pynvml.nvmlDeviceGetName(self._handle)
        self._gpm = Gpm(self._handle, clock=clock) if gpm else None
        self._lacking: set[Callable[[Handle], Any]] = set()
        self._constants: dict[Callable[[Handle], Any], Any] = {}
        self._answers = 0
        self._failure: int | None = None

    def read(self) -> GpuReading:
        """All that it says now; raises `NVMLError` when the GPU or the session is gone."""
        fixed = GpuReading(
            index=self.index,
            uuid=self.uuid,
            name=self.name,
            pci_bus_id=self._ask_once(_pci_bus_id),
            compute_capability=self._ask_once(pynvml.nvmlDeviceGetCudaComputeCapability),
            memory_bus_bits=self._ask_once(pynvml.nvmlDeviceGetMemoryBusWidth),
            sm_clock_max_hertz=self._ask_once(_sm_clock_max_hertz),
            memory_clock_max_hertz=self._ask_once(_memory_clock_max_hertz),
        )
        self._answers, self._failure = 0, None
        total, used, free, reserved = self._ask(_memory, _memory_v1) or (None, None, None, None)
        kernel_time, memory_time = self._ask(_time_ratios) or (None, None)
        activity = self._gpm.read() if self._gpm else "GPM is switched off"
        reading = replace(
            fixed,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=free,
            memory_reserved_bytes=reserved,
            power_watts=self._ask(_power_watts),
            power_limit_watts=self._ask(_power_limit_watts),
            energy_joules=self._ask(_energy_joules),
            temperature_celsius=self._ask(_temperature, _temperature_v0),
            sm_clock_hertz=self._ask(_sm_clock_hertz),
            memory_clock_hertz=self._ask(_memory_clock_hertz),
            kernel_time_ratio=kernel_time,
            memory_time_ratio=memory_time,
            clock_limit_reasons=self._ask(_clock_limit_reasons, _clock_limit_reasons_v0),
            activity=activity if isinstance(activity, Activity) else None,
            activity_problem=activity if isinstance(activity, str) else None,
        )
        if self._failure is not None and not self._answers:
            # What never changes comes from the driver's memory; when nothing else answers, the GPU is gone.
            raise pynvml.NVMLError(self._failure)
        return reading

    def close(self) -> None:
        """Let go of what it holds in the session."""
        if self._gpm is not None:
            self._gpm.close()

    def _ask(self, *calls: Callable[[Handle], T]) -> T | None:
        """The answer of the first of these calls that this GPU has; `None` when it has none, or fails now."""
        for call in calls:
            if call in self._lacking:
                continue
            try:
                answer = call(self._handle)
            except pynvml.NVMLError as error:
                if error.value in OF_THE_GPU or error.value in OF_THE_SESSION:
                    raise
                if error.value not in LACKING:
                    self._failure = error.value
                    return None  # no older call in its place: its value may mean something else
                self._lacking.add(call)
                log.debug("nvml: GPU %d has no %s: %s", self.index, call.__name__.lstrip("_"), error)
            else:
                self._answers += 1
                return answer
        return None

    def _ask_once(self, call: Callable[[Handle], T]) -> T | None:
        """The same for what never changes: asked until it answers."""
        if call not in self._constants:
            answer = self._ask(call)
            if answer is None:
                return None
            self._constants[call] = answer
        constant: T = self._constants[call]
        return constant


# --- the calls, each in base units ---------------------------------------------------------------
# Never nvmlDeviceGetPcieThroughput: it counts for 20 ms, and the caller waits.


def _pci_bus_id(gpu: Handle) -> str:
    return pynvml.nvmlDeviceGetPciInfo(gpu).busId


def _memory(gpu: Handle) -> tuple[int, int, int, int | None]:
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu, pynvml.nvmlMemory_v2)
    return memory.total, memory.used, memory.free, memory.reserved


def _memory_v1(gpu: Handle) -> tuple[int, int, int, int | None]:
    # Before driver 510: what the driver reserves is part of used, and cannot be told apart.
    memory = pynvml.nvmlDeviceGetMemoryInfo(gpu)
    return memory.total, memory.used, memory.free, None


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
