"""The agent beside nvitop-exporter, over the same GPUs, each at its defaults and watched in the same way."""

from __future__ import annotations

import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import yaml

from tests.bench.node import ROOT, Engines, gpu_settings
from tests.bench.table import Figure, Table
from tests.bench.watched import Cost, Program, watch, watch_at_rest
from tests.nvml_standin import StandIn

NVITOP = ROOT / ".venv-nvitop"
PINNED = (
    "nvitop==1.7.2",
    "nvitop-exporter==1.7.2",
    "nvidia-ml-py==13.615.71",
    "prometheus_client==0.26.0",
    "psutil==7.2.2",
)
"""In an installation of its own: the agent's has nothing of it."""
GPUS = ENGINES = 8
SETTLE_SECONDS = 12.0
"""After the start, until every source was read more than once."""
PAGES_A_SECOND, SELDOM_PAGES_A_SECOND = ENGINES / 5, ENGINES / 15
"""At the default interval of engines, and at the one that tells a page from a tick."""
SCRAPE_SECONDS = 15.0
"""How often a Prometheus asks."""


def install_nvitop(directory: Path = NVITOP) -> Path:
    """nvitop-exporter's command, installed at the first call."""
    command, done = directory / "bin/nvitop-exporter", directory / ".installed"
    if not done.exists() or done.read_text() != "\n".join(PINNED):
        print(f"installing nvitop-exporter into {directory.name} …", file=sys.stderr)
        venv.create(directory, with_pip=True, clear=True)
        pip = [f"{directory}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINNED], check=True)
        done.write_text("\n".join(PINNED))
    return command


def nvitop_exporter(command: Path, library_directory: Path) -> Program:
    """At its defaults: all GPUs read once a second."""
    return Program(
        name="nvitop-exporter",
        command=lambda port: [str(command), "--port", str(port)],
        ready=b"gpu_utilization_Percentage{",
        environment={"LD_LIBRARY_PATH": str(library_directory)},
    )


def agent_program(
    engines: Engines, library_directory: Path, scratch: Path, *, pages_every_seconds: float | None = None
) -> Program:
    """The daemon; `None` leaves the interval of engines as it is by default."""
    paced = {} if pages_every_seconds is None else {"engines_interval_seconds": pages_every_seconds}

    def command(port: int) -> list[str]:
        configuration = {
            "web": {"listen_address": f"127.0.0.1:{port}"},
            "engines": list(engines.configurations),
            **paced,
        }
        file = scratch / f"agent-{port}.yaml"
        file.write_text(yaml.safe_dump(configuration))
        return [sys.executable, "-m", "agent", "run", "--config", str(file)]

    return Program(
        name="roofline-agent",
        command=command,
        ready=b"roofline_gpu_bottleneck{",
        environment={"LD_LIBRARY_PATH": str(library_directory)},
    )


def side_by_side(
    table: Table, library: Path, scratch: Path, *, seconds: float, scrapes: int = 30, starts: int = 5
) -> None:
    """Watch the agent, the agent with rarer pages, and the peer, one after the other."""
    command = install_nvitop()
    with Engines(count=ENGINES, gpus=GPUS) as engines:
        stand_in = StandIn(library, scratch / "nvml")
        stand_in.set(gpu_settings(GPUS, pid=engines.pid))
        here, settle = stand_in.path.parent, min(SETTLE_SECONDS, seconds)

        def cost(program: Program) -> Cost:
            return watch(program, seconds=seconds, settle_seconds=settle, scrapes=scrapes, starts=starts)

        agent = cost(agent_program(engines, here, scratch))
        peer = cost(nvitop_exporter(command, here))
        rarer = agent_program(engines, here, scratch, pages_every_seconds=15)
        seldom_ms = watch_at_rest(rarer, seconds=seconds, settle_seconds=settle)
    table.section(f"the whole process, {GPUS} GPUs and {ENGINES} engines", peer="nvitop-exporter")
    table.add(*compared(agent, peer), *parts(agent.rest_ms, seldom_ms))


def compared(agent: Cost, peer: Cost) -> tuple[Figure, ...]:
    """The same of both."""

    def both(what: str, unit: str, name: str, *, scale: float = 1.0) -> Figure:
        return Figure(
            what=what, agent=getattr(agent, name) * scale, peer=getattr(peer, name) * scale, unit=unit
        )

    scraped = "CPU, scraped every 15 s"
    return (
        both("CPU while nobody asks", "% of a core", "rest_ms", scale=0.1),
        Figure(
            what=scraped,
            agent=share_percent(agent),
            peer=share_percent(peer),
            unit="% of a core",
            budget=1.0,
        ),
        replace(both("CPU of a scrape", "ms", "scrape_ms"), budget=1.0, ratio_budget=0.2),
        both("latency of a scrape, p50", "ms", "p50_ms"),
        both("latency of a scrape, p99", "ms", "p99_ms"),
        replace(both("resident memory", "MiB", "resident_mebibytes"), budget=60.0),
        replace(both("start, until GPUs are shown, the best", "s", "start_seconds"), budget=1.5),
        both("… and its CPU time until then", "s", "start_cpu_seconds"),
        both("series", "", "series"),
        both("page, not compressed", "KiB", "page_bytes", scale=1 / 1024),
    )


def share_percent(cost: Cost) -> float:
    """Of a core, with what a Prometheus adds."""
    return (cost.rest_ms + cost.scrape_ms / SCRAPE_SECONDS) / 10


def parts(often_ms: float, seldom_ms: float) -> tuple[Figure, Figure]:
    """Of the agent at rest, a second's tick and each page: two paces are two equations."""
    page_ms = (often_ms - seldom_ms) / (PAGES_A_SECOND - SELDOM_PAGES_A_SECOND)
    return (
        Figure(
            what="tick without a page, and all else at rest",
            agent=often_ms - page_ms * PAGES_A_SECOND,
            unit="ms CPU",
            budget=5.0,
        ),
        Figure(what="each page", agent=page_ms, unit="ms CPU", budget=4.0),
    )
