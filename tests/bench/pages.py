"""A page of an engine, and our own page, beside the client library's way with the same text."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client import exposition as text_format
from prometheus_client.core import Metric as LibraryMetric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.parser import text_string_to_metric_families

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration
from agent.engines.vllm import VLLM
from agent.simulate.node import SimulatedNode
from agent.sources.page import PageParser
from tests.bench.beats import quiet_cpu_ms
from tests.bench.engines import many_engines
from tests.bench.node import ROOT
from tests.bench.table import Figure, Table

PAGE = (ROOT / "tests/fixtures/vllm/0.32.0-load-2.txt").read_bytes()
OPENMETRICS = "application/openmetrics-text;version=1.0.0"
GPUS = ENGINES = 8


def pages(table: Table) -> None:
    """Parsing and rendering, in this process."""
    table.section("in one process, CPU", peer="prometheus_client")
    table.add(*parsing(), *rendering())


def parsing() -> tuple[Figure, ...]:
    """A page of a real vLLM under load."""
    parser = PageParser(VLLM.wanted)
    text = PAGE.decode()
    peer = quiet_cpu_ms(lambda: list(text_string_to_metric_families(text)))
    warm = quiet_cpu_ms(lambda: parser.parse(PAGE))
    cold = quiet_cpu_ms(lambda: PageParser(VLLM.wanted).parse(PAGE))
    return (
        Figure(what="parsing a vLLM page that was seen before", agent=warm, peer=peer, unit="ms CPU"),
        Figure(what="parsing it for the first time", agent=cold, peer=peer, unit="ms CPU"),
    )


def rendering() -> tuple[Figure, ...]:
    """The page of a simulated node, anew."""
    clock = ManualClock()
    node = SimulatedNode(many_engines(ENGINES, gpus=GPUS), clock=clock)
    node.start()
    listed = {"engines": list(node.engine_configurations())}
    agent = Agent(Configuration.model_validate(listed), clock=clock, nvml=node.nvml)
    try:
        for _ in range(3):
            agent.beat(engines=True)
            clock.advance(5)

        def fresh(accept: str) -> bytes:
            agent.renderer.forget()
            return agent.renderer.render(accept, None).body

        peer = _Families(fresh("").decode())
        return (
            Figure(
                what="rendering our page as text",
                agent=quiet_cpu_ms(lambda: fresh("")),
                peer=peer.text(),
                unit="ms CPU",
            ),
            Figure(
                what="rendering it as OpenMetrics",
                agent=quiet_cpu_ms(lambda: fresh(OPENMETRICS)),
                peer=peer.open(),
                unit="ms CPU",
            ),
        )
    finally:
        agent.close()
        node.close()


class _Families(CollectorRegistry):
    """A page as the client library's own values, for its own renderers."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._families = list(text_string_to_metric_families(page))

    def collect(self) -> Iterator[LibraryMetric]:
        return iter(self._families)

    def text(self) -> float:
        return quiet_cpu_ms(lambda: text_format.generate_latest(self))

    def open(self) -> float:
        generate: Callable[[CollectorRegistry], bytes] = openmetrics.generate_latest
        return quiet_cpu_ms(lambda: generate(self))
