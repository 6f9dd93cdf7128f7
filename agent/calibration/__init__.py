"""``roofline-agent calibrate``: what this machine's GPU really reaches, beside what its datasheet says.

`measure` decides what is tried and which of it is a roof, from what a `device` says that it took; `timings`
and `curve` are the arithmetic, `conditions` whether the GPU is free and how it was clocked. PyTorch is one
such device, and no other module here knows it.
"""

import argparse

from agent.calibration.options import add_arguments

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Measure, write, say; gives the exit status. Raises `AgentError` where it cannot or should not."""
    # Here, since every command's parser has these options, and only this one what they need.
    from agent.calibration import command

    return command.run(options)
