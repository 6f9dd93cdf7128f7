"""The commands as an operator meets them: what they print, where they answer, how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import pytest
import requests
import yaml
from prometheus_client.parser import text_string_to_metric_families

from agent.cli import EXIT_WRONG_INPUT, main
from agent.config import load_configuration
from agent.errors import ConfigurationError
from agent.exposition.json_view import SCHEMA_VERSION
from agent.exposition.text_view import WIDTH

COMMAND = Path(sys.executable).with_name("roofline-agent")
BAD_CONFIGURATIONS = Path(__file__).parent / "fixtures" / "bad_configurations"

START_SECONDS, END_SECONDS = 10.0, 5.0
HUNG_SECONDS = 60.0
"""What takes longer than this on a machine that is busy with other tests takes for ever."""
LAST_LINE = "Ctrl-C ends it."


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """A demo that has said where it answers."""

    process: subprocess.Popen[str]
    started_seconds: float
    """How long that took."""
    lines: tuple[str, ...]
    """What it printed."""
    errors: Path
    """What it wrote to stderr."""

    def url(self, subject: str) -> str:
        """The URL that was printed for this."""
        (found,) = (match for line in self.lines if (match := re.match(rf"  {subject} +(http\S+)$", line)))
        return found[1]


@contextmanager
def running_demo(directory: Path, *arguments: str) -> Iterator[Demo]:
    """`roofline-agent demo` at a free port of the loopback interface."""
    errors = directory / "stderr"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [COMMAND, "demo", "--config", listening_on(directory, port=0), *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        started = time.monotonic()
        too_late = Timer(HUNG_SECONDS, process.kill)
        too_late.start()
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if LAST_LINE in line:
                    break
            too_late.cancel()
            assert lines, errors.read_text()
            assert LAST_LINE in lines[-1], (lines, errors.read_text())
            yield Demo(
                process=process,
                started_seconds=time.monotonic() - started,
                lines=tuple(lines),
                errors=errors,
            )
        finally:
            too_late.cancel()
            process.kill()


def listening_on(directory: Path, *, port: int) -> Path:
    """A configuration file with that port, 0 for a free one."""
    path = directory / "agent.yaml"
    path.write_text(yaml.safe_dump({"web": {"listen_address": f"127.0.0.1:{port}"}}))
    return path


def get(url: str) -> requests.Response:
    return requests.get(url, timeout=HUNG_SECONDS)


def soon(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert time.monotonic() < end, f"it did not come to be within {START_SECONDS} s"
        time.sleep(0.05)


# --- demo ----------------------------------------------------------------------------------------


def test_the_demo_answers_where_it_says(tmp_path: Path) -> None:
    with running_demo(tmp_path) as demo:
        assert demo.started_seconds < START_SECONDS
        page = demo.url("status page")
        soon(lambda: get(f"{page}-/ready").text == "ready\n")
        assert get(f"{page}-/healthy").text.startswith("healthy")
        assert "roofline" in get(page).text
        metrics = get(demo.url("metrics"))
        assert metrics.headers["Content-Encoding"] == "gzip"
        assert metrics.text.count("roofline_gpu_up{") == 8
        document = get(demo.url("as JSON")).json()
        assert (document["node"], len(document["gpus"])) == ("simulated-node", 8)
        engines = [line.split()[-1] for line in demo.lines if line.startswith("  an engine ")]
        shown = yaml.safe_load(get(f"{page}config").text)
        assert [engine["url"] for engine in shown["engines"]] == engines
        assert len(engines) == 5
        assert all("vllm:generation_tokens_total" in get(url).text for url in engines)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_signal_ends_the_demo_without_a_word(tmp_path: Path, number: signal.Signals) -> None:
    with running_demo(tmp_path, "--scenario", "engine-down") as demo:
        get(demo.url("metrics"))
        demo.process.send_signal(number)
        assert demo.process.wait(END_SECONDS) == 0
        assert demo.errors.read_text() == ""


def test_the_demo_loads_its_configuration_again_and_keeps_its_engines(tmp_path: Path) -> None:
    with running_demo(tmp_path, "--scenario", "idle") as demo:
        page = demo.url("status page")
        engines = yaml.safe_load(get(f"{page}config").text)["engines"]
        path = tmp_path / "agent.yaml"
        path.write_text(path.read_text() + "window_seconds: 77\n")
        demo.process.send_signal(signal.SIGHUP)
        soon(lambda: yaml.safe_load(get(f"{page}config").text)["window_seconds"] == 77)
        assert yaml.safe_load(get(f"{page}config").text)["engines"] == engines
        assert re.search(rf"{path}: loaded \(.*\): window_seconds 30 → 77\n", demo.errors.read_text())


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = subprocess.run(
            [COMMAND, "demo", "--config", listening_on(tmp_path, port=port)],
            capture_output=True,
            text=True,
            timeout=HUNG_SECONDS,
            check=False,
        )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"roofline-agent: cannot listen on 127.0.0.1:{port} (")
    assert "web.listen_address" in line


# --- once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("scenario", ["node", "gpu-lost", "idle"])
def test_once_gives_the_node_as_text(scenario: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["once", "--simulate", scenario, "--seconds", "130"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("simulated-node: ")
    assert any(line.startswith("GPU 0  NVIDIA H100") for line in lines)
    assert max(map(len, lines)) <= WIDTH
    assert any("lost: " in line for line in lines) is (scenario == "gpu-lost")


def test_once_gives_the_node_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["once", "--simulate", "throttled", "--format", "json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == SCHEMA_VERSION
    assert document["gpus"][0]["verdict"]["bottleneck"] == "compute"
    assert "power cap" in document["gpus"][0]["throttle"]


def test_once_gives_the_node_as_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["once", "--simulate", "mixed", "--format", "prometheus"]) == 0
    families = {family.name: family for family in text_string_to_metric_families(capsys.readouterr().out)}
    (up,) = families["roofline_gpu_up"].samples
    assert up.value == 1
    assert families["roofline_engine_steps"].samples[0].value > 0


def test_once_says_plainly_what_this_machine_lacks(tmp_path: Path) -> None:
    # Where there is a driver, this stands before its library, and cannot be loaded.
    (tmp_path / "libnvidia-ml.so.1").touch()
    ended = subprocess.run(
        [COMMAND, "once", "--seconds", "4"],
        env={**os.environ, "LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=HUNG_SECONDS,
        check=False,
    )
    assert ended.returncode == 0
    said = " ".join(ended.stdout.split())
    assert "0 GPUs, 0 engines" in said
    assert "no NVML library (libnvidia-ml.so.1) here" in said
    assert "install the NVIDIA driver" in said
    assert "No engine is configured" in said
    assert "Traceback" not in ended.stderr


# --- wrong configurations ------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["run --config", "demo --config", "once --config", "check-config"])
@pytest.mark.parametrize("name", ["wrong_types", "unknown_keys", "not_yaml"])
def test_a_wrong_configuration_is_refused_with_all_its_errors(
    command: str, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = BAD_CONFIGURATIONS / f"{name}.yaml"
    with pytest.raises(ConfigurationError) as wrong:
        load_configuration(path)
    assert main([*command.split(), str(path)]) == EXIT_WRONG_INPUT
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [f"{path}: {problem}" for problem in wrong.value.problems]
    assert name == "not_yaml" or len(wrong.value.problems) > 1


def test_a_configuration_that_is_not_there_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--config", str(tmp_path / "none.yaml")]) == EXIT_WRONG_INPUT
    assert capsys.readouterr().err == f"{tmp_path}/none.yaml: cannot be read: No such file or directory\n"
