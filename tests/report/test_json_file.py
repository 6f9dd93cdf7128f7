"""The review as JSON: what is written can be read again, and the schema is of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from agent.report.document import Review
from agent.report.render import render_json, render_schema
from tests.conftest import Golden
from tests.report.sample import REVIEWS

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "report.schema.json"


@pytest.mark.parametrize("name", REVIEWS)
def test_what_is_written_is_read_again(name: str) -> None:
    review = REVIEWS[name]()
    assert Review.model_validate_json(render_json(review)) == review


def test_schema_is_as_reviewed(golden: Golden) -> None:
    golden(SCHEMA_FILE, render_schema())


@pytest.mark.parametrize("name", REVIEWS)
def test_schema_takes_every_review(name: str) -> None:
    schema = json.loads(render_schema())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(json.loads(render_json(REVIEWS[name]())), schema)


def wrong(name: str, value: Any) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(render_json(REVIEWS["a month"]()))
    return document | {name: value}


@pytest.mark.parametrize(
    ("name", "value"),
    [("schema_version", 2), ("summary", []), ("classes", [{}]), ("surprise", 1), ("is_complete", None)],
)
def test_schema_refuses_what_is_none(name: str, value: Any) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wrong(name, value), json.loads(render_schema()))


def test_every_field_says_what_it_is_where_its_name_does_not() -> None:
    totals = json.loads(render_schema())["$defs"]["Totals"]["properties"]
    assert "on average" in totals["nodes"]["description"].lower()
