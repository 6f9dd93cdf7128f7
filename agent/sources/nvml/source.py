"""The GPUs of this node, through one NVML session that is kept open between readings."""

from __future__ import annotations

import ctypes
import threading
from contextlib import suppress

import pynvml

from agent.clock import Clock
from agent.errors import SourceAbsentError
from agent.readings import GpuLost, GpuReading, NodeReading
from agent.sources.nvml.device import Device
from agent.sources.nvml.errors import MEANINGS, OF_THE_SESSION, UNEXPLAINED, translated

CLOSE_SECONDS = 1.0
"""How long `close` waits for a reading that is inside the driver."""


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
        self._devices: dict[int, Device] = {}
        self._identities: dict[int, tuple[str, str]] = {}  # UUID and name last seen at an index

    @property
    def failure_reasons(self) -> tuple[str, ...]:
        """Of all that NVML can answer."""
        return (*(reason for reason, _ in MEANINGS.values()), UNEXPLAINED[0])

    def read(self) -> NodeReading:
        """All GPUs in NVML's order; none is a reading too."""
        with self._session:
            try:
                self._begin()
                gpus = tuple(self._read_gpu(index) for index in range(pynvml.nvmlDeviceGetCount()))
            except pynvml.NVMLError as error:
                self._end()
                raise translated(error) from error
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
        for index in tuple(self._devices):
            self._drop(index)
        self._driver_version = None
        if self._open:
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()

    def _drop(self, index: int) -> None:
        gpu = self._devices.pop(index, None)
        if gpu is not None:
            gpu.close()

    def _read_gpu(self, index: int) -> GpuReading | GpuLost:
        try:
            if index not in self._devices:
                self._devices[index] = gpu = Device(index, clock=self._clock, gpm=self._gpm)
                self._identities[index] = (gpu.uuid, gpu.name)
            return self._devices[index].read()
        except pynvml.NVMLError as error:
            if error.value in OF_THE_SESSION:
                raise
            self._drop(index)
            uuid, name = self._identities.get(index, (None, None))
            reason, advice = MEANINGS.get(error.value, UNEXPLAINED)
            return GpuLost(
                index=index, uuid=uuid, name=name, reason=reason, message=f"GPU {index}: {error}; {advice}"
            )
