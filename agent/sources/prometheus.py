"""Asks a Prometheus server, or what answers as one does, over its HTTP interface."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from agent.errors import SourceError
from agent.sources.page import PageLimits, fetch_page, open_session, redacted_url

TOKEN_VARIABLE = "PROMETHEUS_BEARER_TOKEN"  # noqa: S105 - the name of a variable, no token
LIMITS = PageLimits(deadline_seconds=20.0)
_HINTS: Mapping[str, str] = {
    "http_status": " The URL is what stands before /api/v1; a token is taken from the environment's "
    f"{TOKEN_VARIABLE}.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One series of an instant vector."""

    labels: Mapping[str, str]
    value: float | None
    """`None` where Prometheus says NaN or ±Inf, as it does of a quantile of nothing."""


class PrometheusServer:
    """One server. Credentials may be the URL's own user and password, or a bearer token."""

    def __init__(self, url: str, *, bearer_token: str | None = None) -> None:
        self.name = f"Prometheus at {redacted_url(url)}"
        if not url.startswith(("http://", "https://")):
            raise SourceError("malformed", f"{self.name}: a URL begins with http:// or https://")
        self._url = url.rstrip("/") + "/api/v1/query"
        self._session = open_session()
        self._headers = {"Accept": "application/json"}
        if bearer_token:
            self._headers["Authorization"] = f"Bearer {bearer_token}"

    def close(self) -> None:
        """Give back the connections."""
        self._session.close()

    def query(self, expression: str) -> tuple[Sample, ...]:
        """The instant vector now, or `SourceError`."""
        try:
            body = fetch_page(
                f"{self._url}?{urlencode({'query': expression})}",
                session=self._session,
                limits=LIMITS,
                headers=self._headers,
                subject=self.name,
            )
        except SourceError as error:
            raise SourceError(error.reason, f"{error}{_HINTS.get(error.reason, '')}") from None
        try:
            return tuple(_sample(series) for series in _vector(json.loads(body)))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise SourceError(
                "malformed",
                f"{self.name}: it answers, but not as Prometheus; the URL is what stands before /api/v1",
            ) from None


def _vector(answer: Any) -> list[Any]:
    if answer["status"] != "success" or answer["data"]["resultType"] != "vector":
        raise ValueError("no instant vector")
    result: list[Any] = answer["data"]["result"]
    return result


def _sample(series: Any) -> Sample:
    value = float(series["value"][1])
    labels = {str(name): str(text) for name, text in series["metric"].items()}
    return Sample(labels=labels, value=value if math.isfinite(value) else None)
