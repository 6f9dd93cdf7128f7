"""The whole review, in the order in which it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from agent.report.document import Review, Totals
from agent.report.render.blocks import Prose, Section
from agent.report.render.operation import (
    batch_section,
    losses_section,
    rooflines_section,
    slos_section,
)
from agent.report.render.savings import offenders_section, right_sizing_section
from agent.report.render.spending import (
    groups_section,
    has_prices,
    hours_section,
    services_section,
    since,
    sum_since,
)
from agent.report.render.trust import identities_section, quality_section
from agent.report.render.words import KILO, UNKNOWN, amount, energy, hours, millions, money, percent

SECTIONS: tuple[tuple[Callable[[Review], Section], tuple[str, ...]], ...] = (
    (hours_section, ("classes", "parts", "days")),
    (services_section, ("services", "trends")),
    (groups_section, ("groups",)),
    (rooflines_section, ("rooflines",)),
    (batch_section, ("batch", "services")),
    (losses_section, ("losses",)),
    (slos_section, ("slos",)),
    (right_sizing_section, ("right_sizing",)),
    (offenders_section, ("offenders",)),
    (quality_section, ("quality", "problems")),
    (identities_section, ("identities",)),
)
"""Each with the names in `Review.sources` that its numbers stand under."""
HEADLINE_SOURCES = ("totals", "summary")


def sections_of(review: Review) -> tuple[Section, ...]:
    """All of them."""
    return tuple(_finished(make(review), review, queries_of(review, names)) for make, names in SECTIONS)


def _finished(section: Section, review: Review, queries: tuple[str, ...]) -> Section:
    """With its queries and what was not answered of them; how to read it where there is something to."""
    is_bare = len(section.blocks) == 1 and isinstance(section.blocks[0], Prose)
    lacking = _lacking(review, queries)
    blocks = section.blocks
    if lacking and is_bare:
        blocks = (Prose(text=f"This cannot be told, for it was not answered: {lacking}.", tone="alarm"),)
    elif lacking:
        text = f"Not all of this was answered: {lacking}. Sums are too small for it, quotients may be wrong."
        blocks = (Prose(text=text, tone="alarm"), *blocks)
    return replace(section, queries=queries, lead="" if is_bare else section.lead, blocks=blocks)


def _lacking(review: Review, queries: tuple[str, ...]) -> str:
    """What of these was not answered of the period, or a piece of it."""
    problems = (each for each in review.problems if each.end > review.period.start)
    return "; ".join(dict.fromkeys(each.what for each in problems if {*each.queries} & {*queries}))


def queries_of(review: Review, names: tuple[str, ...]) -> tuple[str, ...]:
    """The ids of the queries under these names, each once."""
    return tuple(dict.fromkeys(each for name in names for each in review.sources.get(name, ())))


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One of the numbers at the top."""

    name: str
    value: str
    note: str
    """What it is a part of, or made of."""
    change: str
    """Against the period before; empty where there is nothing to compare with."""


def figures(review: Review) -> tuple[Figure, ...]:
    """The numbers at the top: money first where there are prices; none where nothing is recorded."""
    if review.quality.coverage_ratio == 0:
        return ()
    totals, before = review.totals, review.previous_totals

    def figure(name: str, value: str, now: float | None, then: float | None, note: str = "") -> Figure:
        return Figure(name=name, value=value, note=note, change=sum_since(review, now, then))

    def quotient(name: str, value: str, now: float | None, then: float | None, note: str = "") -> Figure:
        return Figure(name=name, value=value, note=note, change=since(review, now, then))

    def dollars(usd: float | None) -> str:
        return UNKNOWN if usd is None else money(usd)

    observed = hours(totals.gpu_hours)
    fleet = f"{amount(totals.gpus)} GPUs on average"
    if totals.nodes is not None:
        fleet = f"{amount(totals.gpus)} GPUs on {amount(totals.nodes)} nodes on average"
    shown = []
    if has_prices(review):
        for name, key, note in (
            ("paid", "paid_usd", _part(totals.unattributed_usd, totals.paid_usd, "held by no engine")),
            ("used", "used_usd", _part(totals.used_usd, totals.paid_usd, "of what was paid")),
            ("idle", "idle_usd", _part(totals.idle_usd, totals.paid_usd, "of what was paid")),
        ):
            now = getattr(totals, key)
            shown.append(figure(name, dollars(now), now, _of(before, key), note))
    shown.append(figure("GPU hours", observed, totals.gpu_hours, _of(before, "gpu_hours"), fleet))
    if not has_prices(review):
        shown += [
            figure(
                "idle",
                hours(totals.idle_gpu_hours),
                totals.idle_gpu_hours,
                _of(before, "idle_gpu_hours"),
                f"{hours(totals.idle_held_gpu_hours)} of it held",
            ),
            figure(
                "output, M tokens",
                millions(totals.generation_tokens),
                totals.generation_tokens,
                _of(before, "generation_tokens"),
                f"{amount(totals.requests)} requests",
            ),
        ]
    else:
        shown.append(
            quotient(
                "$/M tokens",
                dollars(totals.usd_per_million_tokens),
                totals.usd_per_million_tokens,
                _of(before, "usd_per_million_tokens"),
                f"of {millions(totals.generation_tokens)} M of output",
            )
        )
    per_token = totals.joules_per_million_tokens
    shown.append(
        quotient(
            "kJ/M tokens",
            UNKNOWN if per_token is None else amount(per_token / KILO),
            per_token,
            _of(before, "joules_per_million_tokens"),
            "" if totals.energy_joules is None else f"{energy(totals.energy_joules)} in all",
        )
    )
    return tuple(shown)


def _of(totals: Totals | None, field: str) -> float | None:
    value: float | None = None if totals is None else getattr(totals, field)
    return value


def _part(usd: float | None, of: float | None, words: str) -> str:
    return f"{percent(usd / of)} {words}" if usd is not None and of else ""


def fleet_totals(review: Review) -> tuple[str, ...]:
    """The totals that are no headline, in words."""
    if review.quality.coverage_ratio == 0:
        return ()
    totals = review.totals
    unallocated = totals.unallocated_usd
    lacking = _lacking(review, queries_of(review, HEADLINE_SOURCES))
    return (
        *((f"{money(unallocated)} unallocated, of boards in MIG mode",) if unallocated else ()),
        f"{millions(totals.generation_tokens)} M tokens of output",
        f"{millions(totals.prefill_tokens)} M prompt tokens computed",
        f"{millions(totals.cached_prompt_tokens)} M taken from the prefix cache",
        f"{amount(totals.requests)} requests",
        (
            f"{hours(totals.idle_gpu_hours)} idle, {hours(totals.idle_held_gpu_hours)} of them while "
            "something held the GPU"
        ),
        *((f"not all of this was answered: {lacking}",) if lacking else ()),
    )
