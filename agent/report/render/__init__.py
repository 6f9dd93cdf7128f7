"""The review for people and for programs: HTML, Markdown, CSV and JSON, from the same document."""

from __future__ import annotations

from agent.report.render.html_page import render_html
from agent.report.render.json_file import render_json, render_schema
from agent.report.render.markdown import render_markdown
from agent.report.render.tables import render_tables
from agent.report.render.vector import require_drawing

__all__ = (
    "render_html",
    "render_json",
    "render_markdown",
    "render_schema",
    "render_tables",
    "require_drawing",
)
