"""The line of step times over batches."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.roofline.step_line import MIN_BATCH_VARIATION, STEP_TIME_SCATTER, StepLine, fit_step_line

# 15.27 GiB of weights at 3.35 TB/s are 4.9 ms; a sequence of 2000 tokens adds some 0.1 ms.
INTERCEPT, SLOPE = 0.0055, 0.0001


def line_of(steps: Sequence[tuple[float, float]]) -> StepLine | None:
    """Of steps, each with its batch and its time."""
    return fit_step_line(
        steps=len(steps),
        sequences=sum(batch for batch, _ in steps),
        seconds=sum(seconds for _, seconds in steps),
        squared_sequences=sum(batch**2 for batch, _ in steps),
        sequence_seconds=sum(batch * seconds for batch, seconds in steps),
    )


def steps_on_the_line(batches: Sequence[float]) -> list[tuple[float, float]]:
    return [(batch, INTERCEPT + SLOPE * batch) for batch in batches]


def test_steps_on_a_line_give_that_line() -> None:
    line = line_of(steps_on_the_line([8, 16, 32, 64] * 25))
    assert line is not None
    assert line.intercept_seconds == pytest.approx(INTERCEPT)
    assert line.slope_seconds == pytest.approx(SLOPE)
    assert line.steps == 100


def test_weights_alone_give_no_slope() -> None:
    line = line_of([(batch, INTERCEPT) for batch in [1, 2, 4, 8] * 25])
    assert line is not None
    assert line.intercept_seconds == pytest.approx(INTERCEPT)
    assert line.slope_seconds == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize(
    "steps",
    [
        pytest.param([], id="no steps"),
        pytest.param(steps_on_the_line([32] * 1000), id="one batch only"),
        pytest.param(steps_on_the_line([31, 33] * 10_000), id="batches close together, however many steps"),
        pytest.param(steps_on_the_line([8, 16, 32, 64]), id="few steps"),
        pytest.param([(b, b * SLOPE - 0.0001) for b in [8, 16] * 100], id="nothing at no batch"),
        pytest.param([(b, 0.01 - b * SLOPE) for b in [8, 16, 64] * 100], id="faster with more sequences"),
        pytest.param([(0.0, INTERCEPT)] * 100, id="no sequences"),
        pytest.param([(b, 0.0) for b in [8, 16] * 100], id="no time"),
    ],
)
def test_where_the_line_cannot_be_told_there_is_none(steps: list[tuple[float, float]]) -> None:
    assert line_of(steps) is None


def test_the_page_whose_batch_never_varied_has_no_line() -> None:
    """The sums of the rendered `/v1/loads` of SGLang 0.5.23."""
    sums = {"squared_sequences": 204_800.0, "sequence_seconds": 77.248}
    assert fit_step_line(steps=200, sequences=6400, seconds=2.414, **sums) is None


def test_sums_that_no_steps_can_have_give_no_line() -> None:
    assert (
        fit_step_line(steps=200, sequences=6400, seconds=2, squared_sequences=1, sequence_seconds=60) is None
    )


def test_the_standard_error_holds_with_the_scatter_it_assumes() -> None:
    """The criterion by experiment: at its edge the intercept errs by 5 % of a step, in one σ."""
    chance = random.Random(7)
    # 1 + 1 ÷ variation² = 10 for these two batches, so that 160 steps are just enough.
    batches = [32 * (1 - 1 / 3), 32 * (1 + 1 / 3)] * 80
    mean = INTERCEPT + SLOPE * 32
    assert line_of(steps_on_the_line(batches[:158])) is None
    errors = []
    for _ in range(400):
        steps = [
            (batch, seconds + chance.gauss(0, STEP_TIME_SCATTER * mean))
            for batch, seconds in steps_on_the_line(batches)
        ]
        line = line_of([*steps, *steps_on_the_line(batches[:2])])
        if line is not None:  # some fall with the batch by chance
            errors.append((line.intercept_seconds - INTERCEPT) / mean)
    assert len(errors) > 350
    assert math.sqrt(sum(error**2 for error in errors) / len(errors)) == pytest.approx(0.05, rel=0.15)


BATCHES = st.lists(st.integers(min_value=1, max_value=512), min_size=40, max_size=80)


@given(
    batches=BATCHES,
    intercept=st.floats(min_value=1e-4, max_value=1),
    slope=st.floats(min_value=0, max_value=0.01),
    scale=st.floats(min_value=0.01, max_value=100),
)
def test_a_line_is_found_again_and_scales_with_time(
    batches: list[int], intercept: float, slope: float, scale: float
) -> None:
    line = line_of([(batch, intercept + slope * batch) for batch in batches])
    scaled = line_of([(batch, scale * (intercept + slope * batch)) for batch in batches])
    mean = sum(batches) / len(batches)
    if line is None:
        variation = math.sqrt(sum((batch - mean) ** 2 for batch in batches) / len(batches)) / mean
        assert variation < MIN_BATCH_VARIATION * 1.001 or (1 + variation**-2) / len(batches) > 1 / 16.1
    else:
        assert line.intercept_seconds == pytest.approx(intercept, abs=1e-6 * (intercept + slope * mean))
        assert scaled is not None
        assert scaled.intercept_seconds == pytest.approx(
            scale * line.intercept_seconds, abs=1e-6 * scale * (intercept + slope * mean)
        )


NUMBER = st.floats(allow_nan=False, min_value=-1e30, max_value=1e30)


@example(steps=1.0, sequences=2e-311, seconds=1.0, squared_sequences=0.0, sequence_seconds=0.0)
@given(steps=NUMBER, sequences=NUMBER, seconds=NUMBER, squared_sequences=NUMBER, sequence_seconds=NUMBER)
def test_whatever_the_sums_a_line_is_one_that_steps_can_have(
    steps: float, sequences: float, seconds: float, squared_sequences: float, sequence_seconds: float
) -> None:
    line = fit_step_line(
        steps=steps,
        sequences=sequences,
        seconds=seconds,
        squared_sequences=squared_sequences,
        sequence_seconds=sequence_seconds,
    )
    assert line is None or (line.intercept_seconds > 0 and math.isfinite(line.slope_seconds))
