"""``roofline-agent report``: what was paid in a month, what it did, where the seconds went, and what to do.

It asks a Prometheus-compatible server for the increases that the recording rules keep, and sums them; one
document holds everything, and HTML, Markdown, JSON and CSV show it.
"""

import argparse

from agent.report.options import add_arguments

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Ask, compute, write; gives the exit status. Raises `AgentError` where nothing can be written."""
    # Here, since every command's parser has these options, and only this one what they need.
    from agent.report import command

    return command.run(options)
