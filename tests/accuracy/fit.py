"""The constants, fitted again: least squares of the relative error, by hand, for two unknowns at most."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.roofline.step import MICRO, StepConstants
from tests.accuracy.rows import Step


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """η and κ of decode, η_c of prefill; `None` where there was nothing to fit it to."""

    dram: float | None = None
    layer_microseconds: float | None = None
    compute: float | None = None
    overlap_loss: float | None = None
    """ω, which is not fitted but given."""

    def over(self, constants: StepConstants) -> StepConstants:
        """These in place of the agent's, where there are any."""
        return replace(
            constants,
            decode_dram_efficiency=self.dram or constants.decode_dram_efficiency,
            prefill_compute_efficiency=self.compute or constants.prefill_compute_efficiency,
            overlap_loss=constants.overlap_loss if self.overlap_loss is None else self.overlap_loss,
            kernel_latency_per_layer_seconds=(
                constants.kernel_latency_per_layer_seconds
                if self.layer_microseconds is None
                else self.layer_microseconds * MICRO
            ),
        )


def fit(steps: Sequence[Step], *, overlap_loss: float | None = None) -> Fitted:
    """Kernels are fitted to kernels: the measured collectives are taken off first.

    κ is not let below 0. Prefill then has one unknown left: κ is decode's, and so is η, which counts there
    for mixtures only. `overlap_loss` is that in use, unless another is given.
    """
    decode = [step for step in steps if step.is_decode]
    prefill = [step for step in steps if not step.is_decode]
    fitted = Fitted(overlap_loss=overlap_loss)
    if len(decode) > 1:
        slope, latency = _relative_least_squares([_memory_share(step, overlap_loss) for step in decode])
        fitted = replace(fitted, dram=1 / slope, layer_microseconds=latency)
    if prefill:
        slope, _ = _relative_least_squares([_compute_share(step, fitted) for step in prefill])
        fitted = replace(fitted, compute=1 / slope)
    return fitted


def _memory_share(step: Step, overlap_loss: float | None) -> tuple[float, float, float]:
    """(bytes at peak, layers, what is left for them) of a decoding step, ÷ its time.

    The compute side is taken off with the η_c in use, as much of it as the longer side does not hide.
    """
    memory, compute = step.at_peak(step.phase_work)
    compute /= step.constants.prefill_compute_efficiency
    hides_compute = memory / step.constants.decode_dram_efficiency >= compute
    loss = step.constants.overlap_loss if overlap_loss is None else overlap_loss
    seen_memory, seen_compute = (1.0, loss) if hides_compute else (loss, 1.0)
    return (
        seen_memory * memory / step.seconds,
        step.model.architecture.layers * MICRO / step.seconds,
        1 - (step.collective_seconds + seen_compute * compute) / step.seconds,
    )


def _compute_share(step: Step, fitted: Fitted) -> tuple[float, float, float]:
    """(FLOPs at peak, nothing, what is left for them) of a prefill step, ÷ its time."""
    time = step.time(fitted.over(step.constants))
    rest = step.seconds - step.collective_seconds - time.kernels
    if step.group.experts:
        rest -= time.memory
    return step.at_peak(step.phase_work)[1] / step.seconds, 0.0, rest / step.seconds


def _relative_least_squares(rows: Iterable[tuple[float, float, float]]) -> tuple[float, float]:
    """(a, b ≥ 0) of a·x + b·y ≈ z, of rows (x, y, z); b is 0 where y does not tell it from a."""
    xx = xy = yy = xz = yz = 0.0
    for x, y, z in rows:
        xx, xy, yy, xz, yz = xx + x * x, xy + x * y, yy + y * y, xz + x * z, yz + y * z
    determinant = xx * yy - xy * xy
    if determinant > 1e-9 * xx * yy:
        b = (xx * yz - xy * xz) / determinant
        if b >= 0:
            return (yy * xz - xy * yz) / determinant, b
    return xz / xx, 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Errors:
    """How far predictions are from measurements."""

    count: int
    mean: float
    """Of the sizes."""
    worst: float
    bias: float
    """Of the errors with their signs; below 0 predicts too little."""


def errors(relative: Iterable[float]) -> Errors | None:
    """Of relative errors; `None` of none."""
    values = list(relative)
    if not values:
        return None
    return Errors(
        count=len(values),
        mean=sum(map(abs, values)) / len(values),
        worst=max(map(abs, values)),
        bias=sum(values) / len(values),
    )


def held_out_models(
    steps: Sequence[Step], *, overlap_loss: float | None = None
) -> Iterator[tuple[Step, float]]:
    """Each model's rows of a group and their errors with constants from the group's other models."""
    for name in sorted({step.row["model"] for step in steps}):
        yield from held_out(
            [step for step in steps if step.row["model"] == name],
            [step for step in steps if step.row["model"] != name],
            overlap_loss=overlap_loss,
        )


def held_out(
    tested: Sequence[Step], known: Sequence[Step], *, overlap_loss: float | None = None
) -> Iterator[tuple[Step, float]]:
    """Rows and their errors with constants fitted to other rows; none for a phase that those lack."""
    fitted = fit(known, overlap_loss=overlap_loss)
    for step in tested:
        if (fitted.dram if step.is_decode else fitted.compute) is not None:
            yield step, step.error(fitted.over(step.constants))
