"""From pods, as the API server describes them, to the engines in them: who is asked, and who left alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.discovery.pods import (
    MAX_SERVERS_IN_POD,
    NOTHING,
    PodCredential,
    PodRules,
    find_servers,
    parse_selector,
)
from agent.readings import PodContainer
from tests.json_values import JSON

TRUSTED = PodRules(namespaces=("chat",))


def container(name: str = "main", **given: Any) -> dict[str, Any]:
    return {"name": name, "image": "vllm/vllm-openai:v0.32.0", **given}


def pod(
    *containers: Mapping[str, Any],
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    namespace: str = "chat",
    ip: str = "10.1.2.3",
    phase: str = "Running",
    **spec: Any,
) -> dict[str, Any]:
    return {
        "metadata": {
            "name": "llama-0",
            "namespace": namespace,
            "uid": "u",
            "labels": dict(labels or {}),
            "annotations": dict(annotations or {}),
        },
        "spec": {"containers": list(containers or (container(),)), **spec},
        "status": {"phase": phase, "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def urls(described: Any, rules: PodRules = TRUSTED) -> tuple[str, ...]:
    return tuple(server.url for server in find_servers(described, rules).servers)


@pytest.mark.parametrize(
    ("image", "url", "engine"),
    [
        ("vllm/vllm-openai:v0.32.0", "http://10.1.2.3:8000/metrics", "vllm"),
        ("lmsysorg/sglang:v0.5.23", "http://10.1.2.3:30000/metrics", "sglang"),
        ("ghcr.io/huggingface/text-generation-inference:3.3.7", "http://10.1.2.3:80/metrics", "tgi"),
        ("nvcr.io/nvidia/tritonserver:25.01-trtllm-python-py3", "http://10.1.2.3:8002/metrics", "triton"),
        ("nvcr.io/nvidia/tensorrt-llm/release:1.2.1", "http://10.1.2.3:8000/prometheus/metrics", "trtllm"),
        ("openmmlab/lmdeploy:v0.18.0", "http://10.1.2.3:23333/metrics", "lmdeploy"),
        ("ghcr.io/ggml-org/llama.cpp:server-cuda", "http://10.1.2.3:8080/metrics", "llamacpp"),
    ],
)
def test_an_image_says_which_engine_it_is_and_where_its_page_is(image: str, url: str, engine: str) -> None:
    (server,) = find_servers(pod(container(image=image)), PodRules()).servers
    assert (server.url, server.engine) == (url, engine)
    assert server.container == PodContainer(namespace="chat", pod="llama-0", container="main", uid="u")


def test_a_command_line_says_the_port_and_how_the_model_is_run() -> None:
    command = ["vllm", "serve", "meta-llama/Llama-3.1-70B", "--port", "9000", "--tensor-parallel-size=4"]
    (server,) = find_servers(pod(container(image="registry/ours:1", command=command)), PodRules()).servers
    assert server.url == "http://10.1.2.3:9000/metrics"
    assert (server.facts.path, server.facts.tensor_parallel) == ("meta-llama/Llama-3.1-70B", 4)


def test_a_port_called_after_metrics_comes_before_the_engines_own() -> None:
    ports = [{"name": "http", "containerPort": 8000}, {"name": "metrics", "containerPort": 8001}]
    assert urls(pod(container(ports=ports))) == ("http://10.1.2.3:8001/metrics",)


def test_a_label_names_an_engine_that_the_image_does_not() -> None:
    described = pod(container(image="registry/ours:1"), labels={"llm-d.ai/engine-type": "sglang"})
    assert urls(described) == ("http://10.1.2.3:30000/metrics",)


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ({"prometheus.io/scrape": "true", "prometheus.io/port": "9100"}, ("http://10.1.2.3:9100/metrics",)),
        (
            {
                "prometheus.io/scrape": "true",
                "prometheus.io/port": "9100",
                "prometheus.io/path": "/m",
                "prometheus.io/scheme": "https",
            },
            ("https://10.1.2.3:9100/m",),
        ),
        (
            {"roofline-agent/port": "7", "prometheus.io/port": "9100"},
            ("http://10.1.2.3:7/metrics",),
        ),
        ({"prometheus.io/scrape": "false"}, ()),
    ],
    ids=["Prometheus' own", "path and scheme", "ours first", "to be left alone"],
)
def test_annotations_count_in_the_namespaces_that_are_named(
    annotations: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert urls(pod(annotations=annotations)) == expected
    elsewhere = urls(pod(annotations=annotations), PodRules())
    assert elsewhere == ("http://10.1.2.3:8000/metrics",)  # as if there were none


@pytest.mark.parametrize("port", ["0", "65536", "-1", "http", "80@evil", "80/../x", ""])
def test_an_annotation_that_cannot_be_meant_is_passed_over(port: str) -> None:
    findings = find_servers(pod(annotations={"roofline-agent/port": port}), TRUSTED)
    assert {server.url for server in findings.servers} <= {"http://10.1.2.3:8000/metrics"}


@pytest.mark.parametrize("path", ["//evil/metrics", "/m?x=1", "/m#x", "m", "/a b", "http://evil/"])
def test_an_annotated_path_cannot_lead_to_another_host(path: str) -> None:
    described = pod(annotations={"roofline-agent/port": "9000", "roofline-agent/path": path})
    assert all(urlsplit(url).hostname == "10.1.2.3" for url in urls(described))


@pytest.mark.parametrize(
    "described",
    [
        pytest.param(pod(container(image="nginx:1.29")), id="no engine"),
        pytest.param(pod(phase="Pending"), id="not running yet"),
        pytest.param(pod(ip=""), id="without an address"),
        pytest.param(pod(namespace="other"), id="another namespace"),
        pytest.param(pod(container(image="vllm/production-stack-router:1")), id="built around an engine"),
        pytest.param(pod(hostNetwork=True), id="on the host's network"),
        pytest.param(pod(ip="127.0.0.1"), id="a loopback address"),
    ],
)
def test_who_is_left_alone(described: dict[str, Any]) -> None:
    assert urls(described) == ()


def test_a_pod_on_the_hosts_network_is_named_and_not_asked() -> None:
    assert find_servers(pod(hostNetwork=True), TRUSTED).notes == ("host_network",)


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert urls(pod(ip="fd00::7")) == ("http://[fd00::7]:8000/metrics",)


def test_at_most_a_few_are_asked_in_one_pod() -> None:
    many = [
        container(f"c{n}", command=["vllm", "serve", "m", "--port", str(8000 + n)])
        for n in range(MAX_SERVERS_IN_POD + 2)
    ]
    findings = find_servers(pod(*many), TRUSTED)
    assert len(findings.servers) == MAX_SERVERS_IN_POD
    assert findings.notes == ("too_many",)


SECRET = PodCredential(name="0", selectors=(parse_selector("team=a"),))


@pytest.mark.parametrize(
    ("rules", "labels", "credential"),
    [
        (PodRules(namespaces=("chat",), credentials=(SECRET,)), {"team": "a"}, "0"),
        (PodRules(namespaces=("chat",), credentials=(SECRET,)), {"team": "b"}, None),
        (PodRules(credentials=(SECRET,)), {"team": "a"}, None),
    ],
    ids=["its selector", "another team", "a namespace that nobody named"],
)
def test_credentials_go_to_their_pods_in_named_namespaces_alone(
    rules: PodRules, labels: dict[str, str], credential: str | None
) -> None:
    (server,) = find_servers(pod(labels=labels), rules).servers
    assert server.credential == credential


@pytest.mark.parametrize(
    ("selector", "labels", "matches"),
    [
        ("a=1", {"a": "1"}, True),
        ("a=1", {"a": "2"}, False),
        ("a=1", {}, False),
        ("a!=1", {"a": "2"}, True),
        ("a!=1", {}, True),
        ("a!=1", {"a": "1"}, False),
        ("x.io/a", {"x.io/a": ""}, True),
        ("x.io/a", {}, False),
    ],
)
def test_selectors_are_those_of_kubernetes(selector: str, labels: dict[str, str], matches: bool) -> None:
    assert parse_selector(selector).matches(labels) is matches
    rules = PodRules(namespaces=("chat",), selectors=(parse_selector(selector),))
    assert bool(urls(pod(labels=labels), rules)) is matches
    assert str(parse_selector(selector)) == selector


@pytest.mark.parametrize("text", ["", "=1", "a==1", "a=1,b=2", "a b", "a in (b)", "a=" + "x" * 64])
def test_a_selector_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not key=value"):
        parse_selector(text)


PLACES = st.sampled_from(
    [
        ("metadata",),
        ("metadata", "labels"),
        ("metadata", "annotations"),
        ("metadata", "name"),
        ("spec",),
        ("spec", "containers"),
        ("spec", "containers", 0),
        ("spec", "containers", 0, "image"),
        ("spec", "containers", 0, "command"),
        ("spec", "containers", 0, "args"),
        ("spec", "containers", 0, "env"),
        ("spec", "containers", 0, "ports"),
        ("status",),
        ("status", "podIP"),
        ("status", "podIPs"),
    ]
)


@given(described=JSON)
def test_whatever_is_no_pod_is_nothing(described: Any) -> None:
    assert find_servers(described, TRUSTED) == NOTHING


@given(place=PLACES, odd=JSON)
def test_a_pod_with_anything_in_any_place_is_asked_at_its_own_address_or_not_at_all(
    place: tuple[str | int, ...], odd: Any
) -> None:
    described = copy.deepcopy(pod(container(command=["vllm", "serve", "m"], env=[], ports=[])))
    inner: Any = described
    for step in place[:-1]:
        inner = inner[step]
    inner[place[-1]] = odd
    for server in find_servers(described, TRUSTED).servers:
        assert server.url.startswith("http://10.1.2.3:")
