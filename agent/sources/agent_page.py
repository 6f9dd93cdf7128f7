"""Asks an agent, on this node or another, for its assessment as JSON."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.errors import AgentError, SourceError
from agent.sources.page import PageLimits, fetch_page, open_session, redacted_url

CREDENTIALS_VARIABLE = "ROOFLINE_AGENT_CREDENTIALS"
TOKEN_VARIABLE = "ROOFLINE_AGENT_BEARER_TOKEN"  # noqa: S105 - the name of a variable, no token
PATH = "/api/v1/assessment"
LIMITS = PageLimits(deadline_seconds=5.0)
_WAYS = f"the environment's {CREDENTIALS_VARIABLE} may be user:password, its {TOKEN_VARIABLE} a bearer token"
_HINTS: Mapping[int, str] = {
    401: f"HTTP 401, it wants to know who asks: {_WAYS}",
    403: f"HTTP 403, it does not show this to who asks: {_WAYS}",
    404: f"HTTP 404, no agent answers here: the URL is what stands before {PATH}, as http://NODE:10095",
    429: "HTTP 429, it is asked more often than it allows",
    503: "HTTP 503, it is busy, or has just begun and assessed nothing yet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAccess:
    """How to be let in, beside the URL's own user and password, and whom to believe."""

    credentials: str | None = field(default=None, repr=False)
    """``user:password``."""
    bearer_token: str | None = field(default=None, repr=False)
    ca_file: Path | None = None
    """Authorities, in PEM, in place of the usual ones."""

    @classmethod
    def of_environment(cls, environment: Mapping[str, str], *, ca_file: Path | None) -> AgentAccess:
        """As the environment's variables have it."""
        return cls(
            credentials=environment.get(CREDENTIALS_VARIABLE) or None,
            bearer_token=environment.get(TOKEN_VARIABLE) or None,
            ca_file=ca_file,
        )

    @property
    def headers(self) -> Mapping[str, str]:
        """What to send; raises `AgentError` for what no header can hold."""
        if self.credentials is not None:
            if ":" not in self.credentials:
                raise AgentError(f"{CREDENTIALS_VARIABLE} must be user:password")
            return {"Authorization": f"Basic {base64.b64encode(self.credentials.encode()).decode()}"}
        if self.bearer_token is not None:
            if not (self.bearer_token.isascii() and self.bearer_token.isprintable()):
                raise AgentError(f"{TOKEN_VARIABLE} has characters that no token has; a line end, perhaps?")
            return {"Authorization": f"Bearer {self.bearer_token}"}
        return {}


ANONYMOUS = AgentAccess()


class RemoteAgent:
    """One agent."""

    def __init__(self, url: str, *, access: AgentAccess = ANONYMOUS, limits: PageLimits = LIMITS) -> None:
        """`url` is what stands before `PATH`."""
        if not url.startswith(("http://", "https://")):
            raise AgentError("the URL of an agent begins with http:// or https://, as http://NODE:10095")
        base = url.rstrip("/").removesuffix(PATH)
        self.address = redacted_url(base)
        self.name = f"agent at {self.address}"
        self._url = base + PATH
        self._limits = limits
        self._headers = {"Accept": "application/json", **access.headers}
        if access.ca_file is not None and not access.ca_file.is_file():
            raise AgentError(f"{access.ca_file}: no such file of certificate authorities")
        self._session = open_session(verify=str(access.ca_file) if access.ca_file is not None else True)

    def fetch(self) -> Any:
        """The document, whatever it is; `SourceError` where none comes."""
        try:
            body = fetch_page(
                self._url,
                session=self._session,
                limits=self._limits,
                headers=self._headers,
                subject=self.name,
            )
        except SourceError as error:
            raise self._explained(error) from None
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            message = f"{self.name}: what answers is no roofline-agent; is the URL right?"
            raise SourceError("malformed", message) from None

    def close(self) -> None:
        """Give back the connections."""
        self._session.close()

    def _explained(self, error: SourceError) -> SourceError:
        words = _HINTS.get(error.http_status or 0)
        if error.reason == "refused":
            words = "refused; is the agent up, and is this its port?"
        if error.reason == "tls":
            words = "no trusted TLS connection: is it https, and must --ca-file name its authority?"
        if error.reason == "too_large":
            words = "more than an agent says; is the URL right?"
        if words is None:
            return error
        return SourceError(error.reason, f"{self.name}: {words}", http_status=error.http_status)
