"""Whatever NVML answers: the process lives, the other GPUs do not notice, and healing is enough."""

from __future__ import annotations

import pytest

from agent.assessment import Assessment
from agent.readings import Absent, Failed, GpuLost, GpuReading, NodeReading
from agent.sources.base import SourceState
from agent.sources.nvml.pause import LONGEST_PAUSE_SECONDS
from tests.machines import MACHINES, Machine, Series, Watch, Watched, of, series_of

NEVER_TO_BE_HAD = (3, 4, 13, 25, 26)
"""NOT_SUPPORTED, NO_PERMISSION, FUNCTION_NOT_FOUND, ARGUMENT_VERSION_MISMATCH, DEPRECATED."""
NOT_NOW = (6, 7, 10, 21, 27, 999)
"""NOT_FOUND, INSUFFICIENT_SIZE, TIMEOUT, NO_DATA, NOT_READY, UNKNOWN."""
OF_ONE_GPU = {11: "interrupt", 14: "inforom", 15: "lost", 16: "reset_required", 999: "unknown"}
OF_THE_SESSION = {1: "uninitialized", 9: None, 18: "version_mismatch", 28: "gpu_not_found"}
AT_THE_START = {4: "permission", 9: None, 12: None, 17: "operating_system", 18: "version_mismatch"} | {
    28: "gpu_not_found",
    999: "unknown",
}
"""The reason of each; `None` is absence, which is no failure."""

machines = pytest.mark.parametrize("machine", MACHINES.values(), ids=MACHINES.keys())
with_gpus = pytest.mark.parametrize(
    "machine",
    [machine for machine in MACHINES.values() if machine.gpus],
    ids=[name for name, machine in MACHINES.items() if machine.gpus],
)


def nvml(assessment: Assessment) -> SourceState[NodeReading]:
    (state,) = (state for state in assessment.sources if state.name == "nvml")
    return state


def read_gpus(assessment: Assessment) -> tuple[GpuReading | GpuLost, ...]:
    success = nvml(assessment).last_success
    assert success is not None
    return success.reading.gpus


def assert_time_is_conserved(watched: Watched, assessment: Assessment, since: float) -> None:
    for gpu in assessment.gpus:
        if not gpu.partitioned:
            totals = gpu.totals
            told = sum(totals.bottleneck_seconds.values())
            assert told == pytest.approx(totals.observed_seconds, abs=1e-6)
            elapsed = assessment.at_seconds - since
            assert totals.observed_seconds + totals.unobserved_seconds == pytest.approx(elapsed, abs=1e-6)


def without_a_call(watch: Watch, machine: Machine, code: int) -> tuple[Watched, set[Series]]:
    """A machine whose victim refuses a call, which costs it that one series; and its series before."""
    watched = watch(machine)
    call, metric = machine.optional_call
    healthy = series_of(watched.beat(5)).keys()
    watched.stand_in.set({f"{machine.victim}.{call}.return": code})
    broken = watched.beat(10)
    lost = healthy - series_of(broken).keys()
    assert {name for name, _ in lost} == {metric}
    assert {labels[1] for _, labels in lost} == {machine.victim_uuid}
    assert nvml(broken).up
    return watched, set(healthy)


@machines
def test_a_healthy_machine_is_read(watch: Watch, machine: Machine) -> None:
    watched = watch(machine)
    assessment = watched.beat(5)
    assert nvml(assessment).up
    assert all(gpu.up for gpu in assessment.gpus)
    assert len(assessment.gpus) == machine.gpus + machine.instances
    assert all(gpu.reading and gpu.reading.activity for gpu in assessment.gpus if not gpu.partitioned)
    assert_time_is_conserved(watched, assessment, since=1.0)


@with_gpus
@pytest.mark.parametrize("code", NEVER_TO_BE_HAD)
def test_a_call_that_is_not_to_be_had_costs_its_series(watch: Watch, machine: Machine, code: int) -> None:
    watched, healthy = without_a_call(watch, machine, code)
    # It is asked again in another session, as after the driver was loaded anew.
    watched.stand_in.set(
        {f"{machine.victim}.{machine.optional_call[0]}.return": None, "nvmlDeviceGetCount_v2.return": 1}
    )
    watched.beat()
    watched.stand_in.set({"nvmlDeviceGetCount_v2.return": None})
    assert series_of(watched.beat(5)).keys() == healthy


@with_gpus
@pytest.mark.parametrize("code", NOT_NOW)
def test_a_call_that_fails_for_now_comes_back(watch: Watch, machine: Machine, code: int) -> None:
    watched, healthy = without_a_call(watch, machine, code)
    watched.stand_in.set({f"{machine.victim}.{machine.optional_call[0]}.return": None})
    assert series_of(watched.beat(10)).keys() == healthy


@with_gpus
@pytest.mark.parametrize(("code", "reason"), OF_ONE_GPU.items())
def test_a_lost_gpu_is_down_alone_and_heals(watch: Watch, machine: Machine, code: int, reason: str) -> None:
    watched = watch(machine)
    victim = machine.victim_uuid
    healthy = series_of(watched.beat(5))
    watched.stand_in.set({f"{machine.victim}.return": code})
    broken = watched.beat(10)
    shown = series_of(broken)
    (down,) = (gpu for gpu in broken.gpus if not gpu.up)
    assert down.uuid == victim
    assert down.problem is not None
    assert "GPU" in down.problem
    assert ";" in down.problem, "and what to do"
    (told,) = (gpu for gpu in read_gpus(broken) if isinstance(gpu, GpuLost))
    assert (told.uuid, told.reason) == (victim, reason)
    assert shown[("gpu_up", (str(down.index), victim))] == 0
    # The others keep every series, and their time goes on.
    others = healthy.keys() - of(healthy, victim)
    assert others <= shown.keys()
    assert nvml(broken).up
    assert_time_is_conserved(watched, broken, since=1.0)
    # Asked for with growing pauses, not at each tick.
    watched.beat(90)
    watched.stand_in.set({f"{machine.victim}.return": None})
    healed = watched.beat(int(LONGEST_PAUSE_SECONDS) + 5)
    assert all(gpu.up for gpu in healed.gpus)
    assert series_of(healed).keys() == healthy.keys()
    assert_time_is_conserved(watched, healed, since=1.0)


@machines
@pytest.mark.parametrize(("code", "reason"), OF_THE_SESSION.items())
def test_a_session_that_breaks_takes_its_series_along_and_heals(
    watch: Watch, machine: Machine, code: int, reason: str | None
) -> None:
    watched = watch(machine)
    healthy = series_of(watched.beat(5))
    watched.stand_in.set({"return": code})
    broken = watched.beat(4)
    assert not series_of(broken)
    state = nvml(broken)
    assert not state.up
    if reason is None:
        assert isinstance(state.outcome, Absent)
    else:
        assert isinstance(state.outcome, Failed)
        assert state.outcome.reason == reason
        assert state.failures[reason] >= 3
    watched.beat(90)
    watched.stand_in.set({"return": None})
    healed = watched.beat(int(LONGEST_PAUSE_SECONDS) + 5)
    assert nvml(healed).up
    assert series_of(healed).keys() == healthy.keys()
    assert_time_is_conserved(watched, healed, since=1.0)


@machines
@pytest.mark.parametrize(("code", "reason"), AT_THE_START.items())
def test_a_driver_that_comes_late_is_found(
    watch: Watch, machine: Machine, code: int, reason: str | None
) -> None:
    watched = watch(machine)
    watched.stand_in.set({"nvmlInit.return": code})
    state = nvml(watched.beat(100))
    assert isinstance(state.outcome, Absent if reason is None else Failed)
    if isinstance(state.outcome, Failed):
        assert state.outcome.reason == reason
    assert watched.stand_in.calls("nvmlInit") < 12, "it is tried with growing pauses"
    watched.stand_in.set({"nvmlInit.return": None})
    healed = watched.beat(int(LONGEST_PAUSE_SECONDS) + 5)
    assert nvml(healed).up
    assert len(healed.gpus) == machine.gpus + machine.instances
