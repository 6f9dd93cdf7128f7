"""The command line: ``roofline-agent run | demo | once | check-config``."""

from __future__ import annotations

import argparse
import json
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import __version__
from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock, SystemClock
from agent.config import Configuration, load_configuration
from agent.errors import AgentError, ConfigurationError
from agent.exposition.json_view import assessment_document
from agent.exposition.text_view import render_text
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS

EXIT_WRONG_INPUT = 2
DEFAULT_SCENARIO = "node"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit status."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.verbose else logging.WARNING,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"{error.origin}: {problem}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except AgentError as error:
        print(f"roofline-agent: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="roofline-agent",
        description="Says, live and honestly, what bounds each GPU of this node, against the roofline model.",
    )
    parser.add_argument("--version", action="version", version=f"roofline-agent {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log changes of state, not only problems")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="the daemon", description="Watch this node until stopped.")
    _add_config(run)
    run.set_defaults(command=_run)

    demo = commands.add_parser(
        "demo",
        help="the daemon on a simulated node",
        description="Watch a simulated node, whose engines answer over real HTTP, until stopped.",
    )
    demo.add_argument(
        "--scenario",
        choices=SCENARIOS,
        default=DEFAULT_SCENARIO,
        metavar="NAME",
        help=f"one of: {', '.join(SCENARIOS)} (default: {DEFAULT_SCENARIO})",
    )
    _add_config(demo)
    demo.set_defaults(command=_demo)

    once = commands.add_parser(
        "once", help="sample, print, exit", description="Watch for a while, print what was seen, exit."
    )
    _add_config(once)
    once.add_argument(
        "--simulate",
        choices=SCENARIOS,
        metavar="SCENARIO",
        help="a simulated node, in its own time: it does not take as long as it says",
    )
    once.add_argument(
        "--seconds",
        type=_positive,
        default=None,
        metavar="N",
        help="how long to watch (default: one window and two pages of the engines)",
    )
    once.add_argument("--format", choices=("text", "json", "prometheus"), default="text")
    once.set_defaults(command=_once)

    check = commands.add_parser(
        "check-config",
        help="validate a configuration",
        description="Exit 0 when FILE is a valid configuration, or 2 with every error and its dotted path.",
    )
    check.add_argument("file", type=Path, metavar="FILE")
    check.set_defaults(command=_check_config)
    return parser


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="the configuration, YAML; without it all defaults"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("must be above 0 and at most 86400")
    return value


def _run(options: argparse.Namespace) -> int:
    agent = Agent(load_configuration(options.config))
    stop = _stop_signal()
    try:
        agent.start()
        print(f"roofline-agent {__version__} answers on port {agent.port}", file=sys.stderr)
        stop.wait()
    finally:
        agent.close()
    return 0


def _demo(options: argparse.Namespace) -> int:
    scenario = SCENARIOS[options.scenario]
    clock = SystemClock()
    stop = _stop_signal()
    node = SimulatedNode(scenario, clock=clock)
    node.start()
    agent = None
    try:
        agent = Agent(
            simulated_configuration(load_configuration(options.config), node),
            clock=clock,
            nvml=node.nvml,
            node="simulated-node",
        )
        agent.start()
        base = f"http://localhost:{agent.port}"
        print(f"Simulated node: {scenario.name} – {scenario.description}")
        print(f"  status page   {base}/")
        print(f"  metrics       {base}/metrics")
        print(f"  as JSON       {base}/api/v1/assessment")
        for engine in node.engine_configurations():
            print(f"  an engine     {engine['url']}")
        print("The first window fills within half a minute. Ctrl-C ends it.", flush=True)
        stop.wait()
    finally:
        if agent is not None:
            agent.close()
        node.close()
    return 0


def simulated_configuration(configuration: Configuration, node: SimulatedNode) -> Configuration:
    """The configuration with the simulated engines in place of its own."""
    document = configuration.model_dump(by_alias=True)
    document["engines"] = node.engine_configurations()
    return Configuration.model_validate(document)


def _once(options: argparse.Namespace) -> int:
    configuration = load_configuration(options.config)
    seconds = options.seconds or configuration.window_seconds + 2 * configuration.engines_interval_seconds
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
    engines_due = clock.monotonic()
    end = clock.monotonic() + seconds
    while clock.monotonic() <= end:
        due = clock.monotonic() >= engines_due
        if due:
            engines_due += configuration.engines_interval_seconds
        observe(agent.beat(engines=due))
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


def _check_config(options: argparse.Namespace) -> int:
    load_configuration(options.file)
    print(f"{options.file}: valid")
    return 0


def _stop_signal() -> threading.Event:
    """Set by Ctrl-C and by SIGTERM; asked for before anything runs, so that it is never too early."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def _wait_with_progress(seconds: float) -> None:
    end = time.monotonic() + seconds
    shown = sys.stderr.isatty()
    while (left := end - time.monotonic()) > 0:
        if shown:
            print(f"\rwatching, {left:.0f} s left ", end="", file=sys.stderr, flush=True)
        time.sleep(min(left, 1.0))
    if shown:
        print("\r" + " " * 30 + "\r", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
