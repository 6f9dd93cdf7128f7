"""The same file for node_exporter and for us: both take it or both refuse it, and both ask for the same."""

from __future__ import annotations

import subprocess
import textwrap
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
import requests
import urllib3
import yaml

from agent.app import Agent
from agent.config import Configuration
from tests.rig.programs import free_port, running, tool
from tests.web.certificates import Authority
from tests.web.node_exporter import node_exporter

SAMPLES = Path(__file__).parent / "samples"

NEWER = "Debian's is older than this key"
OURS, THEIRS = "only we take it", "only node_exporter takes it"
NEITHER = "neither takes it, but a newer toolkit does"

# Where the two part, and why. A file that works for one of them says nothing wrong about the other.
DIFFERENCES: dict[str, tuple[str, str]] = {
    "rate-limit": (OURS, NEWER),
    "rate-limit-off": (OURS, NEWER),
    "a-rate-limit-in-minutes": (OURS, NEWER),
    "rate-limit-without-a-burst": (NEITHER, "nobody would ever be answered"),
    "rate-limit-without-a-unit": (NEITHER, "the toolkit takes it as nanoseconds, so that there is no limit"),
    "names-that-are-allowed": (OURS, NEWER),
    "certificate-in-the-file": (OURS, NEWER),
    "ciphers-that-http2-must-not-use": (OURS, "HTTP/2 asks for a certain cipher, and we do not offer HTTP/2"),
    "only-ciphers-of-the-newest-tls": (OURS, "the same"),
    "certificates-unverified": (THEIRS, "Python's ssl verifies each certificate that it is given"),
    "certificates-unverified-by-an-old-name": (THEIRS, "the same"),
    "certificates-requested": (THEIRS, "the same"),
    "several-curves": (THEIRS, "Python's ssl can name one curve, or leave the choice to OpenSSL"),
    "old-tls-only": (THEIRS, "OpenSSL 3 speaks TLS 1.0 and 1.1 only with broken hashes allowed"),
    "versions-that-exclude-each-other": (THEIRS, "no client could speak with it"),
    "authorities-without-a-certificate": (THEIRS, "nobody could come in; a newer toolkit refuses it too"),
    "tls-section-without-certificates": (THEIRS, "it serves plain HTTP, and the section is believed"),
    "a-weak-key": (THEIRS, "OpenSSL refuses keys of less than 112 bits of security"),
    "nobody": (THEIRS, "everybody would be let in, where users were meant"),
    "users-without-a-value": (THEIRS, "the same"),
    "two-documents": (THEIRS, "it ignores the second one"),
    "a-dear-hash": (THEIRS, "each try would take a core for seconds"),
    "a-short-hash": (THEIRS, "no password fits it"),
    "a-long-hash": (THEIRS, "no password fits it, or its end means nothing"),
    "a-hash-with-other-characters": (THEIRS, "no password fits it"),
    "a-user-with-a-colon": (THEIRS, "nobody can send such a name"),
    "a-user-without-a-name": (THEIRS, "a mistake more often than a wish"),
    "a-header-in-two-lines": (THEIRS, "it makes one line of it without a word"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that the samples name."""
    made = tmp_path_factory.mktemp("web")
    authority = Authority(made)
    server = authority.vouch("server")
    authority.vouch("client")
    authority.vouch("rsa", key="rsa:2048")
    authority.vouch("weak", key="rsa:1024")
    (made / "empty.pem").touch()
    (made / "both.pem").write_text(server.certificate.read_text() + server.key.read_text())
    protect = ("ec", "-in", str(server.key), "-aes256", "-passout", "pass:x")
    subprocess.run(
        [tool("openssl", "openssl"), *protect, "-out", str(made / "protected.key")],
        check=True,
        capture_output=True,
    )
    return made


@contextmanager
def agent(file: Path) -> Iterator[int | None]:
    """Where ours listens, or `None` when it refuses the file."""
    settings = {
        "web": {"listen_address": "127.0.0.1:0", "config_file": str(file)},
        "nvml": {"enabled": False},
    }
    try:
        started = Agent(Configuration.model_validate({**settings, **_NO_DISCOVERY}))
    except ValueError:
        yield None
        return
    started.start()
    try:
        yield started.port
    finally:
        started.close()


_NO_DISCOVERY = {"discovery": {"processes": {"enabled": False}}}


def outcome(port: int | None, *, secured: bool) -> str:
    """What a client without any credentials gets."""
    if port is None:
        return "the file is refused"
    scheme = "https" if secured else "http"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", urllib3.exceptions.InsecureRequestWarning)
            answer = requests.get(f"{scheme}://127.0.0.1:{port}/metrics", verify=False, timeout=10)
    except requests.ConnectionError:
        return "the handshake fails"
    return str(answer.status_code)


def both(sample: Path, directory: Path) -> tuple[str, str]:
    """What becomes of the sample here and there."""
    text = sample.read_text().replace("DIRECTORY", str(directory))
    for word, name in (("CERT", "server.crt"), ("KEY", "server.key")):
        text = text.replace(word, textwrap.indent((directory / name).read_text(), "    "))
    file = directory / "web-config.yml"
    file.write_text(text)
    secured = "cert" in text
    with agent(file) as ours, node_exporter(file) as theirs:
        return outcome(ours, secured=secured), outcome(theirs, secured=secured)


def samples(kind: str) -> list[Path]:
    found = sorted((SAMPLES / kind).glob("*.yml"))
    assert found
    return found


def named(sample: Path) -> str:
    return sample.stem


@pytest.mark.parametrize("sample", samples("valid"), ids=named)
def test_what_node_exporter_takes_we_take_and_ask_for_the_same(sample: Path, directory: Path) -> None:
    ours, theirs = both(sample, directory)
    assert ours == theirs
    assert ours != "the file is refused"


@pytest.mark.parametrize("sample", samples("invalid"), ids=named)
def test_what_node_exporter_refuses_we_refuse(sample: Path, directory: Path) -> None:
    assert both(sample, directory) == ("the file is refused", "the file is refused")


@pytest.mark.parametrize("sample", samples("apart"), ids=named)
def test_where_they_part_there_is_a_reason(sample: Path, directory: Path) -> None:
    who, _ = DIFFERENCES[sample.stem]
    ours, theirs = (taken != "the file is refused" for taken in both(sample, directory))
    assert {OURS: (True, False), THEIRS: (False, True), NEITHER: (False, False)}[who] == (ours, theirs)


def test_every_difference_has_its_sample() -> None:
    assert {sample.stem for sample in samples("apart")} == DIFFERENCES.keys()


PASSWORD = {"basic_auth": {"username": "prometheus", "password": "wonderland"}}
CERTIFICATE = {"cert_file": "client.crt", "key_file": "client.key"}
KNOWN = {"ca_file": "authority.crt", "server_name": "localhost"}
JOBS = {
    "both": {"tls_config": {**KNOWN, **CERTIFICATE}, **PASSWORD},
    "no certificate": {"tls_config": KNOWN, **PASSWORD},
    "no password": {"tls_config": {**KNOWN, **CERTIFICATE}},
}


def scrape_configuration(*ports: int | None) -> str:
    targets = [{"targets": [f"127.0.0.1:{port}" for port in ports]}]
    jobs = [
        {"job_name": name, "scheme": "https", "static_configs": targets, **job} for name, job in JOBS.items()
    ]
    intervals = {"scrape_interval": "1s", "scrape_timeout": "1s"}
    return yaml.safe_dump({"global": intervals, "scrape_configs": jobs})


def test_one_prometheus_scrapes_both_with_one_file(directory: Path) -> None:
    hashed = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(10)).decode()
    tls = {"cert_file": "server.crt", "key_file": "server.key", "client_ca_file": "authority.crt"}
    file = directory / "web-config.yml"
    file.write_text(
        yaml.safe_dump(
            {
                "tls_server_config": {**tls, "client_auth_type": "RequireAndVerifyClientCert"},
                "basic_auth_users": {"prometheus": hashed},
                "http_server_config": {"headers": {"X-Frame-Options": "deny"}},
            }
        )
    )
    with agent(file) as ours, node_exporter(file) as theirs:
        for port in (ours, theirs):
            answer = requests.get(
                f"https://localhost:{port}/metrics",
                verify=str(directory / "authority.crt"),
                cert=(str(directory / "client.crt"), str(directory / "client.key")),
                auth=("prometheus", "wonderland"),
                timeout=10,
            )
            assert answer.status_code == 200
            assert answer.headers["X-Frame-Options"] == "deny"
        (directory / "prometheus.yml").write_text(scrape_configuration(ours, theirs))
        port = free_port()
        command = ("prometheus", "--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}")
        with running(
            (*command, "--storage.tsdb.path=data"),
            package="prometheus",
            port=port,
            ready="/-/ready",
            directory=directory,
        ) as prometheus:
            end = time.monotonic() + 30
            while True:
                targets = prometheus.get("/api/v1/targets").json()["data"]["activeTargets"]
                if len(targets) == 2 * len(JOBS) and all(target["health"] != "unknown" for target in targets):
                    break
                assert time.monotonic() < end
                time.sleep(0.2)
    health = {(target["labels"]["job"], target["scrapeUrl"]): target["health"] for target in targets}
    assert health == {key: "up" if key[0] == "both" else "down" for key in health}
