"""An assessment as text for a terminal of 80 columns, a ticket, or a log."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from agent.advice.node import advise_node
from agent.advice.words import counted
from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.exposition.headline import faults
from agent.exposition.line_breaks import NO_BREAK_SPACE, with_units
from agent.readings import Absent, Failed
from agent.roofline.bottleneck import WORDS
from agent.units import render_number, render_percent, render_quantity, render_seconds

WIDTH = 80


def render_text(assessment: Assessment) -> str:
    """The whole node, worst news in words."""
    return "\n".join(_lines(assessment))


def _lines(assessment: Assessment) -> Iterator[str]:
    gpus, engines = (
        counted(len({gpu.index for gpu in assessment.gpus}), "GPU"),
        counted(len(assessment.engines), "engine"),
    )
    yield f"{assessment.node}: {gpus}, {engines}"
    for gpu in assessment.gpus:
        yield ""
        yield from _gpu(gpu)
    for engine in assessment.engines:
        yield ""
        yield from _engine(engine)
    if not assessment.engines:
        yield ""
        yield from _wrap("No engine is configured; list each under engines, with its url.", first="")
    yield from _advice(assessment)
    # A server that does not answer was told of as an engine.
    down = {engine.problem for engine in assessment.engines if not engine.up}
    for source in assessment.sources:
        if isinstance(source.outcome, Failed | Absent):
            if source.outcome.message not in down:
                yield ""
                yield from _wrap(source.outcome.message, first="")
        elif source.outcome is None:
            yield ""
            yield from _wrap(f"{source.name}: no answer yet", first="")


def _gpu(gpu: GpuAssessment) -> Iterator[str]:
    yield f"GPU {gpu.number}  {gpu.name}"
    if not gpu.up:
        yield from _wrap(f"lost: {gpu.problem}")
    for words in faults(gpu.health):
        yield from _wrap(words, first="  health      ")
    if not gpu.up:
        return
    if gpu.partitioned:
        yield "  in MIG mode: each of its instances stands below, by itself"
        return
    verdict = gpu.verdict
    certainty = ""
    if verdict.bottleneck != "unknown":
        certainty = f" (confidence {render_percent(verdict.confidence_ratio)}, {verdict.evidence})"
    yield f"  bottleneck  {WORDS[verdict.bottleneck]}{certainty}"
    yield from _wrap(f"because {verdict.reason}")
    if gpu.intensity is not None and gpu.attained_ratio is not None:
        yield (
            f"  roofline    {render_number(gpu.intensity.value)} FLOP/byte ({gpu.intensity.evidence}), "
            f"{render_percent(gpu.attained_ratio)} of the roof"
        )
    if gpu.throttle is not None:
        yield from _wrap(gpu.throttle)
    if gpu.reading is not None and gpu.reading.kernel_time_ratio is not None:
        yield (
            f"  kernel time {render_percent(gpu.reading.kernel_time_ratio)}"
            " (what nvidia-smi calls utilization; no measure of load)"
        )


def _engine(engine: EngineAssessment) -> Iterator[str]:
    yield f"{engine.engine} {engine.key.server} rank {engine.key.rank}  {engine.model}".rstrip()
    if not engine.up:
        yield from _wrap(f"down: {engine.problem}")
        return
    if engine.problem is not None:
        yield from _wrap(engine.problem)
    traffic = engine.traffic
    if traffic is not None and traffic.decode_batch is not None:
        ridge = "no batch reaches the ridge at this context"
        if engine.ridge_batch is not None:
            ridge = f"ridge at {render_number(engine.ridge_batch)}"
        limit = engine.kv.limited_batch if engine.kv is not None else None
        allowed = f", the KV cache allows {render_number(limit)}" if limit is not None else ""
        yield from _wrap(f"{render_number(traffic.decode_batch)}; {ridge}{allowed}", first="  batch       ")
    yield f"  limiter     {engine.limiter}"
    yield from _wrap(f"because {engine.limiter_reason}")
    if engine.kv is not None:
        free = engine.kv.free_bytes
        size = f", {render_quantity(free, 'B')} free" if free is not None else ""
        full = engine.kv.seconds_to_full
        until = f", full in {render_seconds(full)}" if full is not None else ""
        yield f"  KV cache    {render_percent(engine.kv.headroom_ratio)} headroom{size}{until}"


def _advice(assessment: Assessment) -> Iterator[str]:
    for number, advice in enumerate(advise_node(assessment), start=1):
        if number == 1:
            yield from ("", "What to do")
        yield from _wrap(f"{advice.title}: {advice.subject}", first=f"  {number}. ")
        if advice.expected:
            on_top = f" (on top of {', '.join(advice.after).replace('_', ' ')})" if advice.after else ""
            yield from _wrap(f"{advice.expected}{on_top}", first="  expected    ")
        yield from _wrap(advice.reason)
        yield from _wrap(f"wrong when {advice.wrong_when}")


def _wrap(text: str, *, first: str = " " * 14) -> Iterator[str]:
    lines = textwrap.wrap(with_units(text), WIDTH, initial_indent=first, subsequent_indent=" " * len(first))
    for line in lines:
        yield line.replace(NO_BREAK_SPACE, " ")  # it has done its work, and nobody would find it with grep
