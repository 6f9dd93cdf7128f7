"""The picture: XML that needs nothing else, with each point where it belongs."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from agent import planning
from agent.errors import AgentError
from agent.exposition.label_placement import Box, text_width
from agent.planning.picture import PLOT_HEIGHT, draw
from agent.roofline.planner import Plan, Point, plan
from tests.test_advise import options

SVG = "{http://www.w3.org/2000/svg}"


def planned(*gpus: str, batches: Sequence[int] = (1, 8, 64)) -> list[Plan]:
    return [
        plan(Point(model="llama-3.1-8b", gpu=gpu, phase=phase, batch=batch, context=1000))
        for gpu in gpus
        for batch in batches
        for phase in ("decode", "prefill")
    ]


def markers(picture: Element) -> list[Element]:
    """Of the plot, each with its title; those of the legend have none."""
    shapes = [*picture.iter(f"{SVG}circle"), *picture.iter(f"{SVG}rect")]
    return [shape for shape in shapes if shape.find(f"{SVG}title") is not None]


def centre(shape: Element) -> tuple[float, float]:
    if shape.tag == f"{SVG}circle":
        return float(shape.attrib["cx"]), float(shape.attrib["cy"])
    x, y, side = (float(shape.attrib[name]) for name in ("x", "y", "width"))
    return x + side / 2, y + side / 2


def texts(picture: Element) -> list[str]:
    return [element.text or "" for element in picture.iter(f"{SVG}text")]


def test_each_point_is_there_once_and_says_what_it_is() -> None:
    plans = planned("H100", "L40S", "T4")
    picture = ElementTree.fromstring(draw(plans))
    found = markers(picture)
    assert len(found) == len(plans)
    titles = [shape.findtext(f"{SVG}title") or "" for shape in found]
    for each in plans:
        wanted = f"on 1 × {each.spec.name}, {each.point.phase} at batch {each.point.batch}:"
        (title,) = (title for title in titles if wanted in title)
        assert each.bottleneck in title
    assert sum(shape.attrib["class"] == "decode" for shape in found) == len(plans) / 2


def test_both_axes_are_logarithmic() -> None:
    plans = planned("H100")
    picture = ElementTree.fromstring(draw(plans))
    ticks = {text.text: text.attrib for text in picture.iter(f"{SVG}text") if text.attrib["class"] == "quiet"}
    left, bottom = float(ticks["1"]["x"]), float(ticks["1 T"]["y"]) - 4
    across = float(ticks["10"]["x"]) - left
    up = bottom - (float(ticks["10 T"]["y"]) - 4)
    at = {shape.findtext(f"{SVG}title") or "": centre(shape) for shape in markers(picture)}
    for each in plans:
        wanted = f"{each.point.phase} at batch {each.point.batch}:"
        (place,) = (place for title, place in at.items() if wanted in title)
        x = left + across * math.log10(each.arithmetic_intensity_flops_per_byte)
        y = bottom - up * math.log10(each.flops_per_second / 1e12)
        assert place == pytest.approx((x, y), abs=0.5)


def test_each_gpu_has_its_roofs_and_no_point_is_above_them() -> None:
    plans = planned("H100", "A100", "L40S")
    picture = ElementTree.fromstring(draw(plans))
    roofs = [line for line in picture.iter(f"{SVG}polyline") if line.attrib["class"] == "roof"]
    assert len(roofs) == 3
    for each in plans:
        assert each.flops_per_second <= each.roof.attainable(each.arithmetic_intensity_flops_per_byte)
    said = " ".join(texts(picture))
    for words in ("H100-SXM5-80GB bf16 989 TFLOP/s, 3.35 TB/s", "ridge 295", "ridge 153", "ridge 419"):
        assert words in said


def test_each_batch_and_phase_is_labelled() -> None:
    said = texts(ElementTree.fromstring(draw(planned("H100", "L40S"))))
    for number in (1, 2):
        for phase in ("decode", "prefill"):
            labelled = [text for text in said if re.fullmatch(rf"{number}: {phase} [\d, ]+", text)]
            batches = {int(batch) for text in labelled for batch in re.findall(r"\d+", text.split(phase)[1])}
            assert batches == {1, 8, 64}
    assert any(text.startswith("2: llama-3.1-8b on 1 × L40S") for text in said), "and there is a legend"


def test_no_text_of_the_plot_covers_another() -> None:
    picture = ElementTree.fromstring(draw(planned("H100", "A100", "L40S", batches=(1, 4, 16, 64))))
    boxes = []
    for text in picture.iter(f"{SVG}text"):
        shift = {"start": 0.0, "middle": 0.5, "end": 1.0}[text.attrib["text-anchor"]]
        words = text.text or ""
        x, y = float(text.attrib["x"]) - shift * text_width(words), float(text.attrib["y"])
        if y < PLOT_HEIGHT:
            boxes.append((words, Box.of_text(x, y, words)))
    assert len(boxes) > 20
    covered = [(a, b) for n, (a, one) in enumerate(boxes) for b, two in boxes[:n] if one.overlap(two) > 12]
    assert covered == []


def test_it_needs_nothing_else_and_knows_light_and_dark() -> None:
    picture = draw(planned("H100"))
    assert "prefers-color-scheme:dark" in picture
    assert not re.search(r"href|url\(|<script|@import", picture)
    assert re.findall(r"https?://[^\"]+", picture) == ["http://www.w3.org/2000/svg"]
    used = set(re.findall(r"var\((--\w+)\)", picture))
    light, dark = picture.split("@media")
    for side in (light, dark):
        assert used <= set(re.findall(r"(--\w+):", side))


def test_names_are_escaped(tmp_path: Path) -> None:
    each = planned("H100")[0]
    config = {"model_type": "llama", "num_hidden_layers": 2, "hidden_size": 256, "num_attention_heads": 4}
    config |= {"num_key_value_heads": 4, "intermediate_size": 512, "vocab_size": 1000}
    odd = plan(Point(model="<b>&", gpu=each.spec.name), config=config)
    assert any("<b>& on" in text for text in texts(ElementTree.fromstring(draw([odd]))))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--model", "llama-3.1-8b", "--gpu", "H100,RTX-4090", "--batch", "1,32"),
        ("--simplified",),
    ],
    ids=["points", "the lesson"],
)
def test_the_command_draws_beside_the_table(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    path = tmp_path / "roofline.svg"
    assert planning.run(options(*arguments, "--picture", str(path))) == 0
    assert capsys.readouterr().out
    assert ElementTree.parse(path).getroot().tag == f"{SVG}svg"


def test_a_picture_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "roofline.svg"
    with pytest.raises(AgentError, match="cannot be written"):
        planning.run(options("--model", "llama-3.1-8b", "--gpu", "H100", "--picture", str(path)))
