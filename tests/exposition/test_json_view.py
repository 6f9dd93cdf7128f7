"""The JSON document: a contract for other programs."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from agent.accounts import GpuTotals
from agent.assessment import Assessment, Quantity
from agent.exposition import json_view
from agent.exposition.json_view import AssessmentPage, assessment_document
from agent.readings import Histogram
from agent.window import EngineTotals
from tests.exposition import scenes
from tests.exposition.scenes import SCENES

every_scene = pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())

TOP = {
    *("schema_version", "age_seconds", "node", "at_unix_seconds", "started_unix_seconds", "interval_seconds"),
    *("driver_version", "headline", "notes", "advice", "gpus", "engines", "sources"),
    *("allocations", "tiers", "unclear", "configuration"),
}
ADVICE = {
    *("kind", "engines", "gpus", "title", "reason", "evidence", "wrong_when", "after", "expected"),
    *("benefit_gpus", "effect", "subject"),
}
EFFECT = {
    *("tokens_per_second_ratio", "seconds_per_token_ratio", "usd_per_million_tokens_ratio", "batch"),
    *("kv_tokens", "bytes_freed", "gpus_freed", "usd_per_hour_saved"),
}
GPU = {
    *(
        "index",
        "number",
        "uuid",
        "name",
        "up",
        "problem",
        "partitioned",
        "compute_dtype",
        "compute_clock_ratio",
    ),
    *("memory_clock_ratio", "flops_per_second", "dram_bytes_per_second", "intensity", "attained_ratio"),
    *(
        "throttle",
        "faults",
        "verdict",
        "roofs",
        "reading",
        "health",
        "window",
        "engines",
        "totals",
        "history",
    ),
}
ENGINE = {
    *("server", "rank", "engine", "model", "up", "problem", "gpu_uuids", "served_origin", "busy_ratio"),
    *("verdict", "served", "reading", "window", "traffic", "phases", "roof", "attribution", "kv"),
    *(
        "limiter",
        "limiter_reason",
        "max_num_seqs",
        "ridge_flops_per_byte",
        "ridge_batch",
        "max_intensity_flops_per_byte",
    ),
    *("generation_tokens_per_second", "prefill_tokens_per_second"),
    *("usd_per_hour", "usd_per_million_tokens"),
    *("agreement_ratio", "interference_ratio", "totals", "work_totals", "placed_by", "container"),
}
SOURCE = {
    *("name", "up", "absent", "interval_seconds", "last_success_unix_seconds", "read_duration_seconds"),
    *("reads", "failures", "reason", "message", "age_seconds", "problems"),
}


def values(node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for key, value in node.items():
            assert type(key) is str
            yield from values(value)
    elif isinstance(node, list):
        for value in node:
            yield from values(value)
    else:
        yield node


@every_scene
def test_document_is_plain_json_and_reads_back_the_same(scene: Callable[[], Assessment]) -> None:
    document = assessment_document(scene())
    assert {type(value) for value in values(document)} <= {str, int, float, bool, type(None)}
    assert json.loads(json.dumps(document, allow_nan=False)) == document


@every_scene
def test_fields_are_the_same_in_every_state(scene: Callable[[], Assessment]) -> None:
    document = assessment_document(scene())
    assert document["schema_version"] == 1
    assert set(document) == TOP
    for kind, fields in (("advice", ADVICE), ("gpus", GPU), ("engines", ENGINE), ("sources", SOURCE)):
        for item in document[kind]:
            assert set(item) == fields


def test_numbers_are_those_of_the_assessment() -> None:
    assessment = scenes.memory_bound()
    document = assessment_document(assessment)
    gpu, engine = document["gpus"][0], document["engines"][0]
    assert gpu["verdict"]["bottleneck"] == "memory_bandwidth"
    assert gpu["verdict"]["reason"] == assessment.gpus[0].verdict.reason
    assert gpu["roofs"]["by_dtype"]["bf16"]["peak"] == {
        "flops_per_second": 989.4e12,
        "dram_bytes_per_second": 3.35e12,
        "ridge_flops_per_byte": pytest.approx(295.3, abs=0.1),
    }
    assert gpu["intensity"]["evidence"] == "mixed"
    assert gpu["engines"] == [{"server": "127.0.0.1:8000", "rank": "0"}]
    assert engine["served"]["total_parameters"] == 8_030_261_248
    assert engine["traffic"]["decode_batch"] == pytest.approx(8)
    assert engine["phases"]["decode"]["intensity_flops_per_byte"] == pytest.approx(7.9, abs=0.1)
    assert engine["kv"]["free_tokens"] == pytest.approx(396_800)
    assert engine["max_num_seqs"] == 256
    assert document["headline"] == "The GPU waits for memory."


def test_parts_still_add_up_to_the_whole() -> None:
    document = assessment_document(scenes.memory_bound())
    totals = document["gpus"][0]["totals"]
    assert sum(totals["bottleneck_seconds"].values()) == pytest.approx(totals["observed_seconds"])
    assert sum(totals["evidence_seconds"]["dram_bytes"].values()) == pytest.approx(totals["observed_seconds"])
    engine = document["engines"][0]
    assert sum(engine["attribution"]["shares"].values()) == pytest.approx(1)
    work = engine["work_totals"]
    assert sum(work["phase_seconds"].values()) == pytest.approx(work["observed_seconds"])
    assert set(work["dram_bytes"]["decode"]) == {"weights", "kv_cache", "activations"}


def test_advice_has_its_effect_in_numbers() -> None:
    (quantize, other) = assessment_document(scenes.memory_bound())["advice"]
    assert quantize["kind"] == "quantize_weights"
    assert quantize["engines"] == [{"server": "127.0.0.1:8000", "rank": "0"}]
    assert quantize["gpus"] == [{"index": 0, "uuid": "GPU-0", "number": "0"}]
    assert set(quantize["effect"]) == EFFECT
    assert 1.2 < quantize["effect"]["tokens_per_second_ratio"] < 2
    assert quantize["effect"]["gpus_freed"] is None
    assert other["after"] == ["quantize_weights"]


def test_what_is_not_known_is_null() -> None:
    document = assessment_document(scenes.unknown())
    gpu, engine = document["gpus"][0], document["engines"][0]
    assert gpu["roofs"] is None
    assert gpu["intensity"] is None
    assert gpu["reading"]["power_watts"] is None
    assert engine["served"] is None
    assert engine["phases"] is None
    assert engine["attribution"] is None
    lost = assessment_document(scenes.gpu_lost())["gpus"][1]
    assert lost["up"] is False
    assert lost["reading"] is None
    assert "fallen off the bus" in lost["problem"]


def test_a_source_says_how_it_is() -> None:
    failed = assessment_document(scenes.engine_down())["sources"][1]
    assert failed["up"] is False
    assert failed["reason"] == "refused"
    assert failed["failures"] == {"refused": 8, "internal": 0, "timeout": 0}
    assert failed["age_seconds"] == pytest.approx(44)
    absent = assessment_document(scenes.no_gpu())["sources"][0]
    assert absent["absent"] is True
    assert absent["reason"] is None
    assert "no NVIDIA driver" in absent["message"]


def test_a_number_that_json_has_no_word_for_is_null() -> None:
    assessment = scenes.memory_bound()
    gpu = replace(
        assessment.gpus[0],
        attained_ratio=math.nan,
        flops_per_second=Quantity(value=math.inf, evidence="modelled"),
        totals=GpuTotals(cost_usd=math.nan, dram_bytes={"gpm": math.inf}),
    )
    document = assessment_document(replace(assessment, gpus=(gpu,)))["gpus"][0]
    assert document["attained_ratio"] is None
    assert document["flops_per_second"] == {"value": None, "evidence": "modelled"}
    assert document["totals"]["cost_usd"] is None
    assert document["totals"]["dram_bytes"] == {"gpm": None}


def test_a_histogram_leaves_out_the_infinite_bound_and_keeps_its_count() -> None:
    assessment = scenes.memory_bound()
    histogram = Histogram(bounds=(0.1, 1.0, math.inf), cumulative=(1.0, 3.0, 4.0), sum=5.5)
    engine = replace(
        assessment.engines[0], totals=EngineTotals(histograms={"time_to_first_token": histogram})
    )
    document = assessment_document(replace(assessment, engines=(engine,)))["engines"][0]
    assert document["totals"]["histograms"]["time_to_first_token"] == {
        "bounds": [0.1, 1.0],
        "cumulative": [1.0, 3.0, 4.0],
        "sum": 5.5,
    }


@every_scene
def test_the_page_is_the_document_with_the_age_of_the_request(scene: Callable[[], Assessment]) -> None:
    page, assessment = AssessmentPage(), scene()
    for age in (0.25, 3.5):
        assert json.loads(page.render(assessment, age_seconds=age)) == json.loads(
            json.dumps(assessment_document(assessment, age_seconds=age))
        )


def test_a_new_assessment_is_a_new_page_and_the_same_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Assessment] = []

    def make(assessment: Assessment) -> dict[str, Any]:
        made.append(assessment)
        return assessment_document(assessment)

    monkeypatch.setattr(json_view, "assessment_document", make)
    page, first = AssessmentPage(), scenes.memory_bound()
    second = replace(first, node="another")
    for assessment in (first, first, second, second, first):
        told = json.loads(page.render(assessment, age_seconds=0.0))
        assert told["node"] == assessment.node
    assert made == [first, second, first]
