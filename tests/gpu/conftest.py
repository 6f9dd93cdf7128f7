"""A stand-in NVML that any user may read, for the tests of gpu-check that need no GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.nvml_standin import StandIn, compile_library


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def stand_in(nvml_library: Path) -> Iterator[StandIn]:
    # Not under pytest's own directory: that one is closed to the user that has no privileges.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        yield StandIn(nvml_library, Path(directory))
