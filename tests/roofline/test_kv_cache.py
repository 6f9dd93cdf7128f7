"""KV-cache headroom and why the batch is not larger."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.kv_cache import batch_limiter, kv_cache

RATIO = st.floats(min_value=0, max_value=1)


def test_headroom_in_every_unit() -> None:
    cache = kv_cache(
        used_ratio=0.75,
        capacity_tokens=400_000,
        bytes_per_token=131_072,
        context_tokens=1000,
        history=[(0, 0.70), (5, 0.725), (10, 0.75)],
    )
    assert cache.headroom_ratio == 0.25
    assert cache.free_tokens == 100_000
    assert cache.free_bytes == 100_000 * 131_072
    assert cache.limited_batch == 400
    assert cache.seconds_to_full == pytest.approx(50)


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([], id="nothing is known"),
        pytest.param([(0, 0.5)], id="one point"),
        pytest.param([(0, 0.5), (5, 0.5), (10, 0.5)], id="it stands still"),
        pytest.param([(0, 0.9), (5, 0.8), (10, 0.7)], id="it empties"),
        pytest.param([(0, 0.5), (5, 0.6), (10, 0.4), (15, 0.55)], id="it only fluctuates"),
        pytest.param([(0, 0.5), (5, 0.5001), (10, 0.5002)], id="it would take hours"),
    ],
)
def test_a_cache_that_does_not_fill_has_no_time_to_full(history: list[tuple[float, float]]) -> None:
    cache = kv_cache(
        used_ratio=0.5, capacity_tokens=None, bytes_per_token=None, context_tokens=None, history=history
    )
    assert cache.seconds_to_full is None
    assert cache.free_tokens is None
    assert cache.limited_batch is None


@given(less=RATIO, more=RATIO, capacity=st.floats(min_value=1, max_value=1e9))
def test_headroom_is_a_ratio_and_falls_as_use_rises(less: float, more: float, capacity: float) -> None:
    less, more = sorted((less, more))
    roomy, tight = (
        kv_cache(used_ratio=used, capacity_tokens=capacity, bytes_per_token=1.0, context_tokens=1.0)
        for used in (less, more)
    )
    assert 0 <= tight.headroom_ratio <= roomy.headroom_ratio <= 1
    assert tight.free_tokens is not None
    assert roomy.free_tokens is not None
    assert tight.free_tokens <= roomy.free_tokens


@pytest.mark.parametrize(
    ("waiting", "running", "used", "preemptions", "most", "expected"),
    [
        pytest.param(0, 8, 0.1, 0, None, "traffic", id="nobody waits"),
        pytest.param(12, 40, 0.98, 0, None, "kv_cache", id="requests wait and the cache is full"),
        pytest.param(0, 40, 0.90, 3, None, "kv_cache", id="requests were preempted"),
        pytest.param(12, 16, 0.30, 0, 16, "max_num_seqs", id="requests wait and the batch is at its limit"),
        pytest.param(12, 16, 0.30, 0, None, "unknown", id="requests wait, there is room, no limit is known"),
        pytest.param(2, 9, 0.30, 0, 16, "traffic", id="requests wait for their prefill, nothing is full"),
        pytest.param(None, 9, 0.30, 0, 16, "unknown", id="the engine does not say"),
    ],
)
def test_limiter(
    waiting: float | None,
    running: float,
    used: float,
    preemptions: float,
    most: int | None,
    expected: str,
) -> None:
    limiter, reason = batch_limiter(
        waiting=waiting, running=running, used_ratio=used, preemptions=preemptions, max_num_seqs=most
    )
    assert limiter == expected
    assert reason
