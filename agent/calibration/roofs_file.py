"""The measured roofs as the configuration takes them: a file that is whole, or is not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

from agent.calibration.measure import Calibration
from agent.errors import AgentError
from agent.whole_file import write_whole


def peaks_of(calibration: Calibration) -> dict[str, float]:
    """FLOP/s by compute dtype; fp16 stands for bf16 where only that was measured."""
    peaks: dict[str, float] = {}
    for point in calibration.compute:
        if point.product.format.roof is not None:
            peaks.setdefault(point.product.format.roof, point.flops_per_second)
    return peaks


def render_roofs(gpu_name: str, calibration: Calibration, *, remarks: Iterable[str]) -> str:
    """YAML: a configuration by itself, and ``roofs:`` to be copied into a larger one."""
    lines = [
        *(f"# {remark}" for remark in remarks),
        "roofs:",
        f"  - gpu: {json.dumps(gpu_name)}",
        f"    dram_bytes_per_second: {_number(calibration.dram.bytes_per_second)}",
    ]
    peaks = peaks_of(calibration)
    if peaks:
        lines.append("    flops_per_second:")
        lines += [f"      {dtype}: {_number(peak)}" for dtype, peak in peaks.items()]
    return "\n".join(lines) + "\n"


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
