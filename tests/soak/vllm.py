"""A real vLLM beside the agent, under load all the time, to be killed and started again."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests

from tests.e2e.vllm_load import random_requests, send
from tests.e2e.vllm_models import DENSE
from tests.e2e.vllm_process import VllmServer

CONCURRENCY = 4
PAUSE_SECONDS = 1.0


@contextmanager
def under_load() -> Iterator[VllmServer]:
    """Started, and asked without pause until the end; who asks does not mind that it is killed."""
    with tempfile.TemporaryDirectory(prefix="v") as directory:
        server = VllmServer(Path(directory), DENSE)
        end = threading.Event()

        def ask() -> None:
            round_ = 0
            while not end.is_set():
                round_ += 1
                asked = random_requests(8, seed=round_, prompt_tokens=(8, 64), max_tokens=(8, 64))
                try:
                    send(server.url, asked, concurrency=CONCURRENCY)
                except requests.RequestException:
                    end.wait(PAUSE_SECONDS)

        asking = threading.Thread(target=ask, daemon=True)
        try:
            server.start()
            asking.start()
            yield server
        finally:
            end.set()
            server.kill()
            if asking.is_alive():
                asking.join(5)
