"""A program that is watched from outside: its CPU time to the nanosecond, its memory, its page."""

from __future__ import annotations

import os
import re
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from tests.bench.node import ROOT

AS_PROMETHEUS = {
    "Accept": "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1",
    "Accept-Encoding": "gzip",
    "X-Prometheus-Scrape-Timeout-Seconds": "10",
}
PATIENCE_SECONDS = 30.0
LOOK_SECONDS = 0.01
"""Between two looks for a page that is not there yet."""
APART_SECONDS = 1.04
"""Between two scrapes: each finds another tick's values, and all phases of a second come up."""
AFTER_SECONDS = 0.01
"""What a scrape still costs when it was answered."""


def cpu_seconds(pid: int) -> float:
    """Of a process, with threads that have ended: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime(~pid << 3 | 2)


def resident_mebibytes(pid: int) -> float:
    """What it holds in memory now."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def free_port() -> int:
    """One that nobody listened on a moment ago."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """How it is started, and by what its page is known to have values of GPUs."""

    name: str
    command: Callable[[int], Sequence[str]]
    """By the port that it is to answer at."""
    ready: bytes
    """Begins a line that is there once a GPU was read; for the agent, once one was judged."""
    environment: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """One that answers."""

    pid: int
    url: str
    start_seconds: float
    """From its process' start until its page has values of GPUs."""
    start_cpu_seconds: float
    """Spent until then."""


@contextmanager
def running(program: Program) -> Iterator[Running]:
    """Start it, and end it with the block."""
    port = free_port()
    url = f"http://127.0.0.1:{port}/metrics"
    began = time.monotonic()
    with subprocess.Popen(
        program.command(port),
        cwd=ROOT,
        env={**os.environ, **program.environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _await(program, process, url)
            took, spent = time.monotonic() - began, cpu_seconds(process.pid)
            yield Running(pid=process.pid, url=url, start_seconds=took, start_cpu_seconds=spent)
        finally:
            process.kill()


def _await(program: Program, process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        if process.poll() is not None:
            raise RuntimeError(f"{program.name} ended with {process.returncode} instead of answering")
        try:
            page = requests.get(url, timeout=5).content
        except requests.RequestException:
            page = b""
        if b"\n" + program.ready in page:
            return
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"{program.name} showed no {program.ready.decode()} for {PATIENCE_SECONDS:g} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one program was seen to cost."""

    start_seconds: float
    """The best of all starts."""
    start_cpu_seconds: float
    """The same of CPU time."""
    rest_ms: float
    """CPU time a second while nobody asks."""
    scrape_ms: float
    """CPU time of one scrape."""
    latencies_ms: tuple[float, ...]
    """Of each scrape."""
    resident_mebibytes: float
    """In the end."""
    series: int
    page_bytes: int
    """As text, without compression."""

    @property
    def p50_ms(self) -> float:
        """What half of the scrapes did not take longer than."""
        return statistics.median(self.latencies_ms)

    @property
    def p99_ms(self) -> float:
        """The same of all but one in a hundred; of fewer, of all but none."""
        return sorted(self.latencies_ms)[int(len(self.latencies_ms) * 0.99)]


def watch(program: Program, *, seconds: float, settle_seconds: float, scrapes: int, starts: int) -> Cost:
    """Start it so often, and watch the last one: first at rest, then being scraped."""
    begun = []
    for _ in range(starts - 1):
        with running(program) as one:
            begun.append(one)
    with running(program) as one:
        begun.append(one)
        time.sleep(settle_seconds)
        rest_ms = _rest_ms(one.pid, seconds)
        scrape_ms, latencies_ms = _scraped(one, scrapes)
        page = requests.get(one.url, timeout=5).content
        return Cost(
            start_seconds=min(one.start_seconds for one in begun),
            start_cpu_seconds=min(one.start_cpu_seconds for one in begun),
            rest_ms=rest_ms,
            scrape_ms=scrape_ms,
            latencies_ms=tuple(latencies_ms),
            resident_mebibytes=resident_mebibytes(one.pid),
            series=sum(line[:1] != b"#" for line in page.splitlines()),
            page_bytes=len(page),
        )


def watch_at_rest(program: Program, *, seconds: float, settle_seconds: float) -> float:
    """Its CPU time in milliseconds a second while nobody asks."""
    with running(program) as one:
        time.sleep(settle_seconds)
        return _rest_ms(one.pid, seconds)


def _rest_ms(pid: int, seconds: float) -> float:
    began, before = time.monotonic(), cpu_seconds(pid)
    time.sleep(seconds)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began) * 1e3


def _scraped(one: Running, scrapes: int) -> tuple[float, list[float]]:
    """CPU time of a scrape, beside as long a time without one just before; latencies."""
    spent, besides, latencies = [], [], []
    with requests.Session() as session:
        session.headers.update(AS_PROMETHEUS)
        session.get(one.url, timeout=5)
        for _ in range(scrapes):
            before, began = cpu_seconds(one.pid), time.monotonic()
            session.get(one.url, timeout=5).raise_for_status()
            latencies.append((time.monotonic() - began) * 1e3)
            time.sleep(AFTER_SECONDS)
            spent.append((cpu_seconds(one.pid) - before) * 1e3)
            time.sleep(APART_SECONDS / 2)
            before = cpu_seconds(one.pid)
            time.sleep(latencies[-1] / 1e3 + AFTER_SECONDS)
            besides.append((cpu_seconds(one.pid) - before) * 1e3)
            time.sleep(APART_SECONDS / 2)
    return statistics.median(spent) - statistics.median(besides), latencies
