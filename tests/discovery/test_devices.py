"""Which GPUs the kubelet's devices are: by every name that plugins give them."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.discovery.devices import BY_DEVICE_FILE, NAMED_BY_DRIVER, NOT_READ, MatchedDevices, match_devices
from agent.readings import DeviceAllocation, GpuAllocation, GpuLost, GpuReading, MigInstance, PodContainer

A = "GPU-0a3c1f2e-0b52-4a5e-9d0b-0f6f8a1c7d10"
B = "GPU-1b3c1f2e-0b52-4a5e-9d0b-0f6f8a1c7d11"
C = "GPU-2c3c1f2e-0b52-4a5e-9d0b-0f6f8a1c7d12"
B3 = "MIG-3d3c1f2e-0b52-5a5e-9d0b-0f6f8a1c7d13"
B4 = "MIG-4e3c1f2e-0b52-5a5e-9d0b-0f6f8a1c7d14"
B4_SECOND = "MIG-5f3c1f2e-0b52-5a5e-9d0b-0f6f8a1c7d15"


def board(index: int, uuid: str, *, partitioned: bool = False) -> GpuReading:
    return GpuReading(index=index, uuid=uuid, name="NVIDIA H100 80GB HBM3", partitioned=partitioned)


def instance(index: int, uuid: str, parent: str, gpu_instance: int, compute_instance: int = 0) -> GpuReading:
    mig = MigInstance(parent_uuid=parent, gpu_instance_id=gpu_instance, compute_instance_id=compute_instance)
    return GpuReading(index=index, uuid=uuid, name="NVIDIA H100 80GB HBM3 MIG 1g.10gb", mig=mig)


# Three boards: the second is divided, and its instance 4 once more; the third is lost.
NODE: tuple[GpuReading | GpuLost, ...] = (
    board(0, A),
    board(1, B, partitioned=True),
    instance(1, B3, B, 3),
    instance(1, B4, B, 4),
    instance(1, B4_SECOND, B, 4, 1),
    GpuLost(index=2, uuid=C, name=None, reason="gpu_is_lost", message="lost"),
)
ONE = (board(0, A),)


def held(
    device_id: str, pod: str = "llm-0", *, resource: str = "nvidia.com/gpu", container: str = "vllm"
) -> DeviceAllocation:
    return DeviceAllocation(
        container=PodContainer(namespace="team", pod=pod, container=container),
        resource=resource,
        device_id=device_id,
    )


def match(
    *allocations: DeviceAllocation, gpus: Sequence[GpuReading | GpuLost] = NODE
) -> tuple[list[tuple[str, str, str]], tuple[str, ...]]:
    """Pod, UUID and attribution of each, and the notes."""
    matched = match_devices(allocations, gpus)
    return [(one.container.pod, one.uuid, one.attribution) for one in matched.allocations], matched.notes


# --- names ---------------------------------------------------------------------------------------

MEANT = {
    "a whole GPU": ("nvidia.com/gpu", A, A, "exclusive"),
    "a whole GPU by another resource": ("example.org/h100", A, A, "exclusive"),
    "a GPU that is lost": ("nvidia.com/gpu", C, C, "exclusive"),
    "a divided GPU as a whole": ("nvidia.com/gpu", B, B, "exclusive"),
    "a MIG instance": ("nvidia.com/mig-1g.10gb", B3, B3, "exclusive"),
    "a MIG instance as a GPU": ("nvidia.com/gpu", B3, B3, "exclusive"),
    "a MIG instance as drivers once named it": ("nvidia.com/gpu", f"MIG-{B}/4/1", B4_SECOND, "exclusive"),
    "a GPU shared in time": ("nvidia.com/gpu", f"{A}::0", A, "shared"),
    "a GPU shared in time by its own resource": ("nvidia.com/gpu.shared", f"{A}::17", A, "shared"),
    "a shared resource without a mark": ("nvidia.com/gpu.shared", A, A, "shared"),
    "a MIG instance shared in time": ("nvidia.com/mig-1g.10gb.shared", f"{B3}::2", B3, "shared"),
    "Google's whole GPU": ("nvidia.com/gpu", "nvidia0", A, "exclusive"),
    "Google's second GPU": ("nvidia.com/gpu", "nvidia1", B, "exclusive"),
    "Google's shared GPU": ("nvidia.com/gpu", "nvidia0/vgpu1", A, "shared"),
    "Google's MIG instance": ("nvidia.com/gpu", "nvidia1/gi3", B3, "exclusive"),
    "Google's MIG instance, divided once more": ("nvidia.com/gpu", "nvidia1/gi4", B4, "exclusive"),
    "Google's shared MIG instance": ("nvidia.com/gpu", "nvidia1/gi3/vgpu0", B3, "shared"),
}


@pytest.mark.parametrize(("resource", "device_id", "uuid", "attribution"), MEANT.values(), ids=MEANT)
def test_a_device_is_the_gpu_that_its_name_means(
    resource: str, device_id: str, uuid: str, attribution: str
) -> None:
    found, notes = match(held(device_id, resource=resource))
    assert found == [("llm-0", uuid, attribution)]
    assert set(notes) <= {BY_DEVICE_FILE}


UNKNOWN = {
    "a GPU that is not read here": ("nvidia.com/gpu", A[:-1] + "9"),
    "a GPU under a name made of its UUID": ("nvidia.com/gpu", f"{A}-3"),
    "a device file that is not there": ("nvidia.com/gpu", "nvidia7"),
    "a MIG instance that is not there": ("nvidia.com/gpu", "nvidia1/gi9"),
    "a MIG instance of a whole GPU": ("nvidia.com/gpu", "nvidia0/gi3"),
    "a MIG instance by a name of no kind": ("nvidia.com/mig-2g.20gb", "17"),
    "a GPU of another resource": ("example.org/h100", A[:-1] + "9"),
    "a mark without a GPU": ("nvidia.com/gpu", "::0"),
    "nothing at all": ("nvidia.com/gpu", ""),
}


@pytest.mark.parametrize(("resource", "device_id"), UNKNOWN.values(), ids=UNKNOWN)
def test_a_gpu_that_is_not_found_is_said(resource: str, device_id: str) -> None:
    assert match(held(device_id, resource=resource)) == (
        [],
        (f"device {device_id} of team/llm-0: {NOT_READ}",),
    )


@pytest.mark.parametrize(
    ("resource", "device_id"),
    [
        ("rdma/hca", "mlx5_0"),
        ("amd.com/gpu", "0000:03:00.0"),
        ("devices.kubevirt.io/kvm", "kvm0"),
        ("compute-domain.nvidia.com", "channel-0"),
        ("gpu.example.org", "gpu-0"),
    ],
)
def test_what_is_no_gpu_of_ours_is_not_spoken_of(resource: str, device_id: str) -> None:
    assert match(held(device_id, resource=resource), gpus=ONE) == ([], ())


def test_a_drivers_name_is_the_only_gpu_where_there_is_one() -> None:
    assert match(held("gpu-0", resource="gpu.nvidia.com"), gpus=ONE) == ([("llm-0", A, "exclusive")], ())


@pytest.mark.parametrize("name", ["gpu-0", "gpu-0-mig-1g10gb-19-0", "gpu-1-mig-19-0-1", "gpu-vfio-0"])
def test_a_drivers_name_is_not_guessed_at_where_there_are_several(name: str) -> None:
    note = f"device {name} of team/llm-0: {NAMED_BY_DRIVER}"
    assert match(held(name, resource="gpu.nvidia.com")) == ([], (note,))


def test_numbers_of_device_files_are_said_to_be_assumed_where_they_could_differ() -> None:
    several = match(held("nvidia0", "llm-0"), held("nvidia1/gi3", "llm-1"))
    assert several == ([("llm-0", A, "exclusive"), ("llm-1", B3, "exclusive")], (BY_DEVICE_FILE,))
    assert match(held("nvidia0"), gpus=ONE) == ([("llm-0", A, "exclusive")], ())
    assert match(held(A))[1] == ()


def test_a_lost_gpu_without_a_uuid_is_not_found() -> None:
    lost = GpuLost(index=1, uuid=None, name=None, reason="gpu_is_lost", message="lost")
    assert match(held("nvidia1"), gpus=(*ONE, lost)) == ([], (f"device nvidia1 of team/llm-0: {NOT_READ}",))


def test_a_lost_mig_instance_does_not_take_the_place_of_its_board() -> None:
    lost = GpuLost(index=0, uuid=B3, name=None, reason="not_found", message="gone", parent_uuid=A)
    gpus = (*ONE, lost)
    assert match(held("nvidia0"), held(B3, "llm-1"), gpus=gpus)[0] == [
        ("llm-0", A, "exclusive"),
        ("llm-1", B3, "exclusive"),
    ]


# --- who shares ----------------------------------------------------------------------------------


def test_each_pod_on_a_shared_gpu_is_there_once() -> None:
    found, _ = match(
        held(f"{A}::0", "llm-0"), held(f"{A}::1", "llm-1"), held(f"{A}::2", "llm-0"), held(f"{A}::3", "llm-1")
    )
    assert found == [("llm-0", A, "shared"), ("llm-1", A, "shared")]


def test_a_container_with_several_gpus_has_each() -> None:
    found, _ = match(held(A), held(B3), held(C))
    assert found == [("llm-0", A, "exclusive"), ("llm-0", B3, "exclusive"), ("llm-0", C, "exclusive")]


def test_a_device_that_is_listed_for_each_of_its_numa_nodes_is_one() -> None:
    assert match(held(A), held(A))[0] == [("llm-0", A, "exclusive")]


def test_a_gpu_that_several_containers_have_is_shared_whatever_it_is_called() -> None:
    # As a DRA claim can be used by several; the GPU beside it is not touched by that.
    found, _ = match(held(A, container="vllm"), held(A, container="sidecar"), held(C, "llm-1"))
    assert found == [("llm-0", A, "shared"), ("llm-0", A, "shared"), ("llm-1", C, "exclusive")]


def test_the_instances_of_a_divided_gpu_do_not_share() -> None:
    assert match(held(B3), held(B4, "llm-1"))[0] == [("llm-0", B3, "exclusive"), ("llm-1", B4, "exclusive")]


# --- what is said --------------------------------------------------------------------------------


def test_a_kind_of_problem_is_said_once() -> None:
    rows = [held(f"GPU-{n}", f"llm-{n}") for n in range(100)]
    rows += [held(f"gpu-{n}", resource="gpu.nvidia.com") for n in range(3)]
    assert match(*rows)[1] == (
        f"device gpu-0 of team/llm-0 and 2 more: {NAMED_BY_DRIVER}",
        f"device GPU-0 of team/llm-0 and 99 more: {NOT_READ}",
    )


def test_what_is_said_is_fit_to_be_shown() -> None:
    ((note,)) = match(held("GPU-\n\x1b[2J" + "x" * 5000))[1]
    assert note.isprintable()
    assert len(note) < 400


def test_nothing_is_said_before_the_gpus_are_read() -> None:
    assert match_devices([held(A), held("gpu-0", resource="gpu.nvidia.com")], ()) == MatchedDevices()


# --- for whatever the kubelet has ----------------------------------------------------------------

IDS = st.one_of(
    st.sampled_from([device_id for _, device_id, _, _ in MEANT.values()]),
    st.sampled_from([device_id for _, device_id in UNKNOWN.values()]),
    st.text(max_size=20),
)
ROWS = st.lists(
    st.builds(
        held,
        IDS,
        st.sampled_from(["llm-0", "llm-1", "llm-2"]),
        resource=st.sampled_from(["nvidia.com/gpu", "nvidia.com/gpu.shared", "gpu.nvidia.com", "rdma/hca"]),
    ),
    max_size=12,
)


@given(ROWS)
def test_nobody_is_named_twice_and_an_exclusive_gpu_has_one_holder(rows: list[DeviceAllocation]) -> None:
    matched = match_devices(rows, NODE)
    pairs = [(one.uuid, one.container) for one in matched.allocations]
    assert len(pairs) == len(set(pairs))
    for one in matched.allocations:
        holders = [uuid for uuid, _ in pairs].count(one.uuid)
        assert holders == 1 or one.attribution == "shared"
    assert {one.uuid for one in matched.allocations} <= {gpu.uuid for gpu in NODE}
    assert len(matched.notes) == len(set(matched.notes)) <= 3


@given(ROWS, st.randoms(use_true_random=False))
def test_the_order_of_the_list_changes_nothing_but_the_order(
    rows: list[DeviceAllocation], random: object
) -> None:
    shuffled = [*rows]
    random.shuffle(shuffled)  # type: ignore[attr-defined]

    def found(listed: Sequence[DeviceAllocation]) -> set[GpuAllocation]:
        return set(match_devices(listed, NODE).allocations)

    assert found(shuffled) == found(rows)
