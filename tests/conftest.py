"""What all tests share: the switch that rewrites goldens and generated files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
from hypothesis import settings

# No test is timed: a machine that is busy is not a bug.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

Golden = Callable[[Path, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="rewrite goldens and generated files instead of comparing with them; the diff is the review",
    )


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Golden:
    """Compare a text with a file of the repository, or rewrite that file."""

    def compare(path: Path, text: str) -> None:
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"{path} is missing; make generate writes it"
        assert text == path.read_text(), f"{path} is not what is generated now; make generate, then review"

    return compare


@pytest.fixture
def fresh_pynvml() -> Iterator[None]:
    """nvidia-ml-py keeps its library and the functions found in it for the life of the process."""

    def forget() -> None:
        pynvml.nvmlLib = None
        pynvml._nvmlGetFunctionPointer_cache.clear()

    forget()
    yield
    forget()
