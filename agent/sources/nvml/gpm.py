"""GPM: how active one GPU's parts were, from the profiling counters of Hopper and newer.

A value is the mean between two samples, which must lie more than 100 ms apart: the library answers
nonsense for less, without an error. So each reading takes one sample and compares it with the one
before, and the window is the caller's own interval.
"""

from __future__ import annotations

import math
from contextlib import suppress

import pynvml

from agent.clock import Clock
from agent.readings import Activity

MIN_WINDOW_SECONDS = 0.2
"""Twice what the counters need, since they are refreshed on the driver's own beat."""
MAX_WINDOW_SECONDS = 60.0
"""A mean over more says nothing of now: after a longer pause measuring starts over."""
RETRY_SECONDS = 60.0
"""After a failure, until GPM is tried again."""

# Only ids up to 97: they are the same in every version of the header, and so few that no library
# finds the count out of range.
_DRAM, _TENSOR, _SM, _GRAPHICS = range(4)
_METRIC_IDS = (
    pynvml.NVML_GPM_METRIC_DRAM_BW_UTIL,
    pynvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL,
    pynvml.NVML_GPM_METRIC_SM_UTIL,
    pynvml.NVML_GPM_METRIC_GRAPHICS_UTIL,
)
_TOLERANCE_PERCENT = 0.5
"""How far outside 0–100 a value is still taken for rounding."""

_LACKING = (
    pynvml.NVML_ERROR_NOT_SUPPORTED,
    pynvml.NVML_ERROR_FUNCTION_NOT_FOUND,
    pynvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH,
)
_PASSING = (pynvml.NVML_ERROR_TIMEOUT, pynvml.NVML_ERROR_NO_DATA, pynvml.NVML_ERROR_NOT_READY)

_FIRST_SAMPLE = "GPM has its first sample; a value needs two"
_NO_VALUE = "GPM answered without a usable value"


class Gpm:
    """GPM on one GPU, or one MIG instance of it, of one NVML session.

    Every failure costs the activity only. That the GPU or the session is gone shows in NVML's other
    calls as well, and whoever holds this object acts on those.
    """

    def __init__(
        self,
        handle: pynvml.c_nvmlDevice_t,
        *,
        clock: Clock,
        instance_of: tuple[pynvml.c_nvmlDevice_t, int] | None = None,
    ) -> None:
        """`instance_of` is for a MIG instance: the handle of its GPU, and the id of its GPU instance."""
        self._handle = handle
        self._instance_of = instance_of
        self._clock = clock
        self._samples: list[pynvml.c_nvmlGpmSample_t] = []  # two, the older one first
        self._sampled_at: float | None = None
        self._request = pynvml.c_nvmlGpmMetricsGet_t(
            version=pynvml.NVML_GPM_METRICS_GET_VERSION, numMetrics=len(_METRIC_IDS)
        )
        for slot, metric_id in enumerate(_METRIC_IDS):
            self._request.metrics[slot].metricId = metric_id
        self._answer: Activity | str = _FIRST_SAMPLE
        self._due_at = -math.inf

    def read(self) -> Activity | str:
        """The activity since the reading before, or in words why there is none.

        Asked again within `MIN_WINDOW_SECONDS` it repeats its answer: the newest one there is, so
        that a caller who comes a little early sees no gap.
        """
        now = self._clock.monotonic()
        if now >= self._due_at:
            try:
                self._answer = self._measure(now)
                self._due_at = now + MIN_WINDOW_SECONDS
            except pynvml.NVMLError as error:
                self.close()
                self._answer = _in_words(error)
                self._due_at = now + _retry_seconds(error)
        return self._answer

    def close(self) -> None:
        """Free the samples; they do not outlive the NVML session."""
        for sample in self._samples:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlGpmSampleFree(sample)
        self._samples = []
        self._sampled_at = None

    def _measure(self, now: float) -> Activity | str:
        if not self._samples:
            self._open()
        before, sample = self._samples[1], self._samples[0]
        if self._instance_of is None:
            pynvml.nvmlGpmSampleGet(self._handle, sample)
        else:
            pynvml.nvmlGpmMigSampleGet(*self._instance_of, sample)
        self._samples = [before, sample]
        since, self._sampled_at = self._sampled_at, now
        if since is None or now - since > MAX_WINDOW_SECONDS:
            return _FIRST_SAMPLE

        self._request.sample1, self._request.sample2 = before, sample
        pynvml.nvmlGpmMetricsGet(self._request)
        activity = Activity(
            evidence="gpm",
            seconds=now - since,
            dram_ratio=_ratio(self._request.metrics[_DRAM]),
            tensor_ratio=_ratio(self._request.metrics[_TENSOR]),
            sm_ratio=_ratio(self._request.metrics[_SM]),
            graphics_ratio=_ratio(self._request.metrics[_GRAPHICS]),
        )
        ratios = (activity.dram_ratio, activity.tensor_ratio, activity.sm_ratio, activity.graphics_ratio)
        return _NO_VALUE if all(ratio is None for ratio in ratios) else activity

    def _open(self) -> None:
        # Ask the library, not the compute capability: vGPUs and old drivers differ from their chip.
        if not pynvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
        for _ in range(2):
            self._samples.append(pynvml.nvmlGpmSampleAlloc())


def _ratio(metric: pynvml.c_nvmlGpmMetric_t) -> float | None:
    percent = metric.value
    if metric.nvmlReturn != pynvml.NVML_SUCCESS:
        return None
    # NaN does occur; it compares false with everything and so is refused here too.
    if not -_TOLERANCE_PERCENT <= percent <= 100 + _TOLERANCE_PERCENT:
        return None
    return min(max(percent / 100, 0.0), 1.0)


def _retry_seconds(error: pynvml.NVMLError) -> float:
    if error.value in _LACKING:
        return math.inf
    return MIN_WINDOW_SECONDS if error.value in _PASSING else RETRY_SECONDS


def _in_words(error: pynvml.NVMLError) -> str:
    if error.value in _LACKING:
        return "this GPU or its driver has no GPM; it takes Hopper or newer, and driver 525 or newer"
    if error.value == pynvml.NVML_ERROR_NO_PERMISSION:
        return "GPM refuses: no permission; a GPU in MIG mode shows it to CAP_SYS_ADMIN only"
    return f"GPM failed: {error}"
