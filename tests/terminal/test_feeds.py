"""Where pictures come from: whom `top` asks, and what it makes of those who do not answer well."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.cli import _parser
from agent.config import Configuration
from agent.errors import AgentError, ConfigurationError
from agent.exposition.json_view import assessment_document
from agent.terminal.command import open_feed
from agent.terminal.feeds import Feed, NodeFeed, RemoteFeed, SimulatedFeed, Watcher
from tests.exposition import scenes
from tests.exposition.test_server import start
from tests.sources.test_page import answer, saying, serving

NOBODY = "http://127.0.0.1:1"


def options(*arguments: str) -> argparse.Namespace:
    return _parser().parse_args(["top", *arguments])


def opened(*arguments: str, local_url: str = NOBODY) -> Feed:
    feed = open_feed(options(*arguments), {}, local_url=local_url)
    feed.close()
    return feed


def test_the_agent_of_this_node_is_asked_first() -> None:
    exposed = start(scenes.memory_bound())
    try:
        feed = opened(local_url=f"http://127.0.0.1:{exposed.port}")
    finally:
        exposed.close()
    assert isinstance(feed, RemoteFeed)
    assert feed.origin == f"the agent of this node at http://127.0.0.1:{exposed.port}"


def test_one_that_has_just_begun_is_waited_for() -> None:
    exposed = start()
    try:
        assert isinstance(opened(local_url=f"http://127.0.0.1:{exposed.port}"), RemoteFeed)
    finally:
        exposed.close()


def test_where_none_answers_the_node_is_watched_from_here() -> None:
    feed = opened()
    assert isinstance(feed, NodeFeed)
    assert feed.origin == "this node, watched from here"


@pytest.mark.parametrize(
    ("said", "words"),
    [(answer(status="401 Unauthorized"), "HTTP 401"), (answer(b"<html>"), "no roofline-agent")],
    ids=["wants a password", "another program"],
)
def test_who_answers_and_tells_nothing_is_named(said: bytes, words: str) -> None:
    with serving(saying(said)) as server:
        feed = opened(local_url=server.url)
    assert isinstance(feed, NodeFeed)
    assert words in feed.origin


def test_a_configuration_is_of_this_very_process(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("nvml: {enabled: false}\n")
    assert isinstance(opened("--config", str(path)), NodeFeed)
    path.write_text("nvml: 3\n")
    with pytest.raises(ConfigurationError):
        opened("--config", str(path))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://h", "--config", "x"], "--config would have no effect"),
        (["--ca-file", "x"], "--ca-file would have no effect"),
        (["--url", "h:10095"], "begins with http://"),
    ],
)
def test_options_that_are_believed_and_not_obeyed_are_refused(arguments: list[str], words: str) -> None:
    with pytest.raises(AgentError, match=words):
        opened(*arguments)


def test_a_simulated_node_has_run_for_a_while_and_has_the_prices_given() -> None:
    prices = Configuration.model_validate({"prices": [{"gpu": "*", "usd_per_hour": 2.99}]})
    feed = SimulatedFeed("memory-bound-decode", prices)
    try:
        while (document := feed.read()) is None:
            pass
        again = feed.read()
    finally:
        feed.close()
    assert document["gpus"][0]["verdict"]["bottleneck"] == "memory_bandwidth"
    assert document["engines"][0]["usd_per_hour"] == pytest.approx(2.99)
    assert again["at_unix_seconds"] == pytest.approx(document["at_unix_seconds"] + 1)
    assert abs(document["at_unix_seconds"] - time.time()) < 60


class Scripted:
    """A feed that gives these one after the other, the last again and again."""

    origin = "scripted"
    pause_seconds = 1.0

    def __init__(self, *answers: Callable[[], Any]) -> None:
        self._answers = list(answers)
        self.closed = False

    def read(self) -> Any:
        return self._answers.pop(0)() if len(self._answers) > 1 else self._answers[0]()

    def close(self) -> None:
        self.closed = True


def failing(error: Exception) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def good() -> Any:
    return assessment_document(scenes.memory_bound())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (failing(AgentError("refused\x1b[2J\nagain")), "refused\\x1b[2J\\nagain"),
        (failing(KeyError("a bug")), "no picture: KeyError"),
        (lambda: {"status": "success"}, "no assessment of a roofline-agent"),
    ],
    ids=["refused", "a bug", "another document"],
)
def test_the_last_picture_stays_when_none_comes(bad: Callable[[], Any], words: str) -> None:
    watcher = Watcher(Scripted(lambda: None, good, bad, good))
    watcher.look()
    assert watcher.latest.picture is None
    watcher.look()
    seen = watcher.latest
    assert seen.picture is not None
    watcher.look()
    assert watcher.latest.picture is seen.picture
    assert watcher.latest.received_seconds == seen.received_seconds
    assert words in watcher.latest.problem
    watcher.look()
    assert watcher.latest.problem == ""


def test_it_reads_on_a_thread_of_its_own_and_closes_the_feed() -> None:
    feed = Scripted(good)
    watcher = Watcher(feed)
    watcher.start()
    end = time.monotonic() + 30
    while watcher.latest.picture is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    watcher.close()
    assert feed.closed
