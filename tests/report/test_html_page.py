"""The review as a page: safe markup, nothing hidden, the same on every screen and on paper."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image
from pypdf import PdfReader

from agent.report.document import Review
from agent.report.render import render_html
from agent.report.render.blocks import Table
from agent.report.render.html_page import POLICY
from agent.report.render.sections import sections_of
from agent.report.render.words import printable
from tests.browser import Browser, find_browser
from tests.conftest import Golden
from tests.report import sample
from tests.report.sample import HOSTILE, REVIEWS

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "report"
PAGES: dict[str, str] = {}


def page_of(name: str) -> str:
    """Drawn once for all tests."""
    if name not in PAGES:
        PAGES[name] = render_html(REVIEWS[name]())
    return PAGES[name]


def parse(html: str) -> ElementTree.Element:
    """The page is well-formed XML too, so that a stray character cannot hide."""
    return ElementTree.fromstring(html)


def text_of(html: str) -> str:
    body = parse(html).find("body")
    assert body is not None
    return " ".join("".join(body.itertext()).replace("\N{NO-BREAK SPACE}", " ").split())


every_review = pytest.mark.parametrize("name", REVIEWS)


# --- markup ----------------------------------------------------------------------------------------


@every_review
def test_page_asks_for_nothing_and_runs_nothing(name: str) -> None:
    links = 0
    for element in parse(page_of(name)).iter():
        assert element.tag not in (
            "script",
            "img",
            "iframe",
            "object",
            "form",
            "foreignObject",
            "use",
            "image",
        )
        for attribute, value in element.attrib.items():
            assert not attribute.startswith("on")
            assert "url(" not in value
            if attribute in ("href", "src"):
                links += 1
                assert value.startswith(("#", "https://", "data:image/svg+xml,")), value
    assert links > 10
    assert "@import" not in page_of(name)


@every_review
def test_every_anchor_leads_somewhere_and_no_id_is_there_twice(name: str) -> None:
    page = parse(page_of(name))
    ids = [element.attrib["id"] for element in page.iter() if "id" in element.attrib]
    assert len(ids) == len(set(ids))
    wanted = {link.attrib["href"][1:] for link in page.iter("a") if link.attrib["href"].startswith("#")}
    assert wanted <= set(ids)
    for element in page.iter("svg"):
        assert set(element.attrib.get("aria-labelledby", "").split()) <= set(ids)


def test_policy_forbids_all_but_the_style() -> None:
    meta = parse(page_of("a month")).find(".//meta[@http-equiv='Content-Security-Policy']")
    assert meta is not None
    assert meta.attrib["content"] == POLICY
    assert POLICY.startswith("default-src 'none';")
    assert "script" not in POLICY


def test_labels_are_text_whatever_they_look_like() -> None:
    html = page_of("hostile labels")
    assert "<script" not in html
    assert not re.search(r'href="\s*javascript:', html)
    assert "\x1b" not in html
    assert "\u202e" not in html
    shown = " ".join(printable(HOSTILE).split())
    assert text_of(html).count(shown) > 20


def test_style_has_the_palette_of_the_status_page() -> None:
    def palette(css: str) -> list[tuple[str, str]]:
        return re.findall(r"(--[a-z]+): (#[0-9a-f]{6})", css)

    ours = palette((ROOT / "agent/report/render/templates/review.css").read_text())
    house = palette((ROOT / "agent/exposition/templates/status_page.css").read_text())
    assert len(house) == 30
    assert set(house) <= set(ours)


@every_review
def test_every_colour_and_class_on_the_page_is_defined(name: str) -> None:
    html = page_of(name)
    used = set(re.findall(r"var\((--[a-z]+)[,)]", html))
    defined = set(re.findall(r"(--[a-z]+): ", html))
    assert used
    assert used <= defined
    assert "#0001" not in html, "a stand-in colour is left"


# --- words -----------------------------------------------------------------------------------------


@every_review
def test_every_section_is_there_and_says_something(name: str) -> None:
    page = parse(page_of(name))
    review = REVIEWS[name]()
    for section in sections_of(review):
        found = page.find(f".//section[@id='{section.key}']")
        assert found is not None
        said = "".join(found.itertext()).replace(section.title, "").replace(section.lead, "").strip()
        assert len(said) > 20, f"{section.title} has only: {said}"
    assert page.find(".//section[@id='queries']") is not None


def test_what_must_be_read_first_stands_first_and_only_where_it_must() -> None:
    text = text_of(page_of("poor data"))
    assert text.startswith("Read this first Only 34 % of the period was recorded")
    assert "2 queries gave nothing, or not all" in text
    assert text.index("Read this first") < text.index("November 2026")
    assert text_of(page_of("nothing recorded")).startswith("Read this first Nothing was recorded")
    assert "Read this first" not in text_of(page_of("a month"))


def test_every_sentence_and_every_number_of_the_head_is_shown() -> None:
    text = text_of(page_of("a month"))
    for sentence in sample.SUMMARY:
        assert sentence in text
    numbers = ("$119,086", "$79,906", "$39,180", "42,480 h", "$1.82", "652")
    for words in (*numbers, "+12 % from October, per hour"):
        assert words in text


def test_no_money_is_named_where_there_are_no_prices() -> None:
    assert "$" in text_of(page_of("a month"))
    text = text_of(page_of("no prices"))
    assert "$" not in text
    assert "USD" not in text.replace("gpu_cost what was paid, in USD", "")
    assert "42,480 h" in text
    assert "What a million tokens takes" in text


def test_nothing_is_invented_where_nothing_was_recorded() -> None:
    text = text_of(page_of("nothing recorded"))
    assert "No GPU hour was observed in this period." in text
    assert "of each node, between its first and its last, unknown" in text
    assert parse(page_of("nothing recorded")).find(".//dl[@class='figures']") is None
    assert "None" not in text
    assert "nan" not in text.split()


def test_sums_are_not_compared_with_a_month_of_which_little_was_recorded() -> None:
    review = sample.sample().model_copy(update={"previous_coverage_ratio": 0.4})
    text = text_of(render_html(review))
    assert "compared with October 2026, of which 40 % was recorded, and 98 % of this" in text
    assert "per hour" not in text
    assert "+9.6 % from October" in text


def test_of_many_models_the_rest_is_counted_and_there() -> None:
    page = parse(page_of("sixty models"))
    summaries = ["".join(each.itertext()) for each in page.iter("summary")]
    assert "48 models more, also in …services.csv" in summaries
    text = text_of(page_of("sixty models"))
    for review in (REVIEWS["sixty models"](),):
        for service in review.services:
            assert service.model in text
    assert "Not drawn: 54 models with fewer hours" in text


def test_every_number_can_be_traced_to_its_query() -> None:
    page = parse(page_of("a month"))
    review = sample.sample()
    for section in sections_of(review):
        assert section.queries, f"{section.title} has no queries"
        found = page.find(f".//section[@id='{section.key}']/details[@class='queries']")
        assert found is not None
        links = [link.attrib["href"] for link in found.iter("a")]
        assert links == [f"#query-{query}" for query in section.queries]
    for query in review.queries:
        asked = page.find(f".//div[@id='query-{query.id}']//pre")
        assert asked is not None
        assert asked.text == query.promql


def test_worst_offenders_come_with_what_to_do() -> None:
    page = parse(page_of("a month"))
    entries = page.findall(".//section[@id='offenders']/ol/li")
    assert len(entries) == len(sample.OFFENDERS)
    for entry, offender in zip(entries, sample.OFFENDERS, strict=True):
        text = "".join(entry.itertext()).replace("\N{NO-BREAK SPACE}", " ")
        for words in (offender.title, offender.why, offender.action):
            assert words in text
        assert entry.find(f".//a[@href='{offender.runbook_url}']") is not None
    page = parse(page_of("sixty models"))
    assert len(page.findall(".//section[@id='offenders']/ol/li")) == 10
    assert len(page.findall(".//section[@id='offenders']/details/ol/li")) == 4


# --- goldens ---------------------------------------------------------------------------------------


def without_drawings(html: str) -> str:
    """Titles and descriptions of charts stay; how matplotlib draws them is tested apart."""
    html = re.sub(r"(<svg class=\"chart\".*?</desc>).*?</svg>", r"\1…</svg>", html, flags=re.DOTALL)
    return re.sub(r"<style>.*?</style>", "<style>…</style>", html, flags=re.DOTALL)


@pytest.mark.parametrize("name", ["a month", "poor data", "no prices", "nothing recorded"])
def test_page_is_as_reviewed(name: str, golden: Golden) -> None:
    golden(GOLDEN / f"{name.replace(' ', '-')}.html", without_drawings(page_of(name)))


def test_same_review_gives_the_same_bytes() -> None:
    program = "from tests.report.sample import single; from agent.report.render import render_html; "
    program += "import sys; sys.stdout.write(render_html(single()))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert done.stdout == page_of("one model")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    program = """
from agent.errors import AgentError
from agent.report.render import render_html, render_json, render_markdown, render_tables
from tests.report.sample import sample
assert render_markdown(sample()) and render_json(sample()) and render_tables(sample())
try:
    render_html(sample())
except AgentError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "pip install 'roofline-agent[report]'" in done.stdout


# --- a browser -------------------------------------------------------------------------------------


@pytest.fixture
def browser(tmp_path: Path) -> Browser:
    return find_browser(tmp_path / "profile")


def saved(tmp_path: Path, html: str) -> str:
    path = tmp_path / "review.html"
    path.write_text(html, encoding="utf-8")
    return path.as_uri()


def shares(picture: Path) -> Callable[[str], float]:
    """How much of a picture has a colour."""
    image = Image.open(picture).convert("RGB")
    counts = {colour: count for count, colour in image.getcolors(maxcolors=2**24) or ()}

    def share(colour: str) -> float:
        red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        return counts.get((red, green, blue), 0) / (image.width * image.height)

    return share


def test_page_is_light_or_dark_with_its_charts_and_the_console_is_silent(
    browser: Browser, tmp_path: Path
) -> None:
    url = saved(tmp_path, page_of("a month"))
    console, _ = browser.open(url, width=1280, height=2400, prefers="light")
    assert console == []
    light = shares(browser.picture)
    assert light("#f5f6f4") > 0.4
    assert light("#c26e0a") > 0.005, "charts show time waiting for memory"
    console, _ = browser.open(url, width=1280, height=2400, prefers="dark")
    assert console == []
    dark = shares(browser.picture)
    assert dark("#101418") > 0.4
    assert dark("#fa9f0b") > 0.005
    assert dark("#c26e0a") == 0
    assert dark("#ffffff") < 0.001, "nothing white is left"


def test_hostile_labels_run_nothing(browser: Browser, tmp_path: Path) -> None:
    console, _ = browser.open(saved(tmp_path, page_of("hostile labels")), width=400)
    assert console == []


def test_browser_would_have_complained(browser: Browser, tmp_path: Path) -> None:
    html = page_of("one model").replace("</body>", "<script>console.log('ran')</script></body>")
    console, _ = browser.open(saved(tmp_path, html), width=400)
    assert any("Content Security Policy" in line for line in console)
    assert not any("ran" in line for line in console)


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("name", ["a month", "hostile labels", "sixty models"])
def test_no_page_is_wider_than_its_window(name: str, width: int, browser: Browser, tmp_path: Path) -> None:
    measure = (
        "<script>for (const each of document.querySelectorAll('details')) each.open = true;"
        "console.log('wide=' + document.documentElement.scrollWidth + ' in ' + innerWidth)</script></body>"
    )
    html = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", page_of(name))
    html = html.replace("</body>", measure)
    # Headless windows are at least 500 wide; a frame is as narrow as it is told.
    saved(tmp_path, html)
    frame = tmp_path / "frame.html"
    frame.write_text(f'<iframe src="review.html" style="width:{width}px;height:900px;border:0"></iframe>')
    console, _ = browser.open(frame.as_uri(), width=1400)
    found = re.search(r"wide=(\d+) in (\d+)", " ".join(console))
    assert found is not None
    assert int(found[2]) == width
    assert int(found[1]) <= width


def pages_of(paper: Path) -> list[list[str]]:
    """The lines of each page."""
    pages = []
    for page in PdfReader(paper).pages:
        text = unicodedata.normalize("NFKC", page.extract_text())  # no ligatures
        pages.append([" ".join(line.split()) for line in text.splitlines() if line.strip()])
    return pages


def test_paper_holds_all_of_it_and_is_white(browser: Browser, tmp_path: Path) -> None:
    review = sample.sample()
    paper = browser.print(saved(tmp_path, page_of("a month")), prefers="dark")
    pages = pages_of(paper)
    assert 6 <= len(pages) <= 14
    whole = " ".join(line for page in pages for line in page)
    for section in sections_of(review):
        assert section.title in whole
    for sizing in review.right_sizing:
        assert sizing.refused in whole, "what is folded on the screen is open on paper"
    for query in review.queries:
        assert query.promql.replace(" ", "") in whole.replace(" ", "")
    assert f"{len(pages)} / {len(pages)}" in whole
    first = PdfReader(paper).pages[0]
    drawing = first.get_contents()
    assert drawing is not None
    colours = set(re.findall(rb"([\d.]+ [\d.]+ [\d.]+) rg", drawing.get_data()))
    assert b".102 .1255 .1412" in colours, "ink is dark"
    assert b".0627 .0784 .0941" not in colours, "the dark paper of a screen is not printed"
    box = first.mediabox
    assert (round(box.width), round(box.height)) == (595, 842)


def headings(review: Review) -> set[str]:
    """What must not stand alone at the end of a page."""
    found = {section.title for section in sections_of(review)}
    for section in sections_of(review):
        found |= {block.caption for block in section.blocks if isinstance(block, Table) and block.rows}
    return found


@pytest.mark.parametrize("name", ["a month", pytest.param("sixty models", marks=pytest.mark.long)])
def test_no_heading_stands_alone_at_the_end_of_a_page(name: str, browser: Browser, tmp_path: Path) -> None:
    pages = pages_of(browser.print(saved(tmp_path, page_of(name))))
    alone = headings(REVIEWS[name]())
    assert len(alone) > 15
    assert len(pages) <= 38, "the rest of sixty models is set close"
    seen = 0
    for number, page in enumerate(pages, start=1):
        lines = [line for line in page if line != f"{number} / {len(pages)}"]
        assert lines
        seen += sum(line in alone for line in lines)
        assert lines[-1] not in alone, f"page {number} ends with {lines[-1]}"
    assert seen >= len(alone) - 3, "headings are found as they are written"
