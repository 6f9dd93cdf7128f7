"""The review in GitHub's Markdown, for tickets and chats: what the page says, without its charts.

Labels are escaped, so that a model's name is neither markup nor a mention of somebody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from agent.report.document import Review
from agent.report.render.blocks import Block, Cell, Entries, Entry, Prose, Table
from agent.report.render.sections import HEADLINE_SOURCES, figures, fleet_totals, queries_of, sections_of
from agent.report.render.spending import compared_words
from agent.report.render.trust import warnings
from agent.report.render.words import instant, period_name, printable

_SPECIAL = re.compile(r"[\\`*{}\[\]<>|~]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|\$(?![\d/])")
_MARKER = re.compile(r"^(\d{1,9})?([-+#.)=])(?=[\s#=-]|$)")
WORD_JOINER = "\N{WORD JOINER}"


def render_markdown(review: Review) -> str:
    """One text, whose lines end as on Unix."""
    lines = list(_opening(review))
    for section in sections_of(review):
        lines += ["", f"## {escaped(section.title)}"]
        for block in section.blocks:
            lines += _block(block)
        if section.queries:
            lines += ["", _from(section.queries)]
    lines += _queries(review)
    lines += [
        "",
        f"roofline-agent {escaped(review.agent_version)}, made {instant(review.generated_at)}. “–” is what "
        "nobody can tell; it is not 0.",
    ]
    return "\n".join(lines) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = printable(text).strip()
    text = _SPECIAL.sub(lambda found: f"\\{found[0]}", text).replace("&", "&amp;")
    text = _MARKER.sub(lambda found: f"{found[1] or ''}\\{found[2]}", text)
    return re.sub(r"@(?=\w)", f"@{WORD_JOINER}", text)


def code(text: str) -> str:
    """Text as a code span, whatever number of backticks is in it."""
    text = printable(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def link(url: str, text: str) -> str:
    """A link where the address is one of the web, else the text alone."""
    if re.fullmatch(r"https?://[^\s<>()\\]+", url) is None:
        return escaped(text)
    return f"[{escaped(text)}](<{url}>)"


def _opening(review: Review) -> Iterator[str]:
    said = warnings(review)
    if said:
        yield "> [!WARNING]"
        yield "> **Read this first**"
        yield ">"
        for warning in said:
            yield f"> - {escaped(warning)}"
        yield ""
    name = period_name(review.period)
    yield f"# GPU efficiency review, {escaped(name)}"
    yield ""
    facts = (
        f"{instant(review.period.start)} – {instant(review.period.end)}",
        review.selection.cluster or "all clusters",
        f"from {review.source}",
        compared_words(review),
    )
    yield " · ".join(escaped(fact) for fact in facts)
    yield ""
    for sentence in review.summary:
        yield f"- {escaped(sentence)}"
    yield ""
    shown = figures(review)
    if shown:
        yield "| | | change | |"
        yield "|:--|--:|:--|:--|"
        for figure in shown:
            texts = (figure.name, figure.value, figure.change, figure.note)
            yield "| " + " | ".join(escaped(each) for each in texts) + " |"
        yield ""
        yield ", ".join(escaped(fact) for fact in fleet_totals(review)) + "."
    ids = queries_of(review, HEADLINE_SOURCES)
    if ids:
        yield ""
        yield _from(ids)


def _block(block: Block) -> Iterator[str]:
    match block:
        case Table():
            yield from _table(block)
        case Prose(text=text, tone=tone):
            yield ""
            yield f"**{escaped(text)}**" if tone == "alarm" else escaped(text)
        case Entries():
            yield from _entries(block)
        case _:
            pass  # a chart shows what tables say


def _table(block: Table) -> Iterator[str]:
    yield ""
    if block.rows:
        yield f"**{escaped(block.caption)}**"
        yield ""
        yield "| " + " | ".join(escaped(column.title) for column in block.columns) + " |"
        yield "|" + "|".join("--:" if column.is_number else ":--" for column in block.columns) + "|"
        for cells in block.rows:
            yield "| " + " | ".join(_cell(each) for each in cells) + " |"
    if block.more:
        if block.rows:
            yield ""
        where = f", in …{block.file}" if block.file else ""
        yield escaped(f"{block.caption}: {block.more_words}{where}.")


def _cell(each: Cell) -> str:
    text = escaped(each.text)
    if each.tone == "alarm":
        text = f"**{text}**"
    return f"{text} ({escaped(each.detail)})" if each.detail else text


def _entries(block: Entries) -> Iterator[str]:
    yield ""
    for number, entry in enumerate(block.entries, start=1):
        mark = f"{number}." if block.is_numbered else "-"
        yield from _entry(mark, entry)
    if block.more:
        if block.entries:
            yield ""
        yield f"{escaped(block.more_words)}:"
        yield ""
        for entry in block.more:
            about = "; ".join(f"{name}: {text}" for name, text in entry.paragraphs[:1])
            yield f"- **{escaped(entry.title)}**: {escaped(about)}"


def _entry(mark: str, entry: Entry) -> Iterator[str]:
    indent = " " * (len(mark) + 1)
    aside = f" – {escaped(entry.aside)}" if entry.aside else ""
    yield f"{mark} **{escaped(entry.title)}**{aside}  "
    yield indent + " · ".join(escaped(fact) for fact in entry.facts if fact)
    for about, text in entry.paragraphs:
        yield f"{indent}- *{escaped(about)}*: {escaped(text)}"
    if entry.link_text:
        yield f"{indent}- {link(entry.link, entry.link_text)}"


def _from(ids: tuple[str, ...]) -> str:
    return "<sub>from " + ", ".join(escaped(each) for each in ids) + "</sub>"


def _queries(review: Review) -> Iterator[str]:
    yield ""
    yield "## Where each number comes from"
    yield ""
    if not review.queries:
        yield "No query was asked."
        return
    yield f"<details><summary>{len(review.queries)} queries, each as of the instant beside it</summary>"
    yield ""
    for query in review.queries:
        unit = f", in {escaped(query.unit)}" if query.unit else ""
        what = f"**{escaped(query.id)}**, {escaped(query.what)}{unit}, as of {instant(query.at)}"
        yield f"- {what}: {code(query.promql)}"
    yield ""
    yield "</details>"
