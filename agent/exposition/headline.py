"""How the node is, in words: what someone woken at three in the morning reads first."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.advice.doubts import AGREEMENT
from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.readings import Failed
from agent.roofline.bottleneck import BOTTLENECKS, Bottleneck
from agent.roofline.kv_cache import FULL_RATIO
from agent.units import render_number, render_percent, render_seconds

PREDICATES: Mapping[Bottleneck, tuple[str, str]] = {
    "memory_bandwidth": ("waits for memory", "wait for memory"),
    "compute": ("computes", "compute"),
    "interconnect": ("waits for other GPUs", "wait for other GPUs"),
    "kernel_latency": ("runs small kernels", "run small kernels"),
    "host": ("waits for its host", "wait for their host"),
    "idle": ("is idle", "are idle"),
    "unknown": ("cannot be judged", "cannot be judged"),
}
"""What one GPU of a class does, and what several do."""

SOON_FULL_SECONDS = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Clause:
    """A clause of the headline; one that speaks of a class names it."""

    text: str
    mark: str
    """The punctuation after it."""
    bottleneck: Bottleneck | None = None


def headline(assessment: Assessment) -> tuple[Clause, ...]:
    """One sentence on all GPUs, the most frequent class first."""
    gpus = assessment.gpus
    if not gpus:
        return (Clause(text="No GPU is seen on this node", mark="."),)
    lost = sum(not gpu.up for gpu in gpus)
    counts = {name: sum(gpu.up and gpu.verdict.bottleneck == name for gpu in gpus) for name in BOTTLENECKS}
    clauses: list[tuple[int, str, Bottleneck | None]] = [
        (count, PREDICATES[name][count != 1], name)
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    ]
    if lost:
        clauses.append((lost, "cannot be read", None))
    last = len(clauses) - 1
    return tuple(
        Clause(
            text=f"{_subject(count, len(gpus), first=position == 0)} {predicate}",
            mark="." if position == last else ",",
            bottleneck=name,
        )
        for position, (count, predicate, name) in enumerate(clauses)
    )


def _subject(count: int, total: int, *, first: bool) -> str:
    if not first:
        return str(count)
    if count < total:
        return f"{count} of {total} GPUs"
    return {1: "The GPU", 2: "Both GPUs"}.get(total, f"All {total} GPUs")


def notes(assessment: Assessment) -> tuple[str, ...]:
    """What needs a person's eye, a sentence each; empty when nothing does."""
    found = [gpu.problem for gpu in assessment.gpus if not gpu.up and gpu.problem]
    unknown = _unknown(assessment.gpus)
    found += [
        f"GPU {render_numbers(numbers)} cannot be judged: {reason}" for reason, numbers in unknown.items()
    ]
    found += [f"GPU {gpu.index} is throttled: {gpu.throttle}" for gpu in assessment.gpus if gpu.throttle]
    found += [note for engine in assessment.engines for note in _engine_notes(engine, unknown)]
    # A server that does not answer was told of as an engine.
    down = {engine.problem for engine in assessment.engines if not engine.up}
    found += [
        f"A source fails: {source.outcome.message}"
        for source in assessment.sources
        if isinstance(source.outcome, Failed) and source.outcome.message not in down
    ]
    return tuple(note if note.endswith((".", "?", "!")) else f"{note}." for note in found)


def _unknown(gpus: Sequence[GpuAssessment]) -> Mapping[str, list[int]]:
    """The numbers of the GPUs whose class is not known, by the reason."""
    found: dict[str, list[int]] = {}
    for gpu in gpus:
        if gpu.up and gpu.verdict.bottleneck == "unknown":
            found.setdefault(gpu.verdict.reason, []).append(gpu.index)
    return found


def render_numbers(numbers: Sequence[int]) -> str:
    """Whole numbers as people list them: ``0, 4–7``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = []
    for run in runs:
        words += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return ", ".join(words)


def engine_name(engine: EngineAssessment) -> str:
    """The software and where it answers; the rank where there are several."""
    rank = f" rank {engine.key.rank}" if engine.key.rank != "0" else ""
    return f"{engine.engine} at {engine.key.server}{rank}"


def _engine_notes(engine: EngineAssessment, told: Container[str]) -> Iterator[str]:
    name = engine_name(engine)
    if not engine.up:
        yield f"An engine does not answer: {engine.problem}"
        return
    # What is not known of its model is the reason that its GPUs cannot be judged, when it is.
    if engine.problem is not None and engine.problem not in told:
        yield f"{name}: {engine.problem}"
    cache = engine.kv
    if engine.limiter == "kv_cache":
        yield f"{name} is held by its KV cache: {engine.limiter_reason}"
    elif cache is not None and cache.used_ratio >= FULL_RATIO:
        yield f"{name} is near its KV limit: {render_percent(cache.used_ratio)} used"
    elif (
        cache is not None and cache.seconds_to_full is not None and cache.seconds_to_full < SOON_FULL_SECONDS
    ):
        yield f"{name} fills its KV cache in {render_seconds(cache.seconds_to_full)} at this trend"
    ratio = engine.agreement_ratio
    if ratio is not None and not AGREEMENT[0] <= ratio <= AGREEMENT[1]:
        yield (
            f"{name}: the model says {render_number(ratio)} × the DRAM traffic that was measured; "
            "is its model, dtype or GPU right?"
        )
