"""What boards are written with: names and units from the table, places from widths."""

from __future__ import annotations

import pytest

from agent.metrics import TABLE
from dashboards.layout import banner, laid_out, row
from dashboards.links import link_to
from dashboards.panels import Query, Row, stat
from dashboards.queries import Quantity, metric, one_hot_code, recorded, selector
from dashboards.units import COUNT, RATIO
from tests.dashboards.boards import panels_of
from tests.dashboards.specimen import specimen

SCOPED = '{cluster=~"$cluster",job=~"$job",instance=~"$instance"}'


@pytest.mark.parametrize("name", ["gpu_utilization", "roofline_gpu_up", ""])
def test_a_metric_that_is_not_in_the_table_cannot_be_asked_for(name: str) -> None:
    with pytest.raises(LookupError, match="no metric is called"):
        metric(name)


def test_only_recorded_names_are_taken_as_recorded() -> None:
    with pytest.raises(LookupError, match="no name of a recording rule"):
        recorded("roofline_gpu_up", unit=COUNT, help="")


@pytest.mark.parametrize("name", [one.name for one in TABLE])
def test_every_metric_has_a_unit(name: str) -> None:
    assert metric(name).unit.code


@pytest.mark.parametrize(
    ("name", "code", "axis"),
    [
        ("gpu_memory_used_bytes", "bytes", ""),
        ("gpu_peak_dram_bytes_per_second", "Bps", ""),
        ("gpu_peak_flops_per_second", "flops", ""),
        ("gpu_ridge_flops_per_byte", "none", "FLOP/byte"),
        ("gpu_roof_attained_ratio", "percentunit", ""),
        ("gpu_power_watts", "watt", ""),
        ("gpu_energy_joules_total", "joule", ""),
        ("gpu_sm_clock_hertz", "hertz", ""),
        ("gpu_temperature_celsius", "celsius", ""),
        ("gpu_cost_usd_total", "currencyUSD", ""),
        ("engine_stalled_seconds", "s", ""),
        ("engine_start_time_seconds", "dateTimeFromNow", ""),
        ("engine_generation_tokens_total", "short", "tokens"),
        ("gpu_info", "short", ""),
    ],
)
def test_units_are_grafanas_for_those_of_the_table(name: str, code: str, axis: str) -> None:
    assert (metric(name).unit.code, metric(name).unit.axis) == (code, axis)


@pytest.mark.parametrize(
    ("name", "code", "axis"),
    [
        ("gpu_dram_bytes_total", "Bps", ""),
        ("gpu_flops_total", "flops", ""),
        ("gpu_energy_joules_total", "watt", ""),
        ("gpu_bottleneck_seconds_total", "percentunit", ""),
        ("engine_generation_tokens_total", "short", "tokens/s"),
        ("gpu_ecc_errors_total", "short", "per second"),
        ("gpu_cost_usd_total", "currencyUSD", "USD/s"),
    ],
)
def test_a_rate_has_the_unit_of_what_grows(name: str, code: str, axis: str) -> None:
    assert (metric(name).rate_unit.code, metric(name).rate_unit.axis) == (code, axis)


def test_a_histograms_parts_have_their_own_units() -> None:
    latency = metric("engine_request_latency_seconds")
    assert (latency.part("count").unit, latency.part("sum").rate_unit) == (COUNT, RATIO)


def test_a_query_selects_what_is_chosen_and_more() -> None:
    assert selector() == SCOPED
    assert metric("gpu_up").where('gpu!="0"', uuid="$uuid", gpu="1") == (
        f'roofline_gpu_up{SCOPED[:-1]},gpu!="0",uuid=~"$uuid",gpu="1"}}'
    )
    rate = metric("gpu_bottleneck_seconds_total").rate(bottleneck="idle|unknown")
    inside = f'{SCOPED[:-1]},bottleneck=~"idle|unknown"}}'
    assert rate == f"rate(roofline_gpu_bottleneck_seconds_total{inside}[$__rate_interval])"


def test_what_other_jobs_have_too_is_asked_only_of_agents() -> None:
    assert metric("up").where() == (
        f"(up{SCOPED} and on (cluster, job, instance) last_over_time(roofline_build_info{SCOPED}[1d]))"
    )


def test_states_become_one_number() -> None:
    limiter: Quantity = metric("engine_batch_limiter")
    assert one_hot_code(limiter, "limiter", {"traffic": 1, "kv_cache": 2}, "server") == (
        f'sum by (server) (1 * roofline_engine_batch_limiter{SCOPED[:-1]},limiter="traffic"}}'
        f' or 2 * roofline_engine_batch_limiter{SCOPED[:-1]},limiter="kv_cache"}})'
    )


def test_a_link_keeps_what_is_chosen_and_takes_what_was_clicked() -> None:
    link = link_to("node", "Open the node", instance="instance", gpu="gpu")
    kept = "${__url_time_range}&${datasource:queryparam}&${cluster:queryparam}&${job:queryparam}"
    assert vars(link.of_row())["linkUrl"] == (
        f"/d/roofline-node?{kept}&var-instance=${{__data.fields.instance}}&var-gpu=${{__data.fields.gpu}}"
    )


def test_panels_fill_lines_of_24_columns() -> None:
    first, second, third = (stat("", Query("1"), description="", width=w) for w in (8, 16, 24))
    second.gridPos.h = 9
    laid_out([banner(first, second, third)])
    places = [(one.gridPos.x, one.gridPos.y, one.gridPos.w, one.gridPos.h) for one in (first, second, third)]
    assert places == [(0, 0, 8, 9), (8, 0, 16, 9), (0, 9, 24, 4)]


@pytest.mark.parametrize("widths", [[8, 8], [12, 12, 6], [16, 16]])
def test_a_line_that_is_not_full_is_refused(widths: list[int]) -> None:
    with pytest.raises(ValueError, match=r"Heat: .* is not 24 columns"):
        laid_out([row("Heat", *(stat("one", Query("1"), description="", width=w) for w in widths))])


def test_a_collapsed_row_holds_its_panels_and_takes_one_line() -> None:
    inner, after = (stat("", Query("1"), description="", width=24) for _ in range(2))
    placed = laid_out([row("Closed", inner, collapsed=True), row("Open", after)])
    closed, opened, last = placed
    assert isinstance(closed, Row)
    assert (closed.panels, last) == ([inner], after)
    assert [one.gridPos.y for one in (closed, opened, last)] == [0, 1, 2]


def test_ids_go_on_inside_collapsed_rows() -> None:
    ids = [one["id"] for one in panels_of(specimen())]
    assert ids == list(range(1, len(ids) + 1))
