"""What the chart renders runs: as it says, unprivileged, over TLS with a password, and Prometheus scrapes it.

Container, Prometheus and the chart's own test are real processes; only the cluster between them is not.
"""

from __future__ import annotations

import base64
import copy
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import yaml

from helm.chart import CHART
from tests.helm.chart import of_kind, pod_of, render, the
from tests.helm.container import Cluster, command_of, lay_files, needs_root, running
from tests.helm.scraping import scrape_configuration
from tests.nvml_standin import StandIn
from tests.rig import programs
from tests.rig.programs import Program, free_port
from tests.web.certificates import Authority

PASSWORD = "not 94 % of anything"
NAME = "roofline-agent.gpu.svc"
SECONDS = 60.0

pytestmark = needs_root


@dataclass(frozen=True)
class Deployed:
    """A release with TLS and a password, and what is in the cluster for it."""

    text: str
    cluster: Cluster
    port: int
    directory: Path
    log: Path

    @property
    def pod(self) -> dict[str, Any]:
        return pod_of(self.text)

    def get(self, path: str, *, password: str | None = None) -> tuple[int, str]:
        """As somebody who knows the authority and the Service's name."""
        context = ssl.create_default_context(cadata=self.cluster.secrets["roofline-agent-tls"]["ca.crt"])
        context.check_hostname = False  # the address stands in the URL
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}")
        if password is not None:
            both = base64.b64encode(f"prometheus:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {both}")
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def until(holds: Callable[[], object], said: Callable[[], str]) -> None:
    """Wait for it."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            if holds():
                return
        except OSError:
            pass
        assert time.monotonic() < end, said()
        time.sleep(0.2)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, nvml_library: Path) -> Iterator[Deployed]:
    directory = tmp_path_factory.mktemp("deployed")
    port = free_port()
    settings = (f"web.port={port}", "prometheusRule.enabled=true", "config.interval_seconds=0.5")
    text = render(CHART / "ci" / "tls-auth-values.yaml", settings=settings)
    authority = Authority(directory)
    pair = authority.vouch("agent", f"DNS:{NAME}")
    notes = yaml.safe_dump(
        {
            "tls_server_config": {
                "cert_file": "/etc/roofline-agent/tls/tls.crt",
                "key_file": "/etc/roofline-agent/tls/tls.key",
                "min_version": "TLS12",
            },
            "basic_auth_users": {"prometheus": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()},
        }
    )
    stand_in = StandIn(nvml_library, directory / "driver")
    cluster = Cluster(
        config_maps={one["metadata"]["name"]: one["data"] for one in of_kind(text, "ConfigMap")},
        secrets={
            "roofline-agent-tls": {
                "tls.crt": pair.certificate.read_text(),
                "tls.key": pair.key.read_text(),
                "ca.crt": authority.certificate.read_text(),
            },
            "roofline-agent-web": {"web-config.yml": notes},
            "roofline-agent-scrape": {"username": "prometheus", "password": PASSWORD},
        },
        fields={"spec.nodeName": "node-7"},
        hosts={NAME: "127.0.0.1"},
        driver=stand_in.path.parent,
    )
    root = directory / "root"
    root.mkdir(mode=0o755)
    deployed = Deployed(text, cluster, port, directory, directory / "log")
    with running(deployed.pod, cluster, root, deployed.log) as process:

        def is_ready() -> bool:
            assert process.poll() is None, deployed.log.read_text()
            return deployed.get(ready)[0] == 200

        ready = deployed.pod["containers"][0]["readinessProbe"]["httpGet"]["path"]
        until(is_ready, deployed.log.read_text)
        yield deployed


def process_of(deployed: Deployed) -> Path:
    """The agent's own directory in /proc."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes()
            inside = (path / "root").readlink() == deployed.directory / "root"
        except OSError:
            continue
        if inside and b"roofline-agent" in command:
            return path
    raise AssertionError(deployed.log.read_text())


def test_it_runs_as_nobody_without_a_capability_in_a_root_that_it_cannot_write(deployed: Deployed) -> None:
    path = process_of(deployed)
    status = dict(line.split(":\t", 1) for line in (path / "status").read_text().splitlines())
    assert status["Uid"].split() == ["65532"] * 4
    assert status["Gid"].split() == ["65532"] * 4
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"
    options = [
        line.split()[5].split(",")
        for line in (path / "mountinfo").read_text().splitlines()
        if line.split()[4] == "/"
    ]
    assert options
    assert "ro" in options[0]


def test_probes_need_no_password_and_pages_do(deployed: Deployed) -> None:
    container = deployed.pod["containers"][0]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert deployed.get(container[probe]["httpGet"]["path"])[0] == 200
    assert deployed.get("/metrics")[0] == 401
    assert deployed.get("/metrics", password="wrong")[0] == 401
    up = 'roofline_source_up{source="nvml"} 1'
    until(lambda: up in deployed.get("/metrics", password=PASSWORD)[1], deployed.log.read_text)


def test_the_charts_own_test_passes_and_fails_with_a_wrong_password(
    deployed: Deployed, tmp_path: Path
) -> None:
    pod = copy.deepcopy(the(deployed.text, "Pod")["spec"])
    for variable in pod["containers"][0]["env"]:
        if variable["name"] == "TIMEOUT_SECONDS":
            variable["value"] = "1"

    def run(name: str, cluster: Cluster) -> subprocess.CompletedProcess[str]:
        (tmp_path / name).mkdir(mode=0o755)
        command = command_of(pod, cluster, tmp_path / name)
        return subprocess.run(command, capture_output=True, text=True, check=False, env={})

    passed = run("right", deployed.cluster)
    assert passed.returncode == 0, passed.stderr
    assert "127.0.0.1: ok, " in passed.stdout
    secrets = {
        **deployed.cluster.secrets,
        "roofline-agent-scrape": {"username": "prometheus", "password": "wrong"},
    }
    wrong = Cluster(
        config_maps={},
        secrets=secrets,
        fields={},
        hosts=deployed.cluster.hosts,
    )
    failed = run("wrong", wrong)
    assert failed.returncode == 1
    assert "127.0.0.1: cannot be scraped: HTTP 401" in failed.stderr


def test_a_changed_config_map_reaches_it_while_it_runs(deployed: Deployed) -> None:
    before = process_of(deployed)
    (name,) = deployed.cluster.config_maps
    changed = deployed.cluster.config_maps[name]["config.yaml"] + "slo:\n  ttft_seconds: 1.5\n"
    place = deployed.directory / "root" / "etc" / "roofline-agent" / "config"
    lay_files(place, {"config.yaml": changed}, group=65532, mode=0o644)
    until(lambda: "1.5" in deployed.get("/config", password=PASSWORD)[1], deployed.log.read_text)
    assert process_of(deployed) == before


@pytest.fixture(scope="module")
def prometheus(deployed: Deployed) -> Iterator[Program]:
    directory = deployed.directory / "prometheus"
    directory.mkdir()
    discovered = {
        "__meta_kubernetes_namespace": "gpu",
        "__meta_kubernetes_pod_name": "roofline-agent-x7k2p",
        "__meta_kubernetes_pod_node_name": "node-7",
        "__meta_kubernetes_service_label_app_kubernetes_io_name": "roofline-agent",
    }
    scraped = scrape_configuration(
        the(deployed.text, "ServiceMonitor"),
        deployed.cluster.secrets,
        {f"127.0.0.1:{deployed.port}": discovered},
        directory,
    )
    (directory / "rules.yaml").write_text(yaml.safe_dump(the(deployed.text, "PrometheusRule")["spec"]))
    (directory / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {"evaluation_interval": "2s"},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [scraped],
            }
        )
    )
    port = free_port()
    command = (
        "prometheus",
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with programs.running(
        command, package="prometheus", port=port, ready="/-/ready", directory=directory
    ) as program:
        yield program


def test_prometheus_scrapes_it_as_the_service_monitor_says(prometheus: Program) -> None:
    def asked(query: str) -> list[dict[str, Any]]:
        answer = prometheus.get("/api/v1/query", query=query).json()
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    until(lambda: asked('up{job="roofline-agent"} == 1'), prometheus.log)
    (up,) = asked("up")
    assert up["metric"] == {
        "__name__": "up",
        "job": "roofline-agent",
        "instance": "node-7",
        "namespace": "gpu",
        "pod": "roofline-agent-x7k2p",
    }
    (nvml,) = asked('roofline_source_up{source="nvml"}')
    assert nvml["value"][1] == "1"


def test_prometheus_evaluates_every_rule_as_rendered(prometheus: Program, deployed: Deployed) -> None:
    wanted = {group["name"] for group in the(deployed.text, "PrometheusRule")["spec"]["groups"]}

    def groups() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = prometheus.get("/api/v1/rules").json()["data"]["groups"]
        return found

    assert {group["name"] for group in groups()} == wanted
    quick = [group["name"] for group in groups() if group["interval"] < 10]
    until(
        lambda: all(
            rule["health"] == "ok" for group in groups() if group["name"] in quick for rule in group["rules"]
        ),
        lambda: str([rule.get("lastError") for group in groups() for rule in group["rules"]]),
    )
