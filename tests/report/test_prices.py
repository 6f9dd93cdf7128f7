"""What is priced, and what is proposed for it: by what was paid, of what was priced, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from agent.report.accounts import days, parts, totals
from agent.report.answers import Answer, Answers, Piece
from agent.report.document import Alternative, Offender, RightSizing
from agent.report.losses import losses
from agent.report.measured import Measured
from agent.report.offenders import offenders
from agent.report.period import DAY_SECONDS, HOUR_SECONDS, Span
from agent.report.positions import rooflines
from agent.report.prices import NEEDED, Prices
from agent.report.quality import quality
from agent.report.questions import BY_ID
from agent.report.right_sizing import right_sizing
from agent.report.services import groups, services, trends
from agent.report.summary import summary

H100, L40S = "H100-SXM5-80GB", "L40S"
SPAN = Span(start=0, end=DAY_SECONDS)
SAMPLES = DAY_SECONDS / 300
KEY = ("a", "llama-3.1-8b-instruct", "vllm", H100, "chat")
Rows = Mapping[str, Mapping[Any, Mapping[int, float]]]


def answers(rows: Rows, *, span: Span = SPAN, missing: str = "") -> Answers:
    piece = Piece(span=span, reason="refused")
    ids = {*rows, missing} - {""}
    return Answers(
        span=span,
        by_id={
            name: Answer(
                question=BY_ID[name], rows=rows.get(name, {}), missing=(piece,) if name == missing else ()
            )
            for name in ids
        },
    )


def measured(rows: Rows, *, before: Rows | None = None, missing: str = "", span: Span = SPAN) -> Measured:
    return Measured(
        name="this",
        now=answers(rows, span=span, missing=missing),
        before_name="that",
        before=answers({name: rows for name, rows in (before or {}).items() if BY_ID[name].also_before}),
        earliest_sample=0,
        group_by="model",
        teams={},
    )


def node(
    instance: str,
    gpus: float,
    usd_per_hour: float | None,
    *,
    part: str = H100,
    cluster: str = "a",
    unallocated: float = 0.0,
    priced: float = 1.0,
) -> Rows:
    """A day of one: `priced` is the share of it in which there was a price."""
    seconds, key = gpus * DAY_SECONDS, (cluster, instance, part)
    rows: dict[str, dict[Any, dict[int, float]]] = {
        "node_recorded": {key: {0: SAMPLES}},
        "recorded": {(cluster, part): {hour * HOUR_SECONDS: 12.0 for hour in range(24)}},
    }
    if gpus:
        rows["node_gpu_bottleneck_seconds"] = {(*key, "compute"): {0: seconds}}
        rows["gpu_observed_seconds"] = {(part,): {0: seconds}}
        rows["gpu_bottleneck_seconds"] = {(part, "compute"): {0: seconds}}
    if usd_per_hour is not None:
        usd = gpus * 24 * usd_per_hour * priced + unallocated
        rows["node_priced"] = {key: {0: SAMPLES * priced}}
        rows["node_gpu_cost_usd"] = {key: {0: usd}}
        rows["gpu_cost_usd"] = {(part,): {0: usd}}
    if unallocated:
        rows["node_gpu_unallocated_cost_usd"] = {key: {0: unallocated}}
        rows["node_gpu_unattributed_cost_usd"] = {key: {0: unallocated}}
    return rows


def service(
    gpus: float,
    usd_per_hour: float | None,
    *,
    key: tuple[str, ...] = KEY,
    tensor_parallel: int = 1,
    hourly: Mapping[int, float] | None = None,
) -> Rows:
    """A day of one with little traffic, which two GPUs could do."""
    requests = hourly or {hour * HOUR_SECONDS: 360.0 for hour in range(24)}
    count = sum(requests.values())
    rows: dict[str, dict[Any, dict[int, float]]] = {
        "model_gpu_bottleneck_seconds": {(*key, "memory_bandwidth"): {0: gpus * DAY_SECONDS}},
        "engine_generation_tokens": {key: {0: 200.0 * count}},
        "engine_prefill_tokens": {key: {0: 300.0 * count}},
        "engine_requests": {(*key, "stop"): {0: count}},
        "hourly_engine_requests": {key: dict(requests)},
        "engines": {(*key, str(tensor_parallel), "1", "bf16", "bf16"): {0: gpus * SAMPLES}},
        "max_num_seqs": {key: {0: 256.0}},
    }
    if usd_per_hour is not None:
        rows["engine_cost_usd"] = {(*key, "decode", "local"): {0: gpus * 24 * usd_per_hour}}
    return rows


def together(*given: Rows) -> Rows:
    found: dict[str, dict[Any, dict[int, float]]] = {}
    for rows in given:
        for name, answer in rows.items():
            for key, row in answer.items():
                own = found.setdefault(name, {}).setdefault(key, {})
                for at, value in row.items():
                    own[at] = value if name == "recorded" else own.get(at, 0.0) + value
    return found


def sized(of: Measured) -> RightSizing:
    (one,) = right_sizing(of, services(of), quality(of, is_complete=True), {})
    return one


def proposed(row: RightSizing, kind: str) -> Alternative:
    return next(each for each in row.alternatives if each.kind == kind)


def worst(of: Measured) -> tuple[Offender, ...]:
    served = services(of)
    return offenders(of, served, (), losses(of, served))


# --- what an hour was paid at -------------------------------------------------------------------------


def test_hours_without_a_price_are_in_no_price() -> None:
    """Twelve GPUs of another node have none: an hour of the four is not a quarter of what it is."""
    found = measured(together(node("one", 4, 3.0), node("two", 12, None)))
    (row,) = parts(found)
    assert row.usd_per_gpu_hour == pytest.approx(3.0)
    assert row.paid_usd == pytest.approx(4 * 24 * 3.0)
    assert row.usd_per_million_tokens is None
    assert found.prices.priced_ratio(H100) == pytest.approx(0.25)


def test_a_price_of_half_the_time_is_of_half_the_hours() -> None:
    (row,) = parts(measured(node("one", 4, 3.0, priced=0.5)))
    assert row.usd_per_gpu_hour == pytest.approx(3.0)


def test_what_is_unallocated_makes_no_hour_dearer() -> None:
    (row,) = parts(measured(node("one", 4, 3.0, unallocated=100.0)))
    assert row.usd_per_gpu_hour == pytest.approx(3.0)


def test_instances_are_no_gpus() -> None:
    """Seven hours of an instance are paid like one of a GPU; whole ones beside them cost what they did."""
    found = measured(together(node("one", 4, 3.0), node("two", 7, 0.4, part=f"{H100} MIG")))
    by_part = {row.part: row.usd_per_gpu_hour for row in parts(found)}
    assert by_part[H100] == pytest.approx(3.0)
    assert by_part[f"{H100} MIG"] is None


def test_a_part_that_has_only_boards_is_there() -> None:
    (row,) = parts(measured(node("one", 0, 3.0, unallocated=100.0)))
    assert (row.part, row.paid_usd, row.gpu_hours, row.usd_per_gpu_hour) == (H100, 100.0, 0.0, None)


@pytest.mark.parametrize("question", NEEDED)
def test_sums_of_other_hours_make_no_price(question: str) -> None:
    """A piece that was not answered is in one sum and not in the other."""
    assert not Prices.of(answers(node("one", 4, 3.0, unallocated=1.0), missing=question)).nodes


@pytest.mark.parametrize("question", NEEDED)
def test_where_nobody_knows_what_was_priced_nothing_is_divided_by_all(question: str) -> None:
    rows = together(node("one", 8, 4.0, priced=0.5, unallocated=1.0), service(8, 2.0))
    found = measured(rows, missing=question)
    (row,) = services(found)
    assert row.usd_per_million_tokens is None
    assert totals(found.now).usd_per_million_tokens is None
    assert parts(found)[0].usd_per_million_tokens is None
    assert {day.usd_per_million_tokens for day in days(found)} == {None}
    assert {*trends(found, (row,))[0].usd_per_million_tokens} == {None}
    assert "not answered" in sized(found).refused


def test_days_before_there_was_a_price_were_not_free() -> None:
    rows: Rows = {
        "gpu_cost_usd": {(H100,): {DAY_SECONDS: 72.0}},
        "engine_cost_usd": {(*KEY, "decode", "local"): {DAY_SECONDS: 72.0}},
        "engine_generation_tokens": {KEY: {0: 1e6, DAY_SECONDS: 1e6}},
        "gpu_observed_seconds": {(H100,): {0: 86400.0, DAY_SECONDS: 86400.0}},
    }
    found = measured(rows, span=Span(start=0, end=2 * DAY_SECONDS))
    assert [day.paid_usd for day in days(found)] == [None, 72.0]
    assert [day.usd_per_million_tokens for day in days(found)] == [None, 72.0]
    (trend,) = trends(found, services(found))
    assert trend.usd_per_million_tokens == (None, 72.0)


def test_services_without_a_price_for_some_hours_are_said() -> None:
    """Two of its four GPUs are on a node without one: what its tokens cost is not known."""
    found = measured(together(node("one", 2, 3.0), node("two", 2, None), service(4, 1.5)))
    remarks = " ".join(quality(found, is_complete=True).remarks)
    assert f"Of the hours of {H100} only 50 % have a price" in remarks
    assert "llama-3.1-8b-instruct" in remarks
    assert "known for 50 % of its GPU hours at most" in remarks
    (row,) = services(found)
    assert row.usd == pytest.approx(144.0)
    assert row.usd_per_million_tokens is None
    assert row.usd_per_million_tokens_without_idle is None
    assert groups(found, (row,))[0].usd_per_million_tokens is None
    assert totals(found.now).usd_per_million_tokens is None
    assert "50 %" in sized(found).refused


def test_services_on_priced_nodes_are_not_touched_by_others() -> None:
    found = measured(together(node("one", 4, 3.0), node("two", 12, None), service(4, 3.0)))
    (row,) = services(found)
    assert row.usd_per_million_tokens is not None
    assert not any("known for" in remark for remark in quality(found, is_complete=True).remarks)


def test_money_is_not_compared_where_less_of_one_period_had_a_price() -> None:
    """Prices came in the middle of the one before: nothing became dearer."""
    whole = together(node("one", 4, 2.0), service(4, 2.0))
    half = together(node("one", 4, 2.0, priced=0.5), service(4, 1.0))
    for now, before in ((whole, half), (half, whole)):
        found = measured(now, before=before)
        said = summary(found, totals(found.now), totals(found.before), (), services(found), (), (), ())[3]
        assert "output is the same" in said
        assert "spending" not in said
        assert "cost of a token" not in said
    found = measured(whole, before=half)
    (row,) = services(found)
    assert row.previous_usd_per_million_tokens is None
    assert groups(found, (row,))[0].previous_usd_per_million_tokens is None
    assert totals(found.before).usd_per_million_tokens is None


@pytest.mark.parametrize(("share", "said"), [(0.5, "50 %"), (0.92, "92 %")])
def test_money_of_a_part_of_the_hours_is_not_said_to_be_of_all(share: float, said: str) -> None:
    found = measured(together(node("one", 4, 2.0, priced=share), service(4, 2.0 * share)))
    paid, _, cost, *_ = summary(found, totals(found.now), None, (), services(found), (), (), ())
    assert f"was paid for the {said} of them that had a price" in paid
    assert "everything included" not in cost


def test_a_cluster_that_was_recorded_for_half_of_the_time_saves_nothing() -> None:
    now, other = node("one", 4, 2.0), node("two", 2, 2.0, cluster="b")
    before = together(now, node("two", 4, 2.0, cluster="b"))
    assert measured(before, before=before).sums_compare
    half = {("b", H100): dict.fromkeys(range(0, DAY_SECONDS // 2, HOUR_SECONDS), 12.0)}
    rows = together(now, other)
    found = measured({**rows, "recorded": {**rows["recorded"], **half}}, before=before)
    said = summary(found, totals(found.now), totals(found.before), (), (), (), (), ())[3]
    assert "spending" not in said
    assert "not as much of each cluster" in said
    assert "Of cluster b only 50 % of the period was recorded." in quality(found, is_complete=True).remarks


# --- right-sizing ---------------------------------------------------------------------------------------


def test_a_service_is_sized_at_the_price_that_it_paid() -> None:
    """With the whole part's quotient eight GPUs for two would be a saving of 94 %; it is 75 %."""
    row = sized(measured(together(node("one", 8, 3.0), node("two", 24, None), service(8, 3.0))))
    fewer = proposed(row, "fewer_replicas")
    assert fewer.usd_per_gpu_hour == pytest.approx(3.0)
    assert fewer.price_origin == "measured"
    assert fewer.usd == pytest.approx(fewer.gpus * 3.0 * 24)
    assert fewer.savings_ratio == pytest.approx(1 - fewer.gpus / 8)


def test_a_dear_service_saves_nothing_because_others_are_cheap() -> None:
    """Its node has another price than most: the two GPUs that it needs cost what they did."""
    row = sized(measured(together(node("one", 2, 4.0), node("two", 30, 1.0), service(2, 4.0))))
    assert not [each for each in row.alternatives if each.kind == "fewer_replicas"]


def test_other_gpus_cost_what_they_do_in_the_same_cluster() -> None:
    dear = node("three", 4, 0.1, part=L40S)
    cheap = node("four", 40, 0.02, part=L40S, cluster="b")
    own = together(node("one", 8, 3.0), service(8, 3.0))
    here = proposed(sized(measured(together(own, dear, cheap))), "other_gpu")
    assert here.gpu == L40S
    assert here.usd_per_gpu_hour == pytest.approx(0.1)
    assert here.price_origin == "measured"
    there = proposed(sized(measured(together(own, cheap))), "other_gpu")
    assert there.gpu == L40S
    assert there.usd_per_gpu_hour == pytest.approx(0.02)
    assert there.price_origin == "paid in other clusters"
    assert there.confidence == "low"


def test_services_on_instances_are_not_sized() -> None:
    """Nor do they stand below the roof of a whole GPU."""

    def on(part: str) -> Measured:
        key = (*KEY[:3], part, KEY[4])
        rows = together(node("one", 7, 0.4, part=part), service(7, 0.4, key=key))
        hour = {"busy_seconds": 3600.0, "engine_flops": 1e17, "engine_dram_bytes": 1e15}
        return measured(together(rows, {f"hourly_{name}": {key: {0: value}} for name, value in hour.items()}))

    row = sized(on(f"{H100} MIG"))
    assert "MIG instances" in row.refused
    assert not row.alternatives
    assert rooflines(on(H100))
    assert not rooflines(on(f"{H100} MIG"))


def test_gpus_on_other_nodes_are_among_those_that_are_replaced() -> None:
    rows = together(
        node("one", 4, 3.0), service(4, 3.0), {"engine_cost_usd": {(*KEY, "decode", "remote"): {0: 288.0}}}
    )
    row = sized(measured(rows))
    assert row.gpus == pytest.approx(8)
    assert "instead of 8 GPUs" in proposed(row, "fewer_replicas").what


def test_a_cluster_of_which_half_was_recorded_is_sized_for_that_half() -> None:
    """Of another everything was recorded: eight GPUs stay eight, and two cost a quarter of them."""
    half = dict.fromkeys(range(0, DAY_SECONDS // 2, HOUR_SECONDS), 12.0)
    rows = together(node("one", 4, 3.0), service(4, 3.0))
    whole = dict.fromkeys(range(0, DAY_SECONDS, HOUR_SECONDS), 12.0)
    row = sized(measured({**rows, "recorded": {("a", H100): half, ("b", H100): whole}}))
    assert row.gpus == pytest.approx(8)
    fewer = proposed(row, "fewer_replicas")
    assert fewer.savings_ratio == pytest.approx(1 - fewer.gpus / 8)
    assert fewer.confidence == "low"


@pytest.mark.parametrize("question", ["hourly_engine_requests", "engines", "engine_cost_usd"])
def test_what_was_not_answered_sizes_nothing(question: str) -> None:
    rows = together(node("one", 8, 3.0), service(8, 3.0))
    assert "not answered" in sized(measured(rows, missing=question)).refused


def test_the_busiest_hour_is_of_what_was_recorded_of_it() -> None:
    """Of one hour a half was recorded, of another a quarter, which says nothing."""
    rows = together(
        node("one", 8, 3.0),
        service(8, 3.0, hourly={0: 720.0, HOUR_SECONDS: 600.0, 2 * HOUR_SECONDS: 700.0}),
    )
    recorded = {0: 12.0, HOUR_SECONDS: 6.0, 2 * HOUR_SECONDS: 3.0}
    of_another = {("b", H100): dict.fromkeys(recorded, 12.0)}
    found = measured({**rows, "recorded": {("a", H100): recorded, **of_another}})
    assert sized(found).busiest_hour_requests_per_second == pytest.approx(600 / 1800)


# --- the worst ------------------------------------------------------------------------------------------


def test_hours_below_a_lower_roof_are_no_money_and_never_the_worst() -> None:
    """The GPU worked: they stand last, though they are the most, with prices and without."""
    limited = {"node_gpu_clock_limited_seconds": {("a", "one", H100, "sw_power_cap"): {0: 8 * 86400.0}}}
    idle = {"model_gpu_bottleneck_seconds": {(*KEY, "idle"): {0: 86400.0}}}
    for price in (3.0, None):
        rows = together(node("one", 8, price), service(7, price), idle, limited)
        first, *_, last = worst(measured(rows))
        assert first.kind == "idle_held"
        assert (last.kind, last.usd) == ("clocks_power", None)


def test_what_no_instance_has_is_named_and_counted_once() -> None:
    rows = together(node("one", 0, 3.0, unallocated=500.0), node("two", 4, 3.0, unallocated=40.0))
    found = worst(measured(rows))
    assert [(row.kind, row.subject["instance"], row.usd) for row in found] == [
        ("unallocated", "one", 500.0),
        ("unallocated", "two", 40.0),
    ]
    said = summary(measured(rows), totals(measured(rows).now), None, (), (), (), (), found)[-1]
    assert "$500" in said
    assert "(0 GPU hours" not in said


def test_gpus_that_nobody_has_cost_what_their_node_does() -> None:
    """Beside a board whose rest is not theirs."""
    rows = together(
        node("one", 4, 3.0, unallocated=40.0),
        {"node_gpu_unattributed_cost_usd": {("a", "one", H100): {0: 72.0}}},
    )
    found = {row.kind: row for row in worst(measured(rows))}
    assert found["held_by_no_engine"].usd == pytest.approx(72.0)
    assert found["held_by_no_engine"].gpu_hours == pytest.approx(24.0)


def test_an_hour_costs_the_same_whatever_bounded_it() -> None:
    """Between steps an engine's money is of the phase idle, and the hours are its host's."""
    key = (*KEY, "host")
    rows: Rows = {
        "model_gpu_bottleneck_seconds": {key: {0: 86400.0}},
        "engine_cost_usd": {(*KEY, "idle", "local"): {0: 48.0}, (*KEY, "decode", "local"): {0: 24.0}},
    }
    (row,) = worst(measured(rows))
    assert row.kind == "host_bound"
    assert row.usd == pytest.approx(72.0)


def test_hours_whose_money_was_not_answered_cost_what_nobody_knows() -> None:
    rows = together(service(7, 3.0), {"model_gpu_bottleneck_seconds": {(*KEY, "idle"): {0: 86400.0}}})
    assert [row.usd for row in worst(measured(rows))] == [pytest.approx(7 * 3.0 * 24 / 8)]
    assert [row.usd for row in worst(measured(rows, missing="engine_cost_usd"))] == [None]


def test_what_was_computed_again_is_among_what_was_computed() -> None:
    """However many preemptions: the prefill took half of the time, and no more can have been for them."""
    rows = together(
        node("one", 2, 3.0),
        service(2, 3.0),
        {
            "engine_preemptions": {KEY: {0: 1e6}},
            "engine_phase_seconds": {(*KEY, "prefill"): {0: 100.0}, (*KEY, "decode"): {0: 100.0}},
        },
    )
    served = services(measured(rows))
    (loss,) = losses(measured(rows), served).requests
    assert loss.preempted_gpu_hours_estimate == pytest.approx(24.0)


# --- groups ---------------------------------------------------------------------------------------------


def test_what_a_group_cost_before_is_all_of_it() -> None:
    """Also of a service that is gone, and of a group of which nothing is left."""
    gone = (*KEY[:4], "search")
    other = ("a", "qwen2.5-32b-instruct", *KEY[2:])
    before = together(service(2, 3.0), service(3, 3.0, key=gone), service(1, 3.0, key=other))
    found = measured(together(node("one", 2, 3.0), service(2, 3.0)), before=before)
    by_name = {row.name: row for row in groups(found, services(found))}
    assert by_name[KEY[1]].previous_usd == pytest.approx(5 * 72.0)
    assert by_name[other[1]].previous_usd == pytest.approx(72.0)
    assert by_name[other[1]].usd is None
    teams = replace(found, group_by="namespace")
    by_name = {row.name: row for row in groups(teams, services(teams))}
    assert by_name["search"].previous_usd == pytest.approx(3 * 72.0)
