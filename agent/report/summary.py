"""The month in five sentences: paid, spent on, what it cost, what changed, what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.report.answers import Answers
from agent.report.document import Attainment, ClassTime, Offender, RightSizing, Service, Totals
from agent.report.measured import Measured, as_long, is_partly_priced, sums_compare
from agent.units import render_number, render_percent

SAME = 0.02
"""A change that is not worth a word."""
OFFENDING = (
    "model_gpu_bottleneck_seconds",
    "engine_cost_usd",
    "node_gpu_cost_usd",
    "node_gpu_unattributed_cost_usd",
    "node_gpu_bottleneck_seconds",
)
"""Without which what wasted most is not known."""


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
    """Five sentences; each stands where there is something to say, and says where there is not.

    A sum of which a piece was not answered is a least; what is made of it otherwise is not known.
    """
    now = measured.now
    return (
        _paid(measured, totals),
        _spent(measured, totals, classes),
        _cost(measured, totals, services),
        f"{_changed(measured, totals, before)}; {_objectives(now, slos)}.",
        _to_do(now, totals, services, sizes, worst),
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


def _paid(measured: Measured, totals: Totals) -> str:
    now, did = measured.now, _generated(measured.now, totals)
    size = f"{_least(now, 'gpu_observed_seconds')}{totals.gpu_hours:,.0f} GPU hours"
    if totals.gpus is not None and not now.lack("gpu_observed_seconds", "recorded"):
        size += f" ({render_number(totals.gpus)} GPUs on average)"
    if totals.paid_usd is None:
        why = (
            "what they cost was not answered"
            if now.lack("gpu_cost_usd")
            else "there are no prices, so nothing here is in dollars"
        )
        return f"In {measured.name} {size} were watched, and {did}; {why}."
    paid = f"{_least(now, 'gpu_cost_usd')}{dollars(totals.paid_usd)}"
    if is_partly_priced(measured):
        share = measured.prices.priced_ratio()
        those = (
            "those with a price" if share is None else f"the {render_percent(share)} of them that had a price"
        )
        return f"In {measured.name} {size} were watched, {paid} was paid for {those}, and {did}."
    return f"In {measured.name} {paid} was paid for {size}, and {did}."


def _least(answers: Answers, question: str) -> str:
    return "at least " if answers.lack(question) else ""


def _generated(answers: Answers, totals: Totals) -> str:
    if not answers["engine_generation_tokens"]:
        lacks = answers.lack("engine_generation_tokens")
        return "how many tokens were generated was not answered" if lacks else "no tokens were recorded"
    least = _least(answers, "engine_generation_tokens")
    return f"{least}{counted(totals.generation_tokens)} tokens were generated"


def _spent(measured: Measured, totals: Totals, classes: Sequence[ClassTime]) -> str:
    answers = measured.now
    ranked = sorted((row for row in classes if row.ratio > 0), key=lambda row: -row.ratio)
    if not ranked:
        return "Where the GPU time went is not known."
    words = [f"{render_percent(row.ratio)} {_WORDS[row.name]}" for row in ranked[:3]]
    of = "the GPU time that was answered for" if answers.lack("gpu_bottleneck_seconds") else "the GPU time"
    text = f"Of {of} {', '.join(words[:-1])}{' and ' if words[1:] else ''}{words[-1]}"
    if totals.idle_usd:
        least = "at least " if is_partly_priced(measured) else _least(answers, "gpu_idle_cost_usd")
        text += f"; the idle hours cost {least}{dollars(totals.idle_usd)}"
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


def _cost(measured: Measured, totals: Totals, services: Sequence[Service]) -> str:
    now = measured.now
    if now.lack("gpu_cost_usd", "engine_generation_tokens"):
        return "What a token cost cannot be told, for not all of it was answered."
    if totals.usd_per_million_tokens is None:
        return "What a token cost cannot be told."
    cost = dollars(totals.usd_per_million_tokens)
    if is_partly_priced(measured):
        return f"A million output tokens cost at least {cost}: not all GPU hours had a price."
    text = f"A million output tokens cost {cost}, everything included"
    priced = [row for row in services if row.usd_per_million_tokens is not None]
    if len(priced) > 1 and not now.lack("engine_cost_usd"):
        cheap = min(priced, key=lambda row: row.usd_per_million_tokens or 0.0)
        dear = max(priced, key=lambda row: row.usd_per_million_tokens or 0.0)
        text += (
            f": from {dollars(cheap.usd_per_million_tokens or 0.0)} ({cheap.model} on {cheap.part}) to "
            f"{dollars(dear.usd_per_million_tokens or 0.0)} ({dear.model} on {dear.part})"
        )
    return f"{text}."


def _objectives(answers: Answers, slos: Sequence[Attainment]) -> str:
    if answers.lack("engine_slo_events", "engine_slo_good_events", "slo_objective"):
        return "whether objectives were met cannot be told, for not all of it was answered"
    known = [row for row in slos if row.is_missed is not None]
    missed = [row for row in known if row.is_missed]
    if not known:
        return "whether objectives were met is not known" if slos else "no objective was measured"
    if missed:
        worst = missed[0]
        text = f"{len(missed)} of {len(known)} objectives were missed, worst {worst.slo} of {worst.model}"
    else:
        text = f"all {len(known)} objectives were met" if len(known) > 1 else "the objective was met"
    rest = len(slos) - len(known)
    return f"{text}, and of {rest} more it is not known" if rest else text


def _changed(measured: Measured, totals: Totals, before: Totals | None) -> str:
    name, share_before = measured.before_name, measured.coverage_before
    if not measured.is_complete:
        return f"Nothing is compared with {name}, for not all queries were answered"
    if before is None or share_before is None:
        return f"There is nothing of {name} to compare with"
    paid_before = before.paid_usd if measured.money_compares else None
    cost_before = before.usd_per_million_tokens if measured.money_compares else None
    pairs = [("the cost of a token", totals.usd_per_million_tokens, cost_before)]
    begin = f"Against {name}"
    if measured.sums_compare:
        here, there = measured.recorded_hours, share_before * measured.before.span.hours
        scale, per = (1.0, "") if as_long(here, there) else (here / there, " per hour")
        pairs = [
            (f"spending{per}", totals.paid_usd, _scaled(paid_before, scale)),
            (f"output{per}", totals.generation_tokens, before.generation_tokens * scale),
            *pairs,
        ]
    elif sums_compare(measured.recorded_hours / measured.span.hours, share_before):
        begin += ", when not as much of each cluster was recorded,"
    elif share_before < measured.recorded_hours / measured.span.hours:
        begin += f", of which only {render_percent(share_before)} was recorded,"
    else:
        begin += f", of which {render_percent(share_before)} was recorded and so more than of this,"
    changes = [f"{what} {_change(now / then - 1)}" for what, now, then in pairs if now is not None and then]
    return f"{begin} {', '.join(changes) or 'nothing can be compared'}"


def _scaled(usd: float | None, scale: float) -> float | None:
    return None if usd is None else usd * scale


def _change(ratio: float) -> str:
    if abs(ratio) < SAME:
        return "is the same"
    return f"is {'up' if ratio > 0 else 'down'} {render_percent(abs(ratio))}"


def _to_do(
    answers: Answers,
    totals: Totals,
    services: Sequence[Service],
    sizes: Sequence[RightSizing],
    worst: Sequence[Offender],
) -> str:
    lacks = answers.lack(*OFFENDING)
    if not worst:
        if lacks:
            return "What wasted most cannot be told, for not all of it was answered."
        return (
            "Nothing wasted enough to be named." if services else "No engine is known, nor what wasted most."
        )
    first = worst[0]
    saved = sum(
        each.savings_usd or 0.0 for row in sizes for each in row.alternatives[:1] if each.confidence != "low"
    )
    wasted = (
        f"{first.gpu_hours:,.0f} GPU hours" if first.gpu_hours else "",
        dollars(first.usd) if first.usd is not None else "",
    )
    of = " of what was answered" if lacks else ""
    text = f"The worst{of} is {first.title} ({', '.join(filter(None, wasted))})"
    if saved and totals.paid_usd and not answers.lack("gpu_cost_usd"):
        text += (
            f"; sized for their busiest hours, models would cost {dollars(saved)} less, an estimate of "
            f"{render_percent(saved / totals.paid_usd)} of what was paid"
        )
    return f"{text}."
