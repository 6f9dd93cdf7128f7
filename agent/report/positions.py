"""Where models were on the roofline of their GPUs, hour by hour."""

from __future__ import annotations

import math
import re
from collections import defaultdict

from agent.report.answers import Answers
from agent.report.document import Cell, Roofline
from agent.report.measured import Measured, ServiceKey, hours, labels_of
from agent.report.questions import OF_A_SERVICE
from agent.roofline.dtypes import find_dtype
from agent.roofline.gpus import find_gpu
from agent.roofline.quantization import BF16

CELLS_PER_DECADE = 4
SHORTEST_SECONDS = 60.0
"""Of GPU time in an hour: less says little of where a model is."""
_DEGREE = re.compile(r"[1-9][0-9]{0,3}")
"""Of parallelism."""


def rooflines(measured: Measured) -> tuple[Roofline, ...]:
    """By model and part, the most busy hours first. Parts whose roofs are not known have none."""
    seconds_of = measured.now["model_gpu_bottleneck_seconds"]
    rows = []
    for (model, part), found in _cells(measured.now).items():
        spec = find_gpu(part)
        if spec is None:
            continue
        weights = find_dtype(weight_dtype(measured.now, model, part) or "") or BF16
        dtype = spec.compute_dtype(weights)
        roof = spec.roof(dtype)
        if roof is None:
            continue
        rows.append(
            Roofline(
                model=model,
                part=part,
                dtype=dtype,
                roof_flops_per_second=roof.flops_per_second,
                roof_dram_bytes_per_second=roof.dram_bytes_per_second,
                ridge_flops_per_byte=roof.ridge_flops_per_byte,
                cells=tuple(
                    Cell(
                        intensity_flops_per_byte=_middle(across),
                        flops_per_second=_middle(up),
                        gpu_hours=hours(seconds),
                    )
                    for (across, up), seconds in sorted(found.items())
                ),
                idle_gpu_hours=hours(seconds_of.amount(model=model, part=part, bottleneck="idle")),
            )
        )
    return tuple(sorted(rows, key=lambda row: -sum(cell.gpu_hours for cell in row.cells)))


def _cells(answers: Answers) -> dict[tuple[str, str], dict[tuple[int, int], float]]:
    """GPU seconds by cell, of each hour of each service by itself: no mean of two is where either was."""
    flops = answers["hourly_engine_flops"].steps(*OF_A_SERVICE)
    moved = answers["hourly_engine_dram_bytes"].steps(*OF_A_SERVICE)
    busy = answers["hourly_busy_seconds"].steps(*OF_A_SERVICE)
    found: dict[tuple[str, str], dict[tuple[int, int], float]] = {}
    for key, row in busy.items():
        _, model, _, part, _ = key
        for at, seconds in row.items():
            work, traffic = flops.get(key, {}).get(at, 0.0), moved.get(key, {}).get(at, 0.0)
            if work > 0 and traffic > 0 and seconds >= SHORTEST_SECONDS:
                cells = found.setdefault((model, part), defaultdict(float))
                cells[_cell(work / traffic), _cell(work / seconds)] += seconds
    return found


def _cell(value: float) -> int:
    return math.floor(math.log10(value) * CELLS_PER_DECADE)


def _middle(cell: int) -> float:
    return float(10 ** ((cell + 0.5) / CELLS_PER_DECADE))


def weight_dtype(answers: Answers, model: str, part: str) -> str | None:
    """In which the model was served there for most of the time; `None` when nobody knows."""
    found = answers["engines"].by("weight_dtype", model=model, part=part)
    known = {dtype: samples for (dtype,), samples in found.items() if dtype}
    return max(known, key=known.__getitem__) if known else None


def serving_of(answers: Answers, key: ServiceKey) -> dict[str, str]:
    """How a service was divided and in which dtypes, for most of the time; empty when nobody knows.

    Of a degree that is no number neither is known: the label may be anybody's.
    """
    degrees = ("tensor_parallel", "pipeline_parallel")
    split = (*degrees, "weight_dtype", "kv_dtype")
    found = answers["engines"].by(*split, **labels_of(key))
    most = max(found.items(), key=lambda one: one[1], default=None)
    if most is None:
        return {}
    serving = dict(zip(split, most[0], strict=True))
    if any(serving[degree] and not _DEGREE.fullmatch(serving[degree]) for degree in degrees):
        serving |= dict.fromkeys(degrees, "")
    return serving
