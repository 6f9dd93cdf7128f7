"""The review in Markdown: complete, and nothing in it is more than text."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from agent.report.render import render_markdown
from agent.report.render.blocks import Table
from agent.report.render.markdown import code, escaped, link
from agent.report.render.sections import sections_of
from agent.report.render.words import printable
from tests.conftest import Golden
from tests.report.sample import HOSTILE, REVIEWS, SUMMARY

GOLDEN = Path(__file__).parents[1] / "golden" / "report"
PARSER = MarkdownIt("commonmark").enable("table").enable("strikethrough")


@pytest.mark.parametrize("name", ["a month", "poor data", "no prices", "nothing recorded"])
def test_text_is_as_reviewed(name: str, golden: Golden) -> None:
    golden(GOLDEN / f"{name.replace(' ', '-')}.md", render_markdown(REVIEWS[name]()))


@pytest.mark.parametrize("name", REVIEWS)
def test_every_section_and_every_table_is_one_for_a_parser(name: str) -> None:
    review = REVIEWS[name]()
    tokens = PARSER.parse(render_markdown(review))
    titles = [
        tokens[number + 1].content for number, token in enumerate(tokens) if token.type == "heading_open"
    ]
    sections = sections_of(review)
    assert len(titles) == len(sections) + 2
    tables = [
        block for section in sections for block in section.blocks if isinstance(block, Table) and block.rows
    ]
    headline = 0 if name == "nothing recorded" else 1
    assert sum(token.type == "table_open" for token in tokens) == len(tables) + headline
    rows = sum(token.type == "tr_open" for token in tokens)
    assert rows >= sum(1 + len(block.rows) for block in tables)


def test_all_sentences_are_there_and_warnings_stand_first() -> None:
    text = render_markdown(REVIEWS["a month"]())
    for sentence in SUMMARY:
        assert f"- {sentence}" in text
    assert "[!WARNING]" not in text
    assert render_markdown(REVIEWS["poor data"]()).startswith("> [!WARNING]\n> **Read this first**")


def test_no_money_without_prices() -> None:
    assert "$" in render_markdown(REVIEWS["a month"]())
    assert "$" not in render_markdown(REVIEWS["no prices"]())


def test_labels_are_text_whatever_they_look_like() -> None:
    text = render_markdown(REVIEWS["hostile labels"]())
    html = PARSER.render(text)
    assert "<script" not in html
    assert "<em>[" not in html
    assert not re.search(r'href="(?!https://github\.com/)', html)
    plain = [
        child.content
        for token in PARSER.parse(text)
        for child in token.children or ()
        if child.type == "text"
    ]
    assert len(plain) > 100
    assert not any(re.search(r"@\w", each) for each in plain), "nobody is mentioned"
    assert html.count("alert('1')") > 20


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "- x",
        "1. x",
        "# x",
        "a | b",
        "*x* _y_ `z` ~~w~~",
        "[a](b)",
        "<b>",
        "&lt;",
        "+",
        "= x",
        "a\\",
        "!x",
    ],
)
def test_escaped_text_is_shown_as_it_is(text: str) -> None:
    html = PARSER.render(f"- {escaped(text)}")
    shown = re.sub(r"<[^>]+>", "", html)
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        shown = shown.replace(entity, character)
    assert shown.strip().replace("\N{WORD JOINER}", "") == printable(text).strip()
    assert set(re.findall(r"<(\w+)", html)) == {"ul", "li"}


@pytest.mark.parametrize("text", ["a", "`", "a`b``c", "``", "x|y"])
def test_code_is_code_with_any_number_of_backticks(text: str) -> None:
    (inline,) = [token for token in PARSER.parse(code(text)) if token.type == "inline"]
    assert inline.children is not None
    (child,) = inline.children
    assert (child.type, child.content) == ("code_inline", text)


def test_only_addresses_of_the_web_are_links() -> None:
    assert link("https://example.com/a", "x") == "[x](<https://example.com/a>)"
    for url in ("javascript:alert(1)", "", "https://a b", "https://a)>(x"):
        assert link(url, "x") == "x"
