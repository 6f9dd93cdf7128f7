"""Who pays for a GPU."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.sharing import gpu_shares

RATIO = st.floats(min_value=0, max_value=1)


def test_one_engine_pays_for_everything() -> None:
    assert gpu_shares([(0.2, 0.5)]) == [{"prefill": 0.2, "decode": 0.5, "idle": pytest.approx(0.3)}]


def test_a_gpu_at_rest_is_paid_for_in_equal_parts() -> None:
    assert gpu_shares([(0, 0), (0, 0)]) == [{"prefill": 0, "decode": 0, "idle": 0.5}] * 2


def test_engines_that_claim_more_than_there_was_share_it() -> None:
    first, second = gpu_shares([(0.0, 0.9), (0.3, 0.6)])
    assert first["decode"] == pytest.approx(0.5)
    assert second["prefill"] == pytest.approx(0.3 / 1.8)
    assert first["idle"] == second["idle"] == 0


@given(busy=st.lists(st.tuples(RATIO, RATIO), min_size=1, max_size=8))
def test_shares_sum_to_the_whole(busy: list[tuple[float, float]]) -> None:
    shares = gpu_shares(busy)
    assert sum(sum(share.values()) for share in shares) == pytest.approx(1)
    assert all(part >= 0 for share in shares for part in share.values())
