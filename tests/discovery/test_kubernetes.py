"""The pods of a node over real TLS: how they come and go, and an API server that is none, or unwell."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from agent.discovery.api_server import ADVICE, ApiServer
from agent.discovery.kubernetes import KubernetesSource, Pace
from agent.discovery.pods import PodRules, parse_selector
from agent.errors import SourceAbsentError, SourceError
from agent.readings import MAX_FOUND, Discovery
from tests.discovery.kube_api import (
    NODE,
    TOKEN,
    Answer,
    Handler,
    KubeApi,
    container,
    drip,
    make_certificate,
    pod,
    serving,
)

PACE = Pace(
    connect_seconds=2,
    list_seconds=3,
    watch_seconds=30,
    calm_seconds=0.2,
    back_off_seconds=0.05,
    most_back_off_seconds=0.4,
    poll_seconds=0.1,
)
PATIENCE_SECONDS = 8.0  # for a busy machine

Open = Callable[..., KubernetesSource]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificate(tmp_path_factory.mktemp("kube") / "certificate.pem")


@pytest.fixture
def api(certificate: Path) -> Iterator[KubeApi]:
    with serving(KubeApi(), certificate) as api:
        yield api


@pytest.fixture
def account(tmp_path: Path, certificate: Path) -> Path:
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "ca.crt").write_bytes(certificate.read_bytes())
    return tmp_path


@pytest.fixture
def open_source(api: KubeApi, account: Path) -> Iterator[Open]:
    with ExitStack() as stack:

        def open_it(
            rules: PodRules | None = None, pace: Pace = PACE, node: str = NODE, port: int | None = None
        ) -> KubernetesSource:
            server = ApiServer(host="127.0.0.1", port=port or api.port, service_account=account)
            source = KubernetesSource(node, rules or PodRules(), server=server, pace=pace, chance=lambda: 0.5)
            return stack.enter_context(closing(source))

        yield open_it


def urls(discovery: Discovery) -> list[str]:
    return [server.url for server in discovery.servers]


def wait_for(source: KubernetesSource, holds: Callable[[Discovery], bool]) -> Discovery:
    """Its first reading for which this holds."""
    until, last = time.monotonic() + PATIENCE_SECONDS, "nothing"
    while time.monotonic() < until:
        try:
            reading = source.read()
        except SourceError as error:
            last = str(error)
        else:
            if holds(reading):
                return reading
            last = str(reading)
        time.sleep(0.01)
    raise AssertionError(f"the last reading was {last}")


def wait_for_urls(source: KubernetesSource, *expected: str) -> Discovery:
    return wait_for(source, lambda reading: urls(reading) == list(expected))


def wait_for_failure(source: KubernetesSource, reason: str) -> SourceError:
    until, last = time.monotonic() + PATIENCE_SECONDS, "a reading"
    while time.monotonic() < until:
        try:
            source.read()
        except SourceError as error:
            if error.reason == reason:
                return error
            last = str(error)
        time.sleep(0.01)
    raise AssertionError(f"no failure for {reason}; the last was {last}")


def wait_until(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_SECONDS
    while not holds():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.01)


def url(ip: str) -> str:
    return f"http://{ip}:8000/metrics"


# --- pods come and go ----------------------------------------------------------------------------


def test_pods_appear_move_and_vanish(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("a", ip="10.0.0.1"))
    source = open_source()
    (server,) = source.read().servers  # the first reading waits for it
    assert (server.url, server.engine) == (url("10.0.0.1"), "vllm")
    assert server.container is not None
    assert (server.container.namespace, server.container.pod, server.container.uid) == ("chat", "a", "uid-a")
    api.apply(pod("b", ip="10.0.0.2"))
    wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))
    api.apply(pod("a", ip="10.0.0.9"))
    wait_for_urls(source, url("10.0.0.9"), url("10.0.0.2"))
    api.apply(pod("b", ip="10.0.0.2", phase="Succeeded"))
    wait_for_urls(source, url("10.0.0.9"))
    api.delete("a")
    wait_for_urls(source)
    assert len(api.asked("list")) == 1
    assert len(api.asked("watch")) == 1


def test_only_this_nodes_pods_are_asked_for_and_taken(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("here"))
    source = open_source(PodRules(selectors=(parse_selector("team=chat"), parse_selector("tier!=test"))))
    source.read()
    wait_until(lambda: bool(api.asked("watch")))
    for request in (*api.asked("list"), *api.asked("watch")):
        assert request.path == "/api/v1/pods"
        assert request.query["fieldSelector"] == f"spec.nodeName={NODE}"
        assert request.query["labelSelector"] == "team=chat,tier!=test"
    assert api.asked("watch")[0].query["allowWatchBookmarks"] == "true"
    assert 30 <= int(api.asked("watch")[0].query["timeoutSeconds"]) <= 60


def test_a_long_list_comes_in_pages(api: KubeApi, open_source: Open) -> None:
    for number in range(1, 6):
        api.apply(pod(f"p{number}", ip=f"10.0.0.{number}"))
    source = open_source(pace=Pace(page_pods=2))
    assert urls(source.read()) == [url(f"10.0.0.{number}") for number in range(1, 6)]
    assert [request.query.get("continue") for request in api.asked("list")] == [None, "2", "4"]
    # A version does not go together with a place to continue from.
    assert [request.query.get("resourceVersion") for request in api.asked("list")] == ["0", None, None]


def test_each_namespace_is_asked_for_by_itself(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("a", ip="10.0.0.1", namespace="chat"))
    api.apply(pod("b", ip="10.0.0.2", namespace="search"))
    api.apply(pod("c", ip="10.0.0.3", namespace="else"))
    source = open_source(PodRules(namespaces=("chat", "search")))
    wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))
    assert {request.path for request in api.asked("list")} == {
        "/api/v1/namespaces/chat/pods",
        "/api/v1/namespaces/search/pods",
    }


def test_a_forbidden_namespace_does_not_hide_the_others(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("a", namespace="chat"))
    api.forbidden.add("/api/v1/namespaces/search/pods")
    reading = wait_for_urls(open_source(PodRules(namespaces=("chat", "search"))), url("10.0.0.1"))
    (note,) = reading.notes
    assert "Role in namespace search" in note
    assert "get, list and watch on pods" in note


def test_engines_are_limited_and_the_rest_is_counted(api: KubeApi, open_source: Open) -> None:
    for number in range(MAX_FOUND + 3):
        api.apply(pod(f"p{number:03}", ip=f"10.0.1.{number}"))
    reading = open_source().read()
    assert len(reading.servers) == MAX_FOUND
    assert reading.notes == ("3 more engines than 64 in pods, which are left out",)


def test_what_is_not_asked_is_said_with_some_names(api: KubeApi, open_source: Open) -> None:
    for number in range(7):
        api.apply(pod(f"p{number}", hostNetwork=True))
    (note,) = open_source().read().notes
    assert note.startswith(
        "pods chat/p0, chat/p1, chat/p2, chat/p3, chat/p4 and 2 more use the host's network"
    )


def test_reading_asks_nobody(api: KubeApi, open_source: Open) -> None:
    source = open_source()
    source.read()
    wait_until(lambda: bool(api.asked("watch")))
    before = len(api.requests)
    for _ in range(1000):
        source.read()
    assert len(api.requests) == before


# --- watches end and go on -----------------------------------------------------------------------


def test_a_watch_goes_on_from_the_last_bookmark(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("a"))
    source = open_source()
    wait_for_urls(source, url("10.0.0.1"))
    wait_until(lambda: api.streams == 1)
    version = api.bookmark()
    time.sleep(PACE.calm_seconds)
    api.end_streams()
    wait_until(lambda: len(api.asked("watch")) == 2)
    assert api.asked("watch")[1].query["resourceVersion"] == str(version)
    api.apply(pod("b", ip="10.0.0.2"))
    wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))
    assert len(api.asked("list")) == 1


def gone(handler: Handler) -> None:
    handler.fail(410)


@pytest.mark.parametrize("by_status", [False, True], ids=["told in the stream", "told by HTTP status"])
def test_a_forgotten_version_is_listed_again(api: KubeApi, open_source: Open, *, by_status: bool) -> None:
    api.apply(pod("a"))
    source = open_source()
    wait_for_urls(source, url("10.0.0.1"))
    wait_until(lambda: api.streams == 1)
    api.forget()
    if by_status:
        api.answers["watch"].append(gone)
    api.pods[("chat", "b")] = pod("b", ip="10.0.0.2")  # which no event will tell
    api.end_streams()
    wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))
    assert [request.query.get("resourceVersion") for request in api.asked("list")] == ["0", None]


def silent_for(seconds: float) -> Answer:
    def answer(handler: Handler) -> None:
        time.sleep(seconds)

    return answer


def line(text: bytes) -> Answer:
    def answer(handler: Handler) -> None:
        handler.stream()
        handler.chunk(text)
        handler.end_stream()

    return answer


def endless_line(handler: Handler) -> None:
    handler.stream()
    with suppress(OSError):
        while True:
            handler.chunk(b"x" * 65536)


def cut_off(handler: Handler) -> None:
    handler.stream()
    handler.wfile.write(b'ffff\r\n{"type": "ADDED", "obj')


def told_unauthorized(handler: Handler) -> None:
    handler.stream()
    handler.event("ERROR", {"kind": "Status", "code": 401})


HOSTILE_STREAMS: dict[str, Answer] = {
    "a line without end": endless_line,
    "no JSON": line(b"{never\n"),
    "JSON that is no event": line(b'["ADDED"]\n'),
    "an event of nothing": line(b'{"type": "ADDED", "object": null}\n'),
    "JSON too deep to be read": line(b"[" * 200_000 + b"\n"),
    "bytes that are no text": line(b"\xff\xfe\x00\n"),
    "an end in the middle": cut_off,
    "an error that is none": line(b'{"type": "ERROR", "object": {"code": "what"}}\n'),
    "an error of the token": told_unauthorized,
    "no HTTP": lambda handler: drip(handler, b"SSH-2.0-OpenSSH_9.6\r\n", b""),
    "an error of the server": lambda handler: handler.fail(500),
    "a redirect": lambda handler: handler.fail(302, {"Location": "https://127.0.0.1:1/"}),
}


@pytest.mark.parametrize("answer", HOSTILE_STREAMS.values(), ids=HOSTILE_STREAMS.keys())
def test_after_a_hostile_stream_all_is_known_again(api: KubeApi, open_source: Open, answer: Answer) -> None:
    api.apply(pod("a"))
    api.answers["watch"].append(answer)
    source = open_source()
    wait_for_urls(source, url("10.0.0.1"))
    wait_until(lambda: len(api.asked("watch")) >= 2)
    api.apply(pod("b", ip="10.0.0.2"))
    wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))


@pytest.mark.parametrize(
    "answer",
    [line(b""), line(b'{"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "101"}}}\n'), gone],
    ids=["empty", "with something in them", "of versions always forgotten"],
)
def test_streams_that_end_at_once_make_no_busy_loop(api: KubeApi, open_source: Open, answer: Answer) -> None:
    api.apply(pod("a"))
    api.always["watch"] = answer
    source = open_source()
    source.read()
    time.sleep(2)
    # 0.05 s, doubled to 0.4, three quarters of each: about eight watches, and as many lists at most.
    assert 3 <= len(api.asked("watch")) <= 12
    assert len(api.asked("list")) <= len(api.asked("watch")) + 1
    assert urls(source.read()) == [url("10.0.0.1")]


def test_a_stream_is_ended_that_the_server_does_not_end(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("a"))
    api.answers["watch"].append(lambda handler: drip(handler, b"HTTP/1.1 200 OK\r\n\r\n", b" " * 10_000))
    source = open_source(pace=Pace(watch_seconds=1, slack_seconds=0, back_off_seconds=0.05))
    wait_for_urls(source, url("10.0.0.1"))
    wait_until(lambda: len(api.asked("watch")) >= 2)
    assert urls(source.read()) == [url("10.0.0.1")]


# --- who may what --------------------------------------------------------------------------------


def test_a_token_that_was_replaced_is_read_again(api: KubeApi, open_source: Open, account: Path) -> None:
    api.apply(pod("a"))
    source = open_source()
    wait_for_urls(source, url("10.0.0.1"))
    wait_until(lambda: api.streams == 1)
    api.tokens = {"second-token"}
    api.end_streams()
    error = wait_for_failure(source, "unauthorized")
    assert TOKEN not in str(error)
    # As the kubelet does it: the name leads to another file.
    (account / "new").write_text("second-token\n")
    (account / "new").rename(account / "token")
    api.apply(pod("b", ip="10.0.0.2"))
    wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))
    assert api.requests[-1].token == "second-token"


def test_what_may_not_be_listed_is_said_with_the_role_that_is_missing(
    api: KubeApi, open_source: Open
) -> None:
    api.forbidden.add("list")
    source = open_source()
    error = wait_for_failure(source, "forbidden")
    assert "bind a ClusterRole with get, list and watch on pods" in str(error)
    api.forbidden.clear()
    api.apply(pod("a"))
    wait_for_urls(source, url("10.0.0.1"))


def test_without_the_right_to_watch_pods_are_listed_again_and_again(api: KubeApi, open_source: Open) -> None:
    api.forbidden.add("watch")
    source = open_source()
    source.read()
    api.apply(pod("a"))
    (note,) = wait_for_urls(source, url("10.0.0.1")).notes
    assert "add watch to the ClusterRole" in note
    api.delete("a")
    wait_for_urls(source)
    assert len(api.asked("watch")) == 1


def test_the_right_to_watch_is_noticed_when_it_comes(api: KubeApi, open_source: Open) -> None:
    api.forbidden.add("watch")
    source = open_source(pace=Pace(poll_seconds=0.1, recheck_seconds=0.3))
    source.read()
    wait_until(lambda: bool(api.asked("watch")))
    api.forbidden.clear()
    wait_until(lambda: api.streams == 1)
    assert wait_for(source, lambda reading: not reading.notes).servers == ()


@pytest.mark.parametrize("status", [429, 503])
def test_an_api_server_that_asks_for_it_is_left_alone(api: KubeApi, open_source: Open, status: int) -> None:
    api.answers["list"].append(lambda handler: handler.fail(status, {"Retry-After": "1"}))
    api.apply(pod("a"))
    source = open_source()
    wait_for_failure(source, "throttled" if status == 429 else "http_status")
    wait_for_urls(source, url("10.0.0.1"))
    first, second = api.asked("list")
    assert second.at_seconds - first.at_seconds >= 1


# --- lists that are none -------------------------------------------------------------------------

ENDLESS = b"HTTP/1.1 200 OK\r\n\r\n"


def too_large(handler: Handler) -> None:
    handler.stream()
    with suppress(OSError):
        while True:
            handler.chunk(b" " * 65536)


def says(document: object) -> Answer:
    return lambda handler: drip(handler, ENDLESS + json.dumps(document).encode(), b"")


UNREADABLE_LISTS: dict[str, tuple[Answer, str]] = {
    "no JSON": (lambda handler: drip(handler, ENDLESS + b"{", b""), "malformed"),
    "another document": (says([]), "malformed"),
    "a list without version": (says({"metadata": {}, "items": []}), "malformed"),
    "items that are none": (says({"metadata": {"resourceVersion": "1"}, "items": 5}), "malformed"),
    "one byte at a time": (lambda handler: drip(handler, ENDLESS, b" " * 10_000), "timeout"),
    "headers one byte at a time": (
        lambda handler: drip(handler, b"HTTP/1.1 200 OK\r\n", b"A: b\r\n" * 99),
        "timeout",
    ),
    "an answer without end": (too_large, "too_large"),
    "pages without end": (
        says({"metadata": {"resourceVersion": "1", "continue": "on"}, "items": []}),
        "too_large",
    ),
    "no answer": (silent_for(0), "disconnected"),
}


@pytest.mark.parametrize(("answer", "reason"), UNREADABLE_LISTS.values(), ids=UNREADABLE_LISTS.keys())
def test_an_unreadable_list_fails_with_its_reason(
    api: KubeApi, open_source: Open, answer: Answer, reason: str
) -> None:
    api.always["list"] = answer
    source = open_source(
        pace=Pace(
            list_seconds=1 if reason == "timeout" else 20, first_answer_seconds=0.1, back_off_seconds=0.05
        )
    )
    error = wait_for_failure(source, reason)
    assert error.reason in ADVICE
    assert not api.asked("watch")
    del api.always["list"]
    api.apply(pod("a"))
    wait_for_urls(source, url("10.0.0.1"))


@pytest.mark.parametrize("item", [None, 5, "pod", [], {}, {"metadata": 1, "spec": [], "status": None}])
def test_items_that_are_no_pods_are_passed_over(api: KubeApi, open_source: Open, item: object) -> None:
    api.answers["list"].append(says({"metadata": {"resourceVersion": "100"}, "items": [item, pod("a")]}))
    assert urls(open_source().read()) == [url("10.0.0.1")]


# --- reaching it ---------------------------------------------------------------------------------


def test_an_api_server_that_restarts_is_found_again(certificate: Path, account: Path) -> None:
    api = KubeApi()
    with serving(api, certificate):
        api.apply(pod("a"))
        server = ApiServer(host="127.0.0.1", port=api.port, service_account=account)
        source = KubernetesSource(NODE, PodRules(), server=server, pace=PACE)
        wait_for_urls(source, url("10.0.0.1"))
        wait_until(lambda: api.streams == 1)
    with closing(source):
        wait_for_failure(source, "refused")
        with serving(api, certificate):
            api.apply(pod("b", ip="10.0.0.2"))
            wait_for_urls(source, url("10.0.0.1"), url("10.0.0.2"))


def test_only_the_clusters_own_authority_is_trusted(
    api: KubeApi, open_source: Open, account: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    other = make_certificate(tmp_path_factory.mktemp("other") / "certificate.pem")
    (account / "ca.crt").write_bytes(other.read_bytes())
    source = open_source()
    wait_for_failure(source, "tls")
    assert api.requests == []  # nobody unknown is shown the token
    (account / "ca.crt").write_bytes(Path(account / "token").read_bytes())
    wait_for_failure(source, "tls")


def test_the_name_in_the_certificate_must_be_the_hosts(api: KubeApi, account: Path) -> None:
    server = ApiServer(host="localhost", port=api.port, service_account=account)
    with closing(KubernetesSource(NODE, PodRules(), server=server, pace=PACE)) as source:
        wait_for_failure(source, "tls")
    assert api.requests == []


@pytest.mark.parametrize("token", [None, "", "two words", "line\r\nX-Header: 1", "é" * 9])
def test_a_token_that_cannot_be_one_is_not_sent(
    api: KubeApi, open_source: Open, account: Path, token: str | None
) -> None:
    (account / "token").unlink()
    if token is not None:
        (account / "token").write_text(token)
    wait_for_failure(open_source(), "no_token")
    assert api.requests == []


def test_outside_a_cluster_it_is_absent() -> None:
    assert ApiServer.from_environment({}) is None
    with closing(KubernetesSource(NODE, PodRules(), server=None)) as source, pytest.raises(SourceAbsentError):
        source.read()


def test_the_kubelets_variables_say_where_the_api_server_is() -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "6443"}
    server = ApiServer.from_environment(environ)
    assert server is not None
    assert server.address == "[fd00::1]:6443"
    assert ApiServer.from_environment({**environ, "KUBERNETES_SERVICE_PORT": "tcp://1"}) is None


def test_without_the_nodes_name_nobody_is_asked(api: KubeApi, open_source: Open) -> None:
    source = open_source(node="")
    with pytest.raises(SourceError, match=r"spec\.nodeName"):
        source.read()
    assert api.requests == []


def test_too_many_namespaces_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 32"):
        KubernetesSource(NODE, PodRules(namespaces=tuple(map(str, range(33)))), server=None)


# --- closing -------------------------------------------------------------------------------------


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()} & {"pods-all", "node-labels"}


def check_closing(source: KubernetesSource) -> None:
    before = time.monotonic()
    source.close()
    assert time.monotonic() - before < 1.5
    assert names_of_threads() == set()


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_closing_ends_what_is_being_asked(api: KubeApi, open_source: Open, verb: str) -> None:
    if verb == "list":
        api.always = {"list": silent_for(5), "node": silent_for(5)}
    source = open_source(pace=Pace(first_answer_seconds=0.2))
    with suppress(SourceError):
        source.read()
    wait_until(lambda: any(request.verb == verb for request in api.requests))
    check_closing(source)
    source.close()  # once more does no harm


def test_closing_ends_a_handshake_that_nobody_answers(open_source: Open) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        source = open_source(port=deaf.getsockname()[1], pace=Pace(first_answer_seconds=0.2))
        with pytest.raises(SourceError):
            source.read()
        check_closing(source)


def test_closing_ends_an_attempt_to_connect(open_source: Open) -> None:
    with socket.socket() as full, ExitStack() as waiting:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):  # what nobody accepts fills the queue, and who comes next waits
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            with suppress(BlockingIOError):
                one.connect(full.getsockname())
        source = open_source(port=full.getsockname()[1], pace=Pace(first_answer_seconds=0.3))
        with pytest.raises(SourceError):
            source.read()
        check_closing(source)


def test_closing_before_the_first_reading_begins_nothing(api: KubeApi, open_source: Open) -> None:
    source = open_source()
    source.close()
    with pytest.raises(SourceError):
        source.read()
    assert api.requests == []


# --- the node's own labels -----------------------------------------------------------------------


def test_the_nodes_labels_are_read(api: KubeApi, open_source: Open) -> None:
    api.node_labels = {"node.kubernetes.io/instance-type": "p5.48xlarge", "odd": 5}
    source = open_source()
    assert source.node_labels == {}
    source.read()
    wait_until(lambda: source.node_labels == {"node.kubernetes.io/instance-type": "p5.48xlarge"})
    assert len(api.asked("node")) == 1


def test_the_nodes_labels_change(api: KubeApi, open_source: Open) -> None:
    source = open_source(pace=Pace(recheck_seconds=0.1))
    source.read()
    wait_until(lambda: bool(api.asked("node")))
    api.node_labels = {"pool": "spot"}
    wait_until(lambda: source.node_labels == {"pool": "spot"})


def test_labels_that_may_not_be_read_are_a_note_and_nothing_more(api: KubeApi, open_source: Open) -> None:
    api.forbidden.add("node")
    api.apply(pod("a"))
    source = open_source()
    (note,) = wait_for(source, lambda reading: bool(reading.notes)).notes
    assert "ClusterRole with get on nodes" in note
    assert urls(source.read()) == [url("10.0.0.1")]
    assert source.node_labels == {}
    time.sleep(0.5)
    assert len(api.asked("node")) == 1


def test_a_node_that_is_not_there_is_said(api: KubeApi, open_source: Open) -> None:
    source = open_source(node="gpu-2")
    (note,) = wait_for(source, lambda reading: bool(reading.notes)).notes
    assert "no node of this name" in note


def test_container_names_come_with_the_pod(api: KubeApi, open_source: Open) -> None:
    api.apply(pod("a", containers=[container("proxy", image="istio/proxyv2:1"), container("engine")]))
    (server,) = open_source().read().servers
    assert server.container is not None
    assert server.container.container == "engine"
