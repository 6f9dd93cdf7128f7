"""Serving engines by the pods of this node, as a `Source[Discovery]`: listed once, then watched.

The one thing to know: all talk with the API server is on threads of its own, and `read` only looks at what
they last published. Of a pod nothing is kept but what was found in it (`pods.find_servers`). However the
API server answers – not at all, at once, for ever – it is asked at most once in so many seconds.
"""

from __future__ import annotations

import http.client
import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol
from urllib.parse import quote

from agent.discovery.api_server import (
    ADVICE,
    STATUS_REASONS,
    ApiClient,
    ApiError,
    ApiServer,
    parse_json,
    read_json,
    read_lines,
)
from agent.discovery.pods import NOTES, PodFindings, PodRules, find_servers
from agent.engines.base import list_at, number_at, text_at, value_at
from agent.errors import SourceAbsentError, SourceError
from agent.labels import label_text
from agent.readings import MAX_FOUND, Discovery, FoundServer

log = logging.getLogger(__name__)

MAX_PODS = 1000
"""Of one node, or of one namespace on it; the kubelet runs 110 unless told otherwise."""
MAX_PAGES = 100
"""Of one list; a page may be empty and not the last."""
MAX_NAMESPACES = 32
"""Each costs a thread and a connection."""
MAX_NODE_LABELS = 1000
PODS_IN_NOTE = 5
"""Named in a note; the others are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How often the API server is asked, and how long it may take."""

    connect_seconds: float = 5.0
    list_seconds: float = 30.0
    """For a whole list, all its pages together."""
    watch_seconds: int = 300
    """After which the API server is to end a watch; up to twice that, so that nodes do not come together."""
    slack_seconds: float = 15.0
    """After which a watch is ended that it did not end."""
    calm_seconds: float = 5.0
    """A watch that lasted so long was a success; after a shorter one the next waits ever longer."""
    back_off_seconds: float = 1.0
    """After a first failure; doubled with each further one."""
    most_back_off_seconds: float = 30.0
    most_retry_after_seconds: float = 300.0
    """However long the API server asks to wait."""
    poll_seconds: float = 10.0
    """Between lists, where watching is not allowed."""
    recheck_seconds: float = 600.0
    """After which it is seen whether it now is; and between two looks at the node's labels."""
    first_answer_seconds: float = 4.0
    """For which a first reading waits."""
    page_pods: int = 500
    """Asked for at once."""


DEFAULT_PACE = Pace()


# --- a loop on its own thread --------------------------------------------------------------------


class _BackOff:
    """How long to wait after one more failure."""

    def __init__(self, pace: Pace, chance: Callable[[], float]) -> None:
        self._pace = pace
        self._chance = chance
        self._failures = 0

    def calm(self) -> None:
        """All is well."""
        self._failures = 0

    def next(self, error: ApiError | None = None) -> float:
        """Seconds, scattered between the half and the whole, or as long as the API server asks for."""
        most = self._pace.most_back_off_seconds
        seconds = min(most, self._pace.back_off_seconds * 2.0 ** min(self._failures, 16))
        self._failures += 1
        asked = error.retry_after_seconds if error is not None else 0.0
        return max(seconds * (0.5 + self._chance() / 2), min(asked, self._pace.most_retry_after_seconds))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What one loop last published."""

    pods: tuple[PodFindings, ...] = ()
    labels: Mapping[str, str] | None = None
    problem: SourceError | None = None
    notes: tuple[str, ...] = ()
    ever: bool = False
    """It has been told something at least once."""


class _Board:
    """Where what is known stands: one thread writes, others read."""

    def __init__(self) -> None:
        self.known = _Known()
        self.written = threading.Event()
        """Set when something was published, or nothing more will be."""

    def publish(self, known: _Known) -> None:
        self.known = known
        self.written.set()


class _Question(Protocol):
    """What is asked of the API server, again and again."""

    name: str
    client: ApiClient
    board: _Board

    def ask(self) -> float:
        """Ask once, however long that lasts, publish, and give the seconds until the next time."""

    def fail(self, error: ApiError) -> float:
        """Publish what is known after it, and give the seconds until the next time."""


class _Loop:
    """Asks one question again and again, on a thread of its own."""

    def __init__(self, question: _Question, pace: Pace) -> None:
        self.board = question.board
        self._question = question
        self._pace = pace
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=question.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._question.client.close()
        self.board.written.set()

    def join(self, seconds: float) -> None:
        self._thread.join(timeout=seconds)

    def _run(self) -> None:
        wait, told = 0.0, ""
        while not self._stop.wait(wait):
            try:
                wait, told = self._question.ask(), ""
            except ApiError as error:
                wait = self._question.fail(error)
            except Exception as error:  # as in a poller's thread: a bug must not end it unseen
                if told != (told := type(error).__name__):
                    log.exception("%s: the reader itself failed", self._question.name)
                wait = self._pace.most_back_off_seconds
                problem = SourceError("internal", "pods of this node: the reader itself failed")
                self.board.publish(replace(self.board.known, problem=problem))


# --- what is asked -------------------------------------------------------------------------------


class _Pods:
    """The pods of this node, in one namespace or in all."""

    def __init__(
        self,
        namespace: str | None,
        node_name: str,
        rules: PodRules,
        server: ApiServer,
        pace: Pace,
        chance: Callable[[], float],
    ) -> None:
        self.name = f"pods-{namespace or 'all'}"
        self.client = ApiClient(server, connect_seconds=pace.connect_seconds)
        self.board = _Board()
        self._pace = pace
        self._chance = chance
        self._back_off = _BackOff(pace, chance)
        self._role = f"Role in namespace {namespace}" if namespace is not None else "ClusterRole"
        self._path = f"/api/v1/namespaces/{quote(namespace, safe='')}/pods" if namespace else "/api/v1/pods"
        self._node_name = node_name
        self._rules = rules
        self._query = {"fieldSelector": f"spec.nodeName={node_name}"}
        if rules.selectors:
            self._query["labelSelector"] = ",".join(map(str, rules.selectors))
        # By namespace and name: only pods in which something was found.
        self._pods: dict[tuple[str, str], PodFindings] = {}
        # Up to which the pods are known; `None`: they must be listed.
        self._version: str | None = None
        # A first list may be a little old, which spares the API server its database; one after a version
        # was forgotten must not be older than that.
        self._first_version: str | None = "0"
        self._watching_forbidden_until = 0.0
        self._too_many = False

    def ask(self) -> float:
        if self._version is None:
            self._list()
            if self._lists_only:
                self._version = None
                self._back_off.calm()
                return self._pace.poll_seconds
            return 0.0
        return self._watch(self._version)

    def fail(self, error: ApiError) -> float:
        if error.status == http.client.GONE:
            self._version, self._first_version = None, None
            return self._back_off.next()  # what is known is not wrong, only due to be listed again
        if error.reason in ("malformed", "too_large"):
            self._version = None
        if error.reason == "forbidden":
            self._version = None
            error = ApiError(error.reason, status=error.status, role=self._role)
        self.board.publish(replace(self.board.known, problem=error))
        return self._back_off.next(error)

    @property
    def _lists_only(self) -> bool:
        return time.monotonic() < self._watching_forbidden_until

    # --- listing -----------------------------------------------------------------------------------

    def _list(self) -> None:
        deadline = time.monotonic() + self._pace.list_seconds
        pods: dict[tuple[str, str], PodFindings] = {}
        query = {**self._query, "limit": str(self._pace.page_pods)}
        if self._first_version is not None:
            query["resourceVersion"] = self._first_version
        count = 0
        for _ in range(MAX_PAGES):
            page = self._page(query, deadline)
            items = list_at(page, "items")
            for pod in items[: MAX_PODS - count]:
                self._take(pods, pod)
            count += len(items)
            following = text_at(page, "metadata", "continue")
            if following is None or count > MAX_PODS:
                break
            query = {**self._query, "limit": str(self._pace.page_pods), "continue": following}
        else:
            raise ApiError("too_large")
        version = text_at(page, "metadata", "resourceVersion")
        if version is None:
            raise ApiError("malformed")
        self._pods, self._version, self._too_many = pods, version, count > MAX_PODS
        self._tell()

    def _page(self, query: Mapping[str, str], deadline: float) -> Any:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise ApiError("timeout")
        with self.client.get(self._path, query, deadline_seconds=remaining) as response:
            page = read_json(response)
        if not isinstance(value_at(page, "items"), list | None) or not isinstance(
            value_at(page, "metadata"), dict
        ):
            raise ApiError("malformed")
        return page

    # --- watching ----------------------------------------------------------------------------------

    def _watch(self, version: str) -> float:
        """Follow the changes until the stream ends."""
        seconds = int(self._pace.watch_seconds * (1 + self._chance()))
        query = {
            **self._query,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        started = time.monotonic()
        opened = False
        try:
            with self.client.get(
                self._path, query, deadline_seconds=seconds + self._pace.slack_seconds
            ) as response:
                opened = True
                self._tell()
                for line in read_lines(response):
                    self._apply(parse_json(line))
        except ApiError as error:
            if not opened and error.reason == "forbidden":
                self._watching_forbidden_until = time.monotonic() + self._pace.recheck_seconds
                self._version = None
                self._tell()
                return self._pace.poll_seconds
            if not opened or error.reason not in ("disconnected", "timeout"):
                raise
        finally:
            if time.monotonic() - started >= self._pace.calm_seconds:
                self._back_off.calm()
        # Ended, in whatever way, after it had begun: what is known stays, and the next goes on from there.
        return self._back_off.next()

    def _apply(self, event: Any) -> None:
        kind, pod = value_at(event, "type"), value_at(event, "object")
        if kind == "ERROR":
            raise self._told(pod)
        version = text_at(pod, "metadata", "resourceVersion")
        if version is None:
            raise ApiError("malformed")
        if kind in ("ADDED", "MODIFIED"):
            self._take(self._pods, pod)
        elif kind == "DELETED":
            self._pods.pop(_key(pod), None)
        self._version = version
        if kind != "BOOKMARK":
            self._tell()

    def _told(self, status: Any) -> ApiError:
        """The error that a watch brings instead of an event; after it nothing is certain."""
        self._version = None
        code = int(number_at(status, "code") or 0)
        after = number_at(status, "details", "retryAfterSeconds") or 0.0
        return ApiError(STATUS_REASONS.get(code, "http_status"), status=code, retry_after_seconds=after)

    # --- what is kept ------------------------------------------------------------------------------

    def _take(self, pods: dict[tuple[str, str], PodFindings], pod: Any) -> None:
        key = _key(pod)
        pods.pop(key, None)
        if value_at(pod, "spec", "nodeName") != self._node_name:
            return
        findings = find_servers(pod, self._rules)
        if findings and len(pods) < MAX_PODS:
            pods[key] = findings

    def _tell(self) -> None:
        notes = []
        if self._lists_only:
            notes.append(
                "pods may be listed and not watched, so changes are seen every "
                f"{self._pace.poll_seconds:g} s; add watch to the {self._role}"
            )
        if self._too_many:
            notes.append(f"more than {MAX_PODS} pods on this node; the rest is not looked at")
        self.board.publish(_Known(pods=tuple(self._pods.values()), notes=tuple(notes), ever=True))


def _key(pod: Any) -> tuple[str, str]:
    return text_at(pod, "metadata", "namespace") or "", text_at(pod, "metadata", "name") or ""


class _NodeLabels:
    """The labels of the node itself, for who may read them."""

    name = "node-labels"

    def __init__(self, node_name: str, server: ApiServer, pace: Pace, chance: Callable[[], float]) -> None:
        self.client = ApiClient(server, connect_seconds=pace.connect_seconds)
        self.board = _Board()
        self._pace = pace
        self._back_off = _BackOff(pace, chance)
        self._path = f"/api/v1/nodes/{quote(node_name, safe='')}"

    def ask(self) -> float:
        with self.client.get(self._path, {}, deadline_seconds=self._pace.list_seconds) as response:
            node = read_json(response)
        labels = value_at(node, "metadata", "labels")
        texts = labels.items() if isinstance(labels, dict) else ()
        kept = [(key, value) for key, value in texts if isinstance(value, str)][:MAX_NODE_LABELS]
        self.board.publish(_Known(labels=dict(kept), ever=True))
        self._back_off.calm()
        return self._pace.recheck_seconds

    def fail(self, error: ApiError) -> float:
        note = _NODE_NOTES.get(error.status)
        self.board.publish(replace(self.board.known, notes=(note,) if note is not None else ()))
        return self._pace.recheck_seconds if note is not None else self._back_off.next(error)


_NODE_NOTES: Mapping[int, str] = {
    403: "the node's labels may not be read, so no price can depend on them; that needs a ClusterRole with "
    "get on nodes",
    404: "there is no node of this name; is NODE_NAME taken from spec.nodeName?",
}


# --- the source ----------------------------------------------------------------------------------


class KubernetesSource:
    """All engines in this node's pods. Its threads begin with the first `read`."""

    name = "kubernetes"
    failure_reasons = tuple(ADVICE)

    def __init__(
        self,
        node_name: str,
        rules: PodRules,
        *,
        server: ApiServer | None,
        pace: Pace = DEFAULT_PACE,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`server` as from `ApiServer.from_environment`; `ValueError` with too many namespaces.

        `chance` gives numbers from 0 to 1, by which waiting is scattered.
        """
        if len(rules.namespaces) > MAX_NAMESPACES:
            raise ValueError(f"at most {MAX_NAMESPACES} namespaces can be watched")
        self._node_name = node_name
        self._server = server
        self._pace = pace
        # Guards the next two: it may be closed while a first reading begins.
        self._lock = threading.Lock()
        self._closed = False
        self._started = False
        self._pods: tuple[_Loop, ...] = ()
        self._node: _Loop | None = None
        if server is not None and node_name:
            namespaces: tuple[str | None, ...] = tuple(dict.fromkeys(rules.namespaces)) or (None,)
            self._pods = tuple(
                _Loop(_Pods(namespace, node_name, rules, server, pace, chance), pace)
                for namespace in namespaces
            )
            self._node = _Loop(_NodeLabels(node_name, server, pace, chance), pace)

    @property
    def node_labels(self) -> Mapping[str, str]:
        """As last read; empty where they may not be, or are not yet."""
        return (self._node.board.known.labels if self._node is not None else None) or {}

    def read(self) -> Discovery:
        """What is known now, without asking anybody; only the first time it waits a little for an answer."""
        if self._server is None:
            raise SourceAbsentError(
                "pods of this node: not in a cluster, as KUBERNETES_SERVICE_HOST and _PORT are not set"
            )
        if not self._node_name:
            raise ApiError("no_node_name")
        self._start()
        deadline = time.monotonic() + self._pace.first_answer_seconds
        for loop in self._pods:
            loop.board.written.wait(max(0.0, deadline - time.monotonic()))
        known = [loop.board.known for loop in self._pods]
        problems = [one.problem or (None if one.ever else ApiError("timeout")) for one in known]
        failed = [problem for problem in problems if problem is not None]
        if len(failed) == len(known):
            raise failed[0]
        return _discovery(known, failed, self._node.board.known.notes if self._node is not None else ())

    def close(self) -> None:
        """End the threads; one that cannot be ended within a second is left behind."""
        with self._lock:
            self._closed = True
        for loop in self._loops:
            loop.stop()
        deadline = time.monotonic() + 1.0
        for loop in self._loops if self._started else ():
            loop.join(max(0.0, deadline - time.monotonic()))

    @property
    def _loops(self) -> tuple[_Loop, ...]:
        return (*self._pods, *((self._node,) if self._node is not None else ()))

    def _start(self) -> None:
        with self._lock:
            if self._closed or self._started:
                return
            self._started = True
            for loop in self._loops:
                loop.start()


def _discovery(known: list[_Known], failed: list[SourceError], node_notes: tuple[str, ...]) -> Discovery:
    """All together; a namespace that fails knows what it knew, and the others are not affected."""
    pods = sorted((pod for one in known for pod in one.pods), key=lambda pod: pod.pod)
    servers: list[FoundServer] = [server for pod in pods for server in pod.servers]
    notes = [str(problem) for problem in failed]
    notes += [note for one in known for note in one.notes]
    notes += node_notes
    notes += _pod_notes(pods)
    if len(servers) > MAX_FOUND:
        notes.append(f"{len(servers) - MAX_FOUND} more engines than {MAX_FOUND} in pods, which are left out")
    return Discovery(servers=tuple(servers[:MAX_FOUND]), notes=tuple(dict.fromkeys(notes)))


def _pod_notes(pods: list[PodFindings]) -> list[str]:
    notes = []
    for kind, text in NOTES.items():
        names = [label_text(pod.pod) for pod in pods if kind in pod.notes]
        if names:
            others = f" and {len(names) - PODS_IN_NOTE} more" if len(names) > PODS_IN_NOTE else ""
            notes.append(f"pods {', '.join(names[:PODS_IN_NOTE])}{others} {text}")
    return notes
