"""The real process, scraped without pause, while its configuration is exchanged, good and bad."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
import yaml

from agent.clock import SystemClock
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS
from tests.machines import MACHINES
from tests.nvml_standin import StandIn
from tests.rig.programs import announced_port

USER = ("prometheus", "wonderland")
SCRAPERS = 2
HUNG_SECONDS = 30.0
"""What takes longer than this on a machine that is busy with other tests takes for ever."""
TWO = replace(SCENARIOS["node"], gpus=SCENARIOS["node"].gpus[:2], servers=SCENARIOS["node"].servers[:2])

BAD = (
    "window_seconds: long",
    "prices: [{usd_per_hour: -1}]",
    "engines: [",
    "web: {listen_address: '127.0.0.1:1'}",
    "no_such_key: 1",
    None,  # the file is not there
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What the process holds."""

    mebibytes: float
    threads: int
    files: int

    @classmethod
    def by(cls, pid: int) -> Held:
        status = Path(f"/proc/{pid}/status").read_text()
        numbers = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.M)}
        return cls(
            mebibytes=numbers["VmRSS"] / 1024,
            threads=numbers["Threads"],
            files=len(os.listdir(f"/proc/{pid}/fd")),
        )


@dataclass
class Scraper:
    """One Prometheus without patience: a scrape as soon as the last has ended."""

    url: str
    kept: str
    """The server of the engine that is never taken out."""
    scrapes: int = 0
    problems: list[str] = field(default_factory=list)
    latest: dict[str, float] = field(default_factory=dict)
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        with requests.Session() as session:
            session.auth = USER
            while not self._stop.is_set():
                try:
                    reply = session.get(self.url, timeout=HUNG_SECONDS)
                except requests.RequestException as error:
                    self.problems.append(repr(error))
                    continue
                self.scrapes += 1
                if reply.status_code != 200:
                    self.problems.append(f"{reply.status_code} {reply.text[:200]}")
                    continue
                self._look(reply.text)

    def _look(self, page: str) -> None:
        values = {
            series: float(value)
            for series, value in re.findall(r"^(roofline_\S+?(?:\{.*\})?) (\S+)$", page, re.M)
            if series.startswith("roofline_gpu_") or f'server="{self.kept}"' in series
        }
        for series, before in self.latest.items():
            if re.match(r"roofline_\w+_total\b", series) and not values.get(series, -1.0) >= before:
                self.problems.append(f"{series}: {before}, then {values.get(series)}")
        if not any(series.startswith("roofline_gpu_up") for series in values):
            self.problems.append("a page without GPUs")
        self.latest = values

    def stop(self) -> None:
        self._stop.set()


class Daemon:
    """`roofline-agent run` over the stand-in library, beside two simulated engines over HTTP."""

    def __init__(self, directory: Path, library: Path) -> None:
        stand_in = StandIn(library, directory / "nvml")
        stand_in.set({**MACHINES["driver 590"].control, "field.197": 1000})
        self._node = SimulatedNode(TWO, clock=SystemClock())
        self._node.start()
        self.engines = [dict(engine) for engine in self._node.engine_configurations()]
        self.servers = [str(engine["url"]).split("/")[2] for engine in self.engines]
        hashed = bcrypt.hashpw(USER[1].encode(), bcrypt.gensalt(4)).decode()
        web = directory / "web.yaml"
        web.write_text(yaml.safe_dump({"basic_auth_users": {USER[0]: hashed}}))
        self._base = {
            "web": {"listen_address": "127.0.0.1:0", "config_file": str(web), "enable_lifecycle": True},
            "discovery": {"processes": {"enabled": False}},
            # Not shorter: three of them without a reading are silence, also on a machine that is busy.
            "interval_seconds": 1,
            "engines_interval_seconds": 1.5,
            "window_seconds": 5,
            "engines": self.engines,
            "prices": [{"usd_per_hour": 3600}],
            "slo": {"ttft_seconds": 0.5, "inter_token_seconds": 0.1},
        }
        self.path = directory / "agent.yaml"
        self.write(self.good())
        self._log = directory / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--config", str(self.path)],
                env={**os.environ, "LD_LIBRARY_PATH": str(stand_in.path.parent)},
                stderr=log,
            )
        self._session = requests.Session()
        self._session.auth = USER
        self.base = f"http://127.0.0.1:{self._port()}"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def _port(self) -> str:
        return announced_port(self.process, lambda: self.log, seconds=HUNG_SECONDS)

    def good(self, **changes: Any) -> str:
        """A configuration that is right."""
        return yaml.safe_dump({**self._base, **changes})

    def any_good(self, dice: random.Random) -> str:
        """One of many, in which the first engine is always listed."""
        changes: dict[str, Any] = {}
        if dice.random() < 0.5:
            changes["engines"] = self.engines[:1]
        elif dice.random() < 0.5:
            changes["engines"] = [
                self.engines[0],
                {**self.engines[1], "headers": {"X-Any": str(dice.random())}},
            ]
        elif dice.random() < 0.5:
            changes["engines"] = [
                {**self.engines[0], "max_num_seqs": dice.randrange(8, 512)},
                {**self.engines[1], "model": {"name": "llama-3.1-8b", "weight_dtype": "fp8"}},
            ]
        if dice.random() < 0.3:
            changes["prices"] = [{"usd_per_hour": dice.uniform(1, 10)}]
        if dice.random() < 0.3:
            changes["window_seconds"] = dice.randrange(5, 20)
        if dice.random() < 0.2:
            changes["roofs"] = [
                {"gpu": "NVIDIA H100 80GB HBM3", "dram_bytes_per_second": dice.uniform(2e12, 4e12)}
            ]
        if dice.random() < 0.2:
            changes["slo"] = {"ttft_seconds": dice.uniform(0.1, 2), "inter_token_seconds": 0.1}
        if dice.random() < 0.1:
            changes["dcgm"] = {"url": "http://127.0.0.1:9/metrics"}
        if dice.random() < 0.2:
            changes["engines_interval_seconds"] = dice.choice((1.5, 2, 2.5))
        if dice.random() < 0.2:
            changes["nvml"] = {"gpm": dice.random() < 0.5}
        return yaml.safe_dump({**self._base, **changes})

    def write(self, text: str | None) -> None:
        """As an editor does: beside it, then in its place; `None` takes it away."""
        if text is None:
            self.path.unlink(missing_ok=True)
            return
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.rename(self.path)

    def reload(self) -> requests.Response:
        """Over HTTP; it is done when this returns."""
        return self._session.post(f"{self.base}/-/reload", timeout=HUNG_SECONDS)

    def get(self, path: str) -> str:
        """A page."""
        return self._session.get(self.base + path, timeout=HUNG_SECONDS).text

    def values(self) -> Mapping[str, float]:
        """On the page now."""
        page = self.get("/metrics")
        return {
            series: float(value) for series, value in re.findall(r"^(\S+?(?:\{.*\})?) (\S+)$", page, re.M)
        }

    def close(self) -> None:
        self._session.close()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(HUNG_SECONDS) == 0
        finally:
            self.process.kill()
            self._node.close()


@contextmanager
def scraped(daemon: Daemon) -> Iterator[list[Scraper]]:
    scrapers = [Scraper(f"{daemon.base}/metrics", kept=daemon.servers[0]) for _ in range(SCRAPERS)]
    threads = [threading.Thread(target=scraper.run) for scraper in scrapers]
    for thread in threads:
        thread.start()
    try:
        yield scrapers
    finally:
        for scraper in scrapers:
            scraper.stop()
        for thread in threads:
            thread.join()


def soon(daemon: Daemon, name: str, value: float) -> Mapping[str, float]:
    """The page, once it says so."""
    until(lambda: daemon.values().get(name) == value)
    return daemon.values()


def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + HUNG_SECONDS
    while not condition():
        assert time.monotonic() < end, f"it did not come to be within {HUNG_SECONDS} s"
        time.sleep(0.1)


@pytest.mark.parametrize("reloads", [60, pytest.param(1000, marks=pytest.mark.long)])
def test_reloads_under_load_lose_no_scrape_and_leak_nothing(
    reloads: int, tmp_path: Path, nvml_library: Path
) -> None:
    dice = random.Random(7)
    daemon = Daemon(tmp_path, nvml_library)
    begun = time.monotonic()
    try:
        until(lambda: sum("engine_steps_total" in one for one in daemon.values()) == 2)
        with scraped(daemon) as scrapers:
            for number in range(reloads):
                if number == reloads // 5:
                    time.sleep(1.0)
                    settled = Held.by(daemon.process.pid)
                bad = dice.random() < 0.4
                daemon.write(dice.choice(BAD) if bad else daemon.any_good(dice))
                if number % 7 == 0:
                    daemon.process.send_signal(signal.SIGHUP)
                reply = daemon.reload()
                assert reply.status_code == (400 if bad else 200), reply.text
            daemon.write(daemon.good())
            assert daemon.reload().status_code == 200
            took = time.monotonic() - begun
            time.sleep(1.5)
            held = Held.by(daemon.process.pid)
        problems = [problem for scraper in scrapers for problem in scraper.problems]
        scrapes = sum(scraper.scrapes for scraper in scrapers)
        print(f"{reloads} reloads, {scrapes} scrapes in {took:.0f} s: {settled}, then {held}")
        assert problems[:5] == []
        assert scrapes > reloads / 2
        assert abs(held.threads - settled.threads) <= 2  # an engine more or less
        assert held.files <= settled.files + 8
        assert held.mebibytes < settled.mebibytes + 4
        values = soon(daemon, "roofline_config_last_reload_successful", 1)
        assert values["roofline_config_last_reload_success_timestamp_seconds"] == pytest.approx(
            time.time(), abs=HUNG_SECONDS
        )
        up = [value for series, value in values.items() if series.startswith("roofline_engine_up{")]
        assert up == [1, 1]
        unobserved = [value for series, value in values.items() if "gpu_unobserved_seconds_total" in series]
        assert max(unobserved) < 0.05 * took
        daemon.write("no_such_key: 1")
        assert "no_such_key: unknown key" in daemon.reload().text
        soon(daemon, "roofline_config_last_reload_successful", 0)
    finally:
        daemon.close()
    assert "Traceback" not in daemon.log


def test_a_running_agent_loads_its_file_on_sighup_and_when_it_changes(
    tmp_path: Path, nvml_library: Path
) -> None:
    daemon = Daemon(tmp_path, nvml_library)
    try:
        soon(daemon, "roofline_config_last_reload_successful", 1)
        daemon.write("window_seconds: long")
        daemon.process.send_signal(signal.SIGHUP)
        soon(daemon, "roofline_config_last_reload_successful", 0)
        daemon.write(daemon.good(engines=daemon.engines[:1]))  # and nobody says so
        values = soon(daemon, "roofline_config_last_reload_successful", 1)
        assert sum(series.startswith("roofline_engine_up{") for series in values) == 1
        assert "window_seconds: must be a valid number" in daemon.log
        assert f"engines removed: {daemon.servers[1]}" in daemon.log
        shown = yaml.safe_load(daemon.get("/config"))
        assert [engine["url"] for engine in shown["engines"]] == [daemon.engines[0]["url"]]
        # GPUs that are not to be read leave, and come back with all that was counted of them.
        observed = {one: value for one, value in values.items() if "gpu_observed_seconds_total" in one}
        daemon.write(daemon.good(nvml={"enabled": False}))
        assert daemon.reload().text == f"engines added: {daemon.servers[1]}; nvml.enabled true → false\n"
        until(lambda: not any("gpu_up" in one for one in daemon.values()))
        daemon.write(daemon.good())
        assert daemon.reload().status_code == 200
        until(lambda: all(daemon.values().get(one, 0.0) >= value for one, value in observed.items()))
        assert len(observed) == 2
    finally:
        daemon.close()
