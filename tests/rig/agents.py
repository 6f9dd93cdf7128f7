"""The agents of the rig: one a scenario, over its simulated node, in time that follows the real one.

First each is brought to where its story becomes interesting, as fast as it can be computed. From then on
its clock is moved along with real time, one interval at once, so that rates are true.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration
from agent.daemon import simulated_configuration
from agent.exposition.server import ExpositionServer
from agent.simulate.node import SimulatedNode
from agent.simulate.scenario import Scenario
from agent.simulate.scenarios import SCENARIOS
from tests.discovery.kubelet import grpc_server, message, socket_path
from tests.rig.programs import free_port
from tests.test_discovered import pod

INTERVAL_SECONDS = 2
"""Of the agents' ticks, their engines' pages, and the scrapes. Half of it would be twice the work."""

CONFIGURATION = Configuration.model_validate(
    {
        "interval_seconds": INTERVAL_SECONDS,
        "engines_interval_seconds": INTERVAL_SECONDS,
        "prices": [
            {"gpu": "NVIDIA H100 80GB HBM3", "usd_per_hour": 2.99},
            {"usd_per_hour": 1.5},
        ],
        "slo": {"ttft_seconds": 2, "inter_token_seconds": 0.1, "objective": 0.99},
    }
)

SELDOM_TICKS = 5
"""Between two looks at a dcgm-exporter or a kubelet: ten seconds, as usual."""

STEADY_SECONDS = 30
"""Before the first scrape: a window is full, and what starts has started."""
BEFORE_OUTAGE_SECONDS = 10
"""Where something goes wrong, the first scrapes do not see it yet."""
BEFORE = {
    "engine-down": 140,  # it is down, and comes back before the end
    "hung-engine": 76,  # that an engine hangs is said when it has for a minute, which no table compresses
    "kv-filling": 160,  # the longer the answers are, the less their cost grows with each further token
}
"""Others."""

Fate = Literal["watches", "dies", "is removed", "sticks", "is restarted", "is misconfigured"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What one agent of the rig watches, and what becomes of the agent itself."""

    scenario: Scenario
    fate: Fate = "watches"
    at_seconds: float = 0.0
    """Since the first scrape."""
    pods: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Which pods the kubelet has given which GPUs; without any there is no kubelet."""

    @property
    def name(self) -> str:
        """That of the node and of the cluster."""
        return self.scenario.name

    @property
    def seconds_before(self) -> int:
        """How far its story has gone at the first scrape."""
        starts = [outage.at_seconds for outage in self.scenario.outages]
        starts += [fault.at_seconds for fault in self.scenario.faults]
        usual = int(min(starts) - BEFORE_OUTAGE_SECONDS) if starts else STEADY_SECONDS
        return BEFORE.get(self.name, usual)


OVER_BUDGET = "agent-over-budget"
"""Only its `process_*` are scraped: they are those of the whole rig, which is no small agent."""


def _of_the_agent(
    name: str, fate: Fate = "watches", at_seconds: float = 0.0, *, on: str = "kv-nearly-full"
) -> Role:
    """One where something is wrong with the agent, on a node with which usually nothing is."""
    return Role(scenario=replace(SCENARIOS[on], name=name), fate=fate, at_seconds=at_seconds)


def _fallen_later(scenario: Scenario) -> Scenario:
    """The same with its change of traffic a little later: the cost before and after is compared."""
    (server,) = scenario.servers
    (engine,) = server.engines
    changes = tuple(replace(change, at_seconds=change.at_seconds + 28) for change in engine.traffic_changes)
    return replace(scenario, servers=(replace(server, engines=(replace(engine, traffic_changes=changes),)),))


_STORIES = {**SCENARIOS, "traffic-fell": _fallen_later(SCENARIOS["traffic-fell"])}

PODS = {"node": {"chat": (0,), "batch": (1,), "documents": (2,), "slow-host": (3,), "large": (4, 5, 6, 7)}}
"""On the node of this scenario."""

ROLES: Sequence[Role] = (
    *(Role(scenario=scenario, pods=PODS.get(name, {})) for name, scenario in _STORIES.items()),
    # Right after the memory has failed: what is still known of that is not told any more.
    _of_the_agent("agent-down", "dies", 13, on="failing-memory"),
    _of_the_agent("agent-removed", "is removed", 20),
    _of_the_agent("agent-stuck", "sticks", 20),
    _of_the_agent("agent-restarted", "is restarted", 50),
    _of_the_agent("agent-misconfigured", "is misconfigured", 20),
    _of_the_agent(OVER_BUDGET),
)


class _RigClock(ManualClock):
    """A manual clock that can be told what time it is."""

    def set_unix(self, unix_seconds: float) -> None:
        self._offset = unix_seconds - self._monotonic


class RunningAgent:
    """One agent with its node and its server. A tick by hand is what its threads would do."""

    def __init__(self, role: Role) -> None:
        self.role = role
        self._clock = _RigClock(unix_seconds=time.time() - role.seconds_before)
        self._node = SimulatedNode(role.scenario, clock=self._clock)
        self._node.start()
        self._kubelet = ExitStack()
        self._configuration = simulated_configuration(CONFIGURATION, self._node)
        if role.pods:
            self._configuration = _with_kubelet(
                self._configuration, self._kubelet.enter_context(_kubelet(role))
            )
        self._ticks = 0
        self._sticks = False
        self.port = free_port()
        self._agent, self._server = self._start()
        for _ in range(0, role.seconds_before, INTERVAL_SECONDS):
            self._tick()
        self._closed = False

    def _start(self) -> tuple[Agent, ExpositionServer]:
        agent = Agent(self._configuration, clock=self._clock, nvml=self._node.nvml, node=self.role.name)
        server = ExpositionServer(
            host="127.0.0.1",
            port=self.port,
            metrics=agent.renderer,
            latest=lambda: agent.sampler.latest,
            configuration=dict,
            clock=self._clock,
        )
        server.start()
        return agent, server

    def _tick(self) -> None:
        self._clock.advance(INTERVAL_SECONDS)
        seldom = self._ticks % SELDOM_TICKS == 0
        self._ticks += 1
        if seldom and self._agent.pod_resources_poller is not None:
            self._agent.pod_resources_poller.poll()
        if self._sticks:  # its sources are still read, on threads of their own
            for poller in self._agent.pollers:
                poller.poll()
        else:
            self._agent.beat(engines=True, dcgm=seldom)

    def set_time(self, unix_seconds: float) -> None:
        """It is now this late."""
        self._clock.set_unix(unix_seconds)

    def follow(self, unix_seconds: float) -> None:
        """Tick as often as an agent would have until then."""
        while not self._closed and self._clock.unix() + INTERVAL_SECONDS <= unix_seconds:
            self._tick()

    def meet_fate(self) -> None:
        """Die, or stick, or be restarted."""
        if self.role.fate == "dies":
            self.close()
        elif self.role.fate == "sticks":
            self._sticks = True
        elif self.role.fate == "is misconfigured":
            self._agent.note_refusal(("prices[0].usd_per_hour: must be greater than 0",))
        elif self.role.fate == "is restarted":
            self._server.close()
            self._agent.close()
            self._agent, self._server = self._start()

    def close(self) -> None:
        """End it, its server and its node."""
        if not self._closed:
            self._closed = True
            self._server.close()
            self._agent.close()
            self._node.close()
            self._kubelet.close()


@contextmanager
def _kubelet(role: Role) -> Iterator[Path]:
    """The socket of one that has given out the node's GPUs."""
    held = [
        pod(
            "serving",
            f"{name}-0",
            "engine",
            "nvidia.com/gpu",
            *(f"GPU-00000000-0000-0000-0000-{gpu:012d}" for gpu in gpus),
        )
        for name, gpus in role.pods.items()
    ]
    answer = message(*((1, one) for one in held))
    with socket_path() as path, grpc_server(lambda request, context: answer, path=path):
        yield path


def _with_kubelet(configuration: Configuration, socket: Path) -> Configuration:
    document = configuration.model_dump(by_alias=True)
    document["discovery"]["pod_resources"] = {"enabled": True, "socket": str(socket)}
    return Configuration.model_validate(document)


@contextmanager
def running_agents(roles: Sequence[Role]) -> Iterator[Sequence[RunningAgent]]:
    """All of them, each where its story begins."""
    with ExitStack() as stack:
        agents = []
        for role in roles:
            agents.append(RunningAgent(role))
            stack.callback(agents[-1].close)
        yield agents
