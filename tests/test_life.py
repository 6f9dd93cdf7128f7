"""The life of a real process: when it is ready, when it is sick, and that it ends when it is told to."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bcrypt
import pytest
import requests
import yaml

from tests.nvml_standin import StandIn
from tests.web.certificates import Authority

END_SECONDS = 2.0
"""What is promised from SIGTERM to the end."""
HUNG_SECONDS = 60.0
HANGS = 1e9
"""Milliseconds of a call that does not come back."""
SLOW_PAGE = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n# HELP vllm:x y\n"


class Life:
    """`roofline-agent run` over the stand-in library."""

    def __init__(self, directory: Path, library: Path, *, nvml: dict[str, object], **sections: Any) -> None:
        self.stand_in = StandIn(library, directory / "nvml")
        self.stand_in.set({"gpus": 2, "record": 1, **nvml})
        self.path = directory / "agent.yaml"
        self.base_configuration = {
            "web": {"listen_address": "127.0.0.1:0"},
            "discovery": {"processes": {"enabled": False}},
            "interval_seconds": 0.2,
            "engines_interval_seconds": 0.5,
            **sections,
        }
        self.path.write_text(yaml.safe_dump(self.base_configuration))
        self._log = directory / "log"
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "agent", "run", "--config", str(self.path)],
                env={**os.environ, "LD_LIBRARY_PATH": str(self.stand_in.path.parent)},
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    def port(self) -> int:
        self.until(lambda: "answers on port" in self.log)
        return int(re.findall(r"answers on port (\d+)", self.log)[-1])

    def get(self, path: str, *, scheme: str = "http", **options: Any) -> requests.Response:
        return requests.get(f"{scheme}://127.0.0.1:{self.port()}{path}", timeout=HUNG_SECONDS, **options)

    def until(self, happened: Callable[[], bool]) -> None:
        give_up = time.monotonic() + HUNG_SECONDS
        while not happened():
            assert time.monotonic() < give_up, self.log
            assert self.process.poll() is None, self.log
            time.sleep(0.01)

    def end(self, *, times: int = 1) -> float:
        """Send SIGTERM; how long it took to end."""
        since = time.monotonic()
        for _ in range(times):
            self.process.send_signal(signal.SIGTERM)
            time.sleep(0.05 if times > 1 else 0)
        assert self.process.wait(HUNG_SECONDS) == 0, self.log
        return time.monotonic() - since


Begin = Callable[..., Life]


@pytest.fixture
def begin(nvml_library: Path, tmp_path: Path) -> Iterator[Begin]:
    begun: list[Life] = []

    def start(nvml: dict[str, object] | None = None, **sections: Any) -> Life:
        begun.append(Life(tmp_path, nvml_library, nvml=nvml or {}, **sections))
        return begun[-1]

    yield start
    for life in begun:
        life.process.kill()
        life.process.wait()


@contextmanager
def page_that_hangs(beginning: bytes) -> Iterator[str]:
    """An engine that begins to answer and does not go on."""
    held: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    held.append(server.accept()[0])
                except OSError:
                    return
                held[-1].sendall(beginning)

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/metrics"
        server.shutdown(socket.SHUT_RDWR)
    for one in held:
        one.close()


# --- the end ---------------------------------------------------------------------------------------


def test_it_ends_when_told_and_lets_go_of_nvml(begin: Begin) -> None:
    life = begin()
    life.until(lambda: life.get("/-/ready").ok)
    assert life.end() < END_SECONDS
    assert life.stand_in.sessions == ("nvmlInit", "nvmlShutdown")
    assert "Traceback" not in life.log


def test_it_ends_among_engines_that_hang_and_clients_that_are_slow(begin: Begin) -> None:
    with ExitStack() as stack:
        beginnings = (b"", b"HTTP/1.1 200 OK\r\n", SLOW_PAGE, SLOW_PAGE)
        urls = [stack.enter_context(page_that_hangs(beginning)) for beginning in beginnings]
        life = begin(engines=[{"url": url, "engine": "vllm"} for url in urls])
        life.until(lambda: life.get("/-/ready").ok)
        address = ("127.0.0.1", life.port())
        silent, half, deaf = (stack.enter_context(socket.create_connection(address)) for _ in range(3))
        silent.setblocking(False)
        half.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        for _ in range(50):  # more pages than anybody holds for it
            deaf.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        time.sleep(1)
        assert life.end() < END_SECONDS
        assert life.stand_in.sessions == ("nvmlInit", "nvmlShutdown")


def test_it_ends_with_a_call_that_hangs_in_the_driver(begin: Begin) -> None:
    life = begin()
    life.until(lambda: 'source_up{source="nvml"} 1' in life.get("/metrics").text)
    life.stand_in.set({"nvmlDeviceGetCount_v2.delay_ms": HANGS})
    life.until(lambda: "nvml: no answer for" in life.log)
    assert life.end() < END_SECONDS
    # The driver's own end of a session would wait behind that call: the process takes it along.
    assert life.stand_in.sessions == ("nvmlInit",)


@pytest.mark.parametrize("call", ["nvmlInit", "nvmlShutdown"])
def test_it_ends_when_the_session_itself_hangs(begin: Begin, call: str) -> None:
    life = begin({f"{call}.delay_ms": HANGS})
    life.until(lambda: life.get("/-/ready").ok)
    assert life.end() < END_SECONDS


def test_it_ends_over_tls(begin: Begin, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair = authority.vouch("server")
    web = tmp_path / "web.yaml"
    tls = {"cert_file": str(pair.certificate), "key_file": str(pair.key)}
    web.write_text(yaml.safe_dump({"tls_server_config": tls}))
    life = begin(web={"listen_address": "127.0.0.1:0", "config_file": str(web)})
    trusted = {"scheme": "https", "verify": str(authority.certificate)}
    life.until(lambda: life.get("/-/ready", **trusted).ok)
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with (
        socket.create_connection(("127.0.0.1", life.port())) as shy,  # hands are never shaken
        socket.create_connection(("127.0.0.1", life.port())) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as kept,
    ):
        shy.sendall(b"\x16\x03\x01")
        kept.sendall(b"GET /metrics HTTP/1.1\r\n")
        assert life.end() < END_SECONDS
    assert life.stand_in.sessions == ("nvmlInit", "nvmlShutdown")


def test_a_second_signal_changes_nothing(begin: Begin) -> None:
    life = begin()
    life.until(lambda: life.get("/-/ready").ok)
    assert life.end(times=20) < END_SECONDS
    assert life.stand_in.sessions == ("nvmlInit", "nvmlShutdown")


@pytest.mark.parametrize("seconds", [0.25, 0.5, 0.75, 1.0, 1.5])
def test_it_may_be_told_while_it_starts(begin: Begin, seconds: float) -> None:
    life = begin()
    # Before Python itself has started a signal ends it otherwise, as it does every program.
    life.until(lambda: "SigCgt" in (status := proc_status(life)) and catches_term(status))
    time.sleep(seconds)
    assert life.end(times=2) < END_SECONDS
    assert life.stand_in.sessions in ((), ("nvmlInit", "nvmlShutdown"))
    assert "Traceback" not in life.log


def proc_status(life: Life) -> str:
    return Path(f"/proc/{life.process.pid}/status").read_text()


def catches_term(status: str) -> bool:
    caught = int(re.findall(r"SigCgt:\s+(\w+)", status)[0], 16)
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_release_under_way_does_not_hold_up_the_end(begin: Begin) -> None:
    life = begin()
    life.until(lambda: 'source_up{source="nvml"} 1' in life.get("/metrics").text)
    life.stand_in.set({"nvmlDeviceGetCount_v2.delay_ms": HANGS})
    time.sleep(0.5)
    life.process.send_signal(signal.SIGUSR1)
    assert life.end() < END_SECONDS


# --- probes ----------------------------------------------------------------------------------------


def test_probes_need_no_password_and_a_dead_tick_is_sick(begin: Begin, tmp_path: Path) -> None:
    web = tmp_path / "web.yaml"
    hashed = bcrypt.hashpw(b"word", bcrypt.gensalt(4)).decode()
    web.write_text(yaml.safe_dump({"basic_auth_users": {"alice": hashed}}))
    life = begin({"nvmlInit.delay_ms": HANGS}, web={"listen_address": "127.0.0.1:0", "config_file": str(web)})
    assert life.get("/-/healthy").ok
    life.until(lambda: life.get("/-/ready").text == "ready\n")  # a driver that hangs does not hold it up
    assert life.get("/metrics").status_code == 401
    assert life.get("/-/healthy").text.startswith("healthy: assessed")


# --- the log ---------------------------------------------------------------------------------------


def test_every_line_is_an_object_and_the_format_is_taken_along_by_a_reload(begin: Begin) -> None:
    with page_that_hangs(b"no HTTP at all\r\n\r\n") as url:
        life = begin(log={"format": "json"}, engines=[{"url": url, "engine": "vllm"}])
        life.until(lambda: life.get("/-/ready").ok)
        life.until(lambda: "malformed" in life.log or "unreachable" in life.log)
        documents = [json.loads(line) for line in life.log.splitlines()]
        assert any(re.search(r"answers on port \d+$", one["message"]) for one in documents)
        assert any(one.get("source") == "nvml" for one in documents)
        changed = {**life.base_configuration, "log": {"format": "text", "level": "error"}}
        life.path.write_text(yaml.safe_dump(changed))
        life.process.send_signal(signal.SIGHUP)
        life.until(lambda: yaml.safe_load(life.get("/config").text)["log"]["level"] == "error")
        life.stand_in.set({"return": 18})
        time.sleep(1)
        assert [json.loads(line) for line in life.log.splitlines()]  # and nothing less grave than an error


def test_an_outage_is_two_lines_in_the_log(begin: Begin) -> None:
    life = begin()
    life.until(lambda: "nvml: answers" in life.log)
    before = len(life.log.splitlines())
    life.stand_in.set({"gpu1.return": 15})
    life.until(lambda: "GPU 1" in life.log)
    time.sleep(2)
    life.stand_in.set({"gpu1.return": None})
    life.until(lambda: "GPU 1 is read again" in life.log)
    assert len(life.log.splitlines()) == before + 2


def test_a_port_in_use_is_said_as_the_log_is_read(begin: Begin) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        life = begin(web={"listen_address": f"127.0.0.1:{port}"}, log={"format": "json"})
        assert life.process.wait(HUNG_SECONDS) == 1
        (document,) = [json.loads(line) for line in life.log.splitlines()]
        assert (document["level"], f":{port}" in document["message"]) == ("critical", True)
