"""Asking another agent: what is said when it does not answer, and that its credentials are for it alone."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import bcrypt
import pytest
import yaml

from agent.cli import EXIT_WRONG_INPUT, main
from agent.clock import SystemClock
from agent.config import load_web_configuration
from agent.errors import AgentError
from agent.exposition.json_view import assessment_document
from agent.exposition.picture import read_document
from agent.exposition.text_view import render_text
from agent.exposition.web_file import WebFile
from agent.sources.agent_page import CREDENTIALS_VARIABLE, TOKEN_VARIABLE, AgentAccess, RemoteAgent
from agent.sources.page import PageLimits
from tests.exposition import scenes
from tests.exposition.test_server import start
from tests.sources.test_page import answer, saying, serving, silent, without_end
from tests.web.certificates import Authority

PASSWORD = "correct horse: battery"  # with the sign that divides it from the name


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    authority = Authority(tmp_path_factory.mktemp("certificates"))
    authority.vouch("server")
    return authority


@contextmanager
def guarded_agent(authority: Authority) -> Iterator[str]:
    """The URL of an agent over TLS that wants to know who asks."""
    hashed = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    file = authority.certificate.parent / "web.yml"
    document = {
        "tls_server_config": {"cert_file": "server.crt", "key_file": "server.key"},
        "basic_auth_users": {"ops": hashed},
    }
    file.write_text(yaml.safe_dump(document))
    access = WebFile(file, load=load_web_configuration, clock=SystemClock()).access
    exposed = start(scenes.memory_bound(), access=access)
    try:
        yield f"https://localhost:{exposed.port}"
    finally:
        exposed.close()


@contextmanager
def open_agent() -> Iterator[str]:
    exposed = start(scenes.memory_bound())
    try:
        yield f"http://127.0.0.1:{exposed.port}"
    finally:
        exposed.close()


def complaint(url: str, access: AgentAccess | None = None, *, seconds: float = 5.0) -> str:
    limits = PageLimits(deadline_seconds=seconds, max_bytes=10**6)
    with pytest.raises(AgentError) as raised:
        RemoteAgent(url, access=access or AgentAccess(), limits=limits).fetch()
    return str(raised.value)


@pytest.mark.parametrize("end", ["", "/", "/api/v1/assessment"])
def test_the_url_may_be_the_agents_or_the_documents(end: str) -> None:
    with open_agent() as url:
        assert read_document(RemoteAgent(url + end).fetch()).node == "node-7"


def test_who_is_known_by_password_is_answered_over_tls(authority: Authority) -> None:
    with guarded_agent(authority) as url:
        access = AgentAccess(credentials=f"ops:{PASSWORD}", ca_file=authority.certificate)
        assert read_document(RemoteAgent(url, access=access).fetch()).node == "node-7"
        with_user = url.replace("//", "//ops:correct%20horse%3A%20battery@")
        remote = RemoteAgent(with_user, access=AgentAccess(ca_file=authority.certificate))
        assert read_document(remote.fetch()).node == "node-7"
        assert "horse" not in remote.name


def test_what_keeps_it_from_answering_is_said(authority: Authority) -> None:
    with guarded_agent(authority) as url:
        known = AgentAccess(ca_file=authority.certificate)
        assert CREDENTIALS_VARIABLE in complaint(url, known)
        assert "HTTP 401" in complaint(url, AgentAccess(bearer_token="t0ken", ca_file=authority.certificate))
        assert "--ca-file" in complaint(url)
        assert complaint(url.replace("https", "http")).startswith("agent at http://localhost:")


def test_a_token_goes_with_each_question() -> None:
    body = json.dumps(assessment_document(scenes.memory_bound())).encode()
    with serving(saying(answer(body))) as server:
        RemoteAgent(server.url, access=AgentAccess(bearer_token="t0ken")).fetch()
    assert "Authorization: Bearer t0ken\r\n" in server.heads[0]


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (answer(status="404 Not Found"), "no agent answers here"),
        (answer(status="503 Service Unavailable"), "has just begun"),
        (answer(status="302 Found", headers="Location: http://elsewhere/\r\n"), "redirects"),
        (answer(b"<html>It works!</html>"), "no roofline-agent"),
        (answer(b"[" * 100_000), "no roofline-agent"),
        (answer(b"9" * 10_000), "no roofline-agent"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is the URL right"),
    ],
    ids=["404", "503", "elsewhere", "a page", "brackets", "digits", "another protocol"],
)
def test_what_is_no_agent_is_said_to_be_none(said: bytes, words: str) -> None:
    with serving(saying(said)) as server:
        assert words in complaint(server.url)


@pytest.mark.parametrize(
    ("talk", "words"),
    [
        (silent, "no complete answer within 0.5 s"),
        (without_end(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 4096), "more than an agent says"),
    ],
    ids=["says nothing", "never ends"],
)
def test_a_peer_that_is_sick_costs_no_more_than_the_deadline(talk: Callable[..., None], words: str) -> None:
    with serving(talk) as server:
        assert words in complaint(server.url, seconds=0.5)


def test_nobody_there_is_said() -> None:
    assert "is the agent up" in complaint("http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("url", "access", "words"),
    [
        ("localhost:10095", AgentAccess(), "begins with http://"),
        ("http://h", AgentAccess(credentials="ops"), "must be user:password"),
        ("http://h", AgentAccess(bearer_token="t\n"), "characters that no token has"),
        ("https://h", AgentAccess(ca_file=Path("/nowhere/ca.pem")), "no such file"),
    ],
)
def test_what_cannot_be_asked_with_is_said(url: str, access: AgentAccess, words: str) -> None:
    said = complaint(url, access)
    assert words in said
    assert "ops" not in said


# --- once --url ------------------------------------------------------------------------------------


def test_once_prints_what_another_agent_sees(capsys: pytest.CaptureFixture[str]) -> None:
    picture = read_document(assessment_document(scenes.memory_bound()))
    with open_agent() as url:
        assert main(["once", "--url", url]) == 0
        assert capsys.readouterr().out == render_text(picture) + "\n"
        assert main(["once", "--url", url, "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out) == assessment_document(scenes.memory_bound())


def test_once_takes_credentials_from_the_environment(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    with guarded_agent(authority) as url:
        asked = ["once", "--url", url, "--ca-file", str(authority.certificate)]
        assert main(asked) == 1
        assert CREDENTIALS_VARIABLE in capsys.readouterr().err
        monkeypatch.setenv(CREDENTIALS_VARIABLE, f"ops:{PASSWORD}")
        assert main(asked) == 0
        assert capsys.readouterr().out.startswith("node-7: 1 GPU, 1 engine\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--url", "http://127.0.0.1:1"], "refused"),
        (["--url", "http://h", "--seconds", "3"], "--seconds would have no effect"),
        (["--url", "http://h", "--config", "agent.yaml"], "--config would have no effect"),
        (["--url", "http://h", "--format", "prometheus"], "at /metrics"),
        (["--ca-file", "ca.pem"], "--ca-file would have no effect"),
    ],
)
def test_once_says_in_one_line_why_it_prints_nothing(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["once", *arguments]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert words in line


def test_once_is_of_one_node(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["once", "--url", "http://h", "--simulate", "idle"])
    assert ended.value.code == EXIT_WRONG_INPUT
