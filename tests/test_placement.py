"""Which GPUs an engine runs on: who is believed before whom, and when nothing is said."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.clock import ManualClock
from agent.placement import Ground, Placement, place
from agent.readings import FoundServer, PodContainer, ServerReading
from agent.roster import MonitoredServer
from agent.sources.base import Poller


class Silent:
    """A server that is never asked."""

    name = "engine:h:8000"
    failure_reasons: tuple[str, ...] = ()

    def read(self) -> ServerReading:
        raise AssertionError

    def close(self) -> None:
        pass


SERVER = MonitoredServer(
    poller=Poller(Silent(), interval_seconds=5, deadline_seconds=10, clock=ManualClock()),
    server="h:8000",
    on_this_node=True,
)
POD = PodContainer(namespace="chat", pod="llama-0", container="vllm", uid="u")
FOUR = ("GPU-0", "GPU-1", "GPU-2", "GPU-3")
GROUND = Ground(
    usable=FOUR,
    in_use={"GPU-2", "GPU-3"},
    allocations=(
        (replace(POD, uid=""), "GPU-3"),
        (replace(POD, uid=""), "GPU-1"),
        (PodContainer(namespace="chat", pod="llama-0", container="sidecar"), "GPU-0"),
        (PodContainer(namespace="other", pod="llama-0", container="vllm"), "GPU-2"),
    ),
)


def found(*uuids: str, container: PodContainer | None = None) -> MonitoredServer:
    one = FoundServer(url="http://h:8000/metrics", gpu_uuids=uuids or None, container=container)
    return replace(SERVER, found=one)


@pytest.mark.parametrize(
    ("server", "configured", "ranks", "only", "expected"),
    [
        pytest.param(
            replace(found("GPU-1"), gpus=(0,)), ("GPU-0",), None, True, ("configuration", "GPU-0"),
            id="the configuration comes before the processes",
        ),
        pytest.param(
            replace(found("GPU-1"), gpus=(9,)), (), None, True, ("configuration",),
            id="a configured GPU that is not there is not replaced by another",
        ),
        pytest.param(
            found("GPU-3", "GPU-0", container=POD), (), None, True, ("process", "GPU-3", "GPU-0"),
            id="the processes come before the pod, in their order",
        ),
        pytest.param(
            found("GPU-9", container=POD), (), None, True, ("pod", "GPU-1", "GPU-3"),
            id="of a process on a GPU that is not shown here the pod is asked",
        ),
        pytest.param(
            found(container=replace(POD, container="")), (), None, True, ("pod", "GPU-0", "GPU-1", "GPU-3"),
            id="without its container all of the pod's",
        ),
        pytest.param(
            found(container=PodContainer(namespace="", pod="", uid="u")), (), 2, True,
            ("elimination", "GPU-2", "GPU-3"),
            id="a pod without a name has no allocation",
        ),
        pytest.param(
            SERVER, (), 2, True, ("elimination", "GPU-2", "GPU-3"), id="as many in use as it has ranks"
        ),
        pytest.param(SERVER, (), 4, True, ("elimination", *FOUR), id="as many in all as it has ranks"),
        pytest.param(SERVER, (), 3, True, ("unknown",), id="three of four could be any"),
        pytest.param(SERVER, (), None, True, ("unknown",), id="two in use, and not known how many it has"),
        pytest.param(SERVER, (), 2, False, ("unknown",), id="another engine could have them"),
        pytest.param(
            replace(SERVER, on_this_node=False), (), 2, True, ("unknown",), id="it runs on another machine"
        ),
    ],
)  # fmt: skip
def test_the_best_source_that_says_something_is_believed(
    server: MonitoredServer,
    configured: tuple[str, ...],
    ranks: int | None,
    only: bool,
    expected: tuple[str, ...],
) -> None:
    placement = place(server, GROUND, configured=configured, ranks=ranks, only_server=only)
    assert (placement.by, *placement.uuids) == expected
    assert (placement.problem is None) == bool(placement.uuids)


@pytest.mark.parametrize("only", [True, False])
def test_the_only_gpu_can_be_meant_by_all(only: bool) -> None:
    ground = Ground(usable=("GPU-0",))
    assert place(SERVER, ground, ranks=8, only_server=only) == Placement(uuids=("GPU-0",), by="elimination")


def test_the_only_gpu_in_use_is_the_only_engines() -> None:
    ground = Ground(usable=FOUR, in_use={"GPU-2"})
    assert place(SERVER, ground, ranks=None, only_server=True).uuids == ("GPU-2",)


@given(
    usable=st.lists(st.sampled_from(FOUR), unique=True),
    held=st.none() | st.lists(st.sampled_from((*FOUR, "GPU-9")), unique=True),
    in_use=st.sets(st.sampled_from(FOUR)),
    ranks=st.none() | st.integers(1, 5),
    only=st.booleans(),
)
def test_an_engine_is_placed_on_gpus_that_are_there_each_once(
    usable: list[str], held: list[str] | None, in_use: set[str], ranks: int | None, only: bool
) -> None:
    ground = Ground(usable=usable, in_use=in_use & set(usable))
    uuids = place(found(*(held or ())), ground, ranks=ranks, only_server=only).uuids
    assert set(uuids) <= set(usable)
    assert len(set(uuids)) == len(uuids)
