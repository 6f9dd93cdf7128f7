"""Helm itself installs and upgrades, against an API server that keeps what it is given."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from helm.chart import CHART
from tests.helm.api_server import ApiServer, serving
from tests.helm.chart import helm, objects

Cluster = tuple[ApiServer, Path]
WANTED = ("--set", "prometheusRule.enabled=true,serviceMonitor.enabled=true")


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with serving(tmp_path, operator=True) as begun:
        yield begun


def run(cluster: Cluster, *arguments: str | Path) -> str:
    _, kubeconfig = cluster
    # Validation is done elsewhere, by more versions than one.
    more = ("--disable-openapi-validation",) if arguments[0] in ("install", "upgrade") else ()
    patience = ("--qps", "1000", "--burst-limit", "1000")
    ran = helm("--kubeconfig", kubeconfig, "--namespace", "gpu", *patience, *arguments, *more)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def older_chart(directory: Path) -> Path:
    """As it was before some of its values were there."""
    shutil.copytree(CHART, directory)
    definition = directory / "Chart.yaml"
    definition.write_text(definition.read_text().replace("version: 0.1.0\napp", "version: 0.0.9\napp"))
    values: dict[str, Any] = yaml.safe_load((directory / "values.yaml").read_text())
    for new in ("gpuAccess", "capabilityChecks", "existingConfigSecret", "verticalPodAutoscaler", "test"):
        del values[new]
    for new in ("GpuHostBound", "EngineTtftBudgetBurn1h", "GpuXidErrorCritical"):
        del values["prometheusRule"]["alerts"][new]
    del values["web"]["tls"], values["service"]["headless"]
    (directory / "values.yaml").write_text(yaml.safe_dump(values))
    (directory / "values.schema.json").unlink()
    return directory


def manifest(cluster: Cluster) -> dict[tuple[str, str], Any]:
    """The release's objects as Helm keeps them, by kind and name."""
    made = objects(run(cluster, "get", "manifest", "roofline-agent"))
    return {(one["kind"], one["metadata"]["name"]): one for one in made}


def test_an_upgrade_that_reuses_an_older_charts_values_gives_what_a_new_installation_would(
    cluster: Cluster, tmp_path: Path
) -> None:
    run(cluster, "install", "roofline-agent", older_chart(tmp_path / "older"), *WANTED)
    run(cluster, "upgrade", "roofline-agent", CHART, "--reuse-values")
    upgraded = manifest(cluster)
    with serving(tmp_path, operator=True) as fresh:
        run(fresh, "install", "roofline-agent", CHART, *WANTED)
        assert manifest(fresh) == upgraded
    assert upgraded.keys() >= {
        ("PrometheusRule", "roofline-agent"),
        ("ServiceMonitor", "roofline-agent"),
        ("DaemonSet", "roofline-agent"),
    }


def test_what_was_set_stays_set_over_an_upgrade(cluster: Cluster, tmp_path: Path) -> None:
    changed = "prometheusRule.alerts.GpuIdleHeld.enabled=false,config.window_seconds=60"
    run(cluster, "install", "roofline-agent", older_chart(tmp_path / "older"), *WANTED, "--set", changed)
    run(cluster, "upgrade", "roofline-agent", CHART, "--reuse-values", "--set", "service.type=NodePort")
    made = manifest(cluster)
    rules = [
        rule
        for group in made["PrometheusRule", "roofline-agent"]["spec"]["groups"]
        for rule in group["rules"]
    ]
    assert "GpuIdleHeld" not in {rule.get("alert") for rule in rules}
    assert "window_seconds: 60" in made["ConfigMap", "roofline-agent"]["data"]["config.yaml"]
    assert made["Service", "roofline-agent"]["spec"]["type"] == "NodePort"


def test_a_rollback_brings_back_what_was(cluster: Cluster) -> None:
    run(cluster, "install", "roofline-agent", CHART, *WANTED)
    before = manifest(cluster)
    run(cluster, "upgrade", "roofline-agent", CHART, "--set", "config.discovery.kubernetes.enabled=true")
    server, _ = cluster
    assert server.of_kind("ClusterRole")
    assert not server.of_kind("ServiceMonitor")
    run(cluster, "rollback", "roofline-agent", "1")
    assert manifest(cluster) == before
    assert not server.of_kind("ClusterRole")
    assert server.of_kind("ServiceMonitor")


def test_without_the_operator_it_installs_all_the_same_and_says_what_is_missing(tmp_path: Path) -> None:
    with serving(tmp_path, operator=False) as bare:
        said = run(bare, "install", "roofline-agent", CHART, *WANTED)
        assert "WARNING: monitoring.coreos.com/v1/PrometheusRule was asked for and left out" in said
        assert bare[0].of_kind("DaemonSet")
        run(bare, "uninstall", "roofline-agent")
        left = {kind for _, kind, _, _ in bare[0].kept}
        assert left == {"namespaces"}
