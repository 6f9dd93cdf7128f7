"""How the GPUs worked: on the roofline, at which batch, what was lost, and what users got."""

from __future__ import annotations

from agent.report.document import (
    Attainment,
    ClockLoss,
    FaultCount,
    RequestLoss,
    Review,
    Roofline,
    Service,
)
from agent.report.render.blocks import Block, Cell, Chart, Charts, Prose, Section, cell
from agent.report.render.fields import Field, numbers, table, worded
from agent.report.render.words import (
    UNKNOWN,
    amount,
    attainment,
    change,
    counted,
    hours,
    percent,
    period_name,
    service_details,
    short_day,
)
from agent.units import render_quantity

ROOFLINES = 6
"""So many are drawn, of the models with the most hours; all are in the table."""
SLO_WORDS = {"ttft": "time to first token", "inter_token": "time between tokens"}
REASON_WORDS = {
    "sw_power_cap": "the power limit",
    "hw_power_brake": "the power supply (hardware brake)",
    "sw_thermal": "heat",
    "hw_thermal": "heat (hardware)",
    "hw_slowdown": "hardware slowdown",
    "sync_boost": "sync boost with another GPU",
    "application_clocks": "application clocks that somebody set",
    "display_clock": "the display clock",
}
"""Why clocks were held down, from NVML's words."""


def drawn_rooflines(review: Review) -> tuple[Roofline, ...]:
    """Those with the most hours on the chart, the most first."""
    full = [each for each in review.rooflines if each.cells]
    return tuple(sorted(full, key=lambda each: -_on_chart(each))[:ROOFLINES])


def _on_chart(roofline: Roofline) -> float:
    return sum(each.gpu_hours for each in roofline.cells)


def memory_side_ratio(roofline: Roofline) -> float | None:
    """The share of its hours on the chart that lie below the ridge; `None` without any."""
    total = _on_chart(roofline)
    if total <= 0:
        return None
    below = [each for each in roofline.cells if each.intensity_flops_per_byte < roofline.ridge_flops_per_byte]
    return sum(each.gpu_hours for each in below) / total


def rooflines_section(review: Review) -> Section:
    """Where each model was on the roofline."""
    fields: list[Field[Roofline]] = [
        worded("model", lambda each: Cell(text=each.model, detail=f"{each.part}, {each.dtype}")),
        numbers("hours at work", lambda each: cell(amount(_on_chart(each)))),
        numbers("hours without work", lambda each: cell(amount(each.idle_gpu_hours))),
        numbers(
            "on the memory side",
            lambda each: cell(None if (ratio := memory_side_ratio(each)) is None else percent(ratio)),
        ),
        numbers("ridge, FLOP/byte", lambda each: cell(amount(each.ridge_flops_per_byte))),
        worded(
            "most often at",
            lambda each: cell(_busiest_words(each)),
        ),
    ]
    drawn = drawn_rooflines(review)
    rest = sum(1 for each in review.rooflines if each.cells) - len(drawn)
    return Section(
        key="rooflines",
        title="On the roofline",
        lead=(
            "Each square is a quarter of a decade wide and high; the stronger its colour, the more GPU "
            "hours were spent there. Below the slanted roof memory is the limit, below the level one the "
            "tensor cores. What matters is how far left of the ridge a model is, and how far below the "
            "roof."
        ),
        blocks=(
            Charts(
                names=tuple(f"roofline_{number}" for number in range(len(drawn))),
                caption=(
                    "FLOP/s of one GPU over FLOP per byte of DRAM traffic, both logarithmic; the numbers "
                    "are GPU hours."
                ),
                rest=f"Not drawn: {counted(rest, 'model')} with fewer hours; the table has all."
                if rest
                else "",
            ),
            table("Rooflines", review.rooflines, fields, file="roofline_cells.csv", noun="model"),
        )
        if review.rooflines
        else (Prose(text="There is no model of which work and traffic are both known."),),
    )


def _busiest_words(roofline: Roofline) -> str | None:
    if not roofline.cells:
        return None
    busiest = max(roofline.cells, key=lambda each: each.gpu_hours)
    return (
        f"{amount(busiest.intensity_flops_per_byte)} FLOP/byte, "
        f"{render_quantity(busiest.flops_per_second, 'FLOP/s')}"
    )


def batch_section(review: Review) -> Section:
    """Decode's batch, and what it is held to."""
    several_clusters = len({each.cluster for each in review.services}) > 1

    def optional(value: float | None) -> Cell:
        return cell(None if value is None else amount(value))

    fields: list[Field[Service]] = [
        worded(
            "model",
            lambda each: Cell(
                text=each.model,
                detail=f"{each.part} · {service_details(each, several_clusters=several_clusters)}",
            ),
        ),
        numbers("mean batch", lambda each: optional(each.batch.mean)),
        numbers("KV cache holds", lambda each: optional(each.batch.kv_limit)),
        numbers("max_num_seqs", lambda each: optional(each.batch.max_num_seqs)),
        numbers("ridge", lambda each: optional(each.batch.ridge)),
        numbers(
            "of bytes, weights",
            lambda each: cell(None if each.weights_ratio is None else percent(each.weights_ratio)),
        ),
        numbers("FLOP/byte", lambda each: optional(each.intensity_flops_per_byte)),
        numbers("preemptions", lambda each: cell(amount(each.preemptions))),
    ]
    return Section(
        key="batch",
        title="How large decode’s batch was, and could be",
        lead=(
            "Decode reads all weights for each step, however many sequences it serves: up to the ridge a "
            "larger batch is nearly free. Where the KV cache or max_num_seqs ends before the ridge, it is "
            "the limit."
        ),
        blocks=(
            Chart(
                name="batch",
                caption=(
                    "Sequences in a step, logarithmic. The band is what fits: it ends where the KV cache "
                    "is full or the scheduler stops."
                ),
            ),
            table("Batches", review.services, fields, file="services.csv", noun="model"),
        )
        if review.services
        else (Prose(text="No engine held a GPU in this period."),),
    )


# --- hours lost ---------------------------------------------------------------------------------------


def losses_section(review: Review) -> Section:
    """Hours that did nothing for anybody."""
    losses = review.losses
    clock_fields: list[Field[ClockLoss]] = [
        worded("GPU type", lambda each: cell(each.part)),
        worded(
            "clocks held down by",
            lambda each: cell(REASON_WORDS.get(each.reason, each.reason.replace("_", " "))),
        ),
        numbers("GPU hours", lambda each: cell(amount(each.gpu_hours))),
        numbers("of its hours", lambda each: Cell(text=percent(each.ratio), bar_ratio=each.ratio)),
    ]
    request_fields: list[Field[RequestLoss]] = [
        worded("model", lambda each: Cell(text=each.model, detail=f"{each.part} · {each.namespace}")),
        numbers("requests", lambda each: cell(amount(each.requests))),
        worded("without an answer", lambda each: cell(_outcome_words(each))),
        numbers("rejected", lambda each: cell(amount(each.rejected))),
        numbers("GPU hours, estimate", lambda each: _estimate(each.failed_gpu_hours_estimate)),
        numbers("preemptions", lambda each: cell(amount(each.preemptions))),
        numbers("GPU hours again, estimate", lambda each: _estimate(each.preempted_gpu_hours_estimate)),
    ]
    fault_fields: list[Field[FaultCount]] = [
        worded("GPU type", lambda each: cell(each.part)),
        worded("reported", lambda each: cell(each.kind)),
        numbers("times", lambda each: cell(amount(each.count))),
    ]
    blocks: list[Block] = []
    if losses.clocks:
        blocks.append(table("Clocks held down", losses.clocks, clock_fields, file="clock_losses.csv"))
        blocks.append(Prose(text="Reasons overlap, so these hours do not add up.", tone="quiet"))
    if losses.requests:
        blocks.append(
            table(
                "Requests without an answer, and work done twice",
                losses.requests,
                request_fields,
                file="request_losses.csv",
                noun="model",
            )
        )
    if losses.faults:
        blocks.append(table("Hardware that reports faults", losses.faults, fault_fields, file="faults.csv"))
    if losses.unobserved_gpu_hours > 0:
        text = f"For {hours(losses.unobserved_gpu_hours)} agents ran and could not see the GPU."
        blocks.append(Prose(text=text))
    return Section(
        key="losses",
        title="Hours lost",
        lead="Held down by power or heat, spent on requests that gave no answer, computed twice, or broken.",
        blocks=tuple(blocks) or (Prose(text="Nothing was lost that is recorded."),),
    )


def _estimate(gpu_hours: float | None) -> Cell:
    return cell(None if gpu_hours is None else f"≈ {amount(gpu_hours)}")


def _outcome_words(each: RequestLoss) -> str | None:
    outcomes = sorted(each.by_outcome.items(), key=lambda item: -item[1])
    return ", ".join(f"{amount(count)} {name}" for name, count in outcomes if count > 0) or None


# --- objectives ---------------------------------------------------------------------------------------


def slos_section(review: Review) -> Section:
    """How much of what users wanted they got."""
    several_clusters = len({each.cluster for each in review.slos}) > 1
    fields: list[Field[Attainment]] = [
        worded("model", lambda each: Cell(text=each.model, detail=each.cluster if several_clusters else "")),
        worded("objective", lambda each: Cell(text=slo_words(each.slo), detail=_objective_words(each))),
        numbers(
            "attained",
            lambda each: Cell(
                text=attainment(each.ratio),
                detail=_points(each, review),
                tone="alarm" if each.is_missed else "",
            ),
        ),
        numbers(
            "of the budget spent",
            lambda each: Cell(
                text=UNKNOWN if each.budget_spent_ratio is None else percent(each.budget_spent_ratio),
                tone="quiet" if each.budget_spent_ratio is None else "alarm" if each.is_missed else "",
            ),
        ),
        numbers(
            "worst day",
            lambda each: cell(
                None
                if each.worst_day is None or each.worst_day_ratio is None
                else f"{attainment(each.worst_day_ratio)} on {short_day(each.worst_day)}"
            ),
        ),
        numbers("events", lambda each: cell(amount(each.events))),
    ]
    return Section(
        key="slos",
        title="What users got",
        lead=(
            "An objective allows some bad events: its budget. A service may spend it; above 100 % the "
            "objective was missed. One that spends hardly any is served by more GPUs than it needs."
        ),
        blocks=(
            Chart(name="slos", caption="How much of each budget was spent."),
            table("Service level objectives", review.slos, fields, file="slos.csv", noun="objective"),
        )
        if review.slos
        else (Prose(text="No objective is configured, or no request was counted against one."),),
    )


def slo_words(slo: str) -> str:
    """An objective's name as people say it."""
    return SLO_WORDS.get(slo, slo.replace("_", " "))


def _objective_words(each: Attainment) -> str:
    return "" if each.objective_ratio is None else f"{attainment(each.objective_ratio)} wanted"


def _points(each: Attainment, review: Review) -> str:
    if each.previous_ratio is None or review.previous is None or not change(each.ratio, each.previous_ratio):
        return ""
    return f"{attainment(each.previous_ratio)} in {period_name(review.previous, brief=True)}"
