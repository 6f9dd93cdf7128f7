"""The frame of all engines: signals, histograms, documents."""

from __future__ import annotations

import math

import pytest

from agent.engines.base import (
    Signal,
    Spelling,
    count_at,
    histogram_samples,
    in_rank_order,
    integer_of,
    list_at,
    number_at,
    own_models,
    read_counters,
    read_histogram,
    read_sum,
    split_ranks,
    text_at,
)
from agent.engines.registry import ENGINES
from agent.labels import label_text
from agent.readings import COUNTER_NAMES, EngineCounters, Histogram
from agent.sources.page import Page, parse_page

# --- signals and histograms ----------------------------------------------------------------------


def page_of(text: str) -> Page:
    names = {line.split("{")[0].split(" ")[0] for line in text.splitlines()}
    return parse_page(text.encode(), names)


def test_the_newest_name_on_the_page_counts() -> None:
    signal = Signal(names=("new", "old"))
    assert signal.read(page_of("old 1\nnew 2\n")) == 2.0
    assert signal.read(page_of("old 1\n")) == 1.0
    assert signal.read(page_of("other 1\n")) is None


def test_a_signal_adds_over_labels_it_does_not_know() -> None:
    page = page_of('a{why="x",pid="1"} 1\na{why="x",pid="2"} 2\na{why="y",pid="1"} 4\na{why="z"} 8\n')
    assert Signal(names=("a",)).read(page) == 15.0
    assert Signal(names=("a",), label="why", values=frozenset({"x"})).read(page) == 3.0
    assert Signal(names=("a",), label="why", values=frozenset({"x", "y"})).read(page) == 7.0
    assert Signal(names=("a",), label="why", values=frozenset({"w"})).read(page) is None


def test_a_spelling_is_tried_in_each_of_its_ways_before_the_next_name() -> None:
    spelling = Spelling(("e:", "e_"))
    assert spelling.names("new", "old") == ("e:new", "e_new", "e:old", "e_old")
    assert spelling.signal("a", label="why", values=["x"]) == Signal(
        names=("e:a", "e_a"), label="why", values=frozenset({"x"})
    )


def test_a_sum_is_that_of_the_signals_that_are_there() -> None:
    signals = Signal(names=("a",)), Signal(names=("b",)), Signal(names=("c",))
    assert read_sum(page_of("a 1\nc 4\n"), signals) == 5.0
    assert read_sum(page_of("b 0\n"), signals) == 0.0
    assert read_sum(page_of("d 1\n"), signals) is None


def test_counters_that_the_page_lacks_stay_unknown() -> None:
    counters = read_counters(
        page_of("a 0\n"), {"steps": Signal(names=("a",)), "drafts": Signal(names=("b",))}
    )
    assert counters == EngineCounters(steps=0.0)


BUCKETS = 'h_bucket{le="1"} 1\nh_bucket{le="2.5"} 1\nh_bucket{le="+Inf"} 3\nh_sum 9\nh_count 3\n'


def test_histogram_has_the_bounds_of_the_page() -> None:
    expected = Histogram(bounds=(1.0, 2.5, math.inf), cumulative=(1.0, 1.0, 3.0), sum=9.0)
    assert read_histogram(page_of(BUCKETS), ("h",)) == expected
    assert read_histogram(page_of(BUCKETS), ("newer", "h")) == expected


def test_histogram_does_not_depend_on_the_order_of_lines() -> None:
    backwards = "\n".join(reversed(BUCKETS.splitlines())) + "\n"
    assert read_histogram(page_of(backwards), ("h",)) == read_histogram(page_of(BUCKETS), ("h",))


def test_histogram_adds_over_labels_it_does_not_know() -> None:
    twice = "".join(
        line.replace("h_bucket{", f'h_bucket{{pid="{pid}",').replace("h_sum", f'h_sum{{pid="{pid}"}}') + "\n"
        for pid in "12"
        for line in BUCKETS.splitlines()
    )
    histogram = read_histogram(page_of(twice), ("h",))
    assert histogram == Histogram(bounds=(1.0, 2.5, math.inf), cumulative=(2.0, 2.0, 6.0), sum=18.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param('h_bucket{le="+Inf"} 3\n', "", id="no last bucket"),
        pytest.param("h_sum 9\n", "", id="no sum"),
        pytest.param('h_bucket{le="2.5"} 1', 'h_bucket{le="2.5"} 0', id="counts that fall"),
        pytest.param('le="2.5"', 'le="much"', id="a bound that is no number"),
        pytest.param('le="2.5"', 'le="NaN"', id="a bound that compares with none"),
        pytest.param('le="2.5"', 'ge="2.5"', id="a bucket without a bound"),
        pytest.param("h_", "g_", id="another family"),
    ],
)
def test_a_histogram_that_cannot_be_trusted_is_none(old: str, new: str) -> None:
    assert read_histogram(page_of(BUCKETS.replace(old, new)), ("h",)) is None


# --- ranks and labels ----------------------------------------------------------------------------


def test_ranks_stand_in_their_order_and_what_has_none_is_shared() -> None:
    page = page_of('a{r="10"} 10\na{r="9"} 9\nb 1\n')
    ranks, shared = split_ranks(page, "r")
    assert [(rank, own.value("a"), own.value("b")) for rank, own in ranks.items()] == [
        ("9", 9.0, None),
        ("10", 10.0, None),
    ]
    assert (shared.value("a"), shared.value("b")) == (None, 1.0)
    assert in_rank_order({"2", "11", "0", "1"}) == ["0", "1", "2", "11"]


def test_a_page_without_ranks_is_that_of_the_first() -> None:
    page = page_of("a 1\n")
    assert split_ranks(page, "r") == ({"0": page}, page)


@pytest.mark.parametrize(
    ("text", "number"),
    [("16", 16), ("0", 0), ("9" * 17, 10**17 - 1)]
    + [(text, None) for text in (None, "", "None", "-1", "1.0", "1e3", " 1", "1_0", "9" * 18)],
)
def test_a_label_that_is_a_whole_number_is_read(text: str | None, number: int | None) -> None:
    assert integer_of(text) == number


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("/models/llama-3.1 8B é", "/models/llama-3.1 8B é"),
        ("a\nb\x00c\x7f", r"a\nb\x00c\x7f"),
        ("left\u202eright\u2028", r"left\u202eright\u2028"),
        ("x" * 128, "x" * 128),
        ("x" * 129, "x" * 127 + "…"),
        ("\n" * 100, r"\n" * 63 + "\\…"),
    ],
)
def test_label_text_is_short_and_printable(text: str, label: str) -> None:
    assert label_text(text) == label
    assert len(label) <= 128
    assert label.isprintable()


def test_every_engine_has_a_name_of_its_own_and_wants_its_fingerprint() -> None:
    assert len({definition.name for definition in ENGINES}) == len(ENGINES)
    for definition in ENGINES:
        assert definition.fingerprint
        assert definition.fingerprint <= definition.wanted
        assert definition.derived <= set(COUNTER_NAMES)


def test_histogram_samples_are_those_that_are_read() -> None:
    assert histogram_samples(("h",)) == {"h_bucket", "h_sum"}
    page = parse_page(BUCKETS.encode(), histogram_samples(("h",)))
    assert read_histogram(page, ("h",)) is not None


@pytest.mark.parametrize(
    ("document", "text", "number", "count"),
    [
        ({"a": {"b": "x"}}, "x", None, None),
        ({"a": {"b": ""}}, None, None, None),
        ({"a": {"b": "x" * 5000}}, None, None, None),
        ({"a": {"b": 3}}, None, 3.0, 3),
        ({"a": {"b": 2.5}}, None, 2.5, None),
        ({"a": {"b": True}}, None, None, None),
        ({"a": {"b": -1}}, None, None, None),
        ({"a": {"b": math.nan}}, None, None, None),
        ({"a": {"b": math.inf}}, None, None, None),
        ({"a": {"b": 10**400}}, None, None, None),
        ({"a": ["b"]}, None, None, None),
        (["a"], None, None, None),
        (None, None, None, None),
    ],
)
def test_a_document_gives_what_it_has_in_the_right_shape(
    document: object, text: str | None, number: float | None, count: int | None
) -> None:
    assert (text_at(document, "a", "b"), number_at(document, "a", "b"), count_at(document, "a", "b")) == (
        text,
        number,
        count,
    )
    assert list_at(document, "a") == (["b"] if document == {"a": ["b"]} else [])


def test_adapters_are_not_rows_of_the_model() -> None:
    model, alias = {"id": "m", "parent": None}, {"id": "also-m"}
    rows = [model, alias, {"id": "adapter", "parent": "m"}, "m", None]
    assert own_models({"data": rows}) == [model, alias]
    assert own_models(None) == []
