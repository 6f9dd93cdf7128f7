"""The time of a decoding step as a line over its batch, from the engine's own sums over its steps.

Every step reads the weights once, whatever its batch, and each sequence adds its own part. So the line
t = intercept + slope · b parts what no engine tells apart: its intercept is what a step costs before its
first sequence, weights and launches, and stands beside the weights' bytes ÷ bandwidth as evidence that
owes nothing to the model. Sums are enough for it (least squares), and the difference of two polls is a sum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

MIN_BATCH_VARIATION = 0.1
"""σ ÷ mean of the batch. The line is followed from the mean batch down to none; from batches closer together
than this, what else differed between steps (contexts above all) is taken for the slope."""
STEP_TIME_SCATTER = 0.2
"""Assumed σ of steps about the line ÷ their mean time: without Σ t² it cannot be measured. Steps of one batch
differ by their contexts, and by what the host does meanwhile."""
MAX_INTERCEPT_ERROR = 0.05
"""Standard error of the intercept ÷ mean step time, with that scatter, up to which the line counts."""
MAX_FALL = 2 * MAX_INTERCEPT_ERROR
"""No batch is faster for being larger: a line that falls by more than error explains is no such line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepLine:
    """t = intercept + slope · b, over so many steps."""

    intercept_seconds: float
    """Of a step, whatever its batch; comparable with the weights' bytes ÷ bandwidth of one GPU."""
    slope_seconds: float
    """More for each sequence; by its error it can be a little below zero."""
    steps: float


def fit_step_line(
    *,
    steps: float,
    sequences: float,
    seconds: float,
    squared_sequences: float,
    sequence_seconds: float,
) -> StepLine | None:
    """The least-squares line of n steps, from n, Σb, Σt, Σb² and Σb·t over a window.

    `None` where it cannot be told: with batches that varied by less than `MIN_BATCH_VARIATION`; with so few
    steps that the standard error of the intercept, σ·√((1 + 1 ÷ variation²) ÷ n), is above
    `MAX_INTERCEPT_ERROR`; and where the line is none that steps could have: an intercept that is not above
    zero, a fall with the batch, sums that belong to no steps at all.
    """
    if steps < 1 or sequences <= 0 or seconds <= 0:
        return None
    mean_batch, mean_seconds = sequences / steps, seconds / steps
    variance = squared_sequences / steps - mean_batch**2
    if variance <= 0 or variance < (MIN_BATCH_VARIATION * mean_batch) ** 2:
        return None
    error = STEP_TIME_SCATTER * math.sqrt((1 + mean_batch**2 / variance) / steps)
    if error > MAX_INTERCEPT_ERROR:
        return None
    slope = (sequence_seconds / steps - mean_batch * mean_seconds) / variance
    intercept = mean_seconds - slope * mean_batch
    if not 0 < intercept <= (1 + MAX_FALL) * mean_seconds:
        return None
    return StepLine(intercept_seconds=intercept, slope_seconds=slope, steps=steps)
