"""What the commands do: the daemon, on a real or a simulated node, for ever or once."""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from agent import __version__
from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock, SystemClock
from agent.config import Configuration, load_configuration
from agent.errors import AgentError
from agent.exposition.json_view import assessment_document
from agent.exposition.text_view import render_text
from agent.recovery import EXIT_RESTART, Remedy
from agent.reloading import ConfigurationFile, Reloader
from agent.simulate.scenarios import SCENARIOS

if TYPE_CHECKING:  # the daemon on a real node never loads the simulator
    from agent.simulate.node import SimulatedNode


LOOK_SECONDS = 1.0
"""Between two looks at whether going on is of use."""
REMEDIES: Mapping[Remedy, str] = {
    "exec": "the driver was changed under the running agent: starting anew, with its new library",
    "exit": "NVML cannot be used from this container any more: ending, so that another one is started",
}


def run(options: argparse.Namespace) -> int:
    """Watch this node until stopped. Gives the exit status."""
    _share_one_heap()
    file = ConfigurationFile(options.config) if options.config is not None else None
    configuration, loaded = file.load() if file is not None else (Configuration(), None)
    agent = Agent(configuration)
    reloader = Reloader(file, agent, loaded=loaded)
    stop = _stop_signal()
    signal.signal(signal.SIGHUP, lambda *_: reloader.ask("SIGHUP"))
    _say_on_signal(signal.SIGUSR1, agent.release_gpus)
    _say_on_signal(signal.SIGUSR2, agent.reacquire_gpus)
    remedy = None
    try:
        agent.start(reload=reloader.reload)
        reloader.start()
        # In one write: other threads log to the same stream.
        sys.stderr.write(f"roofline-agent {__version__} answers on port {agent.port}\n")
        while not stop.wait(LOOK_SECONDS) and remedy is None:
            remedy = agent.remedy()
    finally:
        reloader.close()
        agent.close()
    if remedy is None:
        return 0
    sys.stderr.write(f"roofline-agent: {REMEDIES[remedy]}\n")
    if remedy == "exec":
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the very same command
    return EXIT_RESTART


def demo(options: argparse.Namespace) -> int:
    """Watch a simulated node until stopped. Gives the exit status."""
    from agent.simulate.node import SimulatedNode

    scenario = SCENARIOS[options.scenario]
    load_configuration(options.config)  # what is wrong with it is said before anything runs
    clock = SystemClock()
    stop = _stop_signal()
    node = SimulatedNode(scenario, clock=clock)
    node.start()
    agent = reloader = None
    try:
        file = None
        configuration, loaded = simulated_configuration(Configuration(), node), None
        if options.config is not None:
            file = ConfigurationFile(options.config, complete=partial(simulated_configuration, node=node))
            configuration, loaded = file.load()
        agent = Agent(configuration, clock=clock, nvml=node.nvml, node="simulated-node")
        reloader = Reloader(file, agent, loaded=loaded)
        if file is not None:  # else it ends the demo, as of other programs in a terminal that is closed
            signal.signal(signal.SIGHUP, lambda *_: reloader.ask("SIGHUP"))
        agent.start(reload=reloader.reload)
        reloader.start()
        host = configuration.web.host
        base = f"http://{'localhost' if host == '0.0.0.0' else host}:{agent.port}"  # noqa: S104 - a comparison
        print(f"Simulated node: {scenario.name}")
        print(textwrap.fill(scenario.description, 80))
        print(f"  status page   {base}/")
        print(f"  metrics       {base}/metrics")
        print(f"  as JSON       {base}/api/v1/assessment")
        for engine in node.engine_configurations():
            print(f"  an engine     {engine['url']}")
        if (dcgm := node.dcgm_configuration()) is not None:
            print(f"  dcgm-exporter {dcgm['url']}")
        print("The first window fills within half a minute. Ctrl-C ends it.", flush=True)
        # Looking up now and then: a signal that comes just before a wait without end is not seen in it.
        while not stop.wait(LOOK_SECONDS):
            pass
    finally:
        if reloader is not None:
            reloader.close()
        if agent is not None:
            agent.close()
        node.close()
    return 0


def simulated_configuration(configuration: Configuration, node: SimulatedNode) -> Configuration:
    """The configuration with the simulated engines, and exporter if any, in place of its own."""
    document = configuration.model_dump(by_alias=True)
    document["engines"] = node.engine_configurations()
    document["dcgm"] |= node.dcgm_configuration() or {"url": ""}
    for way in ("processes", "kubernetes", "pod_resources"):
        document["discovery"][way]["enabled"] = False  # they would look at the real node
    return Configuration.model_validate(document)


def once(options: argparse.Namespace) -> int:
    """Watch for a while, print what was seen. Gives the exit status."""
    configuration = load_configuration(options.config)
    seconds = options.seconds or configuration.window_seconds + 2 * configuration.engines_interval_seconds
    if options.simulate is not None and options.seconds is None:
        # Where something happens, until it shows.
        seconds += min(SCENARIOS[options.simulate].change_seconds, default=0.0)
    if options.simulate is not None:
        return _once_simulated(options, configuration, seconds)
    agent = Agent(configuration)
    agent.start_sampling()
    try:
        _wait_with_progress(seconds)
        _print(agent, options.format)
    finally:
        agent.close()
    return 0


def _once_simulated(options: argparse.Namespace, configuration: Configuration, seconds: float) -> int:
    from agent.simulate.node import SimulatedNode

    clock = ManualClock(unix_seconds=time.time())
    node = SimulatedNode(SCENARIOS[options.simulate], clock=clock)
    node.start()
    agent = Agent(
        simulated_configuration(configuration, node), clock=clock, nvml=node.nvml, node="simulated-node"
    )
    try:
        watch(agent, clock, configuration, seconds)
        _print(agent, options.format)
    finally:
        agent.close()
        node.close()
    return 0


def watch(
    agent: Agent,
    clock: ManualClock,
    configuration: Configuration,
    seconds: float,
    observe: Callable[[Assessment], None] = lambda _: None,
) -> None:
    """Beat by hand through `seconds` of the clock's own time; `observe` sees each assessment."""
    engines_due = dcgm_due = clock.monotonic()
    end = clock.monotonic() + seconds
    while clock.monotonic() <= end:
        engines, dcgm = clock.monotonic() >= engines_due, clock.monotonic() >= dcgm_due
        if engines:
            engines_due += configuration.engines_interval_seconds
        if dcgm:
            dcgm_due += configuration.dcgm.interval_seconds
        observe(agent.beat(engines=engines, dcgm=dcgm))
        clock.advance(configuration.interval_seconds)


def _print(agent: Agent, form: str) -> None:
    assessment = agent.sampler.latest
    if assessment is None:
        raise AgentError("nothing was sampled: the time was shorter than one tick")
    if form == "json":
        print(json.dumps(assessment_document(assessment), indent=2, allow_nan=False))
    elif form == "prometheus":
        sys.stdout.write(agent.renderer.render(None, None).body.decode())
    else:
        print(render_text(assessment))


def check_config(options: argparse.Namespace) -> int:
    """Say whether a configuration is valid; its errors are raised."""
    load_configuration(options.file)
    print(f"{options.file}: valid")
    return 0


def _stop_signal() -> threading.Event:
    """Set by Ctrl-C and by SIGTERM; asked for before anything runs, so that it is never too early."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _share_one_heap() -> None:
    """Let all threads allocate from one arena: each further one of glibc holds megabytes that nobody uses."""
    with suppress(OSError, AttributeError):  # another C library has no arenas
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


_M_ARENA_MAX = -8
"""Of malloc.h."""


def _say_on_signal(number: signal.Signals, act: Callable[[], str]) -> None:
    """Do it when the signal comes, and write what was done."""
    signal.signal(number, lambda *_: sys.stderr.write(f"roofline-agent: {act()}\n"))


def _wait_with_progress(seconds: float) -> None:
    end = time.monotonic() + seconds
    shown = sys.stderr.isatty()
    while (left := end - time.monotonic()) > 0:
        if shown:
            print(f"\rwatching, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        time.sleep(min(left, 1.0))
    if shown:
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)
