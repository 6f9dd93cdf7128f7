"""The GPUs of this node, through one NVML session that is kept open between readings.

What fails is tried again with growing pauses, for ever: a driver that comes back, a GPU that was reset,
devices that appear late are all found without a restart.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pynvml

from agent.clock import Clock
from agent.errors import SourceAbsentError, SourceError
from agent.readings import GpuHealth, GpuLost, GpuReading, NodeReading
from agent.sources.nvml.device import Device
from agent.sources.nvml.errors import MEANINGS, OF_THE_SESSION, UNEXPLAINED, translated
from agent.sources.nvml.memory import PROC
from agent.sources.nvml.pause import Pause
from agent.sources.nvml.xids import XidListener
from agent.units import render_seconds

log = logging.getLogger(__name__)

RELEASE_SECONDS, CLOSE_SECONDS = 1.0, 0.4
"""How long a release, and `close`, wait for a reading that is inside the driver."""

RELEASED = "released"
"""The reason for which nothing is read while others have the GPUs."""


class _Place:
    """What is at one of NVML's indexes: a GPU that is read, or what is remembered of one that is lost."""

    def __init__(self, clock: Clock) -> None:
        self.device: Device | None = None
        self.gpm = True
        self.pause = Pause(clock)
        self.lost: GpuLost | None = None
        self.uuid: str | None = None
        self.name: str | None = None

    def close(self) -> None:
        if self.device is not None:
            self.device.close()
            self.device = None


class NvmlSource:
    """The GPUs of this node."""

    name = "nvml"

    def __init__(
        self, *, clock: Clock, gpm: bool = True, library_path: str | None = None, proc: Path = PROC
    ) -> None:
        """`library_path` is for a libnvidia-ml.so.1 that the dynamic linker does not find by itself."""
        self._clock = clock
        self._gpm = gpm
        self._library_path = library_path
        self._proc = proc
        # Guards the session: it must not end, at `close`, under a reading that is inside the driver.
        self._session = threading.Lock()
        self._open = False
        self._pause = Pause(clock)
        self._failure: SourceError | SourceAbsentError | None = None
        self._released_until = 0.0
        self._driver_version: str | None = None
        self._places: dict[int, _Place] = {}
        self._xids = XidListener(clock=clock)

    @property
    def failure_reasons(self) -> tuple[str, ...]:
        """Of all that NVML can answer, and that it was let go of."""
        return (*(reason for reason, _ in MEANINGS.values()), UNEXPLAINED[0], RELEASED)

    def read(self) -> NodeReading:
        """All GPUs in NVML's order, MIG instances behind their own; none is a reading too."""
        with self._session:
            self._stay_away_while_released()
            if self._failure is not None and self._pause.lasts:
                raise self._failure
            try:
                self._begin()
                gpus = tuple(
                    reading
                    for index in range(pynvml.nvmlDeviceGetCount())
                    for reading in self._read_gpu(index)
                )
            except (pynvml.NVMLError, SourceAbsentError) as error:
                self._end()
                self._pause.begin()
                self._failure = translated(error) if isinstance(error, pynvml.NVMLError) else error
                raise self._failure from error
            self._pause.end()
            self._failure = None
            return NodeReading(gpus=gpus, driver_version=self._driver_version)

    def use_gpm(self, wanted: bool) -> None:
        """Read profiling counters, or read none, from the next reading on."""
        self._gpm = wanted

    def release(self, seconds: float) -> bool:
        """Let go of all GPUs for so long, so that they can be reset or divided; then read them again.

        `False` when a reading hangs in the driver, which keeps hold of them; they are let go of after it.
        """
        self._released_until = self._clock.monotonic() + seconds
        return self._end_between_readings(RELEASE_SECONDS)

    def reacquire(self) -> None:
        """Read again from now on, however long the release was to last."""
        self._released_until = 0.0

    def close(self) -> None:
        """End the session, unless a reading hangs in the driver: that one keeps it until the process ends."""
        self._end_between_readings(CLOSE_SECONDS)

    def _end_between_readings(self, patience_seconds: float) -> bool:
        if not self._session.acquire(timeout=patience_seconds):
            return False
        try:
            return self._end()
        finally:
            self._session.release()

    def _stay_away_while_released(self) -> None:
        remaining = self._released_until - self._clock.monotonic()
        if remaining > 0:
            self._end()
            raise SourceError(
                RELEASED, f"nvml: let go of on request; read again in {render_seconds(remaining)}"
            )

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

    def _end(self) -> bool:
        """Whether nothing of ours is left in the driver."""
        for place in self._places.values():
            place.close()
        if self._open:
            if not self._xids.end():
                return False  # a thread is still in there: the session goes on, and ends another time
            self._open = False
            with suppress(pynvml.NVMLError):
                pynvml.nvmlShutdown()
        self._driver_version = None
        return True

    def _read_gpu(self, index: int) -> tuple[GpuReading | GpuLost, ...]:
        place = self._places.setdefault(index, _Place(self._clock))
        if place.lost is not None and place.pause.lasts:
            return (self._with_xids(place.lost),)
        try:
            if place.device is not None and place.gpm != self._gpm:
                place.close()
            if place.device is None:
                place.gpm = self._gpm
                place.device = Device(
                    index,
                    clock=self._clock,
                    gpm=place.gpm,
                    xids=self._xids,
                    proc=self._proc,
                    driver_version=self._driver_version,
                )
                place.uuid, place.name = place.device.uuid, place.device.name
            readings = place.device.read()
        except pynvml.NVMLError as error:
            if error.value in OF_THE_SESSION:
                raise
            place.close()
            place.pause.begin()
            reason, advice = MEANINGS.get(error.value, UNEXPLAINED)
            if place.lost is None or place.lost.reason != reason:
                about = {"source": self.name, "gpu": index, "uuid": place.uuid, "reason": reason}
                log.warning("nvml: GPU %d: %s; %s", index, error, advice, extra=about)
            place.lost = GpuLost(
                index=index,
                uuid=place.uuid,
                name=place.name,
                reason=reason,
                message=f"GPU {index}: {error}; {advice}",
            )
            return (self._with_xids(place.lost),)
        if place.lost is not None:
            about = {"source": self.name, "gpu": index, "uuid": place.uuid}
            log.info("nvml: GPU %d is read again", index, extra=about)
        place.lost = None
        place.pause.end()
        return readings

    def _with_xids(self, lost: GpuLost) -> GpuLost:
        """An XID may be heard after the GPU was found lost, or before: it says why."""
        if lost.uuid is None:
            return lost
        return replace(
            lost,
            health=GpuHealth(
                xid_errors=self._xids.counts(lost.uuid),
                last_xid_unix_seconds=self._xids.last_unix_seconds(lost.uuid),
            ),
        )
