"""Each set of values in `ci/` renders to objects that Kubernetes and the operators take."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.config import parse_configuration
from helm.chart import CHART
from tests.helm import custom_kinds, kubernetes_schemas
from tests.helm.chart import CI, Object, helm, objects, of_kind, pod_of, refusal, render, the
from tests.helm.pod_security import exceptions_of

ROOT = Path(__file__).parents[2]
CASES = {"defaults": (), **{path.name.removesuffix("-values.yaml"): (path,) for path in CI}}
EVERYTHING = (
    "serviceMonitor.enabled=true",
    "prometheusRule.enabled=true",
    "podMonitoring.enabled=true",
    "dashboards.enabled=true",
    "dashboards.grafanaOperator.enabled=true",
    "networkPolicy.enabled=true",
    "networkPolicy.egress.enabled=true",
    "verticalPodAutoscaler.enabled=true",
    "config.discovery.kubernetes.enabled=true",
    "config.discovery.pod_resources.enabled=true",
)


@pytest.mark.parametrize("case", CASES)
def test_helm_finds_nothing_to_say(case: str) -> None:
    linted = helm("lint", "--strict", CHART, *(word for path in CASES[case] for word in ("--values", path)))
    assert linted.returncode == 0, linted.stdout + linted.stderr


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("version", kubernetes_schemas.VERSIONS)
def test_kubernetes_takes_each_object(case: str, version: str) -> None:
    rendered = objects(render(*CASES[case], version=f"{version}.0"))
    known = [one for one in rendered if not is_custom(one)]
    assert known
    assert [problem for one in known for problem in kubernetes_schemas.problems_of(one, version)] == []


def is_custom(one: Object) -> bool:
    return one["apiVersion"] in custom_kinds.MODULES or one["kind"] == "PodMonitoring"


def custom_objects() -> Iterator[Object]:
    for paths in CASES.values():
        for one in objects(render(*paths)):
            if one["apiVersion"] in custom_kinds.MODULES:
                yield one


def with_in_spec(one: Object, **more: object) -> Object:
    return {**one, "metadata": {"name": "wrong"}, "spec": {**one["spec"], **more}}


def test_the_operators_take_each_object_and_would_not_take_a_wrong_one() -> None:
    found = list(custom_objects())
    assert {one["kind"] for one in found} == {
        "ServiceMonitor",
        "PodMonitor",
        "PrometheusRule",
        "Certificate",
        "VerticalPodAutoscaler",
        "GrafanaDashboard",
    }
    monitor = next(one for one in found if one["kind"] == "ServiceMonitor")
    wrong = with_in_spec(monitor, endpoints=[{"interval": "often"}])
    (problem,) = custom_kinds.problems_of([*found, wrong])
    assert problem.startswith("ServiceMonitor wrong: data/spec/endpoints/0/interval")


def test_the_operators_know_each_key_and_would_not_know_another() -> None:
    found = list(custom_objects())
    monitor = next(one for one in found if one["kind"] == "ServiceMonitor")
    (problem,) = custom_kinds.problems_of_types([*found, with_in_spec(monitor, sampleLimits=1)]).splitlines()
    assert '"sampleLimits"\' does not exist' in problem


def test_kubernetes_would_not_know_another_key() -> None:
    wrong = with_in_spec(the(render(), "DaemonSet"), replicas=1)
    assert "replicas" in "".join(kubernetes_schemas.problems_of(wrong, "1.31"))


def test_google_takes_its_own_kind() -> None:
    found = [one for paths in CASES.values() for one in of_kind(render(*paths), "PodMonitoring")]
    assert len(found) >= 3
    assert [p for one in found for p in custom_kinds.problems_of_pod_monitoring(one["spec"])] == []


@pytest.mark.parametrize("case", CASES)
def test_it_renders_the_same_byte_for_byte_each_time(case: str) -> None:
    first = render(*CASES[case])
    assert render.__wrapped__(*CASES[case]) == first


@pytest.mark.parametrize("case", CASES)
def test_no_secret_is_ever_made(case: str) -> None:
    assert of_kind(render(*CASES[case]), "Secret") == []


def test_a_chart_version_restarts_no_pod(tmp_path: Path) -> None:
    newer = tmp_path / "chart"
    shutil.copytree(CHART, newer)
    definition = (newer / "Chart.yaml").read_text().replace("version: 0.1.0\napp", "version: 0.1.1\napp")
    (newer / "Chart.yaml").write_text(definition)
    before, after = (the(render(chart=chart), "DaemonSet") for chart in (CHART, newer))
    assert before["metadata"]["labels"] != after["metadata"]["labels"]
    assert before["spec"] == after["spec"]


def test_pods_restart_for_what_a_running_agent_cannot_take_and_for_nothing_else() -> None:
    def template(*settings: str) -> Object:
        made: Object = the(render(settings=settings), "DaemonSet")["spec"]["template"]
        return made

    assert template("config.window_seconds=60") == template()
    assert template("web.enableLifecycle=true") != template()
    changes = ("restartOnConfigChange=true",)
    assert template(*changes, "config.window_seconds=60") != template(*changes)


# --- privileges ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_the_pod_names_each_thing_that_pod_security_restricted_refuses(case: str) -> None:
    template = the(render(*CASES[case]), "DaemonSet")["spec"]["template"]
    said = template["metadata"]["annotations"].get("roofline-agent/pod-security-exceptions", "")
    assert set(filter(None, said.split(", "))) == exceptions_of(template["spec"])


@pytest.mark.parametrize(
    ("case", "exceptions"),
    [
        ("defaults", set()),
        ("tier-a", set()),
        ("tier-b", set()),
        ("tier-b-namespaces", set()),
        ("tls-auth", set()),
        ("mtls", set()),
        ("tier-c", {"uid 0", "hostPath pod-resources"}),
        (
            "tier-d",
            {"uid 0", "hostPath pod-resources", "hostPID", "hostNetwork", "capability SYS_PTRACE"},
        ),
        ("mig", {"uid 0", "hostPath pod-resources", "capability SYS_ADMIN", "privilege escalation"}),
        ("volume-mounts", {"hostPath visible-devices"}),
        ("gke", {"uid 0", "privileged container", "hostPath driver"}),
    ],
)
def test_each_tier_has_what_it_needs_and_no_more(case: str, exceptions: set[str]) -> None:
    assert exceptions_of(pod_of(render(*CASES[case]))) == exceptions


@pytest.mark.parametrize("case", CASES)
def test_the_root_is_read_only_and_capabilities_are_dropped(case: str) -> None:
    context = pod_of(render(*CASES[case]))["containers"][0]["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"]["drop"] == ["ALL"]


@pytest.mark.parametrize("case", CASES)
def test_a_token_and_a_role_are_there_only_to_watch_pods(case: str) -> None:
    text = render(*CASES[case])
    configuration = yaml.safe_load(the_config(text)["config.yaml"]) if the_config(text) else {}
    watches = configuration.get("discovery", {}).get("kubernetes", {}).get("enabled", False)
    assert pod_of(text)["automountServiceAccountToken"] is watches
    assert all(one["automountServiceAccountToken"] is False for one in of_kind(text, "ServiceAccount"))
    roles = of_kind(text, "Role") + of_kind(text, "ClusterRole")
    assert bool(roles) is watches
    granted = {
        (what, verb)
        for role in roles
        for rule in role["rules"]
        for what in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted <= {("pods", "get"), ("pods", "list"), ("pods", "watch"), ("nodes", "get")}


def test_where_namespaces_are_named_the_role_is_in_each_and_nodes_only_for_prices_by_label() -> None:
    text = render(CHART / "ci" / "tier-b-namespaces-values.yaml")
    assert [one["metadata"]["namespace"] for one in of_kind(text, "Role")] == ["chat", "search"]
    assert the(text, "ClusterRole")["rules"] == [
        {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]}
    ]
    assert of_kind(render(CHART / "ci" / "tier-b-values.yaml"), "Role") == []


def test_gpus_are_seen_without_claiming_one() -> None:
    pod = pod_of(render())
    environment = {one["name"]: one.get("value") for one in pod["containers"][0]["env"]}
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "all"
    assert environment["NVIDIA_DRIVER_CAPABILITIES"] == "utility"
    assert "nvidia.com/gpu" not in json.dumps(pod["containers"][0]["resources"])
    assert pod["runtimeClassName"] == "nvidia"


# --- the configuration ---------------------------------------------------------------------------------


def the_config(text: str) -> dict[str, str]:
    """The data of the agent's ConfigMap."""
    mounted = {volume["name"]: volume for volume in pod_of(text)["volumes"]}["config"]["configMap"]["name"]
    (data,) = [
        one.get("data") or {} for one in of_kind(text, "ConfigMap") if one["metadata"]["name"] == mounted
    ]
    return dict(data)


@pytest.mark.parametrize("case", [case for case in CASES if case not in ("everything",)])
def test_the_agent_understands_its_configuration(case: str) -> None:
    document = yaml.safe_load(the_config(render(*CASES[case]))["config.yaml"])
    document["web"].pop("config_file", None)  # it names a file of the container
    configuration = parse_configuration(yaml.safe_dump(document), origin=case)
    assert configuration.web.port == 10095


def test_large_numbers_and_dates_come_through() -> None:
    text = the_config(render(CHART / "ci" / "tier-a-values.yaml"))["config.yaml"]
    configuration = parse_configuration(text, origin="tier a")
    assert configuration.roofs[0].dram_bytes_per_second == 3.35e12
    assert configuration.roofs[0].flops_per_second == {"bf16": 989e12}
    assert str(configuration.prices[0].since) == "2026-01-01"


def test_the_documented_configuration_is_taken_but_for_its_credentials(tmp_path: Path) -> None:
    document = (ROOT / "docs" / "configuration.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)
    configuration = yaml.safe_load(block)
    del configuration["web"]
    values = tmp_path / "values.yaml"
    values.write_text(yaml.safe_dump({"config": configuration}))
    assert "headers is not allowed" in refusal(values=values)
    del configuration["engines"][0]["headers"], configuration["discovery"]["kubernetes"]["credentials"]
    values.write_text(yaml.safe_dump({"config": configuration}, default_flow_style=False))
    assert the_config(render(values))


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("serviceMonitors.enabled=true", "serviceMonitors is not allowed"),
        ("web.tls.enable=true", "enable is not allowed"),
        ("config.slo.ttft_second=2", "ttft_second is not allowed"),
        ("config.web.listen_address=:1", "web is not allowed"),
        ("config.interval_seconds=0", "interval_seconds"),
        ("config.interval_seconds=often", "interval_seconds"),
        ("prometheusRule.alerts.GpuLostt.enabled=false", "GpuLostt is not allowed"),
        ("prometheusRule.alerts.GpuLost.threshold=1", "threshold is not allowed"),
        ("prometheusRule.alerts.GpuHostBound.severity=page", "severity"),
        ("image.digest=latest", "digest"),
        ("gpuAccess.mode=device-plugin", "mode"),
        ("web.tls.enabled=true", "web.tls.secretName"),
        ("web.basicAuth.enabled=true", "basicAuth"),
    ],
)
def test_what_cannot_be_meant_is_refused(setting: str, said: str) -> None:
    assert said in refusal(setting)


def test_a_chart_around_it_may_have_a_switch_for_it_and_globals_of_its_own() -> None:
    assert render(settings=("enabled=true", "global.storageClass=fast")) == render()


# --- upgrades ------------------------------------------------------------------------------------------


def with_values(chart: Path, document: object) -> Path:
    """The chart as Helm has it after `--reuse-values`: the older chart's values stand in for its own."""
    shutil.copytree(CHART, chart)
    (chart / "values.yaml").write_text(yaml.safe_dump(document))
    return chart


def test_reused_values_that_lack_what_is_new_still_render_the_same(tmp_path: Path) -> None:
    older = yaml.safe_load((CHART / "values.yaml").read_text())
    for new in ("test", "verticalPodAutoscaler", "gpuAccess", "capabilityChecks", "existingConfigSecret"):
        older.pop(new)
    for new in ("GpuHostBound", "GpuLost", "EngineTtftBudgetBurn1h"):
        del older["prometheusRule"]["alerts"][new]
    del older["web"]["tls"], older["dashboards"]["grafanaOperator"], older["service"]["headless"]
    chart = with_values(tmp_path / "chart", older)
    settings = ("prometheusRule.enabled=true", "serviceMonitor.enabled=true", "config.slo.ttft_seconds=2")
    assert without_test(render(settings=settings, chart=chart)) == without_test(render(settings=settings))


def without_test(text: str) -> list[Object]:
    return [one for one in objects(text) if one["kind"] != "Pod"]


def test_it_renders_from_no_values_at_all_and_stays_unprivileged(tmp_path: Path) -> None:
    chart = with_values(tmp_path / "chart", {})
    assert exceptions_of(pod_of(render(chart=chart))) == set()
    text = render(settings=EVERYTHING, chart=chart)
    assert {one["kind"] for one in objects(text)} >= {"ServiceMonitor", "PrometheusRule", "ClusterRole"}


# --- hooks ---------------------------------------------------------------------------------------------


def test_more_objects_are_evaluated_as_templates() -> None:
    text = render(CHART / "ci" / "everything-values.yaml")
    names = {one["metadata"]["name"] for one in of_kind(text, "ConfigMap")}
    assert {"roofline-agent-more", "roofline-agent-text"} <= names
    environment = {one["name"]: one.get("value") for one in pod_of(text)["containers"][0]["env"]}
    assert environment["RELEASE"] == "roofline-agent"


def test_the_image_is_named_by_registry_and_digest() -> None:
    image = pod_of(render(CHART / "ci" / "everything-values.yaml"))["containers"][0]["image"]
    assert image.startswith("registry.example.com/roofline-agent/roofline-agent@sha256:")
    assert pod_of(render())["containers"][0]["image"].endswith("/roofline-agent:0.1.0")


@pytest.mark.parametrize("case", CASES)
def test_the_test_pod_is_restricted(case: str) -> None:
    for pod in of_kind(render(*CASES[case]), "Pod"):
        assert exceptions_of(pod["spec"]) == set()
