"""The web configuration file of Prometheus' exporter-toolkit: who may read the pages, and their headers.

Of that format users and headers are supported. The rest is refused in words and never skipped: a TLS
section that is ignored would be believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_validator,
)

MAX_COST = 14
"""About a second of one core. More would keep a worker for longer than a wrong password is worth."""

# 22 characters hold the 16 bytes of the salt, so that the last one has only two bits of it; 31 the digest.
_BCRYPT = re.compile(r"\$2[aby]\$(0[4-9]|[12][0-9]|3[01])\$[./A-Za-z0-9]{21}[.Oeu][./A-Za-z0-9]{31}")


def _check_user(value: str) -> str:
    if not value or ":" in value or not value.isprintable():
        raise ValueError("a user's name must be printable, without a colon, and not empty")
    return value


def _check_hash(value: SecretStr) -> SecretStr:
    found = _BCRYPT.fullmatch(value.get_secret_value())
    if found is None:
        raise ValueError("must be a bcrypt hash, as htpasswd -nBC 10 makes it: $2y$10$ and 53 characters")
    if int(found[1]) > MAX_COST:
        raise ValueError(
            f"must have a cost of at most {MAX_COST}, not {found[1]}: each try would take seconds"
        )
    return value


def _check_header(value: str) -> str:
    if not value.isascii() or not value.isprintable():
        raise ValueError("must be one line of printable ASCII")
    return value


HeaderValue = Annotated[str, AfterValidator(_check_header)]


class WebSection(BaseModel):
    """A part of the file: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Headers(WebSection):
    """Those that the format lets one add to every answer; an empty one is not sent."""

    content_security_policy: HeaderValue = Field(default="", alias="Content-Security-Policy")
    strict_transport_security: HeaderValue = Field(default="", alias="Strict-Transport-Security")
    content_type_options: Literal["nosniff"] | None = Field(default=None, alias="X-Content-Type-Options")
    frame_options: Literal["deny", "sameorigin"] | None = Field(default=None, alias="X-Frame-Options")
    xss_protection: HeaderValue = Field(default="", alias="X-XSS-Protection")


class HttpServer(WebSection):
    """How pages are sent. HTTP/2 exists only with TLS, there as here, so that key changes nothing."""

    http2: bool = True
    headers: Headers = Headers()


class WebConfiguration(WebSection):
    """All of the file."""

    basic_auth_users: dict[
        Annotated[str, AfterValidator(_check_user)], Annotated[SecretStr, AfterValidator(_check_hash)]
    ] = Field(default_factory=dict)
    http_server_config: HttpServer = HttpServer()
    tls_server_config: Any = None
    rate_limit: Any = None

    @field_validator("basic_auth_users")
    @classmethod
    def _somebody(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        if not value:
            raise ValueError("names nobody, which would let everybody in; leave the key out to mean that")
        return value

    @field_validator("tls_server_config", "rate_limit")
    @classmethod
    def _not_yet(cls, value: Any, info: ValidationInfo) -> Any:
        if value not in (None, {}):
            raise ValueError(_UNSUPPORTED[str(info.field_name)])
        return value

    @property
    def headers(self) -> Mapping[str, str]:
        """What every answer carries besides the agent's own."""
        given = self.http_server_config.headers.model_dump(by_alias=True)
        return {name: value for name, value in given.items() if value}

    @property
    def users(self) -> Mapping[str, str]:
        """The bcrypt hash of each; secrets, in clear."""
        return {name: secret.get_secret_value() for name, secret in self.basic_auth_users.items()}


_UNSUPPORTED: Mapping[str, str] = {
    "tls_server_config": "is not supported yet: the agent speaks plain HTTP; take the section out, and let a "
    "proxy on this machine speak TLS",
    "rate_limit": "is not supported yet; take the section out, and let a proxy limit requests",
}

WEB_SECTIONS: tuple[type[WebSection], ...] = (WebConfiguration, HttpServer, Headers)
