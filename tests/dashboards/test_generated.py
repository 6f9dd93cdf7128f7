"""Each board is generated from its module, and generating it again changes nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Golden
from tests.dashboards.boards import ROOT, WRITTEN, generated_path, render_board


@pytest.mark.parametrize("name", WRITTEN)
def test_the_board_is_what_its_module_writes(name: str, golden: Golden) -> None:
    golden(generated_path(name), render_board(name))


@pytest.mark.parametrize("name", WRITTEN)
def test_it_is_the_same_byte_for_byte_each_time(name: str) -> None:
    assert render_board(name) == render_board(name)


def test_no_generated_board_is_left_without_its_module() -> None:
    assert {path.stem for path in generated_path("any").parent.glob("*.json")} == set(WRITTEN)


def test_grafanalibs_own_command_gives_the_same(tmp_path: Path) -> None:
    name = next(iter(WRITTEN))
    subprocess.run(
        [Path(sys.executable).with_name("generate-dashboard"), "-o", tmp_path / "board.json", WRITTEN[name]],
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert (tmp_path / "board.json").read_text() == generated_path(name).read_text()
