"""The month in five sentences: paid, spent on, what it cost, what changed, what to do."""

from __future__ import annotations

from collections.abc import Sequence

from agent.report.document import Attainment, ClassTime, Offender, RightSizing, Service, Totals
from agent.roofline.bottleneck import WORDS
from agent.units import render_number, render_percent, render_quantity

SAME = 0.02
"""A change that is not worth a word."""


def summary(
    name: str,
    totals: Totals,
    before: Totals | None,
    before_name: str,
    classes: Sequence[ClassTime],
    services: Sequence[Service],
    slos: Sequence[Attainment],
    sizes: Sequence[RightSizing],
    worst: Sequence[Offender],
) -> tuple[str, ...]:
    """Five sentences; each stands where there is something to say, and says where there is not."""
    return (
        _paid(name, totals),
        _spent(totals, classes),
        _cost(totals, services),
        _changed(totals, before, before_name, slos),
        _to_do(totals, sizes, worst),
    )


def dollars(usd: float) -> str:
    """As people say it: `$1,234`, `$1.2 M`, `$0.043`."""
    if abs(usd) >= 1e6:
        return f"${render_number(usd / 1e6)} M"
    return f"${usd:,.0f}" if abs(usd) >= 100 else f"${render_number(usd)}"


def _paid(name: str, totals: Totals) -> str:
    did = f"{render_quantity(totals.generation_tokens, '').strip()} tokens generated"
    size = f"{totals.gpu_hours:,.0f} GPU hours ({render_number(totals.gpus)} GPUs on average)"
    if totals.paid_usd is None:
        return (
            f"In {name} {size} were watched, and {did}; there are no prices, so nothing here is in dollars."
        )
    return f"In {name} {dollars(totals.paid_usd)} paid for {size}, and {did}."


def _spent(totals: Totals, classes: Sequence[ClassTime]) -> str:
    ranked = sorted((row for row in classes if row.ratio > 0), key=lambda row: -row.ratio)
    if not ranked:
        return "Where the GPU time went is not known."
    words = [f"{render_percent(row.ratio)} {_word(row.name)}" for row in ranked[:3]]
    text = f"Of the GPU time {', '.join(words[:-1])}{' and ' if words[1:] else ''}{words[-1]}"
    if totals.idle_usd:
        text += f"; the idle hours cost {dollars(totals.idle_usd)}"
    return f"{text}."


def _word(name: str) -> str:
    if name == "idle":
        return "was idle"
    if name == "unknown":
        return "went nobody knows where"
    if name == "compute":
        return "computed at the compute roof"
    return f"waited for {next(words for each, words in WORDS.items() if each == name)}"


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


def _changed(totals: Totals, before: Totals | None, before_name: str, slos: Sequence[Attainment]) -> str:
    missed = [row for row in slos if row.objective_ratio is not None and row.ratio < row.objective_ratio]
    if not slos:
        objectives = "no objective was measured"
    elif missed:
        objectives = (
            f"{len(missed)} of {len(slos)} objectives were missed, worst {missed[0].model} ({missed[0].slo})"
        )
    else:
        objectives = f"all {len(slos)} objectives were met" if len(slos) > 1 else "the objective was met"
    if before is None:
        return f"There is nothing of {before_name} to compare with; {objectives}."
    pairs = (
        ("spending", totals.paid_usd, before.paid_usd),
        ("output", totals.generation_tokens, before.generation_tokens),
        ("the cost of a token", totals.usd_per_million_tokens, before.usd_per_million_tokens),
    )
    changes = [f"{what} {_change(now / then - 1)}" for what, now, then in pairs if now is not None and then]
    return f"Against {before_name} {', '.join(changes) or 'nothing can be compared'}; {objectives}."


def _change(ratio: float) -> str:
    if abs(ratio) < SAME:
        return "is the same"
    return f"is {'up' if ratio > 0 else 'down'} {render_percent(abs(ratio))}"


def _to_do(totals: Totals, sizes: Sequence[RightSizing], worst: Sequence[Offender]) -> str:
    if not worst:
        return "Nothing wasted an hour."
    first = worst[0]
    saved = sum(max((each.savings_usd or 0.0 for each in row.alternatives), default=0.0) for row in sizes)
    text = f"The worst is {first.title} ({first.gpu_hours:,.0f} GPU hours"
    text += f", {dollars(first.usd)})" if first.usd is not None else ")"
    if saved and totals.paid_usd:
        text += (
            f"; sized for their busiest hours, models would cost {dollars(saved)} less, an estimate of "
            f"{render_percent(saved / totals.paid_usd)} of what was paid"
        )
    return f"{text}."
