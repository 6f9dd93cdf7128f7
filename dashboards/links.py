"""From one board to another, with the time range and what was chosen.

A board's uid never changes, so that links from runbooks and bookmarks hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from grafanalib.core import DashboardLink, DataLink

TAG = "roofline-agent"


def uid(board: str) -> str:
    """The uid of the board of that name."""
    return f"roofline-{board}"


def boards_link() -> DashboardLink:
    """All our boards, in the corner of each."""
    return DashboardLink(title="Roofline", tags=[TAG], asDropdown=True, includeVars=True, keepTime=True)


@dataclass(frozen=True, slots=True)
class BoardLink:
    """From what was clicked to a board about it."""

    board: str
    title: str
    labels: Mapping[str, str]
    """By variable there, the label or the column's heading here whose value it takes."""

    def of_series(self) -> DataLink:
        """On a chart, where a series has labels."""
        return self._link("${{__field.labels.{}}}")

    def of_row(self) -> DataLink:
        """On a table, where a row has columns."""
        return self._link("${{__data.fields.{}}}")

    def _link(self, place: str) -> DataLink:
        carried = [f"${{{name}:queryparam}}" for name in ("datasource", "cluster", "job", "instance")]
        parts = [part for part in carried if part[2:].split(":")[0] not in self.labels]
        parts += [f"var-{variable}={place.format(label)}" for variable, label in self.labels.items()]
        return DataLink(
            title=self.title, linkUrl=f"/d/{uid(self.board)}?${{__url_time_range}}&{'&'.join(parts)}"
        )


def link_to(board: str, title: str, **labels: str) -> BoardLink:
    """A data link: `link_to("node", "Open the node", instance="instance", gpu="gpu")`."""
    return BoardLink(board, title, labels)
