"""Days in minutes: a simulated node with its engines, on which everything goes wrong that can.

The whole agent but for its threads and its own server, in virtual time, over real HTTP. GPUs are lost,
drivers and exporters go away, engines die and are started anew, their pages are cut, spoilt, endless or
lies; the wall clock jumps, the host sleeps, the configuration is exchanged in storms.
"""

from __future__ import annotations

import json
import logging
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.config import Configuration
from agent.errors import ConfigurationError
from agent.exposition.collector import OPENMETRICS_TYPE
from agent.exposition.json_view import assessment_document
from agent.exposition.status_page import StatusPage
from agent.readings import NodeReading
from agent.simulate.node import SimulatedNode
from agent.simulate.parts import L40S
from agent.simulate.scenario import (
    DcgmExporter,
    Engine,
    Fault,
    Gpu,
    Lengths,
    Outage,
    Scenario,
    Server,
    Traffic,
)
from agent.simulate.scenarios import BLOCKS_8B, BLOCKS_8B_SHARED, LLAMA_8B
from agent.sources.base import STALE_INTERVALS, Source
from tests.soak.fronts import FAILING, LIES, SLOW, TRUE_SPOILS, Front
from tests.soak.promises import Held, Ledger

CHAT = Traffic(
    clients=4, prompt=Lengths(low=50, high=400), output=Lengths(low=100, high=400), shared_prefix_tokens=256
)
DOCUMENTS = Traffic(
    requests_per_second=0.5, prompt=Lengths(low=2000, high=6000), output=Lengths(low=4, high=16)
)
SELDOM = Traffic(
    clients=1, pause_seconds=6.0, prompt=Lengths(low=50, high=400), output=Lengths(low=50, high=200)
)
GPUS = 4
SERVERS = 4
LIAR = 3
"""The server whose page may say anything: of it only is not asked that it be true."""
SLEEPS_SECONDS = (4.0, 600.0)
JUMPS_SECONDS = (-40 * 86400.0, -3600.0, -1.0, 0.5, 3600.0, 90 * 86400.0)
INTERVALS_SECONDS = (2.0, 5.0, 5.0, 5.0, 10.0)
DEADLINES_EACH = 20_000
"""Ticks between two answers that take the whole deadline, which is of real time."""
WINDOW_SECONDS = 30.0


class JumpingClock(ManualClock):
    """A clock that somebody sets now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._set_by = 0.0

    def unix(self) -> float:
        """As it is set."""
        return super().unix() + self._set_by

    def set(self, seconds: float) -> None:
        """Further, or back."""
        self._set_by += seconds


def random_scenario(seconds: float, dice: random.Random) -> Scenario:
    """Four GPUs, of which two engines share one, and all that happens to them for so long."""
    engine = Engine(model=LLAMA_8B, gpus=(0,), traffic=CHAT, num_gpu_blocks=BLOCKS_8B, host_gap_seconds=0.05)
    shared = replace(engine, gpus=(2,), traffic=SELDOM, num_gpu_blocks=BLOCKS_8B_SHARED)
    engines = (engine, replace(engine, gpus=(1,), traffic=DOCUMENTS), shared, shared)
    # One row: what happens to these is never at once, so that the end of one is not that of another.
    rows: tuple[tuple[tuple[str, int], ...], ...] = (
        (("server_down", 0), ("gpu_lost", 0), ("engines_hung", 0)),
        (("server_down", 1), ("gpu_lost", 1)),
        (("server_down", 2),),
        (("server_down", 3),),
        (("gpu_lost", 3),),
        (("driver_down", 0),),
        (("dcgm_down", 0), ("dcgm_frozen", 0)),
    )
    return Scenario(
        name="soak",
        description="",
        gpus=(Gpu(), Gpu(sm_clock_ratio=0.8), Gpu(), Gpu(part=L40S)),
        servers=tuple(Server(engines=(one,)) for one in engines),
        dcgm=DcgmExporter(),
        outages=tuple(outage for row in rows for outage in _outages(row, seconds, dice)),
        faults=tuple(
            Fault(
                gpu=dice.randrange(GPUS),
                at_seconds=dice.uniform(0, seconds),
                xids=tuple(dice.choice((31, 48, 79, 94)) for _ in range(dice.randrange(3))),
                ecc_uncorrected_errors=dice.randrange(2),
            )
            for _ in range(int(seconds / 2000))
        ),
    )


def _outages(row: tuple[tuple[str, int], ...], seconds: float, dice: random.Random) -> Iterator[Outage]:
    at = dice.expovariate(1 / 400)
    while at < seconds:
        what, index = dice.choice(row)
        until = at + 1 + dice.expovariate(1 / 60)
        yield Outage(what=what, index=index, at_seconds=at, until_seconds=until)  # type: ignore[arg-type]  # of the row
        at = until + 5 + dice.expovariate(1 / 800)


class _Driver:
    """The simulated NVML, and when it last answered."""

    def __init__(self, source: Source[NodeReading], clock: ManualClock) -> None:
        self.name = source.name
        self.failure_reasons = source.failure_reasons
        self.answered_at = -math.inf
        self.close = source.close
        self._source = source
        self._clock = clock

    def read(self) -> NodeReading:
        reading = self._source.read()
        self.answered_at = self._clock.monotonic()
        return reading


class _Log(logging.Handler):
    """Counts what is logged; a traceback is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines = 0
        self.tracebacks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines += 1
        if record.exc_info:
            self.tracebacks.append(logging.Formatter().format(record))


@dataclass
class NodeSoak:
    """One run, and what it has seen."""

    agent: Agent
    node: SimulatedNode
    driver: _Driver
    clock: JumpingClock
    fronts: list[Front]
    dice: random.Random
    log: _Log
    ledger: Ledger = field(default_factory=Ledger)
    happened: Counter[str] = field(default_factory=Counter)
    ticks: int = 0
    down_seconds: Counter[str] = field(default_factory=Counter)
    _due: float = 0.0
    _dcgm_due: float = 0.0
    _answered_at: dict[int, float] = field(default_factory=dict)
    _listed_at: dict[int, float] = field(default_factory=dict)
    _moods: dict[int, int] = field(default_factory=dict)  # the tick until which a front is in its mood
    _dcgm_at: float = 0.0
    _price: float = 3.6
    _status: StatusPage = field(default_factory=lambda: StatusPage(version="soak"))

    # --- one tick ----------------------------------------------------------------------------------

    def tick(self) -> None:
        """Break something, or heal it; let a second pass; look at everything."""
        self._set_clock()
        self._set_moods()
        if self.dice.random() < 0.004:
            self._reload(storm=self.dice.random() < 0.1)
        self.clock.advance(self.dice.uniform(0.9, 1.1))
        now = self.clock.monotonic()
        engines, dcgm = now >= self._due, now >= self._dcgm_due
        if engines:
            self._due = now + self.agent.configuration.engines_interval_seconds
        if dcgm:
            self._dcgm_due = now + self.agent.configuration.dcgm.interval_seconds
        answered = [front.answered for front in self.fronts]
        assessment = self.agent.beat(engines=engines, dcgm=dcgm)
        self.ticks += 1
        if engines:
            self._note_answers(answered)
        if self.agent.dcgm_poller is not None and self.agent.dcgm_poller.state().up:
            self._dcgm_at = self.agent.dcgm_poller.state().last_success.at_seconds  # type: ignore[union-attr]  # it is up
        self._look(assessment)

    def _set_clock(self) -> None:
        chance = self.dice.random()
        if chance < 0.0008:
            self.happened["host asleep"] += 1
            self.clock.advance(min(self.dice.expovariate(1 / 60) + SLEEPS_SECONDS[0], SLEEPS_SECONDS[1]))
        elif chance < 0.002:
            self.happened["wall clock set"] += 1
            self.clock.set(self.dice.choice(JUMPS_SECONDS) * self.dice.random())

    def _set_moods(self) -> None:
        for index, front in enumerate(self.fronts):
            if self._moods.get(index, 0) > self.ticks or self.dice.random() > 0.02:
                continue
            front.mood, front.spoil, lasts = "good", None, int(self.dice.expovariate(1 / 150)) + 1
            chance = self.dice.random()
            if chance < 0.25:
                front.mood = self.dice.choice(FAILING)
                lasts = int(self.dice.expovariate(1 / 15)) + 1
            elif chance < 0.25 + 4 / DEADLINES_EACH:
                front.mood, lasts = self.dice.choice(SLOW), 6
            elif chance < 0.45:
                kinds = LIES if index == LIAR and self.dice.random() < 0.7 else TRUE_SPOILS
                kind = self.dice.choice(kinds)
                front.spoil = kind(self.dice)
                self.happened[f"page: {kind.__name__.replace('_', ' ')}"] += 1
                lasts = int(self.dice.expovariate(1 / 20)) + 1
            if front.mood != "good":
                self.happened[f"page: {front.mood}"] += 1
            self._moods[index] = self.ticks + lasts

    def _reload(self, *, storm: bool) -> None:
        for _ in range(self.dice.randrange(10, 40) if storm else 1):
            self.happened["reload"] += 1
            before = set(self._listed())
            if self.dice.random() < 0.3:
                try:
                    self.agent.adopt(configuration_of(self, web={"listen_address": ":1"}))
                except ConfigurationError as error:
                    self.agent.note_refusal(error.problems)
                else:
                    raise AssertionError("a change that needs a restart was taken")
                continue
            self.agent.adopt(self._any_configuration())
            for index in before - set(self._listed()):
                self.ledger.forget(self._server(index))
                self._answered_at.pop(index, None)
            for index in set(self._listed()) - before:
                self._listed_at[index] = self.clock.monotonic()

    def _any_configuration(self) -> Configuration:
        dice = self.dice
        listed = [index for index in range(SERVERS) if dice.random() < 0.9] or [0]
        self._price = dice.choice((3.6, 3.6, 0.0, 7.2))
        return configuration_of(
            self,
            listed=listed,
            engines_interval_seconds=dice.choice(INTERVALS_SECONDS),
            window_seconds=dice.choice((20.0, WINDOW_SECONDS, WINDOW_SECONDS, 60.0)),
            prices=[{"gpu": "*", "usd_per_hour": self._price}] if self._price else [],
            slo={"ttft_seconds": dice.choice((0.5, 2.0)), "inter_token_seconds": 0.1},
        )

    def _listed(self) -> list[int]:
        urls = {engine.url for engine in self.agent.configuration.engines}
        return [index for index, front in enumerate(self.fronts) if front.url in urls]

    def _server(self, index: int) -> str:
        return f"127.0.0.1:{self.fronts[index].port}"

    # --- what must hold ----------------------------------------------------------------------------

    def _note_answers(self, answered: list[int]) -> None:
        """Whom the agent was able to read now, and whether it says so."""
        states = {poller.source.name: poller.state() for poller in self.agent.pollers}
        for index in self._listed():
            state, front = states[f"engine:{self._server(index)}"], self.fronts[index]
            whole = front.answered > answered[index]
            if not whole:
                assert not state.up, f"{state.name} is up, and its server was {front.mood}"
            elif front.spoil is None:
                assert state.up, f"{state.name} is down, and its page was good: {state.outcome}"
            if state.up:
                self._answered_at[index] = self.clock.monotonic()

    def _look(self, assessment: Assessment) -> None:
        now = assessment.at_seconds
        self.ledger.see(assessment, usd_per_hour=self._price)
        page = self.ledger.read(self.agent.renderer.render(None, None).body.decode())
        configuration = self.agent.configuration
        for index in self._listed():
            since = self._answered_at.get(index, self._listed_at.get(index, 0.0))
            # Intervals change with a reload: what is promised is by the one in force.
            if now - since > STALE_INTERVALS * max(INTERVALS_SECONDS) + 1:
                self.down_seconds[f"server {index}"] += 1
                self.ledger.silent(page, server=self._server(index))
        if now - self.driver.answered_at > STALE_INTERVALS * configuration.interval_seconds + 0.5:
            self.down_seconds["driver"] += 1
            assert not any(series.startswith("roofline_gpu_") for series in page.values), "stale GPUs"
            assert page.values['roofline_source_up{source="nvml"}'] == 0
        elif now - self._dcgm_at > STALE_INTERVALS * configuration.dcgm.interval_seconds + 60 + 1:
            self.down_seconds["exporter"] += 1
            gauges = (s for s in page.values if s not in page.counters and 'evidence="dcgm"' in s)
            assert not list(gauges), "stale evidence"
        for index in range(SERVERS):
            self._see_truth(index, page.values)
        if self.ticks % 101 == 0:
            self._render(assessment)
        assert not self.log.tracebacks, self.log.tracebacks[0]

    def _see_truth(self, index: int, values: Any) -> None:
        """Nothing is counted that did not happen."""
        if index == LIAR:
            return
        label = f'server="{self._server(index)}"'
        work = self.node.truth.work(index)
        for name, done in (
            ("generation_tokens", work.generation_tokens),
            ("prefill_tokens", work.prefill_tokens),
            ("steps", work.steps),
        ):
            counted = sum(
                value
                for series, value in values.items()
                if label in series and series.startswith(f"roofline_engine_{name}_total{{")
            )
            assert counted <= done, f"{name} of server {index}: {counted} counted, {done} done"

    def _render(self, assessment: Assessment) -> None:
        self.agent.renderer.render(OPENMETRICS_TYPE, "gzip")
        json.dumps(assessment_document(assessment), allow_nan=False)
        self._status.render(assessment, now_seconds=self.clock.monotonic())


def configuration_of(run: NodeSoak, *, listed: list[int] | None = None, **changes: Any) -> Configuration:
    """All engines, or those that are listed, and what is said of the rest."""
    return _configuration(run.node, run.fronts, listed, **changes)


def _configuration(
    node: SimulatedNode, fronts: list[Front], listed: list[int] | None = None, **changes: Any
) -> Configuration:
    chosen = range(SERVERS) if listed is None else listed
    engines = node.engine_configurations()
    document: dict[str, Any] = {
        "discovery": {"processes": {"enabled": False}},
        "dcgm": node.dcgm_configuration(),
        "prices": [{"gpu": "*", "usd_per_hour": 3.6}],
        "engines": [{**engines[index], "url": fronts[index].url} for index in chosen],
        **changes,
    }
    return Configuration.model_validate(document)


@contextmanager
def node_soak(seconds: float, *, seed: int) -> Iterator[NodeSoak]:
    """Everything, for so many virtual seconds of things that go wrong."""
    dice = random.Random(seed)
    clock = JumpingClock()
    node = SimulatedNode(random_scenario(seconds, dice), clock=clock, seed=seed)
    node.start()
    fronts = [Front(server.answer) for server in node.servers]
    driver = _Driver(node.nvml, clock)
    log = _Log()
    root = logging.getLogger()
    level, propagated = root.level, list(root.handlers)
    root.handlers[:] = [log]  # nobody is to read what thousands of faults are told with
    root.setLevel(logging.INFO)
    agent = Agent(_configuration(node, fronts), clock=clock, nvml=driver, node="soak")
    try:
        yield NodeSoak(agent=agent, node=node, driver=driver, clock=clock, fronts=fronts, dice=dice, log=log)
    finally:
        root.handlers[:] = propagated
        root.setLevel(level)
        agent.close()
        for front in fronts:
            front.close()
        node.close()


def soak(
    ticks: int,
    *,
    seed: int,
    until: Callable[[], bool] = lambda: False,
    report: Callable[[NodeSoak, list[Held]], None] = lambda *_: None,
    each: int = 1000,
) -> tuple[NodeSoak, list[Held]]:
    """Run so many ticks, or until then; raises AssertionError for whatever does not hold."""
    held: list[Held] = []
    with node_soak(ticks * 1.2, seed=seed) as run:
        for tick in range(ticks):
            if until():
                break
            try:
                run.tick()
            except AssertionError as error:
                error.add_note(f"at tick {run.ticks} of seed {seed}, {run.clock.monotonic():.0f} s")
                raise
            if tick % each == each - 1:
                held.append(Held.by_us(run.clock.monotonic()))
                report(run, held)
    return run, held
