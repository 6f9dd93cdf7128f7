"""The file of the measured roofs: what is in it, and that it is whole or is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.calibration.curve import Point, Product
from agent.calibration.device import format_of
from agent.calibration.measure import Calibration, Stream
from agent.calibration.roofs_file import Peaks, reached_by_dtype, render_roofs, write_roofs
from agent.calibration.timings import timing_of
from agent.config import RoofOverride, parse_configuration
from agent.errors import AgentError


def calibration(**flops_per_second: float) -> Calibration:
    compute = []
    for dtype, rate in flops_per_second.items():
        product = Product(m=1024, k=1024, n=1024, format=format_of(dtype))
        compute.append(Point(product=product, timing=timing_of([product.flops / rate])))
    dram = Stream(kind="copy", moved_bytes=10**9, timing=timing_of([1 / 4000]))
    return Calibration(
        streams=(dram,),
        dram=dram,
        products=tuple(compute),
        compute=tuple(compute),
        missing=(),
        curve=(),
        ridge=None,
    )


def roof_in(text: str) -> RoofOverride:
    """As the configuration takes it."""
    (roof,) = parse_configuration(text, origin="test").roofs
    return roof


@pytest.mark.parametrize("name", ["NVIDIA H200", 'A "quoted": part # 1', "Größe: 1", "null"])
def test_any_name_is_read_as_it_was(name: str) -> None:
    text = render_roofs(name, calibration(bf16=7e14), peaks=Peaks(), remarks=["measured: today", "# twice"])
    roof = roof_in(text)
    assert roof.gpu == name
    assert roof.dram_bytes_per_second == 4e12
    assert roof.flops_per_second == {"bf16": 7e14}


def test_a_part_without_products_has_bytes_alone() -> None:
    assert roof_in(render_roofs("A", calibration(), peaks=Peaks(), remarks=[])).flops_per_second == {}


def test_known_peaks_stay_and_what_is_reached_of_them_is_achievable() -> None:
    peaks = Peaks(dram_bytes_per_second=4.8e12, flops_per_second={"bf16": 9.9e14, "fp8": 1.9e15})
    text = render_roofs("NVIDIA H200", calibration(bf16=7e14, fp8=2e15, int8=1e15), peaks=peaks, remarks=[])
    roof = roof_in(text)
    assert roof.dram_bytes_per_second is None
    assert roof.achievable_dram_bytes_per_second == 4e12
    assert roof.flops_per_second == {"fp8": 2e15, "int8": 1e15}, "passed, or not known"
    assert "achievable_dram_bytes_per_second: 4.000e+12  # measured: 0.83 of the peak" in text
    assert "# bf16 reached 7.000e+14 FLOP/s, 0.71 of the peak: its peak stays" in text
    assert "fp8: 2.000e+15  # measured: more than the 1.900e+15 that were known" in text
    assert "int8: 1.000e+15  # measured: no other figure is known" in text


def test_a_bandwidth_above_the_sheet_takes_its_place() -> None:
    roof = roof_in(render_roofs("A", calibration(), peaks=Peaks(dram_bytes_per_second=3e12), remarks=[]))
    assert (roof.dram_bytes_per_second, roof.achievable_dram_bytes_per_second) == (4e12, None)


def test_a_part_without_a_row_has_the_bandwidth_of_its_clock() -> None:
    peaks = Peaks(dram_bytes_per_second=5e12, by_configuration=True)
    roof = roof_in(render_roofs("A", calibration(), peaks=peaks, remarks=[]))
    assert (roof.dram_bytes_per_second, roof.achievable_dram_bytes_per_second) == (5e12, 4e12)


def test_16_bit_has_one_roof_and_tf32_has_none() -> None:
    assert reached_by_dtype(calibration(bf16=7e14, fp16=6e14, tf32=4e14, fp32=5e13)) == pytest.approx(
        {"bf16": 7e14, "fp32": 5e13}
    )
    assert reached_by_dtype(calibration(fp16=6e13)) == pytest.approx({"bf16": 6e13})


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    taken = tmp_path / "roofs.yaml"
    taken.mkdir()
    with pytest.raises(AgentError, match=r"roofs\.yaml: cannot be written"):
        write_roofs(taken, "roofs: []\n")
    assert list(tmp_path.iterdir()) == [taken]
    whole = tmp_path / "other.yaml"
    write_roofs(whole, "roofs: []\n")
    assert whole.read_text() == "roofs: []\n"
    assert len(list(tmp_path.iterdir())) == 2
