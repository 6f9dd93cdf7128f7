"""Where documents come from: an agent that runs, this node watched from here, or a simulated one.

All three give the same JSON. A thread reads it and publishes one frozen `Sight`, so that whatever takes
long, a driver or a network, keeps no key waiting.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration
from agent.daemon import beats, simulated_configuration
from agent.errors import AgentError
from agent.exposition.json_view import assessment_document
from agent.exposition.picture import read_document
from agent.logs import one_line
from agent.simulate.scenarios import SCENARIOS
from agent.sources.agent_page import RemoteAgent
from agent.terminal.sight import Sight

if TYPE_CHECKING:  # a real node never loads it
    from agent.simulate.node import SimulatedNode

log = logging.getLogger(__name__)

RETRY_SECONDS = 2.0
FIRST_SECONDS = 0.1
"""Between looks at what has no document yet."""
LONGEST_SECONDS = 60.0
"""Whatever a document says of its interval."""
CLOSE_SECONDS = 1.0
SLICE_SECONDS = 0.2
"""For so long a simulated node is played before somebody looks whether it is still wanted."""


class Feed(Protocol):
    """Gives documents."""

    @property
    def origin(self) -> str:
        """Whence, in words."""

    @property
    def pause_seconds(self) -> float:
        """From one document to the next, at least."""

    def read(self) -> Any:
        """The present document; `None` before the first one. Raises `AgentError`."""

    def close(self) -> None:
        """Let go of everything."""


class RemoteFeed:
    """Of an agent that runs."""

    pause_seconds = 2.0
    """A document of eight GPUs takes it 10 ms of CPU or more: so it stays below a per cent of a core."""

    def __init__(self, agent: RemoteAgent, *, name: str = "") -> None:
        self._agent = agent
        self.origin = one_line(name or agent.name)

    def read(self) -> Any:
        """What it answers."""
        return self._agent.fetch()

    def close(self) -> None:
        """Give back the connections."""
        self._agent.close()


class NodeFeed:
    """Of this node, watched by this very process; nothing is served."""

    pause_seconds = 1.0

    def __init__(self, configuration: Configuration, *, name: str = "this node, watched from here") -> None:
        self.origin = one_line(name)
        self._agent = Agent(configuration)
        self._agent.start_sampling()

    def read(self) -> Any:
        """Of the last tick."""
        latest = self._agent.sampler.latest
        return None if latest is None else assessment_document(latest)

    def close(self) -> None:
        """Stop sampling."""
        self._agent.close()


class SimulatedFeed:
    """Of a simulated node that has run for a while already; from then on a tick each time it is asked."""

    pause_seconds = 1.0

    def __init__(self, scenario: str, configuration: Configuration, *, seconds: float | None = None) -> None:
        """`seconds` is how long it has run at the first look: by default until what happens shows."""
        self.origin = f"simulated: {scenario}"
        self._scenario = SCENARIOS[scenario]
        window = configuration.window_seconds + 2 * configuration.engines_interval_seconds
        self._seconds = (
            window + min(self._scenario.change_seconds, default=0.0) if seconds is None else seconds
        )
        self._node: SimulatedNode | None = None
        self._agent: Agent | None = None
        self._documents = self._play(configuration)

    def read(self) -> Any:
        """Of the next tick, or `None` where it takes too long to get to the first one."""
        end = time.monotonic() + SLICE_SECONDS
        while (document := next(self._documents)) is None and time.monotonic() < end:
            pass
        return document

    def close(self) -> None:
        """Stop the engines."""
        if self._agent is not None:
            self._agent.close()
        if self._node is not None:
            self._node.close()

    def _play(self, configuration: Configuration) -> Iterator[Any]:
        from agent.simulate.node import SimulatedNode

        clock = ManualClock(unix_seconds=time.time() - self._seconds)
        self._node = node = SimulatedNode(self._scenario, clock=clock)
        node.start()
        simulated = simulated_configuration(configuration, node)
        self._agent = Agent(simulated, clock=clock, nvml=node.nvml, node="simulated-node")
        for assessment in beats(self._agent, clock, simulated):
            yield assessment_document(assessment) if clock.monotonic() >= self._seconds else None


class Watcher:
    """Reads a feed on a thread of its own; `latest` is what it last saw."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self.latest = Sight(origin=feed.origin)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="top", daemon=True)

    def start(self) -> None:
        """From now on."""
        self._thread.start()

    def close(self) -> None:
        """An attempt that hangs is not waited for."""
        self._over.set()
        self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            self._feed.close()

    def look(self) -> None:
        """One attempt."""
        try:
            document = self._feed.read()
            if document is None:
                return
            picture = read_document(document)
        except AgentError as error:
            self.latest = replace(self.latest, problem=one_line(str(error)))
            return
        except Exception as error:  # the screen goes on, and says what it lacks
            log.exception("no picture")
            self.latest = replace(self.latest, problem=f"no picture: {type(error).__name__}")
            return
        self.latest = Sight(origin=self._feed.origin, picture=picture, received_seconds=time.monotonic())

    def _pause(self, interval_seconds: float) -> float:
        return min(max(interval_seconds, self._feed.pause_seconds), LONGEST_SECONDS)

    def _run(self) -> None:
        while not self._over.is_set():
            began = time.monotonic()
            self.look()
            seen = self.latest
            if seen.problem:
                pause = RETRY_SECONDS
            else:
                pause = FIRST_SECONDS if seen.picture is None else self._pause(seen.picture.interval_seconds)
            self._over.wait(max(began + pause - time.monotonic(), 0.05))
