"""The monthly review's job runs as rendered: a real Prometheus wants a certificate and a password of it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bcrypt
import pytest
import yaml

from helm.chart import CHART
from tests.helm.chart import render, review_of
from tests.helm.container import Cluster, command_of, needs_root
from tests.helm.test_running import until
from tests.promtool import back_fill
from tests.rig.programs import free_port, tool
from tests.web.certificates import Authority

PASSWORD = "not 94 % of anything"
HOST = "mimir.example.com"
CHAT = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 32}
LAST = (datetime.now(UTC).replace(day=1) - timedelta(days=1)).strftime("%Y-%m")
"""What is reviewed."""

pytestmark = needs_root


@dataclass(frozen=True)
class Server:
    """A Prometheus that keeps two days of the last month, and what a pod needs to be let in."""

    port: int
    cluster: Cluster

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def run(self, directory: Path, *settings: str) -> subprocess.CompletedProcess[str]:
        """The job's container, to its end, as its values say with these besides."""
        text = render(
            CHART / "ci" / "report-values.yaml", settings=(f"report.prometheusUrl={self.url}", *settings)
        )
        root = directory / "root"
        root.mkdir(mode=0o755)
        command = command_of(review_of(text), self.cluster, root)
        return subprocess.run(command, capture_output=True, text=True, check=False, env={}, timeout=120)


def recorded() -> Iterator[str]:
    """Eight GPUs of one cluster and one of another over two days: each sample is of five minutes."""
    begin = datetime.strptime(f"{LAST}-10", "%Y-%m-%d").replace(tzinfo=UTC)
    series = {
        ("gpu_observed_seconds", "production", ""): 2400,
        ("gpu_bottleneck_seconds", "production", ',bottleneck="memory_bandwidth"'): 1800,
        ("gpu_bottleneck_seconds", "production", ',bottleneck="idle"'): 600,
        ("gpu_cost_usd", "production", ""): 2,
        ("gpu_observed_seconds", "other", ""): 300,
        ("gpu_cost_usd", "other", ""): 7,
    }
    for (name, cluster, more), value in series.items():
        labels = f'cluster="{cluster}",job="agent",part="H100"{more}'
        for step in range(1, 2 * 288 + 1):
            at = begin.timestamp() + 300 * step
            yield f"roofline:cluster:{name}:increase5m{{{labels}}} {value} {at:.0f}\n"
    last = begin.replace(day=1) + timedelta(days=31)
    midnight = last.replace(day=1).timestamp()
    labels = 'namespace="chat",cluster="production",label_team="search"'
    yield f"kube_namespace_labels{{{labels}}} 1 {midnight - 3600:.0f}\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    directory = tmp_path_factory.mktemp("server")
    back_fill(recorded(), directory)
    authority = Authority(directory)
    own, client = authority.vouch("server", f"DNS:{HOST},IP:127.0.0.1"), authority.vouch("client")
    web = {
        "tls_server_config": {
            "cert_file": str(own.certificate),
            "key_file": str(own.key),
            "client_auth_type": "RequireAndVerifyClientCert",
            "client_ca_file": str(authority.certificate),
        },
        "basic_auth_users": {"reader": bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()},
    }
    (directory / "web.yml").write_text(yaml.safe_dump(web))
    (directory / "prometheus.yml").write_text("{}\n")
    claim = directory / "claim"
    claim.mkdir()
    port = free_port()
    command = [
        tool("prometheus", "prometheus"),
        "--config.file=prometheus.yml",
        "--web.config.file=web.yml",
        "--storage.tsdb.path=data",
        "--storage.tsdb.retention.time=100y",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    log = directory / "log"
    with log.open("wb") as written:
        process = subprocess.Popen(command, cwd=directory, stdout=written, stderr=subprocess.STDOUT)
    try:
        until(lambda: "Server is ready" in log.read_text(), log.read_text)
        yield Server(
            port,
            Cluster(
                config_maps={
                    "chat-70b": {"config.json": json.dumps(CHAT)},
                    "other-models": {"search-7b.json": json.dumps(CHAT), "more": "is not mounted"},
                },
                secrets={
                    "mimir-reader": {"username": "reader", "password": f"{PASSWORD}\n"},
                    "mimir-ca": {"ca.crt": authority.certificate.read_text()},
                    "mimir-client": {
                        "tls.crt": client.certificate.read_text(),
                        "tls.key": client.key.read_text(),
                    },
                },
                fields={},
                hosts={HOST: "127.0.0.1"},
                claims={"roofline-agent-report": claim},
            ),
        )
    finally:
        process.terminate()
        process.wait(10)


def test_it_writes_the_review_as_nobody_into_its_volume_and_nowhere_else(
    server: Server, tmp_path: Path
) -> None:
    ran = server.run(tmp_path)
    assert ran.returncode == 0, ran.stderr
    (claim,) = server.cluster.claims.values()
    written = {path.suffix: path for path in claim.iterdir() if path.name.startswith("review-")}
    assert {path.name for path in written.values()} == {
        f"review-{LAST}-production.{suffix}" for suffix in ("html", "md", "json")
    }
    assert {(path.stat().st_uid, path.stat().st_gid) for path in written.values()} == {(65532, 65532)}
    document = json.loads(written[".json"].read_text())
    assert document["totals"]["gpu_hours"] == 8 * 48
    assert document["totals"]["paid_usd"] == 2 * 2 * 288
    assert "<svg" in written[".html"].read_text()
    left = [path.name for path in (tmp_path / "root-tmp").rglob("*") if path.is_file()]
    assert [name.split("-")[0] for name in left] == ["fontlist"]


def test_without_a_volume_it_prints_the_review_and_ends_as_the_command_does(
    server: Server, tmp_path: Path
) -> None:
    lost = ("report.persistence.enabled=false", "report.formats={markdown}")
    ran = server.run(tmp_path, *lost)
    assert ran.returncode == 0, ran.stderr
    assert "\n# GPU efficiency review, " in ran.stdout
    assert "$1,152 was paid for 384 GPU hours" in ran.stdout
    (tmp_path / "again").mkdir()
    wrong = server.run(tmp_path / "again", *lost, "report.extraArgs={--nonsense}")
    assert wrong.returncode == 2, wrong.stderr
    assert wrong.stdout == ""


def test_it_can_write_nothing_else(server: Server, tmp_path: Path) -> None:
    ran = server.run(tmp_path, "report.formats={json}", "report.extraArgs={--output=/elsewhere}")
    assert ran.returncode == 1
    assert "Read-only file system" in ran.stderr


def test_a_wrong_password_fails_without_telling_it(server: Server, tmp_path: Path) -> None:
    reader = {"username": "reader", "password": "a wrong one"}
    secrets = {**server.cluster.secrets, "mimir-reader": reader}
    ran = replace(server, cluster=replace(server.cluster, secrets=secrets)).run(tmp_path)
    assert ran.returncode == 1
    assert "401" in ran.stderr
    assert "a wrong one" not in ran.stdout + ran.stderr


def test_without_the_clients_certificate_it_is_not_let_in(server: Server, tmp_path: Path) -> None:
    ran = server.run(tmp_path, "report.auth.clientSecret.name=")
    assert ran.returncode == 1
    assert HOST in ran.stderr
