"""Real vLLM servers that nobody configured, found by the agent: where they are, what they serve, how.

Run by ``make e2e-vllm``. It needs the vLLM that ``install_vllm.sh`` puts into ``$VLLM_DIR``.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.e2e.agent_process import AgentProcess, Page, wait_until
from tests.e2e.vllm_models import DENSE
from tests.e2e.vllm_process import SERVED_NAME, VllmServer

CONFIGURATION = {
    "engines_interval_seconds": 1,
    "window_seconds": 10,
    "nvml": {"enabled": False},
    "discovery": {"interval_seconds": 1},
}
FOUND_SECONDS = 30.0


@pytest.fixture
def directory() -> Iterator[Path]:
    # Short, since vLLM makes sockets in it.
    path = Path(tempfile.mkdtemp(prefix="e2e"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def agent(directory: Path) -> Iterator[AgentProcess]:
    with closing(AgentProcess(directory, CONFIGURATION)) as agent:
        yield agent


def ranks(page: Page, server: str) -> dict[str, float]:
    """Whether each rank of a server is up."""
    return {
        sample.labels["rank"]: sample.value
        for family in page.families
        for sample in family.samples
        if sample.name == "roofline_engine_up" and sample.labels["server"] == server
    }


def wait_for(agent: AgentProcess, server: str, expected: dict[str, float]) -> Page:
    """The agent's first page on which the server's ranks are so."""
    pages: list[Page] = []

    def shown() -> bool:
        pages.append(Page(agent.url))
        return ranks(pages[-1], server) == expected

    wait_until(shown, f"{server} was not shown as {expected}", seconds=FOUND_SECONDS)
    return pages[-1]


def check(page: Page, server: VllmServer, rank: str) -> None:
    """What is found out of an engine is what it was started with, and what its own page says."""
    labels = {"server": server.address, "rank": rank}
    info = {
        "model": SERVED_NAME,
        "origin": "process",
        "weight_dtype": "bf16",
        "kv_dtype": "bf16",
        "tensor_parallel": "1",
        "pipeline_parallel": "1",
    }
    assert page.value("roofline_engine_model_info", **labels, **info) == 1
    assert page.value("roofline_engine_info", **labels, engine="vllm", version="0.32.0") == 1
    assert page.value("roofline_engine_max_num_seqs", **labels) == 16
    told = server.page()
    (capacity,) = {
        float(sample.labels["kv_cache_size_tokens"])
        for family in told.families
        for sample in family.samples
        if sample.name == "vllm:cache_config_info" and sample.labels["engine"] == rank
    }
    assert page.value("roofline_engine_kv_cache_capacity_tokens", **labels) == capacity


def test_a_server_is_found_and_found_again_on_another_port(agent: AgentProcess, directory: Path) -> None:
    server = VllmServer(directory, DENSE)
    try:
        server.start()
        check(wait_for(agent, server.address, {"0": 1.0}), server, "0")
        server.kill()
        left = server.address
        wait_for(agent, left, {"0": 0.0})
        server.move()
        server.start()
        page = wait_for(agent, server.address, {"0": 1.0})
        check(page, server, "0")
        assert ranks(page, left) == {"0": 0.0}  # for ten minutes still
    finally:
        server.kill()


def test_both_ranks_of_a_data_parallel_server_are_found(agent: AgentProcess, directory: Path) -> None:
    server = VllmServer(directory, DENSE, "--data-parallel-size", "2")
    try:
        server.start()
        page = wait_for(agent, server.address, {"0": 1.0, "1": 1.0})
        for rank in "01":
            check(page, server, rank)
    finally:
        server.kill()
