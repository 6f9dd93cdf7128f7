"""The boards, as written and as generated."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

from grafanalib._gen import loader, write_dashboard

Json = dict[str, Any]

ROOT = Path(__file__).parents[2]
DASHBOARDS = ROOT / "dashboards"
SUFFIX = ".dashboard.py"
WRITTEN = {path.name.removesuffix(SUFFIX): path for path in sorted(DASHBOARDS.glob(f"*{SUFFIX}"))}
"""By name, the module that writes the board."""

WITHOUT_QUERIES = frozenset({"row", "text"})


def generated_path(name: str) -> Path:
    """Where the board is as JSON."""
    return DASHBOARDS / "generated" / f"{name}.json"


def render_board(name: str) -> str:
    """The board as JSON, as grafanalib's own generate-dashboard writes it."""
    stream = StringIO()
    write_dashboard(loader(str(WRITTEN[name])), stream)
    return stream.getvalue()


@cache
def _text(name: str) -> str:
    return render_board(name)


def board(name: str) -> Json:
    """A board as Grafana gets it; a copy of one's own."""
    content = json.loads(_text(name))
    assert isinstance(content, dict)
    return content


def boards() -> dict[str, Json]:
    """All of them, by name."""
    return {name: board(name) for name in WRITTEN}


def panels_of(content: Json) -> Iterator[Json]:
    """All panels of a board in reading order, those in collapsed rows too."""
    for panel in content["panels"]:
        yield panel
        yield from panel.get("panels", ())


def data_panels_of(content: Json) -> list[Json]:
    """Those that show data."""
    return [panel for panel in panels_of(content) if panel["type"] not in WITHOUT_QUERIES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A query, and where it stands."""

    place: str
    expr: str
    legend: str = ""


def queries_of(content: Json) -> list[Asked]:
    """All queries of a board: those of its panels and of its annotations."""
    asked = [
        Asked(place=panel["title"], expr=target["expr"], legend=target["legendFormat"])
        for panel in data_panels_of(content)
        for target in panel["targets"]
    ]
    asked += [
        Asked(
            place=f"annotation {one['name']}",
            expr=one["target"]["expr"],
            legend=one["titleFormat"] + one["textFormat"],
        )
        for one in content["annotations"]["list"]
        if "target" in one
    ]
    return asked
