"""Prometheus' own judge of pages, rules and queries."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.rig.programs import tool


def promtool(
    *arguments: str | Path, text: str | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What it says, given a text to read or not, and where it runs. Its absence is a failure."""
    command = [tool("promtool", "prometheus"), *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=directory)
