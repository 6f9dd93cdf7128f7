# The classes of grafanalib that the dashboards use, with the arguments they give.
# The names are the library's own:
# ruff: noqa: A002, N803, N815

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

Json: TypeAlias = dict[str, Any]

class Target:
    expr: str
    format: str
    instant: bool
    interval: str
    legendFormat: str
    refId: str
    def __init__(
        self,
        *,
        expr: str = ...,
        format: str = ...,
        instant: bool = ...,
        interval: str = ...,
        legendFormat: str = ...,
        refId: str = ...,
        datasource: Mapping[str, str] | None = ...,
    ) -> None: ...
    def to_json_data(self) -> Json: ...

class Threshold:
    def __init__(self, color: str, index: int, value: float) -> None: ...

class DataLink:
    def __init__(self, title: str, linkUrl: str = ..., isNewTab: bool = ...) -> None: ...

class StatValueMappingItem:
    def __init__(self, text: str, mapValue: str = ..., color: str = ..., index: int | None = ...) -> None: ...

class StatValueMappings:
    def __init__(self, *mappings: StatValueMappingItem) -> None: ...

class GridPos:
    h: int
    w: int
    x: int
    y: int
    def __init__(self, h: int, w: int, x: int, y: int) -> None: ...

class Panel:
    gridPos: GridPos
    title: str
    def __init__(
        self,
        *,
        title: str = ...,
        description: str | None = ...,
        dataSource: Mapping[str, str] | None = ...,
        targets: Sequence[Target] = ...,
        gridPos: GridPos | None = ...,
        thresholds: Sequence[Threshold] = ...,
        transformations: Sequence[Mapping[str, Any]] = ...,
        extraJson: Mapping[str, Any] | None = ...,
    ) -> None: ...
    def panel_json(self, overrides: Mapping[str, Any]) -> Json: ...

class TimeSeries(Panel):
    def to_json_data(self) -> Json: ...

class Stat(Panel):
    def to_json_data(self) -> Json: ...

class Table(Panel):
    def to_json_data(self) -> Json: ...

class StateTimeline(Panel):
    def to_json_data(self) -> Json: ...

class BarGauge(Panel):
    def to_json_data(self) -> Json: ...

class Heatmap(Panel):
    def to_json_data(self) -> Json: ...

class Text(Panel):
    def __init__(self, *, title: str = ..., content: str, gridPos: GridPos) -> None: ...
    def to_json_data(self) -> Json: ...

class RowPanel(Panel):
    collapsed: bool
    panels: list[Panel]
    def __init__(
        self, *, title: str, collapsed: bool = ..., panels: Sequence[Panel] = ..., gridPos: GridPos
    ) -> None: ...

class Template:
    name: str
    def __init__(
        self,
        *,
        name: str,
        query: str,
        type: str = ...,
        label: str | None = ...,
        dataSource: Mapping[str, str] | None = ...,
        default: str | None = ...,
        includeAll: bool = ...,
        allValue: str | None = ...,
        multi: bool = ...,
        refresh: int = ...,
        sort: int = ...,
    ) -> None: ...

class Templating:
    def __init__(self, list: Sequence[Template]) -> None: ...

class Annotations:
    def __init__(self, list: Sequence[Mapping[str, Any]]) -> None: ...

class DashboardLink:
    def __init__(
        self,
        *,
        title: str,
        tags: list[str],
        asDropdown: bool = ...,
        includeVars: bool = ...,
        keepTime: bool = ...,
    ) -> None: ...

class Time:
    def __init__(self, start: str, end: str) -> None: ...

class Dashboard:
    def __init__(
        self,
        *,
        title: str,
        description: str = ...,
        uid: str | None = ...,
        tags: list[str] = ...,
        annotations: Annotations = ...,
        templating: Templating = ...,
        links: list[DashboardLink] = ...,
        panels: list[Panel] = ...,
        time: Time = ...,
        timezone: str = ...,
        refresh: str = ...,
        editable: bool = ...,
        graphTooltip: int = ...,
        schemaVersion: int = ...,
    ) -> None: ...
    def to_json_data(self) -> Json: ...
