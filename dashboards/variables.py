"""The variables at the top of a board.

Each offers only what exists under the variables before it. `cluster` is a label that operators attach, so
its All also takes series without it; `job` and `instance` are always there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from grafanalib.core import Template

from dashboards.queries import SCOPE, metric, regex_matcher

DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
"""Of every panel, query, variable and annotation: the one chosen above."""

REFRESH_ON_TIME_CHANGE = 2
ALPHABETICAL, NUMERICAL = 1, 3

_LISTED_ON = {
    "cluster": "build_info",
    "job": "build_info",
    "instance": "build_info",
    "gpu": "gpu_up",
    "uuid": "gpu_up",
    "model": "engine_up",
    "server": "engine_up",
    "engine": "engine_up",
}
"""By variable, which metric has every value of the label."""


def variables(*, many: Sequence[str] = (), one: Sequence[str] = ()) -> list[Template]:
    """Data source, cluster, job and instance, then the board's own, then free filters.

    Of `many` all are shown until some are chosen; of `one` always a single one, which is what keeps a
    board with a panel for each GPU or server affordable.
    """
    chosen = [Template(name="datasource", query="prometheus", type="datasource", label="Data source")]
    before: list[str] = []
    for label in dict.fromkeys((*SCOPE, *many, *one)):
        chosen.append(_label_values(label, before, several=label not in one))
        before.append(label)
    return [*chosen, Template(name="filters", query="", type="adhoc", label="Filters", dataSource=DATASOURCE)]


def _label_values(label: str, before: Sequence[str], *, several: bool) -> Template:
    series = metric(_LISTED_ON[label]).full_name
    if before:
        series += f"{{{','.join(map(regex_matcher, before))}}}"
    return Template(
        name=label,
        label="GPU" if label == "gpu" else label.capitalize(),
        query=f"label_values({series}, {label})",
        dataSource=DATASOURCE,
        multi=several,
        includeAll=several,
        allValue=(".*" if label == "cluster" else ".+") if several else None,
        default="$__all" if several else None,
        refresh=REFRESH_ON_TIME_CHANGE,
        sort=NUMERICAL if label == "gpu" else ALPHABETICAL,
    )
