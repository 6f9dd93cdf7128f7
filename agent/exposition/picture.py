"""The JSON document read back: what text is made of, here and at the other end of a wire.

The document may come from an agent of another version, or from somebody who only says to be one. So what is
missing or of another type is not known, and all text is made fit for a terminal: nothing in it ends a line or
acts on the screen.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.errors import AgentError
from agent.exposition.json_view import SCHEMA_VERSION
from agent.logs import one_line

MAX_CHARACTERS = 1000
"""Of one text."""
MAX_ITEMS = 4096
"""Of one list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A number and where it comes from."""

    value: float
    evidence: str


@dataclass(frozen=True, slots=True, kw_only=True)
class VerdictPicture:
    """What bounds it, how sure that is, and why."""

    bottleneck: str
    confidence_ratio: float | None
    evidence: str
    reason: str
    shares: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoofPicture:
    """The two ceilings, at their peak or as now clocked."""

    flops_per_second: float
    dram_bytes_per_second: float

    @property
    def ridge_flops_per_byte(self) -> float:
        """Below it memory is the limit."""
        return self.flops_per_second / self.dram_bytes_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuPicture:
    """One GPU."""

    number: str
    index: int | None
    uuid: str
    name: str
    up: bool
    problem: str
    partitioned: bool
    verdict: VerdictPicture
    compute_dtype: str
    peak_roof: RoofPicture | None
    """At the dtype that is computed in."""
    roof: RoofPicture | None
    """The same as now clocked."""
    flops: Shown | None
    """Per second."""
    intensity: Shown | None
    """FLOP/byte."""
    attained_ratio: float | None
    dram: Shown | None
    """Share of the bandwidth; where it is not measured, as modelled."""
    tensor: Shown | None
    """Share of the time that tensor cores were active, or as modelled of their FLOP/s."""
    throttle: str
    faults: tuple[str, ...]
    kernel_time_ratio: float | None
    power_watts: float | None
    power_limit_watts: float | None
    temperature_celsius: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhasePicture:
    """How fast a phase runs while it runs, on each of its GPUs."""

    name: str
    flops_per_byte: float
    flops_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EnginePicture:
    """One engine."""

    server: str
    rank: str
    software: str
    model: str
    up: bool
    problem: str
    gpu_uuids: tuple[str, ...]
    container: str
    verdict: VerdictPicture
    phases: tuple[PhasePicture, ...]
    batch: float | None
    """Of decode."""
    ridge_batch: float | None
    limited_batch: float | None
    """What the KV cache allows."""
    limiter: str
    limiter_reason: str
    has_cache: bool
    headroom_ratio: float | None
    free_bytes: float | None
    seconds_to_full: float | None
    busy_ratio: float | None
    generation_tokens_per_second: float | None
    prefill_tokens_per_second: float | None
    usd_per_million_tokens: float | None

    @property
    def short_model(self) -> str:
        """The model without whose it is."""
        return self.model.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class AdvicePicture:
    """One thing to do."""

    title: str
    subject: str
    expected: str
    after: tuple[str, ...]
    reason: str
    wrong_when: str
    gpu_uuids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourcePicture:
    """One source, and what is wrong with it."""

    name: str
    up: bool
    message: str
    problems: tuple[str, ...]
    """Of an answer that it gave."""
    waiting: bool
    """The first attempt is still under way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePicture:
    """A whole node at one instant."""

    node: str
    age_seconds: float
    """When it was served."""
    interval_seconds: float
    headline: str
    notes: tuple[str, ...]
    gpus: tuple[GpuPicture, ...]
    engines: tuple[EnginePicture, ...]
    advice: tuple[AdvicePicture, ...]
    sources: tuple[SourcePicture, ...]

    def engines_on(self, gpu: GpuPicture) -> tuple[EnginePicture, ...]:
        """Those whose GPU it is."""
        return tuple(engine for engine in self.engines if gpu.uuid in engine.gpu_uuids)

    def gpus_of(self, engine: EnginePicture) -> tuple[GpuPicture, ...]:
        """Those on this node."""
        return tuple(gpu for gpu in self.gpus if gpu.uuid in engine.gpu_uuids)


def read_document(document: object) -> NodePicture:
    """The picture that a document gives; `AgentError` where it is none, or of a version to come."""
    fields = _Fields(document)
    version = fields.number("schema_version")
    if version is None or not isinstance(fields.given.get("gpus"), list):
        raise AgentError("this is no assessment of a roofline-agent; is the URL right?")
    if version > SCHEMA_VERSION:
        raise AgentError(
            f"this agent's JSON is of version {version:g}, and only {SCHEMA_VERSION} is known here: "
            "install as new a version here"
        )
    return NodePicture(
        node=fields.text("node"),
        age_seconds=max(fields.number("age_seconds") or 0.0, 0.0),
        interval_seconds=max(fields.number("interval_seconds") or 1.0, 0.0),
        headline=fields.text("headline"),
        notes=fields.texts("notes"),
        gpus=tuple(_gpu(gpu) for gpu in fields.several("gpus")),
        engines=tuple(_engine(engine) for engine in fields.several("engines")),
        advice=tuple(_advice(advice) for advice in fields.several("advice")),
        sources=tuple(_source(source) for source in fields.several("sources")),
    )


@dataclass(frozen=True, slots=True)
class _Fields:
    """An object of the document, whatever stands there."""

    value: object
    given: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "given", self.value if isinstance(self.value, dict) else {})

    def text(self, name: str) -> str:
        """Fit for a terminal; "" where there is none."""
        return _text(self.given.get(name))

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(_text(item) for item in self._list(name) if isinstance(item, str))

    def number(self, name: str) -> float | None:
        value = self.given.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        try:
            number = float(value)
        except OverflowError:
            return None
        return number if math.isfinite(number) else None

    def positive(self, name: str) -> float | None:
        number = self.number(name)
        return number if number is not None and number > 0 else None

    def true(self, name: str) -> bool:
        return self.given.get(name) is True

    def part(self, *names: str) -> _Fields:
        """What lies within, one level for each name; empty where nothing does."""
        fields = self
        for name in names:
            fields = _Fields(fields.given.get(name))
        return fields

    def several(self, name: str) -> tuple[_Fields, ...]:
        return tuple(_Fields(item) for item in self._list(name) if isinstance(item, dict))

    def _list(self, name: str) -> list[Any]:
        value = self.given.get(name)
        return value[:MAX_ITEMS] if isinstance(value, list) else []


def _text(value: object) -> str:
    if not isinstance(value, str):
        return ""
    text = one_line(value[: MAX_CHARACTERS + 1])
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def _verdict(fields: _Fields) -> VerdictPicture:
    shares = fields.part("shares")
    return VerdictPicture(
        bottleneck=fields.text("bottleneck") or "unknown",
        confidence_ratio=fields.number("confidence_ratio"),
        evidence=fields.text("evidence"),
        reason=fields.text("reason"),
        shares={_text(name): share for name in shares.given if (share := shares.number(name)) is not None},
    )


def _roof(fields: _Fields) -> RoofPicture | None:
    flops, bandwidth = fields.positive("flops_per_second"), fields.positive("dram_bytes_per_second")
    if flops is None or bandwidth is None:
        return None
    return RoofPicture(flops_per_second=flops, dram_bytes_per_second=bandwidth)


def _shown(fields: _Fields) -> Shown | None:
    value = fields.number("value")
    return None if value is None else Shown(value=value, evidence=fields.text("evidence"))


def _gpu(fields: _Fields) -> GpuPicture:
    reading, dtype = fields.part("reading"), fields.text("compute_dtype")
    roofs = fields.part("roofs", "by_dtype", dtype)
    roof = _roof(roofs.part("current"))
    flops = _shown(fields.part("flops_per_second"))
    bandwidth = fields.part("roofs").positive("current_dram_bytes_per_second")
    index = fields.number("index")
    return GpuPicture(
        number=fields.text("number"),
        index=None if index is None else int(index),
        uuid=fields.text("uuid"),
        name=fields.text("name"),
        up=fields.true("up"),
        problem=fields.text("problem"),
        partitioned=fields.true("partitioned"),
        verdict=_verdict(fields.part("verdict")),
        compute_dtype=dtype,
        peak_roof=_roof(roofs.part("peak")),
        roof=roof,
        flops=flops,
        intensity=_shown(fields.part("intensity")),
        attained_ratio=fields.number("attained_ratio"),
        dram=_activity(fields, "dram_ratio", _shown(fields.part("dram_bytes_per_second")), bandwidth),
        tensor=_activity(fields, "tensor_ratio", flops, roof.flops_per_second if roof is not None else None),
        throttle=fields.text("throttle"),
        faults=fields.texts("faults"),
        kernel_time_ratio=reading.number("kernel_time_ratio"),
        power_watts=reading.number("power_watts"),
        power_limit_watts=reading.number("power_limit_watts"),
        temperature_celsius=reading.number("temperature_celsius"),
        memory_used_bytes=reading.number("memory_used_bytes"),
        memory_total_bytes=reading.number("memory_total_bytes"),
    )


def _activity(fields: _Fields, name: str, rate: Shown | None, ceiling: float | None) -> Shown | None:
    """As measured, else the rate ÷ its ceiling, with the rate's evidence."""
    window = fields.part("window")
    ratio = window.number(name)
    if ratio is not None:
        return Shown(value=ratio, evidence=window.part("evidence_by_ratio").text(name))
    if rate is None or ceiling is None:
        return None
    return Shown(value=rate.value / ceiling, evidence=rate.evidence)


def _engine(fields: _Fields) -> EnginePicture:
    cache = fields.part("kv")
    container = fields.part("container")
    return EnginePicture(
        server=fields.text("server"),
        rank=fields.text("rank"),
        software=fields.text("engine"),
        model=fields.text("model"),
        up=fields.true("up"),
        problem=fields.text("problem"),
        gpu_uuids=fields.texts("gpu_uuids"),
        container="/".join(filter(None, (container.text("namespace"), container.text("pod")))),
        verdict=_verdict(fields.part("verdict")),
        phases=tuple(phase for name in ("prefill", "decode") if (phase := _phase(fields, name)) is not None),
        batch=fields.part("traffic").number("decode_batch"),
        ridge_batch=fields.number("ridge_batch"),
        limited_batch=cache.number("limited_batch"),
        limiter=fields.text("limiter") or "unknown",
        limiter_reason=fields.text("limiter_reason"),
        has_cache=bool(cache.given),
        headroom_ratio=cache.number("headroom_ratio"),
        free_bytes=cache.number("free_bytes"),
        seconds_to_full=cache.number("seconds_to_full"),
        busy_ratio=fields.number("busy_ratio"),
        generation_tokens_per_second=fields.number("generation_tokens_per_second"),
        prefill_tokens_per_second=fields.number("prefill_tokens_per_second"),
        usd_per_million_tokens=fields.number("usd_per_million_tokens"),
    )


def _phase(fields: _Fields, name: str) -> PhasePicture | None:
    work = fields.part("phases", name)
    flops, intensity = work.positive("flops"), work.positive("intensity_flops_per_byte")
    seconds = fields.part("attribution").positive(f"{name}_seconds")
    ranks = fields.part("served").positive("tensor_parallel")
    if flops is None or intensity is None or seconds is None or ranks is None:
        return None
    return PhasePicture(name=name, flops_per_byte=intensity, flops_per_second=flops / ranks / seconds)


def _advice(fields: _Fields) -> AdvicePicture:
    return AdvicePicture(
        title=fields.text("title"),
        subject=fields.text("subject"),
        expected=fields.text("expected"),
        after=fields.texts("after"),
        reason=fields.text("reason"),
        wrong_when=fields.text("wrong_when"),
        gpu_uuids=tuple(gpu.text("uuid") for gpu in fields.several("gpus")),
    )


def _source(fields: _Fields) -> SourcePicture:
    up, message = fields.true("up"), fields.text("message")
    return SourcePicture(
        name=fields.text("name"),
        up=up,
        message=message,
        problems=fields.texts("problems"),
        waiting=not up and not message and fields.number("last_success_unix_seconds") is None,
    )
