"""``roofline-agent advise``: choosing GPUs for a model, in five stages, from the agent's own arithmetic.

The table walks through the stages; CSV and JSON hold one record a point, for whoever wants to choose by
their own rule. The points are what the options say, a file lists, or a Prometheus has seen.
"""

import argparse

from agent.planning.options import add_arguments

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Evaluate what was asked and write it; raises `AgentError` for what is not known."""
    # Here, since every command's parser has these options, and only this one the arithmetic.
    from agent.planning import command

    return command.run(options)
