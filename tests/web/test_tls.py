"""TLS: who is spoken with and how, and that nothing is weaker than the file says."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from agent.clock import SystemClock
from agent.config import load_web_configuration
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
