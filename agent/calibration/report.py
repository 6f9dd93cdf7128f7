"""What was measured, for a terminal, for programs and for a spreadsheet, the datasheet beside it."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.calibration.conditions import Conditions
from agent.calibration.curve import Point
from agent.calibration.measure import Calibration, Stream
from agent.calibration.roofs_file import Peaks
from agent.calibration.timings import Timing
from agent.roofline.gpus import GpuSpec
from agent.units import render_number, render_percent, render_quantity, render_seconds

UNSTEADY_RATIO = 0.05
"""A spread of a roof's repeats above which something else was at work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """A run: what was measured, on what, and how it was meanwhile."""

    at: datetime
    version: str
    library: str
    gpu_name: str
    calibration: Calibration
    gpu_uuid: str | None = None
    driver_version: str | None = None
    spec: GpuSpec | None = None
    """The catalogue's; `None` for a part that it does not know."""
    clock_dram_bytes_per_second: float | None = None
    """By the memory's clock and bus, as the agent takes it for a part that is not in the catalogue."""
    busy: tuple[str, ...] = ()
    """Why it should not have been measured."""
    conditions: Conditions | None = None

    def sheet_flops_per_second(self, dtype: str) -> float | None:
        """The datasheet's peak; 16 bit has one, and TF32 has none in the catalogue."""
        roof = next(p.product.format.roof for p in self.calibration.compute if p.product.format.name == dtype)
        return self.spec.flops_per_second.get(roof) if self.spec is not None and roof is not None else None

    @property
    def sheet_dram_bytes_per_second(self) -> float | None:
        """The datasheet's."""
        return self.spec.dram_bytes_per_second if self.spec is not None else None


def peaks_of(report: Report) -> Peaks:
    """The catalogue's, else the bandwidth by the memory's clock."""
    if report.spec is None:
        return Peaks(dram_bytes_per_second=report.clock_dram_bytes_per_second, by_configuration=True)
    return Peaks(
        dram_bytes_per_second=report.spec.dram_bytes_per_second,
        flops_per_second=report.spec.flops_per_second,
    )


def warnings(report: Report) -> Iterator[str]:
    """What makes the numbers doubtful, or less than the part could do."""
    if report.busy:
        yield f"the GPU was busy ({'; '.join(report.busy)}): the roofs may be too low"
    conditions = report.conditions
    if conditions is not None and conditions.by_power_or_heat:
        told = ", ".join(
            f"{reason} in {render_percent(share)} of {conditions.readings} readings"
            for reason, share in conditions.by_power_or_heat
        )
        yield f"power or heat held the clocks down ({told}): the roofs are of this machine as it is now"
    if conditions is not None and "application_clocks" in dict(conditions.limited):
        yield "application clocks are set: the roofs are of this setting (nvidia-smi -rac undoes it)"
    calibration = report.calibration
    roofs = [("DRAM", calibration.dram.timing)]
    roofs += [(point.product.format.name, point.timing) for point in calibration.compute]
    for name, timing in roofs:
        if timing.spread_ratio > UNSTEADY_RATIO:
            spread = render_percent(timing.spread_ratio)
            yield f"{name}: repeats differ by {spread}; was something else at work?"


def remarks(report: Report) -> tuple[str, ...]:
    """What stands over the roofs in their file."""
    told = [
        f"Measured by roofline-agent {report.version} calibrate on {report.at:%Y-%m-%d %H:%M} UTC with "
        f"{report.library}.",
        *_machine(report),
        *(f"Warning: {warning}" for warning in warnings(report)),
        "What these change, and when not to use them: docs/calibration.md",
    ]
    return tuple(told)


# --- for a terminal -----------------------------------------------------------------------------------


def render_text(report: Report) -> str:
    """Tables of at most 80 columns."""
    return "\n".join([*_head(report), "", *_roofs(report), "", *_curve(report)]) + "\n"


def _head(report: Report) -> Iterator[str]:
    yield f"{report.gpu_name}: what it reaches, and what its datasheet says"
    yield from _machine(report)
    yield report.library
    if report.spec is None:
        yield "The catalogue does not know this part: there is nothing to compare with."


def _machine(report: Report) -> Iterator[str]:
    if report.driver_version is not None:
        yield f"{report.gpu_name}, {report.gpu_uuid}, driver {report.driver_version}"
    conditions = report.conditions
    if conditions is None:
        return
    clocks = []
    if conditions.sm_clock_hertz is not None:
        clocks.append(f"SM clock {_clock(conditions.sm_clock_hertz)}")
        if conditions.sm_clock_lowest_hertz is not None and conditions.sm_clock_max_hertz is not None:
            lowest, most = _clock(conditions.sm_clock_lowest_hertz), _clock(conditions.sm_clock_max_hertz)
            clocks[-1] += f" (lowest {lowest}, maximum {most})"
    if conditions.memory_clock_hertz is not None:
        clocks.append(f"memory clock {_clock(conditions.memory_clock_hertz)}")
    if clocks:
        yield ", ".join(clocks)
    told = []
    if conditions.temperature_highest_celsius is not None:
        told.append(f"up to {conditions.temperature_highest_celsius:g} °C")
    if conditions.power_highest_watts is not None and conditions.power_limit_watts is not None:
        told.append(f"up to {conditions.power_highest_watts:.0f} of {conditions.power_limit_watts:.0f} W")
    if told:
        yield ", ".join(told)


def _clock(hertz: float) -> str:
    return f"{hertz / 1e6:.0f} MHz"


ROOF_COLUMNS = "{:<6}{:>14}{:>15}{:>8}{:>9}{:>9}{:>9}"


def _roofs(report: Report) -> Iterator[str]:
    yield ROOF_COLUMNS.format("roof", "measured", "datasheet", "ratio", "repeats", "outliers", "spread")
    dram = report.calibration.dram
    yield _roof("DRAM", "B/s", dram.bytes_per_second, report.sheet_dram_bytes_per_second, dram.timing)
    for point in report.calibration.compute:
        name = point.product.format.name
        sheet = report.sheet_flops_per_second(name)
        yield _roof(name, "FLOP/s", point.flops_per_second, sheet, point.timing)
    yield f"DRAM: {dram.kind} of {render_quantity(dram.moved_bytes, 'B')}"
    for point in report.calibration.compute:
        product = point.product
        yield f"{product.format.name}: {product.m} × {product.k} × {product.n}, {product.format.says}"
    for name, reason in report.calibration.missing:
        yield f"{name}: not measured: {reason}"


def _roof(name: str, unit: str, measured: float, sheet: float | None, timing: Timing) -> str:
    return ROOF_COLUMNS.format(
        name,
        render_quantity(measured, unit),
        render_quantity(sheet, unit) if sheet is not None else "–",
        render_number(measured / sheet) if sheet is not None else "–",
        timing.samples,
        timing.outliers,
        render_percent(timing.spread_ratio),
    )


CURVE_COLUMNS = "{:>6}{:>11}{:>14}{:>15}{:>12}"


def _curve(report: Report) -> Iterator[str]:
    points, ridge = report.calibration.curve, report.calibration.ridge
    if not points:
        return
    product = points[0].product
    yield f"A matrix of {product.k} × {product.n} in {product.format.name} times so many tokens"
    yield CURVE_COLUMNS.format("batch", "time", "bytes/s", "FLOP/s", "FLOP/byte")
    for point in points:
        yield CURVE_COLUMNS.format(
            point.product.m,
            render_seconds(point.timing.seconds),
            render_quantity(point.bytes_per_second, "B/s"),
            render_quantity(point.flops_per_second, "FLOP/s"),
            render_number(point.product.flops_per_byte),
        )
    if ridge is None:
        yield f"It does not leave the memory roof up to batch {points[-1].product.m}."
    else:
        yield f"It leaves the memory roof at batch {ridge.batch:.0f}."
        yield f"The ridge of this product is at {render_number(ridge.flops_per_byte)} FLOP/byte."
    roof = report.calibration.roof(product.format.name)
    if roof is not None:
        measured = roof.flops_per_second / report.calibration.dram.bytes_per_second
        sheet = _sheet_ridge(report, product.format.name)
        beside = f", the datasheet's at {render_number(sheet)}" if sheet is not None else ""
        yield f"The ridge of the measured roofs is at {render_number(measured)}{beside}."


def _sheet_ridge(report: Report, dtype: str) -> float | None:
    flops, moved = report.sheet_flops_per_second(dtype), report.sheet_dram_bytes_per_second
    return flops / moved if flops is not None and moved is not None else None


# --- for programs -------------------------------------------------------------------------------------


def render_json(report: Report) -> str:
    """One document with everything."""
    calibration, ridge, conditions = report.calibration, report.calibration.ridge, report.conditions
    document: dict[str, Any] = {
        "at": report.at.isoformat(timespec="seconds"),
        "version": report.version,
        "library": report.library,
        "gpu": {"name": report.gpu_name, "uuid": report.gpu_uuid, "driver_version": report.driver_version},
        "warnings": list(warnings(report)),
        "conditions": None
        if conditions is None
        else {
            "readings": conditions.readings,
            "sm_clock_hertz": conditions.sm_clock_hertz,
            "sm_clock_lowest_hertz": conditions.sm_clock_lowest_hertz,
            "sm_clock_max_hertz": conditions.sm_clock_max_hertz,
            "memory_clock_hertz": conditions.memory_clock_hertz,
            "temperature_highest_celsius": conditions.temperature_highest_celsius,
            "power_highest_watts": conditions.power_highest_watts,
            "power_limit_watts": conditions.power_limit_watts,
            "limited_ratio": dict(conditions.limited),
        },
        "dram": {
            **_stream(calibration.dram),
            **_beside(calibration.dram.bytes_per_second, report.sheet_dram_bytes_per_second),
        },
        "compute": {
            point.product.format.name: {
                **_point(point),
                **_beside(point.flops_per_second, report.sheet_flops_per_second(point.product.format.name)),
            }
            for point in calibration.compute
        },
        "missing": dict(calibration.missing),
        "curve": [_point(point) for point in calibration.curve],
        "ridge": None
        if ridge is None
        else {
            "flops_per_byte": ridge.flops_per_byte,
            "batch": ridge.batch,
            "last_level_batch": ridge.last_level_batch,
        },
        "tried": [*map(_stream, calibration.streams), *map(_point, calibration.products)],
    }
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _stream(stream: Stream) -> dict[str, Any]:
    return {
        "kind": stream.kind,
        "bytes": stream.moved_bytes,
        "bytes_per_second": stream.bytes_per_second,
        **_timing(stream.timing),
    }


def _point(point: Point) -> dict[str, Any]:
    product = point.product
    return {
        "kind": "product",
        "dtype": product.format.name,
        "m": product.m,
        "k": product.k,
        "n": product.n,
        "bytes": product.bytes,
        "flops": product.flops,
        "flops_per_byte": product.flops_per_byte,
        "bytes_per_second": point.bytes_per_second,
        "flops_per_second": point.flops_per_second,
        **_timing(point.timing),
    }


def _timing(timing: Timing) -> dict[str, Any]:
    return {
        "seconds": timing.seconds,
        "samples": timing.samples,
        "outliers": timing.outliers,
        "spread_ratio": timing.spread_ratio,
    }


def _beside(measured: float, sheet: float | None) -> dict[str, float | None]:
    return {
        "datasheet": sheet,
        "of_datasheet_ratio": measured / sheet if sheet is not None else None,
    }


COLUMNS = (
    *("role", "kind", "dtype", "m", "k", "n", "bytes", "flops", "flops_per_byte", "bytes_per_second"),
    *(
        "flops_per_second",
        "seconds",
        "samples",
        "outliers",
        "spread_ratio",
        "datasheet",
        "of_datasheet_ratio",
    ),
)


def render_csv(report: Report) -> str:
    """A line for each measurement; `role` is ``roof``, ``curve``, or ``tried``."""
    calibration = report.calibration
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    dram = calibration.dram
    beside = _beside(dram.bytes_per_second, report.sheet_dram_bytes_per_second)
    writer.writerow({"role": "roof", **_stream(dram), **beside})
    for point in calibration.compute:
        sheet = report.sheet_flops_per_second(point.product.format.name)
        writer.writerow({"role": "roof", **_point(point), **_beside(point.flops_per_second, sheet)})
    writer.writerows({"role": "curve", **_point(point)} for point in calibration.curve)
    writer.writerows({"role": "tried", **_stream(stream)} for stream in calibration.streams)
    writer.writerows({"role": "tried", **_point(point)} for point in calibration.products)
    return text.getvalue()
