"""What all tests share: the switch that rewrites goldens and generated files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pynvml
import pytest
from hypothesis import settings

from tests.machines import Machine, Watch, Watched
from tests.nvml_standin import GENERATIONS, StandIn, compile_library

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


WAITING = ("test_incidents.py",)
"""Modules that mostly wait: begun first, they wait beside the others and not after them."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in WAITING)


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


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """One library a generation of the driver."""
    return {
        driver: compile_library(tmp_path_factory.mktemp(f"nvml-{driver}"), without=generation.missing)
        for driver, generation in GENERATIONS.items()
    }


@pytest.fixture
def watch(libraries: dict[int, Path], tmp_path: Path, fresh_pynvml: None) -> Iterator[Watch]:
    watched: list[Watched] = []

    def begin(machine: Machine, *, configuration: str = "") -> Watched:
        stand_in = StandIn(libraries[machine.driver], tmp_path / "nvml")
        watched.append(Watched(machine, stand_in, tmp_path / "proc", configuration=configuration))
        return watched[-1]

    yield begin
    for one in watched:
        one.close()


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_library(tmp_path_factory.mktemp("nvml"))
