"""The chart's values as its file has them: each key with its default and the comment above it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from helm.alerts import render_switches

OPEN = frozenset(
    {
        "affinity",
        "commonLabels",
        "dashboards.annotations",
        "dashboards.grafanaOperator.instanceSelector",
        "dashboards.labels",
        "livenessProbe",
        "readinessProbe",
        "report.persistence.annotations",
        "report.resources",
        "resources",
        "startupProbe",
        "test.resources",
        "updateStrategy",
    }
)
"""Objects with a default whose keys are Kubernetes' or somebody's own, so that any may be there."""

BEGIN, END = "# >>> generated from rules/alerts.py", "# <<< generated"
"""Between these lines stands the part that follows from the table of alerts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One key: a section, or something to set."""

    path: tuple[str, ...]
    default: Any
    comment: str
    section: bool
    """Whether its keys are given one by one."""

    @property
    def key(self) -> str:
        """With dots, as ``--set`` takes it."""
        return ".".join(self.path)


def fill_in_alerts(text: str) -> str:
    """The file of values with the switches of the alerts as the table has them."""
    before, begin, rest = text.partition(BEGIN)
    indent = len(before) - len(before.rstrip(" "))
    _, end, after = rest.partition(END)
    assert begin, f"the values have no line {BEGIN}"
    assert end, f"the values have no line {END}"
    return f"{before}{begin}\n{render_switches(indent)}{' ' * indent}{end}{after}"


def parse_values(text: str) -> tuple[Value, ...]:
    """Every key of the file, in its order."""
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(node, yaml.MappingNode)
    return tuple(_walk(node, (), text.splitlines(), yaml.safe_load(text)))


def _walk(
    node: yaml.MappingNode, path: tuple[str, ...], lines: list[str], document: dict[str, Any]
) -> Iterator[Value]:
    for key, value in node.value:
        here = (*path, key.value)
        default = document[key.value]
        section = bool(default) and isinstance(value, yaml.MappingNode) and ".".join(here) not in OPEN
        yield Value(
            path=here,
            default=default,
            comment=_comment_above(lines, key.start_mark.line, key.start_mark.column),
            section=section,
        )
        if section:
            yield from _walk(value, here, lines, default)


def _comment_above(lines: list[str], line: int, column: int) -> str:
    """What stands behind ``# --`` over the line, if it is the key's own line."""
    if lines[line][:column].strip():
        return ""
    said: list[str] = []
    for text in reversed(lines[:line]):
        bare = text.strip()
        if not bare.startswith("#"):
            break
        said.insert(0, bare.removeprefix("#").strip())
        if bare.startswith("# --"):
            return " ".join(said).removeprefix("-- ")
    return ""
