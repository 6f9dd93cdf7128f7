"""Money: every GPU paid, and parts that sum to the whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.cost import bandwidth_per_usd, split_by_phase, usd_per_million_tokens

AMOUNTS = st.floats(min_value=0, max_value=1e9)


def test_every_gpu_of_the_replica_is_paid() -> None:
    one, eight = (
        usd_per_million_tokens(gpus=gpus, usd_per_hour=3.6, tokens_per_second=1000) for gpus in (1, 8)
    )
    assert one == pytest.approx(1.0)
    assert eight == pytest.approx(8 * one)


@pytest.mark.parametrize(("gpus", "price", "rate"), [(0, 1.0, 1.0), (1, -1.0, 1.0), (1, 1.0, 0.0)])
def test_a_cost_without_gpus_price_or_tokens_is_refused(gpus: int, price: float, rate: float) -> None:
    with pytest.raises(ValueError, match="needs"):
        usd_per_million_tokens(gpus=gpus, usd_per_hour=price, tokens_per_second=rate)


@given(usd=AMOUNTS, prefill=AMOUNTS, decode=AMOUNTS, idle=AMOUNTS)
def test_the_parts_of_a_cost_sum_to_the_whole(usd: float, prefill: float, decode: float, idle: float) -> None:
    parts = split_by_phase(usd, prefill_seconds=prefill, decode_seconds=decode, idle_seconds=idle)
    assert parts.total_usd == pytest.approx(usd, rel=1e-9, abs=1e-9)
    assert min(parts.prefill_usd, parts.decode_usd) >= 0
    assert parts.idle_usd >= -1e-9 * max(usd, 1)


def test_money_follows_the_seconds_and_is_idle_where_there_are_none() -> None:
    parts = split_by_phase(8.0, prefill_seconds=1, decode_seconds=3)
    assert (parts.prefill_usd, parts.decode_usd) == pytest.approx((2.0, 6.0))
    assert split_by_phase(8.0, prefill_seconds=0, decode_seconds=0).idle_usd == 8.0


@pytest.mark.parametrize(
    ("gigabytes_per_second", "usd", "expected"),
    [(3350, 30_000, 0.112), (2000, 10_000, 0.200), (864, 8_000, 0.108), (1000, 1_600, 0.625)],
    ids=["H100", "A100", "L40S", "RTX 4090"],
)
def test_bandwidth_for_a_purchase_dollar_is_the_lessons(
    gigabytes_per_second: float, usd: float, expected: float
) -> None:
    per_usd = bandwidth_per_usd(dram_bytes_per_second=gigabytes_per_second * 1e9, usd=usd)
    assert per_usd / 1e9 == pytest.approx(expected, abs=5e-4)
