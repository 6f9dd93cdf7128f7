"""The month in five sentences: paid, spent on, what it cost, what changed, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.report.document import Attainment, ClassTime, Offender, RightSizing, Service, Totals
from agent.report.measured import Measured
from agent.units import render_number, render_percent

SAME = 0.02
"""A change that is not worth a word."""


def summary(
    measured: Measured,
    totals: Totals,
    before: Totals | None,
    classes: Sequence[ClassTime],
    services: Sequence[Service],
    slos: Sequence[Attainment],
    sizes: Sequence[RightSizing],
    worst: Sequence[Offender],
) -> tuple[str, ...]:
    """Five sentences; each stands where there is something to say, and says where there is not."""
    return (
        _paid(measured.name, totals),
        _spent(totals, classes),
        _cost(totals, services),
        f"{_changed(measured, totals, before)}; {_objectives(slos)}.",
        _to_do(totals, sizes, worst),
    )


def dollars(usd: float) -> str:
    """As people say it: `$1,234`, `$1.2 M`, `$0.043`."""
    if abs(usd) >= 1e6:
        return f"${render_number(usd / 1e6)} M"
    return f"${usd:,.0f}" if abs(usd) >= 100 else f"${render_number(usd)}"


def counted(number: float) -> str:
    """As people say it: `950`, `12.3 million`, `52.5 billion`."""
    for factor, word in ((1e12, "trillion"), (1e9, "billion"), (1e6, "million")):
        if number >= factor:
            return f"{render_number(number / factor)} {word}"
    return f"{number:,.0f}"


def _paid(name: str, totals: Totals) -> str:
    did = f"{counted(totals.generation_tokens)} tokens were generated"
    size = f"{totals.gpu_hours:,.0f} GPU hours ({render_number(totals.gpus)} GPUs on average)"
    if totals.paid_usd is None:
        return (
            f"In {name} {size} were watched, and {did}; there are no prices, so nothing here is in dollars."
        )
    return f"In {name} {dollars(totals.paid_usd)} was paid for {size}, and {did}."


def _spent(totals: Totals, classes: Sequence[ClassTime]) -> str:
    ranked = sorted((row for row in classes if row.ratio > 0), key=lambda row: -row.ratio)
    if not ranked:
        return "Where the GPU time went is not known."
    words = [f"{render_percent(row.ratio)} {_WORDS[row.name]}" for row in ranked[:3]]
    text = f"Of the GPU time {', '.join(words[:-1])}{' and ' if words[1:] else ''}{words[-1]}"
    if totals.idle_usd:
        text += f"; the idle hours cost {dollars(totals.idle_usd)}"
    return f"{text}."


_WORDS: Mapping[str, str] = {
    "memory_bandwidth": "waited for memory",
    "compute": "computed as fast as it can",
    "interconnect": "waited for other GPUs",
    "kernel_latency": "went into starting small kernels",
    "host": "waited for the host",
    "idle": "was idle",
    "unknown": "cannot be told",
}


def _cost(totals: Totals, services: Sequence[Service]) -> str:
    if totals.usd_per_million_tokens is None:
        return "What a token cost cannot be told."
    text = f"A million output tokens cost {dollars(totals.usd_per_million_tokens)}, everything included"
    priced = [row for row in services if row.usd_per_million_tokens is not None]
    if len(priced) > 1:
        cheap = min(priced, key=lambda row: row.usd_per_million_tokens or 0.0)
        dear = max(priced, key=lambda row: row.usd_per_million_tokens or 0.0)
        text += (
            f": from {dollars(cheap.usd_per_million_tokens or 0.0)} ({cheap.model} on {cheap.part}) to "
            f"{dollars(dear.usd_per_million_tokens or 0.0)} ({dear.model} on {dear.part})"
        )
    return f"{text}."


def _objectives(slos: Sequence[Attainment]) -> str:
    missed = [row for row in slos if row.objective_ratio is not None and row.ratio < row.objective_ratio]
    if not slos:
        return "no objective was measured"
    if missed:
        worst = missed[0]
        return f"{len(missed)} of {len(slos)} objectives were missed, worst {worst.slo} of {worst.model}"
    return f"all {len(slos)} objectives were met" if len(slos) > 1 else "the objective was met"


def _changed(measured: Measured, totals: Totals, before: Totals | None) -> str:
    name = measured.before_name
    if before is None:
        return f"There is nothing of {name} to compare with"
    pairs = [("the cost of a token", totals.usd_per_million_tokens, before.usd_per_million_tokens)]
    begin = f"Against {name}"
    if measured.sums_compare:
        pairs = [
            ("spending", totals.paid_usd, before.paid_usd),
            ("output", totals.generation_tokens, before.generation_tokens),
            *pairs,
        ]
    else:
        begin += f", of which only {render_percent(measured.coverage_before or 0.0)} was recorded,"
    changes = [f"{what} {_change(now / then - 1)}" for what, now, then in pairs if now is not None and then]
    return f"{begin} {', '.join(changes) or 'nothing can be compared'}"


def _change(ratio: float) -> str:
    if abs(ratio) < SAME:
        return "is the same"
    return f"is {'up' if ratio > 0 else 'down'} {render_percent(abs(ratio))}"


def _to_do(totals: Totals, sizes: Sequence[RightSizing], worst: Sequence[Offender]) -> str:
    if not worst:
        return "Nothing wasted an hour."
    first = worst[0]
    saved = sum(
        each.savings_usd or 0.0 for row in sizes for each in row.alternatives[:1] if each.confidence != "low"
    )
    wasted = (
        f"{first.gpu_hours:,.0f} GPU hours" if first.gpu_hours else "",
        dollars(first.usd) if first.usd is not None else "",
    )
    text = f"The worst is {first.title} ({', '.join(filter(None, wasted))})"
    if saved and totals.paid_usd:
        text += (
            f"; sized for their busiest hours, models would cost {dollars(saved)} less, an estimate of "
            f"{render_percent(saved / totals.paid_usd)} of what was paid"
        )
    return f"{text}."
