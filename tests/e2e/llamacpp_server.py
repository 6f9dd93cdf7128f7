"""A real llama-server on this CPU that nobody configured, under a load that the client counts.

Its generated tokens are counted only when a slot is released; what is live are its busy slots and its steps.

Run by ``make e2e-llamacpp``, which has ``install_llamacpp.sh`` build the server into ``$LLAMACPP_DIR``.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests

from tests.e2e.agent_process import AgentProcess, Page, free_port, wait_until

LLAMACPP_DIR = Path(os.environ.get("LLAMACPP_DIR", Path(__file__).parents[2] / ".venv-llamacpp")).absolute()
SLOTS = 4
CONTEXT = 8192
"""Of all slots together."""
START_SECONDS = 60.0
LONG_TOKENS = 700
"""Of a request that keeps its slot busy for longer than the agent's window."""
WINDOW_SECONDS = 5
CONFIGURATION = {
    "engines_interval_seconds": 0.5,
    "window_seconds": WINDOW_SECONDS,
    "nvml": {"enabled": False},
    "discovery": {"interval_seconds": 1},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """What the client was told of one request."""

    prompt_tokens: int
    generated_tokens: int


class LlamaServer:
    """One server with a small random model."""

    def __init__(self, directory: Path) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.address = f"127.0.0.1:{self.port}"
        command = [
            *(str(LLAMACPP_DIR / "build/bin/llama-server"), "-m", str(LLAMACPP_DIR / "tiny.gguf")),
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("-np", str(SLOTS), "-c", str(CONTEXT), "--metrics"),
        ]
        with (directory / "llama.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(self._is_ready, "llama-server did not get ready", seconds=START_SECONDS)

    def _is_ready(self) -> bool:
        if self._process.poll() is not None:
            raise RuntimeError("llama-server ended; is it built? make e2e-llamacpp builds it")
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.ConnectionError:
            return False

    def ask(self, *, prompt_tokens: int, generated_tokens: int, seed: int) -> Answered:
        """One request, whatever it says."""
        choose = random.Random(seed)
        body = {
            "prompt": [choose.randrange(300, 20_000) for _ in range(prompt_tokens)],
            "n_predict": generated_tokens,
            "ignore_eos": True,
            "cache_prompt": False,
        }
        timings = requests.post(f"{self.url}/completion", json=body, timeout=120).json()["timings"]
        return Answered(prompt_tokens=timings["prompt_n"], generated_tokens=timings["predicted_n"])

    def busy_slots(self) -> float:
        """By its own word."""
        return self.page().value("llamacpp:requests_processing")

    def page(self) -> Page:
        """Its metrics."""
        return Page(f"{self.url}/metrics")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What happened."""

    server: str
    idle: Page
    """The agent's, as all the others, before any request."""
    working: Sequence[tuple[Page, float]]
    """While all slots were busy and none was released, each with the tokens that the server had counted."""
    after: Page
    answered: Sequence[Answered]

    def increase(self, name: str) -> float:
        """Of one of the agent's counters."""
        return self.after.value(name, server=self.server) - self.idle.value(name, server=self.server)


@pytest.fixture(scope="module")
def record() -> Iterator[Record]:
    directory = Path(tempfile.mkdtemp(prefix="e2e"))
    try:
        with (
            closing(LlamaServer(directory)) as server,
            closing(AgentProcess(directory, CONFIGURATION)) as agent,
        ):
            yield play(server, agent)
    finally:
        shutil.rmtree(directory)


def play(server: LlamaServer, agent: AgentProcess) -> Record:
    def is_up() -> bool:
        try:
            return Page(agent.url).value("roofline_engine_up", server=server.address) == 1
        except AssertionError:
            return False  # not found yet

    wait_until(is_up, "the agent did not find the server", seconds=20)
    idle = Page(agent.url)
    working: list[tuple[Page, float]] = []
    with ThreadPoolExecutor(SLOTS) as clients:
        long = [
            clients.submit(server.ask, prompt_tokens=64, generated_tokens=LONG_TOKENS, seed=seed)
            for seed in range(SLOTS)
        ]
        wait_until(lambda: server.busy_slots() == SLOTS, "the slots did not get busy", seconds=20)
        time.sleep(WINDOW_SECONDS + 1.5)
        while not any(one.done() for one in long):
            counted = server.page().value("llamacpp:tokens_predicted_total")
            working.append((Page(agent.url), counted))
            threading.Event().wait(0.3)
        short = [
            clients.submit(server.ask, prompt_tokens=length, generated_tokens=32, seed=100 + length)
            for length in (8, 100, 300, 600, 1000, 50)
        ]
        answered = [one.result() for one in (*long, *short)]
    time.sleep(3)
    # The last pages while a slot may have been released are not wanted.
    return Record(
        server=server.address,
        idle=idle,
        working=working[:-2],
        after=Page(agent.url),
        answered=answered,
    )


def test_tokens_are_the_clients_once_the_slots_are_released(record: Record) -> None:
    generated = sum(one.generated_tokens for one in record.answered)
    assert generated > SLOTS * LONG_TOKENS
    assert record.increase("roofline_engine_generation_tokens_total") == generated
    prompts = sum(one.prompt_tokens for one in record.answered)
    assert record.increase("roofline_engine_prefill_tokens_total") == prompts


def test_the_live_batch_is_right_while_no_token_is_counted(record: Record) -> None:
    assert len(record.working) >= 3
    for page, counted in record.working:
        assert counted == 0
        batch = page.value("roofline_engine_decode_batch_size", server=record.server)
        assert batch == pytest.approx(SLOTS, rel=0.05)
        assert page.value("roofline_engine_requests_running", server=record.server) == SLOTS


def test_its_model_is_known_by_the_header_of_its_file(record: Record) -> None:
    labels = {"server": record.server, "origin": "process", "weight_dtype": "bf16", "tensor_parallel": "1"}
    assert record.after.value("roofline_engine_model_info", **labels) == 1
    assert record.after.value("roofline_engine_max_num_seqs", server=record.server) == SLOTS


def test_work_is_seen_while_it_is_done(record: Record) -> None:
    flops = [page.value("roofline_engine_flops_total", server=record.server) for page, _ in record.working]
    assert flops == sorted(flops)
    assert flops[-1] > flops[0] > 0
