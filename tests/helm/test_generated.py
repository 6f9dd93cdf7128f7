"""What of the chart is a view of something else is generated, and generating it again changes nothing."""

from __future__ import annotations

import pytest

from helm.chart import CHART, render_files
from tests.conftest import Golden
from tests.dashboards.boards import WRITTEN, render_board

FILES = {str(path.relative_to(CHART)): text for path, text in render_files().items()}
BOARDS = CHART / "files" / "dashboards"


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_generated(name: str, golden: Golden) -> None:
    golden(CHART / name, FILES[name])


@pytest.mark.parametrize("name", WRITTEN)
def test_the_board_is_that_of_the_repository(name: str, golden: Golden) -> None:
    golden(BOARDS / f"{name}.json", render_board(name))


def test_there_are_no_other_boards() -> None:
    assert {path.stem for path in BOARDS.glob("*.json")} == set(WRITTEN)
