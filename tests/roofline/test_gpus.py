"""The catalogue of parts: complete rows, and names that match whole or not at all."""

from __future__ import annotations

import pytest

from agent.roofline.gpus import GPUS, GpuSpec, describe_gpu, find_gpu, is_part_of_one

# Dense fp16/bf16 FLOPs a clock and SM with 32-bit accumulation; GeForce and some others run at half rate.
FLOPS_PER_CLOCK = {"Volta": 1024, "Turing": 1024, "Ampere": 1024, "Ada": 1024, "Hopper": 4096}
FULL_RATE_AMPERE = {
    "A30",
    "A100-PCIE-40GB",
    "A100-SXM4-40GB",
    "A100-80GB-PCIe",
    "A100-SXM4-80GB",
    "A800-SXM4-80GB",
    "Jetson-Orin-64GB",
}
HALF_RATE = {"A10G", "L20", "L40", "RTX-3090", "RTX-4090", "RTX-5090"}


def flops_per_clock(spec: GpuSpec) -> int:
    if spec.name in HALF_RATE:
        return 512
    if spec.name in FULL_RATE_AMPERE:
        return 2048
    if spec.name.startswith("H20-"):
        return 1024
    if spec.architecture.startswith("Blackwell"):
        return 8192 if spec.memory_type == "HBM3e" or spec.name == "Jetson-Thor" else 1024
    return FLOPS_PER_CLOCK[spec.architecture]


def part(name: str, memory_total_bytes: float | None = None) -> str | None:
    found = find_gpu(name, memory_total_bytes)
    return None if found is None else found.name


def test_there_are_51_parts_with_names_of_their_own() -> None:
    assert len({spec.name for spec in GPUS}) == len(GPUS) == 51


@pytest.mark.parametrize("spec", GPUS, ids=lambda spec: spec.name)
def test_a_dense_peak_is_what_its_sms_do_at_the_rated_clock(spec: GpuSpec) -> None:
    assert spec.sm_count is not None
    assert spec.rated_sm_clock_hertz is not None
    computed = spec.sm_count * flops_per_clock(spec) * spec.rated_sm_clock_hertz
    assert spec.flops_per_second["bf16"] == pytest.approx(computed, rel=0.005)


@pytest.mark.parametrize("spec", GPUS, ids=lambda spec: spec.name)
def test_a_row_is_complete_and_names_its_source(spec: GpuSpec) -> None:
    assert spec.origin
    assert "fp32" in spec.flops_per_second
    assert 0.85 <= spec.achievable_dram_ratio <= 0.95
    assert spec.memory_gigabytes > 0
    assert spec.tdp_watts
    assert (spec.typical_usd_per_hour is None) == (spec.price_origin == "")
    if "fp8" in spec.flops_per_second:
        assert spec.flops_per_second["fp8"] == pytest.approx(2 * spec.flops_per_second["bf16"], rel=0.02)
    if spec.architecture in ("Volta", "Turing"):
        assert "no bf16 path" in spec.origin


@pytest.mark.parametrize("spec", GPUS, ids=lambda spec: spec.name)
def test_a_part_is_found_by_each_of_its_names(spec: GpuSpec) -> None:
    size = spec.memory_gigabytes * 2**30
    for name in (spec.name, spec.name.lower(), *spec.nvml_names, *map(str.upper, spec.nvml_names)):
        assert part(name, size) == spec.name


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("h100_sxm", "H100-SXM5-80GB"),
        ("h200_sxm", "H200-SXM"),
        ("a100_sxm", "A100-SXM4-80GB"),
        ("b200_sxm", "B200"),
        ("b300_sxm", "B300"),
        ("gb200", "GB200"),
        ("gb300", "GB300"),
        ("l40s", "L40S"),
        ("rtx_pro_6000_server", "RTX-PRO-6000-BW-Server"),
        ("h100_pcie", "H100-PCIe"),
        ("a100_pcie", "A100-80GB-PCIe"),
        ("H100", "H100-SXM5-80GB"),
        ("nvidia h100 80gb hbm3", "H100-SXM5-80GB"),
        ("GeForce RTX 4090", "RTX-4090"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA A10", "A10"),
    ],
)
def test_names_of_other_tools_and_of_people_are_known(name: str, expected: str) -> None:
    assert part(name) == expected


@pytest.mark.parametrize(
    "stranger",
    ["NVIDIA L20X", "NVIDIA A2000", "A1000", "H2000", "NVIDIA", "", "RTX", "NVIDIA L40S extra", "H100 H100"],
)
def test_a_name_that_only_resembles_a_part_is_not_that_part(stranger: str) -> None:
    assert part(stranger) is None


@pytest.mark.parametrize(
    ("name", "mebibytes", "expected"),
    [
        ("A100", 40960, "A100-SXM4-40GB"),
        ("A100", 81920, "A100-SXM4-80GB"),
        ("NVIDIA H20", 97871, "H20-96GB"),
        ("NVIDIA H20", 143771, "H20-141GB"),
        ("NVIDIA GH200 480GB", 97871, "GH200-96GB"),
        ("NVIDIA GH200 480GB", 145_919, "GH200-144GB"),
    ],
)
def test_parts_that_share_a_name_are_told_apart_by_memory(name: str, mebibytes: int, expected: str) -> None:
    assert part(name, mebibytes * 2**20) == expected


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A16-16Q", "GRID A100-40C", "GRID A100-1-5C", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", "GRID T4-16Q"],
)
def test_a_share_of_a_gpu_has_no_roof_of_its_own(name: str) -> None:
    assert is_part_of_one(name)
    assert part(name) is None
    described = describe_gpu(nvml_name=name, memory_clock_max_hertz=1.2e9, memory_bus_bits=5120)
    assert described is None, "the clock would give the whole part's bandwidth"


@pytest.mark.parametrize("spec", GPUS, ids=lambda spec: spec.name)
def test_a_whole_gpu_is_not_taken_for_a_share(spec: GpuSpec) -> None:
    assert not any(is_part_of_one(name) for name in (spec.name, *spec.nvml_names))


def test_a_described_part_takes_its_size_into_account() -> None:
    spec = describe_gpu(
        nvml_name="NVIDIA H20",
        memory_clock_max_hertz=None,
        memory_bus_bits=None,
        memory_total_bytes=143771 * 2**20,
    )
    assert spec is not None
    assert spec.name == "H20-141GB"
