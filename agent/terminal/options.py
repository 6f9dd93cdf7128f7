"""The command's options."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.simulate.scenarios import SCENARIOS

LOCAL_URL = "http://127.0.0.1:10095"
"""Where the daemon of this node answers, unless it is told otherwise."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "Exit status: 0 after q; 1 where there is no terminal or nothing to watch with; 2 wrong options or\n"
        "configuration; 130 after Ctrl-C, 143 after SIGTERM. For scripts and tickets: roofline-agent once."
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--url",
        metavar="URL",
        help="an agent that runs, as http://NODE:10095. The environment's ROOFLINE_AGENT_CREDENTIALS may be "
        "user:password for it, its ROOFLINE_AGENT_BEARER_TOKEN a token. Without this the agent of this node "
        f"is asked, at {LOCAL_URL}, and where none answers the node is watched from here",
    )
    which.add_argument(
        "--simulate",
        choices=SCENARIOS,
        metavar="SCENARIO",
        help=f"a simulated node, one of: {', '.join(SCENARIOS)}",
    )
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="watch from here, by this configuration, YAML"
    )
    parser.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="authorities that vouch for the agent's certificate, PEM"
    )
