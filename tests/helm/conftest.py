"""What is rewritten is rewritten before the first test renders it."""

from __future__ import annotations

import pytest

from helm.chart import CHART, render_files
from tests.dashboards.boards import WRITTEN, render_board


@pytest.fixture(scope="session", autouse=True)
def rewritten(request: pytest.FixtureRequest) -> None:
    """With `--update-golden` the chart is as generated now; other workers find nothing to write."""
    if request.config.getoption("--update-golden"):
        boards = {CHART / "files" / "dashboards" / f"{name}.json": render_board(name) for name in WRITTEN}
        for path, text in {**render_files(), **boards}.items():
            if not path.exists() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
