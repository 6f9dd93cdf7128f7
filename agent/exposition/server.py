"""The agent's pages over HTTP. A request reads the latest assessment from memory and waits for nothing.

`create_app` is the WSGI application, which can be tried without a socket; `ExpositionServer` puts it
behind a socket, with limits on what a client may send and how long it may take.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

import yaml

from agent import __version__
from agent.assessment import Assessment
from agent.clock import Clock
from agent.errors import AgentError, ConfigurationError
from agent.exposition.access import OPEN, Access
from agent.exposition.authentication import Authenticator, BusyError
from agent.exposition.json_view import AssessmentPage
from agent.exposition.listener import Listener
from agent.exposition.rate_limit import TokenBucket
from agent.exposition.status_page import StatusPage

log = logging.getLogger(__name__)

STALLED_INTERVALS, STALLED_SECONDS = 10, 10.0
"""The agent is sick when its last assessment is older than this many intervals, and than these seconds."""

REQUEST_SECONDS = 10.0
"""For a whole request, its handshake included, and again for its answer, however slow a client is."""

HEALTH_PATHS = ("/-/healthy", "/-/ready")
"""For everybody: who restarts a sick agent has no password."""
PATHS = ("/", "/metrics", "/api/v1/assessment", "/config", *HEALTH_PATHS)
RELEASE_PATH, RELOAD_PATH = "/-/release-gpus", "/-/reload"
RELEASE_SECONDS = (1.0, 86400.0)
"""The shortest and the longest release that may be asked for."""

TEXT = "text/plain; charset=utf-8"
JSON = "application/json; charset=utf-8"
HTML = "text/html; charset=utf-8"


class RenderedMetrics(Protocol):
    """A metrics page in the format that was asked for."""

    @property
    def content_type(self) -> str:
        """The value of Content-Type."""

    @property
    def content_encoding(self) -> str | None:
        """The value of Content-Encoding; `None` when the body is as it is."""

    @property
    def body(self) -> bytes:
        """What to send."""


class MetricsRenderer(Protocol):
    """Gives the metrics page as the client wants it."""

    def render(self, accept: str | None, accept_encoding: str | None) -> RenderedMetrics:
        """The page for these values of Accept and Accept-Encoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one request gets."""

    body: bytes
    content_type: str = TEXT
    status: str = "200 OK"
    headers: tuple[tuple[str, str], ...] = ()


Reload = Callable[[str], str]
"""Loads the configuration anew for who is named, and says what is different; raises `AgentError`."""


def create_app(
    *,
    metrics: MetricsRenderer,
    latest: Callable[[], Assessment | None],
    configuration: Callable[[], Mapping[str, Any]],
    clock: Clock,
    access: Callable[[], Access] = lambda: OPEN,
    reload: Reload | None = None,
) -> WSGIApplication:
    """The WSGI application. `configuration` is shown as it is: it must be redacted already.

    It and `access` are asked at each request, since they may change.
    """
    page, document = StatusPage(version=__version__), AssessmentPage()
    routes: Mapping[str, Callable[[WSGIEnvironment], Answer]] = {
        "/": lambda request: Answer(
            body=page.render(
                latest(),
                now_seconds=clock.monotonic(),
                paused=request.get("QUERY_STRING") == "paused",
            ).encode(),
            content_type=HTML,
        ),
        "/metrics": lambda request: _metrics(metrics, request),
        "/api/v1/assessment": lambda _: _assessment(document, latest(), clock.monotonic()),
        "/config": lambda _: _configuration(configuration()),
        "/-/healthy": lambda _: _healthy(latest(), clock.monotonic()),
        "/-/ready": lambda _: _ready(latest()),
    }
    actions: Mapping[str, Callable[[WSGIEnvironment, Access], Answer]] = {
        RELEASE_PATH: _release,
        RELOAD_PATH: lambda request, _: _reload(request, reload),
    }

    def respond(request: WSGIEnvironment, access: Access) -> Answer:
        path = request["PATH_INFO"]
        too_many = _refuse_many(access.limiter)
        # The body first: it must not be left unread by another refusal, and then taken for a request.
        refusal = _refuse_body(request) or too_many
        if refusal is None and path not in HEALTH_PATHS:
            refusal = _CLOSED if access.closed else _identify(request, access.authenticator)
        if refusal is None:
            refusal = _refuse_method(request, "POST" if path in actions else "GET, HEAD")
        if refusal is not None:
            return refusal
        if path in actions:
            return _refuse_action(request, access) or actions[path](request, access)
        route = routes.get(path)
        return _NOT_FOUND if route is None else route(request)

    def app(request: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        given = access()
        answer = respond(request, given)
        start_response(
            answer.status,
            [
                ("Content-Type", answer.content_type),
                ("Content-Length", str(len(answer.body))),
                *answer.headers,
                *_security_headers(page.style_source, given.headers),
            ],
        )
        return [] if request["REQUEST_METHOD"] == "HEAD" else [answer.body]

    return app


def _security_headers(style_source: str, added: Mapping[str, str]) -> list[tuple[str, str]]:
    # data: is the page's own icon; without one a browser asks for /favicon.ico, and complains.
    policy = (
        f"default-src 'none'; style-src {style_source}; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    )
    own = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-store",
    }
    # Of several policies a browser keeps all: one that is added can tighten ours, and never loosens it.
    policies = ", ".join(given for given in (policy, added.get("Content-Security-Policy")) if given)
    return list({**own, **added, "Content-Security-Policy": policies}.items())


_NOT_FOUND = Answer(
    body="".join(
        f"{line}\n"
        for line in (
            "no such page; there are:",
            *PATHS,
            *(f"{path} (only POST)" for path in (RELEASE_PATH, RELOAD_PATH)),
        )
    ).encode(),
    status="404 Not Found",
)


def _refuse_body(request: WSGIEnvironment) -> Answer | None:
    if request.get("CONTENT_LENGTH", "0") not in ("", "0") or "HTTP_TRANSFER_ENCODING" in request:
        # cheroot closes the connection after a 413, so that the body is not read as the next request.
        return Answer(body=b"a request must have no body\n", status="413 Content Too Large")
    return None


_CLOSED = Answer(
    body=b"closed: the web configuration file has become invalid; the agent's log says how\n",
    status="500 Internal Server Error",
)


def _refuse_many(limiter: TokenBucket | None) -> Answer | None:
    wait_seconds = 0.0 if limiter is None else limiter.take()
    if not wait_seconds:
        return None
    return Answer(
        body=b"too many requests\n",
        status="429 Too Many Requests",
        headers=(("Retry-After", str(math.ceil(wait_seconds))),),
    )


def _identify(request: WSGIEnvironment, authenticator: Authenticator | None) -> Answer | None:
    """Note whose request it is, as REMOTE_USER; or the refusal."""
    if authenticator is None:
        return None
    try:
        user = authenticator.user_of(request.get("HTTP_AUTHORIZATION"))
    except BusyError as error:
        return Answer(
            body=f"{error}; try again\n".encode(),
            status="503 Service Unavailable",
            headers=(("Retry-After", "1"),),
        )
    if user is None:
        return Answer(
            body=b"a user's name and password are needed\n",
            status="401 Unauthorized",
            headers=(("WWW-Authenticate", 'Basic realm="roofline-agent", charset="UTF-8"'),),
        )
    request["REMOTE_USER"] = user
    return None


def _refuse_method(request: WSGIEnvironment, allowed: str) -> Answer | None:
    if request["REQUEST_METHOD"] in allowed.split(", "):
        return None
    words = f"only {allowed.replace(', ', ' and ')}\n"
    return Answer(body=words.encode(), status="405 Method Not Allowed", headers=(("Allow", allowed),))


# --- what is done on request -----------------------------------------------------------------------


def _refuse_action(request: WSGIEnvironment, access: Access) -> Answer | None:
    """Only an authenticated user who means it may have something done, where that is switched on."""
    missing = [
        key
        for key, given in (
            ("web.enable_lifecycle: true", access.release),
            ("web.config_file with basic_auth_users", access.authenticator),
        )
        if given is None
    ]
    if missing:
        return _forbidden(f"this needs {' and '.join(missing)} in the configuration")
    # A browser sends a password that it knows along with a request that any page makes, and then says
    # where that page is from. No page of ours makes one, so that there is no good origin to compare with.
    if "HTTP_ORIGIN" in request or "HTTP_SEC_FETCH_SITE" in request:
        return _forbidden("this is not for browsers, where another page may ask in your name; use curl")
    return None


def _release(request: WSGIEnvironment, access: Access) -> Answer:
    """Let go of the GPUs."""
    assert access.release is not None  # else it was refused
    try:
        seconds = _parse_seconds(request.get("QUERY_STRING", ""))
    except ValueError as error:
        return Answer(body=f"{error}\n".encode(), status="400 Bad Request")
    done = access.release(seconds)
    log.warning("http: %s asked to let go of the GPUs: %s", request["REMOTE_USER"], done)
    return Answer(body=f"{done}\n".encode())


def _reload(request: WSGIEnvironment, reload: Reload | None) -> Answer:
    """Load the configuration anew; what is wrong with it is the answer, a line each."""
    if reload is None:
        return Answer(body=b"there is nothing to reload\n", status="400 Bad Request")
    try:
        done = reload(f"POST by {request['REMOTE_USER']}")
    except ConfigurationError as error:
        return Answer(body=f"{error}\n".encode(), status="400 Bad Request")
    except AgentError as error:
        return Answer(body=f"{error}\n".encode(), status="500 Internal Server Error")
    return Answer(body=f"{done}\n".encode())


def _forbidden(reason: str) -> Answer:
    return Answer(body=f"{reason}\n".encode(), status="403 Forbidden")


def _parse_seconds(query: str) -> float | None:
    """The number in ``seconds=N``, `None` without a query. Raises `ValueError`, in words, for others."""
    if not query:
        return None
    shortest, longest = RELEASE_SECONDS
    given = parse_qsl(query, keep_blank_values=True)
    if [name for name, _ in given] == ["seconds"]:
        with suppress(ValueError):
            if shortest <= (seconds := float(given[0][1])) <= longest:
                return seconds
    raise ValueError(f"the query must be seconds=N, with a number from {shortest:g} to {longest:g}")


# --- the pages -------------------------------------------------------------------------------------


def _metrics(metrics: MetricsRenderer, request: WSGIEnvironment) -> Answer:
    rendered = metrics.render(request.get("HTTP_ACCEPT"), request.get("HTTP_ACCEPT_ENCODING"))
    headers: tuple[tuple[str, str], ...] = (("Vary", "Accept, Accept-Encoding"),)
    if rendered.content_encoding is not None:
        headers += (("Content-Encoding", rendered.content_encoding),)
    return Answer(body=rendered.body, content_type=rendered.content_type, headers=headers)


def _configuration(configuration: Mapping[str, Any]) -> Answer:
    return Answer(body=yaml.safe_dump(dict(configuration), sort_keys=False, allow_unicode=True).encode())


def _assessment(page: AssessmentPage, assessment: Assessment | None, now_seconds: float) -> Answer:
    if assessment is None:
        return Answer(
            body=b'{"error": "nothing is assessed yet"}\n',
            content_type=JSON,
            status="503 Service Unavailable",
            headers=(("Retry-After", "1"),),
        )
    age_seconds = max(now_seconds - assessment.at_seconds, 0.0)
    return Answer(body=page.render(assessment, age_seconds=age_seconds), content_type=JSON)


def _healthy(assessment: Assessment | None, now_seconds: float) -> Answer:
    """Whether the sampler still samples. Sources that fail are no reason to restart the agent."""
    if assessment is None:
        return Answer(body=b"healthy: starting, nothing is assessed yet\n")
    age = now_seconds - assessment.at_seconds
    if age <= max(STALLED_INTERVALS * assessment.interval_seconds, STALLED_SECONDS):
        return Answer(body=f"healthy: assessed {age:.1f} s ago\n".encode())
    words = f"stalled: assessed {age:.0f} s ago, due every {assessment.interval_seconds:g} s\n"
    return Answer(body=words.encode(), status="503 Service Unavailable")


def _ready(assessment: Assessment | None) -> Answer:
    if assessment is None:
        return Answer(body=b"not ready: nothing is assessed yet\n", status="503 Service Unavailable")
    return Answer(body=b"ready\n")


# --- the socket ------------------------------------------------------------------------------------


class ExpositionServer:
    """Serves the pages from `start` until `close`."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        metrics: MetricsRenderer,
        latest: Callable[[], Assessment | None],
        configuration: Callable[[], Mapping[str, Any]],
        clock: Clock,
        access: Callable[[], Access] = lambda: OPEN,
        reload: Reload | None = None,
        request_seconds: float = REQUEST_SECONDS,
    ) -> None:
        self._host, self._port = host, port
        app = create_app(
            metrics=metrics,
            latest=latest,
            configuration=configuration,
            clock=clock,
            access=access,
            reload=reload,
        )
        self._server = Listener(host, port, app, access=access, request_seconds=request_seconds)
        self._watch_seconds = request_seconds / 10
        self._closed = threading.Event()
        self._threads = (
            threading.Thread(target=self._server.serve, name="http", daemon=True),
            threading.Thread(target=self._watch, name="http-watch", daemon=True),
        )

    @property
    def port(self) -> int:
        """Where it listens; after `start` the real one, when 0 was asked for."""
        return int(self._server.bind_addr[1])

    def start(self) -> None:
        """Bind and serve, on threads of its own. Raises `AgentError` when it cannot listen there."""
        try:
            self._server.prepare()
        except OSError as error:
            raise AgentError(
                f"cannot listen on {self._host}:{self._port} ({error}); "
                "is another agent running there? web.listen_address sets another address"
            ) from None
        for thread in self._threads:
            thread.start()

    def _watch(self) -> None:
        while not self._closed.wait(self._watch_seconds):
            self._server.end_overdue()

    def close(self) -> None:
        """Stop listening; answers under way have a second to end."""
        self._closed.set()
        self._server.stop()
        for thread in self._threads:
            if thread.is_alive():
                thread.join(timeout=2)
