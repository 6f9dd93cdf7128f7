"""The review as JSON, for programs, and the schema of it."""

from __future__ import annotations

import json

from agent.report.document import Review

SCHEMA_URL = "https://json-schema.org/draft/2020-12/schema"


def render_json(review: Review) -> str:
    """All of it; what nobody can tell is `null`."""
    return review.model_dump_json(indent=2) + "\n"


def render_schema() -> str:
    """What every such file is like, with what each field means and its unit."""
    schema = {"$schema": SCHEMA_URL} | Review.model_json_schema(mode="serialization")
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
