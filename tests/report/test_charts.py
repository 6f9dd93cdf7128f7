"""Charts: what is drawn is what was measured, for eyes and for ears."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from agent.report.document import CLASSES
from agent.report.render.charts import draw_charts
from agent.report.render.operation import drawn_rooflines
from agent.report.render.vector import CLASS_COLOURS, Picture, spread
from tests.report import sample
from tests.report.sample import REVIEWS

CHARTS: Mapping[str, Mapping[str, tuple[Picture, ...]]] = {}


def charts_of(name: str) -> Mapping[str, tuple[Picture, ...]]:
    if name not in CHARTS:
        CHARTS[name] = draw_charts(REVIEWS[name]())  # type: ignore[index]  # the one place that fills it
    return CHARTS[name]


def parts(picture: Picture, variable: str) -> list[tuple[float, float, float, float]]:
    """The rectangles of a colour: left, top, width, height."""
    found = []
    for path in ElementTree.fromstring(picture.svg).iter("path"):
        places = re.findall(r"[ML] (-?[\d.]+) (-?[\d.]+)", path.attrib["d"])
        if f"fill: var(--{variable})" in path.attrib.get("style", "") and len(places) == 4:
            xs, ys = [float(x) for x, _ in places], [float(y) for _, y in places]
            found.append((min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)))
    return found


def texts(picture: Picture) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(picture.svg).iter("text")]


ALL = {"parts", "classes", "days", "trends_usd", "trends_joules", "batch", "slos"}


def test_a_month_has_every_chart_wide_and_narrow() -> None:
    charts = charts_of("a month")
    assert set(charts) == ALL | {f"roofline_{number}" for number in range(5)}
    for name in ALL:
        assert [picture.kind for picture in charts[name]] == ["wide", "narrow"]


def test_without_prices_no_chart_is_about_money_and_without_data_there_is_none() -> None:
    charts = charts_of("no prices")
    assert set(charts) & ALL == ALL - {"trends_usd"}
    assert "$" not in "".join(picture.svg for pictures in charts.values() for picture in pictures)
    assert charts_of("nothing recorded") == {}


@pytest.mark.parametrize("name", ["a month", "hostile labels", "sixty models", "one model"])
def test_every_chart_has_words_for_who_cannot_see_it(name: str) -> None:
    assert charts_of(name)
    for pictures in charts_of(name).values():
        for picture in pictures:
            svg = ElementTree.fromstring(picture.svg)
            assert svg.attrib["role"] == "img"
            title, description = svg.find("title"), svg.find("desc")
            assert title is not None
            assert description is not None
            assert svg.attrib["aria-labelledby"].split() == [title.attrib["id"], description.attrib["id"]]
            assert len(title.text or "") > 10
            assert re.search(r"\d", description.text or "")


@pytest.mark.parametrize("name", ["a month", "hostile labels", "sixty models"])
def test_text_stays_text_in_the_fonts_of_the_page(name: str) -> None:
    for pictures in charts_of(name).values():
        for picture in pictures:
            assert texts(picture)
            assert "font-family" not in picture.svg
            assert "<use" not in picture.svg
            assert "script" not in {element.tag for element in ElementTree.fromstring(picture.svg).iter()}


VARIABLES = {"memory_bandwidth": "memory", "kernel_latency": "kernel"}


@pytest.mark.parametrize(
    ("review", "sizes"), [("a month", sample.USD_BY_CLASS), ("no prices", sample.BY_CLASS)]
)
def test_bars_are_as_long_as_what_their_class_cost_or_took(review: str, sizes: Mapping[str, float]) -> None:
    for picture in charts_of(review)["classes"]:
        bars = {name: parts(picture, VARIABLES.get(name, name)) for name in sizes}
        assert [len(found) for found in bars.values()] == [1] * 7
        lengths = {name: found[0][2] + 1 for name, found in bars.items()}
        for name, size in sizes.items():
            assert lengths[name] / lengths["idle"] == pytest.approx(size / sizes["idle"], rel=0.02)
            written = f"${size:,.0f}" if review == "a month" else f"{size:,.0f} h"
            assert written in texts(picture)


def test_what_is_paid_for_no_time_is_in_the_chart_of_money() -> None:
    review = sample.sample()
    unallocated = review.classes[0].model_copy(
        update={"name": "unallocated", "gpu_hours": 0.0, "ratio": 0.0, "usd": 5000.0}
    )
    charts = draw_charts(review.model_copy(update={"classes": (*review.classes, unallocated)}))
    assert "$5,000" in texts(charts["classes"][0])
    assert "unallocated" in texts(charts["classes"][0])


def test_parts_are_stacked_without_a_gap_over_the_whole_width() -> None:
    picture = charts_of("a month")["parts"][0]
    first = [
        bar
        for name in ("memory", "compute", "interconnect", "kernel", "host", "idle", "unknown")
        for bar in parts(picture, name)[:1]
    ]
    assert len(first) == 7
    end = 0.0
    for left, _, width, _ in first:
        assert left == pytest.approx(end, abs=0.6)
        end = left + width + 1
    assert end == pytest.approx(860, abs=1)


def test_each_day_has_a_column_of_all_its_classes() -> None:
    review = sample.sample()
    picture = charts_of("a month")["days"][0]
    columns = {name: parts(picture, name) for name in ("memory", "idle", "unknown")}
    assert [len(bars) for bars in columns.values()] == [30, 30, 30]
    heights = [height for _, _, _, height in columns["memory"]]
    hours = [day.hours_by_class["memory_bandwidth"] for day in review.days]
    scale = heights[0] / hours[0]
    assert heights == pytest.approx([scale * each for each in hours], abs=0.2)
    assert texts(picture).count("50 %") == 1, "the day of which half was recorded says so"


@pytest.mark.parametrize("number", range(5))
def test_each_cell_of_a_roofline_is_drawn_below_its_roof_and_on_its_side(number: int) -> None:
    roofline = drawn_rooflines(sample.sample())[number]
    (picture,) = charts_of("a month")[f"roofline_{number}"]
    below = sum(cell.intensity_flops_per_byte < roofline.ridge_flops_per_byte for cell in roofline.cells)
    assert len(parts(picture, "memory")) == below
    assert len(parts(picture, "compute")) == len(roofline.cells) - below
    words = " ".join(texts(picture))
    assert roofline.model in words
    assert f"ridge {roofline.ridge_flops_per_byte:.0f}" in words


def test_days_without_output_are_gaps_in_a_trend() -> None:
    trend = next(each for each in sample.sample().trends if each.engine == "llamacpp")
    silent = [value is None for value in trend.usd_per_million_tokens]
    assert sum(silent) == 9
    picture = charts_of("a month")["trends_usd"][0]
    lines = [
        path.attrib["d"]
        for path in ElementTree.fromstring(picture.svg).iter("path")
        if "stroke-width: 1.6" in path.attrib.get("style", "")
    ]
    assert len(lines) == 5
    assert sorted(line.count("M") for line in lines) == [1, 1, 1, 1, 5]


def test_missed_objectives_are_in_the_colour_of_alarm() -> None:
    picture = charts_of("a month")["slos"][0]
    assert len(parts(picture, "alarm")) == 1
    assert "180 %" in texts(picture)


def test_every_class_has_a_colour() -> None:
    assert set(CLASS_COLOURS) == set(CLASSES)


@pytest.mark.parametrize("places", [[0.0, 1.0, 2.0], [5.0, 90.0, 91.0, 92.0], [50.0], []])
def test_labels_are_moved_apart_and_stay_inside(places: list[float]) -> None:
    moved = spread(places, 10.0, 0.0, 95.0)
    assert len(moved) == len(places)
    assert all(0 <= each <= 95 for each in moved)
    assert all(high - low >= 10 - 1e-9 for low, high in pairwise(moved))
