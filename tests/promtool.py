"""Prometheus' own judge of pages, rules and queries."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.rig.programs import tool


def promtool(
    *arguments: str | Path, text: str | None = None, directory: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """What it says, given a text to read or not, and where it runs. Its absence is a failure."""
    command = [tool("promtool", "prometheus"), *map(str, arguments)]
    return subprocess.run(command, input=text, capture_output=True, text=True, check=False, cwd=directory)


def back_fill(lines: Iterable[str], directory: Path) -> None:
    """Write OpenMetrics into the folder `data`: into the fewest blocks, since for each all of it is read."""
    history = directory / "history.txt"
    with history.open("w") as written:
        written.writelines(lines)
        written.write("# EOF\n")
    made = promtool(
        *("tsdb", "create-blocks-from", "openmetrics", "--quiet", "--max-block-duration=5000h"),
        *(history, directory / "data"),
    )
    assert made.returncode == 0, made.stderr
    history.unlink()
