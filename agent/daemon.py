"""What the commands do: the daemon, on a real or a simulated node, for ever or once."""

from __future__ import annotations

import argparse
import ctypes
import json
import logging
import os
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, get_args

from agent import __version__, logs
from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock, SystemClock
from agent.config import Configuration, load_configuration
from agent.errors import AgentError
from agent.exposition.json_view import assessment_document
from agent.exposition.picture import NodePicture, read_document
from agent.exposition.text_view import render_text
from agent.recovery import EXIT_RESTART, Remedy
from agent.reloading import ConfigurationFile, Reloader
from agent.signals import Signals
from agent.simulate.scenarios import SCENARIOS

if TYPE_CHECKING:  # the daemon on a real node never loads the simulator
    from agent.simulate.node import SimulatedNode

log = logging.getLogger(__name__)

_MAIN = threading.main_thread()
END_SECONDS = 1.5
"""For letting go of everything. What still hangs then, in a driver say, goes with the process."""
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
    log_by = _Log(options)
    log_by(configuration)
    agent = Agent(configuration, adopted=log_by)
    reloader = Reloader(file, agent, loaded=loaded)
    signals = Signals()
    signals.on(signal.SIGHUP, lambda: reloader.ask("SIGHUP"))
    signals.on(signal.SIGUSR1, lambda: log.warning("SIGUSR1: %s", agent.release_gpus()))
    signals.on(signal.SIGUSR2, lambda: log.warning("SIGUSR2: %s", agent.reacquire_gpus()))
    try:
        remedy = _run_until(signals, agent, reloader)
    finally:
        closed = _close(reloader.close, agent.close)
    if remedy is not None and signals.wait(0):
        remedy = None  # somebody wants it to end, and to stay so
    if remedy == "exec":
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the very same command
    status = 0 if remedy is None else EXIT_RESTART
    signals.ignore()
    if not closed:
        os._exit(status)  # what hangs would be waited for
    return status


def _run_until(signals: Signals, agent: Agent, reloader: Reloader) -> Remedy | None:
    """Run until stopped, `None`, or until only another process helps."""
    agent.start(reload=reloader.reload)
    reloader.start()
    log.info("roofline-agent %s answers on port %d", __version__, agent.port)
    while not signals.wait(LOOK_SECONDS):
        remedy = agent.remedy()
        if remedy is not None:
            log.error("%s", REMEDIES[remedy])
            return remedy
    return None


def demo(options: argparse.Namespace) -> int:
    """Watch a simulated node until stopped. Gives the exit status."""
    from agent.simulate.node import SimulatedNode

    scenario = SCENARIOS[options.scenario]
    load_configuration(options.config)  # what is wrong with it is said before anything runs
    clock = SystemClock()
    signals = Signals()
    log_by = _Log(options, least="warning")
    node = SimulatedNode(scenario, clock=clock)
    node.start()
    closing = [node.close]
    try:
        file = None
        configuration, loaded = simulated_configuration(Configuration(), node), None
        if options.config is not None:
            file = ConfigurationFile(options.config, complete=partial(simulated_configuration, node=node))
            configuration, loaded = file.load()
        log_by(configuration)
        agent = Agent(configuration, clock=clock, nvml=node.nvml, node="simulated-node", adopted=log_by)
        reloader = Reloader(file, agent, loaded=loaded)
        closing = [reloader.close, agent.close, node.close]
        if file is not None:  # else it ends the demo, as of other programs in a terminal that is closed
            signals.on(signal.SIGHUP, lambda: reloader.ask("SIGHUP"))
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
        while not signals.wait(LOOK_SECONDS):
            pass
    finally:
        for close in closing:
            close()
        signals.ignore()
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
    """Watch for a while, or ask an agent that does, and print what was seen. Gives the exit status."""
    if options.url is not None:
        return _once_remote(options)
    if options.ca_file is not None:
        raise AgentError("--ca-file would have no effect without --url: leave it out")
    configuration = load_configuration(options.config)
    _Log(options, least="warning")(configuration)
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


def _once_remote(options: argparse.Namespace) -> int:
    from agent.sources.agent_page import AgentAccess, RemoteAgent

    given = [name for name in ("config", "seconds") if getattr(options, name) is not None]
    if given:
        named = ", ".join(f"--{name}" for name in given)
        raise AgentError(f"{named} would have no effect beside --url: leave it out")
    if options.format == "prometheus":
        raise AgentError("for its metrics ask the agent itself, at /metrics")
    remote = RemoteAgent(options.url, access=AgentAccess.of_environment(os.environ, ca_file=options.ca_file))
    try:
        document = remote.fetch()
    finally:
        remote.close()
    try:
        picture = read_document(document)
    except AgentError as error:
        raise AgentError(f"{remote.name}: {error}") from None
    _print_document(document, picture, options.format)
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
    end = clock.monotonic() + seconds
    for assessment in beats(agent, clock, configuration):
        observe(assessment)
        if clock.monotonic() + configuration.interval_seconds > end:
            return


def beats(agent: Agent, clock: ManualClock, configuration: Configuration) -> Iterator[Assessment]:
    """Beat by hand, for ever, and move the clock on before each beat but the first."""
    engines_due = dcgm_due = clock.monotonic()
    while True:
        engines, dcgm = clock.monotonic() >= engines_due, clock.monotonic() >= dcgm_due
        if engines:
            engines_due += configuration.engines_interval_seconds
        if dcgm:
            dcgm_due += configuration.dcgm.interval_seconds
        yield agent.beat(engines=engines, dcgm=dcgm)
        clock.advance(configuration.interval_seconds)


def _print(agent: Agent, form: str) -> None:
    assessment = agent.sampler.latest
    if assessment is None:
        raise AgentError("nothing was sampled: the time was shorter than one tick")
    if form == "prometheus":
        sys.stdout.write(agent.renderer.render(None, None).body.decode())
        return
    document = assessment_document(assessment)
    _print_document(document, read_document(document), form)


def _print_document(document: Any, picture: NodePicture, form: str) -> None:
    if form == "json":
        print(json.dumps(document, indent=2, allow_nan=False))
    else:
        print(render_text(picture))


def check_config(options: argparse.Namespace) -> int:
    """Say whether a configuration is valid; its errors are raised."""
    load_configuration(options.file)
    print(f"{options.file}: valid")
    return 0


class _Log:
    """Has the log follow a configuration, as far as the command lets it."""

    def __init__(self, options: argparse.Namespace, *, least: logs.Level = "debug") -> None:
        """`least` is of a command for a person's terminal: what is less grave is not said there."""
        self._verbose: bool = options.verbose
        self._least = least

    def __call__(self, configuration: Configuration) -> None:
        given = configuration.log
        level = max(given.level, self._least, key=get_args(logs.Level).index)
        logs.set_up(given.format, "debug" if self._verbose else level)


def _close(*closings: Callable[[], object]) -> bool:
    """Do these in order; whether they were done within `END_SECONDS`, and nothing is left to wait for.

    Not on the main thread, which could not leave a call into a driver that hangs.
    """

    def close() -> None:
        for one in closings:
            try:
                one()
            except Exception:  # the next ones are to be closed as well
                log.exception("something could not be closed")

    thread = threading.Thread(target=close, name="close", daemon=True)
    thread.start()
    thread.join(END_SECONDS)
    return not thread.is_alive() and all(one.daemon for one in threading.enumerate() if one is not _MAIN)


def _share_one_heap() -> None:
    """Let all threads allocate from one arena: each further one of glibc holds megabytes that nobody uses.

    And let what is large go back at once: else glibc keeps room for the largest page that ever came.
    """
    with suppress(OSError, AttributeError):  # another C library has no arenas
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, 1 << 20)


_M_ARENA_MAX, _M_MMAP_THRESHOLD = -8, -3
"""Of malloc.h."""


def _wait_with_progress(seconds: float) -> None:
    end = time.monotonic() + seconds
    shown = sys.stderr.isatty()
    while (left := end - time.monotonic()) > 0:
        if shown:
            print(f"\rwatching, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        time.sleep(min(left, 1.0))
    if shown:
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)
