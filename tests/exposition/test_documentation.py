"""The documentation of the metrics is the table's own, and no text names a metric that does not exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent.exposition.documentation import render_metrics_document
from agent.metrics import TABLE
from tests.conftest import Golden

ROOT = Path(__file__).parents[2]
TEXTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "rules" / "runbooks").glob("*.md")),
]


def test_the_document_is_generated(golden: Golden) -> None:
    golden(ROOT / "docs" / "metrics.md", render_metrics_document())


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_metric_named_in_a_text_exists(path: Path) -> None:
    known = {metric.full_name for metric in TABLE}
    families = {name.removesuffix("_total").removesuffix("_info") for name in known}
    for name in re.findall(r"\broofline_[a-z0-9_]+", path.read_text()):
        bare = re.sub(r"_(bucket|sum|count)$", "", name)
        assert name in known or bare in known or name in families, f"{path.name} names {name}"
