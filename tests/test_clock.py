"""Beats that others may hurry, slow down and stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from itertools import pairwise

from agent.clock import Metronome, SystemClock

LONG_SECONDS = 60.0


def beating(metronome: Metronome) -> tuple[list[float], threading.Thread]:
    beats: list[float] = []

    def run() -> None:
        beats.extend(time.monotonic() for _ in metronome.beats())

    thread = threading.Thread(target=run)
    thread.start()
    return beats, thread


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG_SECONDS / 2
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_the_first_beat_is_now_and_a_stop_is_not_waited_for() -> None:
    metronome = Metronome(LONG_SECONDS, clock=SystemClock())
    beats, thread = beating(metronome)
    until(lambda: len(beats) == 1)
    metronome.stop()
    thread.join(LONG_SECONDS / 2)
    assert not thread.is_alive()
    assert len(beats) == 1


def test_another_pace_begins_at_once_and_the_same_one_changes_nothing() -> None:
    metronome = Metronome(LONG_SECONDS, clock=SystemClock())
    beats, thread = beating(metronome)
    until(lambda: len(beats) == 1)
    metronome.pace(LONG_SECONDS)
    time.sleep(0.05)
    assert len(beats) == 1
    metronome.pace(0.01)
    until(lambda: len(beats) > 5)
    metronome.pace(LONG_SECONDS)
    time.sleep(0.05)
    count = len(beats)
    time.sleep(0.1)
    assert len(beats) == count
    metronome.stop()
    thread.join()


def test_one_that_was_stopped_before_never_beats() -> None:
    metronome = Metronome(0.01, clock=SystemClock())
    metronome.stop()
    beats, thread = beating(metronome)
    thread.join()
    assert beats == []


def test_beats_that_were_missed_are_not_caught_up() -> None:
    metronome = Metronome(0.05, clock=SystemClock())
    beats: list[float] = []
    for _ in metronome.beats():
        beats.append(time.monotonic())
        if len(beats) == 1:
            time.sleep(0.3)
        elif len(beats) == 4:
            metronome.stop()
    gaps = [later - earlier for earlier, later in pairwise(beats[1:])]
    assert min(gaps) > 0.02
