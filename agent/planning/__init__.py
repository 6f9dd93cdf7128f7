"""``roofline-agent advise``: choosing GPUs for a model, in five stages, from the agent's own arithmetic.

The table walks through the stages; CSV and JSON hold one record a point, for whoever wants to choose by
their own rule. The points are what the options say, a file lists, or a Prometheus has seen.
"""

from agent.planning.command import run
from agent.planning.options import add_arguments

__all__ = ["add_arguments", "run"]
