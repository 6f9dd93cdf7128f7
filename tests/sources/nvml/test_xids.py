"""The driver's error reports, heard by a thread and kept by GPU."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

import pytest

from agent.clock import ManualClock
from agent.errors import SourceError
from agent.readings import GpuHealth, GpuLost, GpuReading
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.pause import FIRST_PAUSE_SECONDS
from agent.sources.nvml.xids import WAIT_SECONDS
from tests.nvml_standin import StandIn
from tests.sources.nvml.gpus import Advance, wait_until

WAIT = "nvmlEventSetWait_v2"


def health_of(source: NvmlSource, place: int = 0) -> GpuHealth:
    gpu = source.read().gpus[place]
    assert isinstance(gpu, (GpuReading, GpuLost))
    return gpu.health


def heard(source: NvmlSource, counts: Mapping[int, int], place: int = 0) -> None:
    """Wait until just these are told of."""
    wait_until(lambda: health_of(source, place).xid_errors == counts)


def listeners() -> int:
    return sum(thread.name == "nvml-xids" for thread in threading.enumerate())


def hang(stand_in: StandIn) -> None:
    """Let the thread's next wait hang, and wait until it does."""
    stand_in.set({f"{WAIT}.delay_ms": 1e9})
    waits = -1
    while waits != (waits := stand_in.calls(WAIT)):
        time.sleep(2 * WAIT_SECONDS)


# --- what is heard ---------------------------------------------------------------------------------


def test_an_xid_is_counted_by_gpu_and_number_with_its_time(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock
) -> None:
    stand_in.set({"gpus": 2})
    source.read()
    clock.advance(60)
    stand_in.set({"xids": "1:gpu0:79,2:gpu1:48,3:gpu1:94"})
    heard(source, {48: 1, 94: 1}, place=1)
    heard(source, {79: 1}, place=0)
    assert health_of(source, 1).last_xid_unix_seconds == 1_800_000_060.0


def test_two_of_one_kind_are_two(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"xids": "1:gpu0:31,2:gpu0:31"})
    heard(source, {31: 2})


def test_the_time_is_of_the_last(source: NvmlSource, stand_in: StandIn, clock: ManualClock) -> None:
    source.read()
    stand_in.set({"xids": "1:gpu0:31"})
    heard(source, {31: 1})
    clock.advance(10)
    stand_in.set({"xids": "1:gpu0:31,2:gpu0:13"})
    heard(source, {31: 1, 13: 1})
    assert health_of(source).last_xid_unix_seconds == 1_800_000_010.0


def test_what_came_before_the_agent_listened_is_not_counted(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"xids": "1:gpu0:79"})
    source.read()
    stand_in.set({"xids": "1:gpu0:79,2:gpu0:31"})
    heard(source, {31: 1})


def test_a_gpu_that_was_not_hit_counts_none(source: NvmlSource) -> None:
    health = health_of(source)
    assert (health.xid_errors, health.last_xid_unix_seconds) == ({}, None)


@pytest.mark.parametrize(
    "setting",
    [{"gpu0.event_types": 0}, {"gpu0.nvmlDeviceRegisterEvents.return": 3}],
    ids=["none of this kind", "none at all"],
)
def test_a_gpu_without_events_cannot_say(
    source: NvmlSource, stand_in: StandIn, setting: dict[str, object]
) -> None:
    stand_in.set({"gpus": 2, **setting})
    assert health_of(source, 0).xid_errors is None
    assert health_of(source, 1).xid_errors == {}


def test_a_driver_without_events_is_read_without(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"nvmlEventSetCreate.return": 13})
    assert health_of(source).xid_errors is None
    assert listeners() == 0


def test_a_reading_keeps_what_it_said(source: NvmlSource, stand_in: StandIn) -> None:
    before = health_of(source)
    stand_in.set({"xids": "1:gpu0:79"})
    heard(source, {79: 1})
    assert before.xid_errors == {}


# --- what is kept ----------------------------------------------------------------------------------


def test_a_lost_gpu_tells_of_the_xid_that_led_there(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"xids": "1:gpu0:79"})
    heard(source, {79: 1})
    stand_in.set({"gpu0.return": 15})
    (lost,) = source.read().gpus
    assert isinstance(lost, GpuLost)
    assert lost.health == GpuHealth(xid_errors={79: 1}, last_xid_unix_seconds=1_800_000_000.0)


def test_an_xid_may_be_heard_after_the_gpu_was_found_lost(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"gpu0.return": 15})
    assert isinstance(source.read().gpus[0], GpuLost)
    stand_in.set({"xids": "1:gpu0:79"})
    heard(source, {79: 1})
    assert isinstance(source.read().gpus[0], GpuLost)
    assert health_of(source).last_xid_unix_seconds == 1_800_000_000.0


def test_counts_go_on_when_a_lost_gpu_comes_back(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    source.read()
    stand_in.set({"xids": "1:gpu0:79"})
    heard(source, {79: 1})
    stand_in.set({"gpu0.return": 15})
    source.read()
    stand_in.set({"gpu0.return": None})
    advance(FIRST_PAUSE_SECONDS)
    assert isinstance(source.read().gpus[0], GpuReading)
    stand_in.set({"xids": "1:gpu0:79,2:gpu0:79"})
    heard(source, {79: 2})


def test_counts_go_on_in_a_new_session(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    source.read()
    stand_in.set({"xids": "1:gpu0:79"})
    heard(source, {79: 1})
    stand_in.set({"nvmlDeviceGetCount_v2.return": 1})
    with pytest.raises(SourceError):
        source.read()
    stand_in.set({"nvmlDeviceGetCount_v2.return": None})
    advance(FIRST_PAUSE_SECONDS)
    assert health_of(source).xid_errors == {79: 1}
    stand_in.set({"xids": "1:gpu0:79,2:gpu0:31"})
    heard(source, {79: 1, 31: 1})


def test_a_lost_gpu_that_was_never_known_has_no_counts(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpu0.return": 15})
    assert health_of(source) == GpuHealth()


# --- the thread ------------------------------------------------------------------------------------


def test_one_thread_hears_of_all_gpus(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 8})
    source.read()
    assert (listeners(), stand_in.event_sets) == (1, 1)


def test_no_thread_is_begun_for_nothing(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"event_types": 0})
    source.read()
    assert listeners() == 0


@pytest.mark.parametrize("code", [1, 15, 999])
def test_a_wait_that_fails_at_once_does_not_spin(source: NvmlSource, stand_in: StandIn, code: int) -> None:
    stand_in.set({f"{WAIT}.return": code})
    source.read()
    wait_until(lambda: stand_in.calls(WAIT) > 0)
    time.sleep(0.3)
    assert stand_in.calls(WAIT) == 1


def test_a_wait_that_goes_on_failing_is_tried_ever_more_seldom(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({f"{WAIT}.return": 999})
    source.read()
    time.sleep(2.5 * FIRST_PAUSE_SECONDS)
    assert stand_in.calls(WAIT) <= 2


def test_a_wait_that_failed_is_tried_again(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({f"{WAIT}.return": 999})
    time.sleep(2 * WAIT_SECONDS)  # a wait that had begun ends
    stand_in.set({f"{WAIT}.return": None, "xids": "1:gpu0:79"})
    heard(source, {79: 1})


def test_close_ends_the_thread_and_frees_the_set(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    source.close()
    assert (listeners(), stand_in.event_sets) == (0, 0)
    assert stand_in.calls("nvmlEventSetFree") == 1


def test_close_does_not_wait_out_the_pause_after_a_failure(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({f"{WAIT}.return": 999})
    source.read()
    wait_until(lambda: stand_in.calls(WAIT) > 0)
    source.close()
    assert (listeners(), stand_in.calls("nvmlShutdown")) == (0, 1)


def test_a_set_that_nothing_was_registered_in_is_freed(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"event_types": 0})
    source.read()
    assert stand_in.event_sets == 1
    source.close()
    assert stand_in.event_sets == 0


def test_the_session_does_not_end_under_a_wait_that_hangs(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    hang(stand_in)
    source.close()
    shutdowns = stand_in.calls("nvmlShutdown")
    stand_in.set({f"{WAIT}.delay_ms": None})
    assert shutdowns == 0
    wait_until(lambda: listeners() == 0)


def test_a_session_that_could_not_end_goes_on_and_ends_later(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    hang(stand_in)
    source.close()
    source.read()
    stand_in.set({f"{WAIT}.delay_ms": None, "xids": "1:gpu0:79"})
    heard(source, {79: 1})
    assert source.read().driver_version == "570.86.15"
    source.close()
    assert (stand_in.calls("nvmlInit"), stand_in.calls("nvmlShutdown")) == (1, 1)
    assert (listeners(), stand_in.event_sets) == (0, 0)


def test_a_thread_that_left_late_is_followed_by_another(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    hang(stand_in)
    source.close()
    stand_in.set({f"{WAIT}.delay_ms": None})
    wait_until(lambda: listeners() == 0)
    source.read()
    stand_in.set({"xids": "1:gpu0:79"})
    heard(source, {79: 1})


@pytest.mark.parametrize("code", [1, 18])
def test_a_broken_session_that_could_not_end_is_begun_anew_after_it(
    source: NvmlSource, stand_in: StandIn, advance: Advance, code: int
) -> None:
    source.read()
    hang(stand_in)
    stand_in.set({"nvmlDeviceGetCount_v2.return": code})
    with pytest.raises(SourceError):
        source.read()
    stand_in.set({f"{WAIT}.delay_ms": None})
    wait_until(lambda: listeners() == 0)
    advance(FIRST_PAUSE_SECONDS)
    with pytest.raises(SourceError):
        source.read()
    assert stand_in.calls("nvmlShutdown") == 1
    stand_in.set({"nvmlDeviceGetCount_v2.return": None})
    advance(2 * FIRST_PAUSE_SECONDS)
    source.read()
    assert stand_in.calls("nvmlInit") == 2
