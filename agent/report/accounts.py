"""Hours and money: together, by class, by part, by day. Parts sum to the whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from agent.report.answers import Answer, Answers
from agent.report.document import CLASSES, UNALLOCATED, ClassTime, Day, PartTime, Totals
from agent.report.measured import (
    Measured,
    answered_days,
    by_day,
    hours,
    known_by_day,
    per_million,
    ratio,
    recorded_hours,
    together,
)
from agent.report.period import HOUR_SECONDS, RECORDED_SECONDS, instant
from agent.report.prices import Prices

GENERATED = "engine_generation_tokens"
TIMES = tuple(name for name in CLASSES if name != UNALLOCATED)
"""Classes that take time; what is unallocated only costs."""


def totals(answers: Answers) -> Totals:
    """Everything together."""
    recorded = recorded_hours(answers)
    observed = answers["gpu_observed_seconds"].amount()
    paid = answers["gpu_cost_usd"].total
    by_class = answers["gpu_bottleneck_cost_usd"]
    spent = {name: by_class.value(bottleneck=name) for name in CLASSES}
    generated = answers["engine_generation_tokens"].amount()
    has_prices = Prices.of(answers).are_enough() and not answers.lack("gpu_cost_usd", GENERATED)
    has_energy = not answers.lack("engine_energy_joules", GENERATED)
    return Totals(
        nodes=None
        if answers.lack("node_recorded", "recorded")
        else _nodes(answers["node_recorded"], recorded),
        gpus=hours(observed) / recorded if recorded else 0.0,
        gpu_hours=hours(observed),
        idle_gpu_hours=hours(answers["gpu_bottleneck_seconds"].amount(bottleneck="idle")),
        idle_held_gpu_hours=hours(answers["gpu_idle_held_seconds"].amount()),
        paid_usd=paid,
        used_usd=together(*(usd for name, usd in spent.items() if name not in ("idle", UNALLOCATED))),
        idle_usd=answers["gpu_idle_cost_usd"].total,
        unallocated_usd=spent[UNALLOCATED],
        unattributed_usd=answers["gpu_unattributed_cost_usd"].total,
        generation_tokens=generated,
        prefill_tokens=answers["engine_prefill_tokens"].amount(),
        cached_prompt_tokens=answers["engine_cached_prompt_tokens"].amount(),
        requests=answers["engine_requests"].amount(),
        usd_per_million_tokens=per_million(paid, generated) if has_prices else None,
        energy_joules=answers["gpu_energy_joules"].total,
        joules_per_million_tokens=(
            per_million(answers["engine_energy_joules"].total, generated) if has_energy else None
        ),
    )


def _nodes(recorded: Answer, covered_hours: float) -> float | None:
    """On average; `None` where nodes were not asked about. A node with two parts is one."""
    if not recorded or not covered_hours:
        return None
    samples = sum(max(rows) for rows in _samples_of_nodes(recorded).values())
    return samples * RECORDED_SECONDS / HOUR_SECONDS / covered_hours


def _samples_of_nodes(recorded: Answer) -> Mapping[tuple[str, ...], list[float]]:
    found: defaultdict[tuple[str, ...], list[float]] = defaultdict(list)
    for (cluster, instance, _), samples in recorded.by("cluster", "instance", "part").items():
        found[cluster, instance].append(samples)
    return found


def classes(measured: Measured) -> tuple[ClassTime, ...]:
    """Where the seconds went; those without any time or money are left out, `unallocated` too."""
    seconds, before = measured.now["gpu_bottleneck_seconds"], measured.before["gpu_bottleneck_seconds"]
    spent = measured.now["gpu_bottleneck_cost_usd"]
    whole, whole_before = seconds.total, before.total
    rows = []
    for name in CLASSES:
        taken, usd = seconds.amount(bottleneck=name), spent.value(bottleneck=name)
        if name == UNALLOCATED and not usd:
            continue
        rows.append(
            ClassTime(
                name=name,
                gpu_hours=hours(taken),
                ratio=ratio(taken, whole) or 0.0,
                usd=usd,
                previous_ratio=ratio(before.amount(bottleneck=name), whole_before),
                by_part={
                    part: hours(each)
                    for (part,), each in sorted(seconds.by("part", bottleneck=name).items())
                    if each
                },
            )
        )
    return tuple(rows)


def hours_by_class(answer: Answer, **labels: str) -> dict[str, float]:
    """GPU hours of all classes that take time."""
    return {name: hours(answer.amount(bottleneck=name, **labels)) for name in TIMES}


def parts(measured: Measured) -> tuple[PartTime, ...]:
    """By type of GPU, the most hours first; of boards in MIG mode there is only what they cost."""
    now, covered = measured.now, measured.recorded_hours
    observed, paid_by_part = now["gpu_observed_seconds"].by("part"), now["gpu_cost_usd"].by("part")
    rows = []
    for (part,) in {**observed, **paid_by_part}:
        seconds, paid = observed.get((part,), 0.0), paid_by_part.get((part,))
        generated = now["engine_generation_tokens"].amount(part=part)
        rows.append(
            PartTime(
                part=part,
                gpus=hours(seconds) / covered if covered else 0.0,
                gpu_hours=hours(seconds),
                hours_by_class=hours_by_class(now["gpu_bottleneck_seconds"], part=part),
                paid_usd=paid,
                idle_usd=now["gpu_idle_cost_usd"].value(part=part),
                unattributed_usd=now["gpu_unattributed_cost_usd"].value(part=part),
                generation_tokens=generated,
                usd_per_gpu_hour=measured.prices.of_part(part),
                usd_per_million_tokens=(
                    per_million(paid, generated)
                    if measured.prices.are_enough(part) and not now.lack("gpu_cost_usd", GENERATED)
                    else None
                ),
                energy_joules=now["gpu_energy_joules"].value(part=part),
                mean_dram_active_ratio=_mean_active(now, "dram_active", part),
                mean_tensor_active_ratio=_mean_active(now, "tensor_active", part),
            )
        )
    return tuple(sorted(rows, key=lambda row: (-row.gpu_hours, row.part)))


def _mean_active(answers: Answers, quantity: str, part: str) -> float | None:
    """Over the time for which it was measured."""
    if answers.lack("gpu_evidence_seconds", f"gpu_{quantity}_seconds"):
        return None
    known = sum(
        seconds
        for (evidence,), seconds in answers["gpu_evidence_seconds"]
        .by("evidence", quantity=quantity, part=part)
        .items()
        if evidence != "none"
    )
    return ratio(answers[f"gpu_{quantity}_seconds"].value(part=part), known)


def days(measured: Measured) -> tuple[Day, ...]:
    """One after the other; the last may be a part of one."""
    now, span = measured.now, measured.span

    def daily(question: str, **labels: str) -> list[float | None]:
        return known_by_day(now[question].steps(**labels).get((), {}), span)

    coverage = by_day(measured.coverage, span)
    observed = daily("gpu_observed_seconds")
    by_class = {name: daily("gpu_bottleneck_seconds", bottleneck=name) for name in TIMES}
    paid, idle = daily("gpu_cost_usd"), daily("gpu_idle_cost_usd")
    generated, energy = daily("engine_generation_tokens"), daily("engine_energy_joules")
    has_prices = measured.prices.are_enough()
    priced = answered_days(now, "gpu_cost_usd", GENERATED) if has_prices else frozenset()
    metered = answered_days(now, "engine_energy_joules", GENERATED)
    rows = []
    for number, day in enumerate(span.days()):
        tokens = generated[number] or 0.0
        rows.append(
            Day(
                date=instant(day.start).date(),
                coverage_ratio=coverage[number] / (day.seconds / HOUR_SECONDS),
                gpu_hours=hours(observed[number] or 0.0),
                hours_by_class={name: hours(row[number] or 0.0) for name, row in by_class.items()},
                paid_usd=paid[number],
                idle_usd=idle[number],
                generation_tokens=tokens,
                usd_per_million_tokens=per_million(paid[number], tokens) if number in priced else None,
                joules_per_million_tokens=(
                    per_million(energy[number], tokens) if number in metered else None
                ),
            )
        )
    return tuple(rows)
