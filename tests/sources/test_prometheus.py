"""An answer is whole, or it is none."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.errors import SourceError
from agent.sources.prometheus import Access, PrometheusServer
from tests.report.limited_server import send, served
from tests.rig.programs import free_port, running, stored_prometheus

ONE = {"metric": {"a": "b"}, "value": [0, "1"]}
NO_STORE = "No StoreAPIs matched for this query"


@contextmanager
def answering(result: list[object], **beside: object) -> Iterator[tuple[PrometheusServer, list[str]]]:
    """A server with this result and this beside it, and what it is asked."""
    document = {"status": "success", "data": {"resultType": "vector", "result": result}, **beside}
    asked: list[str] = []

    def answer(request: BaseHTTPRequestHandler) -> None:
        asked.append(request.path)
        send(request, 200, json.dumps(document).encode())

    with served(answer) as url:
        server = PrometheusServer(url)
        yield server, asked
        server.close()


@pytest.mark.parametrize(
    "beside",
    [
        {"isPartial": True},
        {"warnings": ["receive series from Addr: 10.0.0.1:10901: rpc error: code = Unavailable"]},
        {"warnings": ["The query result may contain partial data."]},
        {"warnings": ["PromQL warning: quantile value should be between 0 and 1", "store s3cret is gone"]},
        {"warnings": [NO_STORE]},
    ],
    ids=[
        "a vmselect without one of its storages",
        "a Thanos without one of its stores",
        "a Cortex that gives what it has",
        "a remote store is gone, and PromQL has something to say",
        "one Thanos of several has no store for it",
    ],
)
def test_a_part_of_an_answer_is_no_answer(beside: dict[str, object]) -> None:
    with answering([ONE], **beside) as (server, _), pytest.raises(SourceError, match="not whole") as told:
        server.query("up")
    assert told.value.reason == "partial"
    assert "s3cret" not in str(told.value), "nothing of what the server says"


@pytest.mark.parametrize(
    "beside",
    [
        {"isPartial": False},
        {"warnings": [], "infos": []},
        {"warnings": ["PromQL warning: quantile value should be between 0 and 1, got 2 (1:1)"]},
        {"warnings": ["PromQL info: metric might not be a counter, name does not end in _total: up (1:6)"]},
        {"infos": ["PromQL info: metric might not be a counter, name does not end in _total: up (1:6)"]},
        {"warnings": ["PromQL warning: bucket label", "3 more warning annotations omitted"]},
    ],
)
def test_what_is_said_of_the_query_takes_nothing_from_the_answer(beside: dict[str, object]) -> None:
    with answering([ONE], **beside) as (server, _):
        assert [sample.value for sample in server.query("up")] == [1]


def test_a_time_for_which_there_is_no_store_has_nothing() -> None:
    with answering([], warnings=[NO_STORE]) as (server, _):
        assert server.query("up") == ()


def test_a_part_is_refused_beforehand() -> None:
    """By the names that Thanos and VictoriaMetrics have for it."""
    with answering([]) as (server, asked):
        server.query("up", at=1)
        with pytest.raises(SourceError, match="not as Prometheus"):
            server.query_range("up", start=1, end=2, step_seconds=1)
    for path in asked:
        sent = parse_qs(urlsplit(path).query)
        assert (sent["partial_response"], sent["deny_partial_response"]) == (["false"], ["1"])
        assert sent["nocache"] == ["1"], "VictoriaMetrics would move the instants"
        assert sent["max_source_resolution"] == ["0s"], "Thanos would take sums of other windows"


@pytest.mark.parametrize("database", ["prometheus", "victoria-metrics"])
def test_databases_take_the_parameters_that_they_do_not_know(database: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    port = free_port()
    victoria = ("victoria-metrics", "-storageDataPath=victoria", f"-httpListenAddr=127.0.0.1:{port}")
    program = (
        stored_prometheus(tmp_path)
        if database == "prometheus"
        else running(victoria, package="victoria-metrics", port=port, ready="/health", directory=tmp_path)
    )
    with program as one:
        server = PrometheusServer(one.url)
        assert [sample.value for sample in server.query("vector(1)", at=1e9)] == [1]
        (series,) = server.query_range("vector(1)", start=1e9, end=1e9 + 60, step_seconds=60)
        assert series.points == {1e9: 1, 1e9 + 60: 1}
        server.close()


def digest(url: str = "http://h", **access: Any) -> str:
    server = PrometheusServer(url, access=Access(**access))
    try:
        return server.digest()
    finally:
        server.close()


def test_servers_and_those_who_ask_them_are_told_apart() -> None:
    told = [
        digest(),
        digest("http://other"),
        digest("http://me:secret@h"),
        digest("http://you:secret@h"),
        digest(bearer_token="one"),
        digest(bearer_token="other"),
        digest(headers={"X-Scope-OrgID": "a"}),
        digest(headers={"X-Scope-OrgID": "b"}),
        digest(headers={"Authorization": "Basic bWU6c2VjcmV0"}),
        digest(certificate=("a.pem", "a.key")),
        digest(certificate=("b.pem", "b.key")),
    ]
    assert len(set(told)) == len(told)
    assert digest(headers={"A": "1", "B": "2"}) == digest(headers={"B": "2", "A": "1"})
    assert digest("http://h/") == digest("http://h")
    assert not any("secret" in one for one in told)
