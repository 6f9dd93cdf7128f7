"""The roofline itself (Williams, Waterman, Patterson 2009): two ceilings and where they meet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """The two ceilings of one GPU at one dtype."""

    flops_per_second: float
    dram_bytes_per_second: float

    @property
    def ridge_flops_per_byte(self) -> float:
        """Below it work is on the memory side, above on the compute side."""
        return self.flops_per_second / self.dram_bytes_per_second

    def attainable(self, flops_per_byte: float) -> float:
        """FLOP/s attainable at this intensity."""
        return min(self.flops_per_second, flops_per_byte * self.dram_bytes_per_second)

    def attained(self, *, flops_per_second: float, dram_bytes_per_second: float) -> float:
        """How near the work is to the nearer ceiling: 1 is at the roof.

        A little above 1 is physical (a GPU boosts past its rated clock); it is for a display to clamp.
        """
        return max(
            flops_per_second / self.flops_per_second,
            dram_bytes_per_second / self.dram_bytes_per_second,
        )

    def scaled(self, *, compute: float, memory: float) -> Roof:
        """The same GPU with its clocks at these ratios of their rated values."""
        return Roof(
            flops_per_second=self.flops_per_second * compute,
            dram_bytes_per_second=self.dram_bytes_per_second * memory,
        )
