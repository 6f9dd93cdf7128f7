"""Monitors, rules and boards: what they say follows from the server's own switch, and from the tables."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

from helm.alerts import KEYS, key_of
from helm.chart import BOARDS, CHART
from rules.alerts import ALERTS
from tests.helm.chart import objects, of_kind, pod_of, render, the

ROOT = Path(__file__).parents[2]
CI = CHART / "ci"
RULES = ("prometheusRule.enabled=true",)


def generated(name: str) -> list[object]:
    groups: list[object] = yaml.safe_load((ROOT / "rules" / "generated" / name).read_text())["groups"]
    return groups


def alerts_of(text: str) -> list[dict[str, object]]:
    rule = the(text, "PrometheusRule")
    return [one for group in rule["spec"]["groups"] for one in group["rules"] if "alert" in one]


def test_by_default_the_rules_are_exactly_those_of_the_repository() -> None:
    groups = the(render(settings=RULES), "PrometheusRule")["spec"]["groups"]
    assert groups == generated("recordings.yaml") + generated("alerts.yaml")


def test_each_alert_has_a_key_of_its_own() -> None:
    assert len(set(KEYS)) == len(KEYS)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    assert tuple(values["prometheusRule"]["alerts"]) == KEYS


@pytest.mark.parametrize("first", [0, 1])
def test_each_alert_is_switched_off_by_its_own_key_and_no_other(first: int) -> None:
    off = KEYS[first::2]
    text = render(settings=(*RULES, *(f"prometheusRule.alerts.{key}.enabled=false" for key in off)))
    assert [one["expr"] for one in alerts_of(text)] == [
        alert.expression for alert in ALERTS if key_of(alert) not in off
    ]


def test_a_group_without_alerts_is_left_out() -> None:
    switches = (f"prometheusRule.alerts.{key}.enabled=false" for key in KEYS)
    off = (*RULES, "prometheusRule.recordings=false", *switches)
    assert the(render(settings=off), "PrometheusRule")["spec"]["groups"] == []


def test_thresholds_durations_severities_labels_and_runbooks_can_be_changed() -> None:
    alerts = alerts_of(render(CI / "rules-values.yaml"))
    by_name = {str(one["alert"]): one for one in alerts}
    assert "GpuIdleHeld" not in by_name
    bound = by_name["GpuHostBound"]
    assert str(bound["expr"]).endswith("> 0.3")
    assert bound["for"] == "30m"
    assert bound["labels"] == {"severity": "info", "team": "inference"}
    assert bound["annotations"]["runbook_url"] == "https://runbooks.example.com/gpu/GpuHostBound.md"  # type: ignore[index]
    burns = [str(one["expr"]) for one in alerts if one["alert"] == "EngineTtftBudgetBurn"]
    assert [expr.count(" 10 * ") for expr in burns] == [2, 0, 0, 0]
    assert [one["labels"]["severity"] for one in alerts if one["alert"] == "EngineDown"] == ["critical"]  # type: ignore[index]


def test_a_threshold_may_come_from_the_command_line() -> None:
    text = render(settings=(*RULES, "prometheusRule.alerts.GpuHostBound.threshold=0.35"))
    (bound,) = [one for one in alerts_of(text) if one["alert"] == "GpuHostBound"]
    assert str(bound["expr"]).endswith("> 0.35")


def test_boards_are_byte_for_byte_those_of_the_repository() -> None:
    boards = {
        key: text
        for one in of_kind(render(settings=("dashboards.enabled=true",)), "ConfigMap")
        if one["metadata"]["labels"].get("grafana_dashboard") == "1"
        for key, text in one["data"].items()
    }
    assert boards == {f"roofline-{path.name}": path.read_text() for path in BOARDS.glob("*.json")}


def test_one_switch_speaks_for_server_probes_monitor_and_test() -> None:
    text = render(CI / "tls-auth-values.yaml")
    (endpoint,) = the(text, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "https"
    assert endpoint["tlsConfig"] == {
        "serverName": "roofline-agent.gpu.svc",
        "ca": {"secret": {"name": "roofline-agent-tls", "key": "ca.crt"}},
    }
    assert endpoint["basicAuth"] == {
        "username": {"name": "roofline-agent-scrape", "key": "username"},
        "password": {"name": "roofline-agent-scrape", "key": "password"},
    }
    container = pod_of(text)["containers"][0]
    assert {
        container[f"{probe}Probe"]["httpGet"]["scheme"] for probe in ("startup", "liveness", "readiness")
    } == {"HTTPS"}
    (port,) = container["ports"]
    (service_port,) = the(text, "Service")["spec"]["ports"]
    assert endpoint["port"] == port["name"] == service_port["name"] == service_port["targetPort"]
    tested = {one["name"]: one.get("value") for one in the(text, "Pod")["spec"]["containers"][0]["env"]}
    assert tested["AGENT_SCHEME"] == "https"
    assert {"SCRAPE_USER", "SCRAPE_PASSWORD", "CA_FILE"} <= tested.keys()
    assert the(text, "PodMonitoring")["spec"]["endpoints"][0]["basicAuth"]["username"] == "prometheus"


def test_without_it_nothing_speaks_of_tls_or_users() -> None:
    text = render(settings=("serviceMonitor.enabled=true",))
    (endpoint,) = the(text, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["scheme"] == "http"
    assert not endpoint.keys() & {"tlsConfig", "basicAuth", "authorization", "oauth2"}


def test_who_must_show_a_certificate_is_probed_only_at_its_port() -> None:
    text = render(CI / "mtls-values.yaml")
    container = pod_of(text)["containers"][0]
    assert all("tcpSocket" in container[f"{probe}Probe"] for probe in ("startup", "liveness", "readiness"))
    (endpoint,) = the(text, "PodMonitor")["spec"]["podMetricsEndpoints"]
    assert endpoint["tlsConfig"]["cert"] == {"secret": {"name": "scraper", "key": "tls.crt"}}
    assert "roofline-agent.gpu.svc" in the(text, "Certificate")["spec"]["dnsNames"]


@pytest.mark.parametrize(
    ("kind", "switch", "endpoints"),
    [
        ("ServiceMonitor", "serviceMonitor", "endpoints"),
        ("PodMonitor", "podMonitor", "podMetricsEndpoints"),
    ],
)
def test_instance_is_the_node(kind: str, switch: str, endpoints: str) -> None:
    spec = the(render(settings=(f"{switch}.enabled=true",)), kind)["spec"]
    assert spec[endpoints][0]["relabelings"] == [
        {"action": "replace", "sourceLabels": ["__meta_kubernetes_pod_node_name"], "targetLabel": "instance"}
    ]


def test_the_monitor_finds_the_service_and_the_service_the_pods() -> None:
    text = render(settings=("serviceMonitor.enabled=true", "podMonitoring.enabled=true"))
    service, daemon_set = the(text, "Service"), the(text, "DaemonSet")
    monitored = the(text, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    labels = daemon_set["spec"]["template"]["metadata"]["labels"].items()
    assert monitored <= service["metadata"]["labels"].items()
    assert service["spec"]["selector"].items() <= labels
    assert the(text, "PodMonitoring")["spec"]["selector"]["matchLabels"].items() <= labels


def test_kinds_that_the_cluster_does_not_know_are_left_out() -> None:
    own = render(CI / "monitors-values.yaml", kinds=())
    assert {one["apiVersion"] for one in objects(own)} == {"v1", "apps/v1"}
    anyhow = render(CI / "monitors-values.yaml", kinds=(), settings=("capabilityChecks=false",))
    assert {one["kind"] for one in objects(anyhow)} >= {"ServiceMonitor", "PodMonitoring", "PrometheusRule"}


@pytest.fixture(scope="module")
def noting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart with its notes as an object: Helm shows them only where there is a cluster."""
    chart = tmp_path_factory.mktemp("noting") / "chart"
    shutil.copytree(CHART, chart)
    written = (chart / "templates" / "NOTES.txt").rename(chart / "templates" / "_notes.tpl")
    written.write_text('{{- define "notes" }}' + written.read_text() + "{{- end }}")
    (chart / "templates" / "notes.yaml").write_text(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: notes}\n"
        'data: {notes: {{ include "notes" . | toJson }}}\n'
    )
    return chart


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ((), 'what Pod Security "restricted" allows, and no more'),
        ((), "nobody scrapes it yet"),
        (("runtimeClassName=",), "kubectl get runtimeclass, then --set runtimeClassName=nvidia"),
        (("serviceMonitor.enabled=true",), "WARNING: monitoring.coreos.com/v1/ServiceMonitor was asked for"),
        (("config.discovery.pod_resources.enabled=true",), "would refuse uid 0, hostPath pod-resources"),
        (("web.enableLifecycle=true",), "web.enableLifecycle has no effect"),
        (
            (
                "web.basicAuth.enabled=true",
                "web.basicAuth.configSecret.name=a",
                "web.basicAuth.scrapeSecret.name=b",
            ),
            "sends the password readable",
        ),
        (
            ("web.tls.enabled=true", "web.tls.secretName=tls", "web.basicAuth.configSecret.name=web"),
            "cert_file: /etc/roofline-agent/tls/tls.crt",
        ),
    ],
)
def test_the_notes_diagnose(noting: Path, settings: tuple[str, ...], said: str) -> None:
    maps = of_kind(render(settings=settings, kinds=(), chart=noting), "ConfigMap")
    (text,) = [one["data"]["notes"] for one in maps if one["metadata"]["name"] == "notes"]
    assert said in text
