"""Letting go of the GPUs for a while, so that they can be reset or divided."""

from __future__ import annotations

import threading
import time

import pytest

from agent.clock import ManualClock
from agent.errors import SourceError
from agent.sources.nvml import NvmlSource
from agent.sources.nvml.xids import WAIT_SECONDS
from tests.nvml_standin import StandIn
from tests.sources.nvml.gpus import Advance, gpu_of, wait_until

RELEASED = "let go of on request"


def assert_nothing_is_held(stand_in: StandIn) -> None:
    assert (stand_in.samples, stand_in.event_sets) == (0, 0)
    assert stand_in.calls("nvmlShutdown") == stand_in.calls("nvmlInit")
    assert not any(thread.name == "nvml-xids" for thread in threading.enumerate())


def test_release_ends_the_session_and_holds_nothing(source: NvmlSource, stand_in: StandIn) -> None:
    stand_in.set({"gpus": 2, "gpu1.mig_mode": 1, "gpu1.migs": 3})
    source.read()
    assert stand_in.samples == 8
    assert source.release(60)
    assert_nothing_is_held(stand_in)


def test_a_reading_while_released_fails_and_says_how_long(source: NvmlSource, clock: ManualClock) -> None:
    source.read()
    source.release(90)
    clock.advance(30)
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason == "released"
    assert str(caught.value) == "nvml: let go of on request; read again in 60 s"


def test_nothing_is_opened_while_released(source: NvmlSource, stand_in: StandIn, clock: ManualClock) -> None:
    source.read()
    source.release(60)
    for _ in range(60):
        with pytest.raises(SourceError, match=RELEASED):
            source.read()
        clock.advance(0.99)
    assert stand_in.calls("nvmlInit") == 1
    assert_nothing_is_held(stand_in)


def test_readings_begin_again_by_themselves(source: NvmlSource, stand_in: StandIn, advance: Advance) -> None:
    source.read()
    source.release(60)
    advance(60)
    source.read()
    advance(1)
    assert gpu_of(source.read()).activity is not None
    assert (stand_in.calls("nvmlInit"), stand_in.calls("nvmlShutdown")) == (2, 1)


def test_activity_is_not_measured_over_a_release(
    source: NvmlSource, stand_in: StandIn, advance: Advance
) -> None:
    source.read()
    source.release(5)
    advance(5)
    assert gpu_of(source.read()).activity is None


def test_reacquire_begins_at_once(source: NvmlSource) -> None:
    source.read()
    source.release(3600)
    with pytest.raises(SourceError, match=RELEASED):
        source.read()
    source.reacquire()
    assert gpu_of(source.read()).power_watts == 412.345


def test_reacquire_without_a_release_changes_nothing(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    source.reacquire()
    source.read()
    assert stand_in.calls("nvmlInit") == 1


def test_a_release_before_the_first_reading_keeps_it_away(source: NvmlSource, stand_in: StandIn) -> None:
    assert source.release(60)
    with pytest.raises(SourceError, match=RELEASED):
        source.read()
    assert stand_in.calls("nvmlInit") == 0


def test_a_second_release_counts_from_itself(source: NvmlSource, clock: ManualClock) -> None:
    source.release(60)
    clock.advance(50)
    source.release(60)
    clock.advance(59)
    with pytest.raises(SourceError, match=RELEASED):
        source.read()
    clock.advance(1)
    source.read()


def test_a_release_says_so_also_where_nvml_had_failed(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock
) -> None:
    stand_in.set({"nvmlInit.return": 999})
    with pytest.raises(SourceError):
        source.read()
    source.release(60)
    with pytest.raises(SourceError, match=RELEASED):
        source.read()
    stand_in.set({"nvmlInit.return": None})
    clock.advance(60)
    source.read()


def test_a_gpu_that_was_lost_is_read_after_its_reset(
    source: NvmlSource, stand_in: StandIn, clock: ManualClock
) -> None:
    source.read()
    stand_in.set({"gpu0.return": 15})
    source.read()
    source.release(60)
    stand_in.set({"gpu0.return": None})
    clock.advance(60)
    assert gpu_of(source.read()).power_watts == 412.345


def test_the_reason_is_among_those_that_are_told_beforehand(source: NvmlSource) -> None:
    source.release(1)
    with pytest.raises(SourceError) as caught:
        source.read()
    assert caught.value.reason in source.failure_reasons


# --- a driver that hangs -----------------------------------------------------------------------------


def test_a_release_during_a_call_that_hangs_lets_go_after_it(source: NvmlSource, stand_in: StandIn) -> None:
    source.read()
    stand_in.set({"nvmlDeviceGetEnforcedPowerLimit.delay_ms": 1e9})
    reader = threading.Thread(target=source.read)
    reader.start()
    wait_until(lambda: stand_in.calls("nvmlDeviceGetEnforcedPowerLimit") == 2)
    let_go, shutdowns = source.release(60), stand_in.calls("nvmlShutdown")
    stand_in.set({"nvmlDeviceGetEnforcedPowerLimit.delay_ms": None})
    reader.join()
    assert (let_go, shutdowns) == (False, 0)
    with pytest.raises(SourceError, match=RELEASED):
        source.read()
    assert_nothing_is_held(stand_in)


def test_a_release_while_the_wait_for_events_hangs_lets_go_after_it(
    source: NvmlSource, stand_in: StandIn
) -> None:
    source.read()
    stand_in.set({"nvmlEventSetWait_v2.delay_ms": 1e9})
    time.sleep(3 * WAIT_SECONDS)
    let_go, shutdowns = source.release(60), stand_in.calls("nvmlShutdown")
    stand_in.set({"nvmlEventSetWait_v2.delay_ms": None})
    assert (let_go, shutdowns) == (False, 0)
    with pytest.raises(SourceError, match=RELEASED):
        source.read()
    assert_nothing_is_held(stand_in)
