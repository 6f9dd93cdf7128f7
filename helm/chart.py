"""The chart's generated files: all of it that is a view of a table, or of another file."""

from __future__ import annotations

from pathlib import Path

from helm.alerts import render_alerts
from helm.readme import render_readme
from helm.schema import render_schema
from helm.values import fill_in_alerts
from rules.documents import render_recordings

ROOT = Path(__file__).parents[1]
CHART = ROOT / "helm" / "roofline-agent"
BOARDS = ROOT / "dashboards" / "generated"
"""Copied into the chart: Helm reads no file outside of it."""


def render_files() -> dict[Path, str]:
    """Each generated file of the chart, and what stands in it."""
    values = fill_in_alerts((CHART / "values.yaml").read_text())
    return {
        CHART / "values.yaml": values,
        CHART / "values.schema.json": render_schema(values),
        CHART / "README.md": render_readme(values),
        CHART / "files" / "alerts.yaml": render_alerts(),
        CHART / "files" / "recordings.yaml": render_recordings(),
    }
