"""A board: sections of panels under one set of variables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from grafanalib import core

from dashboards.annotations import STANDARD
from dashboards.layout import Section, laid_out
from dashboards.links import TAG, boards_link, uid
from dashboards.normalise import SCHEMA_VERSION, normalised

Json = dict[str, Any]

CROSSHAIR_SHARED = 1


class Board(core.Dashboard):
    """grafanalib's dashboard, as Grafana reads it now."""

    def to_json_data(self) -> Json:
        """Final: ids, refIds and positions are in it."""
        return normalised(super().to_json_data())


def board(
    name: str,
    title: str,
    description: str,
    *sections: Section,
    variables: Sequence[core.Template],
    annotations: Iterable[Json] = STANDARD,
    span: str = "6h",
) -> Board:
    """The board that links and files call `name`, over the last `span` when it is opened."""
    return Board(
        title=f"Roofline / {title}",
        description=description,
        uid=uid(name),
        tags=[TAG],
        annotations=core.Annotations([dict(one) for one in annotations]),
        templating=core.Templating(list(variables)),
        links=[boards_link()],
        panels=laid_out(sections),
        time=core.Time(f"now-{span}", "now"),
        timezone="browser",
        refresh="1m",
        editable=False,
        graphTooltip=CROSSHAIR_SHARED,
        schemaVersion=SCHEMA_VERSION,
    )
