"""Pictures to draw: simulated nodes after some time, with the same names each time."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration
from agent.daemon import simulated_configuration, watch
from agent.exposition.json_view import assessment_document
from agent.exposition.picture import NodePicture, read_document
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS
from agent.terminal.frame import Frame, Size, compose
from agent.terminal.glyphs import Glyphs
from agent.terminal.sight import Sight
from agent.terminal.state import State, press

PRICED = Configuration.model_validate({"prices": [{"gpu": "*", "usd_per_hour": 2.99}]})
GLYPHS = Glyphs()


@cache
def document_text(scenario: str, seconds: float | None = None) -> str:
    """What an agent says of a scenario in the end; its servers are at ports from 8000 on."""
    window = PRICED.window_seconds + 2 * PRICED.engines_interval_seconds
    if seconds is None:
        seconds = window + min(SCENARIOS[scenario].change_seconds, default=0.0)
    clock = ManualClock()
    node = SimulatedNode(SCENARIOS[scenario], clock=clock)
    node.start()
    configuration = simulated_configuration(PRICED, node)
    agent = Agent(configuration, clock=clock, nvml=node.nvml, node="gpu-7")
    try:
        watch(agent, clock, configuration, seconds)
        assert agent.sampler.latest is not None
        text = json.dumps(assessment_document(agent.sampler.latest))
        for number, server in enumerate(agent.roster.servers):
            text = text.replace(server.server, f"127.0.0.1:{8000 + number}")
    finally:
        agent.close()
        node.close()
    return text


def document_of(scenario: str, seconds: float | None = None) -> Any:
    """The same as JSON gives it, to be changed at will."""
    return json.loads(document_text(scenario, seconds))


def sight_of(document: Any, *, problem: str = "") -> Sight:
    """As received at 0 seconds."""
    return Sight(origin="agent at http://gpu-7:10095", picture=read_document(document), problem=problem)


def picture_of(scenario: str) -> NodePicture:
    return read_document(document_of(scenario))


def drawn(
    sight: Sight, *keys: str, width: int = 80, height: int = 24, at: float = 1.0, glyphs: Glyphs = GLYPHS
) -> Frame:
    """The frame after these keys."""
    state = State()
    size = Size(width=width, height=height)
    for key in keys:
        frame = compose(sight, state, size=size, now_seconds=at, glyphs=glyphs)
        state = press(state, key, frame.shown)
    return compose(sight, state, size=size, now_seconds=at, glyphs=glyphs)


def text_of(frame: Frame) -> str:
    """What stands there, without colours."""
    return "\n".join(line.plain.rstrip() for line in frame.lines)
