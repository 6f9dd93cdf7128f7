"""One matrix times more and more tokens, and where it leaves the memory roof."""

from __future__ import annotations

import pytest

from agent.calibration.curve import BATCHES, INPUTS, OUTPUTS, Point, Product, batch_at, ridge_of
from agent.calibration.device import format_of
from agent.calibration.timings import timing_of

BF16 = format_of("bf16")


def product(batch: int) -> Product:
    return Product(m=batch, k=INPUTS, n=OUTPUTS, format=BF16)


def points(
    flops_per_second: float, bytes_per_second: float, *, slower: dict[int, float] | None = None
) -> list[Point]:
    """As an ideal roofline would have it, but for batches that take so many times as long."""
    return [
        Point(
            product=(each := product(batch)),
            timing=timing_of(
                [
                    max(each.flops / flops_per_second, each.bytes / bytes_per_second)
                    * (slower or {}).get(batch, 1.0)
                ]
            ),
        )
        for batch in BATCHES
    ]


def test_the_lessons_matrix_costs_what_the_lesson_says() -> None:
    one = product(1)
    assert one.flops == 2 * 4096 * 11008 == 90_177_536
    assert one.bytes == 2 * (4096 + 4096 * 11008 + 11008) == 90_207_744
    assert one.flops_per_byte == pytest.approx(1.0, abs=0.001)
    assert product(64).flops_per_byte == pytest.approx(62.7, abs=0.1)


@pytest.mark.parametrize("ridge", [30.0, 89.0, 131.0, 163.0, 240.0, 330.0])
def test_the_ridge_of_a_known_roof_is_found(ridge: float) -> None:
    found = ridge_of(points(ridge * 3e12, 3e12))
    assert found is not None
    assert found.flops_per_byte == pytest.approx(ridge, rel=0.01)
    assert found.level_bytes_per_second == pytest.approx(3e12)
    assert found.last_level_batch <= found.batch * 1.5


def test_poor_kernels_for_a_few_tokens_are_not_taken_for_the_ridge() -> None:
    found = ridge_of(points(163 * 4.4e12, 4.4e12, slower={2: 2.0, 4: 1.8, 8: 1.5}))
    assert found is not None
    assert found.flops_per_byte == pytest.approx(163, rel=0.01)


def test_a_curve_that_stays_under_the_memory_roof_has_no_ridge() -> None:
    assert ridge_of(points(1000 * 3e12, 3e12)) is None
    assert ridge_of([]) is None


@pytest.mark.parametrize("batch", [1, 32, 128, 512])
def test_the_batch_of_an_intensity_is_the_one_that_has_it(batch: int) -> None:
    assert batch_at(product(batch).flops_per_byte, product(1)) == pytest.approx(batch)


def test_no_batch_has_more_than_the_matrix_allows() -> None:
    # 2·k·n ÷ (2·k + 2·n), however many tokens
    assert batch_at(INPUTS * OUTPUTS / (INPUTS + OUTPUTS) + 1, product(1)) is None
