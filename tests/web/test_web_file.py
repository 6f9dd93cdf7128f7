"""The file while the agent runs: what changes holds at once, and nothing falls open."""

from __future__ import annotations

import http.client
import logging
import shutil
import ssl
from collections.abc import Iterator
from pathlib import Path

import bcrypt
import pytest
import requests

from agent.clock import ManualClock
from agent.config import load_web_configuration
from agent.errors import ConfigurationError
from agent.exposition.server import ExpositionServer
from agent.exposition.web_file import LOOK_SECONDS, WebFile
from tests.exposition.test_server import start
from tests.web.certificates import Authority, Pair


def hashed(password: bytes) -> str:
    return bcrypt.hashpw(password, bcrypt.gensalt(4)).decode()


ALICE, BOB = hashed(b"wonderland"), hashed(b"builder")
USERS = f"basic_auth_users: {{alice: {ALICE}}}\n"
TLS = "tls_server_config: {cert_file: server.crt, key_file: server.key}\n"
ASKING = (
    "tls_server_config: {cert_file: server.crt, key_file: server.key, client_ca_file: authority.crt, "
    "client_auth_type: RequireAndVerifyClientCert}\n"
)


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("certificates")
    authority = Authority(made)
    for name in ("server", "client", "next"):
        authority.vouch(name)
    Authority(made, "elsewhere").vouch("stranger")
    return made


class Served:
    """A server by a file, and time that stands still between two looks at it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.file = directory / "web-config.yml"
        self.clock = ManualClock()
        self.server: ExpositionServer | None = None

    def start(self, text: str) -> None:
        self.file.write_text(text)
        web = WebFile(self.file, load=load_web_configuration, clock=self.clock)
        self.server = start(access=web.access)

    def write(self, text: str) -> None:
        self.file.write_text(text)
        self.clock.advance(LOOK_SECONDS)

    def get(
        self,
        path: str = "/metrics",
        *,
        user: tuple[str, str] | None = None,
        secured: bool = False,
        pair: str | None = None,
    ) -> requests.Response:
        assert self.server is not None
        scheme = "https" if secured else "http"
        return requests.get(
            f"{scheme}://localhost:{self.server.port}{path}",
            auth=user,
            verify=str(self.directory / "authority.crt"),
            cert=Pair(*(self.directory / f"{pair}.{end}" for end in ("crt", "key"))).files if pair else None,
            timeout=5,
        )


@pytest.fixture
def served(certificates: Path, tmp_path: Path) -> Iterator[Served]:
    shutil.copytree(certificates, tmp_path / "web")
    made = Served(tmp_path / "web")
    yield made
    if made.server is not None:
        made.server.close()


def test_users_and_headers_change_with_the_file(served: Served) -> None:
    served.start(USERS)
    assert served.get(user=("alice", "wonderland")).status_code == 200
    assert served.get(user=("bob", "builder")).status_code == 401
    served.write(
        f"basic_auth_users: {{bob: {BOB}}}\nhttp_server_config: {{headers: {{X-Frame-Options: deny}}}}\n"
    )
    assert served.get(user=("alice", "wonderland")).status_code == 401
    answer = served.get(user=("bob", "builder"))
    assert (answer.status_code, answer.headers["X-Frame-Options"]) == (200, "deny")


def test_a_changed_password_ends_the_one_that_was_remembered(served: Served) -> None:
    served.start(USERS)
    assert served.get(user=("alice", "wonderland")).status_code == 200
    served.write(f"basic_auth_users: {{alice: {BOB}}}\n")
    assert served.get(user=("alice", "wonderland")).status_code == 401
    assert served.get(user=("alice", "builder")).status_code == 200


def test_users_may_come_while_it_runs(served: Served) -> None:
    served.start("")
    assert served.get().status_code == 200
    served.write(USERS)
    assert served.get().status_code == 401


def test_the_file_is_looked_at_no_more_than_once_a_second(served: Served) -> None:
    loads: list[Path] = []

    def load(path: Path) -> object:
        loads.append(path)
        return load_web_configuration(path)

    served.file.write_text(USERS)
    web = WebFile(served.file, load=load, clock=served.clock)  # type: ignore[arg-type]
    for _ in range(50):
        served.clock.advance(0.1)
        web.access()
    assert len(loads) == 1  # nothing has changed
    served.file.write_text(f"basic_auth_users: {{bob: {BOB}}}\n")
    web.access()
    before = len(loads)
    served.clock.advance(LOOK_SECONDS)
    web.access()
    web.access()
    assert (before, len(loads)) == (1, 2)


def test_a_swap_of_links_is_seen(served: Served) -> None:
    """As the volume of a Secret is brought up to date."""
    for name, text in (("first", USERS), ("second", f"basic_auth_users: {{bob: {BOB}}}\n")):
        version = served.directory / name
        version.mkdir()
        (version / "web-config.yml").write_text(text)
    (served.directory / "..data").symlink_to("first")
    served.file.symlink_to(Path("..data") / "web-config.yml")
    web = WebFile(served.file, load=load_web_configuration, clock=served.clock)
    served.server = start(access=web.access)
    assert served.get(user=("alice", "wonderland")).status_code == 200
    (served.directory / "..new").symlink_to("second")
    (served.directory / "..new").rename(served.directory / "..data")
    served.clock.advance(LOOK_SECONDS)
    assert served.get(user=("alice", "wonderland")).status_code == 401
    assert served.get(user=("bob", "builder")).status_code == 200


# --- never open ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "basic_auth_users: is gone"),
        ("basic_auth", "must be a mapping"),
        ("basic_auth_users: {}", "names nobody"),
        ("basic_auth_users: {alice: x}", "bcrypt"),
        (None, "cannot be read"),
        (f"{USERS}tls_server_config: {{cert_file: nowhere, key_file: server.key}}", "cannot be read"),
    ],
    ids=["emptied", "cut off", "nobody", "no hash", "gone", "no certificate"],
)
def test_a_file_that_becomes_invalid_closes_all_but_the_health_pages(
    served: Served, text: str | None, words: str, caplog: pytest.LogCaptureFixture
) -> None:
    served.start(USERS)
    if text is None:
        served.file.unlink()
        served.clock.advance(LOOK_SECONDS)
    else:
        served.write(text)
    for user in (None, ("alice", "wonderland")):
        answer = served.get(user=user)
        assert answer.status_code == 500
        assert answer.text.startswith("closed: the web configuration file has become invalid")
    assert served.get("/-/healthy").status_code == 200
    served.clock.advance(LOOK_SECONDS)
    assert served.get(user=("alice", "wonderland")).status_code == 500
    (said,) = (record.getMessage() for record in caplog.records if record.levelno == logging.ERROR)
    assert words in said
    assert ALICE[10:] not in said
    served.write(USERS)
    assert served.get(user=("alice", "wonderland")).status_code == 200
    assert served.get().status_code == 401


@pytest.mark.parametrize(
    ("before", "after", "gone"),
    [
        (TLS, "", "tls_server_config"),
        (ASKING, TLS, "tls_server_config.client_auth_type"),
        (ASKING, "", "tls_server_config"),
        (USERS, TLS, "basic_auth_users"),
    ],
    ids=["TLS", "certificates of clients", "all", "users"],
)
def test_what_guards_is_not_dropped_while_it_runs(
    served: Served, before: str, after: str, gone: str, caplog: pytest.LogCaptureFixture
) -> None:
    served.start(before)
    secured = "tls" in before
    served.write(after)
    answer = served.get(secured=secured, pair="client" if before is ASKING else None)
    assert answer.status_code == 500
    assert f"{gone}" in caplog.text
    assert "to do without it, restart the agent" in caplog.text


def test_a_file_that_is_invalid_at_the_start_is_refused(served: Served) -> None:
    with pytest.raises(ConfigurationError, match="names nobody"):
        served.start("basic_auth_users: {}")


# --- certificates ----------------------------------------------------------------------------------


def serial(port: int) -> bytes:
    """Of the certificate that is shown."""
    return ssl.get_server_certificate(("127.0.0.1", port)).encode()


def test_a_renewed_certificate_is_shown_to_the_next_client(served: Served) -> None:
    served.start(TLS)
    assert served.server is not None
    assert serial(served.server.port) == (served.directory / "server.crt").read_bytes()
    for end in ("crt", "key"):
        (served.directory / f"next.{end}").replace(served.directory / f"server.{end}")
    served.clock.advance(LOOK_SECONDS)
    assert serial(served.server.port) == (served.directory / "server.crt").read_bytes()
    assert served.get(secured=True).status_code == 200


def test_between_a_new_certificate_and_its_key_it_is_closed_and_still_secured(served: Served) -> None:
    served.start(TLS)
    (served.directory / "next.crt").replace(served.directory / "server.crt")
    served.clock.advance(LOOK_SECONDS)
    assert served.get(secured=True).status_code == 500
    assert served.get("/-/healthy", secured=True).status_code == 200
    (served.directory / "next.key").replace(served.directory / "server.key")
    served.clock.advance(LOOK_SECONDS)
    assert served.get(secured=True).status_code == 200


def test_an_authority_that_is_replaced_lets_its_clients_in_no_more(served: Served) -> None:
    served.start(ASKING)
    assert served.get(secured=True, pair="client").status_code == 200
    shutil.copy(served.directory / "elsewhere.crt", served.directory / "authority.crt.new")
    trusted = served.directory / "trusted.crt"
    shutil.copy(served.directory / "authority.crt", trusted)
    (served.directory / "authority.crt.new").replace(served.directory / "authority.crt")
    served.clock.advance(LOOK_SECONDS)
    assert served.server is not None
    url = f"https://localhost:{served.server.port}/metrics"

    def answer(name: str) -> int:
        pair = tuple(str(served.directory / f"{name}.{end}") for end in ("crt", "key"))
        return requests.get(url, verify=str(trusted), cert=pair, timeout=5).status_code  # type: ignore[arg-type]

    assert answer("stranger") == 200
    with pytest.raises(requests.ConnectionError):
        answer("client")


def test_a_connection_does_not_outlive_its_settings(served: Served) -> None:
    """Here one in clear when TLS comes; so does one of a client whose authority is taken away."""
    served.start("")
    assert served.server is not None
    kept = http.client.HTTPConnection("127.0.0.1", served.server.port, timeout=5)
    for _ in range(2):
        kept.request("GET", "/metrics")
        assert kept.getresponse().read()
    served.write(TLS)
    kept.auto_open = False
    kept.request("GET", "/metrics")
    with pytest.raises(ConnectionError):
        kept.getresponse()
    kept.close()
    assert served.get(secured=True).status_code == 200


# --- rate ------------------------------------------------------------------------------------------


def test_requests_beyond_the_rate_are_put_off(served: Served) -> None:
    served.start(f"{USERS}rate_limit: {{interval: 2s, burst: 3}}\n")
    alice = ("alice", "wonderland")
    assert [served.get(user=user).status_code for user in (alice, None, alice)] == [200, 401, 200]
    answer = served.get(user=alice)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "2")
    assert served.get("/-/healthy").status_code == 429  # as every page, in the toolkit too
    served.clock.advance(2)
    assert [served.get(user=alice).status_code for _ in range(2)] == [200, 429]
    served.clock.advance(60)
    assert [served.get(user=alice).status_code for _ in range(4)] == [200, 200, 200, 429]


def test_a_changed_rate_holds_at_once_and_another_change_fills_no_bucket(served: Served) -> None:
    limit = "rate_limit: {interval: 1h, burst: 1}\n"
    served.start(f"{USERS}{limit}")
    assert [served.get().status_code for _ in range(2)] == [401, 429]
    served.write(f"basic_auth_users: {{bob: {BOB}}}\n{limit}")
    assert served.get().status_code == 429
    served.write(f"basic_auth_users: {{bob: {BOB}}}\nrate_limit: {{interval: 1h, burst: 2}}\n")
    assert [served.get().status_code for _ in range(3)] == [401, 401, 429]
    served.write(f"basic_auth_users: {{bob: {BOB}}}\n")
    assert served.get().status_code == 401
