"""An agent's beats by hand, in a time of their own: what a tick and a page cost, of a node of any size.

`python -m tests.bench.beats --gpus 8 --engines 8 --seconds 60` under a stand-in NVML. Engines are in
another process, whose clock is set along. So a minute of default intervals takes seconds, and the CPU time
of each beat is known by itself; caches are warmer than in an agent that sleeps in between.

Beside it the floor: the very calls that the beat made into NVML, made again with nothing around them, and
one GET for each page without looking at it.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import pynvml

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration
from tests.bench.node import ROOT, Engines, gpu_settings
from tests.nvml_standin import StandIn

TICK_SECONDS, PAGES_EVERY = 1, 5
"""The defaults: a tick a second, a page of each engine with every fifth."""
WINDOW_SECONDS = 30
"""Until the window is full, a beat costs less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Beats:
    """CPU time of one size of node, in milliseconds."""

    gpus: int
    engines: int
    tick_ms: float
    """Reading the GPUs and concluding, without a page."""
    page_ms: float
    """What each page adds to a tick."""
    a_second_ms: float
    """On average, at the default intervals."""
    series: int
    floor_nvml_ms: float
    """The calls of one tick into NVML, alone."""
    floor_nvml_calls: int
    floor_page_ms: float
    """One GET over a connection of its own, as the agent makes it, alone."""

    @property
    def floor_a_second_ms(self) -> float:
        """What the calls and the GETs alone come to."""
        return self.floor_nvml_ms + self.floor_page_ms * self.engines / PAGES_EVERY


def beats_of(library: Path, *, gpus: int, engines: int, seconds: int) -> Beats:
    """In a process of their own, which finds the stand-in as an agent finds the driver."""
    with tempfile.TemporaryDirectory(prefix="bench") as directory:
        command = [sys.executable, "-m", "tests.bench.beats", f"--gpus={gpus}", f"--engines={engines}"]
        command += [f"--seconds={seconds}", f"--library={library}", f"--directory={directory}"]
        environment = {**os.environ, "LD_LIBRARY_PATH": directory}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return Beats(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    """Print one object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, required=True)
    parser.add_argument("--engines", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--directory", type=Path, required=True)
    options = parser.parse_args()
    stand_in = StandIn(options.library, options.directory)
    with Engines(count=options.engines, gpus=options.gpus, by_hand=True) as engines:
        stand_in.set(gpu_settings(options.gpus, pid=engines.pid))
        print(json.dumps(asdict(measure(engines, stand_in, options))))


def measure(engines: Engines, stand_in: StandIn, options: argparse.Namespace) -> Beats:
    """Beat for a window, then for so many seconds with a stopwatch."""
    clock = ManualClock()
    agent = Agent(Configuration.model_validate({"engines": engines.configurations}), clock=clock)

    def advance() -> None:
        engines.advance(TICK_SECONDS)
        clock.advance(TICK_SECONDS)
        stand_in.set({"now_ms": round(clock.monotonic() * 1e3)})

    plain: list[float] = []
    paged: list[float] = []
    try:
        for second in range(WINDOW_SECONDS + options.seconds):
            advance()
            with_pages = second % PAGES_EVERY == 0
            spent = cpu_ms(partial(agent.beat, engines=with_pages))
            if second >= WINDOW_SECONDS:
                (paged if with_pages else plain).append(spent)
        page = agent.renderer.render("", None).body
        assert agent.nvml_poller is not None
        recordings = []
        for _ in range(3):
            advance()  # else there is nothing new to ask GPM for
            recordings.append(calls_of(agent.nvml_poller.poll))
        calls = min(recordings, key=len)  # without what is asked seldom
        tick, with_page = quiet(plain), quiet(paged)
        beats = Beats(
            gpus=options.gpus,
            engines=options.engines,
            tick_ms=tick,
            page_ms=(with_page - tick) / options.engines,
            a_second_ms=((PAGES_EVERY - 1) * tick + with_page) / PAGES_EVERY / TICK_SECONDS,
            series=sum(line[:1] != b"#" for line in page.splitlines()),
            floor_nvml_ms=quiet_cpu_ms(lambda: [call() for call in calls]),
            floor_nvml_calls=len(calls),
            floor_page_ms=quiet_cpu_ms(lambda: get_all(engines.urls)) / options.engines,
        )
    finally:
        agent.close()
    return beats


def quiet(times: Sequence[float]) -> float:
    """Their first quartile: CPU time too is longer while others use the core's caches and its sibling."""
    return sorted(times)[len(times) // 4]


def cpu_ms(work: Callable[[], object]) -> float:
    """CPU time of this process in one call."""
    start = time.process_time()
    work()
    return (time.process_time() - start) * 1e3


def quiet_cpu_ms(work: Callable[[], object], *, repeat: int = 30) -> float:
    """Of so many calls, after one that only fills caches."""
    work()
    return quiet([cpu_ms(work) for _ in range(repeat)])


def calls_of(read: Callable[[], object]) -> Sequence[Callable[[], object]]:
    """The calls into NVML that `read` makes, each to be made again with the very same arguments."""
    calls: list[Callable[[], object]] = []
    with recorded(calls):
        read()
    return calls


@contextmanager
def recorded(calls: list[Callable[[], object]]) -> Iterator[None]:
    """nvidia-ml-py looks each function of the library up by one function of its own."""
    find = pynvml._nvmlGetFunctionPointer  # type: ignore[attr-defined]

    def watching(name: str) -> Callable[..., int]:
        function: Callable[..., int] = find(name)
        if name == "nvmlEventSetWait_v2":  # of the thread that waits for XIDs, and only waits
            return function

        def call(*arguments: object) -> int:
            if None not in arguments:  # else it asks how much room to bring, and would now find some
                calls.append(lambda: function(*arguments))
            return function(*arguments)

        return call

    pynvml._nvmlGetFunctionPointer = watching  # type: ignore[attr-defined]
    try:
        yield
    finally:
        pynvml._nvmlGetFunctionPointer = find  # type: ignore[attr-defined]


def get_all(urls: Sequence[str]) -> None:
    """Each page once, on a new connection: engines drop idle ones, so that the agent keeps none either."""
    for url in urls:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc)
        connection.request("GET", parts.path)
        body = connection.getresponse().read()
        connection.close()
        assert body, f"{url}: an empty page"


if __name__ == "__main__":
    main()
