"""The status page: right words, safe markup, a roofline that can be read, and a browser that agrees."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest

from agent.advice.node import advise_node
from agent.assessment import Assessment, EngineKey, Quantity, Span
from agent.exposition.headline import headline, notes, render_numbers
from agent.exposition.roofline_chart import RooflineChart, roofline_chart
from agent.exposition.status_page import StatusPage, history_pieces, history_words, step_pieces
from agent.roofline.bottleneck import BOTTLENECKS, WORDS
from tests.exposition import scenes
from tests.exposition.scenes import SCENES

PAGE = StatusPage(version="1.2.3")
HOSTILE = "<script>alert('1')</script>\"onload=x"


def render(assessment: Assessment | None, *, late_seconds: float = 0.4, paused: bool = False) -> str:
    now = 0.0 if assessment is None else assessment.at_seconds + late_seconds
    return PAGE.render(assessment, now_seconds=now, paused=paused)


def parse(html: str) -> ElementTree.Element:
    """The page is well-formed XML too, so that a stray character cannot hide."""
    return ElementTree.fromstring(html)


def text_of(html: str) -> str:
    return " ".join("".join(parse(html).itertext()).split())


def chart_of(assessment: Assessment, *, brief: bool = False) -> RooflineChart:
    chart = roofline_chart(assessment, width=400 if brief else 900, height=420 if brief else 530, brief=brief)
    assert chart is not None
    return chart


every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())


# --- markup ----------------------------------------------------------------------------------------


@every_scene
def test_page_is_well_formed_and_asks_for_nothing_else(scene: Callable[[], Assessment]) -> None:
    html = render(scene())
    ids = []
    for element in parse(html).iter():
        assert element.tag not in ("script", "img", "iframe", "object", "form", "foreignObject")
        for name, value in element.attrib.items():
            assert name != "style", "the policy forbids style attributes"
            assert not name.startswith("on")
            if name in ("href", "src"):
                assert value.startswith(("/", "#", "data:image/svg+xml,")), value
        ids += [element.attrib["id"]] if "id" in element.attrib else []
    assert len(ids) == len(set(ids))


@every_scene
def test_every_symbol_that_is_used_is_defined(scene: Callable[[], Assessment]) -> None:
    page = parse(render(scene()))
    defined = {element.attrib["id"] for element in page.iter("symbol")}
    used = {element.attrib["href"].removeprefix("#") for element in page.iter("use")}
    assert used <= defined
    assert defined == set(BOTTLENECKS)


def test_what_comes_from_outside_is_escaped() -> None:
    assessment = scenes.memory_bound(model=HOSTILE, node=HOSTILE)
    down = scenes.engine_down()
    assessment = replace(
        assessment,
        engines=(*assessment.engines, replace(down.engines[0], problem=HOSTILE, model=HOSTILE)),
        gpus=tuple(replace(gpu, name=HOSTILE, problem=HOSTILE) for gpu in assessment.gpus),
    )
    html = render(assessment)
    assert "<script" not in html
    assert HOSTILE in text_of(html)


def test_policy_allows_exactly_the_style_on_the_page() -> None:
    style = parse(render(None)).find(".//style")
    assert style is not None
    assert style.text is not None
    digest = base64.b64encode(hashlib.sha256(style.text.encode()).digest()).decode()
    assert PAGE.style_source == f"'sha256-{digest}'"


# --- words -----------------------------------------------------------------------------------------


@every_scene
def test_every_verdict_is_there_with_its_reason(scene: Callable[[], Assessment]) -> None:
    assessment = scene()
    text = text_of(render(assessment))
    said = [gpu.verdict.reason if gpu.up else gpu.problem for gpu in assessment.gpus]
    said += [engine.verdict.reason if engine.up else engine.problem for engine in assessment.engines]
    for words in said:
        assert words
        assert words in text
    for source in assessment.sources:
        assert source.name in text


@every_scene
def test_every_class_has_an_entry_in_the_key_wherever_there_is_a_chart(
    scene: Callable[[], Assessment],
) -> None:
    assessment = scene()
    page = parse(render(assessment))
    key = page.find(".//dl[@class='classes']")
    has_roof = any(gpu.spec is not None for gpu in assessment.gpus)
    assert (key is not None) == has_roof
    if key is not None:
        words = ["".join(term.itertext()) for term in key.iter("dt")]
        assert all(any(WORDS[name] in entry for entry in words) for name in BOTTLENECKS), (
            f"the key has {words}"
        )
        assert len(words) == len(BOTTLENECKS)


STORIES = {
    "no GPU": ("No GPU is seen on this node.", "no NVIDIA driver is loaded", "roofline-agent demo"),
    "NVML switched off": ("nvml.enabled", "engines:"),
    "GPU lost": ("1 of 2 GPUs waits for memory, 1 cannot be read.", "has fallen off the bus"),
    "engine down": ("An engine does not answer", "refused", "down"),
    "unknown": ("The GPU cannot be judged.", "not in the catalogue", "roofs:", "no profiling counters"),
    "contradicting": ("cannot be judged: evidence contradicts itself",),
    "throttled": ("is throttled: the compute roof is", "power cap", "the roof as the GPU is clocked now"),
    "eight GPUs": ("7 of 8 GPUs wait for memory, 1 is idle.", "GPU 0–6", "Not on the chart"),
    "memory bound": (
        "The GPU waits for memory.",
        "modelled",
        "“GPU utilization”",
        "share of time a kernel ran",
    ),
}


@pytest.mark.parametrize("name", STORIES)
def test_page_tells_the_story(name: str) -> None:
    text = text_of(render(SCENES[name]()))
    for words in STORIES[name]:
        assert words in text


def test_numbers_of_an_engine_are_shown_against_what_bounds_them() -> None:
    assessment = scenes.memory_bound()
    engine = assessment.engines[0]
    assert engine.kv is not None
    text = text_of(render(assessment))
    for words in (
        "weights bf16, KV bf16, 1 GPU",
        "architecture: catalogue",
        "8 running, 0 waiting",
        "the KV cache holds 1,019",
        "the scheduler allows 256",
        "FLOP/byte; the ridge is 295",
        "396,800 tokens free",
        "Batch held by",
    ):
        assert words in text


def test_what_to_do_is_said_with_its_effect_and_when_it_is_wrong() -> None:
    assessment = scenes.memory_bound()
    html = render(assessment)
    text = text_of(html)
    advices = advise_node(assessment)
    assert "What to do" in text
    assert len(parse(html).findall(".//ol[@class='card todo']/li")) == len(advices)
    for advice in advices:
        for words in (advice.title, advice.subject, advice.expected, advice.reason, advice.wrong_when):
            assert words in text
    assert "on top of quantize weights" in text


def test_nothing_to_do_is_no_section() -> None:
    assert "What to do" not in text_of(render(scenes.no_gpu()))


def test_before_the_first_assessment_the_page_says_so_and_comes_again() -> None:
    html = render(None)
    assert "Nothing is measured yet." in text_of(html)
    assert parse(html).find(".//meta[@http-equiv='refresh']") is not None


def test_paused_page_stays_as_it_is() -> None:
    html = render(scenes.memory_bound(), paused=True)
    assert parse(html).find(".//meta[@http-equiv='refresh']") is None
    assert parse(html).find(".//header//a[@href='/']") is not None


def test_old_numbers_are_called_old() -> None:
    assessment = scenes.memory_bound()
    assert "These numbers are" not in render(assessment, late_seconds=9)
    assert "These numbers are 45 s old" in text_of(render(assessment, late_seconds=45))


def test_headline_counts_each_class_once() -> None:
    assessment = scenes.eight_gpus()
    mixed = replace(
        assessment,
        gpus=tuple(
            replace(gpu, verdict=replace(gpu.verdict, bottleneck=name))
            for gpu, name in zip(assessment.gpus, (*BOTTLENECKS, "compute"), strict=True)
        ),
    )
    words = " ".join(clause.text + clause.mark for clause in headline(mixed))
    assert words == (
        "2 of 8 GPUs compute, 1 waits for memory, 1 waits for other GPUs, 1 runs small kernels, "
        "1 waits for its host, 1 is idle, 1 cannot be judged."
    )


def test_notes_name_an_engine_near_its_limits_and_a_model_that_does_not_fit() -> None:
    assessment = scenes.memory_bound()
    engine = assessment.engines[0]
    assert engine.kv is not None
    assert notes(assessment) == ()

    def noted(**changes: object) -> str:
        changed = replace(engine, **changes)  # type: ignore[arg-type]  # the fields are named by each case
        return " ".join(notes(replace(assessment, engines=(changed,))))

    assert "near its KV limit: 96 % used" in noted(kv=replace(engine.kv, used_ratio=0.96))
    assert "fills its KV cache in 90 s" in noted(kv=replace(engine.kv, seconds_to_full=90.0))
    assert "held by its KV cache: 4 wait." in noted(limiter="kv_cache", limiter_reason="4 wait")
    assert "the model says 2.5 ×" in noted(agreement_ratio=2.5)
    assert noted(agreement_ratio=1.1) == ""


@pytest.mark.parametrize(
    ("numbers", "words"),
    [("", ""), ("3", "3"), ("1 0", "0, 1"), ("0 4 5 6 7", "0, 4–7"), ("2 2 9", "2, 9"), ("1:7 0", "0, 1:7")],
)
def test_numbers_are_listed_as_people_do(numbers: str, words: str) -> None:
    assert render_numbers(numbers.split()) == words


def test_strip_shows_the_last_quarter_of_an_hour_and_says_it_in_words() -> None:
    now = 10_000.0
    history = (
        Span(start_unix_seconds=now - 2000, end_unix_seconds=now - 450, bottleneck="idle"),
        Span(start_unix_seconds=now - 450, end_unix_seconds=now, bottleneck="memory_bandwidth"),
    )
    old, recent = history_pieces(history, now)
    assert (old.start, old.length, old.kind) == (0, 50, "idle")
    assert (recent.start, recent.length, recent.kind) == (50, 50, "memory_bandwidth")
    assert history_words(history, now) == "idle 50 %, memory bandwidth 50 %"
    assert history_words((), now) == ""


def test_step_bar_is_full() -> None:
    pieces = step_pieces(scenes.memory_bound().engines[0])
    assert sum(piece.length for piece in pieces) == pytest.approx(100, abs=0.05)
    assert pieces[0].kind == "memory_bandwidth"


# --- the chart -------------------------------------------------------------------------------------


def test_no_chart_without_a_roof() -> None:
    for scene in (scenes.no_gpu, scenes.unknown):
        assert roofline_chart(scene(), width=900, height=530, brief=False) is None


def test_points_lie_below_the_roof_and_the_axes_are_logarithmic() -> None:
    assessment = scenes.memory_bound()
    chart, gpu = chart_of(assessment), assessment.gpus[0]
    assert gpu.intensity is not None
    assert gpu.flops_per_second is not None
    frame = chart.frame
    assert frame.x(100) - frame.x(10) == pytest.approx(frame.x(10) - frame.x(1), abs=0.2)
    (place,) = chart.clusters[0].places
    assert place == (frame.x(gpu.intensity.value), frame.y(gpu.flops_per_second.value))
    roof = gpu.peak_roof("bf16")
    assert roof is not None
    assert place[1] >= frame.y(roof.attainable(gpu.intensity.value))


def test_off_the_scale_is_at_the_edge() -> None:
    frame = chart_of(scenes.memory_bound()).frame
    assert frame.x(1e-9) == frame.left
    assert frame.x(1e9) == frame.x_end
    assert frame.y(1.0) == frame.y_end


def test_only_a_lowered_roof_is_drawn_again() -> None:
    assert not chart_of(scenes.memory_bound()).has_lowered
    assert chart_of(scenes.throttled()).has_lowered


def test_each_part_of_a_mixed_node_has_its_roofs() -> None:
    assessment = scenes.eight_gpus()
    l4 = scenes.observe(scenes.node_of(replace(scenes.H100, name="NVIDIA L4"))).gpus[0]
    chart = chart_of(replace(assessment, gpus=(*assessment.gpus[:3], l4)))
    labels = [label.text for label in chart.roof_labels]
    assert "H100-SXM5-80GB memory 3.35 TB/s" in labels
    assert "L4 memory 300 GB/s" in labels
    assert any(label.startswith("L4 bf16 121 TFLOP/s") for label in labels)


def crowd(seed: int) -> Assessment:
    """Eight GPUs of all classes and eight engines within one decade of each other."""
    assessment = scenes.eight_gpus()
    engine = assessment.engines[0]
    assert engine.attribution is not None
    gpus = []
    for index, gpu in enumerate(assessment.gpus):
        intensity = 3 * 10 ** ((index * (seed + 3) % 8) / 16)
        gpus.append(
            replace(
                gpu,
                intensity=Quantity(value=intensity, evidence="mixed"),
                flops_per_second=Quantity(value=intensity * 3e12 * (0.4 + index / 16), evidence="modelled"),
                verdict=replace(gpu.verdict, bottleneck=BOTTLENECKS[index % len(BOTTLENECKS)]),
            )
        )
    engines = [
        replace(
            engine,
            key=EngineKey(server=f"10.0.0.{index}:8000", rank="0"),
            attribution=replace(engine.attribution, decode_seconds=10.0 * 1.3**index),
        )
        for index in range(8)
    ]
    return replace(assessment, gpus=tuple(gpus), engines=tuple(engines))


@pytest.mark.parametrize("seed", range(4))
def test_labels_of_near_points_do_not_cover_each_other_or_a_point(seed: int) -> None:
    chart = chart_of(crowd(seed))
    assert len(chart.clusters) >= 8
    for one, other in combinations(chart.clusters, 2):
        assert one.label.box.overlap(other.label.box) == 0, (one.label.text, other.label.text)
    for cluster in chart.clusters:
        box = cluster.label.box
        assert box.left >= chart.frame.left
        assert box.right <= chart.frame.x_end
        for x, y in (place for other in chart.clusters for place in other.places):
            assert not (box.left < x < box.right and box.top < y < box.bottom)


def test_every_point_has_a_label_and_a_tooltip_with_its_numbers() -> None:
    chart = chart_of(crowd(0))
    points = sum(len(cluster.places) for cluster in chart.clusters)
    titles = [title for cluster in chart.clusters for title in cluster.titles]
    assert len(titles) == points
    assert all("FLOP/byte" in title and "FLOP/s" in title for title in titles)


def test_gpus_that_do_the_same_share_a_label() -> None:
    chart = chart_of(scenes.eight_gpus())
    assert [cluster.label.text for cluster in chart.clusters] == ["GPU 0–6", "prefill 1–7", "decode 1–7"]
    assert chart.absent == "7"


def test_phase_speed_is_that_of_one_gpu_while_the_phase_runs() -> None:
    assessment = scenes.memory_bound()
    engine = assessment.engines[0]
    assert engine.work is not None
    assert engine.attribution is not None
    chart = chart_of(assessment)
    (decode,) = [cluster for cluster in chart.clusters if cluster.label.text.startswith("decode")]
    speed = engine.work.decode.flops / engine.attribution.decode_seconds
    assert decode.places[0][1] == chart.frame.y(speed)
    assert math.isclose(decode.places[0][0], chart.frame.x(engine.work.decode.intensity_flops_per_byte or 0))
