"""What the tests of NVML and GPM share: a stand-in for the library, and time that both sides agree on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.clock import ManualClock
from agent.sources.nvml import NvmlSource
from tests.nvml_standin import StandIn


@pytest.fixture
def stand_in(nvml_library: Path, tmp_path: Path, fresh_pynvml: None) -> StandIn:
    return StandIn(nvml_library, tmp_path)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def advance(clock: ManualClock, stand_in: StandIn) -> Callable[[float], None]:
    """Move the agent's time and the library's."""

    def move(seconds: float) -> None:
        clock.advance(seconds)
        stand_in.set({"now_ms": clock.monotonic() * 1000})

    move(0)
    return move


@pytest.fixture
def source(stand_in: StandIn, clock: ManualClock) -> Iterator[NvmlSource]:
    nvml = NvmlSource(clock=clock, library_path=str(stand_in.path))
    yield nvml
    nvml.close()
