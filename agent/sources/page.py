"""A page of Prometheus text: fetched and read within limits, whatever the other side sends.

The peer is not trusted. `fetch_page` ends within its deadline and its bytes even where status line,
headers and body come one byte at a time; `PageParser` passes over what it cannot read and counts it.
A page comes again and again with the same series, so the parser remembers those of the page before:
for them a line costs one look-up and one float.
"""

from __future__ import annotations

import http.client
import logging
import math
import re
import socket
import ssl
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import requests
import urllib3
from prometheus_client.parser import text_string_to_metric_families
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from agent.errors import SourceError
from agent.sources.deadline import end_at

# urllib3 writes the whole URL, with its query, into its debug lines and its warnings of odd headers.
logging.getLogger("urllib3").setLevel(logging.ERROR)

CHUNK_BYTES = 16 * 1024
"""Read at once. Small, since an older urllib3 inflates the whole of it, up to a thousandfold."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLimits:
    """What one page may cost us."""

    max_bytes: int = 8 * 2**20
    """Of the body, after decompression."""
    deadline_seconds: float = 5.0
    """From the attempt to connect to the last byte.

    Not in it: the resolver, which cannot be cut short, and the further addresses of a dead host's name.
    """
    max_lines: int = 50_000
    max_line_bytes: int = 16 * 1024
    """A wanted line that is longer counts as malformed."""


DEFAULT_LIMITS = PageLimits()

MAX_VALUE = 1e30
"""No counter of tokens, bytes or FLOPs gets there; sums and squares of what is below stay finite."""

MIN_VALUE = 1e-30
"""Nothing that is counted or timed is so small; quotients by what is above stay finite."""


# --- fetching ------------------------------------------------------------------------------------


ADVICE: Mapping[str, str] = {
    "refused": "refused; is the server up, with metrics on?",
    "unreachable": "no such host, no route to it, or no such URL; is the address right?",
    "timeout": "no complete answer within {seconds:g} s; is the server stuck?",
    "tls": "no trusted TLS connection; is it https, and is the certificate's authority known here?",
    "disconnected": "the connection ended before the page did; is the server stopping?",
    "redirect": "it redirects (HTTP {status}), which is not followed; give the final URL",
    "http_status": "HTTP {status}; {hint}",
    "too_large": "more than {bytes} bytes or {lines} lines; is this a page of metrics?",
    "empty": "the page is empty; has the server had a request yet, and are its metrics switched on?",
    "malformed": "the answer is not a page of metrics; is the URL right?",
}
"""Every reason for which a page can fail, and what to say and ask."""

STATUS_HINTS: Mapping[int, str] = {
    401: "does it need an API key?",
    403: "does it need an API key?",
    404: "is the path right, and are metrics switched on?",
    501: "are metrics switched on?",
}

# What lies at the bottom of an exception of requests, the more telling type first.
_REASONS: tuple[tuple[type[BaseException], str], ...] = (
    (ConnectionRefusedError, "refused"),
    (ssl.SSLError, "tls"),
    (urllib3.exceptions.SSLError, "tls"),
    (urllib3.exceptions.NewConnectionError, "unreachable"),
    (TimeoutError, "timeout"),
    (urllib3.exceptions.TimeoutError, "timeout"),
    (http.client.IncompleteRead, "disconnected"),
    (ConnectionError, "disconnected"),
    (http.client.HTTPException, "malformed"),
    (urllib3.exceptions.DecodeError, "malformed"),
)


def open_session(
    *, verify: bool | str = True, certificate: tuple[str, str] | None = None
) -> requests.Session:
    """A session for one source.

    `verify` may be the path of a file of certificate authorities; `certificate` are the paths of our own
    and of its key.
    """
    session = requests.Session()
    session.verify = verify
    session.cert = certificate
    session.trust_env = False  # no proxy between us and the node, and no .netrc: keys belong to one URL
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
    session.headers.update(
        {
            "User-Agent": "roofline-agent",
            # OpenMetrics would rename vLLM's families.
            "Accept": "text/plain;version=0.0.4,text/plain;q=0.9,*/*;q=0.1",
            "Accept-Encoding": "identity",  # compressing would cost the engine more than it saves us
            # Polled every 5 s, while uvicorn drops an idle connection after 5 s: a kept one would race.
            "Connection": "close",
        }
    )
    adapter = _DeadlineAdapter()
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


def fetch_page(
    url: str,
    *,
    session: requests.Session,
    limits: PageLimits = DEFAULT_LIMITS,
    headers: Mapping[str, str] | None = None,
    subject: str | None = None,
) -> bytes:
    """The body of one GET, or `SourceError` with a reason out of `ADVICE`.

    `session` comes from `open_session`, whose connections keep the deadline. `subject` begins the
    messages; they never hold credentials, a query or anything that the server sent.
    """
    subject = subject or f"page at {redacted_url(url)}"
    try:
        with session.get(
            url,
            headers=headers,
            stream=True,
            allow_redirects=False,
            timeout=urllib3.Timeout(total=limits.deadline_seconds),  # type: ignore[arg-type]  # not in the stubs
        ) as response:
            status = response.status_code
            if status != requests.codes.ok:
                raise _failure(subject, "redirect" if 300 <= status < 400 else "http_status", limits, status)
            body = bytearray()
            for chunk in response.iter_content(CHUNK_BYTES):
                body += chunk
                if len(body) > limits.max_bytes:
                    raise _failure(subject, "too_large", limits)
            return bytes(body)
    # ValueError: what urllib.parse makes of some impossible URLs.
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
        # Not chained: requests writes the whole URL, with its query, into its own messages.
        raise _failure(subject, _reason(error), limits) from None


def redacted_url(url: str) -> str:
    """The URL without user, password, query and fragment, fit for a log."""
    try:
        parts = urlsplit(url)
        host = parts.netloc.rpartition("@")[2]
    except ValueError:
        return "(not a URL)"
    return f"{parts.scheme}://{host}{parts.path}{'?…' if parts.query else ''}"


def _failure(subject: str, reason: str, limits: PageLimits, status: int = 0) -> SourceError:
    advice = ADVICE[reason].format(
        seconds=limits.deadline_seconds,
        bytes=limits.max_bytes,
        lines=limits.max_lines,
        status=status,
        hint=STATUS_HINTS.get(status, "is the server healthy?"),
    )
    return SourceError(reason, f"{subject}: {advice}", http_status=status or None)


def _reason(error: BaseException) -> str:
    chain = tuple(_chain(error))
    for kind, reason in _REASONS:
        if any(isinstance(cause, kind) for cause in chain):
            return reason
    return "unreachable"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


class _DeadlineResponse(http.client.HTTPResponse):
    """A response that ends at the deadline, and its connection with it."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        # urllib3 has just set the time-out to what is left of the total.
        remaining = sock.gettimeout()
        assert remaining is not None
        end_at(time.monotonic() + remaining, self, sock)

    def begin(self) -> None:
        super().begin()
        self.will_close = True  # we said "Connection: close"; not every server says so too


class _DeadlineHttpConnection(HTTPConnection):
    response_class = _DeadlineResponse


class _DeadlineHttpsConnection(HTTPSConnection):
    response_class = _DeadlineResponse


class _DeadlineHttpPool(HTTPConnectionPool):
    ConnectionCls = _DeadlineHttpConnection


class _DeadlineHttpsPool(HTTPSConnectionPool):
    ConnectionCls = _DeadlineHttpsConnection


class _DeadlineAdapter(HTTPAdapter):
    """An adapter whose responses end at the deadline, status line and headers included."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _DeadlineHttpPool, "https": _DeadlineHttpsPool}


# --- reading -------------------------------------------------------------------------------------


class Sample(NamedTuple):
    """One finite value and its labels."""

    labels: Mapping[str, str]
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """The wanted samples of one page."""

    families: Mapping[str, Sequence[Sample]]
    """By sample name, so a histogram's `_bucket`, `_sum` and `_count` stand apart. Never an empty one."""
    malformed_lines: int = 0
    """Wanted lines that could not be read and were passed over, with all samples of their name."""

    def __contains__(self, name: str) -> bool:
        return name in self.families

    def samples(self, name: str) -> Sequence[Sample]:
        """The samples of this name, in the page's order; empty if there are none."""
        return self.families.get(name, ())

    def value(self, name: str, **labels: str) -> float | None:
        """The sum over the samples that carry these labels, whatever else they carry; `None` if none does."""
        values = [
            sample.value
            for sample in self.samples(name)
            if all(sample.labels.get(label) == value for label, value in labels.items())
        ]
        return sum(values) if values else None

    def labels_of(self, *names: str) -> Mapping[str, str]:
        """The labels of the first sample, under the first of these names that the page has; else none."""
        return next((self.families[name][0].labels for name in names if name in self), {})

    def label_values(self, label: str) -> Iterator[str]:
        """What the samples say under this label, in the page's order; not where they say nothing."""
        samples = (sample for family in self.families.values() for sample in family)
        return filter(None, (sample.labels.get(label) for sample in samples))

    def by_label(self, label: str) -> dict[str, Page]:
        """The page taken apart by the values of one label; samples without it are under ""."""
        parts: dict[str, dict[str, list[Sample]]] = {}
        for name, samples in self.families.items():
            for sample in samples:
                part = parts.setdefault(sample.labels.get(label, ""), {})
                part.setdefault(name, []).append(sample)
        return {value: Page(families=families) for value, families in parts.items()}


class _Series(NamedTuple):
    name: str
    labels: Mapping[str, str]


# What stands before the value: the name, and the labels up to the first brace outside quotes.
_SERIES = re.compile(r'\s*([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\s*\{(?:[^"}]++|"(?:[^"\\]++|\\.)*+")*+\})?')
_SAMPLE_LINE = re.compile(_SERIES.pattern + r"\s+[-+.]?(?:\d|Inf|NaN)")


class PageParser:
    """Reads the pages of one source, and keeps what it learnt from the last one."""

    def __init__(
        self, wanted: Collection[str], *, limits: PageLimits = DEFAULT_LIMITS, subject: str = "page"
    ) -> None:
        self._wanted = frozenset(wanted)
        self._limits = limits
        self._subject = subject
        # A series as the page writes it → what it says. Of the last page only, so it cannot grow.
        self._known: dict[str, _Series] = {}

    def parse(self, body: bytes) -> Page:
        """The wanted samples; `SourceError` if this is no page of metrics, or has too many lines."""
        if body.count(b"\n") > self._limits.max_lines:
            raise _failure(self._subject, "too_large", self._limits)
        # Not splitlines(): it also splits at characters that may stand in a label.
        *lines, rest = body.decode("utf-8", "replace").split("\n")
        known, seen = self._known, dict[str, _Series]()
        families: dict[str, list[Sample]] = {}
        # A sum of which a part cannot be read is no sum.
        lacking: set[str] = set()
        malformed = 0
        last = ""
        for line in lines:
            if not line or line[0] == "#":
                continue
            text, value = _split(line)
            series = known.get(text)
            name = series.name if series is not None else ""
            try:
                if series is None:
                    match = self._match(line)
                    if match is None:
                        last = ""
                        continue
                    text, value, name = match[0], line[match.end() :], match[1]
                    series = self._parse_series(text)
                number = _parse_value(value)
            except (ValueError, LookupError):  # LookupError: the library, on some broken labels
                malformed += 1
                lacking.add(name)
                continue
            last = name
            if text in seen:
                malformed += 1
                continue
            seen[text] = series
            if math.isfinite(number):
                families.setdefault(series.name, []).append(Sample(series.labels, number))
        self._known = seen
        if rest and rest[0] != "#":
            # A line must have its end: "12" may be what is left of "1234", and further ones are missing.
            match = _SERIES.match(rest)
            if match is not None and match[1] in self._wanted:
                malformed += 1
                lacking.add(match[1])
            if match is not None and last.startswith(match[1]):
                lacking.add(last)
        for name in lacking:
            families.pop(name, None)
        if not body.strip():
            raise _failure(self._subject, "empty", self._limits)
        if not families and (malformed or not any(map(_SAMPLE_LINE.match, lines))):
            raise _failure(self._subject, "malformed", self._limits)
        return Page(families=families, malformed_lines=malformed)

    def _match(self, line: str) -> re.Match[str] | None:
        """The series of this line, if it is a wanted one."""
        match = _SERIES.match(line)
        return match if match and match[1] in self._wanted else None

    def _parse_series(self, text: str) -> _Series:
        if len(text) > self._limits.max_line_bytes:
            raise ValueError("too long")
        (family,) = text_string_to_metric_families(f"{text} 0\n")
        (sample,) = family.samples
        return _Series(sample.name, sample.labels)


def parse_page(body: bytes, wanted: Collection[str], *, limits: PageLimits = DEFAULT_LIMITS) -> Page:
    """One page by itself; who reads a source again and again keeps a `PageParser`."""
    return PageParser(wanted, limits=limits).parse(body)


def _split(line: str) -> tuple[str, str]:
    """The series and what follows; of a line with an exemplar, something that no series is called."""
    series, brace, rest = line.rpartition("}")
    if brace:
        return series + brace, rest
    series, _, rest = line.partition(" ")
    return series, rest


def _parse_value(text: str) -> float:
    """The first word; a timestamp or an exemplar after it is passed over."""
    value = text.split(None, 1)[0]
    if "_" in value:  # Python reads 1_000, the format does not know it
        raise ValueError(value)
    number = float(value)
    # Infinite and undefined values are left to the caller, as missing; what is merely absurd is malformed.
    if MAX_VALUE < abs(number) < math.inf:
        raise ValueError(value)
    return 0.0 if abs(number) < MIN_VALUE else number
