"""The MIG instances of one GPU: each is read as a GPU of its own, with its own profiling samples."""

from __future__ import annotations

import pynvml

from agent.clock import Clock
from agent.readings import Activity, GpuLost, GpuReading, MigInstance
from agent.sources.nvml.asker import Asker, Handle
from agent.sources.nvml.errors import MEANINGS, OF_THE_SESSION, UNEXPLAINED
from agent.sources.nvml.gpm import Gpm
from agent.sources.nvml.memory import read_memory, read_memory_v1, read_processes
from agent.units import MEBI


class InstanceReader:
    """Finds the instances that there are now; who made others in their place gets other UUIDs."""

    def __init__(self, parent: Handle, *, clock: Clock, gpm: bool) -> None:
        self._parent = parent
        self._clock = clock
        self._gpm = gpm
        self._instances: dict[tuple[int, str], _Instance] = {}  # by place and UUID
        self._uuids: dict[int, str] = {}  # last seen at each place

    def read(self, board: GpuReading) -> tuple[GpuReading | GpuLost, ...]:
        """Each instance, in the order of its place; what fails costs the one instance."""
        found = set()
        readings: list[GpuReading | GpuLost] = []
        for place in range(pynvml.nvmlDeviceGetMaxMigDeviceCount(self._parent)):
            try:
                handle = pynvml.nvmlDeviceGetMigDeviceHandleByIndex(self._parent, place)
                uuid = self._uuids[place] = pynvml.nvmlDeviceGetUUID(handle)
                # By UUID: instance numbers are given again at once, and two samples of two instances
                # must never be compared. By place: at another it has another handle.
                if (place, uuid) not in self._instances:
                    self._instances[place, uuid] = self._open(handle, uuid, board)
                found.add((place, uuid))
                readings.append(self._instances[place, uuid].read(board))
            except pynvml.NVMLError as error:
                if error.value in OF_THE_SESSION:
                    raise
                if error.value == pynvml.NVML_ERROR_NOT_FOUND:
                    self._uuids.pop(place, None)  # an empty place
                elif place in self._uuids:
                    readings.append(_lost(self._uuids[place], board, error))
        for gone in self._instances.keys() - found:
            self._instances.pop(gone).close()
        return tuple(readings)

    def close(self) -> None:
        """Let go of all instances, and forget them."""
        for instance in self._instances.values():
            instance.close()
        self._instances = {}
        self._uuids = {}

    def _open(self, handle: Handle, uuid: str, board: GpuReading) -> _Instance:
        return _Instance(handle, uuid, board=board, parent=self._parent, clock=self._clock, gpm=self._gpm)


def _lost(uuid: str, board: GpuReading, error: pynvml.NVMLError) -> GpuLost:
    reason, advice = MEANINGS.get(error.value, UNEXPLAINED)
    return GpuLost(
        index=board.index,
        uuid=uuid,
        name=None,
        reason=reason,
        message=f"MIG instance {uuid} of GPU {board.index}: {error}; {advice}",
        parent_uuid=board.uuid,
    )


class _Instance:
    """One instance."""

    def __init__(
        self, handle: Handle, uuid: str, *, board: GpuReading, parent: Handle, clock: Clock, gpm: bool
    ) -> None:
        self._uuid = uuid
        self._name = pynvml.nvmlDeviceGetName(handle)
        self._asker = Asker(handle, subject=uuid, clock=clock)
        gpu_instance_id = pynvml.nvmlDeviceGetGpuInstanceId(handle)
        sm_count, memory_bytes = self._asker.ask(_attributes) or (None, None)
        self._mig = MigInstance(
            parent_uuid=board.uuid,
            gpu_instance_id=gpu_instance_id,
            compute_instance_id=pynvml.nvmlDeviceGetComputeInstanceId(handle),
            sm_count=sm_count,
            memory_bytes=memory_bytes,
        )
        self._gpm = Gpm(handle, clock=clock, instance_of=(parent, gpu_instance_id)) if gpm else None

    def read(self, board: GpuReading) -> GpuReading:
        """What it says now; its clocks are its board's."""
        self._asker.begin()
        total, used, free, reserved = self._asker.ask(read_memory, read_memory_v1) or (None,) * 4
        self._asker.require_an_answer()
        activity = self._gpm.read() if self._gpm else "GPM is switched off"
        return GpuReading(
            index=board.index,
            uuid=self._uuid,
            name=self._name,
            mig=self._mig,
            virtualization=board.virtualization,
            pci_bus_id=board.pci_bus_id,
            compute_capability=board.compute_capability,
            memory_total_bytes=total,
            memory_used_bytes=used,
            memory_free_bytes=free,
            memory_reserved_bytes=reserved,
            sm_clock_hertz=board.sm_clock_hertz,
            sm_clock_max_hertz=board.sm_clock_max_hertz,
            memory_clock_hertz=board.memory_clock_hertz,
            memory_clock_max_hertz=board.memory_clock_max_hertz,
            clock_limit_reasons=board.clock_limit_reasons,
            processes=self._asker.ask_seldom(read_processes),
            activity=activity if isinstance(activity, Activity) else None,
            activity_problem=activity if isinstance(activity, str) else None,
        )

    def close(self) -> None:
        if self._gpm is not None:
            self._gpm.close()


def _attributes(instance: Handle) -> tuple[int, int]:
    """Its SMs, and its memory in bytes."""
    attributes = pynvml.nvmlDeviceGetAttributes_v2(instance)
    return attributes.multiprocessorCount, attributes.memorySizeMB * MEBI
