"""The agent as its operator runs it: its own command on a real port, and its page, read again and again."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

SCRAPE_SECONDS = 0.25

Series = tuple[str, tuple[tuple[str, str], ...]]


class Page:
    """A page of metrics, and when it was asked for."""

    def __init__(self, url: str) -> None:
        self.at_unix_seconds = time.time()
        response = requests.get(url, timeout=20)
        response.raise_for_status()
        self.text = response.text
        self.families = tuple(text_string_to_metric_families(self.text))

    def value(self, name: str, **labels: str) -> float:
        """The sum over the series of that name with those labels; `AssertionError` if there is none."""
        values = [
            sample.value
            for family in self.families
            if name.startswith(family.name)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        assert values, f"no {name} with {labels}"
        return sum(values)

    def counters(self) -> dict[Series, float]:
        """All series that may only rise."""
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in self.families
            if family.type in ("counter", "histogram")
            for sample in family.samples
        }

    # --- of the agent's own page ---

    @property
    def engine_families(self) -> set[str]:
        """The families that speak of engines."""
        return {family.name for family in self.families if family.name.startswith("roofline_engine_")}

    @property
    def engine_is_up(self) -> bool:
        """As the agent says of the one engine that it watches."""
        return self.value("roofline_engine_up") == 1

    @property
    def assessed_at_unix_seconds(self) -> float:
        """When the agent concluded what the page shows."""
        return self.value("roofline_assessment_timestamp_seconds")

    @property
    def read_at_unix_seconds(self) -> float:
        """When the agent had last read the engine's page."""
        return self.value("roofline_source_last_success_timestamp_seconds")


class Watcher:
    """Reads a page again and again on a thread of its own, and keeps every one."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.pages: list[Page] = []
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(SCRAPE_SECONDS):
            try:
                self.pages.append(Page(self._url))
            except requests.RequestException as error:
                self.failures.append(str(error))

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        self._thread.join()


class AgentProcess:
    """``roofline-agent run``; `directory` takes its configuration and its log."""

    def __init__(self, directory: Path, configuration: Mapping[str, Any]) -> None:
        address = f"127.0.0.1:{free_port()}"
        self.url = f"http://{address}/metrics"
        self._log = directory / "roofline-agent.log"
        file = directory / "roofline-agent.yaml"
        file.write_text(yaml.safe_dump({"web": {"listen_address": address}, **configuration}))
        command = Path(sys.executable).with_name("roofline-agent")
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([command, "run", "--config", file], stderr=log)
        try:
            wait_until(self._answers, "the agent did not answer", seconds=20)
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError(f"the agent ended:\n{self._log.read_text()}")
        try:
            return requests.get(self.url, timeout=20).ok
        except requests.ConnectionError:
            return False

    def close(self) -> None:
        """Ask it to stop, then make it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_until(condition: Callable[[], bool], otherwise: str, *, seconds: float) -> None:
    """Until the condition holds; `TimeoutError` that says what did not happen if it takes longer."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{otherwise} within {seconds:g} s")
        time.sleep(0.1)
