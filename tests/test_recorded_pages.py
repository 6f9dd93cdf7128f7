"""Pages recorded from a real vLLM 0.32.0, read by the whole agent at the times of their recording."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent.app import Agent
from agent.assessment import Assessment, EngineAssessment
from agent.clock import ManualClock
from agent.config import Configuration
from agent.simulate.http_server import HttpServer
from tests.simulate.pages import Page as RecordedPage
from tests.simulated import Page, Series

RECORDED = Path(__file__).parent / "fixtures" / "vllm"

TIMES: Mapping[str, float] = {
    name: float(unix)
    for name, unix in (line.split() for line in (RECORDED / "0.32.0-times.txt").read_text().splitlines())
}
TINY_LLAMA = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 1024,
}
"""The model that the recorded server served."""


def recorded(name: str) -> str:
    return (RECORDED / f"0.32.0-{name}.txt").read_text()


class Replay:
    """An agent that reads recorded pages, one after the other, over HTTP."""

    def __init__(self, config_json: Path) -> None:
        self._page = ""
        self._http = HttpServer(lambda _: ("text/plain; version=0.0.4; charset=utf-8", self._page.encode()))
        self._http.open()
        self._clock = ManualClock(unix_seconds=TIMES["idle"])
        self._agent = Agent(
            Configuration.model_validate(
                {
                    "nvml": {"enabled": False},
                    "engines": [
                        {
                            "url": f"http://127.0.0.1:{self._http.port}/metrics",
                            "model": {"config_json": config_json},
                        }
                    ],
                }
            ),
            clock=self._clock,
        )

    def read(self, name: str, *, unix_seconds: float | None = None) -> Assessment:
        """What is concluded of this page, read at its time or at the one given."""
        self._page = recorded(name)
        at = TIMES[name] if unix_seconds is None else unix_seconds
        self._clock.advance(at - self._clock.unix())
        return self._agent.beat(engines=True)

    def page(self) -> Page:
        """The agent's own page now."""
        return Page(text=self._agent.renderer.render(None, None).body.decode(), openmetrics="")

    def close(self) -> None:
        for poller in self._agent.pollers:
            poller.close()
        self._http.close()


@pytest.fixture
def replay(tmp_path: Path) -> Iterator[Replay]:
    config_json = tmp_path / "config.json"
    config_json.write_text(json.dumps(TINY_LLAMA))
    replayed = Replay(config_json)
    yield replayed
    replayed.close()


def one(assessment: Assessment) -> EngineAssessment:
    (engine,) = assessment.engines
    assert engine.up, engine.problem
    return engine


# --- one server ----------------------------------------------------------------------------------

OURS_AND_THEIRS: Mapping[str, Callable[[RecordedPage], float]] = {
    "engine_generation_tokens_total": lambda page: page["generation_tokens_total"],
    "engine_prefill_tokens_total": lambda page: page.labelled(
        "prompt_tokens_by_source_total", source="local_compute"
    ),
    "engine_cached_prompt_tokens_total": lambda page: page["prompt_tokens_cached_total"],
    "engine_steps_total": lambda page: page["iteration_tokens_total_count"],
    "engine_preemptions_total": lambda page: page["num_preemptions_total"],
    "engine_requests_total": lambda page: page["request_success_total"],
    "engine_time_to_first_token_seconds_count": lambda page: page["time_to_first_token_seconds_count"],
    "engine_time_to_first_token_seconds_sum": lambda page: page["time_to_first_token_seconds_sum"],
    "engine_inter_token_latency_seconds_count": lambda page: page["inter_token_latency_seconds_count"],
    "engine_inter_token_latency_seconds_sum": lambda page: page["inter_token_latency_seconds_sum"],
    "engine_request_latency_seconds_count": lambda page: page["e2e_request_latency_seconds_count"],
}
"""By the name of ours, without its prefix: what it must rise as."""


def total(samples: Mapping[Series, float], name: str) -> float:
    """The sum of this sample over its label sets."""
    values = [value for (sample, _), value in samples.items() if sample == f"roofline_{name}"]
    assert values, name
    return sum(values)


def test_our_counters_rise_exactly_as_the_pages(replay: Replay) -> None:
    first = RecordedPage(recorded("idle"))
    for name in TIMES:
        replay.read(name)
        ours, theirs = replay.page().samples(), RecordedPage(recorded(name))
        for metric, read in OURS_AND_THEIRS.items():
            assert total(ours, metric) == pytest.approx(read(theirs) - read(first), rel=1e-12), (name, metric)
    assert total(ours, "engine_generation_tokens_total") == 63_616


def test_our_counters_obey_vllms_identities(replay: Replay) -> None:
    for name in TIMES:
        totals = one(replay.read(name)).totals
        counters, steps = totals.counters, totals.histograms["step_tokens"]
        generated = counters["generation_tokens"]
        assert counters["inter_token_intervals"] + counters["first_tokens"] == generated
        assert steps.sum == counters["prefill_tokens"] + generated
        assert steps.count == counters["steps"]


def test_the_decode_batch_is_what_was_running(replay: Replay) -> None:
    before = one(replay.read("load-1"))
    for name in ("load-2", "load-3", "load-4"):
        engine = one(replay.read(name))
        counters, then = engine.totals.counters, before.totals.counters
        sequences = counters["inter_token_intervals"] - then["inter_token_intervals"]
        assert 13 <= sequences / (counters["steps"] - then["steps"]) <= 16
        before = engine
    assert engine.traffic is not None
    assert engine.traffic.decode_batch is not None
    assert 15 <= engine.traffic.decode_batch <= 16


def test_the_work_is_that_of_the_configured_model(replay: Replay) -> None:
    replay.read("load-1")
    engine = one(replay.read("load-4"))
    assert engine.served_origin == "configuration"
    assert engine.served is not None
    assert engine.work is not None
    assert engine.work_totals is not None
    assert sum(engine.work_totals.flops.values()) == pytest.approx(engine.work.flops)
    estimated = engine.totals.counters["estimated_flops_per_gpu"]
    # vLLM's own estimate bills a prompt's attention as if it were not causal: much in so small a model.
    assert 0.8 <= engine.work.flops / estimated <= 1
    assert engine.verdict.bottleneck == "unknown"
    assert "GPU" in engine.verdict.reason


# --- other servers -------------------------------------------------------------------------------


def at_intervals(replay: Replay, names: Sequence[str]) -> list[Assessment]:
    """Pages whose times were not recorded, two seconds apart."""
    return [
        replay.read(name, unix_seconds=TIMES["idle"] + 2 * position) for position, name in enumerate(names)
    ]


def test_data_parallel_ranks_are_two_engines(replay: Replay) -> None:
    names = ["dp2-idle", "dp2-load-1", "dp2-load-2", "dp2-after"]
    for assessment in at_intervals(replay, names):
        assert [(e.key.rank, e.up) for e in assessment.engines] == [("0", True), ("1", True)]
    first, last = RecordedPage(recorded(names[0])), RecordedPage(recorded(names[-1]))
    samples = replay.page().samples()
    for rank in ("0", "1"):
        (ours,) = (
            value
            for (name, labels), value in samples.items()
            if name == "roofline_engine_generation_tokens_total" and ("rank", rank) in labels
        )
        labelled = [page.labelled("generation_tokens_total", engine=rank) for page in (first, last)]
        assert ours == labelled[1] - labelled[0] > 0


@pytest.mark.parametrize(
    "names", [["lora-idle", "lora-load-1"], ["api2-idle", "api2-load-1"]], ids=["lora", "two API servers"]
)
def test_pages_of_other_settings_are_read(replay: Replay, names: list[str]) -> None:
    assessments = at_intervals(replay, names)
    engine = one(assessments[-1])
    theirs = [RecordedPage(recorded(name))["generation_tokens_total"] for name in names]
    assert engine.totals.counters["generation_tokens"] == theirs[1] - theirs[0] > 0
    assert engine.problem is None
    assert total(replay.page().samples(), "source_malformed_lines") == 0
