"""The rule files are generated, Prometheus takes them, and every alert is seen to fire and to be silent.

The cases themselves are in `rules/tests/`, one file an alert, for `promtool test rules`. Here stands what
each file must have, and that its cases can fail: with a rule spoiled in the way they are about, they do.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from rules.alerts import ALERTS, RUNBOOK_NAMES
from rules.documents import render_alerts, render_alerts_document, render_recordings
from rules.recordings import RECORDED
from tests.conftest import Golden
from tests.promtool import promtool

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "rules" / "generated"
CASES = ROOT / "rules" / "tests"

RECORDINGS = "recordings"
"""The cases of what is recorded, which are no alert's."""
KINDS = ("fires", "silent without traffic", "silent at the border", "silent on missing data")
"""What the names of an alert's cases begin with; each must be there."""
NO_BORDER = frozenset(alert.name for alert in ALERTS if alert.threshold is None)
"""States, not amounts: what would be their border is another state."""


def test_the_recording_rules_are_generated(golden: Golden) -> None:
    golden(GENERATED / "recordings.yaml", render_recordings())


def test_the_alerting_rules_are_generated(golden: Golden) -> None:
    golden(GENERATED / "alerts.yaml", render_alerts())


def test_the_table_of_alerts_is_generated(golden: Golden) -> None:
    golden(ROOT / "docs" / "alerts.md", render_alerts_document())


def test_prometheus_takes_the_rules() -> None:
    checked = promtool("check", "rules", "--lint-fatal", *sorted(GENERATED.glob("*.yaml")))
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_recorded_series_are_named_by_level_subject_and_operation() -> None:
    assert all(name.startswith("roofline:") and name.count(":") == 3 for name in RECORDED)


# --- the cases ---------------------------------------------------------------------------------------


def cases_of(name: str) -> dict[str, Any]:
    path = CASES / f"{name}.yaml"
    assert path.exists(), f"{name} has no cases: {path} is missing"
    document = yaml.safe_load(path.read_text())
    assert isinstance(document, dict)
    return document


@pytest.mark.parametrize("name", RUNBOOK_NAMES)
def test_the_cases_hold(name: str, tmp_path: Path) -> None:
    path = tmp_path / "cases.yaml"
    path.write_text(yaml.safe_dump({**cases_of(name), "rule_files": only_the_rules_of(name, tmp_path)}))
    tested = promtool("test", "rules", path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize(
    "name", [RECORDINGS, *(pytest.param(name, marks=pytest.mark.long) for name in RUNBOOK_NAMES)]
)
def test_the_cases_hold_among_all_rules(name: str) -> None:
    tested = promtool("test", "rules", CASES / f"{name}.yaml")
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", RUNBOOK_NAMES)
def test_an_alert_is_seen_to_fire_and_to_be_silent(name: str) -> None:
    cases = cases_of(name)["tests"]
    for kind in KINDS:
        if kind == "silent at the border" and name in NO_BORDER:
            continue
        of_kind = [case for case in cases if case["name"].startswith(kind)]
        assert of_kind, f"{name} has no case that is named '{kind} …'"
        for case in of_kind:
            checked = [check for check in case["alert_rule_test"] if check["alertname"] == name]
            assert checked, f"'{case['name']}' does not look at {name}"
            fires = any(check.get("exp_alerts") for check in checked)
            assert fires == (kind == "fires"), f"'{case['name']}' expects the contrary"


@pytest.mark.parametrize("name", RUNBOOK_NAMES)
def test_every_window_of_an_alert_fires_in_some_case(name: str) -> None:
    expected = [
        alert["exp_labels"]
        for case in cases_of(name)["tests"]
        for check in case["alert_rule_test"]
        if check["alertname"] == name
        for alert in check.get("exp_alerts") or ()
    ]
    for alert in ALERTS:
        if alert.name == name:
            wanted = {"severity": alert.severity, **alert.labels}
            assert any(wanted.items() <= labels.items() for labels in expected), f"{wanted} never fires"


def only_the_rules_of(
    name: str, directory: Path, spoil: Callable[[dict[str, Any]], None] = lambda _: None
) -> list[str]:
    """Rule files with an alert's rules, perhaps changed, and what its cases need: others cost time."""
    recorded = yaml.safe_load((GENERATED / "recordings.yaml").read_text())
    rules = yaml.safe_load((GENERATED / "alerts.yaml").read_text())
    looked_at = {check["alertname"] for case in cases_of(name)["tests"] for check in case["alert_rule_test"]}
    for group in rules["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule["alert"] in looked_at]
        for rule in group["rules"]:
            if rule["alert"] == name:
                spoil(rule)
    asked = "\n".join(rule["expr"] for group in rules["groups"] for rule in group["rules"])
    needed = _needed(
        asked, {rule["record"]: rule["expr"] for group in recorded["groups"] for rule in group["rules"]}
    )
    for group in recorded["groups"]:
        group["rules"] = [rule for rule in group["rules"] if rule["record"] in needed]
    files = [directory / "recordings.yaml", directory / "alerts.yaml"]
    for path, document in zip(files, (recorded, rules), strict=True):
        document["groups"] = [group for group in document["groups"] if group["rules"]]
        path.write_text(yaml.safe_dump(document))
    return [str(path) for path in files]


def outcomes(name: str, tmp_path: Path, spoil: Callable[[dict[str, Any]], None]) -> dict[str, bool]:
    """Whether each case of an alert holds with its rules changed."""
    files = only_the_rules_of(name, tmp_path, spoil)
    cases = cases_of(name)
    held = {}
    for case in cases["tests"]:
        path = tmp_path / "case.yaml"
        path.write_text(yaml.safe_dump({**cases, "rule_files": files, "tests": [case]}))
        held[case["name"]] = promtool("test", "rules", path).returncode == 0
    return held


def _needed(expression: str, recorded: Mapping[str, str]) -> set[str]:
    """What is recorded for an expression, and for that."""
    found: set[str] = set()
    asked = [expression]
    while asked:
        names = set(re.findall(r"roofline:\w+:\w+:\w+", asked.pop())) - found
        found |= names
        asked += [recorded[name] for name in names]
    return found


SPOILED = [
    pytest.param(name, marks=[] if position % 7 == 0 else [pytest.mark.long], id=name)
    for position, name in enumerate(RUNBOOK_NAMES)
]
"""A few each time, all of them in `make test-long`: each runs all cases of an alert again."""


@pytest.mark.parametrize("name", SPOILED)
def test_cases_that_fire_notice_a_rule_that_never_does(name: str, tmp_path: Path) -> None:
    held = outcomes(name, tmp_path, lambda rule: rule.update(expr="vector(0) > 1"))
    assert not [case for case, holds in held.items() if case.startswith("fires") and holds]


@pytest.mark.parametrize("name", SPOILED)
def test_cases_that_are_silent_notice_a_rule_that_always_fires(name: str, tmp_path: Path) -> None:
    held = outcomes(name, tmp_path, lambda rule: rule.update(expr="vector(1)", **{"for": "0m"}))
    assert not [case for case, holds in held.items() if case.startswith("silent") and holds]


RELAXED = 0.02
"""By so much a threshold is moved to where a value at the border is beyond it."""


@pytest.mark.parametrize("name", [case for case in SPOILED if case.id not in NO_BORDER])
def test_cases_at_the_border_notice_a_threshold_that_is_a_little_off(name: str, tmp_path: Path) -> None:
    thresholds = {(alert.expression, alert.holds_for): alert for alert in ALERTS if alert.name == name}
    border = set[str]()
    for factor in (1 - RELAXED, 1 + RELAXED):

        def moved(rule: dict[str, Any], factor: float = factor) -> None:
            alert = thresholds[rule["expr"], rule["for"]]
            assert alert.threshold is not None
            rule["expr"] = alert.expr(f"{alert.threshold.value * factor:g}")

        held = outcomes(name, tmp_path, moved)
        border |= {
            case for case, holds in held.items() if case.startswith("silent at the border") and not holds
        }
    at_border = {
        case["name"] for case in cases_of(name)["tests"] if case["name"].startswith("silent at the border")
    }
    assert border, f"no case of {at_border} is within {RELAXED:.0%} of the threshold"


# --- runbooks ----------------------------------------------------------------------------------------

SECTIONS = ("What it means", "Why it matters", "How to confirm", "What to do", "When to ignore")


def runbook(name: str) -> str:
    path = ROOT / "rules" / "runbooks" / f"{name}.md"
    assert path.exists(), f"{name} has no runbook: {path} is missing"
    return path.read_text()


@pytest.mark.parametrize("name", RUNBOOK_NAMES)
def test_a_runbook_says_what_one_needs_in_order(name: str) -> None:
    text = runbook(name)
    assert text.startswith(f"# {name}\n")
    places = [text.find(f"\n## {section}\n") for section in SECTIONS]
    assert -1 not in places, f"a section is missing: {dict(zip(SECTIONS, places, strict=True))}"
    assert places == sorted(places)
    confirm, what_to_do = places[2], places[3]
    assert "```promql\n" in text[confirm:what_to_do], "no query that confirms it"
    assert "\n1. " in text[what_to_do : places[4]], "what to do has no order"


def test_no_runbook_is_of_an_alert_that_does_not_exist() -> None:
    assert {path.stem for path in (ROOT / "rules" / "runbooks").glob("*.md")} == set(RUNBOOK_NAMES)
    assert {path.stem for path in CASES.glob("*.yaml")} == {*RUNBOOK_NAMES, RECORDINGS}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: f"{alert.name}-{alert.severity}")
def test_an_alert_leads_to_its_runbook(alert: Any) -> None:
    assert alert.runbook_url.endswith(f"/rules/runbooks/{alert.name}.md")
