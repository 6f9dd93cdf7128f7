# The calls of nvidia-ml-py that the agent makes, and no others.
# The names are the library's own:
# ruff: noqa: A002, N801, N802, N803, N815, N816

import ctypes
from collections.abc import MutableMapping, MutableSequence

NVML_CLOCK_SM: int
NVML_CLOCK_MEM: int
NVML_TEMPERATURE_GPU: int

NVML_SUCCESS: int
NVML_ERROR_UNINITIALIZED: int
NVML_ERROR_NOT_SUPPORTED: int
NVML_ERROR_NO_PERMISSION: int
NVML_ERROR_DRIVER_NOT_LOADED: int
NVML_ERROR_TIMEOUT: int
NVML_ERROR_IRQ_ISSUE: int
NVML_ERROR_LIBRARY_NOT_FOUND: int
NVML_ERROR_FUNCTION_NOT_FOUND: int
NVML_ERROR_CORRUPTED_INFOROM: int
NVML_ERROR_GPU_IS_LOST: int
NVML_ERROR_RESET_REQUIRED: int
NVML_ERROR_OPERATING_SYSTEM: int
NVML_ERROR_LIB_RM_VERSION_MISMATCH: int
NVML_ERROR_NO_DATA: int
NVML_ERROR_ARGUMENT_VERSION_MISMATCH: int
NVML_ERROR_DEPRECATED: int
NVML_ERROR_NOT_READY: int
NVML_ERROR_GPU_NOT_FOUND: int
NVML_ERROR_UNKNOWN: int

nvmlMemory_v2: int
nvmlClocksEventReasonGpuIdle: int
nvmlClocksEventReasonApplicationsClocksSetting: int
nvmlClocksEventReasonSwPowerCap: int
nvmlClocksEventReasonHwSlowdown: int
nvmlClocksEventReasonSyncBoost: int
nvmlClocksEventReasonSwThermalSlowdown: int
nvmlClocksEventReasonHwThermalSlowdown: int
nvmlClocksEventReasonHwPowerBrakeSlowdown: int
nvmlClocksEventReasonDisplayClockSetting: int

nvmlLib: ctypes.CDLL | None
_nvmlGetFunctionPointer_cache: MutableMapping[str, object]

class NVMLError(Exception):
    value: int
    def __init__(self, value: int) -> None: ...

class c_nvmlDevice_t: ...

class nvmlPciInfo_t:
    busId: str

class c_nvmlMemory_t:
    total: int
    free: int
    used: int

class c_nvmlMemory_v2_t(c_nvmlMemory_t):
    reserved: int

class c_nvmlUtilization_t:
    gpu: int
    memory: int

def nvmlInit() -> None: ...
def nvmlShutdown() -> None: ...
def nvmlSystemGetDriverVersion() -> str: ...
def nvmlDeviceGetCount() -> int: ...
def nvmlDeviceGetHandleByIndex(index: int) -> c_nvmlDevice_t: ...
def nvmlDeviceGetUUID(handle: c_nvmlDevice_t) -> str: ...
def nvmlDeviceGetName(handle: c_nvmlDevice_t) -> str: ...
def nvmlDeviceGetPciInfo(handle: c_nvmlDevice_t) -> nvmlPciInfo_t: ...
def nvmlDeviceGetCudaComputeCapability(handle: c_nvmlDevice_t) -> tuple[int, int]: ...
def nvmlDeviceGetMemoryBusWidth(device: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetMemoryInfo(handle: c_nvmlDevice_t, version: int | None = None) -> c_nvmlMemory_v2_t: ...
def nvmlDeviceGetPowerUsage(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetEnforcedPowerLimit(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetTotalEnergyConsumption(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetTemperatureV(handle: c_nvmlDevice_t, sensor: int) -> int: ...
def nvmlDeviceGetTemperature(handle: c_nvmlDevice_t, sensor: int) -> int: ...
def nvmlDeviceGetClockInfo(handle: c_nvmlDevice_t, type: int) -> int: ...
def nvmlDeviceGetMaxClockInfo(handle: c_nvmlDevice_t, type: int) -> int: ...
def nvmlDeviceGetUtilizationRates(handle: c_nvmlDevice_t) -> c_nvmlUtilization_t: ...
def nvmlDeviceGetCurrentClocksEventReasons(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetCurrentClocksThrottleReasons(handle: c_nvmlDevice_t) -> int: ...

NVML_GPM_METRIC_GRAPHICS_UTIL: int
NVML_GPM_METRIC_SM_UTIL: int
NVML_GPM_METRIC_ANY_TENSOR_UTIL: int
NVML_GPM_METRIC_DRAM_BW_UTIL: int
NVML_GPM_METRICS_GET_VERSION: int

class c_nvmlGpmSample_t: ...

class c_nvmlGpmMetric_t:
    metricId: int
    nvmlReturn: int
    value: float

class c_nvmlGpmMetricsGet_t:
    version: int
    numMetrics: int
    sample1: c_nvmlGpmSample_t
    sample2: c_nvmlGpmSample_t
    metrics: MutableSequence[c_nvmlGpmMetric_t]
    def __init__(self, *, version: int, numMetrics: int) -> None: ...

class c_nvmlGpmSupport_t:
    isSupportedDevice: int

def nvmlGpmQueryDeviceSupport(device: c_nvmlDevice_t) -> c_nvmlGpmSupport_t: ...
def nvmlGpmSampleAlloc() -> c_nvmlGpmSample_t: ...
def nvmlGpmSampleFree(gpmSample: c_nvmlGpmSample_t) -> None: ...
def nvmlGpmSampleGet(
    device: c_nvmlDevice_t,
    gpmSample: c_nvmlGpmSample_t,
) -> c_nvmlGpmSample_t: ...
def nvmlGpmMetricsGet(
    metricsGet: c_nvmlGpmMetricsGet_t,
) -> c_nvmlGpmMetricsGet_t: ...
