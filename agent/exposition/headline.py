"""How the node is, in words: what someone woken at three in the morning reads first."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from agent.advice.doubts import AGREEMENT
from agent.assessment import Assessment, EngineAssessment, GpuAssessment
from agent.readings import Failed, GpuHealth
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
    gpus = [gpu for gpu in assessment.gpus if not gpu.partitioned]
    if not gpus:
        nvml = [source for source in assessment.sources if source.name == "nvml"]
        is_down = any(isinstance(source.outcome, Failed) for source in nvml)
        text = "No GPU can be read on this node now" if is_down else "No GPU is seen on this node"
        return (Clause(text=text, mark="."),)
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
            text=f"{_subject(count, len(gpus), _noun(gpus), first=position == 0)} {predicate}",
            mark="." if position == last else ",",
            bottleneck=name,
        )
        for position, (count, predicate, name) in enumerate(clauses)
    )


def _noun(gpus: Sequence[GpuAssessment]) -> str:
    instances = sum(gpu.last_reading is not None and gpu.last_reading.mig is not None for gpu in gpus)
    return {0: "GPU", len(gpus): "MIG instance"}.get(instances, "GPUs and MIG instance")


def _subject(count: int, total: int, noun: str, *, first: bool) -> str:
    if not first:
        return str(count)
    if count < total:
        return f"{count} of {total} {noun}s"
    return {1: f"The {noun}", 2: f"Both {noun}s"}.get(total, f"All {total} {noun}s")


def notes(assessment: Assessment) -> tuple[str, ...]:
    """What needs a person's eye, a sentence each; empty when nothing does."""
    found = [gpu.problem for gpu in assessment.gpus if not gpu.up and gpu.problem]
    unknown = _unknown(assessment.gpus)
    found += [
        f"GPU {render_numbers(numbers)} cannot be judged: {reason}" for reason, numbers in unknown.items()
    ]
    throttled = _by_words((gpu.throttle, gpu.number) for gpu in assessment.gpus if gpu.throttle)
    found += [
        f"GPU {render_numbers(gpus)} {'is' if len(gpus) == 1 else 'are'} throttled: {words}"
        for words, gpus in throttled.items()
    ]
    found += [f"GPU {gpu.number}: {words}" for gpu in assessment.gpus for words in faults(gpu.health)]
    found += [note for engine in assessment.engines for note in _engine_notes(engine, unknown)]
    # A server that does not answer was told of as an engine.
    down = {engine.problem for engine in assessment.engines if not engine.up}
    found += [
        f"A source fails: {source.outcome.message}"
        for source in assessment.sources
        if isinstance(source.outcome, Failed) and source.outcome.message not in down
    ]
    found += assessment.configuration.notes
    return tuple(note if note.endswith((".", "?", "!")) else f"{note}." for note in found)


ACTIONS: Mapping[str, str] = {
    "reset": "reset this GPU",
    "node_reboot": "reboot the node",
    "drain_p2p": "drain what talks to this GPU from others",
    "drain_and_reset": "drain this GPU and reset it",
    "recover_imex_domain": "recover the IMEX domain",
    "bus_reset": "reset the bus",
    "system_reboot": "reboot the whole system",
}
"""What the driver can ask for."""


def faults(health: GpuHealth) -> Iterator[str]:
    """What of a GPU's health wants somebody to act, in words."""
    if (action := ACTIONS.get(health.recovery_action or "")) is not None:
        yield f"the driver asks to {action}"
    if health.xid_errors and any(health.xid_errors.values()):
        heard = ", ".join(f"{xid} ({count} ×)" for xid, count in sorted(health.xid_errors.items()) if count)
        yield f"the driver has reported XID {heard} since the agent began to listen"
    if health.ecc_uncorrected_errors:
        counted = render_number(health.ecc_uncorrected_errors)
        yield f"{counted} memory errors could not be corrected since the driver was loaded"
    if health.row_remap_failed:
        yield "a broken row of its memory could not be replaced; the card wants service"
    elif health.row_remap_pending:
        yield "a broken row of its memory is replaced at the next reset"
    if health.fabric_health in ("unhealthy", "limited"):
        yield f"its NVLink fabric is {health.fabric_health}"


def _unknown(gpus: Sequence[GpuAssessment]) -> Mapping[str, list[str]]:
    """The numbers of the GPUs whose class is not known, by the reason."""
    return _by_words(
        (gpu.verdict.reason, gpu.number)
        for gpu in gpus
        if gpu.up and not gpu.partitioned and gpu.verdict.bottleneck == "unknown"
    )


def _by_words(told: Iterable[tuple[str, str]]) -> Mapping[str, list[str]]:
    """The numbers of those of which the same is to be said."""
    found: dict[str, list[str]] = {}
    for words, number in told:
        found.setdefault(words, []).append(number)
    return found


def render_numbers(numbers: Sequence[str]) -> str:
    """Numbers of GPUs as people list them: ``0, 4–7, 8:9``."""
    runs: list[list[int]] = []
    for number in sorted({int(number) for number in numbers if number.isdecimal()}):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    words = []
    for run in runs:
        words += [f"{run[0]}–{run[-1]}"] if len(run) > 2 else [str(number) for number in run]
    return ", ".join([*words, *(number for number in numbers if not number.isdecimal())])


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
