"""The model against measurements: the bounds that docs/accuracy.md reports, held."""

from __future__ import annotations

import statistics
from typing import Any

import pytest

from agent.roofline.step import ACHIEVED, FITTED, Achieved, constants_for
from tests.accuracy.__main__ import PAGE
from tests.accuracy.fit import errors, fit
from tests.accuracy.page import (
    REFERENCE,
    TABLES,
    llama_servers,
    render_page,
    steps_of,
    tables_in,
    without_model,
)
from tests.accuracy.rows import Step, servers, steps
from tests.conftest import Golden


def decoding(*, experts: bool) -> list[Step]:
    return [step for step in steps() if step.is_decode and step.group.experts is experts]


def test_every_measurement_is_there() -> None:
    assert len(steps()) == 125
    assert len(servers()) == 845


def test_no_step_is_faster_than_its_bound() -> None:
    assert [step.row for step in steps() if step.bound_seconds > step.seconds] == []


def test_servers_faster_than_their_bound_are_few_and_kept_requests_waiting() -> None:
    faster = [server for server in servers() if server.bound_seconds > server.seconds]
    assert len(faster) <= 0.01 * len(servers())
    assert all(float(server.row["ttft_ms"]) > 15_000 for server in faster)


def test_dense_decode_is_predicted_within_five_percent() -> None:
    found = errors(step.error(step.constants) for step in decoding(experts=False))
    assert found is not None
    assert found.mean <= 0.05
    beyond = [step for step in decoding(experts=False) if abs(step.error(step.constants)) > 0.15]
    # Two rows of 8 bit on H200 pass 15 %, see "8 bit: kernels and servers disagree".
    assert len(beyond) <= 2
    assert all(step.group.narrow for step in beyond)
    assert found.worst <= 0.16


def test_decode_with_experts_is_predicted_within_twenty_percent() -> None:
    found = errors(step.error(step.constants) for step in decoding(experts=True))
    assert found is not None
    assert found.mean <= 0.20


def test_dense_prefill_in_sixteen_bit_is_predicted_within_ten_percent() -> None:
    chosen = [step for step in steps() if not step.is_decode and step.group.kind == "dense, 16 bit"]
    found = errors(step.error(step.constants) for step in chosen)
    assert found is not None
    assert found.count == 17
    assert found.mean <= 0.10


def test_prefill_through_experts_reads_and_computes_one_after_the_other() -> None:
    chosen = [step for step in steps() if not step.is_decode and step.group.experts]
    assert len(chosen) == 4
    for step in chosen:
        time = step.time(step.constants)
        assert time.total == pytest.approx(step.seconds, rel=0.10)
        assert max(time.memory, time.compute) + time.kernels < 0.9 * step.seconds


def test_collectives_over_pcie_are_the_measured_ones() -> None:
    chosen = [step for step in steps() if step.row["system"] == "l40s" and step.model.tensor_parallel == 8]
    assert len(chosen) == 2
    for step in chosen:
        assert step.time(step.constants).interconnect == pytest.approx(step.collective_seconds, rel=0.01)


def test_sixteen_bit_decode_of_a_model_that_was_left_out_is_predicted_within_five_percent() -> None:
    found = errors(
        error for step, error in without_model() if step.is_decode and step.group.kind == "dense, 16 bit"
    )
    assert found is not None
    assert found.count == 59
    assert found.mean <= 0.05


@pytest.mark.parametrize(
    "row",
    [row for row in ACHIEVED if row.origin == FITTED],
    ids=lambda row: f"{row.parts} {'narrow' if row.narrow else 'wide'} {row.backend} {row.experts}",
)
def test_the_table_is_the_fit_rounded(row: Achieved) -> None:
    fitted = fit(steps_of(row))
    assert fitted.dram == pytest.approx(row.dram, abs=0.0051)
    assert fitted.layer_microseconds == pytest.approx(row.layer_microseconds, abs=0.51)
    if fitted.compute is not None:
        assert fitted.compute == pytest.approx(row.compute, abs=0.0051)


@pytest.mark.parametrize(("system", "degree"), [key for key in REFERENCE if len(llama_servers(*key)) >= 5])
def test_what_is_left_for_the_host_is_what_another_attribution_leaves(system: str, degree: int) -> None:
    residual = statistics.median(server.residual_ratio for server in llama_servers(system, degree))
    assert residual == pytest.approx(REFERENCE[system, degree], abs=0.05)


@pytest.mark.parametrize(
    ("asked", "row"),
    [
        ({"gpu_name": "H200-SXM"}, {"parts": ("H200-SXM",), "narrow": False}),
        ({"gpu_name": "H200-SXM", "dtype": "fp8"}, {"parts": ("H200-SXM",), "narrow": True}),
        ({"gpu_name": "H200-SXM", "dtype": "awq"}, {"parts": ("H200-SXM",), "narrow": False}),
        ({"gpu_name": "H200-SXM", "moe": True}, {"parts": (), "experts": True}),
        ({"gpu_name": "H100-SXM5-80GB", "dtype": "fp8", "backend": "trtllm"}, {"backend": "trtllm"}),
        ({"gpu_name": "H200-SXM", "dtype": "fp8", "backend": "trtllm"}, {"parts": ("H200-SXM",)}),
        (
            {"gpu_name": "B200", "dtype": "fp8_block", "moe": True, "backend": "sglang"},
            {"backend": "sglang"},
        ),
        ({"gpu_name": "", "dtype": "nvfp4"}, {"parts": (), "narrow": True, "experts": False}),
    ],
    ids=lambda value: " ".join(str(part) for part in value.values()),
)
def test_constants_are_those_of_the_nearest_row(asked: dict[str, Any], row: dict[str, Any]) -> None:
    found = constants_for(**asked)
    candidates = [one for one in ACHIEVED if all(getattr(one, key) == value for key, value in row.items())]
    assert (found.decode_dram_efficiency, found.prefill_compute_efficiency) in [
        (one.dram, one.compute) for one in candidates
    ]


def test_the_page_has_every_table_as_it_is_measured_now(golden: Golden) -> None:
    text = PAGE.read_text()
    assert sorted(tables_in(text)) == sorted(TABLES)
    golden(PAGE, render_page(text))
