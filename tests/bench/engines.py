"""Simulated engines in a process of their own, which runs until its input ends.

With `--by-hand` their clock stands still, and each line of input moves it by so many seconds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace

from agent.clock import ManualClock, SystemClock
from agent.simulate.node import SimulatedNode
from agent.simulate.scenario import Scenario
from agent.simulate.scenarios import SCENARIOS

ONE = SCENARIOS["memory-bound-decode"]


def many_engines(count: int, *, gpus: int) -> Scenario:
    """The one-GPU scenario of decode at a small batch, so many times, each on the next GPU in turn."""
    (server,) = ONE.servers
    (engine,) = server.engines
    servers = tuple(
        replace(server, engines=(replace(engine, gpus=(index % gpus,)),)) for index in range(count)
    )
    return Scenario(name="many", description="", gpus=ONE.gpus * gpus, servers=servers)


def main() -> None:
    """Print what the agent's configuration would list, then answer."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engines", type=int, default=8)
    parser.add_argument("--gpus", type=int, default=8)
    parser.add_argument("--by-hand", action="store_true")
    options = parser.parse_args()
    by_hand = ManualClock() if options.by_hand else None
    node = SimulatedNode(many_engines(options.engines, gpus=options.gpus), clock=by_hand or SystemClock())
    node.start()
    print(json.dumps(node.engine_configurations()), flush=True)
    for line in sys.stdin:
        if by_hand is not None:
            by_hand.advance(float(line))
            print("moved", flush=True)
    node.close()


if __name__ == "__main__":
    main()
