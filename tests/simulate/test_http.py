from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from agent.clock import SystemClock
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS
from tests.simulate.conftest import NodeFactory
from tests.simulate.pages import Page


def urls(node: SimulatedNode) -> list[str]:
    return [str(entry["url"]) for entry in node.engine_configurations()]


def test_a_server_answers_as_vllm_does(make_node: NodeFactory) -> None:
    node, clock = make_node("node")
    node.start()
    clock.advance(10)
    for index, url in enumerate(urls(node)):
        answer = requests.get(url, timeout=10)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain; version=")
        assert Page(answer.text)["generation_tokens_total"] == node.truth.work(index).generation_tokens > 0
    root = urls(node)[4].removesuffix("/metrics")
    assert requests.get(f"{root}/version", timeout=10).json() == {"version": "0.32.0"}
    (model,) = requests.get(f"{root}/v1/models", timeout=10).json()["data"]
    assert model["id"] == "meta-llama/Llama-3.1-70B-Instruct"
    assert requests.get(f"{root}/health", timeout=10).ok
    assert requests.get(f"{root}/nothing", timeout=10).status_code == 404


def test_the_configuration_lists_every_server(make_node: NodeFactory) -> None:
    node, _ = make_node("node")
    node.start()
    entries = node.engine_configurations()
    assert [entry["gpus"] for entry in entries] == [[0], [1], [2], [3], [4, 5, 6, 7]]
    assert [entry["model"] for entry in entries][3:] == [
        {"name": "llama-3.1-8b", "tensor_parallel": 1},
        {"name": "llama-3.1-70b", "tensor_parallel": 4},
    ]
    assert all(entry["engine"] == "vllm" for entry in entries)
    assert len(set(urls(node))) == 5


def test_a_server_that_is_down_refuses_and_comes_back_with_its_counters_at_zero(
    make_node: NodeFactory,
) -> None:
    node, clock = make_node("engine-down")
    node.start()
    (url,) = urls(node)
    with requests.Session() as session:
        clock.advance(119)
        before = Page(session.get(url, timeout=10).text)
        clock.advance(2)
        with pytest.raises(requests.ConnectionError):  # the connection that was open is broken off
            session.get(url, timeout=10)
        with pytest.raises(requests.ConnectionError, match="refused"):
            session.get(url, timeout=10)
        clock.advance(121)
        node.nvml.read()
        after = Page(session.get(url, timeout=10).text)
    assert 0 < after["generation_tokens_total"] < before["generation_tokens_total"] / 10
    started = after["process_start_time_seconds"] - before["process_start_time_seconds"]
    assert started == pytest.approx(240)
    work = node.truth.work(0)
    assert work.starts == 2
    assert work.generation_tokens > before["generation_tokens_total"]


def test_a_hung_engine_still_answers_with_requests_in_flight_and_no_step(make_node: NodeFactory) -> None:
    node, clock = make_node("hung-engine")
    node.start()
    (url,) = urls(node)
    clock.advance(61)
    first = Page(requests.get(url, timeout=10).text)
    clock.advance(60)
    second = Page(requests.get(url, timeout=10).text)
    assert first["num_requests_running"] == second["num_requests_running"] > 0
    assert first["iteration_tokens_total_count"] == second["iteration_tokens_total_count"] > 1000


def test_many_may_ask_at_once(make_node: NodeFactory) -> None:
    node, clock = make_node("mixed")
    node.start()
    (url,) = urls(node)
    clock.advance(5)
    with ThreadPoolExecutor(8) as pool:
        texts = set(pool.map(lambda _: requests.get(url, timeout=10).text, range(24)))
    assert len(texts) == 1


def test_a_closed_node_gives_its_ports_back(make_node: NodeFactory) -> None:
    node, _ = make_node("memory-bound-decode")
    node.start()
    (url,) = urls(node)
    assert requests.get(url, timeout=10).ok
    node.close()
    with pytest.raises(requests.ConnectionError, match="refused"):
        requests.get(url, timeout=10)


def test_in_real_time_it_runs_by_itself() -> None:
    node = SimulatedNode(SCENARIOS["memory-bound-decode"], clock=SystemClock())
    node.start()
    try:
        (url,) = urls(node)
        pages = [Page(requests.get(url, timeout=10).text)]
        while pages[-1]["generation_tokens_total"] < pages[0]["generation_tokens_total"] + 20:
            pages.append(Page(requests.get(url, timeout=10).text))
    finally:
        node.close()
    assert len(pages) > 1
