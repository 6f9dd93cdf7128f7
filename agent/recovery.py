"""When only another process helps.

NVML's library stays loaded for the life of a process, and so does the version that it has: after a
driver upgrade under a running agent every call fails until the library is loaded anew. A container can
lose its right to the devices (``systemctl daemon-reload`` rewrites the device cgroup), and only another
container gets it back. Everything else heals by trying again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from agent.readings import Failed
from agent.sources.base import SourceState

PATIENCE_SECONDS = 60.0
"""How long NVML must have failed so, after it had worked, until the process gives up."""
EXIT_RESTART = 75
"""The exit status that asks for a new container (EX_TEMPFAIL of sysexits.h)."""

LIBRARY_CHANGED = ("version_mismatch",)
DEVICES_LOST = ("operating_system", "unknown")
"""Reasons for which NVML fails."""

Remedy = Literal["exec", "exit"]


def find_remedy(state: SourceState[Any], *, now_seconds: float, in_container: bool) -> Remedy | None:
    """`exec` the same command anew on a host, `exit` in a container, or `None`: go on and try again.

    Only where NVML had worked in this process: what was wrong from the start, a new start does not cure.
    """
    success, outcome = state.last_success, state.outcome
    if success is None or not isinstance(outcome, Failed):
        return None
    if now_seconds - success.at_seconds < PATIENCE_SECONDS:
        return None
    if in_container:
        return "exit" if outcome.reason in (*LIBRARY_CHANGED, *DEVICES_LOST) else None
    return "exec" if outcome.reason in LIBRARY_CHANGED else None


def is_in_container(*, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a container, by the marks that the usual runtimes leave."""
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in environment or any(mark.exists() for mark in marks)
