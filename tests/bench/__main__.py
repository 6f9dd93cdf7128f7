"""What the agent costs: `make bench`.

Each figure stands beside a peer's in the same run, as a ratio, so that the machine's speed drops out.
The whole agent is watched from outside, over a stand-in NVML with 8 GPUs and 8 simulated engines in
another process, at the defaults, with a scrape every 15 seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client import exposition as text_format
from prometheus_client.core import Metric as LibraryMetric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from agent.engines.vllm import VLLM
from agent.exposition.collector import Renderer
from agent.sources.page import PageParser
from tests.nvml_standin import StandIn, compile_library

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "tests/fixtures/vllm/0.32.0-load-2.txt").read_bytes()
OPENMETRICS = "application/openmetrics-text;version=1.0.0"


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="how long to watch the whole agent")
    options = parser.parse_args()
    print(f"{'':44}{'agent':>10}{'peer':>10}{'ratio':>8}")
    parse()
    with engines() as configurations, tempfile.TemporaryDirectory() as scratch:
        render(configurations)
        whole_agent(configurations, Path(scratch), options.seconds)


def row(what: str, ours: float, peer: float | None, unit: str) -> None:
    beside = f"{peer:>10.2f}{ours / peer:>8.2f}" if peer is not None else ""
    print(f"{what:44}{ours:>10.2f}{beside}  {unit}")


def milliseconds(work: Callable[[], object], *, repeat: int = 30) -> float:
    """Median CPU time of one call."""
    work()
    times = []
    for _ in range(repeat):
        start = time.process_time()
        work()
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times)


def parse() -> None:
    parser = PageParser(VLLM.wanted)
    warm = milliseconds(lambda: parser.parse(PAGE))
    cold = milliseconds(lambda: PageParser(VLLM.wanted).parse(PAGE))
    text = PAGE.decode()
    full = milliseconds(lambda: list(text_string_to_metric_families(text)))
    row("a vLLM page, seen before / client library", warm, full, "ms CPU")
    row("a vLLM page, first time / client library", cold, full, "ms CPU")


def render(configurations: list[dict[str, object]]) -> None:
    """The page of the very node that is watched below, by us and by the client library."""
    from agent.app import Agent
    from agent.clock import SystemClock
    from agent.config import Configuration
    from agent.simulate.node import SimulatedNode
    from tests.bench.engines import eight_engines

    node = SimulatedNode(eight_engines(), clock=SystemClock())
    agent = Agent(
        Configuration.model_validate({"engines": configurations}), clock=SystemClock(), nvml=node.nvml
    )
    for _ in range(3):
        agent.beat(engines=True)
        time.sleep(1)
    ticking = milliseconds(agent.sampler.tick)

    def fresh(accept: str) -> bytes:
        renderer.forget()
        return renderer.render(accept, None).body

    renderer: Renderer = agent.renderer
    peer = _Families(fresh("").decode())
    row("rendering text / client library", milliseconds(lambda: fresh("")), peer.text(), "ms CPU")
    row(
        "rendering OpenMetrics / client library",
        milliseconds(lambda: fresh(OPENMETRICS)),
        peer.open(),
        "ms CPU",
    )
    row("a tick of the sampler", ticking, None, "ms CPU")
    agent.close()


class _Families(CollectorRegistry):
    """A page as the client library's own values, for its own renderers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._families = list(text_string_to_metric_families(page))

    def collect(self) -> Iterator[LibraryMetric]:
        return iter(self._families)

    def text(self) -> float:
        return milliseconds(lambda: text_format.generate_latest(self))

    def open(self) -> float:
        generate: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest
        return milliseconds(lambda: generate(self))


@contextmanager
def engines() -> Iterator[list[dict[str, object]]]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.engines"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()


def whole_agent(configurations: list[dict[str, object]], scratch: Path, seconds: float) -> None:
    library = compile_library(scratch)
    stand_in = StandIn(library, scratch / "nvml")
    stand_in.set({"gpus": 8})
    config = scratch / "agent.yaml"
    config.write_text(yaml.safe_dump({"web": {"listen_address": "127.0.0.1:0"}, "engines": configurations}))
    with subprocess.Popen(
        [sys.executable, "-m", "agent", "run", "--config", config],
        cwd=ROOT,
        env={**os.environ, "LD_LIBRARY_PATH": str(stand_in.path.parent)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            started = time.monotonic()
            said = re.search(r"port (\d+)", process.stderr.readline())
            assert said is not None
            row("start, until it answers", (time.monotonic() - started), None, "s")
            url = f"http://127.0.0.1:{said[1]}/metrics"
            time.sleep(10)
            before, latencies, end = _cpu_seconds(process.pid), [], time.monotonic() + seconds
            began = time.monotonic()
            while time.monotonic() < end:
                at = time.monotonic()
                response = requests.get(url, headers={"Accept": OPENMETRICS}, timeout=5)
                latencies.append((time.monotonic() - at) * 1e3)
                time.sleep(min(15.0, max(end - time.monotonic(), 0)))
            used = (_cpu_seconds(process.pid) - before) / (time.monotonic() - began)
            row("CPU of the whole agent (budget 1)", used * 100, None, "% of a core")
            row("resident memory (budget 60)", _resident_mebibytes(process.pid), None, "MiB")
            row("latency of a scrape, median", statistics.median(latencies), None, "ms")
            row("lines on the page", response.text.count("\n"), None, "")
        finally:
            process.terminate()


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mebibytes(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


if __name__ == "__main__":
    main()
