"""Pages from real sockets, honest and hostile, and the reading of their text."""

from __future__ import annotations

import gzip
import socket
import ssl
import subprocess
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from agent.errors import SourceError
from agent.sources.page import (
    ADVICE,
    Page,
    PageLimits,
    PageParser,
    fetch_page,
    open_session,
    parse_page,
    redacted_url,
)

FIXTURES = Path(__file__).parent.parent / "fixtures" / "vllm"
PAGES = sorted(path for path in FIXTURES.glob("*.txt") if path.stat().st_size > 10_000)

BODY = b"# TYPE up gauge\nup 1\n"
LIMITS = PageLimits(max_bytes=100_000)
IMPATIENT = PageLimits(deadline_seconds=0.4)
SLACK_SECONDS = 1.0  # for a busy machine

Talk = Callable[[socket.socket], None]


# --- fetching ------------------------------------------------------------------------------------


@dataclass
class Server:
    """A server of raw sockets: says exactly what a test wants said."""

    url: str
    heads: list[str] = field(default_factory=list)
    """What it was asked, request line and headers."""


@contextmanager
def serving(talk: Talk, *, tls: ssl.SSLContext | None = None) -> Iterator[Server]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    server = Server(f"{'https' if tls else 'http'}://127.0.0.1:{listener.getsockname()[1]}/metrics")
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            with suppress(OSError), listener.accept()[0] as plain:
                plain.settimeout(5)
                with tls.wrap_socket(plain, server_side=True) if tls else plain as connection:
                    head = b""
                    while b"GET ".startswith(head[:4]) and b"\r\n\r\n" not in head:
                        head += connection.recv(4096) or b"(hung up)"
                    server.heads.append(head.decode("latin-1"))
                    talk(connection)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield server
    finally:
        over.set()
        thread.join()
        listener.close()


def answer(body: bytes = BODY, *, status: str = "200 OK", headers: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def saying(message: bytes) -> Talk:
    return lambda connection: connection.sendall(message)


def dripping(at_once: bytes, then: bytes) -> Talk:
    """Sends the first part, then one byte of the rest each 0.1 s."""

    def talk(connection: socket.socket) -> None:
        connection.sendall(at_once)
        for byte in then:
            connection.sendall(bytes([byte]))
            time.sleep(0.1)

    return talk


def without_end(first: bytes, again: bytes) -> Talk:
    def talk(connection: socket.socket) -> None:
        connection.sendall(first)
        while True:  # until the other side hangs up
            connection.sendall(again)

    return talk


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def failure_of(url: str, limits: PageLimits = LIMITS, *, verify: bool | str = True) -> SourceError:
    """The error of one fetch, which must come within the limits."""
    began = time.monotonic()
    with open_session(verify=verify) as session, pytest.raises(SourceError) as raised:
        fetch_page(url, session=session, limits=limits)
    assert time.monotonic() - began < limits.deadline_seconds + SLACK_SECONDS
    assert raised.value.reason in ADVICE
    return raised.value


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param("", id="no content type"),
        pytest.param("Content-Type: text/plain; version=0.0.4\r\n", id="the usual one"),
        pytest.param("Content-Type: text/plain; version=1.0.0; charset=utf-8\r\n", id="vLLM's"),
        pytest.param("Content-Type: application/octet-stream\r\n", id="a wrong one"),
        pytest.param("Content-Type: text/plain; charset=no-such\r\n", id="an unknown character set"),
    ],
)
def test_body_comes_back_whole_whatever_its_content_type(headers: str) -> None:
    with serving(saying(answer(headers=headers))) as server, open_session() as session:
        assert fetch_page(server.url, session=session) == BODY


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\n" + BODY, id="HTTP 1.0, until the end"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n15\r\n" + BODY + b"\r\n0\r\n\r\n",
            id="chunked",
        ),
        pytest.param(answer(gzip.compress(BODY), headers="Content-Encoding: gzip\r\n"), id="gzip"),
    ],
)
def test_body_comes_back_whole_however_it_is_sent(message: bytes) -> None:
    with serving(saying(message)) as server, open_session() as session:
        assert fetch_page(server.url, session=session) == BODY


STREAM = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
BOMB = answer(gzip.compress(bytes(64 * 2**20)), headers="Content-Encoding: gzip\r\n")


@pytest.mark.parametrize(
    ("reason", "talk"),
    [
        pytest.param("http_status", saying(answer(status="404 Not Found")), id="not found"),
        pytest.param("http_status", saying(answer(status="500 Oh No")), id="a broken server"),
        pytest.param("http_status", saying(b"HTTP/1.1 204 No Content\r\n\r\n"), id="no content"),
        pytest.param("too_large", saying(answer(bytes(30 * 2**20))), id="30 MB"),
        pytest.param("too_large", without_end(STREAM, bytes(5000)), id="a body without end"),
        pytest.param("too_large", saying(BOMB), id="a gzip bomb"),
        pytest.param("malformed", saying(answer(headers="Content-Encoding: gzip\r\n")), id="no gzip at all"),
        pytest.param("malformed", without_end(STREAM[:-2], b"A: b\r\n"), id="headers without end"),
        pytest.param("malformed", saying(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), id="another protocol"),
        pytest.param("disconnected", saying(answer()[:-1]), id="a byte too few"),
        pytest.param("disconnected", saying(CHUNKED + b"5\r\nup"), id="half a chunk"),
        pytest.param("disconnected", saying(b""), id="hanging up"),
        pytest.param("timeout", silent, id="silence"),
        pytest.param("timeout", dripping(b"", STREAM), id="a status line that drips"),
        pytest.param("timeout", dripping(STREAM[:-2], b"A: b\r\n" * 9), id="headers that drip"),
        pytest.param("timeout", dripping(STREAM, bytes(99)), id="a body that drips"),
        pytest.param("timeout", dripping(CHUNKED, b"0" * 99), id="a chunk size that drips"),
        pytest.param("timeout", without_end(b"", b"HTTP/1.1 100 Wait\r\n\r\n"), id="continue without end"),
    ],
)
def test_a_bad_server_costs_one_error_within_the_limits(reason: str, talk: Talk) -> None:
    with serving(talk) as server:
        assert failure_of(server.url, IMPATIENT if reason == "timeout" else LIMITS).reason == reason


def test_a_port_that_nobody_listens_on_is_refused() -> None:
    with serving(silent) as server:
        gone = server.url
    error = failure_of(gone)
    assert error.reason == "refused"
    assert str(error) == f"page at {gone}: refused; is the server up, with metrics on?"


@pytest.mark.parametrize("url", ["http://no-such-host.invalid/", "gopher://h/", "http://[::1", "metrics"])
def test_a_url_that_leads_nowhere_is_unreachable(url: str) -> None:
    assert failure_of(url).reason == "unreachable"


def test_a_gzip_bomb_does_not_unfold_in_memory() -> None:
    with serving(saying(BOMB)) as server:
        tracemalloc.start()
        failure_of(server.url, PageLimits(max_bytes=100_000))
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak_bytes < 20 * 2**20


def test_messages_hold_neither_credentials_nor_what_the_server_said() -> None:
    with serving(saying(answer(b"s3cret-body", status="403 s3cret-phrase"))) as server:
        url = server.url.replace("http://", "http://me:s3cret@") + "?key=s3cret#s3cret"
        error = failure_of(url)
        assert error.reason == "http_status"
        assert str(error) == f"page at {server.url}?…: HTTP 403; does it need an API key?"
        assert error.__cause__ is None


def test_odd_headers_do_not_bring_the_query_into_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with serving(saying(answer(headers="no colon here\r\nA: b\r\n"))) as server, open_session() as session:
        fetch_page(server.url + "?key=s3cret", session=session)
    assert "s3cret" in server.heads[0]
    assert caplog.text == ""


def test_subject_begins_the_message() -> None:
    with (
        serving(silent) as server,
        open_session() as session,
        pytest.raises(SourceError, match=r"^vllm on 7: "),
    ):
        fetch_page(server.url, session=session, limits=IMPATIENT, subject="vllm on 7")


def test_redacted_url_is_safe_for_anything() -> None:
    assert redacted_url("https://u:p@h:1/m?a=b#c") == "https://h:1/m?…"
    assert redacted_url("http://[::1/") == "(not a URL)"


def test_a_redirect_is_not_followed() -> None:
    with serving(saying(answer())) as other:
        moved = saying(answer(status="301 Moved", headers=f"Location: {other.url}\r\n"))
        with serving(moved) as server:
            assert failure_of(server.url).reason == "redirect"
        assert other.heads == []


def test_environment_and_earlier_answers_change_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password s3cret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_proxy", "")
    with serving(saying(answer(headers="Set-Cookie: a=b\r\n"))) as server, open_session() as session:
        fetch_page(server.url, session=session, headers={"X-Key": "k"})
        fetch_page(server.url, session=session)
    first, second = server.heads
    assert "X-Key: k" in first
    for unwanted in ("Cookie", "Authorization", "X-Key"):
        assert unwanted not in second


def test_no_connection_is_kept_even_if_the_server_would() -> None:
    came_after: list[bytes] = []

    def keep_open(connection: socket.socket) -> None:
        connection.sendall(answer())
        came_after.append(connection.recv(4096))

    with serving(keep_open) as server, open_session() as session:
        fetch_page(server.url, session=session)
        fetch_page(server.url, session=session)
    assert came_after == [b"", b""]
    assert all("Connection: close" in head for head in server.heads)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, signed by itself."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    options = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=test"
    command = ["openssl", "req", "-x509", *options.split(), "-addext", "subjectAltName=IP:127.0.0.1"]
    made = subprocess.run([*command, "-keyout", "/dev/stdout"], check=True, capture_output=True)
    path.write_bytes(made.stdout)
    return path


def tls_server(certificate: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


def test_tls_needs_a_known_authority(certificate: Path) -> None:
    with serving(saying(answer()), tls=tls_server(certificate)) as server:
        assert failure_of(server.url).reason == "tls"
        with open_session(verify=str(certificate)) as session:
            assert fetch_page(server.url, session=session) == BODY


def test_the_deadline_holds_under_tls(certificate: Path) -> None:
    with serving(dripping(STREAM, bytes(99)), tls=tls_server(certificate)) as server:
        assert failure_of(server.url, IMPATIENT, verify=str(certificate)).reason == "timeout"


def test_https_to_a_plain_server_is_a_matter_of_tls() -> None:
    with serving(saying(answer())) as server:
        assert failure_of(server.url.replace("http:", "https:")).reason == "tls"


# --- reading -------------------------------------------------------------------------------------


def read_one(line: str) -> Page:
    return parse_page(f"other 1\n{line}\n".encode(), {"a", "other"})


@pytest.mark.parametrize(
    ("line", "labels", "value"),
    [
        pytest.param("a 1", {}, 1.0, id="bare"),
        pytest.param("a{} 1", {}, 1.0, id="no labels in braces"),
        pytest.param('a{x="1",y="2"} 3.5', {"x": "1", "y": "2"}, 3.5, id="labels"),
        pytest.param('a{x="1",} 1', {"x": "1"}, 1.0, id="a last comma"),
        pytest.param('a { x = "1" } 1', {"x": "1"}, 1.0, id="blanks"),
        pytest.param(' a{x="1"}\t1', {"x": "1"}, 1.0, id="tabs and a blank before"),
        pytest.param("a\t1", {}, 1.0, id="a tab only"),
        pytest.param('a{x="1"} 1\r', {"x": "1"}, 1.0, id="a carriage return"),
        pytest.param('a{x="1"} 1.75498471424e+12', {"x": "1"}, 1754984714240.0, id="a large value"),
        pytest.param('a{x="1"} 5 1700000000000', {"x": "1"}, 5.0, id="a timestamp"),
        pytest.param("a 5 1700000000000", {}, 5.0, id="a timestamp without labels"),
        pytest.param('a{x="1"} 5 # {t="}"} 0.3 17.5', {"x": "1"}, 5.0, id="an exemplar"),
        pytest.param('a 5 # {t="y"} 0.3', {}, 5.0, id="an exemplar without labels"),
        pytest.param(r'a{x="q\"b\\n\n"} 1', {"x": 'q"b\\n\n'}, 1.0, id="escapes"),
        pytest.param('a{x="} 7",y="{"} 1', {"x": "} 7", "y": "{"}, 1.0, id="braces in a label"),
        pytest.param('a{x="1 # {2} 3"} 4', {"x": "1 # {2} 3"}, 4.0, id="an exemplar in a label"),
        pytest.param('a{x="é\u2028\x85"} 1', {"x": "é\u2028\x85"}, 1.0, id="line ends that are none"),
    ],
)  # fmt: skip
def test_a_sample_line_is_read_the_first_time_and_again(
    line: str, labels: dict[str, str], value: float
) -> None:
    parser = PageParser({"a"})
    for _ in range(3):
        page = parser.parse(f"{line}\n".encode())
        assert page.samples("a") == [(labels, value)]
        assert page.malformed_lines == 0


@pytest.mark.parametrize(
    "line",
    [
        "a", "a ", "a{", "a # 1", "a one", "a 1_000", "a 0x10", "other 2",
        'a{x="1"}', 'a{x="1" 1', 'a{x="1"} ?', 'a{x="1"x="2"} 1', 'a{x="1",x="2"} 1', 'a{x="..."...} 1',
        "a{x=1} 1", 'a{="1"} 1', 'a{ ="1"} 1', "a{,,} 1",
    ],
)  # fmt: skip
def test_a_malformed_line_is_counted_and_passed_over(line: str) -> None:
    page = read_one(line)
    assert page.malformed_lines == 1
    assert page.samples("a") == ()
    assert page.value("other") == 1.0


def test_a_known_series_with_a_broken_value_is_malformed() -> None:
    parser = PageParser({"a", "b"})
    parser.parse(b'a{x="1"} 1\nb 1\n')
    page = parser.parse(b'a{x="1"} ?\nb 2\n')
    assert (page.malformed_lines, page.value("a"), page.value("b")) == (1, None, 2.0)


def test_a_series_that_comes_twice_counts_once() -> None:
    page = parse_page(b'a{x="1"} 1\na{x="1"} 1\na{x="2"} 2\n', {"a"})
    assert (page.value("a"), page.malformed_lines) == (3.0, 1)


@pytest.mark.parametrize("value", ["NaN", "nan", "+Inf", "-Inf", "1e999"])
def test_a_value_that_is_no_number_is_missing_and_not_malformed(value: str) -> None:
    page = read_one(f"a {value}")
    assert "a" not in page
    assert page.malformed_lines == 0


@pytest.mark.parametrize(("value", "read"), [("1e-320", 0.0), ("-1e-31", 0.0), ("1e-29", 1e-29), ("0", 0.0)])
def test_a_value_by_which_nothing_can_be_divided_is_zero(value: str, read: float) -> None:
    assert read_one(f"a {value}").value("a") == read


def test_a_last_line_without_its_end_may_be_cut_and_is_not_read() -> None:
    page = parse_page(b"other 1\na 12", {"a", "other"})
    assert (page.value("a"), page.malformed_lines) == (None, 1)


@pytest.mark.parametrize("rest", ["a{x", 'a{x="3"} 1', "a"])
def test_a_page_that_is_cut_within_a_family_has_no_sum_of_it(rest: str) -> None:
    page = parse_page(f'other 1\na{{x="1"}} 1\na{{x="2"}} 2\n{rest}'.encode(), {"a", "other"})
    assert (page.value("a"), page.value("other")) == (None, 1.0)


@pytest.mark.parametrize("rest", ["b{x", "# TYPE a counter", ""])
def test_a_page_that_is_cut_elsewhere_has_all_of_it(rest: str) -> None:
    assert parse_page(f'a{{x="1"}} 1\na{{x="2"}} 2\n{rest}'.encode(), {"a"}).value("a") == 3.0


def test_a_family_with_a_line_that_cannot_be_read_has_no_sum() -> None:
    parser = PageParser({"a", "other"})
    assert parser.parse(b'a{x="1"} 1\na{x="2"} 2\nother 1\n').value("a") == 3.0
    page = parser.parse(b'a{x="1"} 1\na{x="2"} ?\nother 1\n')
    assert (page.value("a"), page.value("other"), page.malformed_lines) == (None, 1.0, 1)
    assert parser.parse(b'a{x="1"} 1\na{x="2"} 2\nother 1\n').value("a") == 3.0


def test_text_that_is_not_utf_8_spoils_only_its_own_label() -> None:
    page = parse_page(b'a{x="caf\xe9"} 1\na{x="2"} 2\n', {"a"})
    assert [labels["x"] for labels, _ in page.samples("a")] == ["caf\N{REPLACEMENT CHARACTER}", "2"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"# HELP a b\n# TYPE a gauge\n", id="comments only"),
        pytest.param(b"<!doctype html>\n<html><body>metrics 1</body></html>\n", id="HTML"),
        pytest.param(b'{"status": "ok",\n "a": 1}\n', id="JSON"),
        pytest.param("a 1\n".encode("utf-16"), id="UTF-16"),
        pytest.param(bytes(range(256)) * 9, id="binary"),
        pytest.param(b"a one\na two\n", id="nothing but malformed lines"),
    ],
)
def test_what_is_no_page_of_metrics_is_malformed(body: bytes) -> None:
    with pytest.raises(SourceError, match="is the URL right") as raised:
        parse_page(body, {"a"})
    assert raised.value.reason == "malformed"


@pytest.mark.parametrize("body", [b"", b"\n", b" \r\n\n"])
def test_a_page_with_nothing_on_it_is_said_to_be_empty(body: bytes) -> None:
    """As TGI's is before its first request."""
    with pytest.raises(SourceError, match="has the server had a request yet") as raised:
        parse_page(body, {"a"})
    assert raised.value.reason == "empty"


def test_a_page_without_wanted_samples_is_a_page() -> None:
    assert parse_page(b'other{x="1"} 1\n', {"a"}).families == {}


def test_too_many_lines_are_not_read() -> None:
    limits = PageLimits(max_lines=10)
    assert parse_page(b"a 1\n" + b"\n" * 9, {"a"}, limits=limits).value("a") == 1.0
    with pytest.raises(SourceError) as raised:
        parse_page(b"a 1\n" + b"\n" * 10, {"a"}, limits=limits)
    assert raised.value.reason == "too_large"


def test_a_wanted_line_that_is_too_long_is_malformed() -> None:
    limits = PageLimits(max_line_bytes=100)
    page = parse_page(b'b 1\na{x="' + b"y" * 100 + b'"} 1\n', {"a", "b"}, limits=limits)
    assert (page.malformed_lines, page.value("a"), page.value("b")) == (1, None, 1.0)


def test_value_is_the_sum_over_labels_that_were_not_asked_for() -> None:
    page = parse_page(b'a{p="1",q="1"} 1\na{p="1",q="2"} 2\na{p="2",q="1"} 4\n', {"a"})
    assert page.value("a") == 7.0
    assert page.value("a", p="1") == 3.0
    assert page.value("a", p="2", q="2") is None
    assert page.value("b") is None


def test_labels_are_those_of_the_first_sample_of_a_name_that_is_there() -> None:
    page = parse_page(b'b{p="1",q=""} 1\nb{p="2"} 2\nc{p="3"} 3\n', {"a", "b", "c"})
    assert page.labels_of("a", "b", "c") == {"p": "1", "q": ""}
    assert page.labels_of("a") == page.labels_of() == {}
    assert list(page.label_values("p")) == ["1", "2", "3"]
    assert list(page.label_values("q")) == list(page.label_values("r")) == []


def test_by_label_takes_a_page_apart() -> None:
    page = parse_page(b'a{p="1"} 1\na{p="2"} 2\nb 4\n', {"a", "b"})
    parts = page.by_label("p")
    assert {key: (part.value("a"), part.value("b")) for key, part in parts.items()} == {
        "1": (1.0, None),
        "2": (2.0, None),
        "": (None, 4.0),
    }


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_recorded_pages_read_as_the_reference_parser_reads_them(path: Path) -> None:
    text = path.read_text()
    expected: dict[str, list[tuple[dict[str, str], float]]] = {}
    for line in text.splitlines():
        for family in text_string_to_metric_families(line) if line[0] != "#" else ():
            for sample in family.samples:
                expected.setdefault(sample.name, []).append((sample.labels, sample.value))
    parser = PageParser(expected)
    for _ in range(2):
        page = parser.parse(text.encode())
        assert page.families == expected
        assert page.malformed_lines == 0


def test_a_page_seen_before_costs_much_less() -> None:
    body = (FIXTURES / "0.32.0-load-1.txt").read_bytes()
    wanted = {line.split("{")[0] for line in body.decode().splitlines() if line[0] != "#"}
    parser = PageParser(wanted)

    def seconds(parser: PageParser) -> float:
        began = time.process_time()
        parser.parse(body)
        return time.process_time() - began

    first = min(seconds(PageParser(wanted)) for _ in range(3))
    parser.parse(body)
    assert min(seconds(parser) for _ in range(3)) < first / 3


def test_what_the_parser_remembers_does_not_grow() -> None:
    parser = PageParser({"a"})
    filling = "y" * 1000
    tracemalloc.start()
    for number in range(100):
        parser.parse(f'a{{x="{number}",y="{filling}"}} 1\n'.encode())
    left_bytes, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left_bytes < 100 * len(filling) / 2


@given(st.binary(max_size=300))
def test_any_bytes_are_a_page_or_a_source_error(body: bytes) -> None:
    with suppress(SourceError):
        parse_page(body, {"a", "b"})


# Some of a real page, and what may happen to it on its way.
EXCERPT = b"\n".join((FIXTURES / "0.32.0-load-2.txt").read_bytes().split(b"\n")[60:110]) + b"\n"
EXCERPT_NAMES = {line.split("{")[0] for line in EXCERPT.decode().splitlines() if not line.startswith("#")}
SPLINTERS = st.one_of(
    st.binary(max_size=4),
    st.sampled_from([b"\n", b'"', b"\\", b"{", b"}", b",", b" ", b"=", b"_", b"NaN", b" # ", b"1", b"\r\n"]),
)


@settings(max_examples=300)
@given(
    st.lists(st.tuples(st.integers(0, len(EXCERPT)), st.integers(0, 9), SPLINTERS), min_size=1, max_size=8)
)
def test_a_damaged_page_reads_the_same_with_and_without_memory(
    damages: list[tuple[int, int, bytes]],
) -> None:
    body = EXCERPT
    for position, length, splinter in damages:
        body = body[:position] + splinter + body[position + length :]
    practised = PageParser(EXCERPT_NAMES)
    practised.parse(EXCERPT)
    results: list[Page | str] = []
    for parser in (practised, PageParser(EXCERPT_NAMES), practised):
        try:
            results.append(parser.parse(body))
        except SourceError as error:
            results.append(str(error))
    assert results[0] == results[1] == results[2]
