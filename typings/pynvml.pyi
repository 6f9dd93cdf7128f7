# The calls of nvidia-ml-py that the agent and the tests of its stand-in make, and no others.
# The names are the library's own:
# ruff: noqa: A002, N801, N802, N803, N815, N816

import ctypes
from collections.abc import MutableMapping, MutableSequence, Sequence

NVML_CLOCK_GRAPHICS: int
NVML_CLOCK_SM: int
NVML_CLOCK_MEM: int
NVML_CLOCK_VIDEO: int
NVML_PCIE_UTIL_RX_BYTES: int
NVML_TEMPERATURE_GPU: int

NVML_SUCCESS: int
NVML_ERROR_UNINITIALIZED: int
NVML_ERROR_INVALID_ARGUMENT: int
NVML_ERROR_NOT_SUPPORTED: int
NVML_ERROR_NO_PERMISSION: int
NVML_ERROR_NOT_FOUND: int
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

class c_nvmlDevice_t(ctypes.c_void_p): ...

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
def nvmlSystemGetCudaDriverVersion() -> int: ...
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
def nvmlDeviceGetPowerManagementLimit(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetFanSpeed(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetEncoderUtilization(handle: c_nvmlDevice_t) -> list[int]: ...
def nvmlDeviceGetPcieThroughput(device: c_nvmlDevice_t, counter: int) -> int: ...
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

NVML_VALUE_TYPE_DOUBLE: int
NVML_VALUE_TYPE_UNSIGNED_INT: int
NVML_VALUE_TYPE_UNSIGNED_LONG: int
NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: int
NVML_VALUE_TYPE_SIGNED_LONG_LONG: int
NVML_VALUE_TYPE_SIGNED_INT: int
NVML_VALUE_TYPE_UNSIGNED_SHORT: int

class c_nvmlValue_t:
    dVal: float
    uiVal: int
    ulVal: int
    ullVal: int
    sllVal: int
    siVal: int
    usVal: int

class c_nvmlFieldValue_t:
    fieldId: int
    scopeId: int
    timestamp: int
    latencyUsec: int
    valueType: int
    nvmlReturn: int
    value: c_nvmlValue_t

def nvmlDeviceGetFieldValues(
    handle: c_nvmlDevice_t,
    fieldIds: Sequence[int | tuple[int, int]],
) -> MutableSequence[c_nvmlFieldValue_t]: ...

class c_nvmlDeviceAttributes:
    multiprocessorCount: int
    gpuInstanceSliceCount: int
    computeInstanceSliceCount: int
    memorySizeMB: int

def nvmlDeviceGetMigMode(device: c_nvmlDevice_t) -> list[int]: ...
def nvmlDeviceGetMaxMigDeviceCount(device: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetMigDeviceHandleByIndex(device: c_nvmlDevice_t, index: int) -> c_nvmlDevice_t: ...
def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(migDevice: c_nvmlDevice_t) -> c_nvmlDevice_t: ...
def nvmlDeviceGetGpuInstanceId(device: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetComputeInstanceId(device: c_nvmlDevice_t) -> int: ...
def nvmlDeviceGetAttributes_v2(device: c_nvmlDevice_t) -> c_nvmlDeviceAttributes: ...
def nvmlGpmMigSampleGet(
    device: c_nvmlDevice_t,
    gpuInstanceId: int,
    gpmSample: c_nvmlGpmSample_t,
) -> c_nvmlGpmSample_t: ...
def nvmlDeviceGetVirtualizationMode(handle: c_nvmlDevice_t) -> int: ...

class c_nvmlGpuFabricInfo_v2_t(ctypes.Structure):
    version: int
    status: int
    cliqueId: int
    state: int
    healthMask: int

# Not the newest: still version 2 in nvidia-ml-py 13.615.
c_nvmlGpuFabricInfoV_t = c_nvmlGpuFabricInfo_v2_t

class c_nvmlGpuFabricInfo_v3_t(c_nvmlGpuFabricInfo_v2_t):
    healthSummary: int

# The structure by reference: ctypes.byref(…).
def nvmlDeviceGetGpuFabricInfoV(device: c_nvmlDevice_t, gpuFabricInfo: object) -> int: ...

class nvmlFriendlyObject:
    pid: int
    usedGpuMemory: int | None
    gpuInstanceId: int
    computeInstanceId: int

def nvmlDeviceGetComputeRunningProcesses(handle: c_nvmlDevice_t) -> list[nvmlFriendlyObject]: ...
def nvmlDeviceGetComputeRunningProcesses_v3(handle: c_nvmlDevice_t) -> list[nvmlFriendlyObject]: ...
def nvmlDeviceGetGraphicsRunningProcesses_v3(handle: c_nvmlDevice_t) -> list[nvmlFriendlyObject]: ...

class c_nvmlProcessUtilizationSample_t:
    pid: int
    smUtil: int

def nvmlDeviceGetProcessUtilization(
    handle: c_nvmlDevice_t, lastSeenTimeStamp: int
) -> list[c_nvmlProcessUtilizationSample_t]: ...

nvmlEventTypeXidCriticalError: int

class c_nvmlEventSet_t: ...

class c_nvmlEventData_t:
    device: c_nvmlDevice_t
    eventType: int
    eventData: int
    gpuInstanceId: int
    computeInstanceId: int

def nvmlEventSetCreate() -> c_nvmlEventSet_t: ...
def nvmlEventSetFree(eventSet: c_nvmlEventSet_t) -> None: ...
def nvmlEventSetWait_v2(eventSet: c_nvmlEventSet_t, timeoutms: int) -> c_nvmlEventData_t: ...
def nvmlDeviceGetSupportedEventTypes(handle: c_nvmlDevice_t) -> int: ...
def nvmlDeviceRegisterEvents(
    handle: c_nvmlDevice_t,
    eventTypes: int,
    eventSet: c_nvmlEventSet_t,
) -> None: ...
