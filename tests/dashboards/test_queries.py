"""Prometheus's own parser takes every query of every board."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

import yaml

from tests.dashboards.boards import queries_of
from tests.dashboards.promql import with_values
from tests.dashboards.specimen import judged
from tests.promtool import promtool


def check_rules(exprs: Iterable[str], directory: Path) -> subprocess.CompletedProcess[str]:
    """What promtool says of rules that record these."""
    rules = [
        {"record": f"board:query:number{number}", "expr": with_values(expr)}
        for number, expr in enumerate(exprs)
    ]
    path = directory / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "boards", "rules": rules}]}))
    return promtool("check", "rules", path)


def test_promtool_parses_every_query(tmp_path: Path) -> None:
    exprs = [asked.expr for content in judged().values() for asked in queries_of(content)]
    checked = check_rules(exprs, tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert f"SUCCESS: {len(exprs)} rules found" in checked.stdout


def test_promtool_refuses_what_is_no_query(tmp_path: Path) -> None:
    assert check_rules(["sum by (gpu) (rate(roofline_gpu_up[$__rate_interval])"], tmp_path).returncode != 0
