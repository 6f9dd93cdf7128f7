"""The page: what is on it, what never is, and that it is rendered once."""

from __future__ import annotations

import gzip
import math
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.exposition.collector import OPENMETRICS_TYPE, Rendered, Renderer, collect
from agent.labels import label_text
from agent.metrics import TABLE, Metric
from agent.readings import Histogram
from tests.test_sampler import Bench, serving

OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"


def assessed() -> Assessment:
    return serving(Bench(), 60)


def renderer(assessment: Assessment | None, table: Any = TABLE) -> Renderer:
    clock = ManualClock()
    if assessment is not None:
        clock.advance(assessment.at_seconds)
    return Renderer(lambda: assessment, clock=clock, table=table)


def text(page: Rendered) -> str:
    body = gzip.decompress(page.body) if page.content_encoding == "gzip" else page.body
    return body.decode()


def samples(families: Any) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.startswith("process_")
    }


def test_both_formats_and_encodings_say_the_same() -> None:
    pages = renderer(assessed())
    plain = pages.render(None, None)
    opened = pages.render(OPENMETRICS, "gzip")
    assert plain.content_type.startswith("text/plain; version=0.0.4")
    assert opened.content_type == OPENMETRICS_TYPE
    assert opened.content_encoding == "gzip"
    assert text(opened).endswith("# EOF\n")
    families = parse_openmetrics(text(opened))  # type: ignore[no-untyped-call]  # untyped library
    assert samples(families) == samples(parse_text(text(plain)))


@pytest.mark.parametrize(
    ("accepted", "compressed"),
    [
        ("gzip", True),
        ("deflate, gzip;q=0.5", True),
        ("*", True),
        ("gzip;q=0", False),
        ("", False),
        ("br", False),
    ],
)
def test_gzip_is_for_those_who_take_it(accepted: str, compressed: bool) -> None:
    page = renderer(assessed()).render(None, accepted)
    assert (page.content_encoding == "gzip") is compressed


def test_an_assessment_is_rendered_once() -> None:
    pages = renderer(assessed())
    assert pages.render(None, None) is pages.render("text/plain", "")
    assert pages.render(OPENMETRICS, "gzip") is pages.render(OPENMETRICS, "gzip")


def test_every_row_of_the_table_is_well_named() -> None:
    names = [metric.full_name for metric in TABLE]
    assert len(names) == len(set(names))
    for metric in TABLE:
        assert re.fullmatch(r"roofline_[a-z0-9_]+", metric.full_name)
        assert metric.full_name.endswith("_total") == (metric.kind == "counter"), metric.full_name
        assert metric.full_name.endswith("_info") == (metric.kind == "info"), metric.full_name
        assert metric.help.endswith("."), metric.full_name
        assert len(metric.labels) <= 10
        assert metric.origin


def test_a_served_h100_shows_nearly_the_whole_table() -> None:
    assessment = assessed()
    silent = {metric.name for metric in TABLE if not list(collect(metric, assessment))}
    # What this node has no facts for; each has a test of its own elsewhere.
    assert silent <= {
        *(f"gpu_memory_{part}_bytes" for part in ("total", "used", "free", "reserved")),
        "gpu_allocation_info",
        "engine_requests_in_flight",
        "engine_step_intercept_seconds",
        "engine_step_slope_seconds",
        "engine_state_age_seconds",
        "engine_remote_cost_usd_total",
        "gpu_power_watts",
        "gpu_power_limit_watts",
        "gpu_energy_joules_total",
        "gpu_power_instant_watts",
        "gpu_memory_clock_hertz",
        "gpu_temperature_celsius",
        "gpu_memory_temperature_celsius",
        "gpu_processes",
        "gpu_virtualization",
        *(f"gpu_{link}_{way}_bytes_total" for link in ("pcie", "nvlink") for way in ("receive", "transmit")),
        "gpu_clock_limited_seconds_total",
        "gpu_ecc_errors_total",
        "gpu_remapped_rows_total",
        "gpu_row_remap_problem",
        "gpu_xid_errors_total",
        "gpu_last_xid_timestamp_seconds",
        "gpu_recovery_action",
        "gpu_fabric_state",
        "gpu_fabric_health",
        "gpu_cost_usd_total",
        "gpu_idle_cost_usd_total",
        "gpu_unattributed_cost_usd_total",
        "engine_cost_usd_total",
        "engine_energy_joules_total",
        "engine_start_time_seconds",
        "engine_requests_total",
        "engine_rejected_requests_total",
        "engine_max_num_seqs",
        "engine_ridge_batch_size",  # at 1000 tokens of context no batch of this model reaches the ridge
        "engine_draft_tokens_total",
        "engine_accepted_draft_tokens_total",
        "engine_cached_prompt_tokens_total",
        "engine_preemptions_total",
        "engine_kv_cache_seconds_to_full",
        "engine_model_agreement_ratio",
        *(
            f"engine_slo_{part}"
            for part in ("events_total", "good_events_total", "bound_seconds", "objective_ratio")
        ),
        "engine_time_to_first_token_seconds",
        "engine_inter_token_latency_seconds",
        "engine_request_latency_seconds",
        "source_read_failures_total",
    }


def test_one_hot_series_have_exactly_one_1() -> None:
    families = parse_text(text(renderer(assessed()).render(None, None)))
    hot = {
        family.name: sum(sample.value for sample in family.samples)
        for family in families
        if family.name in ("roofline_gpu_bottleneck", "roofline_engine_batch_limiter")
    }
    assert hot == {"roofline_gpu_bottleneck": 1, "roofline_engine_batch_limiter": 1}


def test_before_the_first_assessment_only_the_process_is_shown() -> None:
    page = text(renderer(None).render(None, None))
    assert "process_cpu_seconds_total" in page
    assert "roofline_" not in page


def test_a_sampler_that_stopped_leaves_only_health_on_the_page() -> None:
    assessment = assessed()
    clock = ManualClock()
    clock.advance(assessment.at_seconds)
    pages = Renderer(lambda: assessment, clock=clock, states=lambda: assessment.sources)
    assert "roofline_gpu_up" in text(pages.render(None, None))
    clock.advance(11)
    stale = text(pages.render(None, None))
    assert "roofline_gpu_" not in stale
    assert "roofline_engine_" not in stale
    assert "roofline_assessment_timestamp_seconds" in stale
    assert "roofline_source_up" in stale


# --- rows that do not behave ---------------------------------------------------------------------


def row(read: Any, labels: tuple[str, ...] = ("a",)) -> Metric:
    return Metric(name="x", kind="gauge", help="X.", labels=labels, origin="test", read=read)


def test_a_missing_value_is_no_series_and_not_zero() -> None:
    page = renderer(assessed(), [row(lambda _: [(("one",), None), (("two",), 0.0)])])
    assert 'roofline_x{a="two"} 0.0' in text(page.render(None, None))
    assert "one" not in text(page.render(None, None))


def test_a_series_twice_is_shown_once(caplog: pytest.LogCaptureFixture) -> None:
    page = renderer(assessed(), [row(lambda _: [(("one",), 1.0), (("one",), 2.0)])])
    assert text(page.render(None, None)).count("roofline_x{") == 1
    assert "twice" in caplog.text


def test_wrong_arity_is_an_error_and_never_a_shifted_label() -> None:
    with pytest.raises(ValueError, match="2 label values"):
        list(collect(row(lambda _: [(("one", "two"), 1.0)]), assessed()))


def test_infinities_and_histograms_are_written_as_prometheus_reads_them() -> None:
    histogram = Histogram(bounds=(0.1, math.inf), cumulative=(3.0, 4.0), sum=1.5)

    def read(_: Assessment) -> Iterator[Any]:
        yield ("one",), histogram

    metric = Metric(name="h_seconds", kind="histogram", help="H.", labels=("a",), origin="test", read=read)
    page = text(renderer(assessed(), [metric]).render(None, None))
    assert 'roofline_h_seconds_bucket{a="one",le="+Inf"} 4.0' in page
    assert 'roofline_h_seconds_count{a="one"} 4.0' in page


@given(value=st.text(max_size=300))
def test_any_label_value_comes_through_bounded_and_readable(value: str) -> None:
    page = renderer(assessed_once(), [row(lambda _: [((value,), 1.0)])])
    (sample,) = [
        sample
        for family in parse_text(text(page.render(None, None)))
        for sample in family.samples
        if sample.name == "roofline_x"
    ]
    assert sample.labels["a"] == label_text(value)
    assert "\n" not in sample.labels["a"]


_ONCE: list[Assessment] = []


def assessed_once() -> Assessment:
    """The same assessment for each of hypothesis' examples."""
    if not _ONCE:
        _ONCE.append(assessed())
    return _ONCE[0]
