"""What tables and rooflines draw: Prometheus's answers, through Grafana's own reading and transformations.

Tables get answers with the labels that their queries leave. The roofline's queries are run by Prometheus
on series of known GPUs, and what must come of them is what Grafana is given.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.queries import SCOPE
from tests.dashboards.boards import Json, data_panels_of
from tests.dashboards.grafana_packages import run_script
from tests.dashboards.linter import parse_together
from tests.dashboards.promql import labels_after, parse, with_values
from tests.dashboards.specimen import judged, specimen
from tests.promtool import promtool

Frames = list[list[Json]]
Series = tuple[Mapping[str, str], float]

ALL = judged()
TABLES = {
    f"{name}: {panel['title']}": panel
    for name, content in ALL.items()
    for panel in data_panels_of(content)
    if panel["type"] == "table"
}


def draw(panels: Iterable[tuple[Json, Mapping[str, Sequence[Series]]]]) -> list[Frames]:
    """What each panel draws, given the answers to its queries."""
    given = [
        {
            "targets": panel["targets"],
            "transformations": panel.get("transformations", []),
            "answers": {
                ref: [{"labels": dict(labels), "value": value} for labels, value in series]
                for ref, series in answers.items()
            },
        }
        for panel, answers in panels
    ]
    frames: list[Frames] = run_script("transform.cjs", given)
    return frames


def field(frame: list[Json], name: str) -> list[Any]:
    (found,) = (one for one in frame if one["name"] == name)
    values = found["values"]
    assert isinstance(values, list)
    return values


def frame_with(name: str, frames: Frames) -> list[Json]:
    (found,) = (frame for frame in frames if name in [one["name"] for one in frame])
    return found


# --- tables ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn_tables() -> Mapping[str, Frames]:
    """Each with three rows, whose queries answer in different orders."""
    parse_together(ALL.values())
    given = []
    for panel in TABLES.values():
        answers = {}
        for number, target in enumerate(panel["targets"]):
            (node,) = parse([target["expr"]])
            labels = labels_after(node)
            assert labels is not None, f"{panel['title']}: nobody can say which columns come back"
            rows = (0, 1, 2) if number % 2 else (2, 0, 1)
            answers[target["refId"]] = [
                ({label: f"{label} {row}" for label in labels}, float(10 * number + row)) for row in rows
            ]
        given.append((panel, answers))
    return dict(zip(TABLES, draw(given), strict=True))


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_its_columns_and_no_others(name: str, drawn_tables: Mapping[str, Frames]) -> None:
    panel = TABLES[name]
    (frame,) = drawn_tables[name]
    shown = [one["name"] for one in frame]
    (organized,) = (one["options"] for one in panel["transformations"] if one["id"] == "organize")
    assert set(shown) == set(organized["renameByName"].values())
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["options"] in shown
    for one in panel["options"]["sortBy"]:
        assert one["displayName"] in shown
    linked = re.findall(r"\$\{__data\.fields\.(\w+)", str(panel["fieldConfig"]))
    assert set(linked) <= {one["key"] for one in frame} | set(shown)


@pytest.mark.parametrize("name", TABLES)
def test_a_table_has_one_row_for_each_thing(name: str, drawn_tables: Mapping[str, Frames]) -> None:
    (frame,) = drawn_tables[name]
    for number, column in enumerate(one for one in frame if one["type"] == "number"):
        assert sorted(column["values"]) == [10.0 * number, 10.0 * number + 1, 10.0 * number + 2]
        for other in frame:
            if other["type"] == "string":
                assert [int(value) % 10 for value in column["values"]] == [
                    int(value[-1]) for value in other["values"]
                ]


def test_a_query_without_an_answer_leaves_its_column_empty() -> None:
    (frames,) = draw([(TABLES["specimen: GPUs"], {"B": [({"instance": "n1", "gpu": "0"}, 0.5)]})])
    (frame,) = frames
    assert {one["name"]: one["values"] for one in frame} == {
        "Node": ["n1"],
        "GPU": ["0"],
        "Power": [None],
        "Attained": [0.5],
    }


# --- the roofline ----------------------------------------------------------------------------------------

TERA = 1e12
PARTS: Mapping[str, tuple[float, float]] = {
    "H100": (1000 * TERA, 3.2 * TERA),
    "L40S": (360 * TERA, 0.9 * TERA),
}
"""By part, FLOP/s and bytes/s."""


def labels_of(gpu: int) -> str:
    return f'job="agent",instance="n1",gpu="{gpu}",uuid="GPU-{gpu}"'


def input_series() -> list[Json]:
    """Two GPUs, one of each part, at work for ten minutes."""
    found = []
    for gpu, (part, (flops, bandwidth)) in enumerate(PARTS.items()):
        labels = labels_of(gpu)
        for name, further, value in (
            ("gpu_info", f',part="{part}"', "1"),
            ("gpu_peak_flops_per_second", ',dtype="bf16"', f"{flops}"),
            ("gpu_ridge_flops_per_byte", ',dtype="bf16"', f"{flops / bandwidth}"),
            ("gpu_peak_flops_per_second", ',dtype="fp8"', f"{2 * flops}"),
            ("gpu_ridge_flops_per_byte", ',dtype="fp8"', f"{2 * flops / bandwidth}"),
        ):
            found.append({"series": f"roofline_{name}{{{labels}{further}}}", "values": f"{value}x60"})
        # 3 and 4 FLOP/byte, at 3 and 4 TFLOP/s, by two kinds of evidence that must be added.
        for name, each in (("gpu_flops_total", (3 + gpu) * 5 * TERA), ("gpu_dram_bytes_total", 5 * TERA)):
            for evidence in ("gpm", "modelled"):
                series = f'roofline_{name}{{{labels},evidence="{evidence}"}}'
                found.append({"series": series, "values": f"0+{each}x60"})
    return found


def corners(*, double: bool) -> tuple[list[Series], list[Series]]:
    """Of each part's roof the x and the y of left end, ridge, right end, and back."""
    xs: list[Series] = []
    ys: list[Series] = []
    for part, (flops, bandwidth) in PARTS.items():
        top = 2 * flops if double else flops
        ridge = top / bandwidth
        drawn = [(0.1, 0.1 * bandwidth), (ridge, top), (10_000, top), (ridge, top), (0.1, 0.1 * bandwidth)]
        labels = [
            {"part": part, "number": str(number), "corner": f"{part} {number}"}
            for number in range(len(drawn))
        ]
        xs += [(one, x) for one, (x, _) in zip(labels, drawn, strict=True)]
        ys += [(one, y) for one, (_, y) in zip(labels, drawn, strict=True)]
    return xs, ys


def expected_answers() -> dict[str, list[Series]]:
    """By refId, what Prometheus answers to the roofline of GPUs."""
    points: list[list[Series]] = [
        [({"instance": "n1", "gpu": str(gpu), "uuid": f"GPU-{gpu}"}, (3 + gpu) * scale) for gpu in (0, 1)]
        for scale in (1, TERA)
    ]
    bf16, fp8 = corners(double=False), corners(double=True)
    return dict(zip("ABCDEF", [*points, *bf16, *fp8], strict=True))


def chart(title: str) -> Json:
    (found,) = (panel for panel in data_panels_of(specimen()) if panel["title"] == title)
    return found


def everywhere(expr: str) -> str:
    """With All chosen."""
    for label in (*SCOPE, "gpu"):
        expr = expr.replace(f"${label}", ".*")
    return with_values(expr)


def test_prometheus_answers_with_points_and_corners(tmp_path: Path) -> None:
    answers = expected_answers()
    asked = [
        {
            "expr": f"round({everywhere(target['expr'])}, 0.001)",
            "eval_time": "10m",
            "exp_samples": [
                {
                    "labels": "{" + ",".join(f'{key}="{text}"' for key, text in labels.items()) + "}",
                    "value": round(value, 3),
                }
                for labels, value in answers[target["refId"]]
            ],
        }
        for target in chart("GPUs on the roofline")["targets"]
    ]
    test = {"interval": "10s", "input_series": input_series(), "promql_expr_test": asked}
    path = tmp_path / "roofline.yaml"
    path.write_text(yaml.safe_dump({"rule_files": [], "evaluation_interval": "10s", "tests": [test]}))
    tested = promtool("test", "rules", path)
    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.fixture(scope="module")
def drawn_roofline() -> Frames:
    """The chart of GPUs; no answer comes in the order in which it is drawn."""
    answers = {ref: series[::-1] if ref in "BDE" else series for ref, series in expected_answers().items()}
    (frames,) = draw([(chart("GPUs on the roofline"), answers)])
    return frames


def test_each_gpu_is_a_point(drawn_roofline: Frames) -> None:
    points = frame_with("GPUs", drawn_roofline)
    assert [one["name"] for one in points] == ["Node", "GPU", "UUID", "FLOP/byte", "GPUs"]
    found = zip(*(field(points, name) for name in ("GPU", "FLOP/byte", "GPUs")), strict=True)
    assert sorted(found) == [("0", 3, 3 * TERA), ("1", 4, 4 * TERA)]


@pytest.mark.parametrize(("dtype", "double"), [("bf16", False), ("fp8", True)])
def test_the_roofs_of_a_dtype_are_one_line(dtype: str, double: bool, drawn_roofline: Frames) -> None:
    roofs = frame_with(f"{dtype} roof", drawn_roofline)
    assert [one["name"] for one in roofs] == ["Part", "FLOP/byte", f"{dtype} roof"]
    xs, ys = corners(double=double)
    assert field(roofs, "FLOP/byte") == [value for _, value in xs]
    assert field(roofs, f"{dtype} roof") == [value for _, value in ys]


def test_the_chart_makes_one_series_of_each_frame(drawn_roofline: Frames) -> None:
    """In auto mode it draws each number of a frame that is not its x (xychart/utils.ts, prepSeries)."""
    panel = chart("GPUs on the roofline")
    assert panel["options"]["mapping"] == "auto"
    (series,) = panel["options"]["series"]
    x = series["x"]["matcher"]
    assert x["id"] == "byName"
    drawn = []
    for frame in drawn_roofline:
        numbers = [one["name"] for one in frame if one["type"] == "number"]
        assert numbers.count(x["options"]) == 1
        drawn += [name for name in numbers if name != x["options"]]
    assert sorted(drawn) == ["GPUs", "bf16 roof", "fp8 roof"]
    for override in panel["fieldConfig"]["overrides"]:
        assert override["matcher"]["options"] in (x["options"], *drawn)


def test_a_chart_without_points_still_has_its_roofs() -> None:
    answers = {ref: series for ref, series in expected_answers().items() if ref not in "AB"}
    (frames,) = draw([(chart("GPUs on the roofline"), answers)])
    drawn = {frame[-1]["name"]: len(frame[-1]["values"]) for frame in frames}
    assert drawn == {"bf16 roof": 10, "fp8 roof": 10, "GPUs": 0}


def test_a_transformation_that_is_none_is_refused() -> None:
    panel = {"targets": [], "transformations": [{"id": "joinByWish", "options": {}}]}
    with pytest.raises(AssertionError, match="no such transformation: joinByWish"):
        draw([(panel, {})])
