"""`advise --traffic`: a real Prometheus that scrapes the real demo is asked what its engines do."""

from __future__ import annotations

import argparse
import json
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import pytest

from agent import planning
from agent.errors import AgentError
from agent.metrics import TABLE
from agent.planning import live_mix
from agent.roofline.catalogue import find_config
from agent.sources.prometheus import TOKEN_VARIABLE, Access, PrometheusServer
from tests.test_demo import HUNG_SECONDS, running_demo
from tests.test_prometheus import Prometheus, running_prometheus

SCRAPED_SECONDS = 25
SINCE = "1m"
SMALL, LARGE = "meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-70B-Instruct"


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    with (
        running_demo(directory) as demo,
        running_prometheus(directory, urlsplit(demo.url("metrics")).netloc) as asked,
    ):
        time.sleep(SCRAPED_SECONDS)
        yield asked


def options(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    planning.add_arguments(parser)
    return parser.parse_args(("--since", SINCE, *arguments))


def written(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert planning.run(options(*arguments)) == 0
    return capsys.readouterr().out


def records(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(written(capsys, *arguments, "--format", "json"))
    return found


# --- what is seen --------------------------------------------------------------------------------------


def test_each_model_is_planned_on_the_gpus_that_serve_it(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    found = records(capsys, "--traffic", prometheus.url, "--phase", "decode")
    large, small = found
    assert [each["model"] for each in found] == [LARGE, SMALL]
    assert {each["gpu"] for each in found} == {"H100-SXM5-80GB"}
    assert (large["tensor_parallel"], small["tensor_parallel"]) == (4, 1)
    # Four engines on a GPU each, and one over four; the first page is read a moment after the first scrape.
    for each in found:
        assert each["gpus_today"] == pytest.approx(4, rel=0.1)


def test_the_rates_are_those_that_prometheus_has(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    (small,) = records(capsys, "--traffic", prometheus.url, "--model", SMALL, "--phase", "decode")

    def increase(name: str) -> float:
        return prometheus.value(f'sum(increase(roofline_{name}{{model="{SMALL}"}}[{SINCE}]))')

    seconds = prometheus.value(f"max(increase(roofline_gpu_observed_seconds_total[{SINCE}]))")
    computed, cached = increase("engine_prefill_tokens_total"), increase("engine_cached_prompt_tokens_total")
    generated = increase("engine_generation_tokens_total")
    # Between the two moments of asking the engines go on.
    near = 0.2
    assert small["computed_prompt_tokens_per_second"] == pytest.approx(computed / seconds, rel=near)
    assert small["generation_tokens_per_second"] == pytest.approx(generated / seconds, rel=near)
    assert small["cached_prompt_ratio"] == pytest.approx(cached / (cached + computed), rel=near)
    # Chat 200–600 tokens out, the batch job 500–900, documents 4–16; prompts up to 8000.
    assert 100 < small["output_tokens"] < 900
    assert 300 < small["prompt_tokens"] < 8000
    assert 20 < small["decode_batch_today"] <= 128, "most tokens come from the batch job"


def test_predictions_stand_beside_the_quantiles_of_prometheus(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    (large,) = records(
        capsys, "--traffic", prometheus.url, "--model", "llama-3.1-70b-instruct", "--phase", "decode"
    )
    for name, histogram in (("ttft", "time_to_first_token"), ("tpot", "inter_token_latency")):
        buckets = f'roofline_engine_{histogram}_seconds_bucket{{model="{LARGE}"}}'
        for quantile, column in ((0.5, "p50"), (0.99, "p99")):
            asked = prometheus.value(
                f"histogram_quantile({quantile}, sum by (le) (increase({buckets}[{SINCE}])))"
            )
            assert large[f"{name}_seconds_{column}"] == pytest.approx(asked, rel=0.3)
    # A simulated 70B on four H100s at a small batch: its steps are interpolated from measured ones.
    assert 0.5 < large["tpot_seconds_p50"] / large["tpot_seconds_predicted"] < 2


def test_other_gpus_are_sized_for_the_same_tokens(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    found = records(
        capsys,
        *("--traffic", prometheus.url, "--model", SMALL, "--phase", "decode"),
        *("--gpu", "H100,L40S,T4", "--price", "3,1,0.5"),
    )
    large, medium, small = found
    assert large["gpus_planned"] < medium["gpus_planned"], "a third of the compute"
    for each in (large, medium):
        paid = each["gpus_planned"] * each["usd_per_hour"] / 3600
        assert each["usd_per_million_generated_tokens_planned"] == pytest.approx(
            paid / each["generation_tokens_per_second"] * 1e6
        )
    assert small["gpus_planned"] is None, "16 GB of weights leave no room on a T4"
    # Without prices in the agent's configuration, today's GPUs have the price that is given for them.
    today = large["gpus_today"] * 3 / 3600 / large["generation_tokens_per_second"] * 1e6
    assert large["usd_per_million_generated_tokens_today"] == pytest.approx(today)


def test_the_table_shows_the_traffic_its_price_and_the_comparison_in_80_columns(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str]
) -> None:
    text = written(capsys, "--traffic", prometheus.url, "--gpu", "H100,L40S,T4")
    assert [line for line in text.splitlines() if len(line) > 80] == []
    places = [text.index(f"\n{n} ") for n in range(1, 6)]
    assert places == sorted(places)
    for said in ("requests/s of", " A now", " B now", "p50/expected", "A  TTFT", "    TPOT", "does not fit"):
        assert said in text


def test_a_served_name_may_be_given_its_config_json(
    prometheus: Prometheus, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    config = dict(find_config("llama-3.1-8b") or {}) | {"num_hidden_layers": 16}
    path.write_text(json.dumps(config))
    asked = ("--traffic", prometheus.url, "--phase", "decode", "--model")
    (whole,) = records(capsys, *asked, SMALL)
    (half,) = records(capsys, *asked, f"{SMALL}={path}")
    assert half["tpot_seconds_predicted"] < 0.7 * whole["tpot_seconds_predicted"]


def test_a_model_that_nobody_serves_is_refused_with_those_that_are(prometheus: Prometheus) -> None:
    with pytest.raises(AgentError, match=rf"no traffic of 'qwen3-8b' in the last {SINCE}, but of .*70B.*8B"):
        planning.run(options("--traffic", prometheus.url, "--model", "qwen3-8b"))


def test_a_prometheus_without_the_agent_is_told_apart(tmp_path: Path) -> None:
    with running_prometheus(tmp_path, "127.0.0.1:9") as empty, pytest.raises(AgentError) as told:
        planning.run(options("--traffic", empty.url))
    assert "no engine generated anything" in str(told.value)


def test_every_name_that_is_asked_for_is_a_metric_of_ours() -> None:
    asked = {
        *live_mix.INCREASES.values(),
        *live_mix.MEANS.values(),
        *(live_mix.TTFT, live_mix.TPOT, live_mix.MODEL_INFO, live_mix.ENGINE_GPU_INFO, live_mix.GPU_INFO),
        *(live_mix.WATCHED_SECONDS, live_mix.ENGINE_UP, live_mix.GPU_UP),
    }
    parts = {"histogram": ("_bucket", "_count")}
    known = {metric.full_name + part for metric in TABLE for part in parts.get(metric.kind, ("",))}
    assert asked <= known


# --- engines behind one server --------------------------------------------------------------------------

# Two ranks of a data-parallel server, each split in its own way, one by a word, and an agent before it had
# the label.
ENGINES = (
    (
        'server="s",rank="0"',
        'tensor_parallel="2",pipeline_parallel="2"',
        {0.1: 0, 0.2: 8, 0.4: 8},
    ),
    ('server="s",rank="1"', 'tensor_parallel="1",pipeline_parallel="auto"', {0.1: 0, 0.2: 0, 0.4: 8}),
    (
        'server="t",rank="1"',
        'tensor_parallel="2",pipeline_parallel="2"',
        {0.1: 0, 0.2: 8, 0.4: 8},
    ),
)
MODEL = 'model="llama-3.1-8b"'


def agents_page(seconds: float) -> str:
    """All engines work evenly."""
    lines = [
        f"roofline_gpu_observed_seconds_total {seconds}",
        "roofline_gpu_up 1",
    ]
    for engine, split, buckets in ENGINES:
        lines += [
            f"roofline_engine_up{{{engine}}} 1",
            f'roofline_engine_model_info{{{engine},{MODEL},engine="vllm",{split}}} 1',
            f"roofline_engine_prefill_tokens_total{{{engine},{MODEL}}} {seconds * 8000}",
            f"roofline_engine_generation_tokens_total{{{engine},{MODEL}}} {seconds * 800}",
            f"roofline_engine_time_to_first_token_seconds_count{{{engine},{MODEL}}} {seconds * 8}",
        ]
        for bound, a_second in (*buckets.items(), ("+Inf", 8)):
            bucket = f'roofline_engine_inter_token_latency_seconds_bucket{{{engine},{MODEL},le="{bound}"}}'
            lines.append(f"{bucket} {seconds * a_second}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    begun = time.monotonic()
    directory = tmp_path_factory.mktemp("ranks")
    with (
        answering(200, lambda: agents_page(time.monotonic() - begun)) as (url, _),
        running_prometheus(directory, urlsplit(url).netloc) as asked,
    ):
        # It looks for its targets some seconds after it is ready.
        while not any(scrapes >= 4 for scrapes in asked.query("count_over_time(up[1m])").values()):
            assert time.monotonic() - begun < HUNG_SECONDS
            time.sleep(0.2)
        yield asked


def test_engines_behind_one_server_are_told_apart_by_rank(ranks: Prometheus) -> None:
    server = PrometheusServer(ranks.url)
    small, large = live_mix.fetch_mixes(server, since=SINCE)
    server.close()
    assert [(each.serving.tensor_parallel, each.serving.pipeline_parallel) for each in (small, large)] == [
        ("1", 1),
        ("2", 2),
    ]
    assert [small.replicas, large.replicas] == pytest.approx([1, 2], rel=0.1)
    assert large.gpus == pytest.approx(8, rel=0.1)
    assert small.tpot.p50 == pytest.approx(0.3, rel=0.05)
    assert large.tpot.p50 == pytest.approx(0.15, rel=0.05)
    assert large.tpot.p99 == pytest.approx(0.199, rel=0.05)


def test_a_pipeline_is_planned_as_it_is_today(ranks: Prometheus, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("--traffic", ranks.url, "--gpu", "H100", "--phase", "decode")
    assert [each["gpus"] for each in records(capsys, *asked)] == [1, 4]
    assert [each["gpus"] for each in records(capsys, *asked, "--pipeline-parallel", "1")] == [1, 2]
    assert "tensor parallel 2, pipeline parallel 2" in " ".join(written(capsys, *asked).split())


# --- what goes wrong -----------------------------------------------------------------------------------


@contextmanager
def answering(status: int, body: str | Callable[[], str]) -> Iterator[tuple[str, list[str | None]]]:
    """A server that says this to everybody; its URL, and the Authorization it was sent."""
    credentials: list[str | None] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            credentials.append(self.headers["Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write((body if isinstance(body, str) else body()).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", credentials
        finally:
            server.shutdown()
            thread.join()


NOTHING = json.dumps({"status": "success", "data": {"resultType": "vector", "result": []}})


def test_a_refused_connection_is_said_without_the_password() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(AgentError) as told:
            planning.run(options("--traffic", f"http://me:secret@127.0.0.1:{port}/"))
    assert f"Prometheus at http://127.0.0.1:{port}/: refused" in str(told.value)
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, "<html>hello</html>", "not as Prometheus"),
        (200, "[]", "not as Prometheus"),
        (200, '{"status": "success", "data": {"resultType": "vector", "result": [{}]}}', "not as Prometheus"),
        (200, '{"status": "success", "data": {"resultType": "scalar", "result": [0, "1"]}}', "not as Prome"),
        (401, "", rf"HTTP 401.*{TOKEN_VARIABLE}"),
        (404, "", "HTTP 404.*before /api/v1"),
        (302, "", "redirect"),
        (200, NOTHING, "does it scrape roofline-agent"),
    ],
)
def test_what_is_not_a_prometheus_of_ours_is_said(status: int, body: str, said: str) -> None:
    with answering(status, body) as (url, _), pytest.raises(AgentError, match=said):
        planning.run(options("--traffic", url))


def test_a_url_without_a_scheme_is_refused() -> None:
    with pytest.raises(AgentError, match="begins with http"):
        planning.run(options("--traffic", "localhost:9090"))


def test_a_look_back_is_a_duration() -> None:
    with pytest.raises(SystemExit):
        options("--traffic", "http://localhost:9090", "--since", "1h]) or vector(1")


def test_credentials_are_sent() -> None:
    with answering(200, NOTHING) as (url, credentials):
        server = PrometheusServer(url, access=Access(bearer_token="abc"))
        assert server.query("up") == ()
        server.close()
        server = PrometheusServer(url.replace("://", "://me:secret@"))
        server.query("up")
        server.close()
    assert credentials == ["Bearer abc", "Basic bWU6c2VjcmV0"]


def test_what_is_not_finite_cannot_be_said() -> None:
    result = [{"metric": {"a": "b"}, "value": [0, value]} for value in ("NaN", "+Inf", "1.5")]
    body = json.dumps({"status": "success", "data": {"resultType": "vector", "result": result}})
    with answering(200, body) as (url, _):
        server = PrometheusServer(url)
        assert [sample.value for sample in server.query("up")] == [None, None, 1.5]
        server.close()
