"""The sampler: time is conserved, staleness shows, one sick part costs its own series only."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.accounts import QUANTITIES
from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.errors import SourceAbsentError, SourceError
from agent.prices import PricePeriod, find_price
from agent.readings import (
    Activity,
    EngineCounters,
    EngineReading,
    GpuLost,
    GpuReading,
    Histogram,
    ModelFacts,
    NodeReading,
    ServerReading,
)
from agent.roster import MonitoredServer, Roster
from agent.sampler import Inputs, Sampler, Settings
from agent.sources.base import Poller

H100 = GpuReading(
    index=0,
    uuid="GPU-0",
    name="NVIDIA H100 80GB HBM3",
    sm_clock_hertz=1830e6,
    kernel_time_ratio=1.0,
    activity=Activity(
        evidence="gpm", seconds=1.0, dram_ratio=0.7, tensor_ratio=0.05, sm_ratio=0.6, graphics_ratio=0.97
    ),
)


@dataclass
class Scripted:
    """A source that gives what it is told to."""

    name: str
    answer: Any = None
    failure_reasons: tuple[str, ...] = ("refused",)

    def read(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def close(self) -> None:
        pass


class Bench:
    """A sampler with scripted sources and a clock of its own."""

    def __init__(
        self,
        *,
        gpus: tuple[int, ...] = (0,),
        neighbour: bool = False,
        tensor_parallel: int | None = None,
        node_labels: Callable[[], Mapping[str, str]] = dict,
        **given: Any,
    ) -> None:
        self.clock = ManualClock()
        self.nvml = Scripted("nvml", NodeReading(gpus=(H100,)))
        self.engine = Scripted("engine:h:8000", ServerReading(engines=()))
        self.neighbour = Scripted("engine:h:8001", ServerReading(engines=()))
        self._nvml_poller: Poller[NodeReading] = Poller(
            self.nvml, interval_seconds=1, deadline_seconds=5, clock=self.clock
        )
        sources = [self.engine, self.neighbour] if neighbour else [self.engine]
        self._servers = [
            MonitoredServer(
                poller=Poller(source, interval_seconds=5, deadline_seconds=10, clock=self.clock),
                server=source.name.removeprefix("engine:"),
                engine="vllm",
                gpus=gpus,
                model=ModelFacts(tensor_parallel=tensor_parallel),
            )
            for source in sources
        ]
        self.sampler = Sampler(
            Inputs(settings=Settings(node="n", **given), nvml=self._nvml_poller, node_labels=node_labels),
            roster=Roster(configured=self._servers, clock=self.clock),
            clock=self.clock,
        )

    def run(self, seconds: int, *, poll: bool = True) -> Assessment:
        """So many ticks, a second apart, with the sources read as they are due."""
        assessment = None
        for _ in range(seconds):
            self.clock.advance(1)
            if poll:
                self._nvml_poller.poll()
                if round(self.clock.monotonic()) % 5 == 0:
                    for server in self._servers:
                        server.poller.poll()
            assessment = self.sampler.tick()
        assert assessment is not None
        return assessment


def conserved(assessment: Assessment, elapsed: float) -> None:
    for gpu in assessment.gpus:
        totals = gpu.totals
        assert sum(totals.bottleneck_seconds.values()) == pytest.approx(totals.observed_seconds, abs=1e-9)
        assert totals.observed_seconds + totals.unobserved_seconds == pytest.approx(elapsed, abs=1e-6)
        for quantity in QUANTITIES:
            seconds = sum(s for (name, _), s in totals.evidence_seconds.items() if name == quantity)
            assert seconds == pytest.approx(totals.observed_seconds, abs=1e-9), quantity


def test_time_is_conserved() -> None:
    bench = Bench()
    bench.run(1)
    assessment = bench.run(100)
    conserved(assessment, 100)
    assert assessment.gpus[0].totals.unobserved_seconds == 0


def test_a_long_tick_is_a_gap_and_not_the_time_of_any_class() -> None:
    bench = Bench()
    bench.run(10)
    bench.clock.advance(600)
    assessment = bench.run(10)
    totals = assessment.gpus[0].totals
    assert totals.unobserved_seconds == pytest.approx(601)
    conserved(assessment, 619)


def test_a_lost_gpu_costs_its_own_series_only_and_keeps_its_counters() -> None:
    bench = Bench()
    other = replace(H100, index=1, uuid="GPU-1")
    bench.nvml.answer = NodeReading(gpus=(H100, other))
    before = bench.run(60).gpus[0].totals
    lost = GpuLost(index=0, uuid="GPU-0", name=H100.name, reason="lost", message="GPU 0 fell off the bus")
    bench.nvml.answer = NodeReading(gpus=(lost, other))
    gone, kept = bench.run(60).gpus
    assert not gone.up
    assert gone.reading is None
    assert gone.totals.observed_seconds == before.observed_seconds
    assert gone.totals.unobserved_seconds == 60
    assert kept.up
    assert kept.verdict.bottleneck == "memory_bandwidth"
    bench.nvml.answer = NodeReading(gpus=(H100, other))
    back = bench.run(60).gpus[0]
    assert back.up
    assert back.totals.observed_seconds == pytest.approx(before.observed_seconds + 60)


@pytest.mark.parametrize(
    "answer", [SourceError("timeout", "nvml: no answer"), SourceAbsentError("no NVML library")]
)
def test_a_driver_that_stops_answering_takes_its_gpus_with_it(answer: Exception) -> None:
    bench = Bench()
    bench.run(30)
    bench.nvml.answer = answer
    assert bench.run(3).gpus, "within three intervals the last reading still speaks"
    assert not bench.run(1).gpus
    bench.nvml.answer = NodeReading(gpus=(H100,))
    back = bench.run(5).gpus[0].totals
    assert back.observed_seconds + back.unobserved_seconds == pytest.approx(38, abs=1.01)


def test_a_reader_with_a_bug_is_a_failed_source_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench()
    bench.engine.answer = ZeroDivisionError("a bug")
    assessment = bench.run(10)
    engine = next(source for source in assessment.sources if source.name == "engine:h:8000")
    assert engine.failures == {"internal": 2, "refused": 0, "timeout": 0}
    assert assessment.gpus[0].up
    assert "ZeroDivisionError" in caplog.text


def test_a_source_that_is_never_read_again_grows_stale() -> None:
    bench = Bench()
    bench.run(30)
    assert not bench.run(5, poll=False).gpus


def vllm(tokens: float, **more: Any) -> ServerReading:
    counters = EngineCounters(
        generation_tokens=tokens,
        steps=tokens / 8,
        first_tokens=tokens / 400,
        prefill_tokens=tokens / 2,
        inter_token_seconds=tokens * 0.0068,
        inter_token_intervals=tokens,
    )
    reading = EngineReading(
        engine="vllm",
        model="meta-llama/Llama-3.1-8B-Instruct",
        requests_running=8,
        requests_waiting=0,
        kv_used_ratio=0.02,
        kv_capacity_tokens=400_000,
        kv_block_tokens=16,
        counters=counters,
        **more,
    )
    return ServerReading(engines=(reading,))


def serving(bench: Bench, seconds: int, *, start: float = 0.0) -> Assessment:
    assessment = None
    for second in range(seconds):
        bench.engine.answer = vllm(start + 1100 * second)
        assessment = bench.run(1)
    assert assessment is not None
    return assessment


def test_an_engine_gives_its_gpu_flops_and_a_reason() -> None:
    assessment = serving(Bench(), 60)
    gpu, engine = assessment.gpus[0], assessment.engines[0]
    assert engine.served_origin == "catalogue"
    assert gpu.flops_per_second is not None
    assert gpu.flops_per_second.evidence == "modelled"
    assert gpu.intensity is not None
    assert gpu.intensity.evidence == "mixed"
    assert gpu.verdict.bottleneck == "memory_bandwidth"
    assert "FLOP/byte" in gpu.verdict.reason
    assert engine.work_totals is not None
    total = sum(engine.work_totals.flops.values())
    assert gpu.totals.flops["modelled"] == pytest.approx(total)
    assert gpu.totals.dram_bytes["modelled"] == 0, "measured bytes come first"


def keeping_record(bench: Bench, seconds: int, *, intercept: float) -> Assessment:
    """An engine that records its steps: half of them at batch 4, half at 12, 0.2 ms a sequence."""
    times = {batch: intercept + 0.0002 * batch for batch in (4.0, 12.0)}
    assessment = None
    for second in range(seconds):
        each = 50.0 * second
        page = vllm(1100 * second)
        counters = replace(
            page.engines[0].counters,
            timed_steps=2 * each,
            timed_sequences=16 * each,
            timed_seconds=sum(times.values()) * each,
            timed_squared_sequences=(16 + 144) * each,
            timed_sequence_seconds=sum(batch * time for batch, time in times.items()) * each,
        )
        bench.engine.answer = replace(page, engines=(replace(page.engines[0], counters=counters),))
        assessment = bench.run(1)
    assert assessment is not None
    return assessment


def test_an_engines_own_record_of_its_steps_stands_beside_the_weights() -> None:
    engine = keeping_record(Bench(), 60, intercept=0.006).engines[0]
    assert engine.step_line is not None
    assert engine.step_line.intercept_seconds == pytest.approx(0.006)
    assert engine.step_line.slope_seconds == pytest.approx(0.0002)
    assert engine.weight_read_seconds == pytest.approx(16.06e9 / 3.35e12, rel=0.08)
    assert engine.verdict.bottleneck == "memory_bandwidth"
    assert "steps take 6 ms before the first sequence, of which the weights" in engine.verdict.reason


def test_steps_shorter_than_reading_the_weights_contradict_the_model() -> None:
    verdict = keeping_record(Bench(), 60, intercept=0.002).engines[0].verdict
    assert verdict.bottleneck == "unknown"
    assert verdict.reason.endswith("can be read: check the model")


@pytest.mark.parametrize(("said", "role"), [("decode", "decode"), (None, "both")])
def test_a_role_is_as_the_engine_says_else_as_its_tokens_show(said: Any, role: str) -> None:
    bench = Bench()
    for second in range(60):
        bench.engine.answer = vllm(1100 * second, role=said)
        assessment = bench.run(1)
    assert assessment.engines[0].role == role


def test_without_profiling_bytes_are_modelled() -> None:
    bench = Bench()
    bench.nvml.answer = NodeReading(gpus=(replace(H100, activity=None),))
    assessment = serving(bench, 60)
    gpu, engine = assessment.gpus[0], assessment.engines[0]
    assert gpu.intensity is not None
    assert gpu.intensity.evidence == "modelled"
    assert gpu.verdict.evidence == "modelled"
    assert engine.work_totals is not None
    assert gpu.totals.dram_bytes["modelled"] == pytest.approx(sum(engine.work_totals.dram_bytes.values()))


def test_a_silent_engine_is_down_by_name_and_nothing_more_is_said_of_it() -> None:
    bench = Bench()
    serving(bench, 60)
    bench.engine.answer = SourceError("refused", "vllm at http://h:8000/metrics: refused")
    engine = bench.run(21).engines[0]
    assert not engine.up
    assert (engine.engine, engine.model) == ("vllm", "meta-llama/Llama-3.1-8B-Instruct")
    assert engine.window is None
    assert engine.kv is None
    assert engine.problem is not None
    assert "refused" in engine.problem


def test_a_hung_engine_is_unknown_and_not_idle() -> None:
    bench = Bench()
    serving(bench, 60)
    assessment = bench.run(60)  # the page stays as it is, with eight requests running
    assert assessment.gpus[0].verdict.bottleneck == "unknown"
    assert "may hang" in assessment.gpus[0].verdict.reason


@pytest.mark.parametrize(
    "left",
    [
        pytest.param({"requests_running": 0.0, "requests_waiting": 3.0}, id="a queue"),
        pytest.param(
            {"requests_running": 0.0, "requests_in_flight": 3.0}, id="only the server knows of them"
        ),
    ],
)
def test_work_in_hand_without_a_step_is_a_hung_engine(left: dict[str, float]) -> None:
    bench = Bench()
    serving(bench, 60)
    last = bench.engine.answer
    bench.engine.answer = replace(last, engines=(replace(last.engines[0], **left),))
    bench.nvml.answer = NodeReading(gpus=(replace(H100, kernel_time_ratio=0.0, activity=None),))
    assessment = bench.run(60)
    assert assessment.gpus[0].verdict.bottleneck == "unknown"
    assert "with 3 requests in flight: it may hang" in assessment.gpus[0].verdict.reason


def test_an_engine_of_which_only_a_gauge_moves_does_not_hang() -> None:
    bench = Bench()
    serving(bench, 60)
    last = bench.engine.answer
    for second in range(60):
        reading = replace(last.engines[0], kv_used_ratio=0.3 + second / 1000)
        bench.engine.answer = replace(last, engines=(reading,))
        assessment = bench.run(1)
    assert "may hang" not in assessment.gpus[0].verdict.reason


def test_money_follows_the_time_observed() -> None:
    price = PricePeriod(gpu="NVIDIA H100 80GB HBM3", usd_per_hour=3.6, since=dt.date(2020, 1, 1))
    bench = Bench(prices=(price,))
    bench.run(1)
    totals = bench.run(1000).gpus[0].totals
    assert totals.cost_usd == pytest.approx(3.6 / 3600 * 1000)
    assert totals.idle_cost_usd == 0


@pytest.mark.parametrize(
    ("prices", "expected"),
    [
        ([("*", 1.0, 2020)], 1.0),
        ([("*", 1.0, 2020), ("H100-SXM5-80GB", 3.0, 2020)], 3.0),
        ([("H100-SXM5-80GB", 3.0, 2020), ("NVIDIA H100 80GB HBM3", 2.0, 2024)], 2.0),
        ([("H100-SXM5-80GB", 3.0, 2020), ("H100-SXM5-80GB", 9.0, 2999)], 3.0),
        ([("L4", 0.5, 2020)], 0.0),
    ],
    ids=["for any part", "its own before any", "the latest", "not yet valid", "another part's"],
)
def test_the_price_in_force(prices: list[tuple[str, float, int]], expected: float) -> None:
    periods = tuple(
        PricePeriod(gpu=gpu, usd_per_hour=usd, since=dt.date(year, 1, 1)) for gpu, usd, year in prices
    )
    bench = Bench(prices=periods)
    bench.run(1)
    assert bench.run(36).gpus[0].totals.cost_usd == pytest.approx(expected / 100)


SPOT = PricePeriod(gpu="*", usd_per_hour=1.0, since=dt.date(2024, 1, 1), node_labels={"capacity": "spot"})
OWN = PricePeriod(gpu="H100-SXM5-80GB", usd_per_hour=3.0, since=dt.date(2025, 1, 1))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ({}, 3.0),
        ({"capacity": "reserved"}, 3.0),
        ({"capacity": "spot", "zone": "a"}, 1.0),
        ({"capacity": "spot", "zone": "b"}, 0.5),
    ],
    ids=["no label", "another value", "its label before its part", "two labels before one"],
)
def test_a_price_may_be_of_a_kind_of_node(labels: dict[str, str], expected: float) -> None:
    zone = replace(SPOT, usd_per_hour=0.5, node_labels={"capacity": "spot", "zone": "b"})
    assert find_price((zone, OWN, SPOT), {"H100-SXM5-80GB"}, unix_seconds=2e9, node_labels=labels) == expected


def test_the_nodes_labels_are_looked_at_with_each_tick() -> None:
    labels: dict[str, str] = {}
    bench = Bench(prices=(replace(SPOT, usd_per_hour=36.0),), node_labels=lambda: labels)
    bench.run(1)
    assert bench.run(10).gpus[0].totals.cost_usd == 0
    labels["capacity"] = "spot"
    assert bench.run(10).gpus[0].totals.cost_usd == pytest.approx(0.1)


def test_a_replicas_gpus_on_other_nodes_are_counted_apart() -> None:
    price = PricePeriod(gpu="*", usd_per_hour=3.6, since=dt.date(2020, 1, 1))
    here, spread = (Bench(prices=(price,), tensor_parallel=ranks) for ranks in (1, 4))
    for bench in (here, spread):
        assessment = serving(bench, 300)
        work = assessment.engines[0].work_totals
        assert work is not None
        remote = sum(work.remote_cost_usd.values())
        assert remote == pytest.approx((3 if bench is spread else 0) * sum(work.cost_usd.values()))
        gpu = assessment.gpus[0].totals
        assert sum(work.cost_usd.values()) + gpu.unattributed_cost_usd == pytest.approx(gpu.cost_usd)


def test_money_is_conserved_between_engines_and_nobody() -> None:
    price = PricePeriod(gpu="NVIDIA H100 80GB HBM3", usd_per_hour=3.6, since=dt.date(2020, 1, 1))
    bench = Bench(prices=(price,))
    bench.nvml.answer = NodeReading(gpus=(replace(H100, power_watts=500.0),))
    assessment = serving(bench, 300)
    gpu, engine = assessment.gpus[0].totals, assessment.engines[0].work_totals
    assert engine is not None
    assert gpu.cost_usd > 0.25
    assert sum(engine.cost_usd.values()) + gpu.unattributed_cost_usd == pytest.approx(gpu.cost_usd)
    assert gpu.unattributed_cost_usd > 0, "before the first window nobody can say whose it was"
    assert engine.cost_usd["decode"] > 0.8 * gpu.cost_usd
    assert sum(engine.energy_joules.values()) == pytest.approx(
        500 * 3600 / 3.6 * sum(engine.cost_usd.values())
    )


@pytest.mark.parametrize("ranks", [1, 4])
def test_what_an_engine_costs_now_is_the_price_of_all_its_gpus(ranks: int) -> None:
    price = PricePeriod(gpu="*", usd_per_hour=3.6, since=dt.date(2020, 1, 1))
    (engine,) = serving(Bench(prices=(price,), tensor_parallel=ranks), 300).engines
    assert engine.usd_per_hour == pytest.approx(3.6 * ranks)
    rate = engine.generation_tokens_per_second
    assert rate is not None
    assert engine.usd_per_million_tokens == pytest.approx(1e-3 * ranks / rate * 1e6)


def test_without_a_price_a_token_costs_nobody_knows_what() -> None:
    (engine,) = serving(Bench(), 60).engines
    assert engine.generation_tokens_per_second
    assert (engine.usd_per_hour, engine.usd_per_million_tokens) == (None, None)


def test_data_parallel_ranks_take_their_gpus_in_order() -> None:
    bench = Bench(gpus=(0, 1))
    bench.nvml.answer = NodeReading(gpus=(H100, replace(H100, index=1, uuid="GPU-1")))
    page = vllm(1000).engines[0]
    bench.engine.answer = ServerReading(engines=(page, replace(page, rank="1")))
    engines = bench.run(10).engines
    assert [engine.gpu_uuids for engine in engines] == [("GPU-0",), ("GPU-1",)]


# --- what must not mislead ------------------------------------------------------------------------


def idle_page() -> ServerReading:
    (reading,) = vllm(0).engines
    return ServerReading(engines=(replace(reading, requests_running=0.0),))


def test_an_idle_engine_beside_a_busy_one_does_not_seem_to_hang() -> None:
    bench = Bench(neighbour=True)
    bench.neighbour.answer = idle_page()
    assessment = serving(bench, 120)
    assert assessment.gpus[0].verdict.bottleneck == "memory_bandwidth"


def test_an_engine_that_only_just_got_a_request_does_not_seem_to_hang() -> None:
    bench = Bench()
    bench.nvml.answer = NodeReading(gpus=(replace(H100, activity=None, kernel_time_ratio=0.0),))
    bench.engine.answer = idle_page()
    bench.run(300)
    bench.engine.answer = vllm(0)
    assert "hang" not in bench.run(5).engines[0].verdict.reason


def test_work_that_no_listed_engine_does_is_not_called_idle() -> None:
    bench = Bench()
    bench.engine.answer = idle_page()
    verdict = bench.run(20).gpus[0].verdict
    assert verdict.bottleneck == "memory_bandwidth"
    assert "something else" in verdict.reason


def test_a_silent_engines_gpu_is_not_given_derived_flops() -> None:
    bench = Bench()
    serving(bench, 60)
    bench.engine.answer = SourceError("refused", "refused")
    totals = bench.run(100).gpus[0].totals
    assert totals.flops["gpm"] == 0


@pytest.mark.parametrize("event", ["a restart", "a page that fails for long", "a stall of the agent"])
def test_gpus_do_the_flops_of_their_engines_without_remainder(event: str) -> None:
    bench = Bench()
    bench.nvml.answer = NodeReading(gpus=(replace(H100, activity=None),))
    serving(bench, 60)
    if event == "a restart":
        bench.engine.answer = vllm(900, start_time_seconds=5.0)
    elif event == "a page that fails for long":
        bench.engine.answer = SourceError("timeout", "no answer")
        bench.run(30)
        bench.engine.answer = vllm(1100 * 90)
    else:
        bench.clock.advance(4)
        bench.engine.answer = vllm(1100 * 66)
    assessment = bench.run(20)
    gpu, engine = assessment.gpus[0].totals, assessment.engines[0].work_totals
    assert engine is not None
    assert gpu.flops["modelled"] == pytest.approx(sum(engine.flops.values()))
    assert gpu.dram_bytes["modelled"] == pytest.approx(sum(engine.dram_bytes.values()))


def test_what_was_measured_is_not_modelled_as_well() -> None:
    bench = Bench(neighbour=True)
    bench.neighbour.answer = vllm(0)
    for second in range(60):
        bench.neighbour.answer = vllm(700 * second)
        assessment = serving(bench, 1, start=1100 * second)
    totals = assessment.gpus[0].totals
    assert totals.dram_bytes["gpm"] > 0
    assert totals.dram_bytes["modelled"] == 0


def test_an_engine_waits_with_another_class_as_long_as_its_gpu_does() -> None:
    bench = Bench()
    bench.nvml.answer = NodeReading(gpus=(replace(H100, activity=None),))
    serving(bench, 60)
    classes = []
    for second in range(60):  # each step takes three times as long, and so there is a third of the tokens
        (reading,) = vllm(66_000 + 360 * second).engines
        slow = replace(reading.counters, inter_token_seconds=66_000 * 0.0068 + 360 * second * 0.0204)
        bench.engine.answer = ServerReading(engines=(replace(reading, counters=slow),))
        assessment = bench.run(1)
        classes.append((assessment.engines[0].verdict.bottleneck, assessment.gpus[0].verdict.bottleneck))
    assert ("host", "host") in classes
    assert all(engine == gpu for engine, gpu in classes)


def test_a_histogram_that_is_missing_once_is_not_counted_again() -> None:
    bench = Bench()

    def page(count: float | None) -> ServerReading:
        shown = None if count is None else Histogram(bounds=(math.inf,), cumulative=(count,), sum=count)
        return vllm(0, time_to_first_token=shown)

    for count in (100_000, 100_010, None, 100_030):
        bench.engine.answer = page(count)
        assessment = bench.run(5)
    assert assessment.engines[0].totals.histograms["time_to_first_token"].count == 30


def test_a_lost_gpu_moves_no_other_gpu_to_another_rank() -> None:
    bench = Bench(gpus=(1, 0))
    other = replace(H100, index=1, uuid="GPU-1")
    page = vllm(1000).engines[0]
    bench.nvml.answer = NodeReading(gpus=(H100, other))
    bench.engine.answer = ServerReading(engines=(page, replace(page, rank="1")))
    assert [e.gpu_uuids for e in bench.run(10).engines] == [("GPU-1",), ("GPU-0",)], "in the order listed"
    lost = GpuLost(index=0, uuid="GPU-0", name=H100.name, reason="lost", message="gone")
    bench.nvml.answer = NodeReading(gpus=(lost, other))
    assert [e.gpu_uuids for e in bench.run(10).engines] == [("GPU-1",), ("GPU-0",)]
    bench.engine.answer = ServerReading(engines=(page,))
    assert bench.run(10).engines[0].gpu_uuids == ("GPU-1",), "the other rank has left the page"


def test_a_rank_that_leaves_the_page_is_down_and_later_forgotten() -> None:
    bench = Bench()
    page = vllm(1000).engines[0]
    bench.engine.answer = ServerReading(engines=(page, replace(page, rank="1")))
    bench.run(10)
    bench.engine.answer = ServerReading(engines=(page,))
    assert [(e.key.rank, e.up) for e in bench.run(10).engines] == [("0", True), ("1", False)]
    assert [(e.key.rank, e.up) for e in bench.run(620).engines] == [("0", True)]


@pytest.mark.parametrize("capacity", [10**400, "many"], ids=["absurd", "not even a number"])
def test_a_page_of_absurd_numbers_costs_its_own_engine_only(capacity: Any) -> None:
    bench = Bench(neighbour=True)
    (absurd,) = vllm(1000).engines
    bench.neighbour.answer = ServerReading(engines=(replace(absurd, kv_capacity_tokens=capacity),))
    assessment = serving(bench, 30)
    healthy, sick = assessment.engines
    assert healthy.up
    assert not sick.up
    assert assessment.gpus[0].up


def test_a_gpu_that_was_never_read_is_shown_as_down() -> None:
    bench = Bench()
    bench.nvml.answer = NodeReading(
        gpus=(GpuLost(index=0, uuid=None, name=None, reason="lost", message="gone"),)
    )
    (gpu,) = bench.run(5).gpus
    assert (gpu.up, gpu.uuid) == (False, "")


def test_an_engine_whose_gpus_cannot_be_read_is_told_so() -> None:
    bench = Bench()
    serving(bench, 60)
    bench.nvml.answer = SourceError("unknown", "the driver is sick")
    bench.run(5)
    assert serving(bench, 5, start=66_000).engines[0].verdict.reason == "its GPUs cannot be read now"


def test_tensor_parallel_is_as_many_gpus_as_an_engine_has() -> None:
    bench = Bench(gpus=(0, 1))
    bench.nvml.answer = NodeReading(gpus=(H100, replace(H100, index=1, uuid="GPU-1")))
    served = serving(bench, 30).engines[0].served
    assert served is not None
    assert served.tensor_parallel == 2


# --- assess never raises on any subset of missing fields -----------------------------------------


def subset(instance: Any) -> st.SearchStrategy[Any]:
    """The same value with any of its optional fields missing."""
    optional = [f.name for f in fields(instance) if f.default is None]
    return st.sets(st.sampled_from(optional)).map(lambda missing: replace(instance, **dict.fromkeys(missing)))


FULL_ENGINE = replace(
    vllm(5000).engines[0],
    time_to_first_token=Histogram(bounds=(0.1, math.inf), cumulative=(3, 4), sum=0.5),
    start_time_seconds=1.0,
    facts=ModelFacts(kv_dtype="auto"),
)


@settings(max_examples=60)
@given(
    gpu=subset(H100),
    activity=st.none() | subset(H100.activity),
    engine=subset(FULL_ENGINE),
    counters=subset(FULL_ENGINE.counters),
    facts=subset(FULL_ENGINE.facts),
    model=st.sampled_from(["llama-3.1-8b", "unheard-of", ""]),
    growth=st.floats(min_value=0, max_value=1e6),
)
def test_nothing_that_is_missing_makes_it_raise(
    gpu: GpuReading,
    activity: Activity | None,
    engine: EngineReading,
    counters: EngineCounters,
    facts: ModelFacts,
    model: str,
    growth: float,
) -> None:
    bench = Bench()
    bench.nvml.answer = NodeReading(gpus=(replace(gpu, activity=activity),))
    for step in range(4):
        grown = {
            f.name: value + growth * step
            for f in fields(counters)
            if (value := getattr(counters, f.name)) is not None
        }
        reading = replace(engine, model=model, counters=EngineCounters(**grown), facts=facts)
        bench.engine.answer = ServerReading(engines=(reading,))
        assessment = bench.run(5)
    conserved(assessment, 19)
