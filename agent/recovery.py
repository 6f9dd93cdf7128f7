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

EXIT_RESTART = 75
"""The exit status that asks for a new container (EX_TEMPFAIL of sysexits.h)."""

LIBRARY_CHANGED = ("version_mismatch",)
DEVICES_LOST = ("operating_system", "unknown")
"""Reasons for which NVML fails."""

Remedy = Literal["exec", "exit"]
"""`exec` the same command anew; `exit`, so that another container is started."""
Policy = Literal["auto", "exec", "exit", "never"]
"""`auto` is `exit` in a container, `exec` elsewhere."""


def find_remedy(
    state: SourceState[Any], *, now_seconds: float, patience_seconds: float, policy: Policy
) -> Remedy | None:
    """What to do when NVML has failed for `patience_seconds`; `None`: go on and try again.

    Only where NVML had worked in this process: what was wrong from the start, a new start does not cure.
    """
    success, outcome = state.last_success, state.outcome
    if success is None or not isinstance(outcome, Failed) or policy == "never":
        return None
    if now_seconds - success.at_seconds < patience_seconds:
        return None
    remedy: Remedy = policy if policy != "auto" else "exit" if is_in_container() else "exec"
    curable = (*LIBRARY_CHANGED, *DEVICES_LOST) if remedy == "exit" else LIBRARY_CHANGED
    return remedy if outcome.reason in curable else None


def is_in_container(*, root: Path = Path("/"), environment: Mapping[str, str] = os.environ) -> bool:
    """Whether this process runs in a container, by the marks that the usual runtimes leave."""
    marks = (root / ".dockerenv", root / "run/.containerenv")
    return "KUBERNETES_SERVICE_HOST" in environment or any(mark.exists() for mark in marks)
