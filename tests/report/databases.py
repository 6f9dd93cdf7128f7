"""The raw span and the month in real databases; made once for all tests that are run together."""

from __future__ import annotations

import fcntl
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import requests

from tests.promtool import back_fill
from tests.report.month import Month, json_lines, openmetrics_lines
from tests.report.raw_span import Span, make_span
from tests.rig.programs import Program, free_port, running, stored_prometheus

_T = TypeVar("_T")

IMPORT_BYTES = 8 << 20
"""Of one request; a series is never cut."""


def made_once(shared: Path, name: str, make: Callable[[Path], _T]) -> tuple[Path, _T]:
    """A folder that is filled once, whichever of the test processes comes first, and what was said of it."""
    directory, told = shared / name, shared / f"{name}.pickle"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not told.exists():
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            made = make(directory)
            told.write_bytes(pickle.dumps(made))
    loaded: _T = pickle.loads(told.read_bytes())
    return directory, loaded


def span_of(shared: Path) -> tuple[Path, Span]:
    """The raw span, and where its blocks are."""
    return made_once(shared, "span", make_span)


def month_of(shared: Path) -> Month:
    """The month of that span's tiles."""
    return Month(span_of(shared)[1])


@contextmanager
def in_prometheus(made: Path, directory: Path) -> Iterator[Program]:
    """One that answers of blocks that were made: of links to them, since it changes what it holds."""
    shutil.copytree(made / "data", directory / "data", copy_function=os.link)
    with stored_prometheus(directory) as program:
        yield program


@contextmanager
def month_in_prometheus(
    shared: Path, directory: Path, *, every_node_series: bool = False
) -> Iterator[Program]:
    """The month in a Prometheus: all that a review asks for, or all that is recorded."""
    month = month_of(shared)

    def make(into: Path) -> None:
        back_fill(openmetrics_lines(month, month.series(every_node_series=every_node_series)), into)

    made, _ = made_once(shared, "whole-month" if every_node_series else "month", make)
    with in_prometheus(made, directory) as program:
        yield program


@contextmanager
def month_in_victoria(shared: Path, directory: Path) -> Iterator[Program]:
    """The same in a VictoriaMetrics."""
    month = month_of(shared)
    port = free_port()
    command = (
        "victoria-metrics",
        "-storageDataPath=victoria",
        "-retentionPeriod=100y",
        f"-httpListenAddr=127.0.0.1:{port}",
        "-memory.allowedBytes=512MB",
    )
    with running(
        command, package="victoria-metrics", port=port, ready="/health", directory=directory
    ) as program:
        _import(program, json_lines(month, month.series()))
        yield program


def _import(victoria: Program, lines: Iterator[str]) -> None:
    for body in _bodies(lines):
        answer = requests.post(f"{victoria.url}/api/v1/import", data=body, timeout=60)
        assert answer.status_code == 204, f"{answer.text}\n{victoria.log()}"
    assert victoria.get("/internal/force_flush").ok  # else what came last cannot be asked for yet


def _bodies(lines: Iterator[str]) -> Iterator[bytes]:
    body = bytearray()
    for line in lines:
        body += line.encode()
        if len(body) >= IMPORT_BYTES:
            yield bytes(body)
            body.clear()
    yield bytes(body)
