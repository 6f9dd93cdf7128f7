"""The web configuration file: what is supported, and that nothing else is believed."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import bcrypt
import pytest

from agent.app import Agent
from agent.cli import main
from agent.config import Configuration, load_web_configuration, parse_configuration, redacted
from agent.errors import ConfigurationError
from agent.exposition.web_config import WebConfiguration
from tests.web.certificates import Authority

HASH = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG"
DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "web-config.yml"


def load(file: Path, text: str) -> WebConfiguration:
    file.write_text(text)
    return load_web_configuration(file)


def test_users_and_headers_are_read(file: Path) -> None:
    web = load(
        file,
        f"""
basic_auth_users:
  alice: {HASH}
  bob: {HASH.replace("2y", "2a")}
http_server_config:
  http2: false
  headers:
    Content-Security-Policy: frame-src 'none'
    Strict-Transport-Security: max-age=31536000
    X-Content-Type-Options: nosniff
    X-Frame-Options: deny
    X-XSS-Protection: ""
""",
    )
    assert web.users == {"alice": HASH, "bob": HASH.replace("2y", "2a")}
    assert web.headers == {
        "Content-Security-Policy": "frame-src 'none'",
        "Strict-Transport-Security": "max-age=31536000",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "deny",
    }


@pytest.mark.parametrize(
    "text",
    ["", "tls_server_config:\n", "tls_server_config: {}\nrate_limit: {}\n", "http_server_config: {}\n"],
)
def test_empty_sections_mean_nothing_as_they_do_in_the_toolkit(file: Path, text: str) -> None:
    web = load(file, text)
    assert web.users == {}
    assert web.headers == {}


def test_the_hashes_that_bcrypt_makes_are_taken(file: Path) -> None:
    for number in range(20):
        hashed = bcrypt.hashpw(b"%d" % number, bcrypt.gensalt(4)).decode()
        assert load(file, f"basic_auth_users: {{u: {hashed}}}").users == {"u": hashed}


NOT_A_HASH = "must be a bcrypt hash, as htpasswd -nBC 10 makes it: $2y$10$ and 53 characters"
NOT_A_NAME = "a user's name must be printable, without a colon, and not empty"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("basic_auth_users: {}", ["basic_auth_users: names nobody, which would let everybody in; "]),
        ("basic_auth_users:", ["basic_auth_users: must be a valid dictionary"]),
        (
            f"basic_auth_users: {{alice: hunter2, bob: {HASH[:-1]}, carol: {HASH}0, dave: 1}}",
            [
                f"basic_auth_users.alice: {NOT_A_HASH}",
                f"basic_auth_users.bob: {NOT_A_HASH}",
                f"basic_auth_users.carol: {NOT_A_HASH}",
                "basic_auth_users.dave: must be a valid string",
            ],
        ),
        (
            f"basic_auth_users:\n  alice: {HASH.replace('$10', '$18')}\n  bob: {HASH.replace('$10', '$03')}",
            [
                "basic_auth_users.alice: must have a cost of at most 14, not 18: ",
                f"basic_auth_users.bob: {NOT_A_HASH}",
            ],
        ),
        (f"basic_auth_users: {{'a:b': {HASH}}}", [f"basic_auth_users.a:b: {NOT_A_NAME}"]),
        (f"basic_auth_users: {{'': {HASH}}}", [f"basic_auth_users.: {NOT_A_NAME}"]),
        (f"basic_auth_users: {{alice: {HASH}, alice: {HASH}}}", ["line 1, column 89: alice is given twice"]),
        (
            f"basic_auth_user: {{alice: {HASH}}}",
            ["basic_auth_user: unknown key; did you mean basic_auth_users?"],
        ),
        (
            "http_server_config:\n  http2: maybe\n"
            "  headers: {Server: x, X-Frame-Option: deny, X-Content-Type-Options: a}",
            [
                "http_server_config.http2: must be a valid boolean",
                "http_server_config.headers.X-Content-Type-Options: must be 'nosniff'",
                "http_server_config.headers.Server: unknown key",
                "http_server_config.headers.X-Frame-Option: unknown key; did you mean X-Frame-Options?",
            ],
        ),
        (
            'http_server_config: {headers: {X-XSS-Protection: "1\\r\\nSet-Cookie: a=b"}}',
            ["http_server_config.headers.X-XSS-Protection: must be one line of printable ASCII"],
        ),
        (
            "tls_server_config: {cert: a, key: secret, min_version: TLS14, "
            "client_auth_type: Any, cipher_suites: [a]}",
            [
                "tls_server_config.client_auth_type: must be one of NoClientCert, ",
                "tls_server_config.min_version: must be 'TLS10', ",
                "tls_server_config.cipher_suites: unknown cipher a; there are TLS_AES_128_GCM_SHA256, ",
            ],
        ),
        (
            "tls_server_config: {cert: a, key: secret, client_auth_type: RequireAnyClientCert}",
            ["tls_server_config.client_auth_type: is RequireAnyClientCert, which takes certificates"],
        ),
        (
            "tls_server_config: {client_allowed_sans: [a], client_ca: a}",
            ["tls_server_config: needs cert_file or cert; needs key_file or key; has client_ca without a "],
        ),
        (
            "tls_server_config: {cert: a, key: secret, client_ca: a, client_auth_type: "
            "VerifyClientCertIfGiven}",
            [
                "tls_server_config.cert: with key: not PEM",
                "tls_server_config.client_ca: holds no certificate in PEM",
            ],
        ),
        (
            "rate_limit: {interval: 10, burst: -1}",
            [
                "rate_limit.interval: must be a duration with its unit, such as 100ms or 1m30s",
                "rate_limit.burst: must be greater than or equal to 0",
            ],
        ),
        ("rate_limit: {interval: 1s}", ["rate_limit: needs a burst of at least 1: "]),
        ("- alice", ["must be a mapping of keys, such as basic_auth_users: "]),
        ("a: [", ["line 1, column 5: not YAML: "]),
    ],
)
def test_every_problem_is_named_and_no_secret_is(file: Path, text: str, problems: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(file, text)
    assert caught.value.origin == str(file)
    assert len(caught.value.problems) == len(problems)
    for found, start in zip(caught.value.problems, problems, strict=True):
        assert found.startswith(start)
    assert not re.search("hunter2|secret", str(caught.value))
    assert HASH[10:30] not in str(caught.value)


def test_check_config_checks_the_file_too(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = file.with_name("agent.yaml")
    configuration.write_text(f"web: {{config_file: {file}}}\nwindow_secs: 1\n")
    file.write_text("basic_auth_users: {alice: hunter2}\ntls_server_config: {cert_file: a}\n")
    assert main(["check-config", str(configuration)]) == 2
    said = capsys.readouterr().err.splitlines()
    place = f"{configuration}: web.config_file: in {file}: "
    assert said[0].startswith(f"{place}basic_auth_users.alice: must be a bcrypt hash")
    assert said[1].startswith(f"{place}tls_server_config: needs key_file or key")
    assert said[2].endswith(": window_secs: unknown key; did you mean window_seconds?")
    assert "hunter2" not in "".join(said)

    configuration.write_text(f"web: {{config_file: {file}}}\n")
    file.write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    assert main(["check-config", str(configuration)]) == 0
    file.write_bytes(b"\xff")
    assert main(["check-config", str(configuration)]) == 2
    assert "cannot be read: not UTF-8 text" in capsys.readouterr().err


def test_only_the_path_is_shown(file: Path) -> None:
    file.write_text(f"basic_auth_users: {{alice: {HASH}}}\n")
    configuration = Configuration.model_validate({"web": {"config_file": str(file)}})
    shown = redacted(configuration)
    assert shown["web"]["config_file"] == str(file)
    for text in (json.dumps(shown), repr(configuration), repr(load_web_configuration(file))):
        assert HASH[10:] not in text


def test_the_documented_example_is_valid(file: Path) -> None:
    examples = re.findall(r"```yml\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (example,) = (text for text in examples if text.startswith("tls_server_config"))
    Authority(file.parent).vouch("server")
    web = load(file, example)
    assert web.users
    assert web.headers
    assert web.tls
    assert web.limit
    assert parse_configuration(f"web: {{config_file: {file}}}", origin="x").web.config_file == str(file)


def test_the_agent_does_what_the_file_says(file: Path) -> None:
    hashed = bcrypt.hashpw(b"wonderland", bcrypt.gensalt(4)).decode()
    file.write_text(
        f"basic_auth_users: {{alice: {hashed}}}\nhttp_server_config: {{headers: {{X-Frame-Options: deny}}}}\n"
    )
    web = f"{{listen_address: '127.0.0.1:0', config_file: {file}, enable_lifecycle: true}}"
    agent = Agent(parse_configuration(f"web: {web}\nnvml: {{enabled: false}}\n", origin="x"))
    alice = {"Authorization": f"Basic {b64encode(b'alice:wonderland').decode()}"}
    replies: list[tuple[int, str | None, str]] = []
    agent.start()
    try:
        for method, path, headers in (
            ("GET", "/config", {}),
            ("GET", "/config", alice),
            ("POST", "/-/release-gpus?seconds=5", alice),
        ):
            connection = http.client.HTTPConnection("127.0.0.1", agent.port, timeout=5)
            connection.request(method, path, headers=headers)
            reply = connection.getresponse()
            replies.append((reply.status, reply.headers["X-Frame-Options"], reply.read().decode()))
            connection.close()
    finally:
        agent.close()
    (refused, shown, released) = replies
    assert refused[:2] == (401, "deny")
    assert shown[:2] == (200, "deny")
    assert str(file) in shown[2]
    assert "$2b$" not in shown[2]
    assert released == (200, "deny", "there is nothing to let go of: NVML is not used here\n")


def test_who_has_no_users_holds_neither_bcrypt_nor_the_format_in_memory() -> None:
    program = """
import sys
from agent.app import Agent
from agent.config import Configuration
agent = Agent(Configuration.model_validate({"web": {"listen_address": "127.0.0.1:0"}}))
agent.start()
agent.close()
print(sorted({"bcrypt", "agent.exposition.web_config"} & sys.modules.keys()))
"""
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert said.stdout == "[]\n"
