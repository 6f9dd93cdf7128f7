"""NVML: what the driver says of each GPU. Here, and in `gpm`, are the only calls of nvidia-ml-py.

NVML fails on four levels, and each costs no more than itself:

* a call that this GPU or driver lacks: its field stays `None`, and it is not made again;
* a call that fails this time: its field is `None` this time;
* a GPU: it is `GpuLost`, the others are read, and it is looked for again at the next reading;
* the session: `SourceError`, and the next reading begins a new one.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, TypeVar

import pynvml

from agent.clock import Clock
from agent.errors import SourceAbsentError, SourceError
from agent.readings import Activity, GpuLost, GpuReading, NodeReading
from agent.sources.gpm import Gpm

log = logging.getLogger(__name__)

T = TypeVar("T")
Handle = pynvml.c_nvmlDevice_t

CLOSE_SECONDS = 1.0
"""How long `close` waits for a reading that is inside the driver."""

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

# --- errors: which level each belongs to, and what it means for the operator ----------------------

_LACKING = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DEPRECATED,
)
_OF_THE_GPU = (
    pynvml.NVML_ERROR_IRQ_ISSUE,
    pynvml.NVML_ERROR_CORRUPTED_INFOROM,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
)
# Not UNKNOWN: one sick GPU answers with it, and must not take the others along.
_OF_THE_SESSION = (
    pynvml.NVML_ERROR_UNINITIALIZED,
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED,
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH,
    pynvml.NVML_ERROR_GPU_NOT_FOUND,
)
_ABSENT: Mapping[int, str] = {
    pynvml.NVML_ERROR_LIBRARY_NOT_FOUND: (
        "no NVML library (libnvidia-ml.so.1) here; on a host install the NVIDIA driver, in Kubernetes give "
        "the pod runtimeClassName nvidia, NVIDIA_VISIBLE_DEVICES=all, NVIDIA_DRIVER_CAPABILITIES=utility"
    ),
    pynvml.NVML_ERROR_DRIVER_NOT_LOADED: (
        "the NVIDIA driver is not loaded; if this node has a GPU, see nvidia-smi and dmesg on the host"
    ),
}
_MEANINGS: Mapping[int, tuple[str, str]] = {
    pynvml.NVML_ERROR_UNINITIALIZED: ("uninitialized", "NVML is opened again at the next reading"),
    pynvml.NVML_ERROR_NO_PERMISSION: ("permission", "are the /dev/nvidia* nodes there and readable?"),
    pynvml.NVML_ERROR_TIMEOUT: ("timeout", "see dmesg on the host"),
    pynvml.NVML_ERROR_IRQ_ISSUE: ("interrupt", "check the card's seat and see dmesg on the host"),
    pynvml.NVML_ERROR_CORRUPTED_INFOROM: ("inforom", "the card wants service"),
    pynvml.NVML_ERROR_GPU_IS_LOST: ("lost", "it has fallen off the bus; reset it or reboot the node"),
    pynvml.NVML_ERROR_RESET_REQUIRED: ("reset_required", "drain the node and reset the GPU"),
    pynvml.NVML_ERROR_OPERATING_SYSTEM: (
        "operating_system",
        "a container may have lost its devices to systemctl daemon-reload; start it again",
    ),
    pynvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
        "version_mismatch",
        "the driver was changed under the running agent; start it again (in Kubernetes, delete the pod)",
    ),
    pynvml.NVML_ERROR_GPU_NOT_FOUND: ("gpu_not_found", "is a GPU bound to the driver? see nvidia-smi"),
}
_UNEXPLAINED = ("unknown", "see dmesg on the host; a container may have to be started again")


def _translated(error: pynvml.NVMLError) -> SourceError | SourceAbsentError:
    if error.value in _ABSENT:
        return SourceAbsentError(f"nvml: {_ABSENT[error.value]}")
    reason, advice = _MEANINGS.get(error.value, _UNEXPLAINED)
    return SourceError(reason, f"nvml: {error}; {advice}")


# --- the source ----------------------------------------------------------------------------------


class NvmlSource:
    """The GPUs of this node, through one NVML session that is kept open between readings."""

    name = "nvml"

    def __init__(self, *, clock: Clock, gpm: bool = True, library_path: str | None = None) -> None:
        """`library_path` is for a libnvidia-ml.so.1 that the dynamic linker does not find by itself."""
        self._clock = clock
        self._gpm = gpm
        self._library_path = library_path
        # Guards the session: it must not end, at `close`, under a reading that is inside the driver.
        self._session = threading.Lock()
        self._open = False
        self._driver_version: str | None = None
        self._gpus: dict[int, _Gpu] = {}
        self._identities: dict[int, tuple[str, str]] = {}  # UUID and name last seen at an index

    @property
    def failure_reasons(self) -> tuple[str, ...]:
        """Of all that NVML can answer."""
        return (*(reason for reason, _ in _MEANINGS.values()), _UNEXPLAINED[0])

    def read(self) -> NodeReading:
        """All GPUs in NVML's order; none is a reading too."""
        with self._session:
            try:
                self._begin()
                gpus = tuple(self._read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
            except pynvml.NVMLError as error:
                self._end()
                raise _translated(error) from error
            return NodeReading(gpus=gpus, driver_version=self._driver_version)

    def close(self) -> None:
        """End the session, unless a reading hangs in the driver: that one keeps it until the process ends."""
        if self._session.acquire(timeout=CLOSE_SECONDS):
            try:
                self._end()
            finally:
                self._session.release()

    def _begin(self) -> None:
        if self._open:
            return
        if self._library_path is not None:
            try:
                pynvml.nvmlLib = ctypes.CDLL(self._library_path)
            except OSError as error:
                raise SourceAbsentError(f"nvml: no library to load at {self._library_path}") from error
        pynvml.nvmlInit()
        self._open = True
        with suppress(pynvml.NVMLError):
            self._driver_version = pynvml.nvmlSystemGetDriverVersion()

    def _end(self) -> None:
        for index in tuple(self._gpus):
            self._drop(index)
        self._driver_version = None
        if self._open:
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _drop(self, index: int) -> None:
        gpu = self._gpus.pop(index, None)
        if gpu is not None:
            gpu.close()

    def _read_gpu(self, index: int) -> GpuReading | GpuLost:
        try:
            if index not in self._gpus:
                self._gpus[index] = gpu = _Gpu(index, clock=self._clock, gpm=self._gpm)
                self._identities[index] = (gpu.uuid, gpu.name)
            return self._gpus[index].read()
        except pynvml.NVMLError as error:
            if error.value in _OF_THE_SESSION:
                raise
            self._drop(index)
            uuid, name = self._identities.get(index, (None, None))
            reason, advice = _MEANINGS.get(error.value, _UNEXPLAINED)
            return GpuLost(
                index=index, uuid=uuid, name=name, reason=reason, message=f"GPU {index}: {error}; {advice}"
            )


class _Gpu:
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
                if error.value in _OF_THE_GPU or error.value in _OF_THE_SESSION:
                    raise
                if error.value not in _LACKING:
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
