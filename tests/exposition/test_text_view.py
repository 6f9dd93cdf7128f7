"""The text of `once`: 80 columns, nothing twice, and numbers beside their units."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from agent.advice.words import counted
from agent.assessment import Assessment
from agent.exposition.json_view import assessment_document
from agent.exposition.line_breaks import NO_BREAK_SPACE, with_units
from agent.exposition.picture import read_document
from agent.exposition.status_page import StatusPage
from agent.exposition.text_view import WIDTH
from agent.exposition.text_view import render_text as render_picture
from tests.exposition import scenes

every_scene = pytest.mark.parametrize("scene", scenes.SCENES.values(), ids=scenes.SCENES.keys())


def render_text(assessment: Assessment) -> str:
    return render_picture(read_document(assessment_document(assessment)))


@every_scene
def test_lines_are_short_and_end_where_their_text_does(scene: Callable[[], Assessment]) -> None:
    for line in render_text(scene()).splitlines():
        assert len(line) <= WIDTH
        assert line == line.rstrip()
        assert NO_BREAK_SPACE not in line, "a search for 94 % would miss it"


def test_an_engine_without_a_model_leaves_no_blanks() -> None:
    assessment = scenes.engine_down()
    engine = replace(assessment.engines[0], model="")
    lines = render_text(replace(assessment, engines=(engine,))).splitlines()
    assert "vllm 127.0.0.1:8000 rank 0" in lines


def test_an_engine_that_does_not_answer_is_told_of_once() -> None:
    words = " ".join(render_text(scenes.engine_down()).split())
    assert words.count("refused; is the server up?") == 1


def test_a_source_that_fails_is_told_of_where_no_engine_tells_it() -> None:
    assert "no NVIDIA driver is loaded" in render_text(scenes.no_gpu())


def test_a_line_never_ends_between_a_number_and_its_unit() -> None:
    assessment = scenes.memory_bound()
    (gpu,) = assessment.gpus
    for length in range(40, 80):
        reason = "x" * length + " resident 94 % (gpm), 3.35 TB/s, 27.4 FLOP/byte, 5.8 ms, 1.3 × the cost"
        shown = replace(assessment, gpus=(replace(gpu, verdict=replace(gpu.verdict, reason=reason)),))
        lines = [line.strip() for line in render_text(shown).splitlines()]
        for unit in ("%", "TB/s", "FLOP/byte", "ms", "×"):
            assert not any(line.startswith(unit) for line in lines), lines


def test_the_page_keeps_numbers_and_units_together_too() -> None:
    assessment = scenes.memory_bound()
    (gpu,) = assessment.gpus
    reason = "kernels resident 94 % (gpm) <of> 3.35 TB/s"
    shown = replace(assessment, gpus=(replace(gpu, verdict=replace(gpu.verdict, reason=reason)),))
    html = StatusPage(version="0").render(shown, now_seconds=assessment.at_seconds)
    assert "kernels resident 94\u00a0% (gpm) &lt;of&gt; 3.35\u00a0TB/s" in html
    assert "confidence" in html
    assert " %" not in html.split("</style>")[1]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("94 % of 3 GB", "94_% of 3_GB"),
        ("1.05 PFLOP/s at 54 °C and 412 W", "1.05_PFLOP/s at 54_°C and 412_W"),
        ("12 s, 3 min, 2.4 h, 8 µs", "12_s, 3_min, 2.4_h, 8_µs"),
        ("2 × B200, 0.63 × the cost", "2_× B200, 0.63_× the cost"),
        ("8 sequences, 4 GPUs, 16 Bits, in 3 hours", "8 sequences, 4 GPUs, 16 Bits, in 3 hours"),
    ],
)
def test_units_are_told_from_other_words(text: str, kept: str) -> None:
    assert with_units(text) == kept.replace("_", NO_BREAK_SPACE)


def test_one_is_singular() -> None:
    assert [counted(number, "GPU") for number in (0, 1, 2)] == ["0 GPUs", "1 GPU", "2 GPUs"]
