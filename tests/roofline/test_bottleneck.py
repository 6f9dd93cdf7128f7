"""Verdicts: each class from its evidence, and none from contradictions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.bottleneck import (
    BOTTLENECKS,
    Bottleneck,
    Counters,
    Settled,
    Verdict,
    from_counters,
    from_shares,
    settle,
)
from agent.roofline.step import COMPONENTS, Component


def counters(
    dram: float | None,
    tensor: float | None,
    resident: float | None = 1.0,
    *,
    sm: float | None = 0.5,
    kernel_time: float | None = 1.0,
) -> Counters:
    return Counters(
        evidence="gpm",
        dram_ratio=dram,
        tensor_ratio=tensor,
        sm_ratio=sm,
        graphics_ratio=resident,
        kernel_time_ratio=kernel_time,
        achievable_dram_ratio=0.93,
    )


@pytest.mark.parametrize(
    ("measured", "running", "expected"),
    [
        pytest.param(counters(0.80, 0.05), True, "memory_bandwidth", id="DRAM busy, tensor cores idle"),
        pytest.param(counters(0.30, 0.75), True, "compute", id="tensor cores busy, DRAM not"),
        pytest.param(counters(0.62, 0.80), True, "compute", id="both high, tensor cores higher"),
        pytest.param(counters(0.75, 0.62), True, "memory_bandwidth", id="both high, DRAM higher"),
        pytest.param(counters(0.10, 0.05), True, "kernel_latency", id="kernels always there, no roof near"),
        pytest.param(
            counters(0.20, 0.02, 0.4), True, "host", id="mostly empty, though near the roof while kernels run"
        ),
        pytest.param(counters(0.05, 0.02, 0.5), True, "host", id="gaps between kernels, requests in flight"),
        pytest.param(counters(0.0, 0.0, 0.01, kernel_time=0.0), False, "idle", id="nothing there"),
        pytest.param(counters(0.05, 0.02, 0.5), False, "unknown", id="gaps, and nobody knows of requests"),
        pytest.param(counters(None, None), True, "unknown", id="counters missing"),
        pytest.param(counters(0.0, 0.0, sm=0.0), True, "unknown", id="profiling reads 0 while kernels run"),
    ],
)
def test_counters_alone(measured: Counters, running: bool, expected: Bottleneck) -> None:
    verdict = from_counters(measured, requests_running=running)
    assert verdict.bottleneck == expected


def shares(**given: float) -> dict[Component, float]:
    return {component: given.get(component, 0.0) for component in COMPONENTS}


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (shares(memory_bandwidth=0.7, kernel_latency=0.2, host=0.1), "memory_bandwidth"),
        (shares(compute=0.5, memory_bandwidth=0.3, host=0.2), "compute"),
        (shares(interconnect=0.7, memory_bandwidth=0.3), "interconnect"),
        (shares(memory_bandwidth=0.34, kernel_latency=0.32, host=0.21, interconnect=0.13), "kernel_latency"),
        (shares(memory_bandwidth=0.30, kernel_latency=0.10, host=0.60), "host"),
    ],
)
def test_the_largest_share_wins_and_overhead_stands_together(
    parts: dict[Component, float], expected: Bottleneck
) -> None:
    verdict = from_shares(parts, busy_ratio=0.9, detail="")
    assert verdict.bottleneck == expected
    assert verdict.evidence == "modelled"


def test_little_work_is_idle() -> None:
    verdict = from_shares(shares(memory_bandwidth=1.0), busy_ratio=0.05, detail="")
    assert verdict.bottleneck == "idle"


def test_counters_confirm_memory() -> None:
    verdict = from_shares(
        shares(memory_bandwidth=0.8, host=0.2),
        busy_ratio=1.0,
        detail="",
        counters=counters(0.66, 0.05),
        dram_efficiency=0.88,
    )
    assert (verdict.bottleneck, verdict.evidence) == ("memory_bandwidth", "mixed")
    assert "DRAM active 66 %" in verdict.reason


def test_counters_veto_memory_that_never_flowed() -> None:
    verdict = from_shares(
        shares(memory_bandwidth=0.8, host=0.2),
        busy_ratio=1.0,
        detail="",
        counters=counters(0.10, 0.05),
        dram_efficiency=0.88,
    )
    assert verdict.bottleneck == "host"
    assert "not memory bandwidth" in verdict.reason


def test_counters_veto_a_host_that_the_gpu_does_not_wait_for() -> None:
    # A model taken for a quarter of its size: three quarters of the step seem to be left over.
    shares: dict[Component, float] = {"memory_bandwidth": 0.24, "kernel_latency": 0.1, "host": 0.66}
    verdict = from_shares(shares, busy_ratio=0.99, detail="d", counters=counters(0.74, 0.03, 0.94))
    assert verdict.bottleneck == "memory_bandwidth"
    assert "wrong model" in verdict.reason
    # The same of a host that is really waited for.
    waited = from_shares(shares, busy_ratio=0.99, detail="d", counters=counters(0.25, 0.01, 0.32))
    assert waited.bottleneck == "host"


def test_tensor_parallel_decode_is_not_vetoed_for_being_below_60_percent() -> None:
    """Real 70B servers on four GPUs move 0.2–0.4 of the peak while memory is their largest share."""
    verdict = from_shares(
        shares(memory_bandwidth=0.46, kernel_latency=0.19, host=0.15, interconnect=0.10, compute=0.10),
        busy_ratio=1.0,
        detail="",
        counters=counters(0.38, 0.05),
        dram_efficiency=0.877,
    )
    assert verdict.bottleneck == "memory_bandwidth"


def test_contradicting_counters_are_unknown_whatever_the_model_says() -> None:
    verdict = from_shares(
        shares(memory_bandwidth=1.0), busy_ratio=1.0, detail="", counters=counters(0.0, 0.0, sm=0.0)
    )
    assert verdict.bottleneck == "unknown"
    assert "contradicts itself" in verdict.reason


def test_unexplained_time_is_left_to_the_counters() -> None:
    parts = shares(unexplained=1.0)
    assert from_shares(parts, busy_ratio=1.0, detail="").bottleneck == "unknown"
    measured = from_shares(parts, busy_ratio=1.0, detail="", counters=counters(0.8, 0.05))
    assert (measured.bottleneck, measured.evidence) == ("memory_bandwidth", "gpm")


RATIO = st.floats(min_value=0, max_value=1)
MAYBE = st.none() | RATIO


@given(dram=MAYBE, tensor=MAYBE, resident=MAYBE, sm=MAYBE, kernel=MAYBE, running=st.booleans())
def test_classification_is_total(
    dram: float | None,
    tensor: float | None,
    resident: float | None,
    sm: float | None,
    kernel: float | None,
    running: bool,
) -> None:
    measured = counters(dram, tensor, resident, sm=sm, kernel_time=kernel)
    verdict = from_counters(measured, requests_running=running)
    assert verdict.bottleneck in BOTTLENECKS
    assert 0 <= verdict.confidence_ratio <= 1
    assert verdict.reason


@given(
    parts=st.tuples(*[st.floats(min_value=0.001, max_value=1)] * 5),
    noise=st.tuples(*[st.floats(min_value=-0.01, max_value=0.01)] * 5),
)
def test_a_clear_verdict_survives_small_noise(parts: tuple[float, ...], noise: tuple[float, ...]) -> None:
    names = [name for name in COMPONENTS if name != "unexplained"]

    def verdict_of(values: list[float]) -> Verdict:
        whole = sum(values)
        given_shares = {name: value / whole for name, value in zip(names, values, strict=True)}
        return from_shares(shares(**given_shares), busy_ratio=1.0, detail="")

    first = verdict_of(list(parts))
    if first.confidence_ratio > 0.1 and first.bottleneck not in ("host", "kernel_latency"):
        shaken = verdict_of([max(p * (1 + n), 0) for p, n in zip(parts, noise, strict=True)])
        assert shaken.bottleneck == first.bottleneck


def verdict(bottleneck: Bottleneck) -> Verdict:
    return Verdict(bottleneck=bottleneck, reason="")


def run(*seen: tuple[float, Bottleneck]) -> Settled:
    state: Settled | None = None
    for now, bottleneck in seen:
        state = settle(state, verdict(bottleneck), now_seconds=now, patience_seconds=10)
    assert state is not None
    return state


def test_another_class_waits_until_it_is_seen_for_long_enough() -> None:
    assert run((0, "compute"), (5, "host")).verdict.bottleneck == "compute"
    assert run((0, "compute"), (5, "host"), (14, "host")).verdict.bottleneck == "compute"
    assert run((0, "compute"), (5, "host"), (15, "host")).verdict.bottleneck == "host"


def test_a_class_that_flickers_never_comes_into_force() -> None:
    seen: list[tuple[float, Bottleneck]] = [(t, "host" if t % 2 else "compute") for t in range(60)]
    assert run(*seen).verdict.bottleneck == "compute"


def test_unknown_comes_and_goes_at_once() -> None:
    assert run((0, "compute"), (1, "unknown")).verdict.bottleneck == "unknown"
    assert run((0, "unknown"), (1, "host")).verdict.bottleneck == "host"


# --- guessed tokens --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("guessing", "unexplained", "expected"),
    [(True, 0.6, "unknown"), (True, 0.3, "memory_bandwidth"), (False, 0.6, "memory_bandwidth")],
    ids=["most of it is left over", "less than the largest share", "nothing is guessed"],
)
def test_what_guessing_may_have_taken_is_not_given_to_the_model(
    guessing: bool, unexplained: float, expected: Bottleneck
) -> None:
    rest = 1 - unexplained
    shares: dict[Component, float] = {**dict.fromkeys(COMPONENTS, 0.0), "unexplained": unexplained}
    shares |= {"memory_bandwidth": 0.8 * rest, "kernel_latency": 0.2 * rest}
    verdict = from_shares(shares, busy_ratio=1.0, detail="x", guessing=guessing)
    assert verdict.bottleneck == expected
    assert ("guesses tokens" in verdict.reason) == (expected == "unknown")
