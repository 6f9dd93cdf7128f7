"""A month with a known truth, in real databases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.report import databases
from tests.report.month import Month
from tests.report.raw_span import Span
from tests.rig.programs import Program


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is made once lies here, for all test processes."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def span(made: Path) -> Span:
    return databases.span_of(made)[1]


@pytest.fixture(scope="session")
def span_in_prometheus(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory, _ = databases.span_of(made)
    with databases.in_prometheus(directory, tmp_path_factory.mktemp("span")) as program:
        yield program


@pytest.fixture(scope="session")
def month(span: Span) -> Month:
    """What is in the databases, and its truth."""
    return Month(span)


@pytest.fixture(scope="session")
def month_in_prometheus(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with databases.month_in_prometheus(made, tmp_path_factory.mktemp("month")) as program:
        yield program


@pytest.fixture(scope="session")
def month_in_victoria(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with databases.month_in_victoria(made, tmp_path_factory.mktemp("victoria")) as program:
        yield program
