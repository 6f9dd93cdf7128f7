"""Asks a Prometheus server, or what answers as one does, over its HTTP interface."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlencode

from agent.errors import SourceError
from agent.sources.page import PageLimits, fetch_page, open_session, redacted_url

TOKEN_VARIABLE = "PROMETHEUS_BEARER_TOKEN"  # noqa: S105 - the name of a variable, no token
LIMITS = PageLimits(deadline_seconds=20.0)
_URL_HINT = (
    f"The URL is what stands before /api/v1; a token is taken from the environment's {TOKEN_VARIABLE}."
)
_BUSY_HINT = "The server is busy, or the query takes longer than it allows (--query.timeout of Prometheus)."
_HINTS: Mapping[int, str] = {
    422: "The query reads more than the server allows (--query.max-samples of Prometheus).",
    429: "The server asks for fewer queries.",
    503: _BUSY_HINT,
    504: _BUSY_HINT,
}

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

    def close(self) -> None:
        """Give back the connections."""
        self._session.close()

    def query(self, expression: str, *, at: float | None = None) -> tuple[Sample, ...]:
        """The instant vector now or as of a Unix time, or `SourceError`."""
        timing = {} if at is None else {"time": f"{at:.3f}"}
        return self._ask("query", {"query": expression, **timing}, "vector", _sample)

    def query_range(
        self, expression: str, *, start: float, end: float, step_seconds: float
    ) -> tuple[Series, ...]:
        """The vector at `start`, a step later and so on until `end`, in Unix seconds, or `SourceError`."""
        timing = {"start": f"{start:.3f}", "end": f"{end:.3f}", "step": f"{step_seconds:.3f}"}
        # VictoriaMetrics moves the instants to where its cache has them, unless it is told not to use it.
        return self._ask("query_range", {"query": expression, **timing, "nocache": "1"}, "matrix", _series)

    def _ask(
        self, path: str, parameters: Mapping[str, str], kind: str, read: Callable[[Any], _Value]
    ) -> tuple[_Value, ...]:
        try:
            body = fetch_page(
                f"{self._url}/{path}?{urlencode(parameters)}",
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
            return tuple(read(series) for series in answer["data"]["result"])
        # OverflowError, RecursionError: a number of 400 digits, and a hundred thousand brackets.
        except (
            *(ValueError, KeyError, TypeError, AttributeError, IndexError),
            *(OverflowError, RecursionError),
        ):
            raise SourceError(
                "malformed",
                f"{self.name}: it answers, but not as Prometheus; the URL is what stands before /api/v1",
            ) from None


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
