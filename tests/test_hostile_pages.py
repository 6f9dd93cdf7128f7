"""Pages as an enemy, or a bug, would write them: what the agent exports stays valid, and its own.

Each page of a known engine is spoilt in one way and read by the whole agent over real HTTP; promtool is
the judge.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration
from agent.metrics import TABLE
from agent.simulate.http_server import HttpServer
from tests.promtool import promtool

FIXTURES = Path(__file__).parent / "fixtures"
PAGES: Mapping[str, str] = {
    "vllm": "vllm/0.32.0-load-4.txt",
    "vllm of two ranks": "vllm/0.32.0-dp2-load-2.txt",
    "sglang": "sglang/sglang-rendered-0.5.23-unified.txt",
    "llamacpp": "llamacpp/b11434-load-4.txt",
    "tgi": "tgi/tgi-constructed-3.3.7.txt",
    "lmdeploy": "lmdeploy/lmdeploy-rendered-0.18.0.txt",
}
VALUE = re.compile(r"(?m)^([a-z]\S*(?:\{[^}]*\})?) \S+$")


def _label_bomb(text: str) -> str:
    labels = ",".join(f'l{n}="{"x" * 50}"' for n in range(100))
    return re.sub(r"(?m)^([a-z][\w:]*)(\{?)", lambda m: f"{m[1]}{{{labels},", text.replace("{", ""), count=0)


def _long_names(text: str) -> str:
    return text.replace('model_name="', 'model_name="' + "\\n\\u202e" + "x" * 5000)


def _many_series(text: str) -> str:
    """A million series of the first wanted family, as far as a body may be long."""
    name = re.search(r"(?m)^([a-z]\w*[:_]\w*)", text)
    assert name is not None
    return text + "".join(f'{name[1]}{{engine="{n}",pid="{n}"}} 1\n' for n in range(1_000_000))


def _shuffled(text: str) -> str:
    lines = text.splitlines(keepends=True)
    random.Random(7).shuffle(lines)
    return "".join(lines)


SPOILT: Mapping[str, Callable[[str], str]] = {
    "as it is": lambda text: text,
    "every value not a number": lambda text: VALUE.sub(r"\1 NaN", text),
    "every value infinite": lambda text: VALUE.sub(r"\1 +Inf", text),
    "every value negative": lambda text: VALUE.sub(r"\1 -5", text),
    "every value enormous": lambda text: VALUE.sub(r"\1 9e307", text),
    "every value tiny": lambda text: VALUE.sub(r"\1 1e-300", text),
    "every series twice": lambda text: text + text,
    "every type wrong": lambda text: re.sub(r"(?m)^# TYPE (\S+) \w+", r"# TYPE \1 untyped", text),
    "no help and no type": lambda text: re.sub(r"(?m)^#.*\n", "", text),
    "lines in any order": _shuffled,
    "a hundred labels on each": _label_bomb,
    "newlines and a mile of text in a label": _long_names,
    "quotes that never end": lambda text: text.replace('",', ","),
    "cut in the middle": lambda text: text[: len(text) // 2],
    "bytes that are no text": lambda text: text.replace("model", "\x00\udcff"),
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
}


class Attack:
    """An agent that reads whatever it is given, as the configured engine and as one to be recognised."""

    def __init__(self, **engine: object) -> None:
        """`engine` is what the configuration says of it beside its URL."""
        self.body = b""
        self._http = HttpServer(lambda _: ("text/plain", self.body))
        self._http.open()
        self._clock = ManualClock()
        document = {
            "nvml": {"enabled": False},
            "engines": [{"url": f"http://127.0.0.1:{self._http.port}/metrics", **engine}],
        }
        self.agent = Agent(Configuration.model_validate(document), clock=self._clock)

    def read(self, text: str) -> str:
        """The agent's own page after two readings of this one."""
        self.body = text.encode("utf-8", "surrogateescape")
        for _ in range(2):
            self._clock.advance(5)
            self.agent.beat(engines=True)
        return self.agent.renderer.render(None, None).body.decode()

    def close(self) -> None:
        self.agent.close()
        self._http.close()


@pytest.fixture
def attack() -> Iterator[Attack]:
    attack = Attack()
    yield attack
    attack.close()


def judged(page: str) -> str:
    """What promtool says of it."""
    done = promtool("check", "metrics", text=page)
    return done.stdout + done.stderr


def within_bounds(page: str) -> None:
    """Only our names, at most ten labels, none longer than 128 characters, and no counter below zero."""
    for family in text_string_to_metric_families(page):
        if family.type in ("counter", "histogram"):
            assert all(sample.value >= 0 for sample in family.samples), family.name
    ours = {metric.full_name for metric in TABLE}
    for line in page.splitlines():
        if line.startswith("#"):
            continue
        name, _, rest = line.partition("{")
        assert name.startswith(("roofline_", "process_", "python_")), line
        base = re.sub(r"_(bucket|sum|count)$", "", name.split(" ")[0])
        assert base in ours or name.split(" ")[0] in ours or not name.startswith("roofline_"), line
        labels = re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', rest)
        assert len(labels) <= 11, line  # a bucket's bound is one more
        assert all(len(value.replace("\\\\", "\\")) <= 128 for _, value in labels), line


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT.keys())
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())
def test_whatever_an_engine_says_the_agents_page_is_valid(
    attack: Attack, page: str, spoil: Callable[[str], str]
) -> None:
    good = (FIXTURES / page).read_text()
    attack.read(good)
    said = attack.read(spoil(good))
    assert judged(said) == ""
    within_bounds(said)
    again = attack.read(good)  # and nothing of it stays
    assert 'roofline_source_up{source="engine' in again
    assert judged(again) == ""
    assert re.search(r"(?m)^roofline_engine_up\{.*\} 1.0$", again)


@pytest.mark.parametrize("running", ["1e-320", "1e-31", "1e-30", "1e30"])
def test_a_page_that_lies_once_spoils_no_sum_for_ever(running: str) -> None:
    attack = Attack(model={"name": "llama-3.1-8b"})
    try:
        first, second, third = ((FIXTURES / f"vllm/0.32.0-load-{n}.txt").read_text() for n in (1, 2, 3))
        running_now = re.compile(r"(?m)^(vllm:num_requests_running\S*) .*$")
        attack.read(running_now.sub(r"\1 0", first))
        attack.read(running_now.sub(rf"\1 {running}", second))
        said = attack.read(third)
        flops = re.findall(r"(?m)^roofline_engine_flops_total\{.*\} (\S+)$", said)
        assert len(flops) == 2
        assert all(0 < float(value) < math.inf for value in flops)
    finally:
        attack.close()


def test_a_million_series_cost_their_own_page(attack: Attack) -> None:
    good = (FIXTURES / PAGES["vllm"]).read_text()
    said = attack.read(_many_series(good))
    assert judged(said) == ""
    assert re.search(r'(?m)^roofline_source_read_failures_total\{.*reason="too_large"\} [1-9]', said)
    assert re.search(r"(?m)^roofline_engine_up\{.*\} 1.0$", attack.read(good))
