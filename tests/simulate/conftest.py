from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.clock import ManualClock
from agent.simulate.node import SimulatedNode
from agent.simulate.scenario import Scenario
from agent.simulate.scenarios import SCENARIOS

NodeFactory = Callable[..., tuple[SimulatedNode, ManualClock]]


@pytest.fixture
def make_node() -> Iterator[NodeFactory]:
    """Nodes in virtual time; those whose ports were opened are closed afterwards."""
    nodes: list[SimulatedNode] = []

    def make(scenario: str | Scenario, *, seed: int = 7) -> tuple[SimulatedNode, ManualClock]:
        clock = ManualClock()
        known = SCENARIOS[scenario] if isinstance(scenario, str) else scenario
        nodes.append(SimulatedNode(known, clock=clock, seed=seed))
        return nodes[-1], clock

    yield make
    for node in nodes:
        node.close()
