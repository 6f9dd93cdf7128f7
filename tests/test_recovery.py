"""What only another process cures, and letting go of the GPUs: the policy, and a real agent under it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests

from agent.readings import Absent, Failed, NodeReading, Outcome, Read
from agent.recovery import EXIT_RESTART, Policy, Remedy, find_remedy, is_in_container
from agent.sources.base import SourceState
from tests.nvml_standin import StandIn

NOW = 1000.0


def state(
    reason: str | None, *, worked_seconds_ago: float | None, absent: bool = False
) -> SourceState[NodeReading]:
    worked = None
    if worked_seconds_ago is not None:
        worked = Read(reading=NodeReading(gpus=()), at_seconds=NOW - worked_seconds_ago)
    outcome: Outcome[NodeReading] | None = worked
    if reason is not None:
        outcome = Failed(reason=reason, message="", at_seconds=NOW)
    if absent:
        outcome = Absent(message="", at_seconds=NOW)
    return SourceState(name="nvml", interval_seconds=1, outcome=outcome, last_success=worked)


@pytest.mark.parametrize(
    ("reason", "worked_seconds_ago", "policy", "remedy"),
    [
        pytest.param("version_mismatch", 61, "exec", "exec", id="a driver changed under a host's agent"),
        pytest.param("version_mismatch", 61, "exit", "exit", id="a driver changed under a container"),
        pytest.param("operating_system", 61, "exit", "exit", id="a container lost its devices"),
        pytest.param("unknown", 61, "exit", "exit", id="a container lost its devices, otherwise said"),
        pytest.param("operating_system", 61, "exec", None, id="a host has nothing to gain from a new start"),
        pytest.param("version_mismatch", 59, "exec", None, id="not at once: it may pass"),
        pytest.param("version_mismatch", None, "exec", None, id="it never worked: no loop of starts"),
        pytest.param("version_mismatch", 61, "never", None, id="the operator does not want it"),
        pytest.param("uninitialized", 999, "exit", None, id="what heals by itself"),
        pytest.param("released", 999, "exit", None, id="let go of on request"),
        pytest.param(None, 0, "exit", None, id="all is well"),
    ],
)
def test_only_what_a_new_process_cures_ends_this_one(
    reason: str | None, worked_seconds_ago: float | None, policy: Policy, remedy: Remedy | None
) -> None:
    known = state(reason, worked_seconds_ago=worked_seconds_ago)
    assert find_remedy(known, now_seconds=NOW, patience_seconds=60, policy=policy) == remedy


def test_no_driver_is_no_reason_to_end() -> None:
    known = state(None, worked_seconds_ago=500, absent=True)
    assert find_remedy(known, now_seconds=NOW, patience_seconds=60, policy="exit") is None


@pytest.mark.parametrize(
    ("marks", "environment", "inside"),
    [
        ((), {}, False),
        ((".dockerenv",), {}, True),
        (("run/.containerenv",), {}, True),
        ((), {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True),
    ],
)
def test_a_container_is_known_by_its_marks(
    tmp_path: Path, marks: tuple[str, ...], environment: dict[str, str], inside: bool
) -> None:
    for mark in marks:
        (tmp_path / mark).parent.mkdir(exist_ok=True)
        (tmp_path / mark).touch()
    assert is_in_container(root=tmp_path, environment=environment) is inside


# --- a real agent ----------------------------------------------------------------------------------


class AgentProcess:
    """`roofline-agent run` over the stand-in library, which the dynamic linker finds as it would the real."""

    def __init__(self, stand_in: StandIn, directory: Path, nvml: str) -> None:
        configuration = directory / "agent.yaml"
        configuration.write_text(
            f'web: {{listen_address: "127.0.0.1:0"}}\ninterval_seconds: 0.2\nnvml: {nvml}\n'
        )
        self._log = directory / "log"
        environment = {**os.environ, "LD_LIBRARY_PATH": str(stand_in.path.parent)}
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "--verbose", "run", "--config", str(configuration)],
                env=environment,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def port(self) -> str | None:
        """Of the last start."""
        ports = re.findall(r"answers on port (\d+)", self.log)
        return ports[-1] if ports else None

    def page(self) -> str:
        if self.port is None:
            return ""
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/metrics", timeout=5).text
        except requests.ConnectionError:
            return ""


@pytest.fixture
def begin(nvml_library: Path, tmp_path: Path) -> Iterator[Callable[..., tuple[AgentProcess, StandIn]]]:
    begun: list[AgentProcess] = []

    def start(nvml: str = "{}") -> tuple[AgentProcess, StandIn]:
        stand_in = StandIn(nvml_library, tmp_path / "nvml")
        stand_in.set({"gpus": 2})
        begun.append(AgentProcess(stand_in, tmp_path, nvml))
        wait_until(lambda: 'source_up{source="nvml"} 1' in begun[-1].page(), begun[-1])
        return begun[-1], stand_in

    yield start
    for agent in begun:
        agent.process.kill()
        agent.process.wait()


def wait_until(happened: Callable[[], bool], agent: AgentProcess) -> None:
    give_up = time.monotonic() + 30
    while not happened():
        assert time.monotonic() < give_up, agent.log
        time.sleep(0.05)


def test_gpus_are_let_go_of_on_a_signal_and_taken_again_on_another(
    begin: Callable[..., tuple[AgentProcess, StandIn]],
) -> None:
    agent, _ = begin("{release_seconds: 3600}")
    agent.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: "let go of all GPUs for 60 min" in agent.log, agent)
    wait_until(lambda: "roofline_gpu_up" not in agent.page(), agent)
    assert 'reason="released"' in agent.page()
    agent.process.send_signal(signal.SIGUSR2)
    wait_until(lambda: 'roofline_gpu_up{gpu="1"' in agent.page(), agent)


def test_gpus_are_taken_again_when_the_time_is_over(
    begin: Callable[..., tuple[AgentProcess, StandIn]],
) -> None:
    agent, _ = begin("{release_seconds: 1}")
    agent.process.send_signal(signal.SIGUSR1)
    wait_until(lambda: 'reason="released"} 0' not in agent.page() and agent.page() != "", agent)
    wait_until(lambda: 'source_up{source="nvml"} 1' in agent.page(), agent)


def test_a_changed_driver_makes_the_agent_start_anew_in_its_place(
    begin: Callable[..., tuple[AgentProcess, StandIn]],
) -> None:
    agent, stand_in = begin("{restart: exec, restart_after_seconds: 1}")
    stand_in.set({"return": 18})
    wait_until(lambda: "starting anew" in agent.log, agent)
    stand_in.set({"return": None})  # as the new library would answer
    wait_until(lambda: agent.log.count("answers on port") == 2, agent)
    wait_until(lambda: 'source_up{source="nvml"} 1' in agent.page(), agent)
    assert agent.process.poll() is None, "it is the same process"


def test_a_container_that_lost_its_devices_ends_so_that_another_is_started(
    begin: Callable[..., tuple[AgentProcess, StandIn]],
) -> None:
    agent, stand_in = begin("{restart: exit, restart_after_seconds: 1}")
    stand_in.set({"return": 17})
    assert agent.process.wait(timeout=30) == EXIT_RESTART
    assert "so that another one is started" in agent.log
