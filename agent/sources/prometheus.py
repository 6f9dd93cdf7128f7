"""Asks a Prometheus server, or what answers as one does, over its HTTP interface.

What has its data in several stores may answer without one of them. Such an answer is none: it is refused
beforehand, and again where it comes all the same.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from agent.errors import SourceError
from agent.sources.page import PageLimits, fetch_page, open_session, redacted_url

TOKEN_VARIABLE = "PROMETHEUS_BEARER_TOKEN"  # noqa: S105 - the name of a variable, no token
LIMITS = PageLimits(deadline_seconds=20.0)
DIGEST_ROUNDS = 200_000
_URL_HINT = (
    f"The URL is what stands before /api/v1; a token is taken from the environment's {TOKEN_VARIABLE}."
)
_BUSY_HINT = (
    "The server is busy, the query takes longer than it allows (--query.timeout of Prometheus), or a store "
    "of a VictoriaMetrics does not answer."
)
_HINTS: Mapping[int, str] = {
    422: "The query reads more than the server allows (--query.max-samples of Prometheus), or a store of a "
    "Thanos does not answer.",
    429: "The server asks for fewer queries.",
    503: _BUSY_HINT,
    504: _BUSY_HINT,
}

_WHOLE = {"partial_response": "false", "deny_partial_response": "1"}
"""Of Thanos and of VictoriaMetrics' cluster; others pass over what they do not know.

Mimir gives no parts: it refuses a query for which it lacks a store.
"""
_EXACTLY = {"nocache": "1", "max_source_resolution": "0s"}
"""Else VictoriaMetrics moves instants to where its cache has them, and away from now; and Thanos takes what
it has downsampled, whose windows are not ours.
"""
_OF_THE_QUERY = re.compile(r"PromQL (warning|info)\b|\d+ more (warning|info) annotations omitted")
"""How warnings of the query begin (`util/annotations` of Prometheus); all others are of stores."""
_NO_STORE = "No StoreAPIs matched for this query"
"""Thanos has no store for these labels and this time: by itself, that there is nothing."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One series of an instant vector."""

    labels: Mapping[str, str]
    value: float | None
    """`None` where Prometheus says NaN or ±Inf, as it does of a quantile of nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One series of a range."""

    labels: Mapping[str, str]
    points: Mapping[float, float]
    """By Unix time in seconds. What is missing, NaN or ±Inf is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How to be let in, beside the URL's own user and password."""

    bearer_token: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Such as a tenant's."""
    verify: bool | str = True
    """Or the path of a file of certificate authorities."""
    certificate: tuple[str, str] | None = None
    """Paths of the client's own and of its key."""


ANONYMOUS = Access()


class PrometheusServer:
    """One server."""

    def __init__(self, url: str, *, access: Access = ANONYMOUS, limits: PageLimits = LIMITS) -> None:
        self.address = redacted_url(url)
        self.name = f"Prometheus at {self.address}"
        if not url.startswith(("http://", "https://")):
            raise SourceError("malformed", f"{self.name}: a URL begins with http:// or https://")
        self._url = url.rstrip("/") + "/api/v1"
        self._limits = limits
        self._session = open_session(verify=access.verify, certificate=access.certificate)
        self._headers = {"Accept": "application/json", **access.headers}
        if access.bearer_token:
            self._headers["Authorization"] = f"Bearer {access.bearer_token}"

    def digest(self) -> str:
        """Tells this server and who asks it from others, and gives no secret away.

        It takes a tenth of a second, so that no password is found by trying.
        """
        told = json.dumps([self._url, sorted(self._headers.items()), self._session.cert])
        return hashlib.pbkdf2_hmac("sha256", told.encode(), b"roofline-agent", DIGEST_ROUNDS).hex()

    def close(self) -> None:
        """Give back the connections."""
        self._session.close()

    def query(self, expression: str, *, at: float | None = None) -> tuple[Sample, ...]:
        """The whole instant vector now or as of a Unix time, or `SourceError`."""
        timing = {} if at is None else {"time": f"{at:.3f}", **_EXACTLY}
        return self._ask("query", {"query": expression, **timing}, "vector", _sample)

    def query_range(
        self, expression: str, *, start: float, end: float, step_seconds: float
    ) -> tuple[Series, ...]:
        """The whole vector at `start`, a step later, … until `end`, in Unix seconds, or `SourceError`."""
        timing = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_seconds:.3f}"}
        return self._ask("query_range", {"query": expression, **timing, **_EXACTLY}, "matrix", _series)

    def _ask(
        self, path: str, parameters: Mapping[str, str], kind: str, read: Callable[[Any], _Value]
    ) -> tuple[_Value, ...]:
        try:
            body = fetch_page(
                f"{self._url}/{path}?{urlencode({**parameters, **_WHOLE})}",
                session=self._session,
                limits=self._limits,
                headers=self._headers,
                subject=self.name,
            )
        except SourceError as error:
            raise SourceError(error.reason, f"{error}{_hint(error)}", http_status=error.http_status) from None
        try:
            answer = json.loads(body)
            if answer["status"] != "success" or answer["data"]["resultType"] != kind:
                raise ValueError(kind)
            result = tuple(read(series) for series in answer["data"]["result"])
            is_whole = not answer.get("isPartial") and all(
                _takes_nothing(str(warning), result) for warning in answer.get("warnings") or ()
            )
        # OverflowError, RecursionError: a number of 400 digits, and a hundred thousand brackets.
        except (
            *(ValueError, KeyError, TypeError, AttributeError, IndexError),
            *(OverflowError, RecursionError),
        ):
            raise SourceError(
                "malformed",
                f"{self.name}: it answers, but not as Prometheus; the URL is what stands before /api/v1",
            ) from None
        if not is_whole:
            raise SourceError(
                "partial", f"{self.name}: its answer is not whole; are all of its stores up and in reach?"
            )
        return result


def _takes_nothing(warning: str, result: tuple[object, ...]) -> bool:
    """Whether the answer is whole in spite of it."""
    return _OF_THE_QUERY.match(warning) is not None or (warning == _NO_STORE and not result)


def _hint(error: SourceError) -> str:
    if error.reason != "http_status":
        return ""
    return f" {_HINTS.get(error.http_status or 0, _URL_HINT)}"


def _sample(series: Any) -> Sample:
    value = float(series["value"][1])
    return Sample(labels=_labels(series), value=value if math.isfinite(value) else None)


def _series(series: Any) -> Series:
    points = ((float(at), float(value)) for at, value in series["values"])
    return Series(labels=_labels(series), points={at: value for at, value in points if math.isfinite(value)})


def _labels(series: Any) -> Mapping[str, str]:
    return {str(name): str(text) for name, text in series["metric"].items()}
