"""A scenario watched by the real agent, over the simulator's real pages, in virtual time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.config import Configuration
from agent.daemon import simulated_configuration, watch
from agent.exposition.collector import OPENMETRICS_TYPE
from agent.simulate.engine import WorkDone
from agent.simulate.node import SimulatedNode
from agent.simulate.scenario import Scenario
from agent.simulate.truth import Truth

DEFAULTS = Configuration()
PAGE_SECONDS = 30
"""A page of the agent's is kept this often."""

Work = Mapping[tuple[int, int], WorkDone]
"""What each engine has really done, by the place of its server and its rank."""

Series = tuple[str, frozenset[tuple[str, str]]]
"""The name of a sample and its labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The agent's page at one instant, as prometheus_client reads it; its own process is left out."""

    text: str
    openmetrics: str

    def families(self) -> list[Metric]:
        """Those of the text format."""
        return _without_process(parse_text(self.text))

    def openmetrics_families(self) -> list[Metric]:
        """Those of OpenMetrics."""
        return _without_process(parse_openmetrics(self.openmetrics))  # type: ignore[no-untyped-call]  # untyped library

    def samples(self, *kinds: str) -> dict[Series, float]:
        """Those of the families of these kinds, or of all of them."""
        return samples_of(family for family in self.families() if not kinds or family.type in kinds)


def _without_process(families: Iterable[Metric]) -> list[Metric]:
    return [family for family in families if not family.name.startswith("process_")]


def samples_of(families: Iterable[Metric]) -> dict[Series, float]:
    """Every sample of these families; each must be there once."""
    listed = [sample for family in families for sample in family.samples]
    samples = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in listed}
    assert len(samples) == len(listed), "a series twice"
    return samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What the agent said of a scenario, and what really happened. Times are seconds since its start."""

    scenario: Scenario
    truth: Truth
    servers: tuple[str, ...]
    """Host and port of each server: the values of the label `server`."""
    assessments: Mapping[int, Assessment]
    """One a second."""
    work: Mapping[int, Work]
    """Likewise."""
    pages: Mapping[int, Page]
    """Each `PAGE_SECONDS`, and when asked for."""


def watch_scenario(
    scenario: Scenario,
    seconds: int,
    *,
    pages_at: Collection[int] = (),
    configuration: Configuration = DEFAULTS,
) -> Watched:
    """Run the whole agent, but for its own server and threads, through so many virtual seconds."""
    clock = ManualClock()
    node = SimulatedNode(scenario, clock=clock)
    node.start()
    configuration = simulated_configuration(configuration, node)
    agent = Agent(configuration, clock=clock, nvml=node.nvml, node="simulated-node")
    assessments: dict[int, Assessment] = {}
    work: dict[int, Work] = {}
    pages: dict[int, Page] = {}

    def observe(assessment: Assessment) -> None:
        now = int(assessment.at_seconds)
        assessments[now] = assessment
        work[now] = {
            (server, rank): node.truth.work(server, rank)
            for server, spec in enumerate(scenario.servers)
            for rank in range(len(spec.engines))
        }
        if now % PAGE_SECONDS == 0 or now in pages_at:
            pages[now] = Page(
                text=agent.renderer.render(None, None).body.decode(),
                openmetrics=agent.renderer.render(OPENMETRICS_TYPE, None).body.decode(),
            )

    try:
        watch(agent, clock, configuration, seconds, observe)
    finally:
        for poller in agent.pollers:
            poller.close()
        node.close()
    return Watched(
        scenario=scenario,
        truth=node.truth,
        servers=tuple(server.server for server in agent.roster.servers),
        assessments=assessments,
        work=work,
        pages=pages,
    )
