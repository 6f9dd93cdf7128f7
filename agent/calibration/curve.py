"""The lesson's curve: one matrix of a 7B model's MLP times more and more tokens, and where its ridge is.

At a small batch each product costs what reading the matrix costs, so that bytes/s stay level while FLOP/s
double; past the ridge it is the other way round. Where the two lines meet is the ridge as measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.calibration.device import Format
from agent.calibration.timings import Timing

INPUTS, OUTPUTS = 4096, 11008
BATCHES = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256, 384, 512)

LEVEL_RATIO = 0.8
"""As long as bytes/s are within this part of the highest, the product is under the memory roof."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """[m, k] × [k, n] in one format, as counted on paper: each matrix is moved once."""

    m: int
    k: int
    n: int
    format: Format

    @property
    def flops(self) -> float:
        """A product and a sum are two."""
        return 2.0 * self.m * self.k * self.n

    @property
    def bytes(self) -> float:
        """The two that are read and the one that is written."""
        read = (self.m * self.k + self.k * self.n) * self.format.bytes_per_element
        return float(read + self.m * self.n * self.format.output_bytes)

    @property
    def flops_per_byte(self) -> float:
        """Its arithmetic intensity."""
        return self.flops / self.bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One product as it was measured."""

    product: Product
    timing: Timing

    @property
    def flops_per_second(self) -> float:
        """Achieved."""
        return self.product.flops / self.timing.seconds

    @property
    def bytes_per_second(self) -> float:
        """Achieved: what it must move at least ÷ the time that it took."""
        return self.product.bytes / self.timing.seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Ridge:
    """Where the curve leaves the memory roof."""

    flops_per_byte: float
    batch: float
    """At which this matrix has that intensity."""
    level_bytes_per_second: float
    """The highest that the curve reached."""
    last_level_batch: int
    """The largest batch measured that was still under the memory roof."""


def ridge_of(points: Sequence[Point]) -> Ridge | None:
    """Where the memory line meets the first point past it; `None` when the curve never leaves it.

    Kernels for a few tokens are at times worse than those for one, so the *last* batch that comes near the
    highest bytes/s ends the memory side, not the first that falls below.
    """
    if not points:
        return None
    level = max(point.bytes_per_second for point in points)
    ordered = sorted(points, key=lambda point: point.product.m)
    last = max(at for at, point in enumerate(ordered) if point.bytes_per_second >= LEVEL_RATIO * level)
    if last == len(ordered) - 1:
        return None
    ridge = ordered[last + 1].flops_per_second / level
    batch = batch_at(ridge, ordered[0].product)
    if batch is None:
        return None
    return Ridge(
        flops_per_byte=ridge,
        batch=batch,
        level_bytes_per_second=level,
        last_level_batch=ordered[last].product.m,
    )


def batch_at(flops_per_byte: float, product: Product) -> float | None:
    """The batch that gives this matrix that intensity; `None` when none does, however large."""
    k, n, form = product.k, product.n, product.format
    # intensity = 2·B·k·n ÷ (e·(B·k + k·n) + o·B·n), solved for B
    rest = 2 * k * n - flops_per_byte * (form.bytes_per_element * k + form.output_bytes * n)
    return flops_per_byte * form.bytes_per_element * k * n / rest if rest > 0 else None
