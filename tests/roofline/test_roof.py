"""The roofline and the parts it is drawn for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roofline.gpus import GPUS, GpuSpec, bandwidth_from_clock, describe_gpu, find_gpu
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


@pytest.mark.parametrize(
    ("nvml_name", "part"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM5-80GB"),
        ("NVIDIA H100 PCIe", "H100-PCIe"),
        ("NVIDIA H200", "H200-SXM"),
        ("NVIDIA A100-SXM4-40GB", "A100-SXM4-40GB"),
        ("NVIDIA A100 80GB PCIe", "A100-80GB-PCIe"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA GeForce RTX 4090", "RTX-4090"),
        ("nvidia l4", "L4"),
    ],
)
def test_parts_are_found_by_their_nvml_name(nvml_name: str, part: str) -> None:
    found = find_gpu(nvml_name)
    assert found is not None
    assert found.name == part


@pytest.mark.parametrize("stranger", ["NVIDIA L40", "NVIDIA A10", "NVIDIA H100", "NVIDIA L20X", ""])
def test_a_name_that_only_resembles_a_part_is_not_that_part(stranger: str) -> None:
    assert find_gpu(stranger) is None


@pytest.mark.parametrize("spec", GPUS, ids=lambda spec: spec.name)
def test_each_row_is_complete_and_names_its_source(spec: GpuSpec) -> None:
    assert "NVIDIA" in spec.origin
    assert spec.rated_sm_clock_hertz is not None
    assert {"bf16", "fp32"} <= set(spec.flops_per_second)
    roof = spec.roof("bf16")
    assert roof is not None
    assert 80 < roof.ridge_flops_per_byte < 450


def test_an_unknown_part_gets_bandwidth_from_its_clock_and_no_invented_flops() -> None:
    spec = describe_gpu(nvml_name="NVIDIA T9000", memory_clock_max_hertz=2619e6, memory_bus_bits=5120)
    assert spec is not None
    assert spec.dram_bytes_per_second == pytest.approx(3.352e12, rel=1e-3)
    assert spec.roof("bf16") is None
    assert spec.origin == "nvml_clock"


def test_without_clock_or_bus_width_nothing_is_said() -> None:
    assert bandwidth_from_clock(memory_clock_max_hertz=None, memory_bus_bits=5120) is None
    assert describe_gpu(nvml_name="NVIDIA T9000", memory_clock_max_hertz=1e9, memory_bus_bits=None) is None
