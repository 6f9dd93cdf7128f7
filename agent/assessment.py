"""What is concluded at one instant: frozen, with its inputs and its reasons.

How it is concluded stands in `judgement`; every view is made from this.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from agent.accounts import GpuTotals, WorkTotals
from agent.objectives import ObjectiveCount
from agent.readings import (
    EngineReading,
    Evidence,
    GpuAllocation,
    GpuHealth,
    GpuReading,
    PodContainer,
)
from agent.roofline.bottleneck import (
    Bottleneck,
    Verdict,
)
from agent.roofline.cost import MILLION
from agent.roofline.gpus import GpuSpec
from agent.roofline.kv_cache import KvCache, Limiter
from agent.roofline.models import ServedModel
from agent.roofline.roof import Roof
from agent.roofline.step import (
    Attribution,
    StepConstants,
)
from agent.roofline.step_line import StepLine
from agent.roofline.workload import Workload
from agent.sources.base import SourceState
from agent.tiers import TierStatus
from agent.traffic import Role, Traffic
from agent.units import SECONDS_PER_HOUR
from agent.window import EngineTotals, EngineWindow, GpuWindow

DEFAULT_COMPUTE_DTYPE = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantity:
    """A number and where it comes from."""

    value: float
    evidence: Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineKey:
    """Which engine: a server, and the rank behind it."""

    server: str
    rank: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineAssessment:
    """One engine (one data-parallel rank), over all its GPUs."""

    key: EngineKey
    engine: str
    model: str
    up: bool
    problem: str | None = None
    """Why it is not up, or what is not known of it."""
    gone: bool = False
    """It is not up because its process or pod was ended."""
    gpu_uuids: tuple[str, ...] = ()
    placed_by: str = "unknown"
    """Whence they are known: ``configuration``, ``process``, ``pod``, ``elimination``, ``unknown``."""
    container: PodContainer | None = None
    """In which it runs, if that is known."""
    reading: EngineReading | None = None
    window: EngineWindow | None = None
    served: ServedModel | None = None
    served_origin: str = "unknown"
    """Where the model's architecture is known from, see `resolution`."""
    traffic: Traffic | None = None
    work: Workload | None = None
    """Of the window."""
    compute_dtype: str | None = None
    """What its products are computed in."""
    roof: Roof | None = None
    """Of one of its GPUs, at that dtype, as now clocked."""
    constants: StepConstants | None = None
    """What such a model achieves on such a part."""
    attribution: Attribution | None = None
    verdict: Verdict
    kv: KvCache | None = None
    limiter: Limiter = "unknown"
    limiter_reason: str = ""
    max_num_seqs: int | None = None
    ridge_flops_per_byte: float | None = None
    ridge_batch: float | None = None
    max_intensity_flops_per_byte: float | None = None
    agreement_ratio: float | None = None
    """Modelled ÷ measured DRAM bytes."""
    step_line: StepLine | None = None
    """The engine's own record of its steps, where it keeps one."""
    weight_read_seconds: float | None = None
    """What reading all weights once takes one of its GPUs at the roof, to hold against it."""
    objectives: tuple[ObjectiveCount, ...] = ()
    totals: EngineTotals = field(default_factory=EngineTotals)
    work_totals: WorkTotals | None = None
    usd_per_hour: float | None = None
    """Of all its GPUs, or its part of those that it shares; `None` without a price."""

    @property
    def role(self) -> Role | None:
        """Which phases it does: as it says itself, else as its tokens show; `None` while nobody can say."""
        if self.reading is not None and self.reading.role is not None:
            return self.reading.role
        return self.traffic.role if self.traffic is not None else None

    @property
    def busy_ratio(self) -> float | None:
        """Share of the window in which it worked; `None` where nobody can say."""
        if self.attribution is None or self.window is None:
            return None
        return self.attribution.busy_seconds / self.window.seconds

    @property
    def generation_tokens_per_second(self) -> float | None:
        """Over the window."""
        tokens = self.window.increments.generation_tokens if self.window is not None else None
        return None if self.window is None or tokens is None else tokens / self.window.seconds

    @property
    def prefill_tokens_per_second(self) -> float | None:
        """Over the window, those that were computed."""
        tokens = self.window.increments.prefill_tokens if self.window is not None else None
        return None if self.window is None or tokens is None else tokens / self.window.seconds

    @property
    def usd_per_million_tokens(self) -> float | None:
        """Of generated ones, at the window's rate, what its GPUs cost while they idle included."""
        rate = self.generation_tokens_per_second
        if self.usd_per_hour is None or not rate:
            return None
        return self.usd_per_hour / SECONDS_PER_HOUR / rate * MILLION

    @property
    def interference_ratio(self) -> float | None:
        """Share of the decoding steps' time that other requests' prefill takes in them.

        It is what disaggregation would give back to the time between tokens. `None` while nothing decodes,
        and where nobody can tell what the steps consist of.
        """
        if self.attribution is None or self.traffic is None or self.attribution.decode_seconds <= 0:
            return None
        carried = self.attribution.carried_seconds
        return None if carried is None else carried / (carried + self.attribution.decode_seconds)

    @property
    def busy_by_phase(self) -> tuple[float, float]:
        """Share of the window in prefill and in decode."""
        if self.attribution is None or self.window is None:
            return 0.0, 0.0
        window = self.window.seconds
        return self.attribution.prefill_seconds / window, self.attribution.decode_seconds / window


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of time in one class."""

    start_unix_seconds: float
    end_unix_seconds: float
    bottleneck: Bottleneck


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAssessment:
    """One GPU."""

    index: int
    uuid: str
    name: str
    up: bool
    problem: str | None = None
    reading: GpuReading | None = None
    last_reading: GpuReading | None = None
    """The same, or of a lost GPU the last there was, for what never changes about it."""
    health: GpuHealth = field(default_factory=GpuHealth)
    """Of a lost GPU, what is still known of it."""
    spec: GpuSpec | None = None
    window: GpuWindow | None = None
    compute_dtype: str = DEFAULT_COMPUTE_DTYPE
    """Of the model it serves."""
    compute_clock_ratio: float = 1.0
    """SM clock ÷ the clock at which the peak is rated, while work runs."""
    memory_clock_ratio: float = 1.0
    flops_per_second: Quantity | None = None
    dram_bytes_per_second: Quantity | None = None
    intensity: Quantity | None = None
    """FLOP/byte over the window."""
    attained_ratio: float | None = None
    throttle: str | None = None
    """In words, when power or heat lowers the roof."""
    contradicted: bool = False
    """Its profiling counters read 0 while kernels run: they are not believed."""
    verdict: Verdict
    engines: tuple[EngineKey, ...] = ()
    totals: GpuTotals = field(default_factory=GpuTotals)
    history: tuple[Span, ...] = ()

    @property
    def number(self) -> str:
        """How people call it: ``3``; of a MIG instance ``3:9``, GPU and GPU instance."""
        mig = self.last_reading.mig if self.last_reading is not None else None
        if mig is None:
            return str(self.index)
        compute = f":{mig.compute_instance_id}" if mig.compute_instance_id else ""
        return f"{self.index}:{mig.gpu_instance_id}{compute}"

    @property
    def partitioned(self) -> bool:
        """In MIG mode: time, work and money are its instances', which stand beside it."""
        return self.reading is not None and self.reading.partitioned

    def peak_roof(self, dtype: str) -> Roof | None:
        """The datasheet's ceilings at a dtype."""
        return self.spec.roof(dtype) if self.spec is not None else None

    def current_roof(self, dtype: str) -> Roof | None:
        """The ceilings as the GPU is now clocked."""
        peak = self.peak_roof(dtype)
        if peak is None:
            return None
        return peak.scaled(compute=self.compute_clock_ratio, memory=self.memory_clock_ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationStatus:
    """Since when the configuration in force is, and whether a newer one was refused."""

    loaded_unix_seconds: float
    problems: tuple[str, ...] = ()
    """Of the last one that was to be loaded; none: it is in force."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be said of it."""
        if not self.problems:
            return ()
        more = f" (and {len(self.problems) - 1} more)" if len(self.problems) > 1 else ""
        return (
            f"The configuration file is wrong, and the last good one goes on: {self.problems[0]}{more}; "
            "the log says all, and so does roofline-agent check-config",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Assessment:
    """The whole node at one instant."""

    at_seconds: float
    """On the monotonic clock."""
    at_unix_seconds: float
    node: str
    started_unix_seconds: float
    interval_seconds: float
    configuration: ConfigurationStatus
    driver_version: str | None = None
    gpus: tuple[GpuAssessment, ...] = ()
    engines: tuple[EngineAssessment, ...] = ()
    allocations: tuple[GpuAllocation, ...] = ()
    """Which container has which GPU, as far as the kubelet says."""
    tiers: tuple[TierStatus, ...] = ()
    """How engines, their GPUs and their pods are found."""
    notes: tuple[str, ...] = ()
    """What of that could not be made sense of."""
    sources: tuple[SourceState[Any], ...] = ()
