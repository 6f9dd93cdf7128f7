"""What NVML's error codes mean: which level each belongs to, and what the operator can do.

NVML fails on four levels, and each costs no more than itself:

* a call that this GPU or driver lacks: its field stays `None`, and it is not made again;
* a call that fails this time: its field is `None` this time;
* a GPU: it is `GpuLost`, the others are read, and it is looked for again at the next reading;
* the session: `SourceError`, and the next reading begins a new one.
"""

from __future__ import annotations

from collections.abc import Mapping

import pynvml

from agent.errors import SourceAbsentError, SourceError

LACKING = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_NO_PERMISSION,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
    pynvml.NVML_ERROR_DEPRECATED,
)
OF_THE_GPU = (
    pynvml.NVML_ERROR_IRQ_ISSUE,
    pynvml.NVML_ERROR_CORRUPTED_INFOROM,
    pynvml.NVML_ERROR_GPU_IS_LOST,
    pynvml.NVML_ERROR_RESET_REQUIRED,
)
# Not UNKNOWN: one sick GPU answers with it, and must not take the others along.
OF_THE_SESSION = (
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
MEANINGS: Mapping[int, tuple[str, str]] = {
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
UNEXPLAINED = ("unknown", "see dmesg on the host; a container may have to be started again")


def translated(error: pynvml.NVMLError) -> SourceError | SourceAbsentError:
    """What it means that NVML as a whole answers so."""
    if error.value in _ABSENT:
        return SourceAbsentError(f"nvml: {_ABSENT[error.value]}")
    reason, advice = MEANINGS.get(error.value, UNEXPLAINED)
    return SourceError(reason, f"nvml: {error}; {advice}")
