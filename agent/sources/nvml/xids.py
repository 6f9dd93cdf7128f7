"""XIDs: the driver's error reports, from a thread that waits for them.

NVML tells an event once, and only to who was waiting: so a thread waits all the time, and what it heard
is kept by GPU for the life of the source, over lost GPUs and new sessions.
"""

from __future__ import annotations

import ctypes
import logging
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress

import pynvml

from agent.clock import Clock
from agent.sources.nvml.pause import Pause

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.25
"""Of one wait inside the driver; the session ends no sooner than the wait does."""


class XidListener:
    """Counts XIDs by GPU, while a session lasts and from session to session."""

    def __init__(self, *, clock: Clock) -> None:
        self._clock = clock
        self._counts: dict[str, Counter[int]] = {}
        self._last_unix_seconds: dict[str, float] = {}
        self._uuids: dict[int, str] = {}  # by handle: a lost GPU cannot be asked for its UUID
        self._set: pynvml.c_nvmlEventSet_t | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def listen(self, uuid: str, handle: pynvml.c_nvmlDevice_t) -> None:
        """Hear of this GPU from now on; one that reports no events is left out."""
        try:
            if self._set is None:
                self._set = pynvml.nvmlEventSetCreate()
            pynvml.nvmlDeviceRegisterEvents(handle, pynvml.nvmlEventTypeXidCriticalError, self._set)
        except pynvml.NVMLError as error:
            log.debug("nvml: no events of %s: %s", uuid, error)
            return
        self._counts.setdefault(uuid, Counter())
        self._uuids[_address(handle)] = uuid
        self._stop.clear()  # it may be set yet, after an end that the thread was too slow for
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._run, args=(self._set,), name="nvml-xids", daemon=True
            )
            self._thread.start()

    def counts(self, uuid: str) -> Mapping[int, int] | None:
        """How often each XID was heard; `None` of a GPU that reports none."""
        heard = self._counts.get(uuid)
        return dict(heard) if heard is not None else None

    def last_unix_seconds(self, uuid: str) -> float | None:
        """When the last one was heard."""
        return self._last_unix_seconds.get(uuid)

    def end(self) -> bool:
        """The session ends; whether the thread has left the driver, so that it may."""
        if self._thread is not None:
            self._stop.set()
            self._thread.join(timeout=2 * WAIT_SECONDS)
            if self._thread.is_alive():
                return False
            self._thread = None
        if self._set is not None:
            with suppress(pynvml.NVMLError):
                pynvml.nvmlEventSetFree(self._set)
            self._set = None
        self._uuids.clear()
        return True

    def _run(self, events: pynvml.c_nvmlEventSet_t) -> None:
        pause = Pause(self._clock)
        while not self._stop.is_set():
            try:
                event = pynvml.nvmlEventSetWait_v2(events, int(WAIT_SECONDS * 1000))
            except pynvml.NVMLError as error:
                if error.value != pynvml.NVML_ERROR_TIMEOUT:  # it fails at once, over and over
                    pause.begin()
                    self._stop.wait(pause.seconds)
                continue
            pause.end()
            if event.eventType & pynvml.nvmlEventTypeXidCriticalError:
                self._count(event)

    def _count(self, event: pynvml.c_nvmlEventData_t) -> None:
        uuid = self._uuids.get(_address(event.device))
        if uuid is None:
            return
        # Replaced whole: others read it meanwhile.
        self._counts[uuid] = self._counts[uuid] + Counter({int(event.eventData): 1})
        self._last_unix_seconds[uuid] = self._clock.unix()
        xid = int(event.eventData)
        log.warning("%s: XID %d", uuid, xid, extra={"uuid": uuid, "xid": xid})


def _address(handle: pynvml.c_nvmlDevice_t) -> int:
    return ctypes.cast(handle, ctypes.c_void_p).value or 0
