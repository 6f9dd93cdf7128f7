"""The roofline and the parts it is drawn for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.gpus import bandwidth_from_clock, describe_gpu
from agent.roofline.roof import Roof

H100 = Roof(flops_per_second=989.4e12, dram_bytes_per_second=3.35e12)
POSITIVE = st.floats(min_value=1e-3, max_value=1e18)


def test_the_h100_has_its_ridge_at_295() -> None:
    assert H100.ridge_flops_per_byte == pytest.approx(295.3, abs=0.1)


@given(intensity=POSITIVE)
def test_attainable_is_under_both_ceilings_and_touches_one(intensity: float) -> None:
    attainable = H100.attainable(intensity)
    assert attainable <= H100.flops_per_second
    assert attainable <= intensity * H100.dram_bytes_per_second
    assert attainable in (H100.flops_per_second, intensity * H100.dram_bytes_per_second)


@given(intensity=POSITIVE)
def test_work_at_the_roof_attains_1(intensity: float) -> None:
    flops = H100.attainable(intensity)
    attained = H100.attained(flops_per_second=flops, dram_bytes_per_second=flops / intensity)
    assert attained == pytest.approx(1.0)


def test_an_unknown_part_gets_bandwidth_from_its_clock_and_no_invented_flops() -> None:
    spec = describe_gpu(nvml_name="NVIDIA T9000", memory_clock_max_hertz=2619e6, memory_bus_bits=5120)
    assert spec is not None
    assert spec.dram_bytes_per_second == pytest.approx(3.352e12, rel=1e-3)
    assert spec.roof("bf16") is None
    assert spec.origin == "nvml_clock"


def test_without_clock_or_bus_width_nothing_is_said() -> None:
    assert bandwidth_from_clock(memory_clock_max_hertz=None, memory_bus_bits=5120) is None
    assert describe_gpu(nvml_name="NVIDIA T9000", memory_clock_max_hertz=1e9, memory_bus_bits=None) is None
