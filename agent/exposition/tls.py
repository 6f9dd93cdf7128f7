"""TLS as exporter-toolkit's file describes it, by Python's own ssl.

Names are Go's, as in that format. What this ssl cannot do exactly is refused in words and never weakened:
who asks for a certificate means it.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import ConfigurationError

if TYPE_CHECKING:
    from agent.exposition.web_config import TlsServer

VERSIONS: Mapping[str, ssl.TLSVersion] = {
    # OpenSSL 3 knows the old two and speaks them only with broken hashes allowed, which is not for us to
    # allow. As a minimum they are kept: what is negotiated is never below.
    "TLS10": ssl.TLSVersion.TLSv1_2,
    "TLS11": ssl.TLSVersion.TLSv1_2,
    "TLS12": ssl.TLSVersion.TLSv1_2,
    "TLS13": ssl.TLSVersion.TLSv1_3,
}
OLD_VERSIONS = ("TLS10", "TLS11")

CLIENT_AUTHENTICATION: Mapping[str, ssl.VerifyMode] = {
    "NoClientCert": ssl.CERT_NONE,
    "VerifyClientCertIfGiven": ssl.CERT_OPTIONAL,
    "RequireAndVerifyClientCert": ssl.CERT_REQUIRED,
}
UNVERIFIED = ("RequestClientCert", "RequireAnyClientCert", "RequireClientCert")
"""Those that take any certificate, which ssl never does: it verifies what it is given."""

# As OpenSSL calls them; those of TLS 1.3 cannot be chosen, there as here.
CIPHERS: Mapping[str, str | None] = {
    "TLS_AES_128_GCM_SHA256": None,
    "TLS_AES_256_GCM_SHA384": None,
    "TLS_CHACHA20_POLY1305_SHA256": None,
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256": "ECDHE-ECDSA-AES128-GCM-SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384": "ECDHE-ECDSA-AES256-GCM-SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-ECDSA-CHACHA20-POLY1305",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256": "ECDHE-RSA-AES128-GCM-SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384": "ECDHE-RSA-AES256-GCM-SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256": "ECDHE-RSA-CHACHA20-POLY1305",
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA": "ECDHE-ECDSA-AES128-SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA": "ECDHE-ECDSA-AES256-SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA": "ECDHE-RSA-AES128-SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA": "ECDHE-RSA-AES256-SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256": "AES128-GCM-SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384": "AES256-GCM-SHA384",
    "TLS_RSA_WITH_AES_128_CBC_SHA": "AES128-SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA": "AES256-SHA",
}

CURVES: Mapping[str, str] = {
    "X25519": "X25519",
    "CurveP256": "prime256v1",
    "CurveP384": "secp384r1",
    "CurveP521": "secp521r1",
}


@dataclass(frozen=True, slots=True, eq=False)
class Tls:
    """How to speak with a client, and whose certificate is taken. Each load makes another one."""

    context: ssl.SSLContext
    asks_for_certificate: bool
    allowed_sans: frozenset[str] | None

    def admits(self, connection: ssl.SSLSocket) -> bool:
        """Whether the certificate, which was verified, has not ended and is for a name that is allowed.

        A session that is resumed skips the certificate, which may have ended since.
        """
        certificate: Mapping[str, Any] = connection.getpeercert() or {}
        ends = certificate.get("notAfter")
        if ends is not None and ssl.cert_time_to_seconds(ends) < time.time():
            return False
        if self.allowed_sans is None:
            return True
        names: Sequence[tuple[str, str]] = certificate.get("subjectAltName", ())
        return any(_render_name(kind, name) in self.allowed_sans for kind, name in names)


def _render_name(kind: str, name: str) -> str:
    """As Go writes it: OpenSSL has IPv6 addresses in its own way."""
    if kind == "IP Address":
        with suppress(ValueError):
            return str(ipaddress.ip_address(name.strip()))
    # A directory or registered name may hold any text, that of an allowed one too.
    return name if kind in ("DNS", "email", "URI", "IP Address") else ""


def named_files(server: TlsServer, origin: Path) -> tuple[Path, ...]:
    """What it takes from other files; a relative path starts beside the file that holds it."""
    names = (server.cert_file, server.key_file, server.client_ca_file)
    return tuple(origin.parent / name for name in names if name)


def load_tls(server: TlsServer, origin: Path) -> Tls:
    """Read the certificates. Raises `ConfigurationError` with what is wrong; `origin` holds the section."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if not server.prefer_server_cipher_suites:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    problems: list[str] = []
    for load in (_set_versions, _load_certificate, _load_client_authorities):
        try:
            load(context, server, origin)
        except _ProblemError as problem:
            problems.append(f"tls_server_config.{problem}")
    if problems:
        raise ConfigurationError(str(origin), tuple(problems))
    mode = CLIENT_AUTHENTICATION[server.client_auth_type or "NoClientCert"]
    context.verify_mode = mode
    # A certificate that is in client_ca is trusted whether or not it signed itself, as in Go.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    # Tickets would outlive this context, and the authorities that were trusted when they were given.
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    sans = server.client_allowed_sans
    return Tls(
        context=context,
        asks_for_certificate=mode is ssl.CERT_REQUIRED,
        allowed_sans=frozenset(sans) if sans is not None else None,
    )


class _ProblemError(Exception):
    """What is wrong, after the key."""


def _set_versions(context: ssl.SSLContext, server: TlsServer, origin: Path) -> None:
    context.minimum_version = VERSIONS[server.min_version]
    context.maximum_version = VERSIONS[server.max_version]
    chosen = [CIPHERS[name] for name in server.cipher_suites]
    names = [name for name in chosen if name is not None]
    if names:
        context.set_ciphers(":".join(names))
    elif chosen:
        # All of them are TLS 1.3's, so that nothing older can be spoken.
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    for curve in server.curve_preferences:
        context.set_ecdh_curve(CURVES[curve])


def _load_certificate(context: ssl.SSLContext, server: TlsServer, origin: Path) -> None:
    with ExitStack() as stack:
        cert = stack.enter_context(_material("cert", server.cert_file, server.cert, origin))
        secret = server.key.get_secret_value()
        key = stack.enter_context(_material("key", server.key_file, secret, origin))
        try:
            context.load_cert_chain(cert, key, password=_no_password)
        except ssl.SSLError as error:
            words = (error.reason or "").lower().replace("_", " ")
            raise _ProblemError(
                f"{_key_of('cert', server.cert_file)}: with {_key_of('key', server.key_file)}: "
                f"{words or 'not PEM, or not a certificate and its key'}"
            ) from None
        except _ProtectedError:
            raise _ProblemError(
                f"{_key_of('key', server.key_file)}: is protected by a password, which nobody is here to give"
            ) from None


class _ProtectedError(Exception):
    """A key asks for a password."""


def _no_password() -> str:
    # Without this OpenSSL asks at the terminal.
    raise _ProtectedError


def _load_client_authorities(context: ssl.SSLContext, server: TlsServer, origin: Path) -> None:
    if not (server.client_ca_file or server.client_ca):
        if CLIENT_AUTHENTICATION[server.client_auth_type or "NoClientCert"] is not ssl.CERT_NONE:
            context.load_default_certs(ssl.Purpose.CLIENT_AUTH)
        return
    with _material("client_ca", server.client_ca_file, server.client_ca, origin) as file:
        try:
            context.load_verify_locations(file)
        except ssl.SSLError:
            raise _ProblemError(
                f"{_key_of('client_ca', server.client_ca_file)}: holds no certificate in PEM, so that nobody "
                "could come in"
            ) from None


def _key_of(key: str, file: str) -> str:
    return f"{key}_file" if file else key


@contextmanager
def _material(key: str, file: str, text: str, origin: Path) -> Iterator[str]:
    """A path that holds it while this lasts."""
    if file:
        path = origin.parent / file
        try:
            with path.open("rb") as readable:
                readable.read(1)
        except OSError as error:
            raise _ProblemError(f"{key}_file: {path} cannot be read: {error.strerror}") from None
        yield str(path)
        return
    # ssl takes a key only from a file. This one is in memory, and has no name that others could open.
    descriptor = os.memfd_create(key)
    try:
        os.write(descriptor, text.encode())
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
