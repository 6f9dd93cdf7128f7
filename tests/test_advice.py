"""Advice: from the simulator's scenarios and built assessments, with effects worked out by hand."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.advice.model import KINDS, Advice, Effect, Kind
from agent.advice.node import MOST, advise_node
from agent.assessment import Assessment, Span
from agent.clock import ManualClock
from agent.readings import ModelFacts, NodeReading, ServerReading
from agent.roster import MonitoredServer, Roster
from agent.sampler import Inputs, Sampler, Settings
from agent.simulate.scenario import Engine, Gpu, Lengths, Scenario, Server, Traffic
from agent.simulate.scenarios import BLOCKS_8B_SHARED, LLAMA_8B, SCENARIOS
from agent.sources.base import Poller
from tests.exposition import scenes
from tests.simulated import watch_scenario
from tests.test_sampler import subset

H100_BYTES_PER_SECOND = 3.35e12
WEIGHTS_BF16, WEIGHTS_FP8 = 15.01e9, 8.03e9
"""Llama-3.1-8B, read once a step: 6.98e9 weights in the layers, 0.53e9 in the head, which stays in 16 bit."""
KV_BYTES = 131072


@cache
def seen(name: str, seconds: int = 90) -> Assessment:
    return watch_scenario(SCENARIOS[name], seconds).assessments[seconds]


def kinds(assessment: Assessment) -> set[Kind]:
    return {advice.kind for advice in advise_node(assessment)}


def the(kind: Kind, assessment: Assessment) -> Advice:
    (found,) = [advice for advice in advise_node(assessment) if advice.kind == kind]
    return found


def effect_of(kind: Kind, assessment: Assessment) -> Effect:
    effect = the(kind, assessment).effect
    assert effect is not None
    return effect


def edited(assessment: Assessment, *, gpu: dict[str, Any] | None = None, **engine: Any) -> Assessment:
    """The same node, with other fields in each of its GPUs and engines."""
    return replace(
        assessment,
        gpus=tuple(replace(each, **(gpu or {})) for each in assessment.gpus),
        engines=tuple(replace(each, **engine) for each in assessment.engines),
    )


# --- what is said, and what is not -----------------------------------------------------------------

SAID: dict[str, tuple[int, set[Kind]]] = {
    "idle": (330, {"consolidate_idle"}),
    "memory-bound-decode": (90, {"quantize_weights", "other_hardware"}),
    "compute-bound-prefill": (90, set()),
    "mixed": (90, {"quantize_weights", "disaggregate"}),
    "host-bound": (90, {"reduce_host_gaps"}),
    "preempting": (90, {"more_kv_memory", "quantize_weights"}),
    "max-num-seqs": (90, {"raise_max_num_seqs", "quantize_weights"}),
    "throttled": (90, {"remove_throttle"}),
    "hung-engine": (150, {"engine_may_hang"}),
    "contradicting-evidence": (90, set()),
    "shared-gpu": (90, {"quantize_weights"}),
}


@pytest.mark.parametrize("name", SAID)
def test_each_scenario_is_told_what_helps_it_and_nothing_else(name: str) -> None:
    seconds, expected = SAID[name]
    assert kinds(seen(name, seconds)) == expected


def test_a_lull_is_no_reason_to_give_a_gpu_away() -> None:
    assert kinds(seen("idle")) == set()


def test_a_whole_node_gets_a_handful_of_it_ordered_by_benefit() -> None:
    advices = advise_node(seen("node"))
    assert 3 <= len(advices) <= MOST
    for number, advice in enumerate(advices):
        assert set(advice.after) <= {
            earlier.kind for earlier in advices[:number] if earlier.engines == advice.engines
        }
    firsts = [advice.benefit_gpus for advice in advices if not advice.after]
    assert firsts == sorted(firsts, reverse=True)


def test_replicas_that_need_the_same_are_told_once() -> None:
    quantize = the("quantize_weights", seen("data-parallel"))
    assert [key.rank for key in quantize.engines] == ["0", "1"]
    assert [gpu.index for gpu in quantize.gpus] == [0, 1]
    assert quantize.subject.endswith("rank 1 on GPU 0, 1")


def test_every_advice_says_why_and_when_it_would_be_wrong() -> None:
    for name, (seconds, _) in SAID.items():
        for advice in advise_node(seen(name, seconds)):
            assert advice.title
            assert advice.reason.endswith((".", "?", ")"))
            assert advice.wrong_when
            assert advice.subject
            assert (advice.expected == "") == (advice.effect is None)


# --- effects by hand --------------------------------------------------------------------------------


def test_fp8_weights_halve_what_decode_reads_and_nothing_else() -> None:
    assessment = seen("memory-bound-decode")
    traffic = assessment.engines[0].traffic
    assert traffic is not None
    assert traffic.decode_batch is not None
    assert traffic.context_tokens is not None
    kv = traffic.decode_batch * traffic.context_tokens * KV_BYTES
    before = traffic.decode_step_seconds
    now = (WEIGHTS_BF16 + kv) / (H100_BYTES_PER_SECOND * 0.93)
    then = (WEIGHTS_FP8 + kv) / (H100_BYTES_PER_SECOND * 0.86) + 32 * 1e-6  # κ is a microsecond more
    effect = effect_of("quantize_weights", assessment)
    assert effect.seconds_per_token_ratio == pytest.approx((before - now + then) / before, rel=0.01)
    assert effect.tokens_per_second_ratio == pytest.approx(before / (before - now + then), rel=0.01)
    assert effect.bytes_freed == pytest.approx(6.98e9, rel=0.001)
    assert effect.kv_tokens == pytest.approx(6.98e9 / KV_BYTES, rel=0.001)


def test_fp8_weights_are_not_advised_where_they_are_there_already() -> None:
    assessment = seen("memory-bound-decode")
    served = assessment.engines[0].served
    assert served is not None
    narrow = replace(served, weight_dtype=replace(served.weight_dtype, name="fp8", bytes_per_weight=1.0))
    assert "quantize_weights" not in kinds(edited(assessment, served=narrow))


def test_another_part_is_on_top_of_smaller_weights_and_costs_its_price() -> None:
    advice = the("other_hardware", seen("memory-bound-decode"))
    assert advice.after == ("quantize_weights",)
    assert "typical prices" in advice.reason
    effect = advice.effect
    assert effect is not None
    assert effect.tokens_per_second_ratio is not None
    assert advice.title == "Compare the price of 1 × RTX-A5000"
    price_ratio = 0.22 / 2.95
    assert effect.usd_per_million_tokens_ratio == pytest.approx(
        price_ratio / effect.tokens_per_second_ratio, rel=1e-6
    )
    read = (WEIGHTS_FP8 + 6 * 440 * KV_BYTES) / (768e9 * 0.78)  # widened to bf16: there is no fp8 path
    assert effect.seconds_per_token_ratio == pytest.approx((read + 32 * 30e-6 + 0.5e-3) / 4.7e-3, rel=0.05)


def shaken(assessment: Assessment, noise: random.Random) -> Assessment:
    """The same node a moment later: what was counted and how long it took, each by up to 2 % more or less."""

    def near(value: float) -> float:
        return value * noise.uniform(0.98, 1.02)

    engines = []
    for engine in assessment.engines:
        assert engine.traffic is not None
        assert engine.window is not None
        assert engine.attribution is not None
        work, longer = engine.traffic.work, near(1.0)
        work = replace(
            work,
            decode_tokens=near(work.decode_tokens),
            decode_context=near(work.decode_context),
            prefill_tokens=near(work.prefill_tokens),
        )
        parts = asdict(engine.attribution)
        residual = parts.pop("residual_ratio")
        parts = {name: seconds * longer for name, seconds in parts.items()}
        engines.append(
            replace(
                engine,
                traffic=replace(engine.traffic, work=work),
                window=replace(engine.window, running_mean=near(engine.window.running_mean or 0.0)),
                attribution=replace(engine.attribution, **parts, residual_ratio=residual),
            )
        )
    return replace(assessment, engines=tuple(engines))


@pytest.mark.parametrize("name", ["node", "memory-bound-decode"])
def test_the_part_that_is_named_does_not_change_with_the_noise_of_a_window(name: str) -> None:
    assessment, noise = seen(name), random.Random(7)

    def named(assessment: Assessment) -> set[str]:
        return {each.title for each in advise_node(assessment) if each.kind == "other_hardware"}

    assert named(assessment)
    assert {title for _ in range(100) for title in named(shaken(assessment, noise))} == named(assessment)


def test_of_parts_that_cost_the_same_the_fastest_is_named() -> None:
    """One B200, one H200 and two A100s give the 70B its tokens for 0.63 to 0.65 × the cost."""
    (advice,) = [
        each for each in advise_node(seen("node")) if each.kind == "other_hardware" and len(each.gpus) == 4
    ]
    assert advice.title == "Compare the price of 1 × B200"
    assert advice.effect is not None
    assert advice.effect.seconds_per_token_ratio == pytest.approx(1.3, rel=0.05)
    assert advice.effect.usd_per_million_tokens_ratio == pytest.approx(0.63, rel=0.02)


def test_a_large_batch_needs_no_other_hardware() -> None:
    assessment = seen("max-num-seqs")
    assert "other_hardware" not in kinds(edited(assessment, limiter="traffic"))


def test_a_larger_batch_shares_the_same_read_of_the_weights() -> None:
    assessment = seen("max-num-seqs")
    advice, traffic = the("raise_max_num_seqs", assessment), assessment.engines[0].traffic
    assert advice.title == "Raise max_num_seqs from 16 to 40"
    assert traffic is not None
    assert traffic.decode_batch is not None
    assert traffic.context_tokens is not None
    assert advice.effect is not None
    growth = 40 / 16
    more_kv = (growth - 1) * traffic.decode_batch * traffic.context_tokens * KV_BYTES
    prefill = traffic.work.prefill_tokens / traffic.work.decode_steps * 2 * 6.98e9 / (989.4e12 * 1.08 * 0.67)
    before = traffic.decode_step_seconds
    after = before + more_kv / (H100_BYTES_PER_SECOND * 0.89) + (growth - 1) * prefill
    assert advice.effect.batch == pytest.approx(growth * traffic.decode_batch, rel=0.01)
    assert advice.effect.seconds_per_token_ratio == pytest.approx(after / before, rel=0.02)
    assert advice.effect.tokens_per_second_ratio == pytest.approx(growth * before / after, rel=0.02)


def test_no_more_sequences_than_the_cache_holds() -> None:
    assessment = seen("max-num-seqs")
    cache_ = assessment.engines[0].kv
    assert cache_ is not None
    small = replace(cache_, capacity_tokens=30 * 463.8 / 0.9)
    assert the("raise_max_num_seqs", edited(assessment, kv=small)).title.endswith("from 16 to 30")
    full = replace(cache_, capacity_tokens=16 * 463.8)
    assert "raise_max_num_seqs" not in kinds(edited(assessment, kv=full))


def test_missing_cache_is_counted_in_tokens() -> None:
    assessment = seen("preempting")
    window, traffic = assessment.engines[0].window, assessment.engines[0].traffic
    assert window is not None
    assert traffic is not None
    assert window.running_mean is not None
    assert window.waiting_mean is not None
    assert traffic.context_tokens is not None
    wanted = (window.running_mean + window.waiting_mean) * traffic.context_tokens / 0.9
    advice = the("more_kv_memory", assessment)
    assert advice.effect is not None
    assert advice.effect.kv_tokens == pytest.approx(wanted - 19_200)
    assert "gpu_memory_utilization" in advice.reason


def test_a_batch_never_grows_beyond_those_who_want_to_run() -> None:
    advice = the("more_kv_memory", seen("preempting"))
    assert "64 requests of" in advice.reason
    assert advice.effect is not None
    assert advice.effect.batch is not None
    assert advice.effect.batch <= 64
    assert "a batch of 64" in advice.expected


def test_a_cache_that_cannot_grow_is_quantized_first() -> None:
    assessment = seen("preempting")
    reading = assessment.gpus[0].reading
    assert reading is not None
    full = edited(assessment, gpu={"reading": replace(reading, memory_free_bytes=0)})
    effect = effect_of("quantize_kv_cache", full)
    assert effect.kv_tokens == pytest.approx(19_200), "half the bytes, twice the tokens"
    window, traffic = full.engines[0].window, full.engines[0].traffic
    assert window is not None
    assert traffic is not None
    assert window.running_mean is not None
    assert traffic.decode_batch is not None
    assert traffic.context_tokens is not None
    assert traffic.decode_batch > window.running_mean, "the gauge was read in a low moment"
    assert effect.batch == pytest.approx(0.9 * 2 * 19_200 / traffic.context_tokens)
    assert "more_kv_memory" not in kinds(full), "nothing worth the trouble is missing any more"


def test_gaps_of_the_host_are_all_that_is_to_be_had_without_them() -> None:
    assessment = seen("host-bound")
    attribution = assessment.engines[0].attribution
    assert attribution is not None
    effect = effect_of("reduce_host_gaps", assessment)
    assert effect.tokens_per_second_ratio == pytest.approx(1 / (1 - attribution.shares["host"]))


def test_a_throttle_is_worth_what_it_takes_from_the_compute_share() -> None:
    assessment = seen("throttled")
    gpu, attribution = assessment.gpus[0], assessment.engines[0].attribution
    assert attribution is not None
    lost = attribution.shares["compute"] * (1 - gpu.compute_clock_ratio)
    effect = effect_of("remove_throttle", assessment)
    assert effect.usd_per_million_tokens_ratio == pytest.approx(1 - lost, rel=0.01)


def test_a_throttle_that_binds_nothing_is_left_alone() -> None:
    assessment = scenes.throttled()
    assert assessment.gpus[0].throttle is not None
    assert assessment.gpus[0].verdict.bottleneck == "memory_bandwidth"
    assert "remove_throttle" not in kinds(assessment)


def test_a_throttled_gpu_without_an_engine_is_told_of_without_a_number() -> None:
    assessment = seen("throttled")
    gpu = replace(assessment.gpus[0], engines=())
    advice = the("remove_throttle", replace(assessment, gpus=(gpu,), engines=()))
    assert advice.effect is None
    assert advice.gpus[0].index == 0


def test_prefill_in_decoding_steps_is_the_wait_that_goes_away() -> None:
    assessment = seen("mixed")
    attribution = assessment.engines[0].attribution
    assert attribution is not None
    effect = effect_of("disaggregate", assessment)
    decode = attribution.decode_seconds / attribution.busy_seconds
    assert effect.seconds_per_token_ratio == pytest.approx(decode)
    told = assessment.engines[0].interference_ratio
    assert told is not None
    assert effect.seconds_per_token_ratio == 1 - told, "what the metric says of the same"
    assert effect.usd_per_million_tokens_ratio is None, "it needs another GPU: what it costs is not told"


# --- tensor parallel --------------------------------------------------------------------------------


@cache
def tensor_parallel(ranks: int, step_seconds: float) -> Assessment:
    """An 8B model over so many H100s, eight sequences at a time."""
    clock = ManualClock()
    gpus = tuple(replace(scenes.H100, index=index, uuid=f"GPU-{index}") for index in range(ranks))
    gpus = tuple(replace(gpu, activity=None) for gpu in gpus)
    nvml: Poller[NodeReading] = Poller(
        scenes.Scripted("nvml", scenes.node_of(*gpus), clock),
        interval_seconds=1,
        deadline_seconds=5,
        clock=clock,
    )
    engine: Poller[ServerReading] = Poller(
        scenes.Scripted("engine:h:8000", scenes.decoding(step_seconds=step_seconds), clock),
        interval_seconds=5,
        deadline_seconds=5,
        clock=clock,
    )
    server = MonitoredServer(
        poller=engine,
        server="h:8000",
        engine="vllm",
        gpus=tuple(range(ranks)),
        model=ModelFacts(tensor_parallel=ranks),
    )
    sampler = Sampler(
        Inputs(settings=Settings(node="n"), nvml=nvml),
        roster=Roster(configured=[server], clock=clock),
        clock=clock,
    )
    for second in range(60):
        clock.advance(1)
        nvml.poll()
        if second % 5 == 0:
            engine.poll()
        sampler.tick()
    assert sampler.latest is not None
    return sampler.latest


def test_half_the_ranks_where_they_only_wait_for_each_other() -> None:
    step = 0.0033
    effect = effect_of("fewer_tensor_parallel_ranks", tensor_parallel(4, step))
    read = (WEIGHTS_BF16 + 8 * 400 * KV_BYTES) / (H100_BYTES_PER_SECOND * 0.89)
    all_reduces = 65 * ((4.3e-6 + 65536 / 242e9) - (5.1e-6 + 65536 / 184e9))
    longer = step + read / 2 - read / 4 + all_reduces
    assert effect.seconds_per_token_ratio == pytest.approx(longer / step, rel=0.05)
    assert effect.tokens_per_second_ratio == pytest.approx(step / longer, rel=0.05)
    assert effect.usd_per_million_tokens_ratio == pytest.approx(longer / step / 2, rel=0.05)
    assert effect.gpus_freed == 2


def test_ranks_that_read_weights_stay() -> None:
    assert "fewer_tensor_parallel_ranks" not in kinds(tensor_parallel(2, 0.0048))


def test_ranks_stay_where_half_of_them_do_not_hold_the_model() -> None:
    assessment = tensor_parallel(4, 0.0033)
    spec = assessment.gpus[0].spec
    assert spec is not None
    small = edited(assessment, gpu={"spec": replace(spec, memory_gigabytes=8)})
    assert "fewer_tensor_parallel_ranks" not in kinds(small)


# --- idle, doubts -----------------------------------------------------------------------------------


@cache
def two_quiet_engines() -> Assessment:
    traffic = Traffic(
        requests_per_second=0.1, prompt=Lengths(low=50, high=400), output=Lengths(low=100, high=300)
    )
    engines = [
        Engine(model=LLAMA_8B, gpus=(gpu,), traffic=traffic, num_gpu_blocks=BLOCKS_8B_SHARED)
        for gpu in (0, 1)
    ]
    scenario = Scenario(
        name="two-quiet",
        description="Two engines with hardly anything to do.",
        gpus=(Gpu(), Gpu()),
        servers=tuple(Server(engines=(engine,)) for engine in engines),
    )
    return watch_scenario(scenario, 400).assessments[400]


def test_two_quiet_engines_share_a_gpu() -> None:
    advice = the("consolidate_idle", two_quiet_engines())
    assert len(advice.engines) == 2
    assert advice.effect is not None
    assert advice.effect.gpus_freed == 1
    assert advice.title == "Serve both with one replica"


def test_two_engines_that_one_gpu_does_not_hold_stay_apart() -> None:
    assessment = two_quiet_engines()
    spec = assessment.gpus[0].spec
    assert spec is not None
    assert "consolidate_idle" not in kinds(
        edited(assessment, gpu={"spec": replace(spec, memory_gigabytes=16)})
    )


def test_a_gpu_that_nobody_holds_is_not_to_be_released() -> None:
    assessment = scenes.eight_gpus()
    gpu = assessment.gpus[7]
    assert gpu.reading is not None
    now = assessment.at_unix_seconds
    history = (Span(start_unix_seconds=now - 600, end_unix_seconds=now, bottleneck="idle"),)

    def with_memory(used: int) -> Assessment:
        assert gpu.reading is not None
        rests = replace(gpu, history=history, reading=replace(gpu.reading, memory_used_bytes=used))
        return replace(assessment, gpus=(*assessment.gpus[:7], rests))

    held = the("consolidate_idle", with_memory(70_000_000_000))
    assert [key.index for key in held.gpus] == [7]
    assert "consolidate_idle" not in kinds(with_memory(500_000_000))


@pytest.mark.parametrize("ratio", [0.5, 1.95])
def test_a_model_that_does_not_agree_is_to_be_checked_before_anything_else(ratio: float) -> None:
    assessment = edited(seen("memory-bound-decode"), agreement_ratio=ratio)
    (advice,) = advise_node(assessment)
    assert advice.kind == "check_model_configuration"
    assert ("weights in fp8" in advice.reason) == (ratio > 1)


def test_a_model_that_agrees_is_not_questioned() -> None:
    for ratio in (0.75, 1.4):
        assert "check_model_configuration" not in kinds(
            edited(seen("memory-bound-decode"), agreement_ratio=ratio)
        )


def test_steps_shorter_than_the_model_allows_are_a_reason_too() -> None:
    assessment = scenes.observe(
        scenes.node_of(scenes.H100), {"127.0.0.1:8000": scenes.decoding(step_seconds=0.003)}
    )
    assert kinds(assessment) == {"check_model_configuration"}


def test_every_kind_is_tested_here() -> None:
    told = set().union(*(expected for _, expected in SAID.values()))
    told |= kinds(tensor_parallel(4, 0.0033)) | {"quantize_kv_cache", "check_model_configuration"}
    assert told == set(KINDS)


# --- whatever is missing ----------------------------------------------------------------------------

WHOLE: tuple[Callable[[], Assessment], ...] = (
    *(lambda name=name: seen(name) for name in ("memory-bound-decode", "preempting", "mixed", "throttled")),
    lambda: seen("max-num-seqs"),
    lambda: tensor_parallel(4, 0.0033),
    two_quiet_engines,
    *scenes.SCENES.values(),
)


@settings(max_examples=100, deadline=None)
@given(data=st.data(), scene=st.sampled_from(WHOLE))
def test_nothing_that_is_missing_makes_it_raise(data: st.DataObject, scene: Callable[[], Assessment]) -> None:
    assessment = scene()
    assessment = replace(
        assessment,
        gpus=tuple(
            data.draw(subset(replace(gpu, reading=gpu.reading and data.draw(subset(gpu.reading)))))
            for gpu in assessment.gpus
        )[: data.draw(st.integers(min_value=0, max_value=8))],
        engines=tuple(
            data.draw(subset(replace(engine, kv=engine.kv and data.draw(subset(engine.kv)))))
            for engine in assessment.engines
        ),
    )
    for advice in advise_node(assessment):
        for name in ("tokens_per_second_ratio", "seconds_per_token_ratio", "usd_per_million_tokens_ratio"):
            ratio = getattr(advice.effect, name, None)
            assert ratio is None or (math.isfinite(ratio) and ratio > 0)
