"""``roofline-agent top``: the node in a terminal, live.

Each frame is a function of the JSON document and of what was pressed. `exposition.picture` gives the facts,
`rows` what is to be said of each GPU and engine, `frame` how it lies on the screen; `state` is what keys do.
None of them knows a terminal: that is `screen`, and where the documents come from is `feeds`.
"""

import argparse

from agent.errors import AgentError
from agent.terminal.options import add_arguments

__all__ = ["add_arguments", "run"]


def run(options: argparse.Namespace) -> int:
    """Show the node until told to end. Gives the exit status; raises `AgentError` where it cannot."""
    # Here, since every command's parser has these options, and only this one what they need.
    try:
        from agent.terminal import command
    except ModuleNotFoundError as error:
        if error.name != "rich":
            raise
        raise AgentError(
            "top needs the library rich: pip install 'roofline-agent[top]'; roofline-agent once does without"
        ) from None
    return command.run(options)
