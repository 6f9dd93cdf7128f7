"""THE TABLE: every metric once – its name, kind, labels, help, origin, and how to read it.

From these rows come `/metrics`, the documentation, and the check that each name used elsewhere exists.
A metric from facts that are known already is one row more.

A reader gives ``(label values, value)`` pairs. `None` as a value means "cannot say": that series is left
out. Names are without the prefix ``roofline_``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar, cast

from agent import __version__
from agent.accounts import GpuTotals, WorkTotals
from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.readings import (
    FABRIC_HEALTH,
    FABRIC_STATES,
    RECOVERY_ACTIONS,
    Absent,
    Histogram,
    PodContainer,
    Read,
)
from agent.roofline.bottleneck import BOTTLENECKS
from agent.roofline.kv_cache import LIMITERS
from agent.roofline.sharing import gpu_shares
from agent.traffic import ROLES

PREFIX = "roofline_"

Kind = Literal["gauge", "counter", "info", "histogram"]
Value = float | Histogram | None
Series = tuple[tuple[str, ...], Value]
Reader = Callable[[Assessment], Iterable[Series]]
_Name = TypeVar("_Name", bound=str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One family."""

    name: str
    kind: Kind
    help: str
    labels: tuple[str, ...] = ()
    origin: str
    """What it is made from, for the documentation."""
    read: Reader

    @property
    def full_name(self) -> str:
        """As it stands on the page in text format."""
        return PREFIX + self.name

    @property
    def unit(self) -> str:
        """The base unit that the name ends with, as people write it; "" for a plain count."""
        words = self.name.removesuffix("_total").removesuffix("_info").removesuffix("_to_full")
        for unit, suffix in (
            ("bytes/s", "bytes_per_second"),
            ("FLOP/s", "flops_per_second"),
            ("FLOP/byte", "flops_per_byte"),
            ("FLOP", "flops"),
            ("s", "seconds"),
            ("bytes", "bytes"),
            ("W", "watts"),
            ("J", "joules"),
            ("Hz", "hertz"),
            ("°C", "celsius"),
            ("ratio", "ratio"),
            ("USD", "usd"),
            ("tokens", "tokens"),
        ):
            if words.endswith(suffix):
                return unit
        return ""


# --- readers: how a row looks at an assessment -----------------------------------------------------

GPU = ("gpu", "uuid")
WORKLOAD = ("workload_namespace", "workload_pod", "workload_container")
"""Not `namespace`, `pod`, `container`: those are of our own pod, where an operator attaches them."""
ENGINE = ("engine", "server", "rank", "model")


def _gpu_labels(gpu: GpuAssessment) -> tuple[str, ...]:
    return (str(gpu.index), gpu.uuid)


def _engine_labels(engine: EngineAssessment) -> tuple[str, ...]:
    return (engine.engine, engine.key.server, engine.key.rank, engine.model)


def _each_gpu(read: Callable[[GpuAssessment], float | None]) -> Reader:
    """One series a GPU that can be read."""
    return lambda a: ((_gpu_labels(gpu), read(gpu)) for gpu in a.gpus if gpu.up)


def _at_work(assessment: Assessment) -> Iterator[GpuAssessment]:
    """GPUs that work is done on: in place of one in MIG mode its instances."""
    return (gpu for gpu in assessment.gpus if gpu.up and not gpu.partitioned)


def _each_gpu_by(read: Callable[[GpuAssessment], Iterable[tuple[tuple[str, ...], float | None]]]) -> Reader:
    """Several series a GPU, told apart by further labels."""

    def series(assessment: Assessment) -> Iterator[Series]:
        for gpu in assessment.gpus:
            if gpu.up:
                labels = _gpu_labels(gpu)
                for further, value in read(gpu):
                    yield labels + further, value

    return series


def _each_engine(read: Callable[[EngineAssessment], Value]) -> Reader:
    """One series an engine that answers."""
    return lambda a: ((_engine_labels(engine), read(engine)) for engine in a.engines if engine.up)


def _each_engine_by(
    read: Callable[[EngineAssessment], Iterable[tuple[tuple[str, ...], float | None]]],
) -> Reader:
    """Several series an engine."""

    def series(assessment: Assessment) -> Iterator[Series]:
        for engine in assessment.engines:
            if engine.up:
                labels = _engine_labels(engine)
                for further, value in read(engine):
                    yield labels + further, value

    return series


def _by_name(values: Mapping[_Name, float]) -> Iterator[tuple[tuple[str, ...], float]]:
    return (((name,), value) for name, value in values.items())


def _chosen(names: Iterable[str], read: Callable[[GpuAssessment], str | None]) -> Reader:
    """1 for the one that holds and 0 for the others, on GPUs that tell."""
    names = tuple(names)
    return _each_gpu_by(lambda g: _one_hot(names, chosen) if (chosen := read(g)) is not None else ())


def _one_hot(names: Iterable[str], chosen: str) -> Iterator[tuple[tuple[str, ...], float]]:
    return (((name,), float(name == chosen)) for name in names)


def _of_gpu_reading(name: str) -> Reader:
    return _each_gpu(lambda g: getattr(g.reading, name) if g.reading is not None else None)


def _of_engine_reading(name: str) -> Reader:
    return _each_engine(lambda e: getattr(e.reading, name) if e.reading is not None else None)


def _of_kv_cache(name: str) -> Reader:
    return _each_engine(lambda e: getattr(e.kv, name) if e.kv is not None else None)


def _active_seconds(quantity: str) -> Reader:
    return _each_gpu_by(
        lambda g: (
            ((evidence,), seconds)
            for (name, evidence), seconds in g.totals.active_seconds.items()
            if name == quantity
        )
    )


def _counted(name: str) -> Reader:
    """One of our own counters of the engine's; absent where the engine has none."""
    return _each_engine(lambda e: e.totals.counters.get(name))


def _histogram(name: str) -> Reader:
    return _each_engine(lambda e: e.totals.histograms.get(name))


def _time(totals: Callable[[GpuTotals], float | None]) -> Reader:
    """Sums of time and money: ours, and kept while a GPU is lost."""
    return lambda a: (
        (_gpu_labels(gpu), totals(gpu.totals)) for gpu in a.gpus if gpu.uuid and not gpu.partitioned
    )


def _money(totals: Callable[[GpuTotals], float]) -> Reader:
    """Dollars, where there is a price; of a GPU in MIG mode what its instances leave."""
    return lambda a: (
        (_gpu_labels(gpu), totals(gpu.totals) if gpu.totals.cost_usd > 0 else None)
        for gpu in a.gpus
        if gpu.uuid
    )


def _work(
    read: Callable[[WorkTotals], Iterable[tuple[tuple[str, ...], float]]],
) -> Reader:
    return _each_engine_by(lambda e: read(e.work_totals) if e.work_totals is not None else ())


def _peaks(gpu: GpuAssessment) -> Iterator[tuple[tuple[str, ...], float]]:
    if gpu.spec is not None and not gpu.partitioned:
        yield from _by_name(gpu.spec.flops_per_second)


def _bandwidth(gpu: GpuAssessment) -> float | None:
    return gpu.spec.dram_bytes_per_second if gpu.spec is not None and not gpu.partitioned else None


def _roofs(gpu: GpuAssessment) -> Iterator[tuple[tuple[str, ...], float]]:
    for (dtype,), flops in _peaks(gpu):
        yield (dtype,), flops * gpu.compute_clock_ratio


def _ridges(gpu: GpuAssessment) -> Iterator[tuple[tuple[str, ...], float]]:
    for (dtype,), _ in _peaks(gpu):
        roof = gpu.peak_roof(dtype)
        if roof is not None:
            yield (dtype,), roof.ridge_flops_per_byte


def _active(name: str) -> Callable[[GpuAssessment], Iterator[tuple[tuple[str, ...], float | None]]]:
    def read(gpu: GpuAssessment) -> Iterator[tuple[tuple[str, ...], float | None]]:
        if gpu.window is not None and name in gpu.window.evidence_by_ratio:
            yield (gpu.window.evidence_by_ratio[name],), getattr(gpu.window, name)

    return read


def _intensity(gpu: GpuAssessment) -> Iterator[tuple[tuple[str, ...], float]]:
    if gpu.intensity is not None:
        yield (gpu.intensity.evidence,), gpu.intensity.value


def _phase_intensity(engine: EngineAssessment) -> Iterator[tuple[tuple[str, ...], float | None]]:
    if engine.work is not None:
        yield ("prefill",), engine.work.prefill.intensity_flops_per_byte
        yield ("decode",), engine.work.decode.intensity_flops_per_byte


def _requests(engine: EngineAssessment) -> Iterator[tuple[tuple[str, ...], float | None]]:
    for outcome in ("stop", "length", "abort", "error", "finished"):
        yield (outcome,), engine.totals.counters.get(f"requests_{outcome}")


def _gpu_info(assessment: Assessment) -> Iterator[Series]:
    """The same labels whether the GPU can be read now or not."""
    for gpu in assessment.gpus:
        if gpu.uuid:
            reading = gpu.last_reading
            capability = reading.compute_capability if reading is not None else None
            yield (
                (
                    *_gpu_labels(gpu),
                    gpu.name,
                    gpu.spec.name if gpu.spec is not None else "unknown",
                    gpu.spec.origin if gpu.spec is not None else "none",
                    (reading.pci_bus_id if reading is not None else None) or "",
                    ".".join(map(str, capability)) if capability is not None else "",
                    assessment.driver_version or "",
                    reading.mig.parent_uuid if reading is not None and reading.mig else "",
                    reading.memory_origin if reading is not None else "",
                ),
                1.0,
            )


XIDS = (31, 48, 63, 64, 74, 79, 94, 95, 119)
"""The errors that mean most (NVIDIA, XID catalogue), counted from 0, so that the first one is an increase."""


def _xid_errors(assessment: Assessment) -> Iterator[Series]:
    """Of lost GPUs too: an XID is how one learns why."""
    for gpu in assessment.gpus:
        if gpu.uuid and gpu.health.xid_errors is not None:
            counts = {**dict.fromkeys(XIDS, 0), **gpu.health.xid_errors}
            for xid, count in counts.items():
                yield (*_gpu_labels(gpu), str(xid)), float(count)


def _of_health(*pairs: tuple[str, str]) -> Reader:
    """By a word of the label, a field of the GPU's health."""

    def read(gpu: GpuAssessment) -> Iterator[tuple[tuple[str, ...], float | None]]:
        for word, name in pairs:
            value = getattr(gpu.health, name)
            yield (word,), None if value is None else float(value)

    return _each_gpu_by(read)


def _engine_model_info(assessment: Assessment) -> Iterator[Series]:
    for engine in assessment.engines:
        if engine.up:
            served = engine.served
            yield (
                (
                    *_engine_labels(engine),
                    engine.served_origin,
                    served.largest_dtype.name if served is not None else "",
                    served.kv_dtype.name if served is not None else "",
                    str(served.tensor_parallel) if served is not None else "",
                    str(served.pipeline_parallel) if served is not None else "",
                ),
                1.0,
            )


def _replica_gpus(engine: EngineAssessment) -> Iterator[tuple[tuple[str, ...], float | None]]:
    local = len(engine.gpu_uuids)
    yield ("local",), local
    if engine.served is not None:
        yield ("remote",), max(engine.served.ranks - local, 0)


def _engine_gpus(assessment: Assessment) -> Iterator[Series]:
    indexes = {gpu.uuid: str(gpu.index) for gpu in assessment.gpus if gpu.up}
    for engine in assessment.engines:
        names = (engine.engine, engine.key.server, engine.key.rank)
        for uuid in engine.gpu_uuids:
            if uuid in indexes:
                yield (*names, indexes[uuid], uuid, engine.placed_by), 1.0


def _gpu_shares(assessment: Assessment) -> Iterator[Series]:
    """By which money and energy are divided; what nobody knows of an engine is not guessed."""
    for gpu in _at_work(assessment):
        residents = [engine for engine in assessment.engines if engine.up and gpu.uuid in engine.gpu_uuids]
        shares = gpu_shares([engine.busy_by_phase for engine in residents])
        for engine, share in zip(residents, shares, strict=True):
            labels = (engine.engine, engine.key.server, engine.key.rank, *_gpu_labels(gpu))
            yield labels, sum(share.values()) if engine.attribution is not None else None


def _engine_info(assessment: Assessment) -> Iterator[Series]:
    for engine in assessment.engines:
        if engine.up:
            version = engine.reading.version if engine.reading is not None else None
            pod = engine.container or PodContainer(namespace="", pod="")
            yield (*_engine_labels(engine), version or "", pod.namespace, pod.pod, pod.container), 1.0


def _allocations(assessment: Assessment) -> Iterator[Series]:
    """Once a container, however many of a shared GPU's replicas it has."""
    indexes = {gpu.uuid: str(gpu.index) for gpu in assessment.gpus}
    for one in assessment.allocations:
        pod = one.container
        labels = (indexes.get(one.uuid, ""), one.uuid, pod.namespace, pod.pod, pod.container)
        yield (*labels, one.attribution), 1.0


def _source_age(assessment: Assessment) -> Iterator[Series]:
    for source in assessment.sources:
        success = source.last_success
        yield (source.name,), assessment.at_seconds - success.at_seconds if success is not None else None


def _source_failures(assessment: Assessment) -> Iterator[Series]:
    for source in assessment.sources:
        for reason, count in source.failures.items():
            yield (source.name, reason), count


# --- the rows ------------------------------------------------------------------------------------

GPU_METRICS: tuple[Metric, ...] = (
    Metric(
        name="gpu_up",
        kind="gauge",
        help="1 if the GPU can be read; one that never could be has no uuid.",
        labels=GPU,
        origin="NVML",
        read=lambda a: ((_gpu_labels(gpu), float(gpu.up)) for gpu in a.gpus),
    ),
    Metric(
        name="gpu_info",
        kind="info",
        help="What the GPU is, which row of the catalogue its roofs come from, and that row's source. A MIG "
        "instance has parent_uuid; memory_origin system is memory shared with the CPU.",
        labels=(
            *GPU,
            "name",
            "part",
            "roof_origin",
            "pci_bus_id",
            "compute_capability",
            "driver_version",
            "parent_uuid",
            "memory_origin",
        ),
        origin="NVML, catalogue",
        read=_gpu_info,
    ),
    Metric(
        name="gpu_peak_flops_per_second",
        kind="gauge",
        help="Dense peak of the part at its rated clock, by compute dtype.",
        labels=(*GPU, "dtype"),
        origin="datasheet",
        read=_each_gpu_by(_peaks),
    ),
    Metric(
        name="gpu_peak_dram_bytes_per_second",
        kind="gauge",
        help="Peak DRAM bandwidth of the part.",
        labels=GPU,
        origin="datasheet, or 2 x memory clock x bus width",
        read=_each_gpu(_bandwidth),
    ),
    Metric(
        name="gpu_ridge_flops_per_byte",
        kind="gauge",
        help="Arithmetic intensity at which memory and compute bound alike; decode is far below it.",
        labels=(*GPU, "dtype"),
        origin="peak FLOP/s / peak bytes/s",
        read=_each_gpu_by(_ridges),
    ),
    Metric(
        name="gpu_roof_flops_per_second",
        kind="gauge",
        help="Compute roof as the SMs are now clocked, by compute dtype; lower than peak when throttled.",
        labels=(*GPU, "dtype"),
        origin="peak x SM clock / rated clock",
        read=_each_gpu_by(_roofs),
    ),
    Metric(
        name="gpu_roof_dram_bytes_per_second",
        kind="gauge",
        help="Memory roof as the memory is now clocked.",
        labels=GPU,
        origin="peak x memory clock / maximum",
        read=_each_gpu(
            lambda g: peak * g.memory_clock_ratio if (peak := _bandwidth(g)) is not None else None
        ),
    ),
    Metric(
        name="gpu_dram_active_ratio",
        kind="gauge",
        help="DRAM bandwidth used / theoretical maximum, measured, mean over the window.",
        labels=(*GPU, "evidence"),
        origin="GPM, else dcgm",
        read=_each_gpu_by(_active("dram_ratio")),
    ),
    Metric(
        name="gpu_tensor_active_ratio",
        kind="gauge",
        help="Share of cycles in which a tensor pipe was active, measured, mean over the window.",
        labels=(*GPU, "evidence"),
        origin="GPM, else dcgm",
        read=_each_gpu_by(_active("tensor_ratio")),
    ),
    Metric(
        name="gpu_sm_active_ratio",
        kind="gauge",
        help="SMs with work resident / all SMs, measured, mean over the window.",
        labels=(*GPU, "evidence"),
        origin="GPM, else dcgm",
        read=_each_gpu_by(_active("sm_ratio")),
    ),
    *(
        Metric(
            name=f"gpu_{quantity}_seconds_total",
            kind="counter",
            help=f"Time weighted with the measured ratio of {quantity.replace('_', ' ')}; divide by "
            f'gpu_evidence_seconds_total{{quantity="{quantity}"}} of the same evidence.',
            labels=(*GPU, "evidence"),
            origin="GPM, else dcgm",
            read=_active_seconds(quantity),
        )
        for quantity in ("dram_active", "tensor_active", "sm_active")
    ),
    Metric(
        name="gpu_evidence_seconds_total",
        kind="counter",
        help="Time for which a quantity had that evidence; over all evidence, none included, it is the "
        "observed time.",
        labels=(*GPU, "quantity", "evidence"),
        origin="sampler",
        read=_each_gpu_by(lambda g: iter(g.totals.evidence_seconds.items()) if not g.partitioned else ()),
    ),
    Metric(
        name="gpu_evidence_contradicted_seconds_total",
        kind="counter",
        help="Time in which the profiling counters read 0 while kernels ran: it counts as without evidence.",
        labels=GPU,
        origin="GPM or dcgm against NVML",
        read=_time(lambda t: t.contradicted_seconds),
    ),
    Metric(
        name="gpu_observed_seconds_total",
        kind="counter",
        help="Time in which the GPU was watched: the sum of gpu_bottleneck_seconds_total.",
        labels=GPU,
        origin="sampler",
        read=_time(lambda t: t.observed_seconds),
    ),
    Metric(
        name="gpu_unobserved_seconds_total",
        kind="counter",
        help="Gaps: the agent was suspended, or the GPU or its driver could not be read.",
        labels=GPU,
        origin="sampler",
        read=_time(lambda t: t.unobserved_seconds),
    ),
    Metric(
        name="gpu_dram_bytes_total",
        kind="counter",
        help="DRAM traffic, each second by the best evidence it had: sum over evidence for the total.",
        labels=(*GPU, "evidence"),
        origin="GPM, else dcgm, else engine counters x architecture",
        read=_each_gpu_by(lambda g: _by_name(g.totals.dram_bytes) if not g.partitioned else ()),
    ),
    Metric(
        name="gpu_flops_total",
        kind="counter",
        help="FLOPs, each second by the best evidence it had. gpm and dcgm are estimates, upper bounds, "
        "for GPUs without a known engine: tensor-active x peak at the SM clock.",
        labels=(*GPU, "evidence"),
        origin="engine counters x architecture, else GPM or dcgm",
        read=_each_gpu_by(lambda g: _by_name(g.totals.flops) if not g.partitioned else ()),
    ),
    Metric(
        name="gpu_arithmetic_intensity_flops_per_byte",
        kind="gauge",
        help="FLOPs / DRAM bytes over the window; mixed where the two have different evidence.",
        labels=(*GPU, "evidence"),
        origin="both sums over the window",
        read=_each_gpu_by(_intensity),
    ),
    Metric(
        name="gpu_roof_attained_ratio",
        kind="gauge",
        help="How near the GPU is to the nearer of its two current roofs, mean over the window.",
        labels=GPU,
        origin="max(FLOP/s / roof, bytes/s / roof)",
        read=_each_gpu(lambda g: g.attained_ratio),
    ),
    Metric(
        name="gpu_bottleneck",
        kind="gauge",
        help="1 for what bounds the GPU now, 0 for the others.",
        labels=(*GPU, "bottleneck"),
        origin="step attribution, confirmed or vetoed by counters",
        read=lambda a: (
            (_gpu_labels(gpu) + name, value)
            for gpu in _at_work(a)
            for name, value in _one_hot(BOTTLENECKS, gpu.verdict.bottleneck)
        ),
    ),
    Metric(
        name="gpu_bottleneck_seconds_total",
        kind="counter",
        help="Time by what bounded the GPU; the parts sum to gpu_observed_seconds_total.",
        labels=(*GPU, "bottleneck"),
        origin="sampler",
        read=lambda a: (
            ((*_gpu_labels(gpu), name), gpu.totals.bottleneck_seconds.get(name, 0.0))
            for gpu in a.gpus
            if gpu.uuid and not gpu.partitioned
            for name in BOTTLENECKS
        ),
    ),
    Metric(
        name="gpu_bottleneck_confidence_ratio",
        kind="gauge",
        help="Share of the first candidate less that of the second.",
        labels=GPU,
        origin="step attribution",
        read=lambda a: ((_gpu_labels(gpu), gpu.verdict.confidence_ratio) for gpu in _at_work(a)),
    ),
    *(
        Metric(
            name=f"gpu_memory_{part}_bytes",
            kind="gauge",
            help=f"GPU memory: {meaning}.",
            labels=GPU,
            origin="NVML",
            read=_of_gpu_reading(f"memory_{part}_bytes"),
        )
        for part, meaning in (
            ("total", "all of it"),
            ("used", "allocated by processes"),
            ("free", "not allocated"),
            ("reserved", "kept by the driver and firmware"),
        )
    ),
    *(
        Metric(
            name=name,
            kind=cast(Kind, kind),
            help=text,
            labels=GPU,
            origin="NVML",
            read=_of_gpu_reading(field),
        )
        for name, kind, field, text in (
            (
                "gpu_power_watts",
                "gauge",
                "power_watts",
                "Power drawn: the mean of a second on Ampere (but for GA100) and newer, else of the instant.",
            ),
            ("gpu_power_instant_watts", "gauge", "power_instant_watts", "Power drawn at this instant."),
            ("gpu_power_limit_watts", "gauge", "power_limit_watts", "Power limit in force."),
            ("gpu_energy_joules_total", "counter", "energy_joules", "Energy since the driver was loaded."),
            ("gpu_sm_clock_hertz", "gauge", "sm_clock_hertz", "SM clock."),
            ("gpu_memory_clock_hertz", "gauge", "memory_clock_hertz", "Memory clock."),
            ("gpu_temperature_celsius", "gauge", "temperature_celsius", "Temperature of the GPU."),
            (
                "gpu_memory_temperature_celsius",
                "gauge",
                "memory_temperature_celsius",
                "Temperature of the memory, where it has a sensor.",
            ),
            (
                "gpu_kernel_time_ratio",
                "gauge",
                "kernel_time_ratio",
                "Share of time in which some kernel ran: what NVML calls utilization. One small kernel is "
                "enough for 1; it says nothing of load.",
            ),
        )
    ),
    Metric(
        name="gpu_clock_limited_seconds_total",
        kind="counter",
        help="Time in which clocks were held back, by reason: by the driver's own count where it has one, "
        "else by looking each second. Reasons overlap.",
        labels=(*GPU, "reason"),
        origin="NVML",
        read=_each_gpu_by(lambda g: _by_name(g.totals.clock_limited_seconds)),
    ),
    *(
        Metric(
            name=f"gpu_{link}_{direction}_bytes_total",
            kind="counter",
            help=f"Bytes {verb} over {words}.",
            labels=GPU,
            origin="NVML",
            read=_each_gpu(
                lambda g, name=f"{link}_{direction}_bytes": g.totals.link_bytes.get(name)  # type: ignore[misc]
            ),
        )
        for link, words in (("pcie", "PCIe"), ("nvlink", "all NVLinks"))
        for direction, verb in (("receive", "received"), ("transmit", "sent"))
    ),
    Metric(
        name="gpu_ecc_errors_total",
        kind="counter",
        help="Memory errors since the driver was loaded; an uncorrected one has cost somebody their work.",
        labels=(*GPU, "severity"),
        origin="NVML",
        read=_of_health(("corrected", "ecc_corrected_errors"), ("uncorrected", "ecc_uncorrected_errors")),
    ),
    Metric(
        name="gpu_remapped_rows_total",
        kind="counter",
        help="Rows of memory replaced for good, by the errors that led to it, over the GPU's life.",
        labels=(*GPU, "severity"),
        origin="NVML",
        read=_of_health(
            ("corrected", "remapped_rows_corrected"), ("uncorrected", "remapped_rows_uncorrected")
        ),
    ),
    Metric(
        name="gpu_row_remap_problem",
        kind="gauge",
        help="1 if a row waits for a reset of the GPU to be replaced (pending), or could not be (failed).",
        labels=(*GPU, "problem"),
        origin="NVML",
        read=_of_health(("pending", "row_remap_pending"), ("failed", "row_remap_failed")),
    ),
    Metric(
        name="gpu_xid_errors_total",
        kind="counter",
        help="Errors reported by the driver since the agent began to listen, by XID; also of a lost GPU.",
        labels=(*GPU, "xid"),
        origin="NVML events",
        read=_xid_errors,
    ),
    Metric(
        name="gpu_last_xid_timestamp_seconds",
        kind="gauge",
        help="Unix time of the last of them.",
        labels=GPU,
        origin="NVML events",
        read=lambda a: ((_gpu_labels(gpu), gpu.health.last_xid_unix_seconds) for gpu in a.gpus if gpu.uuid),
    ),
    Metric(
        name="gpu_recovery_action",
        kind="gauge",
        help="1 for what the driver asks to be done to the GPU, 0 for the others.",
        labels=(*GPU, "action"),
        origin="NVML",
        read=_chosen(RECOVERY_ACTIONS, lambda g: g.health.recovery_action),
    ),
    Metric(
        name="gpu_fabric_state",
        kind="gauge",
        help="1 for how far the GPU is with joining the NVLink fabric, 0 for the others.",
        labels=(*GPU, "state"),
        origin="NVML",
        read=_chosen(FABRIC_STATES, lambda g: g.health.fabric_state),
    ),
    Metric(
        name="gpu_fabric_health",
        kind="gauge",
        help="1 for the health of its NVLink fabric, 0 for the others.",
        labels=(*GPU, "health"),
        origin="NVML",
        read=_chosen(FABRIC_HEALTH, lambda g: g.health.fabric_health),
    ),
    Metric(
        name="gpu_virtualization",
        kind="gauge",
        help="1 for how the GPU is shared out by a hypervisor. In a vGPU, memory is the guest's and clocks, "
        "power and activity may be the whole GPU's, or absent.",
        labels=(*GPU, "mode"),
        origin="NVML",
        read=_each_gpu_by(
            lambda g: (
                (((g.reading.virtualization,), 1.0),)
                if g.reading is not None and g.reading.virtualization is not None
                else ()
            )
        ),
    ),
    Metric(
        name="gpu_processes",
        kind="gauge",
        help="Processes that compute on the GPU, as far as they can be seen from here.",
        labels=GPU,
        origin="NVML",
        read=_each_gpu(
            lambda g: (
                float(len(g.reading.processes))
                if g.reading is not None and g.reading.processes is not None
                else None
            )
        ),
    ),
    Metric(
        name="gpu_cost_usd_total",
        kind="counter",
        help="Price x observed time; absent without a price in the configuration.",
        labels=GPU,
        origin="configuration",
        read=_money(lambda t: t.cost_usd),
    ),
    Metric(
        name="gpu_idle_cost_usd_total",
        kind="counter",
        help="The part of it that went by idle.",
        labels=GPU,
        origin="configuration",
        read=_money(lambda t: t.idle_cost_usd),
    ),
    Metric(
        name="gpu_unattributed_cost_usd_total",
        kind="counter",
        help="The part of it that no engine holds; with engine_cost_usd_total it is what was paid.",
        labels=GPU,
        origin="configuration",
        read=_money(lambda t: t.unattributed_cost_usd),
    ),
    Metric(
        name="gpu_allocation_info",
        kind="info",
        help="Which container the kubelet has given a GPU or MIG instance to; shared: its device plugin "
        "gives it to several.",
        labels=(*GPU, *WORKLOAD, "attribution"),
        origin="kubelet pod-resources",
        read=_allocations,
    ),
)

ENGINE_METRICS: tuple[Metric, ...] = (
    Metric(
        name="engine_up",
        kind="gauge",
        help="1 if the engine's page was read within three of its intervals.",
        labels=ENGINE,
        origin="engine page",
        read=lambda a: ((_engine_labels(engine), float(engine.up)) for engine in a.engines),
    ),
    Metric(
        name="engine_gone",
        kind="gauge",
        help="1 if the engine is not up because its process or pod was ended; then it leaves the page ten "
        "minutes later. Only of engines that were found.",
        labels=ENGINE,
        origin="discovery",
        read=lambda a: ((_engine_labels(engine), float(engine.gone)) for engine in a.engines),
    ),
    Metric(
        name="engine_info",
        kind="info",
        help="Which software answers, and in which pod; empty where that is not known.",
        labels=(*ENGINE, "version", *WORKLOAD),
        origin="the engine's own interface, discovery",
        read=_engine_info,
    ),
    Metric(
        name="engine_model_info",
        kind="info",
        help="Which model the numbers are computed for, and where that is known from.",
        labels=(*ENGINE, "origin", "weight_dtype", "kv_dtype", "tensor_parallel", "pipeline_parallel"),
        origin="configuration, else the engine's own interface, its process, catalogue by the served name",
        read=_engine_model_info,
    ),
    Metric(
        name="engine_gpu_info",
        kind="info",
        help="Which GPUs of this node an engine runs on, and whence that is known.",
        labels=("engine", "server", "rank", "gpu", "uuid", "attribution"),
        origin="configuration, else processes, the kubelet's allocations, elimination",
        read=_engine_gpus,
    ),
    Metric(
        name="engine_gpu_share_ratio",
        kind="gauge",
        help="The engine's share of a GPU's time over the window, idle time in equal parts; on one GPU they "
        "sum to at most 1.",
        labels=("engine", "server", "rank", "gpu", "uuid"),
        origin="step attribution",
        read=_gpu_shares,
    ),
    Metric(
        name="engine_gpus",
        kind="gauge",
        help="GPUs of the replica, on this node and on others.",
        labels=(*ENGINE, "location"),
        origin="configuration",
        read=_each_engine_by(_replica_gpus),
    ),
    Metric(
        name="engine_start_time_seconds",
        kind="gauge",
        help="Unix time at which the engine's process started.",
        labels=ENGINE,
        origin="engine page",
        read=_of_engine_reading("start_time_seconds"),
    ),
    Metric(
        name="engine_requests_running",
        kind="gauge",
        help="Requests in the running batch when the page was read.",
        labels=ENGINE,
        origin="engine page",
        read=_of_engine_reading("requests_running"),
    ),
    Metric(
        name="engine_requests_waiting",
        kind="gauge",
        help="Requests waiting for a place in the batch when the page was read.",
        labels=ENGINE,
        origin="engine page",
        read=_of_engine_reading("requests_waiting"),
    ),
    Metric(
        name="engine_requests_in_flight",
        kind="gauge",
        help="Requests in the hands of the server in front of the engine, where it counts them by itself.",
        labels=ENGINE,
        origin="the engine's own interface",
        read=_of_engine_reading("requests_in_flight"),
    ),
    Metric(
        name="engine_stalled_seconds",
        kind="gauge",
        help="For how long the engine has had requests in hand and made no step: from 30 s on it may hang.",
        labels=ENGINE,
        origin="engine page",
        read=_each_engine(lambda e: e.window.seconds_stuck if e.window is not None else None),
    ),
    Metric(
        name="engine_state_age_seconds",
        kind="gauge",
        help="How old what the engine says of its requests and its KV cache may be at most; absent where it "
        "is as of the last step.",
        labels=ENGINE,
        origin="engine",
        read=_of_engine_reading("gauge_age_seconds"),
    ),
    Metric(
        name="engine_requests_total",
        kind="counter",
        help="Requests finished, by outcome; clients that went away are not counted by every engine.",
        labels=(*ENGINE, "outcome"),
        origin="engine page",
        read=_each_engine_by(_requests),
    ),
    Metric(
        name="engine_rejected_requests_total",
        kind="counter",
        help="Requests refused because the queue was full.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("rejected_requests"),
    ),
    Metric(
        name="engine_max_num_seqs",
        kind="gauge",
        help="The largest batch the engine is allowed.",
        labels=ENGINE,
        origin="configuration, engine page",
        read=_each_engine(lambda e: e.max_num_seqs),
    ),
    Metric(
        name="engine_decode_batch_size",
        kind="gauge",
        help="Mean sequences in a step that decodes, over the window.",
        labels=ENGINE,
        origin="decoded tokens / steps",
        read=_each_engine(lambda e: e.traffic.decode_batch if e.traffic is not None else None),
    ),
    Metric(
        name="engine_tokens_per_sequence_step",
        kind="gauge",
        help="Tokens computed for a sequence in a decoding step: 1, and what was guessed for it.",
        labels=ENGINE,
        origin="engine page",
        read=_each_engine(
            lambda e: e.traffic.work.tokens_per_sequence_step if e.traffic is not None else None
        ),
    ),
    Metric(
        name="engine_role",
        kind="gauge",
        help="1 for the phases the engine does, 0 for the others: one of a disaggregated pair does only one.",
        labels=(*ENGINE, "role"),
        origin="engine page",
        read=_each_engine_by(lambda e: _one_hot(ROLES, role) if (role := e.role) is not None else ()),
    ),
    Metric(
        name="engine_prefill_interference_ratio",
        kind="gauge",
        help="Share of the decoding steps' time that other requests' prefill takes in them.",
        labels=ENGINE,
        origin="step attribution",
        read=_each_engine(lambda e: e.interference_ratio),
    ),
    Metric(
        name="engine_ridge_batch_size",
        kind="gauge",
        help="The batch at which decode would reach the ridge at the present context; absent when no batch "
        "can.",
        labels=ENGINE,
        origin="architecture, roof",
        read=_each_engine(lambda e: e.ridge_batch),
    ),
    Metric(
        name="engine_kv_limited_batch_size",
        kind="gauge",
        help="Sequences of the present length that the KV cache holds.",
        labels=ENGINE,
        origin="KV capacity / context",
        read=_each_engine(lambda e: e.kv.limited_batch if e.kv is not None else None),
    ),
    Metric(
        name="engine_steps_total",
        kind="counter",
        help="Engine steps that gave output.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("steps"),
    ),
    Metric(
        name="engine_step_seconds_total",
        kind="counter",
        help="Busy time by where it went; sums to engine_phase_seconds_total of prefill and decode.",
        labels=(*ENGINE, "component"),
        origin="step attribution",
        read=_work(lambda w: _by_name(w.step_seconds)),
    ),
    Metric(
        name="engine_phase_seconds_total",
        kind="counter",
        help="Time by phase; with neither it sums to engine_observed_seconds_total.",
        labels=(*ENGINE, "phase"),
        origin="step attribution",
        read=_work(lambda w: _by_name(w.phase_seconds)),
    ),
    Metric(
        name="engine_observed_seconds_total",
        kind="counter",
        help="Time between pages that could be divided into phases.",
        labels=ENGINE,
        origin="sampler",
        read=_each_engine(lambda e: e.work_totals.observed_seconds if e.work_totals is not None else None),
    ),
    Metric(
        name="engine_prefill_tokens_total",
        kind="counter",
        help="Prompt tokens computed; tokens from the prefix cache are not in it.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("prefill_tokens"),
    ),
    Metric(
        name="engine_cached_prompt_tokens_total",
        kind="counter",
        help="Prompt tokens found in the prefix cache.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("cached_prompt_tokens"),
    ),
    Metric(
        name="engine_generation_tokens_total",
        kind="counter",
        help="Output tokens, the first of each request included.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("generation_tokens"),
    ),
    Metric(
        name="engine_draft_tokens_total",
        kind="counter",
        help="Tokens drafted by speculative decoding.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("draft_tokens"),
    ),
    Metric(
        name="engine_accepted_draft_tokens_total",
        kind="counter",
        help="Drafted tokens that were right.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("accepted_draft_tokens"),
    ),
    Metric(
        name="engine_preemptions_total",
        kind="counter",
        help="Requests thrown out of the batch to free KV cache; their work is done twice.",
        labels=ENGINE,
        origin="engine page",
        read=_counted("preemptions"),
    ),
    Metric(
        name="engine_flops_total",
        kind="counter",
        help="FLOPs that the engine's work costs over all its GPUs, modelled.",
        labels=(*ENGINE, "phase"),
        origin="engine counters x architecture",
        read=_work(lambda w: _by_name(w.flops)),
    ),
    Metric(
        name="engine_dram_bytes_total",
        kind="counter",
        help="DRAM traffic that the engine's work costs over all its GPUs, modelled. weights: a larger batch "
        "shares them; kv_cache: only a smaller cache helps.",
        labels=(*ENGINE, "phase", "traffic"),
        origin="engine counters x architecture",
        read=_work(lambda w: iter(w.dram_bytes.items())),
    ),
    Metric(
        name="engine_arithmetic_intensity_flops_per_byte",
        kind="gauge",
        help="FLOPs / DRAM bytes of each phase over the window, modelled.",
        labels=(*ENGINE, "phase"),
        origin="both sums over the window",
        read=_each_engine_by(_phase_intensity),
    ),
    Metric(
        name="engine_max_intensity_flops_per_byte",
        kind="gauge",
        help="What no decode batch can pass at the present context.",
        labels=ENGINE,
        origin="architecture",
        read=_each_engine(lambda e: e.max_intensity_flops_per_byte),
    ),
    Metric(
        name="engine_kv_cache_capacity_tokens",
        kind="gauge",
        help="Tokens that the KV cache holds, known before anything is in it.",
        labels=ENGINE,
        origin="engine page",
        read=_of_engine_reading("kv_capacity_tokens"),
    ),
    *(
        Metric(
            name=f"engine_kv_cache_{field}",
            kind="gauge",
            help=text,
            labels=ENGINE,
            origin="engine page, architecture",
            read=_of_kv_cache(field),
        )
        for field, text in (
            ("used_ratio", "Share of the KV cache in use; blocks kept only for reuse count as free."),
            ("headroom_ratio", "Share of the KV cache that is free."),
            ("free_tokens", "Tokens that still fit."),
            ("free_bytes", "The same in bytes over all GPUs of the replica."),
            ("free_sequences", "The same in sequences of the present length."),
            (
                "seconds_to_full",
                "Until the KV cache is full at the present trend; absent while it does not fill.",
            ),
        )
    ),
    Metric(
        name="engine_batch_limiter",
        kind="gauge",
        help="1 for why the batch is not larger, 0 for the others.",
        labels=(*ENGINE, "limiter"),
        origin="queue, KV use, preemptions",
        read=_each_engine_by(lambda e: _one_hot(LIMITERS, e.limiter)),
    ),
    Metric(
        name="engine_model_agreement_ratio",
        kind="gauge",
        help="Modelled / measured DRAM bytes over the window; expected 0.9-1.3; far off: a wrong model, "
        "dtype or GPU.",
        labels=ENGINE,
        origin="engine counters x architecture, GPM or dcgm",
        read=_each_engine(lambda e: e.agreement_ratio),
    ),
    Metric(
        name="engine_step_intercept_seconds",
        kind="gauge",
        help="What a decoding step takes before its first sequence, by the engine's own record of its steps "
        "over the window; beside engine_weight_read_seconds it is evidence that owes nothing to counters.",
        labels=ENGINE,
        origin="the engine's own interface (SGLang)",
        read=_each_engine(lambda e: e.step_line.intercept_seconds if e.step_line is not None else None),
    ),
    Metric(
        name="engine_step_slope_seconds",
        kind="gauge",
        help="What each further sequence adds to a decoding step, by the same record.",
        labels=ENGINE,
        origin="the engine's own interface (SGLang)",
        read=_each_engine(lambda e: e.step_line.slope_seconds if e.step_line is not None else None),
    ),
    Metric(
        name="engine_weight_read_seconds",
        kind="gauge",
        help="What reading all weights once takes one of its GPUs at the roof as now clocked.",
        labels=ENGINE,
        origin="architecture, roof",
        read=_each_engine(lambda e: e.weight_read_seconds),
    ),
    Metric(
        name="engine_cost_usd_total",
        kind="counter",
        help="The engine's part of what its GPUs on this node cost, by phase; idle: while it held them and "
        "did nothing.",
        labels=(*ENGINE, "phase"),
        origin="configuration, step attribution",
        read=_work(lambda w: _by_name(w.cost_usd) if any(w.cost_usd.values()) else ()),
    ),
    Metric(
        name="engine_remote_cost_usd_total",
        kind="counter",
        help="Estimate: what the replica's GPUs on other nodes cost, at the price of those here. It is "
        "none of this node's money; with engine_cost_usd_total it is what the replica's tokens cost.",
        labels=(*ENGINE, "phase"),
        origin="configuration, step attribution",
        read=_work(lambda w: _by_name(w.remote_cost_usd) if any(w.remote_cost_usd.values()) else ()),
    ),
    Metric(
        name="engine_energy_joules_total",
        kind="counter",
        help="The engine's part of what its GPUs on this node drew, by phase.",
        labels=(*ENGINE, "phase"),
        origin="NVML, step attribution",
        read=_work(lambda w: _by_name(w.energy_joules) if any(w.energy_joules.values()) else ()),
    ),
    Metric(
        name="engine_slo_events_total",
        kind="counter",
        help="Requests (ttft) or tokens (inter_token) for which the objective counts.",
        labels=(*ENGINE, "slo"),
        origin="engine page, configuration",
        read=_each_engine_by(lambda e: (((slo.name,), slo.events) for slo in e.objectives)),
    ),
    Metric(
        name="engine_slo_good_events_total",
        kind="counter",
        help="Those of them that met it: at most engine_slo_bound_seconds.",
        labels=(*ENGINE, "slo"),
        origin="engine page, configuration",
        read=_each_engine_by(lambda e: (((slo.name,), slo.good_events) for slo in e.objectives)),
    ),
    Metric(
        name="engine_slo_bound_seconds",
        kind="gauge",
        help="The engine's largest histogram bound that is not above the target.",
        labels=(*ENGINE, "slo"),
        origin="engine page, configuration",
        read=_each_engine_by(lambda e: (((slo.name,), slo.bound_seconds) for slo in e.objectives)),
    ),
    Metric(
        name="engine_slo_objective_ratio",
        kind="gauge",
        help="The share of events that is to meet it; the rest is the error budget.",
        labels=(*ENGINE, "slo"),
        origin="configuration",
        read=_each_engine_by(lambda e: (((slo.name,), slo.ratio) for slo in e.objectives)),
    ),
    Metric(
        name="engine_time_to_first_token_seconds",
        kind="histogram",
        help="From a request's arrival to its first token, at the engine's own bounds.",
        labels=ENGINE,
        origin="engine page",
        read=_histogram("time_to_first_token"),
    ),
    Metric(
        name="engine_inter_token_latency_seconds",
        kind="histogram",
        help="Between two tokens of a request, at the engine's own bounds.",
        labels=ENGINE,
        origin="engine page",
        read=_histogram("inter_token_latency"),
    ),
    Metric(
        name="engine_request_latency_seconds",
        kind="histogram",
        help="From a request's arrival to its end, at the engine's own bounds.",
        labels=ENGINE,
        origin="engine page",
        read=_histogram("request_latency"),
    ),
)

HEALTH_METRICS: tuple[Metric, ...] = (
    Metric(
        name="source_up",
        kind="gauge",
        help="1 if the last attempt at the source succeeded, 0 if it failed.",
        labels=("source",),
        origin="agent",
        read=lambda a: (
            ((source.name,), None if isinstance(source.outcome, Absent) else float(source.up))
            for source in a.sources
        ),
    ),
    Metric(
        name="source_absent",
        kind="gauge",
        help="1 if there is no such source on this machine: no failure, and nothing to read.",
        labels=("source",),
        origin="agent",
        read=lambda a: (((source.name,), float(isinstance(source.outcome, Absent))) for source in a.sources),
    ),
    Metric(
        name="source_last_success_timestamp_seconds",
        kind="gauge",
        help="Unix time of the last success.",
        labels=("source",),
        origin="agent",
        read=lambda a: (((source.name,), source.last_success_unix_seconds) for source in a.sources),
    ),
    Metric(
        name="source_read_duration_seconds",
        kind="gauge",
        help="How long the last attempt took.",
        labels=("source",),
        origin="agent",
        read=lambda a: (((source.name,), source.read_duration_seconds) for source in a.sources),
    ),
    Metric(
        name="source_reads_total",
        kind="counter",
        help="Attempts.",
        labels=("source",),
        origin="agent",
        read=lambda a: (((source.name,), source.reads) for source in a.sources),
    ),
    Metric(
        name="source_read_failures_total",
        kind="counter",
        help="Failed attempts by reason.",
        labels=("source", "reason"),
        origin="agent",
        read=_source_failures,
    ),
    Metric(
        name="sample_age_seconds",
        kind="gauge",
        help="Age of the source's last reading when the assessment was made.",
        labels=("source",),
        origin="agent",
        read=_source_age,
    ),
    Metric(
        name="source_malformed_lines",
        kind="gauge",
        help="Wanted lines of the engine's last page that could not be read.",
        labels=("source",),
        origin="agent",
        read=lambda a: (
            ((source.name,), source.outcome.reading.malformed_lines)
            for source in a.sources
            if isinstance(source.outcome, Read) and hasattr(source.outcome.reading, "malformed_lines")
        ),
    ),
    Metric(
        name="assessment_timestamp_seconds",
        kind="gauge",
        help="Unix time of the assessment that this page shows.",
        origin="agent",
        read=lambda a: (((), a.at_unix_seconds),),
    ),
    Metric(
        name="config_last_reload_successful",
        kind="gauge",
        help="1 if the configuration that was last to be loaded is in force, 0 if it was refused.",
        origin="agent",
        read=lambda a: (((), float(not a.configuration.problems)),),
    ),
    Metric(
        name="config_last_reload_success_timestamp_seconds",
        kind="gauge",
        help="Unix time at which the configuration in force was loaded.",
        origin="agent",
        read=lambda a: (((), a.configuration.loaded_unix_seconds),),
    ),
    Metric(
        name="build_info",
        kind="info",
        help="The agent's version.",
        labels=("version",),
        origin="agent",
        read=lambda a: (((__version__,), 1.0),),
    ),
)

TABLE: tuple[Metric, ...] = (*GPU_METRICS, *ENGINE_METRICS, *HEALTH_METRICS)
