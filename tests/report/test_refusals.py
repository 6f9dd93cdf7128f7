"""What a real server refuses is said, and what could be had is written."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote_plus

import pytest
import requests

from agent.report.document import Review
from tests.discovery.kube_api import make_certificate
from tests.promtool import back_fill
from tests.report.databases import in_prometheus
from tests.report.limited_server import limited_server, send, served
from tests.report.test_review import near, report
from tests.rig.programs import Program, stored_prometheus

FIRST = int(datetime(2026, 9, 3, tzinfo=UTC).timestamp())
HOURS = 48
CLUSTER, NODE = 'cluster="a",job="j",part="H100-SXM5-80GB"', 'instance="n",'
MODEL = 'cluster="a",job="j",engine="vllm",model="m",workload_namespace="t",part="H100-SXM5-80GB"'

SMALL = {
    f"roofline:cluster:gpu_observed_seconds:increase5m{{{CLUSTER}}}": 300.0,
    f'roofline:cluster:gpu_bottleneck_seconds:increase5m{{{CLUSTER},bottleneck="compute"}}': 200.0,
    f'roofline:cluster:gpu_bottleneck_seconds:increase5m{{{CLUSTER},bottleneck="idle"}}': 100.0,
    f"roofline:node:gpu_observed_seconds:increase5m{{{NODE}{CLUSTER}}}": 300.0,
    f'roofline:node:gpu_bottleneck_seconds:increase5m{{{NODE}{CLUSTER},bottleneck="idle"}}': 100.0,
    f'roofline:node:gpu_bottleneck_seconds:increase5m{{{NODE}{CLUSTER},bottleneck="compute"}}': 200.0,
    f'roofline:model:gpu_bottleneck_seconds:increase5m{{{MODEL},bottleneck="compute"}}': 200.0,
    f'roofline:model:gpu_bottleneck_seconds:increase5m{{{MODEL},bottleneck="idle"}}': 100.0,
    f"roofline:model:engine_generation_tokens:increase5m{{{MODEL}}}": 1000.0,
}
"""Two days of one GPU, and no prices."""


def lines(series: dict[str, float]) -> Iterator[str]:
    for name, value in series.items():
        for at in range(FIRST + 30, FIRST + HOURS * 3600, 300):
            yield f"{name} {value:g} {at}\n"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("small")
    back_fill(lines(SMALL), directory)
    return directory


@contextmanager
def small_prometheus(small: Path, directory: Path, *options: str) -> Iterator[Program]:
    shutil.copytree(small / "data", directory / "data")
    with stored_prometheus(directory, *options) as program:
        yield program


def read(directory: Path) -> Review:
    (file,) = directory.glob("*.json")
    return Review.model_validate_json(file.read_text())


# --- a server with limits --------------------------------------------------------------------------


def test_too_many_samples_are_asked_for_in_pieces(small: Path, tmp_path: Path) -> None:
    """One query may hold a few of the samples of the two days at once, and not all."""
    with small_prometheus(small, tmp_path, "--query.max-samples=400") as program:
        refused = program.get(
            "/api/v1/query",
            query="sum_over_time(roofline:cluster:gpu_bottleneck_seconds:increase5m[48h])",
            time=str(FIRST + HOURS * 3600),
        )
        assert refused.status_code == 422, "it is too much for this server"
        done = report(program.url, tmp_path / "out", "--format", "json")
    assert done.returncode == 0, done.stderr
    review = read(tmp_path / "out")
    assert review.is_complete
    assert review.totals.gpu_hours == pytest.approx(HOURS)
    assert review.totals.idle_gpu_hours == pytest.approx(HOURS / 3)
    assert review.totals.generation_tokens == pytest.approx(HOURS * 12 * 1000)


def test_what_is_never_given_makes_the_review_partial(small: Path, tmp_path: Path) -> None:
    with (
        small_prometheus(small, tmp_path) as program,
        refusing(program.url, "roofline:model:engine_generation_tokens", 422) as url,
    ):
        done = report(url, tmp_path / "out", "--since", "2026-09-03", "--until", "2026-09-05", month="")
        assert done.returncode == 3, done.stderr
        assert "HTTP 422" in done.stderr
        assert "--query.max-samples" in done.stderr
        assert "partial" in done.stderr
        review = read(tmp_path / "out")
        assert not review.is_complete
        assert {problem.queries for problem in review.problems} == {("engine_generation_tokens",)}
        assert min(problem.start for problem in review.problems) == review.period.start - timedelta(days=2)
        assert max(problem.end for problem in review.problems) == review.period.end
        assert review.quality.is_poor
        assert "not answered" in review.quality.remarks[0]
        assert review.totals.gpu_hours == near(HOURS), "what was answered is there"
        assert review.totals.generation_tokens == 0
        (page,) = (tmp_path / "out").glob("*.html")
        assert "max-samples" in page.read_text()
        # Asked again when it would be given, the rest is not asked for again.
        done = report(
            program.url, tmp_path / "out", "--since", "2026-09-03", "--until", "2026-09-05", month=""
        )
    assert done.returncode == 0, done.stderr
    assert read(tmp_path / "out").is_complete


@pytest.mark.parametrize("status", [422, pytest.param(503, marks=pytest.mark.long)])
def test_a_server_that_gives_nothing_is_told(small: Path, tmp_path: Path, status: int) -> None:
    with (
        small_prometheus(small, tmp_path) as program,
        refusing(program.url, "count_over_time", status) as url,
    ):
        done = report(url, tmp_path / "out", "--format", "json", "--since", "2026-09-03", month="")
    assert done.returncode == 1
    assert done.stderr.splitlines()[0] == "earliest sample: 2026-09-03 00:05 UTC"
    assert f"HTTP {status}" in done.stderr
    assert "--query." in done.stderr
    assert not list((tmp_path / "out").glob("review*"))


@contextmanager
def refusing(url: str, text: str, status: int) -> Iterator[str]:
    """The same server, but for queries that hold the text."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        if text in unquote_plus(request.path):
            send(request, status)
            return
        given = requests.get(url + request.path, timeout=30)
        send(request, given.status_code, given.content)

    with served(answer) as own:
        yield own


# --- what is not there -----------------------------------------------------------------------------


def test_before_the_installation_there_is_nothing(small: Path, tmp_path: Path) -> None:
    with small_prometheus(small, tmp_path) as program:
        before = report(program.url, tmp_path / "before", month="2026-08")
        after = report(program.url, tmp_path / "after", month="2026-10")
    for done, said in (
        (before, "nothing that the rules record until 2026-09-01"),
        (after, "nothing was recorded in 2026-10"),
    ):
        assert done.returncode == 1
        assert said in done.stderr
    assert "earliest sample: 2026-09-03 00:0" in after.stderr
    assert not list(tmp_path.glob("*/review*"))


def test_two_days_of_a_month_are_two_days(small: Path, tmp_path: Path) -> None:
    with small_prometheus(small, tmp_path) as program:
        done = report(program.url, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[:2] == [
        "earliest sample: 2026-09-03 00:05 UTC",
        "coverage: 6.7 % of 2026-09 was recorded",
    ]
    review = read(tmp_path / "out")
    assert review.totals.gpu_hours == near(HOURS), "nothing is extrapolated"
    assert review.quality.is_poor
    assert any("6.7 %" in remark for remark in review.quality.remarks)
    assert [day.coverage_ratio for day in review.days[:5]] == pytest.approx([0, 0, 1, 1, 0])
    assert review.previous is None


def test_without_prices_nothing_is_in_dollars(small: Path, tmp_path: Path) -> None:
    with small_prometheus(small, tmp_path) as program:
        report(program.url, tmp_path / "out")
    review = read(tmp_path / "out")
    assert review.totals.paid_usd is None
    assert review.totals.usd_per_million_tokens is None
    assert "no prices" in review.summary[0]
    for file in (tmp_path / "out").iterdir():
        if file.suffix in (".html", ".md"):
            assert "$0" not in file.read_text()
    assert review.offenders, "hours lead where there is no money"


@pytest.mark.parametrize(
    ("left_out", "said"),
    [(":model:", "what models did"), (":node:", "which nodes are worst"), ("gpu_bottleneck", "what bounded")],
)
def test_series_that_are_not_kept_are_named(tmp_path: Path, left_out: str, said: str) -> None:
    (tmp_path / "blocks").mkdir()
    back_fill(
        lines({name: value for name, value in SMALL.items() if left_out not in name}), tmp_path / "blocks"
    )
    with small_prometheus(tmp_path / "blocks", tmp_path) as program:
        done = report(program.url, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    review = read(tmp_path / "out")
    assert any(said in remark for remark in review.quality.remarks), review.quality.remarks
    assert review.totals.gpu_hours == near(HOURS)


# --- interrupted -------------------------------------------------------------------------------------


def test_a_run_that_was_interrupted_goes_on(small: Path, tmp_path: Path) -> None:
    """A server that answers eight queries in a row and then nobody any more."""
    with small_prometheus(small, tmp_path) as program:
        whole = report(program.url, tmp_path / "whole", "--format", "json")
        assert whole.returncode == 0
        kept = tmp_path / "out" / ".roofline-report"
        assert not (tmp_path / "whole" / ".roofline-report").exists()
        # A file in the way of the review, when all has been asked.
        (tmp_path / "out" / "review-2026-09.json").mkdir(parents=True)
        first = report(program.url, tmp_path / "out", "--format", "json")
        assert first.returncode == 1
        assert "cannot be written" in first.stderr
        (own_kept,) = kept.iterdir()
        assert own_kept.name.startswith("2026-09-")
        assert len([*own_kept.iterdir()]) > 40
        (tmp_path / "out" / "review-2026-09.json").rmdir()
        asked = program.metric("prometheus_http_requests_total")['{code="200",handler="/api/v1/query_range"}']
        again = report(program.url, tmp_path / "out", "--format", "json")
        assert again.returncode == 0, again.stderr
        now = program.metric("prometheus_http_requests_total")['{code="200",handler="/api/v1/query_range"}']
    assert now - asked <= 3, "the earliest sample alone is asked for again"
    assert not kept.exists()
    own = json.loads((tmp_path / "whole" / "review-2026-09.json").read_text())
    resumed = json.loads((tmp_path / "out" / "review-2026-09.json").read_text())
    assert {**own, "generated_at": ""} == {**resumed, "generated_at": ""}


def test_without_what_draws_it_is_said_before_anything_is_asked(tmp_path: Path) -> None:
    (tmp_path / "matplotlib.py").write_text("raise ImportError('not here')\n")
    with limited_server() as server:
        done = report(server.url, tmp_path / "out", path=tmp_path)
        assert not server.asked
    assert done.returncode == 1
    assert "pip install 'roofline-agent[report]'" in done.stderr


# --- options -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--month", "2026-13"), "month is written like"),
        (("--month", "9999-12"), "years 1971 to 9998"),
        (("--month", "0001-01"), "years 1971 to 9998"),
        (("--month", "9998-11"), "still to come"),
        (("--since", "9998-01-01", "--until", "9998-02-01"), "still to come"),
        (("--since", "2026-09-02", "--until", "2026-09-01"), "is not before"),
        (("--until", "2026-09-01"), "no meaning without --since"),
        (("--month", "2026-09", "--since", "2026-09-01"), "not allowed with"),
        (("--group-by", "shoe-size"), "must be one of"),
        (("--format", "pdf"), "must be of"),
        (("--username", "u"), "go together"),
        (("--cert-file", "c"), "go together"),
        (("--header", "nothing"), "NAME: VALUE"),
        (("--model", "nothing"), "NAME=PATH"),
        (("--timeout", "0"), "above 0"),
    ],
)
def test_wrong_options_are_told(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = report("http://127.0.0.1:1", tmp_path, *options, month="")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--bearer-token-file", "/nowhere/token"), "/nowhere/token: cannot be read: No such file"),
        (("--bearer-token-file", "binary"), "binary: cannot be read: not text"),
        (("--bearer-token-file", "lines"), "lines: has characters that no token has"),
        (("--username", "me", "--password-file", "/nowhere/p"), "/nowhere/p: cannot be read: No such file"),
        (("--ca-file", "/nowhere/ca"), "/nowhere/ca: cannot be read: No such file"),
        (("--ca-file", "text"), "text: cannot be read: not PEM"),
        (("--cert-file", "/nowhere/c", "--key-file", "text"), "/nowhere/c: cannot be read: No such file"),
        (("--cert-file", "pem", "--key-file", "/nowhere/k"), "/nowhere/k: cannot be read: No such file"),
        (("--cert-file", "pem", "--key-file", "text"), "pem, text: cannot be read: not PEM, or no pair"),
        (("--model", "m=/nowhere/config.json"), "/nowhere/config.json: no such file"),
        (("--model", "m=/nowhere/dir"), "/nowhere/dir: no such file"),
        (("--model", "m=text"), "text: cannot be read as a config.json"),
        (("--output", "text"), "text: is no directory"),
        (("--prometheus-url", "localhost:9090"), "begins with http"),
    ],
)
def test_a_path_that_is_wrong_is_told_before_anything_is_asked(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    make_certificate(tmp_path / "pem")
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "lines").write_text("one\ntwo\n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    made = re.compile(r"^(m=)?(pem|text|lines|binary)$")
    given = [made.sub(rf"\g<1>{tmp_path}/\g<2>", option) for option in options]
    with limited_server() as server:
        done = report(server.url, tmp_path / "out", *given)
        assert not server.asked
    assert done.returncode == 2, done.stderr
    assert said in done.stderr.replace(f"{tmp_path}/", "")
    assert "Traceback" not in done.stderr


def test_all_wrong_paths_are_told_at_once(tmp_path: Path) -> None:
    done = report("http://127.0.0.1:1", tmp_path, "--ca-file", "/nowhere/ca", "--model", "m=/nowhere/m.json")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 2


def test_a_server_that_is_not_there_is_no_wrong_option(tmp_path: Path) -> None:
    done = report("http://127.0.0.1:1", tmp_path)
    assert done.returncode == 1, done.stderr
    assert "refused" in done.stderr
    assert "Traceback" not in done.stderr


def test_credentials_and_tenants_are_sent_and_not_shown(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    (tmp_path / "token").write_text("t0ken\n")
    with limited_server() as server:
        server.refuses = lambda _: 401
        basic = report(
            server.url,
            tmp_path,
            *("--username", "me", "--password-file", str(tmp_path / "password")),
            *("--tenant", "team-a", "--header", "THANOS-TENANT: b"),
        )
        bearer = report(server.url, tmp_path, "--bearer-token-file", str(tmp_path / "token"))
        first, second = (asked.headers for asked in server.asked)
    assert (first["Authorization"], first["X-Scope-OrgID"], first["THANOS-TENANT"]) == (
        "Basic bWU6czNjcmV0",
        "team-a",
        "b",
    )
    assert second["Authorization"] == "Bearer t0ken"
    for done in (basic, bearer):
        assert done.returncode == 1
        assert "HTTP 401" in done.stderr
        assert "s3cret" not in done.stderr + done.stdout
        assert "t0ken" not in done.stderr + done.stdout


def test_teams_are_labels_of_namespaces(small: Path, tmp_path: Path) -> None:
    (tmp_path / "blocks").mkdir()
    team = 'kube_namespace_labels{cluster="a",namespace="t",label_team="search"}'
    back_fill(lines({**SMALL, team: 1.0}), tmp_path / "blocks")
    span = ("--since", "2026-09-03", "--until", "2026-09-05")
    with small_prometheus(tmp_path / "blocks", tmp_path) as program:
        done = report(program.url, tmp_path / "out", "--group-by", "label:team", *span, month="")
        other = report(program.url, tmp_path / "other", "--group-by", "label:cost-centre", *span, month="")
    assert done.returncode == 0, done.stderr
    assert [group.name for group in read(tmp_path / "out").groups] == ["search"]
    assert other.returncode == 1
    assert "label_cost_centre" in other.stderr


def test_teams_are_asked_for_before_all_that_takes_long(tmp_path: Path) -> None:
    with limited_server() as server:
        server.refuses = lambda asked: 403 if "kube_namespace_labels" in asked.promql else None
        done = report(server.url, tmp_path, "--group-by", "label:team")
        asked = [one.promql for one in server.asked]
    assert done.returncode == 1
    assert "HTTP 403" in done.stderr
    assert "kube_namespace_labels" in asked[-1]
    assert all("gpu_observed_seconds" in promql for promql in asked[:-1]), "the coverage, and nothing else"


def test_a_month_can_be_had_again_from_kept_blocks(small: Path, tmp_path: Path) -> None:
    """Twice the same server, twice the same review."""
    texts = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        with in_prometheus(small, tmp_path / str(number)) as program:
            assert report(program.url, tmp_path / f"out{number}", "--format", "json").returncode == 0
            document = json.loads((tmp_path / f"out{number}" / "review-2026-09.json").read_text())
            texts.append({**document, "generated_at": "", "source": ""})
    assert texts[0] == texts[1]
