"""The review as one HTML file: no script, no request for anything, on paper as well as on a screen.

Charts are drawn in it for a wide and for a narrow page. What stands in labels is text, whatever it looks
like: the template escapes all of it, and nothing else would be let through by the page's own policy.
"""

from __future__ import annotations

import re
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from agent.exposition.line_breaks import with_units
from agent.report.document import Review
from agent.report.render.charts import draw_charts
from agent.report.render.sections import HEADLINE_SOURCES, figures, fleet_totals, queries_of, sections_of
from agent.report.render.spending import compared_words
from agent.report.render.trust import warnings
from agent.report.render.words import instant, period_name, printable

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def render_html(review: Review) -> str:
    """One file with everything in it. Raises `AgentError` where matplotlib is not installed."""
    charts = {
        name: [(picture.kind, Markup(picture.svg)) for picture in pictures]  # noqa: S704 - drawn and escaped
        for name, pictures in draw_charts(review).items()
    }
    template = _environment().get_template("review.html")
    return template.render(
        review=review,
        name=period_name(review.period),
        warnings=warnings(review),
        compared=compared_words(review),
        figures=figures(review),
        totals=fleet_totals(review),
        sections=sections_of(review),
        headline_queries=queries_of(review, HEADLINE_SOURCES),
        charts=charts,
    )


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("agent.report.render"),
        autoescape=True,
        auto_reload=False,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(instant=instant, anchor=_anchor, is_web=_is_web)
    css = files("agent.report.render").joinpath("templates/review.css").read_text(encoding="utf-8")
    environment.globals.update(
        css=Markup(css),  # noqa: S704 - the package's own file, not input
        policy=POLICY,
        zip=zip,
        block_kind=lambda block: type(block).__name__,
    )
    return environment


def _finalize(value: object) -> object:
    """What an expression of a template gives, as it is to be written; markup was made by one already."""
    return with_units(printable(value)) if type(value) is str else value


def _anchor(query: str) -> str:
    """A query's place on the page."""
    return "query-" + re.sub(r"[^A-Za-z0-9_-]", "-", query)


def _is_web(url: str) -> bool:
    """Whether an address may be a link: what runs when it is clicked may not."""
    return re.match(r"https?://[^\s]+$", url) is not None
