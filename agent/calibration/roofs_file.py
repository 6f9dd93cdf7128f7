"""The measured roofs as the configuration takes them: a file that is whole, or is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from agent.calibration.measure import Calibration
from agent.errors import AgentError
from agent.whole_file import write_whole


@dataclass(frozen=True, slots=True, kw_only=True)
class Peaks:
    """What is known of the part beside the measurement; measured roofs stand in for the rest."""

    dram_bytes_per_second: float | None = None
    flops_per_second: Mapping[str, float] = field(default_factory=dict)
    by_configuration: bool = False
    """Whether the agent learns the bandwidth from the file alone, as it does of a part without a row."""


def reached_by_dtype(calibration: Calibration) -> dict[str, float]:
    """FLOP/s by compute dtype; fp16 stands for bf16 where only that was measured."""
    reached: dict[str, float] = {}
    for point in calibration.compute:
        if point.product.format.roof is not None:
            reached.setdefault(point.product.format.roof, point.flops_per_second)
    return reached


def render_roofs(gpu_name: str, calibration: Calibration, *, peaks: Peaks, remarks: Iterable[str]) -> str:
    """YAML: a configuration by itself, and ``roofs:`` to be copied into a larger one.

    A peak that is known stays as it is: counters are shares of it. What was measured below it is what is
    achievable; what has no known peak, or one that was passed, has the measured one.
    """
    lines = [
        *(f"# {remark}" for remark in remarks),
        "roofs:",
        f"  - gpu: {json.dumps(gpu_name)}",
        *(f"    {line}" for line in _dram(calibration.dram.bytes_per_second, peaks)),
        *(f"    {line}" for line in _flops(reached_by_dtype(calibration), peaks.flops_per_second)),
    ]
    return "\n".join(lines) + "\n"


def _dram(reached: float, peaks: Peaks) -> Iterator[str]:
    peak = peaks.dram_bytes_per_second
    if peak is None or reached > peak:
        yield f"dram_bytes_per_second: {_number(reached)}  # measured: {_why(reached, peak)}"
        return
    if peaks.by_configuration:
        yield f"dram_bytes_per_second: {_number(peak)}  # by its memory clock and bus"
    yield f"achievable_dram_bytes_per_second: {_number(reached)}  # measured: {_ratio(reached, peak)}"


def _flops(reached: Mapping[str, float], known: Mapping[str, float]) -> Iterator[str]:
    below = {dtype: rate for dtype, rate in reached.items() if rate <= known.get(dtype, 0.0)}
    peaks = {dtype: rate for dtype, rate in reached.items() if dtype not in below}
    if peaks:
        yield "flops_per_second:"
        for dtype, rate in peaks.items():
            yield f"  {dtype}: {_number(rate)}  # measured: {_why(rate, known.get(dtype))}"
    for dtype, rate in below.items():
        yield f"# {dtype} reached {_number(rate)} FLOP/s, {_ratio(rate, known[dtype])}: its peak stays"


def _why(reached: float, peak: float | None) -> str:
    return "no other figure is known" if peak is None else f"more than the {_number(peak)} that were known"


def _ratio(reached: float, peak: float) -> str:
    return f"{reached / peak:.2f} of the peak"


def _number(value: float) -> str:
    """Four digits; the sign of the exponent is what makes it a number to YAML 1.1."""
    return f"{value:.3e}"


def check_writable(path: Path) -> None:
    """Before a minute is spent. Raises `AgentError`."""
    if path.is_dir():
        raise AgentError(f"{path}: is a directory; --output takes a file")
    if not path.parent.is_dir():
        raise AgentError(f"{path}: there is no directory {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise AgentError(f"{path}: {path.parent} cannot be written to")


def write_roofs(path: Path, text: str) -> None:
    """Whole, or not at all. Raises `AgentError`."""
    try:
        write_whole(path, text)
    except OSError as error:
        raise AgentError(f"{path}: cannot be written: {error.strerror}") from None
