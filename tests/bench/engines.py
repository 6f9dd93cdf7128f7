"""Eight simulated engines in a process of their own, which runs until its input ends."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

from agent.clock import SystemClock
from agent.simulate.node import SimulatedNode
from agent.simulate.scenario import Scenario
from agent.simulate.scenarios import SCENARIOS

ONE = SCENARIOS["memory-bound-decode"]


def eight_engines() -> Scenario:
    """The one-GPU scenario of decode at a small batch, eight times."""
    (server,) = ONE.servers
    (engine,) = server.engines
    servers = tuple(replace(server, engines=(replace(engine, gpus=(index,)),)) for index in range(8))
    return Scenario(name="eight", description="", gpus=ONE.gpus * 8, servers=servers)


def main() -> None:
    node = SimulatedNode(eight_engines(), clock=SystemClock())
    node.start()
    print(json.dumps(node.engine_configurations()), flush=True)
    sys.stdin.read()
    node.close()


if __name__ == "__main__":
    main()
