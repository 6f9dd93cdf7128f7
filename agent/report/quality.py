"""Whether the numbers can be believed: coverage, gaps, evidence, disagreement. Nothing is ever filled in."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from agent.report.document import Disagreement, EvidenceShare, Gap, Quality
from agent.report.measured import (
    PER_HOUR,
    Measured,
    by_day,
    coverage_by_cluster,
    hours,
    labels_of,
    ratio,
    unpriced_parts,
)
from agent.report.period import HOUR_SECONDS, instant
from agent.report.prices import ALL_PRICED
from agent.report.services import mean_over_steps, priced_ratio
from agent.units import render_number, render_percent

ENOUGH = 0.95
"""Of coverage; below it a sum is noticeably too small."""
BLIND = 0.1
"""Of the time without evidence of bytes: then classes are often `unknown`."""
AGREES = (0.7, 1.5)
"""Modelled ÷ measured bytes, as the alert has it."""
LONGEST_GAPS = 20


def quality(measured: Measured, *, is_complete: bool) -> Quality:
    """What there is to say of it."""
    now = measured.now
    covered = measured.recorded_hours / measured.span.hours
    by_node = _node_coverage(measured)
    observed, unobserved = now["gpu_observed_seconds"].amount(), now["gpu_unobserved_seconds"].amount()
    evidence, disagreements, gaps = _evidence(measured), _disagreements(measured), _gaps(measured)
    remarks = (
        *([] if is_complete else ["Some queries were not answered: what they would have told is missing."]),
        *_on_coverage(measured, covered, by_node),
        *_on_sight(observed, unobserved),
        *_on_evidence(evidence),
        *_on_series(measured),
        *_on_prices(measured),
        *(
            f"{row.model} on {row.part or 'unknown GPUs'}: its model moves {render_number(row.ratio)} times "
            "the bytes that were measured, so its FLOPs and its bytes by traffic are in doubt."
            for row in disagreements
        ),
    )
    return Quality(
        is_poor=bool(remarks),
        remarks=remarks,
        earliest_sample=None if measured.earliest_sample is None else instant(measured.earliest_sample),
        coverage_ratio=covered,
        node_coverage_ratio=by_node,
        observed_gpu_hours=hours(observed),
        unobserved_gpu_hours=hours(unobserved),
        contradicted_gpu_hours=hours(now["gpu_evidence_contradicted_seconds"].amount()),
        gaps=gaps,
        evidence=evidence,
        disagreements=disagreements,
    )


def _node_coverage(measured: Measured) -> float | None:
    """Of each node from its first day to its last, those without anything but its absence left out."""
    found: defaultdict[tuple[str, str], dict[int, float]] = defaultdict(dict)
    for (cluster, instance, _), row in (
        measured.now["node_recorded"].steps("cluster", "instance", "part").items()
    ):
        days = found[cluster, instance]
        for day, samples in enumerate(by_day(row, measured.span)):
            if samples:
                days[day] = max(days.get(day, 0.0), samples)
    if not found or measured.now.lack("node_recorded"):
        return None
    lengths = [day.hours for day in measured.span.days()]
    expected = recorded = 0.0
    for days in found.values():
        # A node may have come or gone within its first and its last day.
        inner = range(min(days) + 1, max(days))
        expected += sum(lengths[day] for day in inner) * PER_HOUR
        recorded += sum(min(days.get(day, 0.0), lengths[day] * PER_HOUR) for day in inner)
    return recorded / expected if expected else None


def _gaps(measured: Measured) -> tuple[Gap, ...]:
    """Hours without any sample, together where one follows the other; not those that were not answered."""
    covered = measured.coverage
    untold = [piece.span for piece in measured.now["recorded"].missing]
    found: list[tuple[int, int]] = []
    for hour in measured.span.pieces(HOUR_SECONDS):
        if covered.get(hour.start, 0.0) > 0 or any(one.start <= hour.start < one.end for one in untold):
            continue
        if found and found[-1][1] == hour.start:
            found[-1] = (found[-1][0], hour.end)
        else:
            found.append((hour.start, hour.end))
    found.sort(key=lambda gap: gap[0] - gap[1])
    return tuple(
        Gap(start=instant(start), end=instant(end), hours=(end - start) / HOUR_SECONDS)
        for start, end in found[:LONGEST_GAPS]
    )


def _evidence(measured: Measured) -> tuple[EvidenceShare, ...]:
    found = measured.now["gpu_evidence_seconds"]
    whole = found.by("quantity")
    return tuple(
        EvidenceShare(quantity=quantity, evidence=evidence, ratio=seconds / whole[quantity,])
        for (quantity, evidence), seconds in sorted(found.by("quantity", "evidence").items())
        if seconds > 0
    )


def _disagreements(measured: Measured) -> tuple[Disagreement, ...]:
    rows = []
    for key in measured.services():
        found = mean_over_steps(measured.now, "engine_agreement_steps", "agreement", labels_of(key))
        if found is not None and not AGREES[0] <= found <= AGREES[1]:
            cluster, model, engine, part, namespace = key
            rows.append(
                Disagreement(
                    cluster=cluster,
                    model=model,
                    engine=engine,
                    part=part,
                    namespace=namespace,
                    ratio=found,
                )
            )
    return tuple(rows)


# --- in words --------------------------------------------------------------------------------------


def _on_coverage(measured: Measured, covered: float, by_node: float | None) -> Iterator[str]:
    if measured.now.lack("recorded"):
        yield f"At least {render_percent(covered)} of the period was recorded; the rest was not answered."
    elif covered < ENOUGH:
        yield (
            f"Only {render_percent(covered)} of the period was recorded: every sum is of that part, and "
            "nothing is extrapolated."
        )
    shares = {} if measured.now.lack("recorded") else coverage_by_cluster(measured.now)
    for cluster, share in shares.items():
        if share < ENOUGH <= covered:
            name = cluster or "(no name)"
            yield f"Of cluster {name} only {render_percent(share)} of the period was recorded."
    first = measured.earliest_sample
    if first is not None and first > measured.span.start + HOUR_SECONDS:
        yield f"The first sample is of {instant(first):%Y-%m-%d %H:%M} UTC: what was before is not known."
    if by_node is not None and by_node < ENOUGH:
        yield f"Nodes were recorded for {render_percent(by_node)} of the time in which they were there."


def _on_sight(observed: float, unobserved: float) -> Iterator[str]:
    seen = ratio(observed, observed + unobserved)
    if seen is not None and seen < ENOUGH:
        yield f"Agents could not see their GPUs for {hours(unobserved):.0f} GPU hours."


def _on_evidence(evidence: tuple[EvidenceShare, ...]) -> Iterator[str]:
    for row in evidence:
        if row.quantity == "dram_bytes" and row.evidence == "none" and row.ratio > BLIND:
            yield f"For {render_percent(row.ratio)} of the GPU time nothing is known of memory traffic."


def _on_series(measured: Measured) -> Iterator[str]:
    now = measured.now
    for question, group, lacking in (
        ("gpu_bottleneck_seconds", "roofline.recorded.node", "what bounded GPUs"),
        ("model_gpu_bottleneck_seconds", "roofline.recorded.model", "what models did and cost"),
        ("node_gpu_bottleneck_seconds", "roofline.recorded.node", "which nodes are worst"),
    ):
        if not now[question] and not now.lack(question):
            yield (
                f"There is nothing of {now[question].question.record}, so {lacking} cannot be told: are the "
                f"rules of {group} loaded, and is what they record kept?"
            )


def _on_prices(measured: Measured) -> Iterator[str]:
    unpriced = unpriced_parts(measured.now)
    if unpriced:
        names = ", ".join(part or "an unknown GPU" for part in unpriced)
        yield f"There is no price of {names}: sums of money are without them."
    for (part,), seconds in sorted(measured.now["gpu_observed_seconds"].by("part").items()):
        share = measured.prices.priced_ratio(part)
        if seconds and part not in unpriced and share is not None and 0 < share < ALL_PRICED:
            yield (
                f"Of the hours of {part or 'unknown GPUs'} only {render_percent(share)} have a price: sums "
                "of money are without the others."
            )
    for key in measured.services():
        share = priced_ratio(measured, key)
        if 0 < share < ALL_PRICED:
            _, model, _, part, _ = key
            yield (
                f"{model} on {part or 'unknown GPUs'}: what it cost is known for {render_percent(share)} of "
                "its GPU hours at most."
            )
