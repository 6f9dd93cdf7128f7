"""The real process for some minutes among real ones, at the mercy of their operating system.

`roofline-agent run` over the stand-in library and two engines over HTTP, scraped by ten at once. It runs
out of file descriptors and out of disk, is stopped and told to go on, gets signals in storms, and a crowd
that connects and says nothing; drivers hang, engines drip. After each fault it has to be well again.
"""

from __future__ import annotations

import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import requests
import yaml

from agent.clock import SystemClock
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS
from tests.machines import MACHINES
from tests.nvml_standin import StandIn
from tests.rig.programs import announced_port
from tests.soak.fronts import FAILING, SLOW, TRUE_SPOILS, Front
from tests.soak.promises import Held, Ledger, Page

SCRAPERS = 10
SCRAPE_SECONDS = 0.25
INTERVAL_SECONDS = 0.5
ENGINES_INTERVAL_SECONDS = 1.0
HUNG_SECONDS = 180.0
"""What takes longer than this on a machine that is busy takes for ever."""
SLACK_SECONDS = 4.0
"""Beyond what is promised, since others may have the machine."""
CROWD = 200
"""More than there are places for."""
BUSY_RATIO = 0.6
"""Of one core: who takes more while nothing can be done spins."""
BAD = ("window_seconds: long", "engines: [", "no_such_key: 1", "web: {listen_address: '127.0.0.1:1'}", "\x00")
SCENARIO = replace(SCENARIOS["node"], gpus=SCENARIOS["node"].gpus[:2], servers=SCENARIOS["node"].servers[:2])


class Restartable(Protocol):
    """A real engine, started and killed at will."""

    @property
    def url(self) -> str:
        """Its root."""

    def start(self) -> None:
        """Start it, and wait until it answers."""

    def kill(self) -> None:
        """End it at once."""


def held_by(pid: int) -> Held:
    """What a process holds."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = {name: int(value) for name, value in re.findall(r"^(VmRSS|Threads):\s+(\d+)", status, re.M)}
    return Held(
        at_seconds=time.monotonic(),
        mebibytes=numbers["VmRSS"] / 1024,
        threads=numbers["Threads"],
        files=len(os.listdir(f"/proc/{pid}/fd")),
    )


def cpu_seconds_of(pid: int) -> float:
    """User and system time."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Daemon:
    """`roofline-agent run`, its library, and its engines."""

    def __init__(self, directory: Path, library: Path, *, engines: tuple[str, ...] = ()) -> None:
        """`engines` are URLs of further ones."""
        self.stand_in = StandIn(library, directory / "nvml")
        self.stand_in.set(MACHINES["driver 590"].control)
        self.node = SimulatedNode(SCENARIO, clock=SystemClock())
        self.node.start()
        self.fronts = [Front(server.answer) for server in self.node.servers]
        listed = [
            {**engine, "url": front.url}
            for engine, front in zip(self.node.engine_configurations(), self.fronts, strict=True)
        ]
        self._base = {
            "web": {"listen_address": "127.0.0.1:0"},
            "discovery": {"processes": {"enabled": False}},
            "nvml": {"restart": "never"},
            "interval_seconds": INTERVAL_SECONDS,
            "engines_interval_seconds": ENGINES_INTERVAL_SECONDS,
            "window_seconds": 10,
            "prices": [{"usd_per_hour": 3600}],
            "engines": [*listed, *({"url": url} for url in engines)],
        }
        self.path = directory / "agent.yaml"
        self.write(self.good())
        self.log_path = directory / "log"
        with self.log_path.open("w") as log:
            self.process = self._begin(log)
        self.url = f"http://127.0.0.1:{self._port()}"

    def _begin(self, stderr: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--config", str(self.path)],
            env={**os.environ, "LD_LIBRARY_PATH": str(self.stand_in.path.parent)},
            stderr=stderr,
        )

    def _port(self) -> str:
        return announced_port(self.process, lambda: self.log, seconds=HUNG_SECONDS)

    @property
    def pid(self) -> int:
        """Of the agent."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All of it."""
        return self.log_path.read_text(errors="replace")

    def good(self, **changes: Any) -> str:
        """A configuration that is right."""
        return yaml.safe_dump({**self._base, **changes})

    def write(self, text: str) -> None:
        """As an editor does: beside it, then in its place."""
        beside = self.path.with_suffix(".new")
        beside.write_text(text)
        beside.rename(self.path)

    def page(self) -> Page:
        """Now."""
        return Page.parse(requests.get(f"{self.url}/metrics", timeout=HUNG_SECONDS).text)

    def close(self) -> None:
        """End it; the exit status has to be 0."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGCONT)
                self.process.send_signal(signal.SIGTERM)
            assert self.process.wait(HUNG_SECONDS) == 0, self.log[-2000:]
        finally:
            self.process.kill()
            for front in self.fronts:
                front.close()
            self.node.close()


class Scraper(threading.Thread):
    """One Prometheus. What it finds broken is in `problems`; what it cannot have is so, unless excused."""

    def __init__(self, url: str, excused: threading.Event) -> None:
        super().__init__(daemon=True)
        self.scrapes = self.missed = 0
        self.problems: list[str] = []
        self.slowest_seconds = 0.0
        self._url = url
        self._excused = excused
        self._ledger = Ledger()
        self._end = threading.Event()
        self._first: tuple[float, dict[str, float]] | None = None

    def run(self) -> None:
        """Scrape until told to stop."""
        with requests.Session() as session:
            while not self._end.wait(SCRAPE_SECONDS):
                begun = time.monotonic()
                try:
                    reply = session.get(f"{self._url}/metrics", timeout=HUNG_SECONDS)
                    if self.scrapes % 20 == 0:
                        for path in ("/", "/api/v1/assessment", "/config"):
                            session.get(self._url + path, timeout=HUNG_SECONDS).raise_for_status()
                    reply.raise_for_status()
                except requests.RequestException as error:
                    self.missed += 1
                    if not self._excused.is_set():
                        self.problems.append(f"not to be had: {error!r}")
                    continue
                self.scrapes += 1
                if not self._excused.is_set():
                    self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - begun)
                try:
                    self._look(self._ledger.read(reply.text))
                except AssertionError as error:
                    self.problems.append(str(error))

    def _look(self, page: Page) -> None:
        told = conserved(page)
        at = page.values["roofline_assessment_timestamp_seconds"]
        if self._first is None:
            self._first = at, told
        began, before = self._first
        for gpu, seconds in told.items():
            if gpu in before:
                # As long as nobody sets the wall clock meanwhile.
                assert seconds - before[gpu] == pytest.approx(at - began, abs=0.1), f"time of {gpu}"

    def stop(self) -> None:
        """Scrape no more."""
        self._end.set()


def conserved(page: Page) -> dict[str, float]:
    """The time told of each GPU; `AssertionError` where its classes do not sum to what was observed."""
    parts: dict[str, float] = defaultdict(float)
    observed: dict[str, float] = {}
    told: dict[str, float] = defaultdict(float)
    for series, value in page.values.items():
        name, _, labels = series.partition("{")
        gpu = labels.partition(',bottleneck="')[0].rstrip("}")
        if name == "roofline_gpu_bottleneck_seconds_total":
            parts[gpu] += value
        elif name == "roofline_gpu_observed_seconds_total":
            observed[gpu] = value
        if name in ("roofline_gpu_observed_seconds_total", "roofline_gpu_unobserved_seconds_total"):
            told[gpu] += value
    for gpu, seconds in observed.items():
        assert parts[gpu] == pytest.approx(seconds, abs=1e-6), f"{gpu}: {parts[gpu]} of {seconds} s"
    return dict(told)


# --- what goes wrong ---------------------------------------------------------------------------------


@dataclass
class ProcessSoak:
    """One run."""

    daemon: Daemon
    dice: random.Random
    excused: threading.Event
    extra: Restartable | None = None
    happened: Counter[str] = field(default_factory=Counter)
    held: list[Held] = field(default_factory=list)
    _order: list[str] = field(default_factory=list)

    def faults(self) -> Mapping[str, Callable[[], None]]:
        """By name."""
        faults = {
            "a GPU lost": self._nvml({"gpu1.return": 15}),
            "no driver": self._nvml({"return": 1}),
            "a driver that hangs": self._nvml({"nvmlDeviceGetCount_v2.delay_ms": 4000}),
            "engines that cannot be read": self._moods,
            "pages that lack lines": self._spoilt,
            "SIGHUP in storms": self._signals,
            "stopped, and told to go on": self._stopped,
            "no file descriptor left": self._no_descriptors,
            "a full disk": self._full_disk,
            "a crowd that says nothing": self._crowd,
        }
        return faults if self.extra is None else {**faults, "a real engine killed": self._killed}

    def _wait(self, low: float, high: float) -> None:
        time.sleep(self.dice.uniform(low, high))

    def _nvml(self, settings: Mapping[str, object]) -> Callable[[], None]:
        def fault() -> None:
            stand_in = self.daemon.stand_in
            stand_in.set(settings)
            self._wait(4, 8)
            if "return" in settings:
                page = self.daemon.page()
                assert page.values['roofline_source_up{source="nvml"}'] == 0
                assert not any(series.startswith("roofline_gpu_") for series in page.values), "stale GPUs"
            stand_in.set(dict.fromkeys(settings))

        return fault

    def _moods(self) -> None:
        for front in self.daemon.fronts:
            front.mood = self.dice.choice((*FAILING, *SLOW))
            self.happened[f"  {front.mood}"] += 1
        time.sleep(3 * ENGINES_INTERVAL_SECONDS + SLACK_SECONDS)
        page = self.daemon.page()
        for front in self.daemon.fronts:
            server = f"127.0.0.1:{front.port}"
            Ledger().silent(page, server=server)
            # The attempt that began last may take its whole deadline, which is longer than the interval.
            up = f'roofline_source_up{{source="engine:{server}"}}'
            until(partial(self._says, up, 0.0), f"{front.mood}: it says that it cannot be read")
            front.mood = "good"

    def _says(self, series: str, value: float) -> bool:
        return self.daemon.page().values[series] == value

    def _spoilt(self) -> None:
        for front in self.daemon.fronts:
            front.spoil = self.dice.choice(TRUE_SPOILS)(self.dice)
        self._wait(3, 6)
        for front in self.daemon.fronts:
            front.spoil = None

    def _signals(self) -> None:
        for number in range(300):
            if number % 10 == 0:
                bad = self.dice.random() < 0.5
                changes = {"window_seconds": self.dice.randrange(10, 20), "log": {"level": "info"}}
                self.daemon.write(self.dice.choice(BAD) if bad else self.daemon.good(**changes))
            self.daemon.process.send_signal(signal.SIGHUP)
            time.sleep(0.005)
        self.daemon.write(self.daemon.good())
        self.daemon.process.send_signal(signal.SIGHUP)

    def _stopped(self) -> None:
        self.excused.set()
        self.daemon.process.send_signal(signal.SIGSTOP)
        self._wait(3, 8)
        self.daemon.process.send_signal(signal.SIGCONT)

    def _no_descriptors(self) -> None:
        self.excused.set()
        pid = self.daemon.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        soft = self.dice.choice((3, held_by(pid).files, held_by(pid).files + 2))
        before = resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        cpu, begun = cpu_seconds_of(pid), time.monotonic()
        self._wait(4, 8)
        spent = (cpu_seconds_of(pid) - cpu) / (time.monotonic() - begun)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
        assert spent < BUSY_RATIO, f"it took {spent:.0%} of a core while it had no descriptor left"

    def _full_disk(self) -> None:
        pid = self.daemon.pid
        size = self.daemon.log_path.stat().st_size
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        self.daemon.write("no_such_key: 1")  # something to be told
        self.daemon.process.send_signal(signal.SIGHUP)
        self._wait(3, 5)
        assert self.daemon.log_path.stat().st_size <= size
        assert requests.get(f"{self.daemon.url}/-/healthy", timeout=HUNG_SECONDS).ok
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        self.daemon.write(self.daemon.good())
        self.daemon.process.send_signal(signal.SIGHUP)
        until(lambda: self.daemon.log_path.stat().st_size > size, "it logs again")

    def _crowd(self) -> None:
        self.excused.set()  # who keeps a connection may lose its place to somebody
        address = ("127.0.0.1", int(self.daemon.url.rpartition(":")[2]))
        with ExitStack() as stack:
            for number in range(CROWD):
                one = stack.enter_context(socket.create_connection(address))
                if number % 2:
                    with suppress(OSError):
                        one.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
            self._wait(2, 4)
            assert requests.get(f"{self.daemon.url}/metrics", timeout=HUNG_SECONDS).ok

    def _killed(self) -> None:
        assert self.extra is not None
        self.extra.kill()
        time.sleep(3 * ENGINES_INTERVAL_SECONDS + SLACK_SECONDS)
        Ledger().silent(self.daemon.page(), server=self.extra.url.removeprefix("http://"))
        self.extra.start()

    # --- and that it is well again -----------------------------------------------------------------

    def once(self) -> str:
        """One fault, and the recovery from it. Gives its name."""
        if not self._order:  # each comes once in a round
            self._order = list(self.faults())
            self.dice.shuffle(self._order)
        name = self._order.pop()
        self.happened[name] += 1
        self.faults()[name]()
        until(self.is_well, f"it is well again after {name}")
        self.excused.clear()
        self.held.append(held_by(self.daemon.pid))
        return name

    def is_well(self) -> bool:
        """Whether it shows all that there is, by the configuration that it was given."""
        assert self.daemon.process.poll() is None, self.daemon.log[-3000:]
        try:
            page = self.daemon.page()
        except requests.RequestException:
            return False
        values = page.values
        up = [value for series, value in values.items() if series.startswith("roofline_engine_up{")]
        gpus = [value for series, value in values.items() if series.startswith("roofline_gpu_up{")]
        return (
            len(up) == len(self.daemon.fronts) + (self.extra is not None)
            and all(up)
            and len(gpus) == len(SCENARIO.gpus)
            and all(gpus)
            and values["roofline_config_last_reload_successful"] == 1
        )


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    end = time.monotonic() + HUNG_SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {HUNG_SECONDS:.0f} s: {what}"
        time.sleep(0.1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of it."""

    seconds: float
    happened: Mapping[str, int]
    held: tuple[Held, ...]
    """After each fault."""
    scrapes: int
    missed: int
    """While that was excused."""
    slowest_seconds: float
    log_lines: int


def soak(
    seconds: float,
    *,
    seed: int,
    directory: Path,
    library: Path,
    extra: Restartable | None = None,
    report: Callable[[str, ProcessSoak], None] = lambda *_: None,
) -> Outcome:
    """Break things for so long; raises AssertionError for whatever does not hold."""
    begun = time.monotonic()
    excused = threading.Event()
    daemon = Daemon(directory, library, engines=(f"{extra.url}/metrics",) if extra is not None else ())
    try:
        run = ProcessSoak(daemon=daemon, dice=random.Random(seed), excused=excused, extra=extra)
        until(run.is_well, "all is well at the start")
        scrapers = [Scraper(daemon.url, excused) for _ in range(SCRAPERS)]
        for scraper in scrapers:
            scraper.start()
        try:
            while time.monotonic() < begun + seconds:
                report(run.once(), run)
                problems = [problem for scraper in scrapers for problem in scraper.problems]
                assert not problems, problems[:3]
        finally:
            for scraper in scrapers:
                scraper.stop()
            for scraper in scrapers:
                scraper.join(HUNG_SECONDS)
    finally:
        daemon.close()
    assert "Traceback" not in daemon.log, daemon.log[daemon.log.index("Traceback") :][:3000]
    return Outcome(
        seconds=time.monotonic() - begun,
        happened=run.happened,
        held=tuple(run.held),
        scrapes=sum(scraper.scrapes for scraper in scrapers),
        missed=sum(scraper.missed for scraper in scrapers),
        slowest_seconds=max(scraper.slowest_seconds for scraper in scrapers),
        log_lines=daemon.log.count("\n"),
    )


def with_nobody_to_log_to(directory: Path, library: Path, *, seconds: float = 5.0) -> None:
    """All it says goes to a device that is full: it lives, answers, and ends as told."""
    stand_in = StandIn(library, directory / "nvml")
    stand_in.set(MACHINES["driver 590"].control)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    path = directory / "agent.yaml"
    path.write_text(
        yaml.safe_dump({"web": {"listen_address": f"127.0.0.1:{port}"}, "interval_seconds": INTERVAL_SECONDS})
    )
    with Path("/dev/full").open("wb") as full:
        process = subprocess.Popen(
            [sys.executable, "-m", "agent", "run", "--config", str(path)],
            env={**os.environ, "LD_LIBRARY_PATH": str(stand_in.path.parent)},
            stderr=full,
        )
    try:

        def answers() -> bool:
            with suppress(requests.ConnectionError):
                return requests.get(f"http://127.0.0.1:{port}/-/ready", timeout=HUNG_SECONDS).ok
            return False

        until(answers, "it answers, with nobody to log to")
        path.write_text("no_such_key: 1")
        process.send_signal(signal.SIGHUP)
        stand_in.set({"gpu1.return": 15})
        time.sleep(seconds)
        page = Page.parse(requests.get(f"http://127.0.0.1:{port}/metrics", timeout=HUNG_SECONDS).text)
        assert page.values["roofline_config_last_reload_successful"] == 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(HUNG_SECONDS) == 0
    finally:
        process.kill()
        process.wait()
