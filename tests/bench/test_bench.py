"""The bench's own arithmetic, and that what it runs still runs; no figure of time is looked at."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from tests.bench.__main__ import BEGIN, END, PAGE, told, with_figures
from tests.bench.beats import beats_of
from tests.bench.growth import Line
from tests.bench.peers import compared, parts
from tests.bench.table import Figure, Table
from tests.bench.watched import Cost, cpu_seconds
from tests.nvml_standin import compile_library


def test_points_on_a_line_have_its_slope_and_nothing_off_it() -> None:
    line = Line.through({size: 3.0 + 2.0 * size for size in (1, 2, 8, 64)})
    assert [line.slope, line.intercept, line.r_squared] == pytest.approx([2.0, 3.0, 1.0])
    assert line.deviation == pytest.approx(0.0, abs=1e-12)


def test_a_bend_shows_in_the_farthest_point() -> None:
    line = Line.through({0: 1.0, 1: 1.0, 2: 4.0})
    assert [line.slope, line.intercept, line.r_squared] == pytest.approx([1.5, 0.5, 0.75])
    assert line.deviation == pytest.approx(1.0), "twice as much as was measured at 1"


def test_one_size_makes_no_line() -> None:
    with pytest.raises(ValueError, match="two points"):
        Line.through({8: 1.0})


def test_a_promise_is_kept_only_if_all_of_it_holds() -> None:
    def kept(agent: float, peer: float | None = None) -> bool | None:
        return Figure(what="", agent=agent, peer=peer, unit="ms", budget=1.0, ratio_budget=0.2).kept

    assert [kept(1.0, 5.0), kept(1.0, 4.0), kept(1.1, 9.0)] == [True, False, False]
    assert kept(1.0) is True
    assert Figure(what="", agent=1.0, unit="ms").kept is None


def test_two_paces_tell_a_page_from_a_tick() -> None:
    tick, page = parts(often_ms=4.0 + 3.0 * 8 / 5, seldom_ms=4.0 + 3.0 * 8 / 15)
    assert [tick.agent, page.agent] == pytest.approx([4.0, 3.0])


def test_what_is_printed_is_in_the_document(capsys: pytest.CaptureFixture[str]) -> None:
    def cost(milliseconds: float) -> Cost:
        return Cost(
            start_seconds=1.0,
            start_cpu_seconds=1.0,
            rest_ms=milliseconds,
            scrape_ms=milliseconds,
            latencies_ms=(1.0, 2.0, 9.0),
            resident_mebibytes=50.0,
            series=100,
            page_bytes=1024,
        )

    table = Table()
    table.section("all", peer="peer")
    table.add(*compared(cost(15.0), cost(30.0)))
    assert [one.what for one in table.missed] == ["CPU, scraped every 15 s", "CPU of a scrape"]
    printed = capsys.readouterr().out
    document = json.loads(json.dumps(table.document()))
    assert [row["what"] in printed for row in document["all"]] == [True] * len(document["all"])
    (scraped,) = (row for row in document["all"] if row["what"] == "CPU, scraped every 15 s")
    assert [scraped["agent"], scraped["ratio"]] == pytest.approx([1.6, 0.5])
    assert scraped["kept"] is False
    assert "| CPU of a scrape | 15 ms | 30 | 0.5 | ≤ 1 ms, ratio ≤ 0.2: **missed** |" in table.markdown()


def test_the_page_gets_other_figures_and_keeps_its_words() -> None:
    run: dict[str, object] = {"python": "3", "cores": 2, "load_before": 0.1}
    run |= {"loop_ms_before": 1.0, "loop_ms_after": 2.0}
    page = with_figures(PAGE.read_text(), told(run), "| a |\n")
    assert page.partition(BEGIN)[0] == PAGE.read_text().partition(BEGIN)[0]
    assert page.partition(END)[2] == PAGE.read_text().partition(END)[2]
    assert with_figures(page, told(run), "| a |\n") == page
    with pytest.raises(ValueError, match="lacks a mark"):
        with_figures("", "", "")


def test_the_cpu_clock_of_a_process_is_its_own() -> None:
    before = time.process_time()
    assert before <= cpu_seconds(os.getpid()) <= time.process_time()


def test_a_small_node_is_beaten_by_hand(tmp_path: Path) -> None:
    beats = beats_of(compile_library(tmp_path), gpus=1, engines=1, seconds=5)
    assert beats.series > 200
    assert 1 < beats.floor_nvml_calls < 30
    assert min(beats.tick_ms, beats.floor_nvml_ms, beats.floor_page_ms) > 0
