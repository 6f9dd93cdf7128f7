"""A month in a real database: every figure of the review within 1 % of what really was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.report.document import CLASSES, Review
from agent.report.monthly import SOURCES
from tests.report.month import END, START, Month
from tests.report.truth import Node, Objective, Service, ServiceTruth, Truth
from tests.rig.programs import Database, Program

NEAR = 0.01
MILLION = 1e6
ROOT = Path(__file__).parents[2]


def report(
    url: str, output: Path, *options: str, month: str = "2026-09", path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """The command as a user has it; `path` holds modules that come before all others."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS")}
    return subprocess.run(
        [
            *(sys.executable, "-m", "agent", "report", "--prometheus-url", url, "--output", str(output)),
            *(("--month", month) if month else ()),
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=own if path is None else {**own, "PYTHONPATH": str(path)},
        timeout=300,
    )


def near(value: float) -> Any:
    """Within 1 %, and nothing is nothing."""
    return pytest.approx(value, rel=NEAR, abs=1e-9)


@pytest.fixture(scope="module", params=["month_in_prometheus", "month_in_victoria"])
def program(request: pytest.FixtureRequest) -> Program:
    running: Program = request.getfixturevalue(request.param)
    return running


@pytest.fixture(scope="module")
def review(program: Program, tmp_path_factory: pytest.TempPathFactory) -> Review:
    output = tmp_path_factory.mktemp("review")
    done = report(program.url, output, "--format", "json")
    assert done.returncode == 0, done.stderr
    text = (output / "review-2026-09.json").read_text()
    schema = json.loads((ROOT / "docs" / "report.schema.json").read_text())
    jsonschema.validate(json.loads(text), schema)
    return Review.model_validate_json(text)


@pytest.fixture(scope="module")
def truth(month: Month) -> Truth:
    return month.truth


# --- the whole ---------------------------------------------------------------------------------------


def test_totals_are_what_was(review: Review, truth: Truth) -> None:
    gpus, work, totals = truth.gpus(), truth.work(), review.totals
    usd = gpus.usd_by_class
    assert totals.gpu_hours == near(gpus.gpu_hours)
    assert totals.idle_gpu_hours == near(gpus.seconds_by_class["idle"] / 3600)
    assert totals.idle_held_gpu_hours == near(gpus.idle_held_seconds / 3600)
    assert totals.paid_usd == near(gpus.paid_usd)
    assert totals.idle_usd == near(usd["idle"])
    assert totals.unallocated_usd == near(usd["unallocated"])
    assert totals.used_usd == near(gpus.paid_usd - usd["idle"] - usd["unallocated"])
    assert totals.unattributed_usd == near(gpus.unattributed_usd)
    assert totals.generation_tokens == near(work.generation_tokens)
    assert totals.prefill_tokens == near(work.prefill_tokens)
    assert totals.cached_prompt_tokens == near(work.cached_prompt_tokens)
    assert totals.requests == near(work.requests)
    assert totals.energy_joules == near(gpus.energy_joules)
    assert totals.usd_per_million_tokens == near(gpus.paid_usd / work.generation_tokens * MILLION)
    assert totals.joules_per_million_tokens == near(work.energy_joules / work.generation_tokens * MILLION)


def test_the_fleet_is_as_large_as_it_was(review: Review, truth: Truth) -> None:
    steps = truth.recorded_steps
    nodes = sum(truth.recorded_steps_by_node.values()) / steps
    assert review.totals.nodes == near(nodes)
    hours = steps * 300 / 3600
    assert review.totals.gpus == near(truth.gpus().gpu_hours / hours)


def test_hours_and_money_by_class_are_what_was(review: Review, truth: Truth) -> None:
    gpus = truth.gpus()
    found = {row.name: row for row in review.classes}
    for name in CLASSES:
        seconds, usd = gpus.seconds_by_class.get(name, 0.0), gpus.usd_by_class.get(name, 0.0)
        assert found[name].gpu_hours == near(seconds / 3600), name
        assert (found[name].usd or 0.0) == near(usd), name
        assert found[name].ratio == near(seconds / 3600 / gpus.gpu_hours), name
    assert sum(row.ratio for row in review.classes) == pytest.approx(1)
    assert sum(seconds > 0 for seconds in gpus.seconds_by_class.values()) >= 6, "the month has all of them"


def test_parts_are_what_was(review: Review, truth: Truth) -> None:
    assert {row.part for row in review.parts} == {*truth.parts}
    for row in review.parts:
        gpus = truth.gpus(part=row.part)
        assert row.gpu_hours == near(gpus.gpu_hours)
        assert row.paid_usd == near(gpus.paid_usd)
        assert row.idle_usd == near(gpus.usd_by_class.get("idle", 0.0))
        assert row.unattributed_usd == near(gpus.unattributed_usd)
        assert row.energy_joules == near(gpus.energy_joules)
        left = gpus.usd_by_class.get("unallocated", 0.0)
        assert row.usd_per_gpu_hour == near((gpus.paid_usd - left) / gpus.gpu_hours)
        for name, hours in row.hours_by_class.items():
            assert hours == near(gpus.seconds_by_class.get(name, 0.0) / 3600), (row.part, name)


def test_days_are_what_was(review: Review, truth: Truth) -> None:
    assert [day.date for day in review.days] == [*truth.days]
    assert len(review.days) == 30
    for day in review.days:
        gpus, work = truth.gpus(day=day.date), truth.work(day=day.date)
        assert day.gpu_hours == near(gpus.gpu_hours), day.date
        assert day.paid_usd == near(gpus.paid_usd), day.date
        assert day.idle_usd == near(gpus.usd_by_class.get("idle", 0.0)), day.date
        assert day.generation_tokens == near(work.generation_tokens), day.date
        assert day.usd_per_million_tokens == near(gpus.paid_usd / work.generation_tokens * MILLION)
        for name, hours in day.hours_by_class.items():
            assert hours == near(gpus.seconds_by_class.get(name, 0.0) / 3600), (day.date, name)


# --- services ----------------------------------------------------------------------------------------


def test_services_are_what_was(review: Review, truth: Truth) -> None:
    found = {Service(*row.key): row for row in review.services}
    assert {*found} == {*truth.services}
    for key, what in truth.services.items():
        row = found[key]
        assert row.gpu_hours == near(what.gpu_hours), key
        assert row.usd == near(what.usd), key
        assert (row.remote_usd or 0.0) == near(what.remote_usd), key
        for phase, usd in (("idle", row.idle_usd), ("prefill", row.prefill_usd), ("decode", row.decode_usd)):
            # A phase may be a few dollars of thousands, whose edge a five minutes' increase does not hit.
            expected = what.usd_by_phase.get(phase, 0.0)
            assert usd == pytest.approx(expected, rel=NEAR, abs=what.usd / 1000), (key, phase)
        assert row.generation_tokens == near(what.generation_tokens), key
        assert row.prefill_tokens == near(what.prefill_tokens), key
        assert row.cached_prompt_tokens == near(what.cached_prompt_tokens), key
        assert row.requests == near(what.requests), key
        assert row.preemptions == near(what.preemptions), key
        assert row.flops == near(what.flops), key
        assert row.dram_bytes == near(what.dram_bytes), key
        assert row.intensity_flops_per_byte == near(what.flops / what.dram_bytes), key
        paid = what.usd + what.remote_usd
        assert row.usd_per_million_tokens == near(paid / what.generation_tokens * MILLION), key
        assert row.joules_per_million_tokens == near(what.energy_joules / what.generation_tokens * MILLION)
        for name, hours in row.hours_by_class.items():
            assert hours == near(what.seconds_by_class.get(name, 0.0) / 3600), (key, name)


def test_trends_are_what_was(review: Review, truth: Truth) -> None:
    assert len(review.trends) == len(truth.services)
    for row in review.trends:
        key = Service(*row.key)
        assert len(row.generation_tokens) == len(truth.days)
        for number, day in enumerate(truth.days):
            what = truth.services_by_day.get((key, day), ServiceTruth())
            tokens = what.generation_tokens
            assert row.generation_tokens[number] == near(tokens), (key, day)
            paid = (what.usd + what.remote_usd) / tokens * MILLION if tokens else None
            found = row.usd_per_million_tokens[number]
            assert found == (None if paid is None else near(paid)), (key, day)


def test_a_model_that_was_exchanged_is_two_services(review: Review) -> None:
    """On the 12th half of the chat got another model."""
    later = {
        row.model: [*map(bool, row.generation_tokens)] for row in review.trends if row.namespace == "chat"
    }
    switched = [days for days in later.values() if not any(days[:10])]
    assert switched
    assert all(all(days[12:]) for days in switched)


def test_groups_sum_to_everything(review: Review) -> None:
    assert sum(row.gpu_hours for row in review.groups) == near(review.totals.gpu_hours)
    assert sum(row.usd or 0.0 for row in review.groups) == near(review.totals.paid_usd or 0.0)
    assert sum(row.generation_tokens for row in review.groups) == near(review.totals.generation_tokens)
    assert sum(row.ratio for row in review.groups) == near(1)


# --- the rest ----------------------------------------------------------------------------------------


def test_objectives_are_what_was(review: Review, truth: Truth) -> None:
    found = {Objective(row.cluster, row.model, row.slo): row for row in review.slos}
    assert {*found} == {*truth.objectives()}
    daily = {day: truth.objectives(day=day) for day in truth.days}
    for key, (events, good) in truth.objectives().items():
        row = found[key]
        assert row.events == near(events), key
        assert row.good == near(good), key
        assert row.ratio == near(good / events), key
        assert row.objective_ratio == 0.99
        assert row.budget_spent_ratio == pytest.approx((events - good) / events / 0.01, abs=0.05, rel=NEAR)
        worst = min(
            counted[key][1] / counted[key][0]
            for counted in daily.values()
            if key in counted and counted[key][0] > events / 100
        )
        assert row.worst_day_ratio == near(worst), key


def test_losses_are_what_was(review: Review, truth: Truth) -> None:
    for part in truth.parts:
        found = {row.reason: row for row in review.losses.clocks if row.part == part}
        gpus = truth.gpus(part=part)
        for reason, seconds in gpus.clock_limited_seconds.items():
            assert found[reason].gpu_hours == near(seconds / 3600)
            assert found[reason].ratio == near(seconds / 3600 / gpus.gpu_hours)
        faults = {row.kind: row.count for row in review.losses.faults if row.part == part}
        assert faults == near_each(gpus.faults)
    assert any(truth.gpus(part=part).clock_limited_seconds for part in truth.parts), "a week was throttled"
    assert review.losses.unobserved_gpu_hours == near(truth.gpus().unobserved_hours)


def near_each(values: Mapping[str, float]) -> Any:
    return pytest.approx(dict(values), rel=NEAR)


def test_what_is_missing_is_said(review: Review, truth: Truth) -> None:
    quality = review.quality
    assert quality.coverage_ratio == pytest.approx(truth.coverage_ratio, abs=0.001)
    assert [(gap.start, gap.end) for gap in quality.gaps] == [(gap.start, gap.end) for gap in truth.gaps]
    assert quality.earliest_sample is not None
    assert quality.earliest_sample.date() == date(2026, 8, 28)
    expected = truth.recorded_steps_by_node
    assert quality.node_coverage_ratio == pytest.approx(
        sum(expected.values()) / (truth.steps * len(expected)), abs=0.002
    )
    assert quality.observed_gpu_hours == near(truth.gpus().gpu_hours)
    assert quality.unobserved_gpu_hours == near(truth.gpus().unobserved_hours)


def test_what_is_recorded_is_conserved(review: Review) -> None:
    assert len(review.identities) == 5
    assert all(row.holds for row in review.identities), review.identities
    assert max(row.error_ratio for row in review.identities) < NEAR


def test_rooflines_hold_all_busy_hours(review: Review, truth: Truth) -> None:
    for row in review.rooflines:
        services = [
            what for key, what in truth.services.items() if (key.model, key.part) == (row.model, row.part)
        ]
        idle = sum(what.seconds_by_class.get("idle", 0.0) for what in services) / 3600
        busy = sum(what.gpu_hours for what in services) - idle
        assert sum(cell.gpu_hours for cell in row.cells) == near(busy), row.model
        assert row.idle_gpu_hours == near(idle), row.model
        for cell in row.cells:
            roof = min(
                row.roof_flops_per_second, cell.intensity_flops_per_byte * row.roof_dram_bytes_per_second
            )
            assert cell.flops_per_second <= roof * 10**0.25, "within a cell's width below the roof"
    assert {(row.model, row.part) for row in review.rooflines} == {
        (key.model, key.part) for key in truth.services
    }


def test_the_worst_are_the_worst(review: Review, truth: Truth) -> None:
    """In dollars, of what may be better: nothing that cost more was left out."""
    assert [row.rank for row in review.offenders] == [*range(1, 11)]
    costs = [row.usd or 0.0 for row in review.offenders]
    assert costs == sorted(costs, reverse=True)
    dearest = max(truth.services.items(), key=lambda item: item[1].usd_by_phase.get("idle", 0.0))
    first = next(row for row in review.offenders if row.kind == "idle_held")
    assert first.subject["model"] == dearest[0].model
    assert first.usd == near(dearest[1].usd_by_phase["idle"])
    assert first.gpu_hours == near(dearest[1].seconds_by_class["idle"] / 3600)
    assert all((ROOT / "rules" / "runbooks" / f"{row.runbook}.md").is_file() for row in review.offenders)


def test_what_nobody_holds_is_told_by_node(program: Program, truth: Truth, tmp_path: Path) -> None:
    lonely = {
        node: what.unattributed_usd - what.usd_by_class.get("unallocated", 0.0)
        for node, what in truth.nodes.items()
        if what.unattributed_usd > 1
    }
    assert lonely
    done = report(program.url, tmp_path, "--format", "json", "--cluster", next(iter(lonely)).cluster)
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    found = {
        Node(row.subject["cluster"], row.subject["instance"]): row.usd
        for row in Review.model_validate_json(file.read_text()).offenders
        if row.kind == "held_by_no_engine"
    }
    assert found
    for node, usd in found.items():
        assert usd == near(lonely[node])


def test_the_month_before_is_of_what_was_recorded(review: Review, month: Month) -> None:
    before = month.previous_truth
    assert review.previous is not None
    assert review.previous_totals is not None
    assert review.previous_totals.gpu_hours == near(before.gpus().gpu_hours)
    assert review.previous_totals.paid_usd == near(before.gpus().paid_usd)
    assert review.previous_coverage_ratio == pytest.approx(before.coverage_ratio, abs=0.001)
    assert "of which only" in review.summary[3], "sums of four days are not compared with those of a month"
    for row in review.services:
        key = Service(*row.key)
        what = before.services.get(key)
        if what is None or not what.generation_tokens:
            assert row.previous_usd_per_million_tokens is None
        else:
            paid = what.usd + what.remote_usd
            assert row.previous_usd_per_million_tokens == near(paid / what.generation_tokens * MILLION)


def test_one_cluster_is_itself_alone(program: Program, truth: Truth, tmp_path: Path) -> None:
    done = report(program.url, tmp_path, "--cluster", "b", "--format", "json", "--group-by", "namespace")
    assert done.returncode == 0, done.stderr
    found = Review.model_validate_json((tmp_path / "review-2026-09-b.json").read_text())
    assert found.totals.gpu_hours == near(truth.gpus(cluster="b").gpu_hours)
    assert found.totals.generation_tokens == near(truth.work(cluster="b").generation_tokens)
    namespaces = {key.namespace for key in truth.services if key.cluster == "b"}
    assert namespaces <= {row.name for row in found.groups}


@pytest.mark.parametrize(
    ("group_by", "of"), [("gpu", "part"), ("cluster", "cluster"), ("engine", "engine"), ("model", "model")]
)
def test_groups_are_what_was_asked_for(
    month_in_prometheus: Program, truth: Truth, tmp_path: Path, group_by: str, of: str
) -> None:
    options = ("--group-by", group_by, "--since", "2026-09-02", "--until", "2026-09-04", "--format", "json")
    done = report(month_in_prometheus.url, tmp_path, *options, month="")
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("*.json")
    groups = Review.model_validate_json(file.read_text()).groups
    days = (date(2026, 9, 2), date(2026, 9, 3))
    expected: dict[str, float] = {}
    for (key, day), what in truth.services_by_day.items():
        if day in days:
            name = getattr(key, of)
            expected[name] = expected.get(name, 0.0) + what.gpu_hours
    assert {row.name: row.gpu_hours for row in groups if row.name != "(no engine)"} == near_each(expected)


def test_every_number_has_its_query(program: Program, review: Review) -> None:
    """Asked as the review says, each query gives what the review summed."""
    ids = {query.id for query in review.queries}
    sections = {*Review.model_fields} & {*SOURCES}
    assert sections == {*SOURCES}
    assert {each for sources in review.sources.values() for each in sources} <= ids
    database = Database(program, start=START.timestamp(), end=END.timestamp(), step=300)
    by_id = {query.id: query for query in review.queries}

    def total(query: str, **labels: str) -> float:
        result = database.at_end(by_id[query].promql)
        return sum(
            float(series["value"][1])
            for series in result
            if all(series["metric"].get(label) == value for label, value in labels.items())
        )

    exact = pytest.approx
    assert total("gpu_observed_seconds") / 3600 == exact(review.totals.gpu_hours)
    assert total("gpu_cost_usd") == exact(review.totals.paid_usd)
    assert total("gpu_unattributed_cost_usd") == exact(review.totals.unattributed_usd)
    assert total("engine_generation_tokens") == exact(review.totals.generation_tokens)
    assert total("gpu_energy_joules") == exact(review.totals.energy_joules)
    for row in review.classes:
        if row.name != "unallocated":
            assert total("gpu_bottleneck_seconds", bottleneck=row.name) / 3600 == exact(row.gpu_hours)
        assert total("gpu_bottleneck_cost_usd", bottleneck=row.name) == exact(row.usd or 0.0)
    first = review.services[0]
    of = {"cluster": first.cluster, "model": first.model, "part": first.part}
    of["workload_namespace"] = first.namespace
    assert total("engine_cost_usd", location="local", **of) == exact(first.usd)
    assert total("hourly_engine_flops", **of) == exact(first.flops)
    for query in review.queries:
        database.at_end(query.promql)  # raises where it is not understood


@pytest.fixture(scope="module")
def pages(month_in_prometheus: Program, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("pages")
    done = report(month_in_prometheus.url, output)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "earliest sample: 2026-08-28 00:05 UTC", "before anything else"
    assert lines[1].startswith("coverage: 100 % of 2026-09")
    assert {*done.stdout.split()} == {str(path) for path in output.iterdir()}, (
        "each file is named, and none kept"
    )
    return output


def test_all_formats_are_of_one_review(pages: Path) -> None:
    names = {path.suffix for path in pages.iterdir()}
    assert names == {".html", ".md", ".json", ".csv"}
    document = Review.model_validate_json((pages / "review-2026-09.json").read_text())
    for name in ("review-2026-09.html", "review-2026-09.md"):
        text = (pages / name).read_text()
        assert document.services[0].model in text
        assert "2026-09" in text
