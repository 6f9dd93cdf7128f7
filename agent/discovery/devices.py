"""Which GPUs and MIG instances the kubelet's devices are.

What a device is called is its plugin's choice, and what its resource is called the operator's. So names are
not taken apart, but for the mark of a shared GPU: each GPU is listed under all the names that it can have,
and devices are looked up there. What is not found is said, never guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.labels import label_text
from agent.readings import DeviceAllocation, GpuAllocation, GpuLost, GpuReading

DRA_DRIVER = "gpu.nvidia.com"

# What plugins put behind the name of a GPU that they give to several: NVIDIA's, for time-slicing and MPS, and
# Google's.
_REPLICA = re.compile(r"(?:::\d+|/vgpu\d+)\Z")
_SHARED_RESOURCE = ".shared"
_DEVICE_FILE = re.compile(r"nvidia\d+")
# A node also has network cards; a device that is not found is spoken of only if it must be a GPU.
_GPU_RESOURCE = re.compile(r"nvidia\.com/(?:gpu|mig-)")
_GPU_NAME = re.compile(r"GPU-|MIG-")

NOT_READ = "allocated by the kubelet, but none of the GPUs that are read here has this name"
NAMED_BY_DRIVER = (
    f"{DRA_DRIVER} names its devices by itself; which GPUs they are only the cluster's ResourceSlices tell"
)
BY_DEVICE_FILE = (
    "the kubelet's devices are called by their files, as nvidia0; the numbers are taken for NVML's, which on "
    "some boards differ"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MatchedDevices:
    """Which container has which GPU, and what could not be told."""

    allocations: tuple[GpuAllocation, ...] = ()
    """Each container once for each of its GPUs, in the kubelet's order."""
    notes: tuple[str, ...] = ()
    """What was not found, or only under an assumption, in words; each kind once."""


class _Match(NamedTuple):
    allocation: DeviceAllocation
    uuid: str | None
    replica: bool
    """Its plugin gives the same GPU to others too."""


def match_devices(
    allocations: Sequence[DeviceAllocation], gpus: Sequence[GpuReading | GpuLost]
) -> MatchedDevices:
    """The GPUs among the kubelet's devices.

    A GPU is `shared` if its plugin says so or several containers have it. While no GPU is known, nothing
    is said.
    """
    if not gpus:
        return MatchedDevices()
    names = {**_plugin_names(gpus), **_dra_names(gpus)}
    matches = [_match(allocation, names) for allocation in allocations]
    found = {(one.uuid, one.allocation.container): None for one in matches if one.uuid is not None}
    holders = Counter(uuid for uuid, _ in found)
    shared = {one.uuid for one in matches if one.replica}
    return MatchedDevices(
        allocations=tuple(
            GpuAllocation(
                uuid=uuid,
                container=container,
                attribution="shared" if uuid in shared or holders[uuid] > 1 else "exclusive",
            )
            for uuid, container in found
        ),
        notes=tuple(_notes(matches, several=sum(map(_is_board, gpus)) > 1)),
    )


# --- names ---------------------------------------------------------------------------------------

# By whether a DRA driver gave it, and the name: the UUID.
_Names = Mapping[tuple[bool, str], str]


def _match(allocation: DeviceAllocation, names: _Names) -> _Match:
    if allocation.resource == DRA_DRIVER:
        return _Match(allocation, names.get((True, allocation.device_id)), replica=False)
    name, marks = _REPLICA.subn("", allocation.device_id)
    replica = marks > 0 or allocation.resource.endswith(_SHARED_RESOURCE)
    return _Match(allocation, names.get((False, name)), replica)


def _plugin_names(gpus: Sequence[GpuReading | GpuLost]) -> _Names:
    """By UUID, as NVIDIA's plugin; by device file, as Google's; a MIG instance also as drivers once did."""
    names: dict[tuple[bool, str], str] = {}
    for gpu in gpus:
        if gpu.uuid is None:
            continue
        names[False, gpu.uuid] = gpu.uuid
        # The number of a device file is the kernel's, not NVML's. Virtual machines with GPUs, where these
        # names are used, have them in the same order; where there are several, a note says so.
        if _is_board(gpu):
            names[False, f"nvidia{gpu.index}"] = gpu.uuid
        elif isinstance(gpu, GpuReading) and gpu.mig is not None:
            instance, part = gpu.mig.gpu_instance_id, gpu.mig.compute_instance_id
            names[False, f"MIG-{gpu.mig.parent_uuid}/{instance}/{part}"] = gpu.uuid
            if part == 0:  # the one to which the plugin gives access
                names[False, f"nvidia{gpu.index}/gi{instance}"] = gpu.uuid
    return names


def _dra_names(gpus: Sequence[GpuReading | GpuLost]) -> _Names:
    """The node's only GPU. The number is that of a device file, and on bare metal no guide to NVML's."""
    boards = [gpu for gpu in gpus if _is_board(gpu)]
    return {
        (True, f"gpu-{gpu.index}"): gpu.uuid for gpu in boards if gpu.uuid is not None and len(boards) == 1
    }


def _is_board(gpu: GpuReading | GpuLost) -> bool:
    """Whether it is a GPU as a whole, not a MIG instance."""
    return gpu.mig is None if isinstance(gpu, GpuReading) else gpu.parent_uuid is None


# --- what is said --------------------------------------------------------------------------------


def _notes(matches: Sequence[_Match], *, several: bool) -> Iterator[str]:
    unknown = [one.allocation for one in matches if one.uuid is None]
    yield from _said([one for one in unknown if one.resource == DRA_DRIVER], NAMED_BY_DRIVER)
    yield from _said([one for one in unknown if _must_be_gpu(one)], NOT_READ)
    if several and any(one.uuid and _DEVICE_FILE.match(one.allocation.device_id) for one in matches):
        yield BY_DEVICE_FILE


def _must_be_gpu(allocation: DeviceAllocation) -> bool:
    return bool(_GPU_RESOURCE.match(allocation.resource) or _GPU_NAME.match(allocation.device_id))


def _said(allocations: Sequence[DeviceAllocation], problem: str) -> Iterator[str]:
    """One sentence for all of them: a device plugin that is not known must not fill the page."""
    if not allocations:
        return
    first = allocations[0]
    owner = label_text(f"{first.container.namespace}/{first.container.pod}")
    others = f" and {len(allocations) - 1} more" if len(allocations) > 1 else ""
    yield f"device {label_text(first.device_id)} of {owner}{others}: {problem}"
