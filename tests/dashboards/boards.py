"""The boards, as written and as generated."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from typing import Any

from grafanalib._gen import loader, write_dashboard

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"
WRITTEN = {
    path.name.removesuffix(".dashboard.py"): path for path in sorted(DASHBOARDS.glob("*.dashboard.py"))
}
"""By name, the module that writes the board."""


def generated_path(name: str) -> Path:
    """Where the board is as JSON."""
    return DASHBOARDS / "generated" / f"{name}.json"


def render_board(name: str) -> str:
    """The board as JSON, as grafanalib's own generate-dashboard writes it."""
    stream = StringIO()
    write_dashboard(loader(str(WRITTEN[name])), stream)
    return stream.getvalue()
