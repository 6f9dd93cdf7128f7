"""From the options to the loop: a picture, a frame, a key, and again."""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress

from rich.console import Console
from rich.text import Text

from agent.config import Configuration, load_configuration
from agent.errors import AgentError, SourceError
from agent.exposition.picture import read_document
from agent.sources.agent_page import AgentAccess, RemoteAgent
from agent.sources.page import PageLimits
from agent.terminal.feeds import Feed, NodeFeed, RemoteFeed, SimulatedFeed, Watcher
from agent.terminal.frame import Frame, compose
from agent.terminal.glyphs import Glyphs, glyphs_for
from agent.terminal.options import LOCAL_URL
from agent.terminal.screen import Screen
from agent.terminal.sight import Sight
from agent.terminal.state import State, press

LOOK_SECONDS = 0.25
"""Between two looks at whether there is news."""
PROBE_LIMITS = PageLimits(deadline_seconds=1.0)
HELD_LINES = 200
STARTING = 503

Painter = Callable[[Sequence[Text]], Sequence[str]]


def run(options: argparse.Namespace) -> int:
    """Show the node until told to end. Gives the exit status."""
    screen = Screen(
        keyboard=sys.stdin.fileno(),
        display=sys.stdout.fileno(),
        term=os.environ.get("TERM", ""),
        encoding=sys.stdout.encoding,
    )
    watcher = Watcher(open_feed(options, os.environ))
    watcher.start()
    try:
        with _held_stderr(), screen:
            return _loop(
                screen,
                watcher,
                painter(no_color=bool(os.environ.get("NO_COLOR")), is_plain=screen.is_plain),
                glyphs_for(sys.stdout.encoding),
            )
    finally:
        watcher.close()


def open_feed(
    options: argparse.Namespace, environment: Mapping[str, str], *, local_url: str = LOCAL_URL
) -> Feed:
    """The agent that was named, the simulated node, the agent of this node, or the node itself."""
    if options.url is not None:
        if options.config is not None:
            raise AgentError("--config would have no effect beside --url: leave it out")
        access = AgentAccess.of_environment(environment, ca_file=options.ca_file)
        return RemoteFeed(RemoteAgent(options.url, access=access))
    if options.ca_file is not None:
        raise AgentError("--ca-file would have no effect without --url: leave it out")
    configuration = load_configuration(options.config)
    if options.simulate is not None:
        return SimulatedFeed(options.simulate, configuration)
    if options.config is not None:
        return NodeFeed(configuration)
    return _local_feed(local_url)


def _local_feed(url: str) -> Feed:
    """Its own agent has the longer memory, and whoever asks it loads neither GPUs nor engines."""
    name = "this node, watched from here"
    agent = RemoteAgent(url, limits=PROBE_LIMITS)
    try:
        read_document(agent.fetch())
    except AgentError as error:
        reason, status = (error.reason, error.http_status) if isinstance(error, SourceError) else ("", None)
        if status != STARTING:
            agent.close()
            return NodeFeed(Configuration(), name=name if reason == "refused" else f"{name} ({error})")
    return RemoteFeed(agent, name=f"the agent of this node at {agent.address}")


def painter(*, no_color: bool, is_plain: bool) -> Painter:
    """Makes strings of lines; plain ones have no escape sequence at all."""
    console = Console(
        file=io.StringIO(),
        width=80,
        force_terminal=not is_plain,
        color_system=None if is_plain else "standard",
        no_color=no_color or is_plain,
        highlight=False,
        markup=False,
        emoji=False,
        legacy_windows=False,
    )

    def paint(lines: Sequence[Text]) -> Sequence[str]:
        with console.capture() as captured:
            # Softly wrapped is not wrapped: the lines have their lengths already.
            console.print(Text("\n").join(lines), soft_wrap=True, end="")
        return captured.get().split("\n")

    return paint


def _loop(screen: Screen, watcher: Watcher, paint: Painter, glyphs: Glyphs) -> int:
    def frame_of(sight: Sight) -> Frame:
        return compose(sight, state, size=screen.size, now_seconds=time.monotonic(), glyphs=glyphs)

    state, drawn, is_pressed = State(), watcher.latest, False
    while True:
        sight = watcher.latest
        frame = frame_of(sight)
        is_first = drawn.picture is None and sight.picture is not None
        screen.draw(paint(frame.lines), at_once=is_pressed or is_first)
        drawn = sight
        events = screen.wait(LOOK_SECONDS)
        if events.ended_by is not None:
            return 128 + events.ended_by
        for key in events.keys:
            state = press(state, key, frame.shown)
            frame = frame_of(sight)
        if state.done:
            return 0
        is_pressed = bool(events.keys)


@contextmanager
def _held_stderr() -> Iterator[None]:
    """What would be written across the screen is written when it is gone, the last lines of it."""
    if not sys.stderr.isatty():
        yield
        return
    held = _Held()
    try:
        with redirect_stderr(held):
            yield
    finally:
        with suppress(OSError):  # the terminal may be gone
            sys.stderr.write("".join(held.lines))
            sys.stderr.flush()


class _Held(io.TextIOBase):
    """Keeps the last lines."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=HELD_LINES)

    def write(self, text: str) -> int:
        """As a file would."""
        self.lines.append(text)
        return len(text)
