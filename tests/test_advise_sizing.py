"""Sizing: as few replicas as keep up, at the batch that they will run at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import AgentError
from agent.planning.mix import Latency, LiveMix, Serving
from agent.planning.sizing import BUSY_RATIO_MAX, Sizing, forecast, size
from agent.roofline.planner import Plan, Point, plan

MIX = LiveMix(
    serving=Serving(
        model="llama-3.1-8b",
        engine="vllm",
        part="H100-SXM5-80GB",
        tensor_parallel="1",
        weight_dtype="bf16",
        kv_dtype="bf16",
    ),
    replicas=3.0,
    gpus=3.0,
    requests_per_second=10.0,
    prefill_tokens_per_second=6000.0,
    cached_ratio=0.4,
    generation_tokens_per_second=3000.0,
    prompt_tokens=1000.0,
    output_tokens=300.0,
    context=1150.0,
    decode_batch=12.0,
    max_num_seqs=None,
    usd_per_second=None,
    ttft=Latency(p50=0.05, p99=0.2),
    tpot=Latency(p50=0.01, p99=0.03),
)


def times(demand: float) -> LiveMix:
    """The mix at another rate."""
    return replace(
        MIX,
        requests_per_second=MIX.requests_per_second * demand,
        prefill_tokens_per_second=MIX.prefill_tokens_per_second * demand,
        generation_tokens_per_second=MIX.generation_tokens_per_second * demand,
    )


def candidate(gpu: str = "H100", **choices: Any) -> Plan:
    return plan(
        Point(model="llama-3.1-8b", gpu=gpu, context=1150, prompt_tokens=600, output_tokens=300, **choices)
    )


def busy_seconds(mix: LiveMix, sizing: Sizing, batch: int) -> float:
    """Of each second, what one replica's share of the requests takes at a batch."""
    each = sizing.plan.vary(batch=batch)
    assert sizing.replicas is not None
    request = each.ttft.expected + mix.output_tokens * each.tpot.expected / batch
    return mix.requests_per_second / sizing.replicas * request


@settings(max_examples=40, deadline=None)
@given(
    demand=st.floats(0.001, 300),
    gpu=st.sampled_from(("H100", "A100", "L40S", "L4")),
    limit=st.integers(1, 512),
)
def test_the_replicas_keep_up_and_one_fewer_would_not(demand: float, gpu: str, limit: int) -> None:
    mix = times(demand)
    sizing = size(mix, candidate(gpu), batch_limit=limit)
    batch, most = sizing.plan.point.batch, min(limit, candidate(gpu).kv_limited_batch)
    assert sizing.replicas is not None
    assert 1 <= batch <= most
    assert busy_seconds(mix, sizing, most) <= BUSY_RATIO_MAX * (1 + 1e-9)
    if sizing.replicas > 1:
        fewer = replace(sizing, replicas=sizing.replicas - 1)
        assert busy_seconds(mix, fewer, most) > BUSY_RATIO_MAX
    assert busy_seconds(mix, sizing, batch) <= 1 + 1e-9
    if batch > 1:
        assert busy_seconds(mix, sizing, batch - 1) > 1, "at a smaller batch it would fall behind"
    assert 0 < sizing.prefill_ratio < 1
    assert sizing.tpot_seconds > sizing.plan.tpot.expected


def test_what_does_not_fit_needs_no_number_of_replicas() -> None:
    sizing = size(MIX, candidate("T4"), batch_limit=256)
    assert (sizing.replicas, sizing.gpus, sizing.usd_per_million_tokens) == (None, None, None)


def test_all_gpus_of_all_replicas_are_paid() -> None:
    sizing = size(times(10), candidate(tensor_parallel=2, usd_per_hour=3.6), batch_limit=64)
    assert sizing.replicas is not None
    assert sizing.replicas > 1
    assert sizing.gpus == 2 * sizing.replicas
    assert sizing.usd_per_million_tokens == pytest.approx(sizing.gpus * 0.001 / 30000 * 1e6)


def test_what_is_not_chosen_is_as_it_is_today() -> None:
    found = forecast(MIX, [{"usd_per_hour": None}, {"gpu": "L40S", "usd_per_hour": 1.0, "kv_dtype": "fp8"}])
    same, other = (sizing.plan.point for sizing in found.sizings)
    assert (same.gpu, same.tensor_parallel, same.kv_dtype) == ("H100-SXM5-80GB", 1, None)
    assert (other.gpu, other.tensor_parallel, other.kv_dtype) == ("L40S", 1, "fp8")
    assert (same.prompt_tokens, same.context) == (600, 1150), "the cached tokens are not computed again"
    assert found.today is not None
    assert found.today.point.batch == 12


def test_todays_pipeline_is_kept_unless_another_is_given() -> None:
    staged = replace(MIX, serving=replace(MIX.serving, tensor_parallel="2", pipeline_parallel=4))
    found = forecast(staged, [{}, {"pipeline_parallel": 1}])
    assert [sizing.plan.gpus for sizing in found.sizings] == [8, 2]
    assert found.today is not None
    assert found.today.gpus == 8


INFINITE = math.inf


@pytest.mark.parametrize(
    ("buckets", "latency"),
    [
        pytest.param({}, (None, None), id="no histogram"),
        pytest.param({1.0: 0.0, INFINITE: 0.0}, (None, None), id="nothing came"),
        pytest.param({1.0: 100.0, 2.0: 100.0, INFINITE: 100.0}, (0.5, 0.99), id="evenly within the first"),
        pytest.param({1.0: 0.0, 2.0: 100.0, INFINITE: 100.0}, (1.5, 1.99), id="evenly within the second"),
        pytest.param({1.0: 60.0, 2.0: 80.0, INFINITE: 100.0}, (50 / 60, 2.0), id="beyond the last bound"),
        pytest.param({1.0: 60.0, 2.0: 59.9, INFINITE: 60.0}, (0.5, 0.99), id="extrapolated unevenly"),
    ],
)
def test_quantiles_are_those_of_prometheus(
    buckets: dict[float, float], latency: tuple[float | None, float | None]
) -> None:
    found = Latency.of_buckets(buckets)
    assert found.p50 == pytest.approx(latency[0])
    assert found.p99 == pytest.approx(latency[1])


def test_todays_dtypes_are_said_only_where_the_model_would_have_others() -> None:
    quantized = replace(MIX, serving=replace(MIX.serving, weight_dtype="fp8"))
    (sizing,) = forecast(quantized, [{}]).sizings
    assert (sizing.plan.point.weight_dtype, sizing.plan.point.kv_dtype) == ("fp8", None)
    (chosen,) = forecast(quantized, [{"weight_dtype": "bf16"}]).sizings
    assert chosen.plan.point.weight_dtype == "bf16"


@pytest.mark.parametrize(
    ("counted", "usd_per_hour", "usd_per_million"),
    [
        pytest.param(0.006, 9.0, 2.0, id="what the agent counted wins"),
        pytest.param(None, 3.6, 1.0, id="else the price that is given for the part"),
    ],
)
def test_todays_price_of_a_token(counted: float | None, usd_per_hour: float, usd_per_million: float) -> None:
    found = forecast(replace(MIX, usd_per_second=counted), [{"gpu": "H100", "usd_per_hour": usd_per_hour}])
    assert found.today_usd_per_million_tokens == pytest.approx(usd_per_million)


def test_an_unknown_gpu_must_be_named() -> None:
    unknown = replace(MIX, serving=replace(MIX.serving, part="unknown"))
    with pytest.raises(AgentError, match="give --gpu"):
        forecast(unknown, [{}])
    found = forecast(unknown, [{"gpu": "L40S"}])
    assert found.today is None
    assert found.sizings[0].replicas is not None


@pytest.mark.parametrize(("allowed", "batch"), [(8.0, 8), (None, 64)], ids=["the engines'", "ours"])
def test_no_batch_is_larger_than_allowed(allowed: float | None, batch: int) -> None:
    mix = replace(times(100), max_num_seqs=allowed)
    limits = () if allowed else (64,)
    (sizing,) = forecast(mix, [{}], batch_limits=limits).sizings
    assert sizing.plan.point.batch <= batch
    assert sizing.plan.point.batch > batch / 2, "with many replicas each is nearly as full as it may be"
