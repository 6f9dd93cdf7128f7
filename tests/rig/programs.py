"""The real programs: each runs at a free port until it is left, and what it wrote is in every failure."""

from __future__ import annotations

import random
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import requests

START_SECONDS = 60.0
"""What takes longer on a machine that is busy with other tests takes for ever."""
END_SECONDS = 5.0
ANSWER_SECONDS = 30.0
_PORTS = range(20000, 32000)
"""Below those that the system gives to connections, so that a port that was free stays so."""


def tool(command: str, package: str) -> str:
    """Where it is. Its absence is a failure: nothing here passes by skipping."""
    found = shutil.which(command)
    assert found, f"{command} is missing: it is in the package {package}, which `make tools` installs"
    return found


def announced_port(process: subprocess.Popen[bytes], log: Callable[[], str], *, seconds: float) -> str:
    """Where an agent of ours says that it answers, by its log."""
    end = time.monotonic() + seconds
    while not (found := re.findall(r"answers on port (\d+)", log())):
        assert time.monotonic() < end, log()
        assert process.poll() is None, log()
        time.sleep(0.05)
    return str(found[0])


def free_port() -> int:
    """A port of the loopback interface that nobody has now."""
    for port in random.sample(_PORTS, 100):
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no free port among a hundred")


class Program:
    """One of them, running."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], url: str, log: Path) -> None:
        self.name, self.url = name, url
        self._process, self._log = process, log

    def log(self) -> str:
        """The end of what it wrote."""
        return f"{self.name} wrote:\n" + "\n".join(self._log.read_text(errors="replace").splitlines()[-60:])

    def get(self, path: str, **parameters: Any) -> requests.Response:
        """Its answer, whatever it is; that it answers is certain."""
        try:
            return requests.get(f"{self.url}{path}", params=parameters, timeout=ANSWER_SECONDS)
        except requests.RequestException as error:
            raise AssertionError(f"{self.name} does not answer: {error}\n{self.log()}") from None

    def metric(self, name: str) -> Mapping[str, float]:
        """What it counts of itself: the value by the labels as written."""
        lines = (line.rpartition(" ") for line in self.get("/metrics").text.splitlines())
        return {
            series.removeprefix(name): float(value)
            for series, _, value in lines
            if series == name or series.startswith(f"{name}{{")
        }

    def wait_until_ready(self, path: str) -> None:
        """It answers there."""
        end = time.monotonic() + START_SECONDS
        while True:
            assert self._process.poll() is None, f"{self.name} has ended\n{self.log()}"
            assert time.monotonic() < end, f"{self.name} is not ready after {START_SECONDS} s\n{self.log()}"
            try:
                if requests.get(f"{self.url}{path}", timeout=1).ok:
                    return
            except requests.RequestException:
                pass
            time.sleep(0.1)

    def assert_alive(self) -> None:
        """It has not ended by itself."""
        assert self._process.poll() is None, f"{self.name} has ended\n{self.log()}"

    def end(self) -> None:
        """Ask it to, then make it."""
        self._process.terminate()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(
    command: Sequence[str], *, package: str, port: int, ready: str, directory: Path
) -> Iterator[Program]:
    """It answers at the port, which its arguments must name."""
    name = command[0]
    log = directory / f"{name}.log"
    with log.open("wb") as written:
        process = subprocess.Popen(
            [tool(name, package), *command[1:]], stdout=written, stderr=subprocess.STDOUT, cwd=directory
        )
    program = Program(name, process, f"http://127.0.0.1:{port}", log)
    try:
        program.wait_until_ready(ready)
        yield program
    finally:
        program.end()


def stored_prometheus(directory: Path, *options: str) -> AbstractContextManager[Program]:
    """A Prometheus that scrapes nothing, and answers of the folder `data`, however old that is."""
    (directory / "prometheus.yml").write_text("{}\n")
    port = free_port()
    return running(
        [
            "prometheus",
            "--config.file=prometheus.yml",
            "--storage.tsdb.path=data",
            "--storage.tsdb.retention.time=100y",
            f"--web.listen-address=127.0.0.1:{port}",
            *options,
        ],
        package="prometheus",
        port=port,
        ready="/-/ready",
        directory=directory,
    )


class Database:
    """Answers PromQL as of a run that is over: a Prometheus, or what says it is like one."""

    def __init__(self, program: Program, *, start: float, end: float, step: float) -> None:
        self.program = program
        self._start, self._end, self._step = start, end, step

    def ask(self, path: str, **parameters: Any) -> Any:
        """The data of the answer. Raises `QueryError` when it is refused."""
        answer = self.program.get(f"/api/v1/{path}", **parameters)
        if not answer.ok:
            # The reason stands last, after the query.
            raise QueryError(f"{self.program.name} refuses it: … {answer.json()['error'][-160:]}")
        return answer.json()["data"]

    def at_end(self, expression: str) -> list[Mapping[str, Any]]:
        """The vector as the run ended."""
        data = self.ask("query", query=expression, time=f"{self._end:.3f}")
        if data["resultType"] in ("scalar", "string"):
            return [{"metric": {}, "value": data["result"]}]
        result: list[Mapping[str, Any]] = data["result"]
        return result

    def now(self, expression: str) -> list[Mapping[str, Any]]:
        """The vector at this moment, after the run."""
        result: list[Mapping[str, Any]] = self.ask("query", query=expression)["result"]
        return result

    def over_run(self, expression: str) -> list[Mapping[str, Any]]:
        """The vector at each step of the run."""
        data = self.ask(
            "query_range",
            query=expression,
            start=f"{self._start:.3f}",
            end=f"{self._end:.3f}",
            step=self._step,
        )
        result: list[Mapping[str, Any]] = data["result"]
        return result

    def label_values(self, label: str, selector: str | None) -> list[str]:
        """Those that series of the run have."""
        matching = {"match[]": selector} if selector else {}
        values: list[str] = self.ask(
            f"label/{label}/values", start=f"{self._start:.3f}", end=f"{self._end:.3f}", **matching
        )
        return values


class QueryError(Exception):
    """A database does not understand a query."""
