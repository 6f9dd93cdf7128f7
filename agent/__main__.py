"""``python -m agent``, and where the command ``roofline-agent`` begins."""

import sys

from agent.signals import leave_at_once


def main() -> int:
    """Run a command; gives its exit status."""
    if not {"run", "demo"}.isdisjoint(sys.argv[1:]):
        leave_at_once()  # before what takes time to load
    from agent import cli

    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
