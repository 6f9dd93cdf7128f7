"""The document read back: all that text needs, and nothing that acts on a terminal."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given

from agent.assessment import Assessment
from agent.errors import AgentError
from agent.exposition.json_view import assessment_document
from agent.exposition.picture import MAX_CHARACTERS, read_document
from agent.exposition.text_view import render_text
from tests.exposition import scenes
from tests.json_values import JSON

HOSTILE = "\x1b[2J\x1b]0;owned\x07evil\r\n\u202e\x9b31m"


def overwritten(value: Any, text: str) -> Any:
    """The document with each of its texts followed by this one."""
    if isinstance(value, dict):
        return {key: overwritten(item, text) for key, item in value.items()}
    if isinstance(value, list):
        return [overwritten(item, text) for item in value]
    return value + text if isinstance(value, str) else value


@pytest.mark.parametrize("scene", scenes.SCENES.values(), ids=scenes.SCENES.keys())
def test_a_document_over_a_wire_gives_the_same_picture(scene: Callable[[], Assessment]) -> None:
    document = assessment_document(scene())
    assert read_document(json.loads(json.dumps(document))) == read_document(document)


def test_numbers_and_their_evidence_are_those_of_the_document() -> None:
    node = read_document(assessment_document(scenes.memory_bound(), age_seconds=3.5))
    (gpu,), (engine,) = node.gpus, node.engines
    assert node.age_seconds == 3.5
    assert (gpu.verdict.bottleneck, gpu.up, gpu.partitioned) == ("memory_bandwidth", True, False)
    assert gpu.dram is not None
    assert gpu.dram.value == pytest.approx(0.70)
    assert gpu.dram.evidence == "gpm"
    assert gpu.roof is not None
    assert gpu.roof.ridge_flops_per_byte == pytest.approx(
        295.3 * gpu.roof.flops_per_second / 989.4e12, rel=1e-3
    )
    assert engine.batch == pytest.approx(8)
    assert engine.generation_tokens_per_second == pytest.approx(8 / 0.0072, rel=0.02)
    assert engine.usd_per_million_tokens is None
    assert [phase.name for phase in engine.phases] == ["prefill", "decode"]
    assert node.engines_on(gpu) == (engine,)
    assert node.gpus_of(engine) == (gpu,)


def test_what_no_counter_measures_is_shown_as_modelled() -> None:
    document = assessment_document(scenes.memory_bound())
    document["gpus"][0]["window"] |= {"dram_ratio": None, "tensor_ratio": None}
    document["gpus"][0]["dram_bytes_per_second"] = {"value": 1.675e12, "evidence": "modelled"}
    (gpu,) = read_document(document).gpus
    assert gpu.dram is not None
    assert gpu.dram.value == pytest.approx(0.5)
    assert gpu.dram.evidence == "modelled"
    assert gpu.tensor is not None
    assert gpu.tensor.evidence == "modelled"


@pytest.mark.parametrize(
    "document", [None, [], "a page", {}, {"status": "success"}, {"schema_version": True}]
)
def test_what_is_no_assessment_is_refused(document: object) -> None:
    with pytest.raises(AgentError, match="no assessment of a roofline-agent"):
        read_document(document)


def test_a_version_to_come_is_refused() -> None:
    document = assessment_document(scenes.memory_bound()) | {"schema_version": 2}
    with pytest.raises(AgentError, match="as new a version"):
        read_document(document)


@given(JSON, JSON, JSON)
def test_whatever_stands_in_a_document_can_be_read_and_written(gpu: Any, engine: Any, other: Any) -> None:
    document = {"schema_version": 1, "gpus": [gpu], "engines": [engine], "notes": other, "headline": other}
    render_text(read_document(document | {"sources": other, "advice": other}))


@given(JSON)
def test_any_field_may_be_anything(value: Any) -> None:
    document = copy.deepcopy(assessment_document(scenes.memory_bound()))
    for kind in ("gpus", "engines"):
        for name in document[kind][0]:
            changed = document | {kind: [document[kind][0] | {name: value}]}
            render_text(read_document(changed))


def test_nothing_in_it_acts_on_a_terminal() -> None:
    document = overwritten(assessment_document(scenes.memory_bound()), HOSTILE)
    text = render_text(read_document(document))
    assert "evil" in text
    assert text.replace("\n", "").isprintable()


def test_a_text_without_end_is_cut() -> None:
    document = assessment_document(scenes.memory_bound()) | {"headline": "x" * 10**6}
    assert len(read_document(document).headline) == MAX_CHARACTERS
