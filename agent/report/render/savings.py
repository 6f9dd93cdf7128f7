"""What to do: what the same traffic could be served by, and what wastes the most."""

from __future__ import annotations

from agent.report.document import Alternative, Offender, Review, RightSizing
from agent.report.render.blocks import Block, Entries, Entry, Prose, Section
from agent.report.render.fields import TOP
from agent.report.render.spending import has_prices
from agent.report.render.words import (
    UNKNOWN,
    amount,
    counted,
    hours,
    money,
    percent,
    service_details,
)
from agent.units import render_seconds

CONFIDENCE_WORDS = {
    "measured": "measured: sums of counters",
    "estimate": "an estimate: a model’s, with its assumptions",
    "low": "low: there is little to go by",
}
KIND_WORDS = {
    "fewer_replicas": "Fewer replicas",
    "other_gpu": "Another GPU",
    "quantized": "Quantized weights",
    "disaggregated": "Prefill and decode apart",
    "larger_batch": "A larger batch",
}
WORST = 10


def right_sizing_section(review: Review) -> Section:
    """What each model could be served by."""
    proposed = [each for each in review.right_sizing if each.alternatives]
    refused = [each for each in review.right_sizing if not each.alternatives]
    entries = tuple(_right_sizing_entry(review, each) for each in proposed)
    shown = TOP if len(entries) > TOP + 2 else len(entries)
    blocks: list[Block] = []
    if entries:
        more = entries[shown:]
        blocks.append(
            Entries(
                entries=entries[:shown],
                more=more,
                more_words=f"{counted(len(more), 'model')} more" if more else "",
            )
        )
    else:
        blocks.append(Prose(text="Nothing is proposed."))
    if refused:
        several_clusters = len({each.cluster for each in review.right_sizing}) > 1
        entries = tuple(
            Entry(
                title=each.model,
                aside="",
                facts=(each.part, service_details(each, several_clusters=several_clusters)),
                paragraphs=(("as it is, because", each.refused or UNKNOWN),),
            )
            for each in refused
        )
        blocks.append(
            Entries(
                entries=(),
                more=entries,
                more_words=f"{counted(len(entries), 'model')} without a proposal, and why",
            )
        )
    return Section(
        key="right_sizing",
        title="What the same traffic could be served by",
        lead=(
            "Sized for the busiest hour of the period, not for its mean. Savings of different proposals "
            "for one model do not add up: each is instead of the others."
        ),
        blocks=tuple(blocks) if review.right_sizing else (Prose(text="There was no traffic to size for."),),
    )


def _right_sizing_entry(review: Review, each: RightSizing) -> Entry:
    several_clusters = len({one.cluster for one in review.right_sizing}) > 1
    best = each.alternatives[0]
    traffic = (
        f"{amount(each.mean_requests_per_second)} requests/s, "
        f"{amount(each.busiest_hour_requests_per_second)} in the busiest hour; {amount(each.prompt_tokens)} "
        f"tokens in, {amount(each.output_tokens)} out"
    )
    today = f"{amount(each.gpus)} × {each.part}"
    if has_prices(review) and each.usd is not None:
        today += f" for {money(each.usd)}"
    return Entry(
        title=each.model,
        aside=_savings_words(review, best),
        facts=(today, service_details(each, several_clusters=several_clusters), traffic),
        paragraphs=tuple(
            (KIND_WORDS[one.kind], _alternative_words(review, one)) for one in each.alternatives
        ),
    )


def _savings_words(review: Review, each: Alternative) -> str:
    if has_prices(review) and each.savings_usd is not None:
        return f"saves {money(each.savings_usd)}"
    return (
        f"saves {percent(each.savings_ratio)}"
        if each.savings_ratio is not None and has_prices(review)
        else ""
    )


def _alternative_words(review: Review, each: Alternative) -> str:
    sentences = [_ended(each.what)]
    makeup = f"{each.gpus} × {each.gpu}, {each.weight_dtype} weights, batch {amount(each.batch)}"
    if has_prices(review) and each.usd is not None:
        makeup += f": {money(each.usd)} for the period"
        if each.savings_usd is not None:
            makeup += f", {money(each.savings_usd)} less"
            makeup += "" if each.savings_ratio is None else f" ({percent(each.savings_ratio)})"
        if each.usd_per_gpu_hour is not None:
            makeup += f", at {money(each.usd_per_gpu_hour)} an hour"
            makeup += f" ({each.price_origin})" if each.price_origin else ""
    sentences.append(_ended(makeup))
    pace = f"A token every {render_seconds(each.token_seconds)}"
    if each.present_token_seconds is not None:
        pace += f", against {render_seconds(each.present_token_seconds)} as it is now"
    sentences.append(_ended(pace))
    sentences.append(_ended(f"Confidence is {CONFIDENCE_WORDS[each.confidence]}; {each.because}"))
    return " ".join(sentences)


def offenders_section(review: Review) -> Section:
    """The worst ten, the worst first."""
    worst = review.offenders[:WORST]
    return Section(
        key="offenders",
        title="The worst offenders" if len(worst) != WORST else "The ten worst offenders",
        lead=(
            "What wasted the most, what to do about each, and what that is expected to save in such a month."
        ),
        blocks=(
            Entries(
                entries=tuple(_offender_entry(review, each) for each in worst),
                is_numbered=True,
                more=tuple(_offender_entry(review, each) for each in review.offenders[WORST:]),
                more_words=f"{len(review.offenders) - WORST} more" if len(review.offenders) > WORST else "",
            ),
        )
        if worst
        else (Prose(text="Nothing wasted enough to be named."),),
    )


def _offender_entry(review: Review, each: Offender) -> Entry:
    priced = has_prices(review) and each.usd is not None
    wasted = (f"{hours(each.gpu_hours)}, {percent(each.ratio)} of all",) if each.gpu_hours else ()
    subject = tuple(f"{name} {value}" for name, value in each.subject.items() if value)
    paragraphs = [("why", each.why), ("do", each.action)]
    if has_prices(review) and each.savings_usd is not None:
        paragraphs.append(
            ("saves", f"{money(each.savings_usd)} in such a month, of all that the service cost")
        )
    paragraphs.append(("confidence", CONFIDENCE_WORDS[each.confidence]))
    return Entry(
        title=each.title,
        aside=money(each.usd) if priced and each.usd is not None else hours(each.gpu_hours),
        facts=(*wasted, *subject),
        paragraphs=tuple(paragraphs),
        link=each.runbook_url,
        link_text=f"runbook {each.runbook}" if each.runbook else "",
        queries=each.queries,
    )


def _ended(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."
