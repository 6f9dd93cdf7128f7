"""Where the runbooks are read: a page for each alert."""

from __future__ import annotations

RUNBOOKS = "https://github.com/roofline-agent/roofline-agent/blob/main/rules/runbooks"


def runbook_url(alert: str) -> str:
    """What to do about it, in order."""
    return f"{RUNBOOKS}/{alert}.md"
