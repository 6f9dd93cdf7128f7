"""The web configuration file of Prometheus' exporter-toolkit: who may read the pages, how, and how often.

What cannot be done as that format means it is refused in words and never skipped: a section that is
ignored would be believed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    field_validator,
    model_validator,
)

from agent.exposition.rate_limit import parse_duration
from agent.exposition.tls import (
    CIPHERS,
    CLIENT_AUTHENTICATION,
    CURVES,
    OLD_VERSIONS,
    UNVERIFIED,
    VERSIONS,
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


def _not_null(value: Any) -> Any:
    if value is None:
        raise ValueError("must have a value, or be left out")
    return value


HeaderValue = Annotated[
    str, BeforeValidator(lambda value: "" if value is None else value), AfterValidator(_check_header)
]
NotNull = BeforeValidator(_not_null)


class WebSection(BaseModel):
    """A part of the file: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


def _without_nulls(given: Any) -> Any:
    """A key without a value means its default, as in Go."""
    return (
        {key: value for key, value in given.items() if value is not None}
        if isinstance(given, dict)
        else given
    )


class Headers(WebSection):
    """Those that the format lets one add to every answer; an empty one is not sent."""

    content_security_policy: HeaderValue = Field(default="", alias="Content-Security-Policy")
    strict_transport_security: HeaderValue = Field(default="", alias="Strict-Transport-Security")
    content_type_options: Annotated[Literal["nosniff"] | None, NotNull] = Field(
        default=None, alias="X-Content-Type-Options"
    )
    frame_options: Annotated[Literal["deny", "sameorigin"] | None, NotNull] = Field(
        default=None, alias="X-Frame-Options"
    )
    xss_protection: HeaderValue = Field(default="", alias="X-XSS-Protection")


class HttpServer(WebSection):
    """How pages are sent. HTTP/2 is not offered, so that key changes nothing."""

    http2: bool = Field(default=True, strict=True)
    headers: Headers = Headers()

    _absent_is_default = model_validator(mode="before")(_without_nulls)


class TlsServer(WebSection):
    """How TLS is spoken. Paths are relative to the file, and what they name is not read yet."""

    cert: str = ""
    key: SecretStr = SecretStr("")
    client_ca: str = ""
    cert_file: str = ""
    key_file: str = ""
    client_ca_file: str = ""
    client_auth_type: str = ""
    client_allowed_sans: tuple[str, ...] | None = None
    min_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = "TLS12"
    max_version: Literal["TLS10", "TLS11", "TLS12", "TLS13"] = "TLS13"
    cipher_suites: tuple[str, ...] = ()
    prefer_server_cipher_suites: bool = Field(default=True, strict=True)
    curve_preferences: tuple[str, ...] = ()

    _absent_is_default = model_validator(mode="before")(_without_nulls)

    @field_validator("client_auth_type")
    @classmethod
    def _verified(cls, value: str) -> str:
        if value in UNVERIFIED:
            raise ValueError(
                f"is {value}, which takes certificates that nobody verifies, and this server cannot: "
                "RequireAndVerifyClientCert and VerifyClientCertIfGiven verify them"
            )
        if value and value not in CLIENT_AUTHENTICATION:
            raise ValueError(f"must be one of {', '.join(CLIENT_AUTHENTICATION)}")
        return value

    @field_validator("cipher_suites")
    @classmethod
    def _known_ciphers(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return _known(value, CIPHERS, "cipher")

    @field_validator("curve_preferences")
    @classmethod
    def _one_curve(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(_known(value, CURVES, "curve"))) > 1:
            raise ValueError(
                "this Python can offer one curve or its own choice; name one, or leave the key out"
            )
        return value

    @field_validator("max_version")
    @classmethod
    def _spoken(cls, value: str) -> str:
        if value in OLD_VERSIONS:
            raise ValueError(f"must be at least TLS12: this OpenSSL speaks no {value}")
        return value

    @model_validator(mode="after")
    def _complete(self) -> TlsServer:
        wrong = []
        if not self.cert_file and not self.cert:
            wrong.append("needs cert_file or cert")
        if not self.key_file and not self.key.get_secret_value():
            wrong.append("needs key_file or key")
        if (self.client_ca_file or self.client_ca) and self.client_auth_type in ("", "NoClientCert"):
            wrong.append("has client_ca without a client_auth_type that asks for a certificate")
        if self.client_allowed_sans is not None and self.client_auth_type != "RequireAndVerifyClientCert":
            wrong.append("has client_allowed_sans, which takes client_auth_type RequireAndVerifyClientCert")
        if VERSIONS[self.min_version] > VERSIONS[self.max_version]:
            wrong.append("has a min_version above its max_version")
        only_newest = bool(self.cipher_suites) and not any(CIPHERS[name] for name in self.cipher_suites)
        if only_newest and self.max_version != "TLS13":
            wrong.append("has only cipher_suites of TLS 1.3, which max_version excludes")
        if wrong:
            raise ValueError("; ".join(wrong))
        return self


def _known(names: tuple[str, ...], known: Mapping[str, object], kind: str) -> tuple[str, ...]:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"unknown {kind} {unknown[0]}; there are {', '.join(known)}")
    return names


class RateLimit(WebSection):
    """How many requests are answered: one each interval, and so many at once."""

    interval_seconds: float = Field(default=0.0, alias="interval")
    burst: int = Field(default=0, ge=0, strict=True)

    _absent_is_default = model_validator(mode="before")(_without_nulls)

    @field_validator("interval_seconds", mode="before")
    @classmethod
    def _duration(cls, value: Any) -> float:
        if value == 0:
            return 0.0
        if not isinstance(value, str):
            raise ValueError("must be a duration with its unit, such as 100ms or 1m30s")
        return parse_duration(value)

    @model_validator(mode="after")
    def _lets_somebody_in(self) -> RateLimit:
        if self.interval_seconds and not self.burst:
            raise ValueError("needs a burst of at least 1: with 0 nobody would ever be answered")
        return self


class WebConfiguration(WebSection):
    """All of the file."""

    basic_auth_users: dict[
        Annotated[str, AfterValidator(_check_user)], Annotated[SecretStr, AfterValidator(_check_hash)]
    ] = Field(default_factory=dict)
    http_server_config: HttpServer = HttpServer()
    tls_server_config: TlsServer | None = None
    rate_limit: RateLimit | None = None

    @field_validator("tls_server_config", mode="before")
    @classmethod
    def _nothing_is_no_tls(cls, value: Any) -> Any:
        return None if value == {} else value

    @field_validator("http_server_config", mode="before")
    @classmethod
    def _nothing_is_default(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("basic_auth_users")
    @classmethod
    def _somebody(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        if not value:
            raise ValueError("names nobody, which would let everybody in; leave the key out to mean that")
        return value

    @property
    def tls(self) -> TlsServer | None:
        """How to speak TLS; `None`: not at all."""
        return self.tls_server_config

    @property
    def limit(self) -> RateLimit | None:
        """`None`: as many requests as come."""
        limit = self.rate_limit
        return limit if limit is not None and limit.interval_seconds else None

    @property
    def headers(self) -> Mapping[str, str]:
        """What every answer carries besides the agent's own."""
        given = self.http_server_config.headers.model_dump(by_alias=True)
        return {name: value for name, value in given.items() if value}

    @property
    def users(self) -> Mapping[str, str]:
        """The bcrypt hash of each; secrets, in clear."""
        return {name: secret.get_secret_value() for name, secret in self.basic_auth_users.items()}


WEB_SECTIONS: tuple[type[WebSection], ...] = (
    WebConfiguration,
    HttpServer,
    Headers,
    TlsServer,
    RateLimit,
)
