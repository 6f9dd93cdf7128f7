"""The command line: ``roofline-agent run | demo | once | top | check-config | advise | calibrate | report``.

What a command needs is imported when it is called: `advise` answers before the daemon's libraries would be
loaded.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType

from agent import __version__, calibration, logs, planning, report, terminal
from agent.errors import AgentError, ConfigurationError
from agent.simulate.scenarios import SCENARIOS

EXIT_WRONG_INPUT = 2
DEFAULT_SCENARIO = "node"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit status."""
    options = _parser().parse_args(arguments)
    logs.set_up("text", "debug" if options.verbose else "warning")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        return command(options)
    except ConfigurationError as error:
        for problem in error.problems:
            print(f"{error.origin}: {problem}", file=sys.stderr)
        return EXIT_WRONG_INPUT
    except AgentError as error:
        logs.complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # its reader has seen enough: ``roofline-agent once | head``
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a full disk behind the output, say
        logs.complain(str(error))
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="roofline-agent",
        description="Says, live and honestly, what bounds each GPU of this node, against the roofline model.",
    )
    parser.add_argument("--version", action="version", version=f"roofline-agent {__version__}")
    parser.add_argument("--verbose", action="store_true", help="log everything, as log.level: debug does")
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
        "once",
        help="sample, print, exit",
        description="Watch for a while, or ask an agent that does, print what was seen, exit.",
        epilog="Exit status: 0 printed; 1 nothing to print, or the agent could not be asked; "
        "2 wrong options or configuration; 130 after Ctrl-C.",
    )
    _add_config(once)
    watched = once.add_mutually_exclusive_group()
    watched.add_argument(
        "--simulate",
        choices=SCENARIOS,
        metavar="SCENARIO",
        help="a simulated node, in its own time: it does not take as long as it says",
    )
    _add_url(watched, once)
    once.add_argument(
        "--seconds",
        type=_positive,
        default=None,
        metavar="N",
        help="how long to watch (default: one window and two pages of the engines)",
    )
    once.add_argument("--format", choices=("text", "json", "prometheus"), default="text")
    once.set_defaults(command=_once)

    top = commands.add_parser(
        "top",
        help="the live table in a terminal",
        description="What bounds each GPU, live in a terminal: of an agent that runs, or of this node.",
    )
    terminal.add_arguments(top)
    top.set_defaults(command=_top)

    advising = commands.add_parser(
        "advise",
        help="plan capacity",
        description="Which GPU, how many, at which batch: the roofline of a model that does not run yet.",
    )
    planning.add_arguments(advising)
    advising.set_defaults(command=planning.run)

    calibrating = commands.add_parser(
        "calibrate",
        help="measure a GPU's roofs",
        description="What a GPU of this machine really reaches: DRAM bandwidth, FLOP/s by dtype, and\n"
        "the batch at which a matrix product leaves the memory roof.",
    )
    calibration.add_arguments(calibrating)
    calibrating.set_defaults(command=calibration.run)

    reviewing = commands.add_parser(
        "report",
        help="the monthly efficiency review",
        description="What was paid in a month, what it did, where the seconds went, and what to do about\n"
        "it, by a Prometheus that keeps what the recording rules record.",
    )
    report.add_arguments(reviewing)
    reviewing.set_defaults(command=report.run)

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


def _add_url(group: argparse._MutuallyExclusiveGroup, parser: argparse.ArgumentParser) -> None:
    group.add_argument(
        "--url",
        metavar="URL",
        help="an agent that runs, as http://NODE:10095. The environment's ROOFLINE_AGENT_CREDENTIALS may be "
        "user:password for it, its ROOFLINE_AGENT_BEARER_TOKEN a token",
    )
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="authorities that vouch for the agent's certificate, PEM"
    )


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError("must be a number of seconds") from None
    if not 0 < value <= 86_400:
        raise argparse.ArgumentTypeError("must be above 0 and at most 86400")
    return value


def _load_daemon() -> ModuleType:
    """What runs, without requests' guesser of character sets: 3 MiB, to read what says how it is written."""
    sys.modules.setdefault("charset_normalizer", None)  # type: ignore[arg-type]  # `None`: there is none
    warnings.filterwarnings("ignore", message="Unable to find acceptable character detection")
    from agent import daemon

    return daemon


def _run(options: argparse.Namespace) -> int:
    return int(_load_daemon().run(options))


def _demo(options: argparse.Namespace) -> int:
    return int(_load_daemon().demo(options))


def _once(options: argparse.Namespace) -> int:
    return int(_load_daemon().once(options))


def _top(options: argparse.Namespace) -> int:
    _load_daemon()  # first, without what it does without
    return terminal.run(options)


def _check_config(options: argparse.Namespace) -> int:
    return int(_load_daemon().check_config(options))


if __name__ == "__main__":
    sys.exit(main())
