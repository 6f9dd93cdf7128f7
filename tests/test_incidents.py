"""Every scenario under a real Prometheus with the real rules: what fires, what is asked, what is silenced."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping

import pytest

from tests.rig.expected import EXPECTED, ROOTS, SILENCED
from tests.rig.programs import Database, Program
from tests.rig.questions import Question, builtin_variables, dashboard_questions, text_questions, unanswered
from tests.rig.stack import ROOT, Run, finished_run

RULE_FILES = sorted((ROOT / "rules" / "generated").glob("*.yaml"))
DASHBOARDS = sorted((ROOT / "dashboards" / "generated").glob("*.json"))
TEXTS = [*sorted((ROOT / "rules" / "runbooks").glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]

LATE_SECONDS = 12.0
ABSENCE_SECONDS = 60.0


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    assert RULE_FILES, "no rule files; make generate writes them"
    with finished_run(RULE_FILES, tmp_path_factory.mktemp("rig")) as finished:
        yield finished


def fired(database: Database, run: Run) -> Mapping[str, frozenset[str]]:
    """The alerts that fired at any time, by scenario."""
    over = f"[{round(run.end - run.start)}s]"
    names: dict[str, set[str]] = defaultdict(set)
    for series in database.at_end(
        f'max by (cluster, alertname) (max_over_time(ALERTS{{alertstate="firing"}}{over}))'
    ):
        labels = series["metric"]
        names[labels.get("cluster", "no cluster")].add(labels["alertname"])
    return {scenario: frozenset(found) for scenario, found in names.items()}


def differences(found: Mapping[str, frozenset[str]], expected: Mapping[str, frozenset[str]]) -> str:
    """One line a scenario that differs."""
    lines = []
    for scenario in sorted(found.keys() | expected.keys()):
        has, wants = found.get(scenario, frozenset()), expected.get(scenario, frozenset())
        if has != wants:
            lines.append(f"{scenario}: too many {sorted(has - wants)}, missing {sorted(wants - has)}")
    return "\n".join(lines)


def none(lines: str) -> None:
    """All of them are shown, or there are none."""
    assert not lines, f"\n{lines}"


def complaints(program: Program, counter: str) -> str:
    """Where a program counted a failure, and what it wrote; nothing if it counted none."""
    counted = program.metric(counter)
    assert counted, f"{program.name} does not count {counter}"
    failures = "\n".join(f"{counter}{labels} {value:g}" for labels, value in counted.items() if value)
    return f"{failures}\n{program.log()}" if failures else ""


def questions_of_dashboards(run: Run) -> list[Question]:
    builtin = builtin_variables(run.start, run.end)
    return [question for path in DASHBOARDS for question in dashboard_questions(path, builtin)]


def questions_of_texts(run: Run) -> list[Question]:
    builtin = builtin_variables(run.start, run.end)
    return [question for path in TEXTS for question in text_questions(path, builtin)]


# --- Prometheus ----------------------------------------------------------------------------------


def test_every_scenario_is_expected_to_do_something(run: Run) -> None:
    assert {role.name for role in run.roles} == EXPECTED.keys()


def test_the_agents_kept_time(run: Run) -> None:
    # Later than this, rates would be those of a machine that is too busy to be simulated on.
    assert run.slowest_seconds < LATE_SECONDS


def test_every_scrape_succeeds(run: Run) -> None:
    over = f"[{round(run.end - run.start)}s]"
    scrapes = run.prometheus.at_end(f"sum by (cluster) (count_over_time(up{over}))")
    failed = run.prometheus.at_end(
        f"sum by (cluster) (count_over_time(up{over}) - sum_over_time(up{over})) > 1"
    )
    assert len(scrapes) == len(run.roles)
    assert {series["metric"]["cluster"] for series in failed} == {"agent-down"}


def test_targets_look_as_behind_a_service_monitor(run: Run) -> None:
    targets = run.prometheus.at_end('up{instance="idle"}')
    assert [series["metric"] for series in targets] == [
        {
            "__name__": "up",
            "cluster": "idle",
            "job": "roofline-agent",
            "namespace": "monitoring",
            "service": "roofline-agent",
            "endpoint": "metrics",
            "pod": "roofline-agent-idle",
            "container": "agent",
            "instance": "idle",
        }
    ]


def test_each_scenario_raises_its_alerts_and_no_others(run: Run) -> None:
    none(differences(fired(run.prometheus, run), EXPECTED))


def test_every_query_of_the_dashboards_has_data(run: Run) -> None:
    assert DASHBOARDS, "no dashboards; make generate writes them"
    none(unanswered(questions_of_dashboards(run), run.prometheus))


def test_every_query_of_the_runbooks_has_data(run: Run) -> None:
    assert questions_of_texts(run)
    none(unanswered(questions_of_texts(run), run.prometheus))


def test_prometheus_has_nothing_to_complain_of(run: Run) -> None:
    prometheus = run.prometheus.program
    rules = [rule for group in run.prometheus.ask("rules")["groups"] for rule in group["rules"]]
    written = [rule for file in run.rules.values() for group in file["groups"] for rule in group["rules"]]
    assert len(rules) == len(written)
    assert [rule for rule in rules if rule["health"] != "ok"] == []
    for counter in (
        "prometheus_rule_evaluation_failures_total",
        "prometheus_target_scrapes_sample_duplicate_timestamp_total",
        "prometheus_target_scrapes_sample_out_of_order_total",
        "prometheus_target_scrapes_sample_out_of_bounds_total",
        "prometheus_remote_storage_samples_failed_total",
        "prometheus_notifications_errors_total",
    ):
        none(complaints(prometheus, counter))


# --- VictoriaMetrics -----------------------------------------------------------------------------


def test_vmalert_raises_the_same_alerts(run: Run) -> None:
    none(differences(fired(run.victoria, run), EXPECTED))


def test_every_query_of_the_dashboards_has_data_in_victoria_metrics(run: Run) -> None:
    none(unanswered(questions_of_dashboards(run), run.victoria))


def test_every_query_of_the_runbooks_has_data_in_victoria_metrics(run: Run) -> None:
    none(unanswered(questions_of_texts(run), run.victoria))


def test_vmalert_has_nothing_to_complain_of(run: Run) -> None:
    for counter in (
        "vmalert_execution_errors_total",
        "vmalert_alerting_rules_error",
        "vmalert_recording_rules_error",
        "vmalert_remotewrite_dropped_rows_total",
        "vmalert_remotewrite_errors_total",
        "vmalert_alerts_send_errors_total",
    ):
        none(complaints(run.vmalert, counter))


# --- Alertmanager --------------------------------------------------------------------------------


@pytest.mark.parametrize("sender", ["prometheus", "vmalert"])
def test_what_follows_from_something_worse_is_silenced(run: Run, sender: str) -> None:
    silenced = run.silenced[sender]
    missing = {
        scenario: wanted - silenced.get(scenario, frozenset()) for scenario, wanted in SILENCED.items()
    }
    assert {scenario: sorted(alerts) for scenario, alerts in missing.items() if alerts} == {}


@pytest.mark.parametrize("sender", ["prometheus", "vmalert"])
def test_what_is_at_the_root_is_told(run: Run, sender: str) -> None:
    for scenario, roots in ROOTS.items():
        assert roots <= run.told[sender].get(scenario, frozenset()), scenario
        assert not roots & run.silenced[sender].get(scenario, frozenset()), scenario


# --- after the run, when nothing is scraped any more ----------------------------------------------


@pytest.mark.parametrize("database", ["prometheus", "victoria"])
def test_no_agent_at_all_is_noticed(run: Run, database: str) -> None:
    end = time.monotonic() + ABSENCE_SECONDS
    asked: Database = getattr(run, database)
    while not asked.now('ALERTS{alertname="AgentAbsent",alertstate="firing"}'):
        assert time.monotonic() < end, f"AgentAbsent did not fire within {ABSENCE_SECONDS} s"
        time.sleep(1)
