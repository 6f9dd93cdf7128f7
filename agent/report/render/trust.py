"""Whether the numbers can be believed, and where each comes from."""

from __future__ import annotations

from collections.abc import Iterable

from agent.report.document import Disagreement, EvidenceShare, Gap, Identity, Problem, Review
from agent.report.render.blocks import Block, Cell, Prose, Section, cell
from agent.report.render.fields import Field, numbers, table, worded
from agent.report.render.words import UNKNOWN, amount, attainment, hours, instant, percent

QUANTITY_WORDS = {
    "dram_bytes": "DRAM bytes",
    "flops": "FLOPs",
    "dram_active": "DRAM activity",
    "tensor_active": "tensor activity",
    "sm_active": "SM activity",
}
EVIDENCE = ("gpm", "dcgm", "modelled", "none")


def warnings(review: Review) -> tuple[str, ...]:
    """What has to be read before any number; empty when the numbers can be believed as they are."""
    if not review.quality.is_poor and review.is_complete:
        return ()
    said = list(review.quality.remarks)
    if not review.is_complete:
        count = len(review.problems)
        queries = "some queries" if count == 0 else "one query" if count == 1 else f"{count} queries"
        said.append(
            f"This review is not complete: {queries} gave nothing, or not all. What is missing is in no sum."
        )
    if not said:
        said.append("The data behind this review is poor; its section below says what is missing.")
    return tuple(said)


def quality_section(review: Review) -> Section:
    """How much was recorded, and by which evidence."""
    quality = review.quality
    facts = [
        f"Of the period’s five minutes {attainment(quality.coverage_ratio)} were recorded; of each node, "
        "between its first and its last, "
        + (UNKNOWN if quality.node_coverage_ratio is None else attainment(quality.node_coverage_ratio))
        + ".",
        f"{hours(quality.observed_gpu_hours)} were observed, {hours(quality.unobserved_gpu_hours)} were not "
        f"although an agent ran, and for {hours(quality.contradicted_gpu_hours)} the evidence contradicts "
        "itself.",
        "The earliest sample is "
        + (UNKNOWN if quality.earliest_sample is None else f"of {instant(quality.earliest_sample)}")
        + ".",
    ]
    blocks: list[Block] = [Prose(text=remark, tone="alarm") for remark in quality.remarks]
    blocks += [Prose(text=text) for text in facts]
    if review.problems:
        problem_fields: list[Field[Problem]] = [
            worded("what is missing", lambda each: cell(each.what)),
            worded("because", lambda each: cell(each.message)),
            worded("from – to", lambda each: Cell(text=instant(each.start), detail=instant(each.end))),
        ]
        blocks.append(
            table("Queries that failed", review.problems, problem_fields, file="problems.csv", noun="query")
        )
    if quality.gaps:
        gap_fields: list[Field[Gap]] = [
            worded("nothing recorded from", lambda each: cell(instant(each.start))),
            worded("to", lambda each: cell(instant(each.end))),
            numbers("hours", lambda each: cell(amount(each.hours))),
        ]
        blocks.append(
            table("Gaps of an hour and more", quality.gaps, gap_fields, file="gaps.csv", noun="gap")
        )
    if quality.evidence:
        blocks.append(_evidence_table(quality.evidence))
    if quality.disagreements:
        disagreement_fields: list[Field[Disagreement]] = [
            worded("model", lambda each: Cell(text=each.model, detail=f"{each.engine} · {each.namespace}")),
            worded("GPUs", lambda each: cell(each.part)),
            numbers(
                "modelled ÷ measured",
                lambda each: Cell(text=f"{each.ratio:.2f}", detail="0.9 to 1.3 expected"),
            ),
        ]
        blocks.append(
            table(
                "Models that disagree with counters",
                quality.disagreements,
                disagreement_fields,
                file="disagreements.csv",
            )
        )
    return Section(
        key="quality",
        title="How good the data is",
        lead="What was recorded, what was not, and how much of it was measured rather than modelled.",
        blocks=tuple(blocks),
    )


def _evidence_table(shares: Iterable[EvidenceShare]) -> Block:
    by_quantity: dict[str, dict[str, float]] = {}
    for share in shares:
        by_quantity.setdefault(share.quantity, {})[share.evidence] = share.ratio
    names = [name for name in EVIDENCE if any(name in each for each in by_quantity.values())]
    names += sorted({name for each in by_quantity.values() for name in each} - set(names))

    def share_of(name: str) -> Field[tuple[str, dict[str, float]]]:
        return numbers(
            name,
            lambda row: (
                Cell(text=percent(row[1][name]), bar_ratio=row[1][name]) if name in row[1] else cell(None)
            ),
        )

    fields = [
        worded("quantity", lambda row: cell(QUANTITY_WORDS.get(row[0], row[0].replace("_", " ")))),
        *(share_of(name) for name in names),
    ]
    return table("Share of the time, by evidence", list(by_quantity.items()), fields, file="evidence.csv")


def identities_section(review: Review) -> Section:
    """Sums that must agree."""
    fields: list[Field[Identity]] = [
        worded("identity", lambda each: cell(each.name)),
        numbers("one way", lambda each: cell(amount(each.left))),
        numbers("the other", lambda each: cell(amount(each.right))),
        numbers("apart by", lambda each: cell(f"{each.error_ratio * 100:.2f} %")),
        worded(
            "",
            lambda each: Cell(text="holds") if each.holds else Cell(text="does not hold", tone="alarm"),
        ),
    ]
    broken = sum(not each.holds for each in review.identities)
    return Section(
        key="identities",
        title="Whether it adds up",
        lead=(
            "Time and money are conserved: each of these numbers is found in two ways. They may differ by "
            "1 %, since recorded increases are extrapolated to whole intervals."
            + (f" {broken} of {len(review.identities)} do not hold." if broken else "")
        ),
        blocks=(table("Identities", review.identities, fields, file="identities.csv", top=40),)
        if review.identities
        else (Prose(text="There is nothing to add up."),),
    )
