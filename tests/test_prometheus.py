"""A real Prometheus scrapes the real demo for a minute, and its answers add up."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import yaml

from tests.test_demo import HUNG_SECONDS, running_demo

SCRAPED_SECONDS = 60

LISTENING = re.compile(r'"Listening on" address=(\S+)')
READY = "ready to receive web requests"

Result = Mapping[tuple[str, ...], float]
"""The value by the values of the labels, in the order of their names."""


class Prometheus:
    """Asks a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.at_unix_seconds: float | None = None
        """As of when it is asked; while it goes on scraping, two queries would see two instants."""

    def ask(self, path: str, **parameters: str) -> Any:
        """The data of an answer of its HTTP interface."""
        answer = requests.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=10)
        assert answer.ok, answer.text
        return answer.json()["data"]

    def own_page(self) -> str:
        """What it says of itself."""
        return requests.get(f"{self.url}/metrics", timeout=10).text

    def query(self, expression: str) -> Result:
        """The instant vector, now or as of the instant that was chosen."""
        at = {} if self.at_unix_seconds is None else {"time": f"{self.at_unix_seconds:.3f}"}
        result = self.ask("query", query=expression, **at)["result"]
        return {
            tuple(value for name, value in sorted(series["metric"].items()) if name != "__name__"): float(
                series["value"][1]
            )
            for series in result
        }

    def value(self, expression: str) -> float:
        """The one value of an expression."""
        (value,) = self.query(expression).values()
        return value


@contextmanager
def running_prometheus(directory: Path, target: str) -> Iterator[Prometheus]:
    """Prometheus at a free port, scraping the target each second."""
    command = shutil.which("prometheus")
    assert command, "prometheus is missing: it is in the package prometheus, which `make tools` installs"
    configuration = directory / "prometheus.yaml"
    scrape = {"job_name": "agent", "scrape_interval": "1s", "static_configs": [{"targets": [target]}]}
    configuration.write_text(yaml.safe_dump({"scrape_configs": [scrape]}))
    with subprocess.Popen(
        [
            command,
            f"--config.file={configuration}",
            f"--storage.tsdb.path={directory / 'data'}",
            "--web.listen-address=127.0.0.1:0",
        ],
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        too_late = Timer(HUNG_SECONDS, process.kill)
        too_late.start()
        log = ""
        try:
            assert process.stderr is not None
            # It says both in any order.
            while not ((address := LISTENING.search(log)) and READY in log):
                line = process.stderr.readline()
                assert line, f"prometheus has ended: {log}"
                log += line
            too_late.cancel()
            yield Prometheus(f"http://{address[1]}")
        finally:
            too_late.cancel()
            process.terminate()


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    with (
        running_demo(directory) as demo,
        running_prometheus(directory, urlsplit(demo.url("metrics")).netloc) as asked,
    ):
        time.sleep(SCRAPED_SECONDS)
        asked.at_unix_seconds = time.time()
        time.sleep(2)  # a scrape that is under way is over
        yield asked


def test_every_scrape_succeeds(prometheus: Prometheus) -> None:
    scrapes = prometheus.value("count_over_time(up[5m])")
    assert scrapes >= SCRAPED_SECONDS - 5
    # A scrape has a second; on a machine that is busy with other tests one or two may need longer.
    assert prometheus.value("sum_over_time(up[5m])") >= scrapes - 2
    assert prometheus.value("up") == 1
    assert prometheus.value("scrape_samples_scraped") > 500


def test_it_is_given_openmetrics(prometheus: Prometheus) -> None:
    # Only OpenMetrics has the type info; in the text format they are gauges.
    (metadata,) = prometheus.ask("targets/metadata", metric="roofline_gpu")
    assert metadata["type"] == "info"


def test_every_second_of_a_gpu_is_in_exactly_one_place(prometheus: Prometheus) -> None:
    observed = prometheus.query("sum by (uuid) (roofline_gpu_observed_seconds_total)")
    assert len(observed) == 8
    assert min(observed.values()) > SCRAPED_SECONDS / 2
    by_class = prometheus.query("sum by (uuid) (roofline_gpu_bottleneck_seconds_total)")
    assert by_class == pytest.approx(observed, abs=1e-6)
    by_evidence = prometheus.query("sum by (uuid, quantity) (roofline_gpu_evidence_seconds_total)")
    assert len(by_evidence) == 5 * len(observed)
    for (_, uuid), seconds in by_evidence.items():
        assert seconds == pytest.approx(observed[uuid,], abs=1e-6)


def test_the_step_of_an_engine_is_divided_without_remainder(prometheus: Prometheus) -> None:
    observed = prometheus.query("sum by (server) (roofline_engine_observed_seconds_total)")
    phases = prometheus.query("sum by (server) (roofline_engine_phase_seconds_total)")
    steps = prometheus.query("sum by (server) (roofline_engine_step_seconds_total)")
    busy = prometheus.query('sum by (server) (roofline_engine_phase_seconds_total{phase!="neither"})')
    assert len(observed) == 5
    assert min(observed.values()) > SCRAPED_SECONDS / 2
    assert phases == pytest.approx(observed, abs=1e-6)
    assert steps == pytest.approx(busy, abs=1e-6)


def test_each_gpu_is_where_it_belongs_on_the_roofline(prometheus: Prometheus) -> None:
    intensity = prometheus.query(
        "sum by (gpu) (rate(roofline_gpu_flops_total[30s]))"
        " / sum by (gpu) (rate(roofline_gpu_dram_bytes_total[30s]))"
    )
    ridge = prometheus.query('max by (gpu) (roofline_gpu_ridge_flops_per_byte{dtype="bf16"})')
    assert ridge[("0",)] == pytest.approx(295.3, abs=0.1)
    classes = prometheus.query("roofline_gpu_bottleneck == 1")
    expected = {
        "0": ("memory_bandwidth", 2, 30),
        "1": ("memory_bandwidth", 30, 250),
        "2": ("compute", 300, 3000),
        "3": ("host", 2, 30),
        **dict.fromkeys("4567", ("memory_bandwidth", 2, 100)),
    }
    said = {gpu: bottleneck for bottleneck, gpu, *_ in classes}
    assert said == {gpu: bottleneck for gpu, (bottleneck, _, _) in expected.items()}
    for gpu, (_, lowest, highest) in expected.items():
        assert lowest < intensity[gpu,] < highest, gpu


def test_an_engine_joins_its_gpus(prometheus: Prometheus) -> None:
    joined = prometheus.query(
        "roofline_gpu_power_watts * on (instance, uuid) group_left (server) roofline_engine_gpu_info"
    )
    assert len(joined) == 8
    assert min(joined.values()) > 50


def test_prometheus_has_nothing_to_complain_of(prometheus: Prometheus) -> None:
    (target,) = prometheus.ask("targets")["activeTargets"]
    assert (target["health"], target["lastError"]) == ("up", "")
    for problem in ("duplicate_timestamp", "out_of_order", "out_of_bounds"):
        assert f"prometheus_target_scrapes_sample_{problem}_total 0\n" in prometheus.own_page()
