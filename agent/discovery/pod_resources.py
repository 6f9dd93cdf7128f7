"""The kubelet's pod-resources API: which container of this node has which device.

The kubelet's list, by itself, needs no service account and no process namespace: one call over a socket that
belongs to root. It says what was allocated, not what is used, in the words of the device plugins; which GPUs
are meant is `devices.match_devices`'s to say.
"""

from __future__ import annotations

import os.path
from collections.abc import Iterator, Mapping
from itertools import islice

from agent.discovery.http2 import DEFAULT_LIMITS, CallError, CallLimits, call
from agent.errors import SourceAbsentError, SourceError
from agent.readings import DeviceAllocation, PodContainer, PodResourcesReading

SOCKET = "/var/lib/kubelet/pod-resources/kubelet.sock"
METHOD = "/v1.PodResourcesLister/List"
MAX_ALLOCATIONS = 16_384
"""Of one node; a thousand containers with sixteen devices each have fewer."""

ADVICE: Mapping[str, str] = {
    "permission": "not permitted; the socket is root's: run as uid 0, which needs no capability (if it does, "
    "SELinux or AppArmor forbids it)",
    "refused": "nobody listens there; does the kubelet restart?",
    "unreachable": "no socket can be there; is the path right?",
    "timeout": "no complete answer within {seconds:g} s; is the kubelet stuck?",
    "disconnected": "the connection ended before the answer did; does the kubelet restart?",
    "too_large": "more than {bytes} bytes or {allocations} devices; is this the kubelet's socket?",
    "malformed": "the answer is not a list of pod resources; is this the kubelet's socket?",
    "grpc_status": "answered with gRPC status {status}; {hint}",
}
"""Every reason for which the list can fail, and what to say and ask."""

STATUS_HINTS: Mapping[int, str] = {
    8: "it limits how often all its clients together may ask",
    12: "it does not know this call; is it older than Kubernetes 1.20?",
}


class PodResourcesSource:
    """The kubelet's list, as a `Source[PodResourcesReading]`; nothing is held between readings."""

    name = "pod_resources"
    failure_reasons = tuple(ADVICE)

    def __init__(self, socket_path: str = SOCKET, *, limits: CallLimits = DEFAULT_LIMITS) -> None:
        self._path = socket_path
        self._limits = limits

    def read(self) -> PodResourcesReading:
        """Ask for the list once."""
        try:
            answer = call(self._path, METHOD, b"", limits=self._limits)
        except CallError as error:
            raise self._translated(error) from error
        try:
            allocations = tuple(islice(parse_allocations(answer), MAX_ALLOCATIONS + 1))
        except ValueError as error:
            raise self._failure("malformed") from error
        if len(allocations) > MAX_ALLOCATIONS:
            raise self._failure("too_large")
        return PodResourcesReading(allocations=allocations)

    def close(self) -> None:
        """Nothing is held."""

    def _translated(self, error: CallError) -> SourceError | SourceAbsentError:
        if error.reason != "missing":
            return self._failure(error.reason, error.status)
        directory = os.path.dirname(self._path)
        if os.path.isdir(directory):
            return self._failure("refused")  # it makes its socket anew when it starts
        return SourceAbsentError(f"{self.name}: no directory {directory}; no kubelet's, or not mounted here")

    def _failure(self, reason: str, status: int | None = None) -> SourceError:
        advice = ADVICE[reason].format(
            seconds=self._limits.deadline_seconds,
            bytes=self._limits.max_bytes,
            allocations=MAX_ALLOCATIONS,
            status=status,
            hint=STATUS_HINTS.get(status or 0, "is the kubelet healthy?"),
        )
        return SourceError(reason, f"{self.name} at {self._path}: {advice}")


# --- the answer ----------------------------------------------------------------------------------

# What is wanted of each message: the number of a field → our name for it. All of them are texts or messages.
Table = Mapping[int, str]
LIST: Table = {1: "pods"}
POD: Table = {1: "name", 2: "namespace", 3: "containers"}
CONTAINER: Table = {1: "name", 2: "devices", 5: "claims"}
DEVICES: Table = {1: "resource", 2: "ids"}
CLAIM: Table = {4: "devices"}
CLAIMED_DEVICE: Table = {2: "driver", 4: "name"}


def parse_allocations(message: bytes) -> Iterator[DeviceAllocation]:
    """The devices of a ListPodResourcesResponse, in its order; `ValueError` where it is malformed."""
    for pod in _read_message(message, LIST)["pods"]:
        of_pod = _read_message(pod, POD)
        for container in of_pod["containers"]:
            of_container = _read_message(container, CONTAINER)
            owner = PodContainer(
                namespace=_text(of_pod["namespace"]),
                pod=_text(of_pod["name"]),
                container=_text(of_container["name"]),
            )
            for resource, device_id in _devices(of_container):
                yield DeviceAllocation(container=owner, resource=resource, device_id=device_id)


def _devices(container: Mapping[str, list[bytes]]) -> Iterator[tuple[str, str]]:
    """The resource and the name of each device: those of device plugins, then those of DRA drivers."""
    for devices in container["devices"]:
        fields = _read_message(devices, DEVICES)
        resource = _text(fields["resource"])
        for device_id in fields["ids"]:
            yield resource, device_id.decode()
    for claim in container["claims"]:
        for device in _read_message(claim, CLAIM)["devices"]:
            fields = _read_message(device, CLAIMED_DEVICE)
            yield _text(fields["driver"]), _text(fields["name"])


def _text(values: list[bytes]) -> str:
    """Of a field that is not repeated: the last counts, and one that is not there is ""."""
    return values[-1].decode() if values else ""


# --- protobuf ------------------------------------------------------------------------------------

LENGTH_DELIMITED = 2
FIXED_BYTES: Mapping[int, int] = {1: 8, 5: 4}
MAX_VARINT_BYTES = 10


def _read_message(message: bytes, table: Table) -> dict[str, list[bytes]]:
    """The length-delimited fields that the table names, each as often as it comes; others are passed over."""
    found: dict[str, list[bytes]] = {name: [] for name in table.values()}
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        number, wire_type = tag >> 3, tag & 7
        start = position
        if wire_type == LENGTH_DELIMITED:
            length, start = _read_varint(message, position)
            position = start + length
        elif wire_type in FIXED_BYTES:
            position += FIXED_BYTES[wire_type]
        elif wire_type == 0:
            _, position = _read_varint(message, position)
        else:
            raise ValueError("a wire type that this API does not use")
        if number == 0 or position > len(message):
            raise ValueError("no such field, or one that goes beyond the end")
        if wire_type == LENGTH_DELIMITED and number in table:
            found[table[number]].append(message[start:position])
    return found


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """The number that begins there, and where the next thing begins."""
    value = 0
    for count, byte in enumerate(message[position : position + MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            return value, position + count + 1
    raise ValueError("a number without an end")
