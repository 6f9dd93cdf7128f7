"""A GPU in MIG mode: the board and its instances, each told of once."""

from __future__ import annotations

import pytest

from agent.clock import ManualClock
from agent.errors import SourceError
from agent.readings import (
    Activity,
    GpuCounters,
    GpuHealth,
    GpuLost,
    GpuProcess,
    GpuReading,
    MigInstance,
    NodeReading,
)
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.asker import SELDOM_SECONDS
from tests.nvml_standin import StandIn
from tests.sources.nvml.gpus import UUIDS, Advance, gpu_of, lost_of

INSTANCES = tuple(f"MIG-00000000-0000-0000-0000-{slot:012d}" for slot in range(7))
FIRST_SAMPLE = "GPM has its first sample; a value needs two"


@pytest.fixture(autouse=True)
def two_instances(stand_in: StandIn) -> None:
    stand_in.set({"gpu0.mig_mode": 1, "gpu0.migs": 2})


def uuids_of(reading: NodeReading) -> list[str | None]:
    return [gpu.uuid for gpu in reading.gpus]


def dram_of(gpu: GpuReading | GpuLost) -> float | None:
    assert isinstance(gpu, GpuReading)
    return gpu.activity.dram_ratio if gpu.activity else None


# --- what an instance says, and what its board says ----------------------------------------------------


def test_an_instance_says_what_is_its_own_and_its_boards_clocks(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set(
        {
            "gpu0.mig1.gi": 9,
            "gpu0.mig1.ci": 2,
            "gpu0.mig1.sm_count": 26,
            "gpu0.mig1.memory_total_bytes": 10 * 2**30,
            "gpu0.mig1.memory_used_bytes": 4 * 2**30,
            "gpu0.mig1.memory_reserved_bytes": 2**30,
            "gpu0.mig1.processes": "7:1024",
            "gpu0.gi9.gpm.10": 50,
        }
    )
    source.read()
    advance(1)
    assert source.read().gpus[2] == GpuReading(
        index=0,
        uuid=INSTANCES[1],
        name="NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        mig=MigInstance(
            parent_uuid=UUIDS[0],
            gpu_instance_id=9,
            compute_instance_id=2,
            sm_count=26,
            memory_bytes=10 * 2**30,
        ),
        virtualization="none",
        pci_bus_id="00000000:10:00.0",
        compute_capability=(9, 0),
        memory_total_bytes=10 * 2**30,
        memory_used_bytes=4 * 2**30,
        memory_free_bytes=5 * 2**30,
        memory_reserved_bytes=2**30,
        sm_clock_hertz=1.755e9,
        sm_clock_max_hertz=1.98e9,
        memory_clock_hertz=2.619e9,
        memory_clock_max_hertz=2.619e9,
        clock_limit_reasons=("sw_power_cap",),
        processes=(GpuProcess(pid=7, memory_bytes=1024),),
        activity=Activity(
            evidence="gpm",
            seconds=1.0,
            dram_ratio=0.5,
            tensor_ratio=0.015,
            sm_ratio=0.7125,
            graphics_ratio=0.985,
        ),
    )


def test_a_board_says_nothing_that_its_instances_say(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({"processes": "7:1024"})
    source.read()
    advance(1)
    board = gpu_of(source.read())
    assert board.partitioned
    assert board.mig is None
    assert (board.memory_total_bytes, board.memory_used_bytes, board.memory_free_bytes) == (None,) * 3
    assert (board.activity, board.processes) == (None, None)
    assert board.activity_problem == "in MIG mode: its instances are measured, each by itself"


def test_instances_say_nothing_that_their_board_says(source: NvmlSource) -> None:
    board, *instances = source.read().gpus
    assert isinstance(board, GpuReading)
    assert (board.power_watts, board.temperature_celsius) == (412.345, 54)
    assert board.energy_joules is not None
    assert board.health.ecc_corrected_errors == 2
    assert board.counters.pcie_receive_bytes == 94_371_840_000
    for instance in instances:
        assert isinstance(instance, GpuReading)
        assert (instance.power_watts, instance.power_instant_watts, instance.power_limit_watts) == (None,) * 3
        assert (instance.energy_joules, instance.temperature_celsius) == (None, None)
        assert (instance.counters, instance.health) == (GpuCounters(), GpuHealth())
        assert not instance.partitioned


def test_the_whole_is_not_sampled_beside_its_instances(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    source.read()
    advance(1)
    source.read()
    assert stand_in.calls("nvmlGpmSampleGet") == 0
    assert stand_in.samples == 4


def test_each_instance_has_its_own_activity(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    stand_in.set({"gpu0.gi7.gpm.10": 10, "gpu0.gi8.gpm.10": 90})
    source.read()
    advance(1)
    _, first, second = source.read().gpus
    assert (dram_of(first), dram_of(second)) == (0.1, 0.9)


def test_an_instance_without_attributes_is_read(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"nvmlDeviceGetAttributes_v2.return": 4})
    mig = gpu_of(source.read(), 1).mig
    assert mig is not None
    assert (mig.gpu_instance_id, mig.sm_count, mig.memory_bytes) == (7, None, None)


def test_an_instances_memory_falls_back_to_the_older_call(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"nvmlDeviceGetMemoryInfo_v2.return": 25, "gpu0.mig0.memory_total_bytes": 10 * 2**30})
    instance = gpu_of(source.read(), 1)
    assert (instance.memory_total_bytes, instance.memory_reserved_bytes) == (10 * 2**30, None)


def test_instances_are_not_sampled_where_gpm_is_switched_off(stand_in: StandIn, clock: ManualClock) -> None:
    source = NvmlSource(clock=clock, gpm=False, library_path=str(stand_in.path))
    assert gpu_of(source.read(), 1).activity_problem == "GPM is switched off"
    assert stand_in.calls("nvmlGpmMigSampleGet") == 0
    source.close()


def test_the_parent_refuses_and_its_instances_are_read(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    refused = ("FieldValues", "PowerUsage", "TotalEnergyConsumption", "EnforcedPowerLimit", "TemperatureV")
    stand_in.set({f"gpu0.nvmlDeviceGet{call}.return": 4 for call in refused})
    source.read()
    advance(1)
    reading = source.read()
    assert gpu_of(reading).power_watts is None
    assert [dram_of(instance) for instance in reading.gpus[1:]] == [0.875, 0.875]


def test_gpm_that_is_refused_to_one_instance_is_read_of_the_other(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({"gpu0.gi7.return": 4})
    source.read()
    advance(1)
    reading = source.read()
    assert "no permission" in (gpu_of(reading, 1).activity_problem or "")
    assert dram_of(reading.gpus[2]) == 0.875


# --- which instances there are -------------------------------------------------------------------------


def test_instances_stand_behind_their_own_gpu(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 2})
    reading = source.read()
    assert uuids_of(reading) == [UUIDS[0], *INSTANCES[:2], UUIDS[1]]
    assert [gpu.index for gpu in reading.gpus] == [0, 0, 0, 1]
    assert [isinstance(gpu, GpuReading) and gpu.partitioned for gpu in reading.gpus] == [True, *[False] * 3]


def test_holes_among_the_places_are_passed_over(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpu0.migs": 7, "gpu0.mig0.empty": 1, "gpu0.mig3.empty": 1})
    expected = [INSTANCES[slot] for slot in (1, 2, 4, 5, 6)]
    assert uuids_of(source.read()) == [UUIDS[0], *expected]


def test_a_board_without_instances_is_told_of_alone(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpu0.migs": 0})
    assert uuids_of(source.read()) == [UUIDS[0]]


def test_an_instance_that_is_removed_is_gone_with_its_samples(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"gpu0.mig0.empty": 1})
    assert uuids_of(source.read()) == [UUIDS[0], INSTANCES[1]]
    assert stand_in.samples == 2


def test_an_instance_made_anew_is_not_compared_with_the_one_before(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    source.read()
    advance(1)
    assert dram_of(source.read().gpus[1]) == 0.875
    # The number of the instance is given again at once.
    stand_in.set({"gpu0.mig0.uuid": "MIG-new", "gpu0.mig0.gi": 7})
    advance(1)
    reading = source.read()
    assert (gpu_of(reading, 1).uuid, gpu_of(reading, 1).activity_problem) == ("MIG-new", FIRST_SAMPLE)
    assert dram_of(reading.gpus[2]) == 0.875
    assert stand_in.samples == 4
    advance(1)
    assert dram_of(source.read().gpus[1]) == 0.875


def test_an_instance_that_changes_its_place_is_read_there(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"gpu0.mig0.empty": 1, "gpu0.migs": 3, "gpu0.mig2.uuid": INSTANCES[0], "gpu0.mig2.gi": 7})
    reading = source.read()
    assert uuids_of(reading) == [UUIDS[0], INSTANCES[1], INSTANCES[0]]
    assert gpu_of(reading, 2).memory_used_bytes == 64_424_509_440 // 8


def test_what_never_changes_is_asked_once_an_instance(source: NvmlSource, stand_in: StandIn) -> None:
    for _ in range(3):
        source.read()
    once = (
        "nvmlDeviceGetName",
        "nvmlDeviceGetGpuInstanceId",
        "nvmlDeviceGetComputeInstanceId",
        "nvmlDeviceGetAttributes_v2",
        "nvmlGpmQueryDeviceSupport",
    )
    assert {call: stand_in.calls(call, gpu=0, mig=1) for call in once} == dict.fromkeys(once, 1)


def test_processes_of_an_instance_are_asked_for_seldom(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    for _ in range(int(SELDOM_SECONDS)):
        source.read()
        advance(1)
    assert stand_in.calls("nvmlDeviceGetComputeRunningProcesses_v3", gpu=0, mig=0) == 1
    source.read()
    assert stand_in.calls("nvmlDeviceGetComputeRunningProcesses_v3", gpu=0, mig=0) == 2


# --- what fails ------------------------------------------------------------------------------------------

LOSE = {
    "every call": "gpu0.mig0.return",
    "its handle": "gpu0.mig0.nvmlDeviceGetMigDeviceHandleByIndex.return",
    "its UUID": "gpu0.mig0.nvmlDeviceGetUUID.return",
    "its memory": "gpu0.mig0.nvmlDeviceGetMemoryInfo_v2.return",
}


@pytest.mark.parametrize("setting", LOSE.values(), ids=LOSE.keys())
@pytest.mark.parametrize(("code", "reason"), [(15, "lost"), (16, "reset_required"), (999, "unknown")])
def test_an_instance_is_lost_alone_and_comes_back(
    source: NvmlSource, stand_in: StandIn, advance: Advance, setting: str, code: int, reason: str
) -> None:
    source.read()
    stand_in.set({setting: code})
    reading = source.read()
    lost = lost_of(reading, 1)
    assert (lost.index, lost.uuid, lost.parent_uuid, lost.reason) == (0, INSTANCES[0], UUIDS[0], reason)
    assert f"MIG instance {INSTANCES[0]} of GPU 0: " in lost.message
    assert gpu_of(reading, 0).power_watts == 412.345
    assert gpu_of(reading, 2).uuid == INSTANCES[1]
    stand_in.set({setting: None})
    for _ in range(2):
        advance(1)
        reading = source.read()
    assert dram_of(reading.gpus[1]) == 0.875


def test_an_instance_whose_handle_fails_keeps_no_samples(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"gpu0.mig0.return": 15})
    source.read()
    assert stand_in.samples == 2


@pytest.mark.parametrize(
    "call", ["nvmlDeviceGetName", "nvmlDeviceGetGpuInstanceId", "nvmlDeviceGetComputeInstanceId"]
)
def test_an_instance_that_cannot_be_opened_is_lost(source: NvmlSource, stand_in: StandIn, call: str) -> None:
    stand_in.set({f"gpu0.mig0.{call}.return": 10})
    reading = source.read()
    assert (lost_of(reading, 1).uuid, lost_of(reading, 1).reason) == (INSTANCES[0], "timeout")
    assert gpu_of(reading, 2).uuid == INSTANCES[1]


def test_an_instance_that_never_had_a_handle_has_no_name_to_be_lost_by(
    source: NvmlSource, stand_in: StandIn
) -> None:
    stand_in.set({"gpu0.mig0.return": 15})
    assert uuids_of(source.read()) == [UUIDS[0], INSTANCES[1]]


def test_a_place_that_was_emptied_is_not_told_of_as_lost(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"gpu0.mig0.empty": 1})
    source.read()
    stand_in.set({"gpu0.mig0.return": 15})
    assert uuids_of(source.read()) == [UUIDS[0], INSTANCES[1]]


def test_a_lost_board_takes_its_instances_along_and_their_samples(
    source: NvmlSource, stand_in: StandIn
) -> None:
    source.read()
    stand_in.set({"gpu0.nvmlDeviceGetEnforcedPowerLimit.return": 15})
    assert lost_of(source.read()).uuid == UUIDS[0]
    assert stand_in.samples == 0


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("call", ["nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetMigDeviceHandleByIndex"])
def test_a_session_that_ends_at_an_instance_leaves_no_samples(
    source: NvmlSource, stand_in: StandIn, call: str, place: int
) -> None:
    source.read()
    stand_in.set({f"gpu0.mig{place}.{call}.return": 1})
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason == "uninitialized"
    assert stand_in.samples == 0


def test_close_frees_what_the_instances_hold(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    assert stand_in.samples == 4
    source.close()
    assert stand_in.samples == 0


# --- the mode --------------------------------------------------------------------------------------------


def test_the_mode_is_switched_on_between_readings(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    stand_in.set({"gpu0.mig_mode": 0})
    assert uuids_of(source.read()) == [UUIDS[0]]
    advance(1)
    stand_in.set({"gpu0.mig_mode": 1})
    reading = source.read()
    assert uuids_of(reading) == [UUIDS[0], *INSTANCES[:2]]
    assert gpu_of(reading).partitioned
    assert stand_in.samples == 4, "of the instances, and none of the whole"


def test_the_mode_is_switched_off_between_readings(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    source.read()
    advance(1)
    stand_in.set({"gpu0.mig_mode": 0})
    reading = source.read()
    assert uuids_of(reading) == [UUIDS[0]]
    assert not gpu_of(reading).partitioned
    assert gpu_of(reading).memory_used_bytes == 64_424_509_440
    assert stand_in.samples == 2, "of the whole"
    advance(1)
    assert dram_of(source.read().gpus[0]) == 0.875


def test_the_whole_is_not_compared_over_a_time_in_which_it_was_divided(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    for mode in (0, 1):
        stand_in.set({"gpu0.mig_mode": mode})
        source.read()
        advance(1)
    stand_in.set({"gpu0.mig_mode": 0})
    assert gpu_of(source.read()).activity_problem == FIRST_SAMPLE


def test_instances_of_before_are_not_told_of_after_the_mode_was_off(
    source: NvmlSource, stand_in: StandIn
) -> None:
    source.read()
    stand_in.set({"gpu0.mig_mode": 0})
    source.read()
    stand_in.set({"gpu0.mig_mode": 1, "gpu0.mig0.return": 15})
    assert uuids_of(source.read()) == [UUIDS[0], INSTANCES[1]]


def test_what_is_refused_in_the_mode_is_asked_again_without_it(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"field.138.return": 3})
    board = gpu_of(source.read())
    assert (board.kernel_time_ratio, board.counters.nvlink_transmit_bytes) == (None, None)
    stand_in.set({"gpu0.mig_mode": 0, "field.138.return": None})
    source.read()
    whole = gpu_of(source.read())
    assert (whole.kernel_time_ratio, whole.counters.nvlink_transmit_bytes) == (0.94, 751_619_276_800)


@pytest.mark.parametrize("mode", [0, 1])
def test_a_gpu_that_fails_to_say_has_not_changed_its_mode(
    source: NvmlSource, stand_in: StandIn, advance: Advance, mode: int
) -> None:
    stand_in.set({"gpu0.mig_mode": mode})
    before = uuids_of(source.read())
    advance(1)
    stand_in.set({"gpu0.nvmlDeviceGetMigMode.return": 10})
    reading = source.read()
    assert uuids_of(reading) == before
    assert dram_of(reading.gpus[mode]) == 0.875
