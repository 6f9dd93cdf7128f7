"""The programs wired together, and the run.

Prometheus → VictoriaMetrics by remote write; the same compressed rules in Prometheus and in vmalert; an
Alertmanager for each of the two.
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.rig.agents import INTERVAL_SECONDS, OVER_BUDGET, ROLES, Role, RunningAgent, running_agents
from tests.rig.compression import compress_rules
from tests.rig.programs import Database, Program, free_port, running, tool

ROOT = Path(__file__).parents[2]
ALERTMANAGER_CONFIGURATION = ROOT / "rules" / "alertmanager.yaml"

RUN_SECONDS = 124
LOOK_SECONDS = 4
"""Between two looks at the Alertmanagers."""
SETTLE_SECONDS = 30.0
"""For the last samples to arrive where they are written to."""

INTERVAL = f"{INTERVAL_SECONDS}s"
EVALUATION_INTERVAL = "4s"
"""Of rules, where their group has none: vmalert's queries are what costs most here."""
JOB = "roofline-agent"

VMALERT_LATE_SECONDS = 4
"""vmalert looks at what was this long ago: a sample needs a while through remote write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run that is over: its databases can be asked, and the alerts are as they were at its end."""

    roles: Sequence[Role]
    rules: Mapping[str, Mapping[str, Any]]
    """The compressed rule files by name."""
    start: float
    end: float
    """Unix time of the first scrape, and of the last."""
    prometheus: Database
    victoria: Database
    vmalert: Program
    alertmanagers: Mapping[str, Program]
    """By who sends to it."""
    told: Mapping[str, Mapping[str, frozenset[str]]]
    """By who sent them and scenario: the alerts that Alertmanager passed on at some time."""
    silenced: Mapping[str, Mapping[str, frozenset[str]]]
    """And those that another one silenced at some time."""
    slowest_seconds: float
    """The longest that the agents' ticks were late."""


# --- configurations ------------------------------------------------------------------------------


def _target(agent: RunningAgent) -> dict[str, Any]:
    """As Prometheus discovers a pod behind a Service; `__meta_…` labels are those of its documentation."""
    name = agent.role.name
    return {
        "targets": [f"127.0.0.1:{agent.port}"],
        "labels": {
            "cluster": name,
            "__meta_kubernetes_namespace": "monitoring",
            "__meta_kubernetes_service_name": JOB,
            "__meta_kubernetes_endpoint_port_name": "metrics",
            "__meta_kubernetes_endpoint_address_target_kind": "Pod",
            "__meta_kubernetes_endpoint_address_target_name": f"{JOB}-{name}",
            "__meta_kubernetes_pod_name": f"{JOB}-{name}",
            "__meta_kubernetes_pod_container_name": "agent",
            "__meta_kubernetes_pod_node_name": name,
        },
    }


def _relabel(source: str, target: str) -> dict[str, Any]:
    return {"source_labels": [source], "target_label": target}


_AS_SERVICE_MONITOR = [
    # What prometheus-operator writes for every ServiceMonitor …
    {
        "source_labels": [
            "__meta_kubernetes_endpoint_address_target_kind",
            "__meta_kubernetes_endpoint_address_target_name",
        ],
        "regex": "Pod;(.*)",
        "target_label": "pod",
    },
    _relabel("__meta_kubernetes_namespace", "namespace"),
    _relabel("__meta_kubernetes_service_name", "service"),
    _relabel("__meta_kubernetes_pod_name", "pod"),
    _relabel("__meta_kubernetes_pod_container_name", "container"),
    _relabel("__meta_kubernetes_service_name", "job"),
    _relabel("__meta_kubernetes_endpoint_port_name", "endpoint"),
    # … and what ours adds.
    _relabel("__meta_kubernetes_pod_node_name", "instance"),
]


def prometheus_configuration(*, names: Sequence[str], alertmanager: int, victoria: int) -> dict[str, Any]:
    """Scrape the targets in `targets.json`, with the rules in `rules/`."""
    others = "|".join(name for name in names if name != OVER_BUDGET)
    return {
        "global": {
            "scrape_interval": INTERVAL,
            "scrape_timeout": INTERVAL,
            "evaluation_interval": EVALUATION_INTERVAL,
        },
        "rule_files": ["rules/*.yaml"],
        "alerting": {"alertmanagers": [{"static_configs": [{"targets": [f"127.0.0.1:{alertmanager}"]}]}]},
        "remote_write": [
            {
                "url": f"http://127.0.0.1:{victoria}/api/v1/write",
                "queue_config": {"batch_send_deadline": "500ms", "max_shards": 4},
                # vmalert records there itself what these say.
                "write_relabel_configs": [
                    {
                        "source_labels": ["__name__"],
                        "regex": "ALERTS|ALERTS_FOR_STATE|.*:.*",
                        "action": "drop",
                    }
                ],
            }
        ],
        "scrape_configs": [
            {
                "job_name": "serviceMonitor/monitoring/roofline-agent/0",
                "honor_labels": False,
                "file_sd_configs": [{"files": ["targets.json"]}],
                "relabel_configs": _AS_SERVICE_MONITOR,
                # All agents are one process here.
                "metric_relabel_configs": [
                    {
                        "source_labels": ["instance", "__name__"],
                        "regex": f"(?:{others});process_.*",
                        "action": "drop",
                    }
                ],
            }
        ],
    }


# --- the run -------------------------------------------------------------------------------------


@contextmanager
def finished_run(
    rule_files: Sequence[Path], directory: Path, *, roles: Sequence[Role] = ROLES
) -> Iterator[Run]:
    """Let everything happen, then give what came of it; the databases answer until it is left."""
    rules = {path.name: compress_rules(path.read_text()) for path in rule_files}
    (directory / "rules").mkdir()
    for name, text in rules.items():
        (directory / "rules" / name).write_text(text)
    with ExitStack() as stack:
        run = stack.enter_context
        agents = run(running_agents(roles))
        names = [role.name for role in roles]
        victoria = run(_victoria(directory))
        alertmanagers = {
            sender: run(_alertmanager(directory / f"alertmanager-{sender}"))
            for sender in ("prometheus", "vmalert")
        }
        _write_targets(directory, agents)
        _set_time(agents)
        configuration = prometheus_configuration(
            names=names, alertmanager=_port(alertmanagers["prometheus"]), victoria=_port(victoria)
        )
        prometheus = run(_prometheus(directory, configuration))
        vmalert = run(_vmalert(directory, victoria, alertmanagers["vmalert"]))
        # Again: only now is everybody there to see what happens, however long that took.
        start = _set_time(agents)
        programs = (prometheus, victoria, vmalert, *alertmanagers.values())
        looks = {sender: Looks(program) for sender, program in alertmanagers.items()}
        slowest = _live(directory, agents, programs, tuple(looks.values()), start)
        end = time.time() - INTERVAL_SECONDS
        databases = [
            Database(program, start=start, end=end, step=INTERVAL_SECONDS)
            for program in (prometheus, victoria)
        ]
        _settle(databases[1], end)
        (directory / "targets.json").write_text("[]")
        for agent in agents:
            agent.close()
        yield Run(
            roles=roles,
            rules={name: yaml.safe_load(text) for name, text in rules.items()},
            start=start,
            end=end,
            prometheus=databases[0],
            victoria=databases[1],
            vmalert=vmalert,
            alertmanagers=alertmanagers,
            told={sender: look.told for sender, look in looks.items()},
            silenced={sender: look.silenced for sender, look in looks.items()},
            slowest_seconds=slowest,
        )


class Looks:
    """What an Alertmanager had, each time that somebody looked."""

    def __init__(self, alertmanager: Program) -> None:
        self._alertmanager = alertmanager
        self.told: dict[str, frozenset[str]] = {}
        """By scenario: the names of alerts that were passed on."""
        self.silenced: dict[str, frozenset[str]] = {}
        """And of those that another one silenced."""

    def look(self) -> None:
        """Note what is there now."""
        for noted, kind in ((self.told, "--active"), (self.silenced, "--inhibited")):
            for labels in _amtool_alerts(self._alertmanager, kind):
                scenario = labels.get("cluster", "no cluster")
                noted[scenario] = noted.get(scenario, frozenset()) | {labels["alertname"]}


def _set_time(agents: Sequence[RunningAgent]) -> float:
    """It is now for all of them. Gives when that is."""
    now = time.time()
    for agent in agents:
        agent.set_time(now)
    return now


def _live(
    directory: Path,
    agents: Sequence[RunningAgent],
    programs: Sequence[Program],
    looks: Sequence[Looks],
    start: float,
) -> float:
    """Real time passes, and each agent meets its fate. Gives by how much ticks were late at most."""
    next_look = start
    fates = sorted(
        (agent for agent in agents if agent.role.fate != "watches"), key=lambda agent: agent.role.at_seconds
    )
    slowest = 0.0
    present = list(agents)
    while (now := time.time()) < start + RUN_SECONDS:
        while fates and fates[0].role.at_seconds <= now - start:
            agent = fates.pop(0)
            agent.meet_fate()
            if agent.role.fate == "is removed":
                present.remove(agent)
                _write_targets(directory, present)
        for agent in agents:
            agent.follow(now)
        for program in programs:
            program.assert_alive()
        if now >= next_look:
            next_look = now + LOOK_SECONDS
            for look in looks:
                look.look()
        done = time.time()
        slowest = max(slowest, done - now - INTERVAL_SECONDS)
        time.sleep(max(now + INTERVAL_SECONDS / 2 - done, 0.0))
    return slowest


def _settle(victoria: Database, end: float) -> None:
    """Wait until the end of the run is in VictoriaMetrics."""
    late = time.monotonic() + SETTLE_SECONDS
    expression = f"max(timestamp(up)) >= {end - INTERVAL_SECONDS:.3f}"
    while not victoria.at_end(expression):
        assert time.monotonic() < late, f"remote write is stuck\n{victoria.program.log()}"
        time.sleep(0.5)


def _amtool_alerts(alertmanager: Program, kind: str) -> list[Mapping[str, str]]:
    """The labels of each."""
    asked = subprocess.run(
        [
            tool("amtool", "prometheus-alertmanager"),
            f"--alertmanager.url={alertmanager.url}",
            "--output=json",
            "alert",
            "query",
            kind,
        ],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert asked.returncode == 0, f"amtool: {asked.stderr}\n{alertmanager.log()}"
    return [alert["labels"] for alert in json.loads(asked.stdout)]


def _write_targets(directory: Path, agents: Sequence[RunningAgent]) -> None:
    written = directory / "targets.json.new"
    written.write_text(json.dumps([_target(agent) for agent in agents]))
    written.replace(directory / "targets.json")


# --- the programs --------------------------------------------------------------------------------


def _port(program: Program) -> int:
    return int(program.url.rpartition(":")[2])


@contextmanager
def _prometheus(directory: Path, configuration: Mapping[str, Any]) -> Iterator[Program]:
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(dict(configuration), sort_keys=False))
    port = free_port()
    command = (
        "prometheus",
        "--config.file=prometheus.yaml",
        "--storage.tsdb.path=prometheus",
        "--storage.remote.flush-deadline=1s",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with running(command, package="prometheus", port=port, ready="/-/ready", directory=directory) as program:
        yield program


@contextmanager
def _victoria(directory: Path) -> Iterator[Program]:
    port = free_port()
    command = (
        "victoria-metrics",
        "-storageDataPath=victoria",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-search.latencyOffset=0s",  # the last second counts here
        "-search.disableCache",
        "-memory.allowedBytes=256MB",
    )
    with running(
        command, package="victoria-metrics", port=port, ready="/health", directory=directory
    ) as program:
        yield program


@contextmanager
def _vmalert(directory: Path, victoria: Program, alertmanager: Program) -> Iterator[Program]:
    port = free_port()
    command = (
        "vmalert",
        "-rule=rules/*.yaml",
        f"-datasource.url={victoria.url}",
        f"-datasource.lookback={VMALERT_LATE_SECONDS}s",
        f"-remoteWrite.url={victoria.url}",
        "-remoteWrite.flushInterval=500ms",
        f"-notifier.url={alertmanager.url}",
        f"-evaluationInterval={EVALUATION_INTERVAL}",
        f"-httpListenAddr=127.0.0.1:{port}",
    )
    with running(
        command, package="victoria-metrics", port=port, ready="/health", directory=directory
    ) as program:
        yield program


@contextmanager
def _alertmanager(directory: Path) -> Iterator[Program]:
    directory.mkdir()
    port = free_port()
    command = (
        "prometheus-alertmanager",
        f"--config.file={ALERTMANAGER_CONFIGURATION}",
        "--storage.path=data",
        "--cluster.listen-address=",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    with running(
        command, package="prometheus-alertmanager", port=port, ready="/-/ready", directory=directory
    ) as program:
        yield program
