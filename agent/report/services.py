"""Models as they are served: what each held, did and cost; and services together, as was asked for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from agent.report.accounts import TIMES, hours_by_class
from agent.report.answers import Answers
from agent.report.document import Batch, Group, Service, Trend
from agent.report.measured import (
    Measured,
    ServiceKey,
    answered_days,
    by_day,
    hours,
    known_by_day,
    labels_of,
    per_million,
    ratio,
    services_of,
    together,
)
from agent.report.prices import ENOUGH_PRICED
from agent.report.questions import OF_A_SERVICE

COST_OF_A_TOKEN = ("engine_cost_usd", "engine_generation_tokens")
NOBODY = "(no engine)"
"""The group of GPU time that no engine held."""
NO_TEAM = "(no label)"


def services(measured: Measured) -> tuple[Service, ...]:
    """By what they cost, else by how long they held GPUs; the most first."""
    rows = [_service(measured, key) for key in measured.services()]
    return tuple(sorted(rows, key=lambda row: (-(row.usd or 0.0), -row.gpu_hours, row.model, row.part)))


def _service(measured: Measured, key: ServiceKey) -> Service:
    now, labels = measured.now, labels_of(key)
    cluster, model, engine, part, namespace = key
    cost = now["engine_cost_usd"]
    by_class = hours_by_class(now["model_gpu_bottleneck_seconds"], **labels)
    held = sum(by_class.values())
    usd = cost.value(location="local", **labels)
    has_prices = is_priced(measured, key)
    had_prices = measured.prices_before.are_enough(part)
    has_costs = has_prices and not now.lack(*COST_OF_A_TOKEN)
    generated = now["engine_generation_tokens"].amount(**labels)
    moved = now["engine_dram_bytes"]
    flops, dram_bytes = now["engine_flops"].amount(**labels), moved.amount(**labels)
    used = together(*(cost.value(phase=phase, **labels) for phase in ("prefill", "decode")))
    return Service(
        cluster=cluster,
        model=model,
        engine=engine,
        part=part,
        namespace=namespace,
        gpus=held / measured.recorded_hours if measured.recorded_hours else 0.0,
        gpu_hours=held,
        hours_by_class=by_class,
        usd=usd,
        remote_usd=cost.value(location="remote", **labels),
        idle_usd=cost.value(location="local", phase="idle", **labels),
        prefill_usd=cost.value(location="local", phase="prefill", **labels),
        decode_usd=cost.value(location="local", phase="decode", **labels),
        generation_tokens=generated,
        prefill_tokens=now["engine_prefill_tokens"].amount(**labels),
        cached_prompt_tokens=now["engine_cached_prompt_tokens"].amount(**labels),
        requests=now["engine_requests"].amount(**labels),
        usd_per_million_tokens=usd_per_million(now, labels) if has_prices else None,
        usd_per_million_tokens_without_idle=per_million(used, generated) if has_costs else None,
        previous_usd_per_million_tokens=usd_per_million(measured.before, labels) if had_prices else None,
        joules_per_million_tokens=_joules(now, labels),
        previous_joules_per_million_tokens=_joules(measured.before, labels),
        flops=flops,
        dram_bytes=dram_bytes,
        intensity_flops_per_byte=(
            ratio(flops, dram_bytes) if flops and not now.lack("engine_flops", "engine_dram_bytes") else None
        ),
        batch=_batch(now, labels),
        weights_ratio=ratio(
            moved.value(phase="decode", traffic="weights", **labels), moved.value(phase="decode", **labels)
        ),
        preemptions=now["engine_preemptions"].amount(**labels),
    )


def is_priced(measured: Measured, key: ServiceKey) -> bool:
    """Unless too few of its GPU hours had a price, or how many had one was not answered."""
    return measured.prices.are_known and priced_ratio(measured, key) >= ENOUGH_PRICED


def priced_ratio(measured: Measured, key: ServiceKey) -> float:
    """The most of its GPU hours that can have had a price; 1 unless it is known that some had none."""
    cluster, _, _, part, _ = key
    labels = labels_of(key)
    usd = measured.now["engine_cost_usd"].amount(location="local", **labels)
    held = hours(measured.now["model_gpu_bottleneck_seconds"].amount(**labels))
    return measured.prices.priced_ratio_at_most(cluster, part, usd=usd, gpu_hours=held)


def usd_per_million(answers: Answers, labels: dict[str, str]) -> float | None:
    """Of output; GPUs on other nodes included."""
    if answers.lack(*COST_OF_A_TOKEN):
        return None
    paid = answers["engine_cost_usd"].value(**labels)
    return per_million(paid, answers["engine_generation_tokens"].amount(**labels))


def _joules(answers: Answers, labels: dict[str, str]) -> float | None:
    if answers.lack("engine_energy_joules", "engine_generation_tokens"):
        return None
    drawn = answers["engine_energy_joules"].value(**labels)
    return per_million(drawn, answers["engine_generation_tokens"].amount(**labels))


def _batch(answers: Answers, labels: dict[str, str]) -> Batch:
    return Batch(
        mean=mean_over_steps(answers, "engine_decode_sequence_steps", "decode_batch", labels),
        ridge=mean_over_steps(answers, "engine_ridge_sequence_steps", "ridge_batch", labels),
        kv_limit=mean_over_steps(answers, "engine_kv_limited_sequence_steps", "kv_limited_batch", labels),
        max_num_seqs=answers["max_num_seqs"].value(**labels),
    )


def mean_over_steps(answers: Answers, weighted: str, quantity: str, labels: dict[str, str]) -> float | None:
    """Of a quantity over the steps for which it was known."""
    if answers.lack("engine_known_steps", weighted):
        return None
    known = answers["engine_known_steps"].value(quantity=quantity, **labels)
    return ratio(answers[weighted].value(**labels), known)


# --- groups ----------------------------------------------------------------------------------------


def groups(measured: Measured, rows: tuple[Service, ...]) -> tuple[Group, ...]:
    """By cost, else by hours; what no engine held stands last, so that the groups sum to everything."""
    now: defaultdict[str, list[Service]] = defaultdict(list)
    before: defaultdict[str, list[ServiceKey]] = defaultdict(list)
    for row in rows:
        now[_group_of(measured, row.key)].append(row)
    for key in services_of(measured.before):
        before[_group_of(measured, key)].append(key)
    found = [_group(measured, name, now[name], before[name]) for name in {*now, *before}]
    found.sort(key=lambda group: (-(group.usd or 0.0), -group.gpu_hours, group.name))
    return (*found, *_nobody(measured, rows))


def _group_of(measured: Measured, key: ServiceKey) -> str:
    cluster, model, engine, part, namespace = key
    if measured.group_by.startswith("label:"):
        return measured.teams.get((cluster, namespace)) or NO_TEAM
    fields = {"namespace": namespace, "gpu": part, "cluster": cluster, "engine": engine}
    return fields.get(measured.group_by, model) or "(unknown)"


def _group(
    measured: Measured, name: str, rows: Sequence[Service], keys_before: Sequence[ServiceKey]
) -> Group:
    """Its services of now, and all that it had in the period before, whether they are still there or not."""
    held = sum(row.gpu_hours for row in rows)
    usd = together(*(row.usd for row in rows))
    generated = sum(row.generation_tokens for row in rows)
    cost_before, tokens_before = (
        measured.before[question] for question in ("engine_cost_usd", "engine_generation_tokens")
    )
    labels_before = [labels_of(key) for key in keys_before]
    usd_before = together(*(cost_before.value(location="local", **labels) for labels in labels_before))
    generated_before = sum(tokens_before.amount(**labels) for labels in labels_before)
    all_priced = not measured.now.lack(*COST_OF_A_TOKEN) and all(
        row.usd_per_million_tokens is not None for row in rows if row.generation_tokens
    )
    all_priced_before = not measured.before.lack(*COST_OF_A_TOKEN) and all(
        cost_before.value(**labels) is not None and measured.prices_before.are_enough(labels["part"])
        for labels in labels_before
        if tokens_before.amount(**labels)
    )
    return Group(
        name=name,
        gpu_hours=held,
        hours_by_class={one: sum(row.hours_by_class[one] for row in rows) for one in TIMES},
        usd=usd,
        ratio=ratio(held, _observed_hours(measured)) or 0.0,
        idle_usd=together(*(row.idle_usd for row in rows)),
        generation_tokens=generated,
        usd_per_million_tokens=per_million(usd, generated) if all_priced else None,
        previous_usd=usd_before,
        previous_usd_per_million_tokens=(
            per_million(usd_before, generated_before) if all_priced_before else None
        ),
    )


def _observed_hours(measured: Measured) -> float:
    return hours(measured.now["gpu_observed_seconds"].amount())


def _nobody(measured: Measured, rows: tuple[Service, ...]) -> Iterator[Group]:
    now = measured.now
    if now.lack("gpu_bottleneck_seconds", "model_gpu_bottleneck_seconds"):
        return  # what is left over may have been an engine's
    everything = hours_by_class(now["gpu_bottleneck_seconds"])
    left = {name: each - sum(row.hours_by_class[name] for row in rows) for name, each in everything.items()}
    rest = max(sum(left.values()), 0.0)
    usd = now["gpu_unattributed_cost_usd"].total
    if rest > 0.001 * _observed_hours(measured) or (usd or 0.0) > 0.001 * now["gpu_cost_usd"].amount():
        idle = now["gpu_idle_cost_usd"].total
        held_idle = together(*(row.idle_usd for row in rows))
        yield Group(
            name=NOBODY,
            gpu_hours=rest,
            hours_by_class={name: max(each, 0.0) for name, each in left.items()},
            usd=usd,
            ratio=ratio(rest, _observed_hours(measured)) or 0.0,
            idle_usd=None if idle is None else max(idle - (held_idle or 0.0), 0.0),
            generation_tokens=0.0,
            usd_per_million_tokens=None,
            previous_usd=measured.before["gpu_unattributed_cost_usd"].total,
            previous_usd_per_million_tokens=None,
        )


# --- day by day ------------------------------------------------------------------------------------


def trends(measured: Measured, rows: tuple[Service, ...]) -> tuple[Trend, ...]:
    """Each service, day by day."""
    now, span = measured.now, measured.span
    cost = now["engine_cost_usd"].steps(*OF_A_SERVICE)
    energy = now["engine_energy_joules"].steps(*OF_A_SERVICE)
    tokens = now["engine_generation_tokens"].steps(*OF_A_SERVICE)
    priced = answered_days(now, *COST_OF_A_TOKEN)
    metered = answered_days(now, "engine_energy_joules", "engine_generation_tokens")
    found = []
    for row in rows:
        key = row.key
        generated = by_day(tokens.get(key, {}), span)
        has_prices = is_priced(measured, key)
        usd = _of_days(known_by_day(cost.get(key, {}) if has_prices else {}, span), priced)
        joules = _of_days(known_by_day(energy.get(key, {}), span), metered)
        found.append(
            Trend(
                model=row.model,
                engine=row.engine,
                part=row.part,
                namespace=row.namespace,
                cluster=row.cluster,
                usd_per_million_tokens=tuple(map(per_million, usd, generated)),
                joules_per_million_tokens=tuple(map(per_million, joules, generated)),
                generation_tokens=tuple(generated),
            )
        )
    return tuple(found)


def _of_days(values: list[float | None], days: frozenset[int]) -> list[float | None]:
    return [value if day in days else None for day, value in enumerate(values)]
