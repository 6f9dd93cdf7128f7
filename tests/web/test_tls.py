"""TLS: who is spoken with and how, and that nothing is weaker than the file says."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import requests
import yaml

from agent.clock import SystemClock
from agent.config import load_web_configuration
from agent.exposition.rate_limit import parse_duration
from agent.exposition.tls import CIPHERS, CURVES
from agent.exposition.web_file import WebFile
from tests.exposition.test_server import start
from tests.web.certificates import Authority, Pair


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(directory: Path) -> Authority:
    return Authority(directory)


@pytest.fixture(scope="module")
def server(authority: Authority) -> Pair:
    return authority.vouch("server")


@pytest.fixture(scope="module")
def client(authority: Authority) -> Pair:
    return authority.vouch("client", "DNS:prometheus,IP:2001:db8::1,URI:spiffe://a/b,email:a@b.c")


@pytest.fixture(scope="module")
def stranger(directory: Path) -> Pair:
    return Authority(directory, "elsewhere").vouch("stranger")


@contextmanager
def serving(directory: Path, tls: Mapping[str, Any]) -> Iterator[int]:
    """The port."""
    file = directory / "web-config.yml"
    settings = {"cert_file": "server.crt", "key_file": "server.key", **tls}
    kept = {key: value for key, value in settings.items() if value is not None}
    file.write_text(yaml.safe_dump({"tls_server_config": kept}))
    exposed = start(access=WebFile(file, load=load_web_configuration, clock=SystemClock()).access)
    try:
        yield exposed.port
    finally:
        exposed.close()


def get(port: int, authority: Authority, pair: Pair | None = None) -> requests.Response:
    return requests.get(
        f"https://localhost:{port}/metrics",
        verify=str(authority.certificate),
        cert=pair.files if pair is not None else None,
        timeout=5,
    )


def shake_hands(
    port: int, *, version: ssl.TLSVersion | None = None, ciphers: str | None = None, curve: str | None = None
) -> tuple[str, str]:
    """The version and the cipher on which both agree; every client is as lenient as it can be."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_ciphers(ciphers or "ALL:@SECLEVEL=0")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    if version is not None:
        context.maximum_version = version
    if curve is not None:
        context.set_ecdh_curve(curve)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as secured,
    ):
        cipher = secured.cipher()
        assert cipher is not None
        return str(secured.version()), cipher[0]


def test_pages_are_served_over_tls(directory: Path, authority: Authority, server: Pair) -> None:
    with serving(directory, {}) as port, requests.Session() as session:
        for _ in range(3):
            answer = session.get(
                f"https://localhost:{port}/metrics", verify=str(authority.certificate), timeout=5
            )
            assert answer.status_code == 200
            assert answer.text == "roofline_build_info 1\n"
        assert shake_hands(port)[0] == "TLSv1.3"


@pytest.mark.parametrize("secured", [False, True], ids=["http", "https"])
def test_requests_that_come_at_once_are_answered_one_after_another(
    directory: Path, authority: Authority, server: Pair, secured: bool
) -> None:
    asked = b"".join(b"GET /metrics HTTP/1.1\r\nHost: h\r\nX: %d\r\n\r\n" % number for number in range(100))
    last = b"GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with serving(directory, {}) if secured else plain() as port, ExitStack() as stack:
        connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
        if secured:
            connection = context.wrap_socket(connection, server_hostname="localhost")
            stack.enter_context(connection)
        connection.sendall(asked + last)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.count(b"HTTP/1.1 200") == 101


@contextmanager
def plain() -> Iterator[int]:
    exposed = start()
    try:
        yield exposed.port
    finally:
        exposed.close()


def test_certificate_and_key_may_stand_in_the_file_itself(
    directory: Path, authority: Authority, server: Pair
) -> None:
    text = {"cert": server.certificate.read_text(), "key": server.key.read_text()}
    inline = {**text, "cert_file": None, "key_file": None}
    with serving(directory, inline) as port:
        assert get(port, authority).status_code == 200
    assert "PRIVATE" not in repr(load_web_configuration(directory / "web-config.yml"))


def test_who_speaks_plain_http_to_it_is_told(directory: Path, server: Pair) -> None:
    with serving(directory, {}) as port:
        answer = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5)
    assert answer.status_code == 400
    assert answer.text == "this port speaks only HTTPS\n"


# --- versions, ciphers, curves ---------------------------------------------------------------------

OLD = [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1]


@pytest.mark.parametrize("floor", ["TLS10", "TLS11", "TLS12", None])
@pytest.mark.parametrize("version", OLD, ids=["TLS 1.0", "TLS 1.1"])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
def test_old_versions_are_refused_whatever_the_minimum(
    directory: Path, server: Pair, version: ssl.TLSVersion, floor: str | None
) -> None:
    with serving(directory, {"min_version": floor}) as port:
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            shake_hands(port, version=version)
        assert shake_hands(port, version=ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"


def test_only_versions_between_both_bounds_are_spoken(directory: Path, server: Pair) -> None:
    with serving(directory, {"min_version": "TLS13"}) as port:
        assert shake_hands(port)[0] == "TLSv1.3"
        with pytest.raises(ssl.SSLError, match=r"(?i)protocol.version"):
            shake_hands(port, version=ssl.TLSVersion.TLSv1_2)
    with serving(directory, {"max_version": "TLS12"}) as port:
        assert shake_hands(port)[0] == "TLSv1.2"


def test_only_ciphers_that_are_named_are_spoken(directory: Path, server: Pair) -> None:
    named = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"]
    with serving(directory, {"cipher_suites": named}) as port:
        old = ssl.TLSVersion.TLSv1_2
        assert shake_hands(port, version=old)[1] == "ECDHE-ECDSA-AES256-GCM-SHA384"
        assert shake_hands(port, version=old, ciphers="ECDHE+CHACHA20")[1] == "ECDHE-ECDSA-CHACHA20-POLY1305"
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            shake_hands(port, version=old, ciphers="ECDHE-ECDSA-AES128-GCM-SHA256")
        assert shake_hands(port)[0] == "TLSv1.3"


def test_ciphers_of_the_newest_version_alone_leave_only_that(directory: Path, server: Pair) -> None:
    with serving(directory, {"cipher_suites": ["TLS_AES_128_GCM_SHA256"]}) as port:
        with pytest.raises(ssl.SSLError):
            shake_hands(port, version=ssl.TLSVersion.TLSv1_2)
        assert shake_hands(port)[0] == "TLSv1.3"


def test_the_server_chooses_the_cipher_unless_told_otherwise(directory: Path, server: Pair) -> None:
    named = ["TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"]
    wish = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384"
    for prefer, chosen in ((True, "AES256"), (False, "AES128")):
        settings = {"cipher_suites": named, "prefer_server_cipher_suites": prefer}
        with serving(directory, settings) as port:
            assert chosen in shake_hands(port, version=ssl.TLSVersion.TLSv1_2, ciphers=wish)[1]


def test_every_name_of_a_cipher_is_known_to_openssl() -> None:
    for name in CIPHERS.values():
        if name is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.set_ciphers(name)
            assert name in {cipher["name"] for cipher in context.get_ciphers()}


@pytest.mark.parametrize("curve", CURVES)
def test_only_the_curve_that_is_named_is_spoken(directory: Path, server: Pair, curve: str) -> None:
    with serving(directory, {"curve_preferences": [curve]}) as port:
        assert shake_hands(port, curve=CURVES[curve])[0] == "TLSv1.3"
        with pytest.raises(ssl.SSLError, match=r"(?i)handshake.failure"):
            shake_hands(port, curve=next(name for key, name in CURVES.items() if key != curve))


# --- certificates of clients -----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
def test_a_required_certificate_is_verified(
    directory: Path, authority: Authority, server: Pair, client: Pair, stranger: Pair, version: str
) -> None:
    asks = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "authority.crt"}
    with serving(directory, {**asks, "max_version": version}) as port:
        assert get(port, authority, client).status_code == 200
        for other in (None, stranger):
            with pytest.raises(requests.ConnectionError):
                get(port, authority, other)


def test_an_optional_certificate_is_verified_if_there_is_one(
    directory: Path, authority: Authority, server: Pair, client: Pair, stranger: Pair
) -> None:
    text = authority.certificate.read_text()
    with serving(directory, {"client_auth_type": "VerifyClientCertIfGiven", "client_ca": text}) as port:
        assert get(port, authority).status_code == 200
        assert get(port, authority, client).status_code == 200
        with pytest.raises(requests.ConnectionError):
            get(port, authority, stranger)


def test_without_authorities_no_private_one_is_believed(
    directory: Path, authority: Authority, server: Pair, client: Pair
) -> None:
    with (
        serving(directory, {"client_auth_type": "RequireAndVerifyClientCert"}) as port,
        pytest.raises(requests.ConnectionError),
    ):
        get(port, authority, client)


@pytest.mark.parametrize("version", ["TLS12", "TLS13"])
@pytest.mark.parametrize(
    ("allowed", "comes_in"),
    [
        (["prometheus"], True),
        (["other", "2001:db8::1"], True),
        (["spiffe://a/b"], True),
        (["a@b.c"], True),
        (["Prometheus"], False),
        (["client"], False),  # the common name is no alternative name
        ([], False),
    ],
)
def test_only_names_that_are_allowed_come_in(
    directory: Path,
    authority: Authority,
    server: Pair,
    client: Pair,
    allowed: list[str],
    comes_in: bool,
    version: str,
) -> None:
    asks = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "authority.crt"}
    with serving(directory, {**asks, "client_allowed_sans": allowed, "max_version": version}) as port:
        if comes_in:
            assert get(port, authority, client).status_code == 200
        else:
            with pytest.raises(requests.ConnectionError):
                get(port, authority, client)


def test_a_session_that_is_resumed_does_not_outlive_the_certificate(
    directory: Path, authority: Authority, server: Pair, client: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    asks = {"client_auth_type": "RequireAndVerifyClientCert", "client_ca_file": "authority.crt"}
    context = ssl.create_default_context(cafile=str(authority.certificate))
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # of later ones nothing is remembered
    context.load_cert_chain(*client.files)
    with serving(directory, asks) as port, ExitStack() as stack:

        def ask(session: ssl.SSLSession | None) -> tuple[ssl.SSLSocket, bytes]:
            plain = socket.create_connection(("127.0.0.1", port), timeout=5)
            secured = stack.enter_context(
                context.wrap_socket(plain, server_hostname="localhost", session=session)
            )
            secured.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: h\r\n\r\n")
            with suppress(ConnectionError):
                return secured, secured.recv(65536)
            return secured, b""

        first, answer = ask(None)
        assert answer.startswith(b"HTTP/1.1 200")
        second, answer = ask(first.session)  # the first stays open: what is open is remembered
        assert second.session_reused
        assert answer.startswith(b"HTTP/1.1 200")
        in_a_week = time.time() + 7 * 86400
        monkeypatch.setattr("agent.exposition.tls.time", SimpleNamespace(time=lambda: in_a_week))
        third, answer = ask(first.session)
        assert third.session_reused
        assert answer == b""


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_no_ticket_is_given(directory: Path, server: Pair, version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = version
    with (
        serving(directory, {}) as port,
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain) as secured,
    ):
        secured.sendall(b"GET /-/healthy HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        assert secured.recv(65536)
        assert secured.session is None or not secured.session.has_ticket


# --- durations -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0", 0), ("100ms", 0.1), ("1m30s", 90), ("1.5h", 5400), ("3us", 3e-6), (".5s", 0.5)],
)
def test_durations_are_read_as_go_writes_them(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "1", "1 s", "s", "1x", "-1s", "1s30"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration with its unit"):
        parse_duration(text)
