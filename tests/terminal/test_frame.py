"""Frames: what is said, that it fits, and that what others write does nothing but stand there."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from agent.assessment import Assessment
from agent.exposition.json_view import assessment_document
from agent.simulate.scenarios import SCENARIOS
from agent.terminal.command import painter
from agent.terminal.frame import Frame, Size, compose
from agent.terminal.glyphs import ASCII, Glyphs, encoded, glyphs_for
from agent.terminal.rows import SORTS
from agent.terminal.sight import Sight
from agent.terminal.state import State
from tests.conftest import Golden
from tests.exposition import scenes
from tests.exposition.test_picture import HOSTILE, overwritten
from tests.json_values import JSON
from tests.terminal.pictures import document_of, drawn, sight_of, text_of

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[2]

every_scene = pytest.mark.parametrize("scene", scenes.SCENES.values(), ids=scenes.SCENES.keys())


def fits(frame: Frame, width: int, height: int) -> None:
    assert len(frame.lines) == height
    for line in frame.lines:
        assert cell_len(line.plain) <= width, line.plain
        assert line.plain.isprintable()


# --- goldens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "scenario", "keys", "width", "height"),
    [
        ("node-80x24", "node", (), 80, 24),
        ("node-120x30", "node", (), 120, 30),
        ("node-200x50", "node", (), 200, 50),
        ("node-60x14", "node", ("G",), 60, 14),
        ("detail-80x60", "node", ("enter",), 80, 60),
        ("engine-80x50", "node", ("G", "enter"), 80, 50),
        ("advice-80x40", "node", ("a",), 80, 40),
        ("help-80x40", "node", ("?",), 80, 40),
        ("gpu-lost-80x24", "gpu-lost", ("j",), 80, 24),
        ("throttled-detail-100x50", "throttled", ("enter",), 100, 50),
        ("measured-by-dcgm-80x24", "measured-by-dcgm", (), 80, 24),
        ("kv-nearly-full-80x24", "kv-nearly-full", ("j",), 80, 24),
    ],
)
def test_frames_are_as_reviewed(
    name: str, scenario: str, keys: tuple[str, ...], width: int, height: int, golden: Golden
) -> None:
    frame = drawn(sight_of(document_of(scenario)), *keys, width=width, height=height)
    fits(frame, width, height)
    golden(GOLDEN / f"{name}.txt", text_of(frame) + "\n")


def test_the_picture_of_the_documentation_is_what_is_drawn(golden: Golden) -> None:
    frame = drawn(sight_of(document_of("node")), "j", "j", width=110, height=24)
    console = Console(
        record=True, width=110, file=io.StringIO(), force_terminal=True, color_system="truecolor"
    )
    console.print(Text("\n").join(frame.lines), soft_wrap=True)
    svg = console.export_svg(title="roofline-agent top", unique_id="top")
    # A picture asks nobody for a font; it has the reader's own.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL).replace("Fira Code, ", "")
    assert "url(http" not in svg
    golden(ROOT / "docs" / "images" / "top.svg", svg)


def test_the_table_of_the_documentation_is_what_is_drawn(golden: Golden) -> None:
    page = ROOT / "docs" / "top.md"
    before, _, rest = page.read_text().partition("```text\n")
    table = text_of(drawn(sight_of(document_of("node"))))
    golden(page, f"{before}```text\n{table}\n```{rest.partition('```')[2]}")


# --- every state of a node -------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_is_drawn_at_any_size(scenario: str) -> None:
    sight = sight_of(document_of(scenario))
    for width, height in ((80, 24), (40, 10), (133, 43), (250, 60), (20, 5)):
        for keys in ((), ("enter",), ("G", "enter"), ("a",), ("?",), ("/", "x")):
            fits(drawn(sight, *keys, width=width, height=height), width, height)


@every_scene
def test_every_scene_is_drawn(scene: Callable[[], Assessment]) -> None:
    sight = sight_of(assessment_document(scene()))
    for keys in ((), ("enter",), ("G", "enter"), ("a",), ("s",) * 3):
        fits(drawn(sight, *keys), 80, 24)


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        ("dcgm-down after 200", ["model", "A source fails"]),
        ("memory-bound-decode", ["The GPU waits for memory.", "memory bandwidth", "gpm", "traffic"]),
        ("compute-bound-prefill", ["The GPU computes.", "compute"]),
        ("interconnect", ["interconnect", "0–7"]),
        ("kernel-latency", ["kernel latency"]),
        ("host-bound", ["the host"]),
        ("idle", ["The GPU is idle.", "idle"]),
        ("hung-engine", ["cannot be judged", "unknown", "it may hang"]),
        ("gpu-lost", ["lost", "down", "1 cannot be read"]),
        ("throttled", ["throttled", "power cap"]),
        ("driver-down after 100", ["No GPU can be read", "A source fails: nvml", "cannot be read now"]),
        ("failing-memory", ["fault", "drain this GPU"]),
        ("max-num-seqs", ["max_num_seqs"]),
        ("kv-nearly-full", ["24.9", "26.4", "5.3 %"]),
        ("measured-by-dcgm", ["dcgm"]),
    ],
)
def test_what_matters_of_a_scenario_is_on_the_first_screen(scenario: str, words: list[str]) -> None:
    name, _, seconds = scenario.partition(" after ")
    text = text_of(drawn(sight_of(document_of(name, float(seconds) if seconds else None))))
    assert [word for word in words if word not in text] == []


def test_no_gpu_and_no_engine_are_said() -> None:
    text = text_of(drawn(sight_of(assessment_document(scenes.no_gpu()))))
    assert "No GPU is seen on this node." in text
    assert "GPUs: none can be seen" in text
    assert "engines: none is watched" in text
    assert "no NVIDIA driver is loaded" in text


def test_without_a_price_the_cost_of_tokens_is_a_dash() -> None:
    with_prices, without = document_of("memory-bound-decode"), document_of("memory-bound-decode")
    without["engines"][0] |= {"usd_per_hour": None, "usd_per_million_tokens": None}
    row = text_of(drawn(sight_of(with_prices))).splitlines()[6]
    assert row.endswith(" 0.95")
    assert text_of(drawn(sight_of(without))).splitlines()[6].endswith(" –")


def test_evidence_is_seen_in_the_bars() -> None:
    lines = text_of(drawn(sight_of(document_of("dcgm-down", 200.0)))).splitlines()
    (row,) = (line for line in lines if line.startswith("▶ 0"))
    assert " model" in row


# --- age -------------------------------------------------------------------------------------------


def test_a_picture_that_is_old_is_grey_and_says_how_old() -> None:
    document = document_of("memory-bound-decode")
    fresh, old = (drawn(sight_of(document), at=at) for at in (1.0, 34.0))
    assert "just now" in text_of(fresh)
    assert "34 s old" in text_of(old)
    assert "The agent has stopped to sample" in text_of(old)
    assert "stopped to sample" in text_of(drawn(sight_of(document | {"age_seconds": 60.0})))
    # The row of the GPU has its colour only while it is news.
    assert any(span.style for span in fresh.lines[3].spans)
    assert {str(line.style) for line in old.lines[3:8] if line.plain.strip()} == {"dim"}


def test_what_keeps_news_from_coming_is_said_above_the_last_picture() -> None:
    problem = "agent at http://gpu-7:10095: refused; is the agent up, and is this its port?"
    text = text_of(drawn(sight_of(document_of("idle"), problem=problem), at=3.0))
    assert problem in text
    assert "3 s old" in text
    assert "The GPU is idle." in text


def test_before_the_first_picture_there_is_only_what_is_known() -> None:
    frame = drawn(
        Sight(origin="agent at http://h", problem="agent at http://h: no complete answer"), "j", "enter", "s"
    )
    assert "no complete answer" in text_of(frame)
    assert "Nothing is known yet." in text_of(frame)


# --- order and filter ------------------------------------------------------------------------------


def gpus_of(text: str) -> list[str]:
    """The numbers of the GPUs, as they stand in the upper half."""
    upper = text[text.index("  GPU   bound by") :].split("\n\n")[0].splitlines()[1:]
    return [line[2:].split()[0] for line in upper]


@pytest.mark.parametrize(
    ("sort", "reverse", "order"),
    [
        ("as on the node", False, "01234567"),
        ("as on the node", True, "76543210"),
        ("most tensor", False, "2145670345"),
        ("least of the roof", False, "32"),
        ("bound by", False, "2"),
    ],
)
def test_rows_are_sorted(sort: str, reverse: bool, order: str) -> None:
    presses = [sort_.name for sort_ in SORTS].index(sort)
    keys = [*"s" * presses, *(["r"] if reverse else [])]
    numbers = "".join(gpus_of(text_of(drawn(sight_of(document_of("node")), *keys))))
    assert len(numbers) == 8
    assert numbers.startswith(order[: min(len(order), 3)])


def test_the_worst_stands_first_and_what_is_not_known_last() -> None:
    document = document_of("gpu-lost")
    assert gpus_of(text_of(drawn(sight_of(document), "s"))) == ["1", "0"]
    assert gpus_of(text_of(drawn(sight_of(document), "s", "s", "s"))) == ["0", "1"]


@pytest.mark.parametrize(
    ("words", "gpus", "engines"),
    [
        ("memory", 6, 3),
        ("70b", 4, 1),
        ("COMPUTE", 1, 1),
        ("8b host", 1, 1),
        (":8004", 4, 1),
        ("nothing like that", 0, 0),
    ],
)
def test_a_filter_finds_rows_by_their_words(words: str, gpus: int, engines: int) -> None:
    frame = drawn(sight_of(document_of("node")), "/", *words, "enter")
    kinds = [key.split()[0] for key in frame.shown.rows]
    assert (kinds.count("gpu"), kinds.count("engine")) == (gpus, engines)
    assert f"/{words}" in frame.lines[-1].plain
    if not gpus:
        assert "nothing is found by this filter" in text_of(frame)


def test_the_selected_row_is_always_on_the_screen() -> None:
    sight = sight_of(document_of("node"))
    for steps in range(13):
        frame = drawn(sight, *"j" * steps, height=14)
        assert sum(line.plain.startswith("▶") for line in frame.lines) == 1


def test_a_row_that_goes_while_it_is_looked_at_is_said_to_be_gone() -> None:
    state = State(page="detail", selected="gpu 9 GPU-9")
    frame = compose(
        sight_of(document_of("idle")), state, size=Size(width=80, height=24), now_seconds=1.0, glyphs=Glyphs()
    )
    assert "It is there no longer" in text_of(frame)


# --- the roofline ----------------------------------------------------------------------------------


def test_the_points_of_a_detail_lie_on_their_sides_of_the_ridge() -> None:
    lines = text_of(drawn(sight_of(document_of("node")), "enter", width=100, height=60)).splitlines()
    chart = [line for line in lines if "│" in line]
    ridge = next(line.index("┊") for line in chart if "┊" in line)
    (gpu,) = (line.index("●") for line in chart if "●" in line)
    (decode,) = (line.index("d") for line in chart if "d" in line.split("ridge")[0])
    (prefill,) = (line.index("p") for line in chart if "p" in line)
    assert decode <= gpu < ridge < prefill


def test_a_roof_that_is_held_down_is_drawn_below_its_peak() -> None:
    text = text_of(drawn(sight_of(document_of("throttled")), "enter", width=100, height=60))
    assert "as clocked" in text
    roofs = [
        line
        for line in text.splitlines()
        if line.count("⎻") + line.count("─") + line.count("⎺") + line.count("⎼") > 15
    ]
    assert len(roofs) >= 3  # the peak, the roof, and the axis


# --- terminals -------------------------------------------------------------------------------------


def test_a_terminal_without_these_characters_gets_others() -> None:
    assert glyphs_for("utf-8") == Glyphs()
    for encoding in ("ascii", "latin-1", "no such encoding", None):
        assert glyphs_for(encoding) == ASCII
    frame = drawn(sight_of(document_of("node")), "enter", height=50, glyphs=ASCII)
    assert b"?" not in encoded(text_of(frame).rpartition("\n")[0], "ascii")


def test_colours_are_the_terminals_own_and_can_be_left_out() -> None:
    frame = drawn(sight_of(document_of("node")))
    coloured, plain, none = (
        "\n".join(painter(no_color=no_color, is_plain=is_plain)(frame.lines))
        for no_color, is_plain in ((False, False), (True, False), (False, True))
    )
    assert "\x1b[33m" in coloured
    assert "\x1b[33m" not in plain
    assert "\x1b[1m" in plain
    assert "\x1b" not in none
    assert none == "\n".join(line.plain for line in frame.lines)


# --- what others write -----------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [(), ("enter",), ("G", "enter"), ("a",)])
@pytest.mark.parametrize(
    "text", [HOSTILE, "[red]not[/red] [/] [link=http://h]x", ":warning: 漢字漢字", "e\u0301" * 40]
)
def test_what_others_write_stands_there_and_does_nothing(text: str, keys: tuple[str, ...]) -> None:
    document = overwritten(document_of("gpu-lost"), text)
    for width in (80, 200):
        frame = drawn(sight_of(document), *keys, width=width)
        fits(frame, width, 24)
        painted = painter(no_color=False, is_plain=True)(frame.lines)
        assert list(painted) == [line.plain for line in frame.lines]


def test_markup_is_no_markup() -> None:
    document = document_of("memory-bound-decode") | {"headline": "[bold]The GPU[/bold] :smile: waits"}
    painted = painter(no_color=True, is_plain=True)(drawn(sight_of(document)).lines)
    assert "[bold]The GPU[/bold] :smile: waits" in painted


@settings(max_examples=60)
@given(JSON, st.sampled_from(["gpus", "engines", "advice", "sources"]), st.sampled_from(["", "enter", "a"]))
def test_any_field_may_be_anything(value: Any, kind: str, key: str) -> None:
    document = assessment_document(scenes.memory_bound())
    for name in document[kind][0]:
        changed = document | {kind: [document[kind][0] | {name: value}]}
        fits(drawn(sight_of(changed), *filter(None, [key])), 80, 24)
