"""The month that reports are tested with: what databases say of it is what really was, and adds up.

The review itself is held against the same truth in each run; what it is made of, in the long suite.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from tests.report import databases
from tests.report.month import BAD_DAY, END, HOSTS, MIG_DAY, OTHER_MODEL, PREVIOUS_DAYS, START, Month
from tests.report.truth import Gap, Node, Objective, Service
from tests.rig.programs import Program

WITHIN = 0.01
"""What tiles were recorded as, against what they were."""
MONTH = "30d"

Answer = Mapping[tuple[str, ...], float]


def _ask(database: Program, query: str, *labels: str, at: datetime = END) -> Answer:
    """The vector, by the values of these labels."""
    answer = database.get("/api/v1/query", query=query, time=f"{at.timestamp():.0f}").json()
    assert answer["status"] == "success", answer
    found = {
        tuple(series["metric"].get(label, "") for label in labels): float(series["value"][1])
        for series in answer["data"]["result"]
    }
    assert len(found) == len(answer["data"]["result"]), "labels that do not tell series apart"
    return found


def _sum(
    database: Program, name: str, *labels: str, matchers: str = "", over: str = MONTH, at: datetime = END
) -> Answer:
    """A recorded increase over a time, by labels; without what is 0."""
    query = f"sum by ({', '.join(labels)}) (sum_over_time(roofline:{name}:increase5m{{{matchers}}}[{over}]))"
    return {key: value for key, value in _ask(database, query, *labels, at=at).items() if value > 0}


# --- the truth by itself ---------------------------------------------------------------------------


def test_the_truth_adds_up(month: Month) -> None:
    """Days, nodes and parts are the whole; engines and the rest are what was paid, hour by hour."""
    truth = month.truth
    whole = truth.gpus()
    assert sum(node.paid_usd for node in truth.nodes.values()) == pytest.approx(whole.paid_usd)
    assert sum(truth.gpus(day=day).gpu_hours for day in truth.days) == pytest.approx(whole.gpu_hours)
    assert sum(truth.gpus(part=part).gpu_hours for part in truth.parts) == pytest.approx(whole.gpu_hours)
    assert truth.work().usd + whole.unattributed_usd == pytest.approx(whole.paid_usd)
    prices = {"H100-SXM5-80GB": 2.99, "H200-SXM": 3.79, "L40S": 0.97}
    boards = sum(prices[part] * truth.gpus(part=part).gpu_hours for part in truth.parts)
    assert whole.paid_usd - whole.usd_by_class["unallocated"] == pytest.approx(boards)


def test_the_month_has_what_it_says(month: Month) -> None:
    """Forty nodes, each of its events, and as many steps as were recorded."""
    truth = month.truth
    assert len(truth.nodes) == len(HOSTS) == 40
    assert sum(truth.gpus_by_node.values()) == 100
    assert len(truth.days) == 30
    assert truth.gaps == (
        Gap(start=datetime(2026, 9, 24, 3, tzinfo=UTC), end=datetime(2026, 9, 24, 5, tzinfo=UTC)),
    )
    assert (truth.steps, truth.recorded_steps) == (8640, 8640 - 24)
    assert truth.recorded_steps_by_node[Node("a", "node-05")] == 8640 - 24 - 60
    assert truth.gpus().faults == {"xid 79": 1, "xid 48": 2, "ecc uncorrected": 2}
    assert truth.gpus().unobserved_hours == pytest.approx(3)
    mig = truth.gpus(cluster="b", day=date(2026, 9, MIG_DAY)).usd_by_class
    assert mig["unallocated"] == truth.gpus().usd_by_class["unallocated"] == pytest.approx(36)
    other = {service for service in truth.services if service.model == OTHER_MODEL}
    assert other == {Service("a", OTHER_MODEL, "vllm", "H100-SXM5-80GB", "chat")}
    assert len(month.previous_truth.days) == PREVIOUS_DAYS


def test_an_objective_is_missed_on_one_day(month: Month) -> None:
    objective = Objective("b", "meta-llama/Llama-3.1-8B-Instruct", "ttft")

    def errors(day: int) -> float:
        events, good = month.truth.objectives(day=date(2026, 9, day))[objective]
        return 1 - good / events

    assert errors(BAD_DAY) > 0.2
    assert errors(BAD_DAY - 1) == errors(BAD_DAY + 1) == 0


# --- databases -------------------------------------------------------------------------------------


@pytest.fixture(params=("month_in_prometheus", "month_in_victoria"))
def database(request: pytest.FixtureRequest) -> Program:
    program: Program = request.getfixturevalue(request.param)
    return program


@pytest.mark.long
def test_gpus_are_recorded_as_they_were(database: Program, month: Month) -> None:
    """Seconds and money by class and part, of nodes and of clusters."""
    truth = month.truth
    for level in ("cluster", "node"):
        for name, amounts in (("gpu_bottleneck_seconds", "seconds"), ("gpu_bottleneck_cost_usd", "usd")):
            recorded = _sum(database, f"{level}:{name}", "cluster", "part", "bottleneck")
            really = {
                (cluster, part, bound): amount
                for cluster in "ab"
                for part in truth.parts
                for bound, amount in truth.gpus(cluster=cluster, part=part).by(amounts).items()
            }
            assert recorded == pytest.approx(really, rel=WITHIN), (level, name)


@pytest.mark.long
def test_nodes_are_recorded_as_they_were(database: Program, month: Month) -> None:
    nodes = month.truth.nodes
    for name, really in (
        ("gpu_cost_usd", {node: gpus.paid_usd for node, gpus in nodes.items()}),
        ("gpu_unattributed_cost_usd", {node: gpus.unattributed_usd for node, gpus in nodes.items()}),
        ("gpu_idle_held_seconds", {node: gpus.idle_held_seconds for node, gpus in nodes.items()}),
        ("gpu_unobserved_seconds", {node: gpus.of("unobserved_seconds") for node, gpus in nodes.items()}),
        (
            "gpu_clock_limited_seconds",
            {node: sum(gpus.clock_limited_seconds.values()) for node, gpus in nodes.items()},
        ),
        ("gpu_xid_errors", {node: sum(gpus.by("faults").values()) for node, gpus in nodes.items()}),
    ):
        recorded = _sum(database, f"node:{name}", "cluster", "instance")
        if name == "gpu_xid_errors":
            recorded = {
                key: value + _sum(database, "node:gpu_ecc_errors", "cluster", "instance").get(key, 0.0)
                for key, value in recorded.items()
            }
        assert recorded == pytest.approx({node: v for node, v in really.items() if v}, rel=WITHIN), name


@pytest.mark.long
def test_services_are_recorded_as_they_were(database: Program, month: Month) -> None:
    """Tokens, requests, money, energy and GPU time of each."""
    services = month.truth.services
    labels = ("cluster", "model", "engine", "part", "workload_namespace")
    for name, matchers, really in (
        ("engine_generation_tokens", "", {key: one.generation_tokens for key, one in services.items()}),
        ("engine_prefill_tokens", "", {key: one.prefill_tokens for key, one in services.items()}),
        ("engine_cached_prompt_tokens", "", {key: one.cached_prompt_tokens for key, one in services.items()}),
        ("engine_requests", "", {key: one.requests for key, one in services.items()}),
        ("engine_steps", "", {key: one.steps for key, one in services.items()}),
        ("engine_preemptions", "", {key: one.preemptions for key, one in services.items()}),
        ("engine_energy_joules", "", {key: one.energy_joules for key, one in services.items()}),
        ("engine_flops", "", {key: one.flops for key, one in services.items()}),
        ("engine_dram_bytes", "", {key: one.dram_bytes for key, one in services.items()}),
        ("engine_cost_usd", 'location="local"', {key: one.usd for key, one in services.items()}),
        ("engine_cost_usd", 'location="remote"', {key: one.remote_usd for key, one in services.items()}),
        ("gpu_bottleneck_seconds", "", {key: one.gpu_hours * 3600 for key, one in services.items()}),
    ):
        recorded = _sum(database, f"model:{name}", *labels, matchers=matchers)
        assert recorded == pytest.approx({key: v for key, v in really.items() if v}, rel=WITHIN), name


@pytest.mark.long
def test_objectives_are_recorded_as_they_were(database: Program, month: Month) -> None:
    really = month.truth.objectives()
    for name, place in (("engine_slo_events", 0), ("engine_slo_good_events", 1)):
        recorded = _sum(database, f"model:{name}", "cluster", "model", "slo")
        expected = {key: both[place] for key, both in really.items() if both[place]}
        assert recorded == pytest.approx(expected, rel=WITHIN), name
    wanted = _ask(database, "last_over_time(roofline:model:slo_objective:max[1h])", "cluster", "model", "slo")
    assert wanted == dict.fromkeys(really, 0.99)


@pytest.mark.long
def test_days_are_recorded_as_they_were(database: Program, month: Month) -> None:
    """Each by itself; the day of the gap, of the switch, and the last of the month before."""
    for truth, day in (
        (month.truth, date(2026, 9, 1)),
        (month.truth, date(2026, 9, 12)),
        (month.truth, date(2026, 9, 24)),
        (month.previous_truth, date(2026, 8, 31)),
    ):
        end = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(days=1)
        paid = _sum(database, "cluster:gpu_cost_usd", over="1d", at=end)
        assert paid[()] == pytest.approx(truth.gpus(day=day).paid_usd, rel=WITHIN)
        tokens = _sum(database, "model:engine_generation_tokens", over="1d", at=end)
        assert tokens[()] == pytest.approx(truth.work(day=day).generation_tokens, rel=WITHIN)


@pytest.mark.long
def test_engines_and_the_rest_are_what_was_paid(database: Program) -> None:
    """To the rounding of the recorded values."""
    engines = _sum(database, "model:engine_cost_usd", "cluster", matchers='location="local"')
    rest = _sum(database, "cluster:gpu_unattributed_cost_usd", "cluster")
    paid = _sum(database, "cluster:gpu_cost_usd", "cluster")
    assert {key: engines[key] + rest[key] for key in paid} == pytest.approx(paid, rel=1e-4)
    assert _sum(database, "cluster:gpu_bottleneck_cost_usd", "cluster") == pytest.approx(paid, rel=1e-4)


@pytest.mark.long
def test_samples_are_missing_where_the_truth_says(database: Program, month: Month) -> None:
    """As many of each node as there were, and of everything none for two hours."""
    counted = _ask(
        database,
        f"count_over_time(roofline:node:gpu_observed_seconds:increase5m[{MONTH}])",
        "cluster",
        "instance",
    )
    assert counted == dict(month.truth.recorded_steps_by_node)
    (gap,) = month.truth.gaps
    anything = 'count(last_over_time({__name__=~"roofline:.+"}[2h]))'
    assert not _ask(database, anything, at=gap.end)
    assert _ask(database, anything, at=gap.end + timedelta(seconds=299))


@pytest.mark.long
def test_nothing_was_recorded_before(database: Program, month: Month) -> None:
    first = START - timedelta(days=PREVIOUS_DAYS)
    assert not _ask(database, 'count(last_over_time({__name__=~"roofline:.+"}[90d]))', at=first)
    assert START > first > month.previous_truth.start


@pytest.mark.long
def test_every_series_of_nodes_sums_to_that_of_clusters(made: Path, tmp_path: Path) -> None:
    """The whole month, with all that rules record of nodes: thirty million samples."""
    with databases.month_in_prometheus(made, tmp_path, every_node_series=True) as program:
        sums: dict[str, defaultdict[tuple[str, str], float]] = {}
        for level in ("node", "cluster"):
            sums[level] = defaultdict(float)
            names = program.get("/api/v1/label/__name__/values").json()["data"]
            for name in (name for name in names if name.startswith(f"roofline:{level}:")):
                for (cluster,), value in _sum(program, name[9:-11], "cluster").items():
                    sums[level][name.split(":")[2], cluster] += value
        assert len(sums["cluster"]) > 30
        assert sums["node"] == pytest.approx(sums["cluster"])
