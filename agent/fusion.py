"""One view of each GPU from all that was read: NVML's words first, a dcgm-exporter's where those end.

Joined on the UUID, on MIG with the number of the GPU instance. A dcgm page carries no time; what it says
of activity speaks for one interval of its collector, and for no second more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.readings import Activity, DcgmGpu, DcgmReading, GpuLost, GpuReading
from agent.units import render_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A dcgm-exporter's page, and how old it is by now."""

    reading: DcgmReading
    seconds_since_read: float
    interval_seconds: float
    """How often it is read."""

    @property
    def age_seconds(self) -> float:
        """Since its values were first seen."""
        return self.reading.age_seconds + self.seconds_since_read

    @property
    def speaks(self) -> bool:
        """Whether its activity may still be taken for the present."""
        return self.age_seconds <= self.reading.collect_seconds + 2 * self.interval_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Fused:
    """One GPU that can be read, and what was measured of its activity, best evidence first."""

    reading: GpuReading
    rungs: tuple[Activity, ...]


def fuse(
    gpus: Sequence[GpuReading | GpuLost], page: Page | None, *, missing: str | None = None
) -> tuple[Fused | GpuLost, ...]:
    """NVML's GPUs, each with what the page adds; `missing` is why there is none, where one is configured."""
    by_part: Mapping[tuple[str, int | None], DcgmGpu] = (
        {} if page is None else {(gpu.uuid, gpu.gpu_instance_id): gpu for gpu in page.reading.gpus}
    )
    fused: list[Fused | GpuLost] = []
    for gpu in gpus:
        if isinstance(gpu, GpuLost):
            fused.append(gpu)
            continue
        part = (gpu.uuid, None) if gpu.mig is None else (gpu.mig.parent_uuid, gpu.mig.gpu_instance_id)
        fused.append(_fuse_one(gpu, by_part.get(part), page, missing))
    return tuple(fused)


def gpus_of(page: Page) -> tuple[GpuReading, ...]:
    """The whole GPUs that a page shows, for a node whose NVML is not there or not to be used."""
    return tuple(
        GpuReading(
            index=gpu.index if gpu.index is not None else place, uuid=gpu.uuid, name=gpu.name or "unknown"
        )
        for place, gpu in enumerate(page.reading.gpus)
        if gpu.gpu_instance_id is None
    )


def _fuse_one(gpu: GpuReading, shown: DcgmGpu | None, page: Page | None, missing: str | None) -> Fused:
    own = (gpu.activity,) if gpu.activity is not None else ()
    if page is None or gpu.partitioned:
        return Fused(reading=_explained(gpu, missing) if missing and not gpu.partitioned else gpu, rungs=own)
    if shown is None:
        problem = "the dcgm-exporter's page does not show this GPU"
        return Fused(reading=_explained(gpu, problem), rungs=own)
    if gpu.mig is None:  # of an instance the page repeats what is its board's
        unsaid: dict[str, Any] = {
            name: round(value) if name.endswith("_bytes") else value
            for name, value in shown.values.items()
            if getattr(gpu, name) is None
        }
        gpu = replace(gpu, **unsaid)
    if shown.activity is None:
        return Fused(reading=_explained(gpu, shown.activity_problem or "no activity"), rungs=own)
    if not page.speaks:
        problem = (
            f"the dcgm-exporter's values are {render_seconds(page.age_seconds)} old, and it collects every "
            f"{render_seconds(page.reading.collect_seconds)}"
        )
        return Fused(reading=_explained(gpu, problem), rungs=own)
    return Fused(reading=replace(gpu, activity_problem=None), rungs=(*own, shown.activity))


def _explained(gpu: GpuReading, problem: str) -> GpuReading:
    """With why there is no activity, unless there is."""
    if gpu.activity is not None:
        return gpu
    return replace(gpu, activity_problem="; ".join(text for text in (gpu.activity_problem, problem) if text))
