"""Where hours and money went: by class, by GPU type, by day, by service and by group."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from agent.report.document import CLASSES, ClassTime, Day, Group, PartTime, Review, Service
from agent.report.measured import as_long, sums_compare
from agent.report.render.blocks import Block, Cell, Chart, Prose, Section, cell
from agent.report.render.fields import Field, numbers, table, worded
from agent.report.render.words import (
    CLASS_MEANINGS,
    CLASS_WORDS,
    KILO,
    amount,
    change,
    counted,
    hours,
    millions,
    money,
    percent,
    period_name,
    service_details,
    short_day,
)


def has_prices(review: Review) -> bool:
    """Whether anything is said about money at all."""
    return review.totals.paid_usd is not None


def since(review: Review, now: float | None, before: float | None) -> str:
    """A change with what it is compared with; empty when there is none to tell.

    There is none where a query was not answered: what is missing is no change.
    """
    text = change(now, before)
    return (
        f"{text} from {period_name(review.previous, brief=True)}"
        if text and review.previous is not None and review.is_complete
        else ""
    )


def sum_since(review: Review, now: float | None, before: float | None) -> str:
    """The same of a sum, by the recorded hour where those are not as many.

    It says nothing where much less was recorded of one period than of the other.
    """
    here, there = _recorded_hours(review)
    if not _sums_compare(review) or not there:
        return ""
    if as_long(here, there):
        return since(review, now, before)
    text = since(review, now, None if before is None else before * here / there)
    return f"{text}, per hour" if text else ""


def _sums_compare(review: Review) -> bool:
    return sums_compare(review.quality.coverage_ratio, review.previous_coverage_ratio)


def _recorded_hours(review: Review) -> tuple[float, float]:
    """Of this period and of the one before."""
    before = review.previous.hours * (review.previous_coverage_ratio or 0.0) if review.previous else 0.0
    return review.period.hours * review.quality.coverage_ratio, before


def compared_words(review: Review) -> str:
    """What the review is compared with, and what of it cannot be."""
    if review.previous is None:
        return "nothing to compare with"
    name = period_name(review.previous)
    if not review.is_complete or review.previous_coverage_ratio is None:
        return f"not compared with {name}, for not all queries were answered"
    here, there = _recorded_hours(review)
    if not _sums_compare(review):
        return (
            f"compared with {name}, of which {percent(review.previous_coverage_ratio)} was recorded, and "
            f"{percent(review.quality.coverage_ratio)} of this: quotients are compared, sums are not"
        )
    if as_long(here, there):
        return f"compared with {name}"
    return f"compared with {name}, sums by the hour: {amount(here)} were recorded, {amount(there)} then"


def hours_section(review: Review) -> Section:
    """Where the GPU hours went."""
    total = sum(each.gpu_hours for each in review.classes)
    blocks: tuple[Block, ...] = (
        Chart(
            name="parts",
            caption="GPU hours of all GPUs together, and of each type of GPU, by what bounded them.",
        ),
        Chart(
            name="classes",
            caption=(
                "What was paid for each class, and its share of the GPU hours."
                if has_prices(review)
                else "What each class took; the thin upright line is its share in the period before."
            ),
        ),
        _classes_table(review),
        Chart(
            name="days",
            caption=(
                "GPU hours of each day. Where less than the whole day was recorded, the share that was "
                "stands above it."
            ),
        ),
        _days_table(review),
        _parts_table(review),
    )
    return Section(
        key="hours",
        title="Where the GPU hours went",
        lead=(
            f"Each of {hours(total)} of GPU time is in exactly one class: what bounded the GPU just then. "
            "Time waiting for memory is not wasted time, but it is time in which a larger batch costs "
            "little."
        ),
        blocks=blocks if total > 0 else (Prose(text="No GPU hour was observed in this period."),),
    )


def _classes_table(review: Review) -> Block:
    fields: list[Field[ClassTime] | None] = [
        worded(
            "what bounded the GPU",
            lambda each: Cell(
                text=CLASS_WORDS.get(each.name, each.name),
                detail=CLASS_MEANINGS.get(each.name, ""),
                swatch=each.name,
            ),
        ),
        numbers("GPU hours", lambda each: cell(amount(each.gpu_hours))),
        numbers("share", lambda each: cell(percent(each.ratio))),
        numbers(
            f"in {period_name(review.previous, brief=True)}" if review.previous else "",
            lambda each: cell(None if each.previous_ratio is None else percent(each.previous_ratio)),
        )
        if review.previous
        else None,
        numbers("cost", lambda each: cell(None if each.usd is None else money(each.usd)))
        if has_prices(review)
        else None,
    ]
    return table("GPU hours by class", review.classes, fields, file="classes.csv")


def _days_table(review: Review) -> Block:
    priced = has_prices(review)
    fields: list[Field[Day] | None] = [
        worded("day", lambda each: cell(short_day(each.date))),
        numbers("recorded", lambda each: cell(percent(each.coverage_ratio))),
        numbers("GPU hours", lambda each: cell(amount(each.gpu_hours))),
        *(
            numbers(CLASS_WORDS[name], _class_share(name))
            for name in CLASSES
            if any(each.hours_by_class.get(name) for each in review.days)
        ),
        numbers("paid", lambda each: cell(_money(each.paid_usd))) if priced else None,
        numbers("$/M tokens", lambda each: cell(_money(each.usd_per_million_tokens))) if priced else None,
    ]
    made = table("Day by day", review.days, fields, file="days.csv", noun="day", top=0)
    return replace(made, rows=(), more=made.rows + made.more, more_words="Each day in numbers")


def _class_share(name: str) -> Callable[[Day], Cell]:
    return lambda each: _share(each.hours_by_class, name, each.gpu_hours)


def _share(of: dict[str, float], name: str, total: float) -> Cell:
    return cell(percent(of.get(name, 0.0) / total) if total > 0 else None)


def _parts_table(review: Review) -> Block:
    priced = has_prices(review)
    fields: list[Field[PartTime] | None] = [
        worded("GPU type", lambda each: Cell(text=each.part, detail=f"{amount(each.gpus)} GPUs on average")),
        numbers("GPU hours", lambda each: cell(amount(each.gpu_hours))),
        numbers("idle", lambda each: _share(each.hours_by_class, "idle", each.gpu_hours)),
        numbers(
            "memory busy",
            lambda each: cell(
                None if each.mean_dram_active_ratio is None else percent(each.mean_dram_active_ratio)
            ),
        ),
        numbers(
            "tensor cores busy",
            lambda each: cell(
                None if each.mean_tensor_active_ratio is None else percent(each.mean_tensor_active_ratio)
            ),
        ),
        numbers("$ an hour", lambda each: cell(_money(each.usd_per_gpu_hour))) if priced else None,
        numbers("paid", lambda each: cell(_money(each.paid_usd))) if priced else None,
        numbers("of it idle", lambda each: cell(_money(each.idle_usd))) if priced else None,
        numbers("held by no engine", lambda each: cell(_money(each.unattributed_usd))) if priced else None,
        numbers("output, M tokens", lambda each: cell(millions(each.generation_tokens))),
        numbers("$/M tokens", lambda each: cell(_money(each.usd_per_million_tokens))) if priced else None,
    ]
    return table("GPU types", review.parts, fields, file="parts.csv", noun="GPU type")


def _money(usd: float | None) -> str | None:
    return None if usd is None else money(usd)


def services_section(review: Review) -> Section:
    """What a million tokens costs, by model and GPU type."""
    priced = has_prices(review)
    several_clusters = len({each.cluster for each in review.services}) > 1
    fields: list[Field[Service] | None] = [
        worded(
            "model",
            lambda each: Cell(
                text=each.model, detail=service_details(each, several_clusters=several_clusters)
            ),
        ),
        worded("GPU type", lambda each: Cell(text=each.part, detail=f"{amount(each.gpus)} on average")),
        numbers(
            "GPU hours",
            lambda each: Cell(text=amount(each.gpu_hours), detail=_idle_words(each)),
        ),
        numbers(
            "paid",
            lambda each: Cell(
                text=_money(each.usd) or "–",
                detail=f"+ {money(each.remote_usd)} on other nodes" if each.remote_usd else "",
            ),
        )
        if priced
        else None,
        numbers("output, M tokens", lambda each: cell(millions(each.generation_tokens))),
        numbers(
            "$/M tokens",
            lambda each: Cell(
                text=_money(each.usd_per_million_tokens) or "–",
                detail=since(review, each.usd_per_million_tokens, each.previous_usd_per_million_tokens),
            ),
        )
        if priced
        else None,
        numbers("without idle", lambda each: cell(_money(each.usd_per_million_tokens_without_idle)))
        if priced
        else None,
        numbers(
            "kJ/M tokens",
            lambda each: Cell(
                text="–"
                if each.joules_per_million_tokens is None
                else amount(each.joules_per_million_tokens / KILO),
                detail=since(review, each.joules_per_million_tokens, each.previous_joules_per_million_tokens),
            ),
        ),
    ]
    blocks: tuple[Block, ...] = (
        table("Models as they are served", review.services, fields, file="services.csv", noun="model"),
    )
    scale = "Each has its own scale, which begins at 0; a day without output is a gap."
    if review.previous is not None:
        scale += f" The dotted line is the mean of {period_name(review.previous, brief=True)}."
    if priced:
        blocks += (Chart(name="trends_usd", caption=f"$ per million tokens of output, day by day. {scale}"),)
    blocks += (Chart(name="trends_joules", caption=f"Joules per million tokens of output. {scale}"),)
    return Section(
        key="services",
        title="What a million tokens costs" if priced else "What a million tokens takes",
        lead=(
            "By model and GPU type, per million tokens of output. Idle time of the GPUs that a model holds "
            "is part of its cost, since it is paid all the same."
        )
        if priced
        else "By model and GPU type. There are no prices, so energy and hours speak for cost.",
        blocks=blocks if review.services else (Prose(text="No engine held a GPU in this period."),),
    )


def _idle_words(each: Service) -> str:
    idle = each.hours_by_class.get("idle", 0.0)
    return f"{percent(idle / each.gpu_hours)} idle" if each.gpu_hours > 0 else ""


def groups_section(review: Review) -> Section:
    """The same by what was asked for."""
    priced = has_prices(review)
    what = review.selection.group_by.removeprefix("label:")
    fields: list[Field[Group] | None] = [
        worded(what, lambda each: cell(each.name)),
        numbers(
            "share",
            lambda each: Cell(text=percent(each.ratio), bar_ratio=each.ratio),
        ),
        numbers("GPU hours", lambda each: cell(amount(each.gpu_hours))),
        numbers("idle", lambda each: _share(each.hours_by_class, "idle", each.gpu_hours)),
        numbers(
            "paid",
            lambda each: Cell(
                text=_money(each.usd) or "–", detail=sum_since(review, each.usd, each.previous_usd)
            ),
        )
        if priced
        else None,
        numbers("of it idle", lambda each: cell(_money(each.idle_usd))) if priced else None,
        numbers("output, M tokens", lambda each: cell(millions(each.generation_tokens))),
        numbers(
            "$/M tokens",
            lambda each: Cell(
                text=_money(each.usd_per_million_tokens) or "–",
                detail=since(review, each.usd_per_million_tokens, each.previous_usd_per_million_tokens),
            ),
        )
        if priced
        else None,
    ]
    return Section(
        key="groups",
        title=f"By {what}",
        lead=f"{counted(len(review.groups), 'group')}; the share is of all observed GPU hours.",
        blocks=(table(f"By {what}", review.groups, fields, file="groups.csv", noun="group"),)
        if review.groups
        else (Prose(text="Nothing to group: no engine held a GPU in this period."),),
    )


def classes_of(by_class: dict[str, float]) -> tuple[tuple[str, float], ...]:
    """The classes that there was any time of, in the order in which all charts have them."""
    return tuple((name, by_class[name]) for name in CLASSES if by_class.get(name, 0.0) > 0)
