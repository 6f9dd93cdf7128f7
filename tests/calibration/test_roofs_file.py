"""The file of the measured roofs: what is in it, and that it is whole or is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.calibration.curve import Point, Product
from agent.calibration.device import format_of
from agent.calibration.measure import Calibration, Stream
from agent.calibration.roofs_file import peaks_of, render_roofs, write_roofs
from agent.calibration.timings import timing_of
from agent.config import parse_configuration
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


@pytest.mark.parametrize("name", ["NVIDIA H200", 'A "quoted": part # 1', "Größe: 1", "null"])
def test_any_name_is_read_as_it_was(name: str) -> None:
    text = render_roofs(name, calibration(bf16=7e14), remarks=["measured: today", "# twice"])
    (roof,) = parse_configuration(text, origin="test").roofs
    assert roof.gpu == name
    assert roof.dram_bytes_per_second == 4e12
    assert roof.flops_per_second == {"bf16": 7e14}


def test_a_part_without_products_has_bytes_alone() -> None:
    (roof,) = parse_configuration(render_roofs("A", calibration(), remarks=[]), origin="test").roofs
    assert roof.flops_per_second == {}


def test_16_bit_has_one_roof_and_tf32_has_none() -> None:
    assert peaks_of(calibration(bf16=7e14, fp16=6e14, tf32=4e14, fp32=5e13)) == pytest.approx(
        {"bf16": 7e14, "fp32": 5e13}
    )
    assert peaks_of(calibration(fp16=6e13)) == pytest.approx({"bf16": 6e13})


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
