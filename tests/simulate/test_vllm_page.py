from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from agent.simulate.scenario import Engine, Gpu, Lengths, Scenario, Server, Traffic
from agent.simulate.scenarios import LLAMA_8B
from tests.simulate.conftest import NodeFactory
from tests.simulate.pages import Page, page_of

RECORDED = Path(__file__).parents[1] / "fixtures" / "vllm"

BUSY = ["memory-bound-decode", "compute-bound-prefill", "mixed", "preempting", "kv-nearly-full", "shared-gpu"]


def small_pool(*, shared_prefix_tokens: int = 0) -> Scenario:
    """Requests that seldom meet; when they do, the pool is too small for them."""
    engine = Engine(
        model=LLAMA_8B,
        gpus=(0,),
        traffic=Traffic(
            requests_per_second=0.4,
            prompt=Lengths(low=300, high=600),
            output=Lengths(low=200, high=500),
            shared_prefix_tokens=shared_prefix_tokens,
        ),
        num_gpu_blocks=100,
    )
    servers = (Server(engines=(engine,)),)
    return Scenario(name="small-pool", description="", gpus=(Gpu(),), servers=servers)


@pytest.mark.parametrize("scenario", BUSY)
def test_vllms_identities_hold_at_any_time(make_node: NodeFactory, scenario: str) -> None:
    node, clock = make_node(scenario)
    random = Random(scenario)
    for _ in range(25):
        clock.advance(random.expovariate(1.0))
        page = page_of(node)
        generated = page["generation_tokens_total"]
        computed = page.labelled("prompt_tokens_by_source_total", source="local_compute")
        cached = page.labelled("prompt_tokens_by_source_total", source="local_cache_hit")
        first_tokens = page["time_to_first_token_seconds_count"]
        assert page["inter_token_latency_seconds_count"] + first_tokens == generated
        assert page["iteration_tokens_total_sum"] == computed + generated
        assert page["prompt_tokens_total"] == computed + cached
        assert page["prompt_tokens_cached_total"] == cached
        assert page["num_requests_waiting"] == page["num_requests_waiting_by_reason"]
        assert page["request_success_total"] == page["e2e_request_latency_seconds_count"]
        assert 0 <= first_tokens - page["e2e_request_latency_seconds_count"] <= 256
        assert 0 <= page["kv_cache_usage_perc"] <= 1
        for name in ("inter_token_latency_seconds", "iteration_tokens_total", "request_prompt_tokens"):
            buckets = [s.value for s in page.samples if s.name == f"vllm:{name}_bucket"]
            assert buckets == sorted(buckets)
            assert buckets[-1] == page[f"{name}_count"]
    assert generated > 0


def test_the_page_agrees_with_the_truth(make_node: NodeFactory) -> None:
    node, clock = make_node("preempting")
    clock.advance(60)
    page, work = page_of(node), node.truth.work(0)
    assert page["generation_tokens_total"] == work.generation_tokens
    assert page["num_preemptions_total"] == work.preemptions > 10
    assert work.recomputed_tokens > 0
    # What is computed again shows nowhere on the page; what is in prefill just now does not show yet.
    computed = page.labelled("prompt_tokens_by_source_total", source="local_compute")
    assert computed < work.prefill_tokens
    assert page["iteration_tokens_total_count"] <= work.steps


def test_the_mean_inter_token_latency_is_the_mean_step(make_node: NodeFactory) -> None:
    node, clock = make_node("memory-bound-decode")
    clock.advance(60)
    page, work = page_of(node), node.truth.work(0)
    mean = page["inter_token_latency_seconds_sum"] / page["inter_token_latency_seconds_count"]
    assert mean == pytest.approx(60 / work.steps, rel=0.01)
    assert page["inter_token_latency_seconds_count"] / page["iteration_tokens_total_count"] == pytest.approx(
        work.batch_sum / work.decode_steps, rel=0.01
    )


@pytest.mark.parametrize("shared_prefix_tokens", [0, 128])
def test_every_kv_block_comes_back(make_node: NodeFactory, shared_prefix_tokens: int) -> None:
    node, clock = make_node(small_pool(shared_prefix_tokens=shared_prefix_tokens))
    idle = 0
    for _ in range(200):
        clock.advance(1.7)
        counters = node.servers[0].engines[0].counters
        page = page_of(node) if not idle else None
        assert 0 <= counters.kv_cache_usage_perc <= 1
        node.nvml.read()
        if counters.num_requests_running == counters.num_requests_waiting == 0:
            idle += 1
            assert counters.kv_cache_usage_perc == 0
        assert page is None or page["kv_cache_usage_perc"] == counters.kv_cache_usage_perc
    assert idle > 10
    assert node.truth.work(0).preemptions > 10


def test_a_shared_prefix_is_computed_once(make_node: NodeFactory) -> None:
    node, clock = make_node(small_pool(shared_prefix_tokens=128))
    clock.advance(200)
    page = page_of(node)
    hits, requests = page["prefix_cache_hits_total"], page["time_to_first_token_seconds_count"]
    assert hits == pytest.approx(128 * requests, abs=3 * 128)
    assert page.labelled("prompt_tokens_cached_by_source_total", source="device") == hits
    assert page["prefix_cache_queries_total"] > hits


def test_the_same_seed_gives_the_same_page_whoever_looked_in_between(make_node: NodeFactory) -> None:
    (watched, watched_clock), (unwatched, unwatched_clock) = make_node("mixed"), make_node("mixed")
    for _ in range(300):
        watched_clock.advance(0.25)
        watched.nvml.read()
    unwatched_clock.advance(75)
    other, other_clock = make_node("mixed", seed=8)
    other_clock.advance(75)
    page = watched.servers[0].answer("/metrics")
    assert page == unwatched.servers[0].answer("/metrics")
    assert page != other.servers[0].answer("/metrics")


@pytest.mark.parametrize("server", [0, 1])
def test_of_speculation_a_page_shows_guesses_and_one_latency_for_all_tokens_of_a_step(
    make_node: NodeFactory, server: int
) -> None:
    node, clock = make_node("speculative-decoding")
    clock.advance(60)
    page, work = page_of(node, server), node.truth.work(server)
    assert page["spec_decode_num_drafts_total"] == page["inter_token_latency_seconds_count"] == work.batch_sum
    assert page["spec_decode_num_draft_tokens_total"] == work.draft_tokens == 3 * work.batch_sum
    accepted = page["spec_decode_num_accepted_tokens_total"]
    by_place = [
        page.labelled("spec_decode_num_accepted_tokens_per_pos_total", position=str(place))
        for place in range(3)
    ]
    assert sum(by_place) == accepted == work.accepted_tokens
    first_tokens, generated = page["time_to_first_token_seconds_count"], page["generation_tokens_total"]
    assert generated == work.generation_tokens
    # Right guesses beyond the end of an answer are counted, and given to nobody.
    beyond = work.batch_sum + accepted + first_tokens - generated
    assert 0 <= beyond <= 2 * first_tokens
    computed = page.labelled("prompt_tokens_by_source_total", source="local_compute")
    assert page["iteration_tokens_total_sum"] == computed + generated


def test_without_speculation_a_page_shows_none_of_its_families(make_node: NodeFactory) -> None:
    page = page_of(make_node("memory-bound-decode")[0])
    assert not any("spec_decode" in family.name for family in page.families)


def test_names_and_labels_are_those_of_a_recorded_page(make_node: NodeFactory) -> None:
    node, clock = make_node("mixed")
    clock.advance(10)
    page = page_of(node)
    recorded = Page((RECORDED / "0.32.0-load-2.txt").read_text("utf-8"))
    assert {(f.name, f.type) for f in page.families} <= {(f.name, f.type) for f in recorded.families}
    recorded_labels = recorded.label_names()
    for name, labels in page.label_names().items():
        assert labels <= recorded_labels[name]
        assert labels == recorded_labels[name] or name == "vllm:cache_config_info"
    missing = {f.name for f in recorded.families if f.name.startswith("vllm:")} - {
        f.name for f in page.families
    }
    assert missing == set()


def test_buckets_are_those_of_a_recorded_page(make_node: NodeFactory) -> None:
    page, recorded = page_of(make_node("idle")[0]), Page((RECORDED / "0.32.0-idle.txt").read_text("utf-8"))

    def bounds(of: Page) -> dict[str, list[str]]:
        names = {f.name for f in of.families if f.type == "histogram" and f.name.startswith("vllm:")}
        return {n: [s.labels["le"] for s in of.samples if s.name == f"{n}_bucket"] for n in sorted(names)}

    ours, theirs = bounds(page), bounds(recorded)
    assert ours.keys() == theirs.keys()
    for name, les in theirs.items():
        # Those in tokens go up to the longest sequence, which the recorded server had shorter.
        assert ours[name] == les or ours[name][: len(les) - 1] == les[:-1]


def test_data_parallel_engines_stand_on_one_page_as_vllm_shows_them(make_node: NodeFactory) -> None:
    node, clock = make_node("data-parallel")
    clock.advance(20)
    page, recorded = page_of(node), Page((RECORDED / "0.32.0-dp2-load-2.txt").read_text("utf-8"))
    assert {f.name for f in page.families} <= {f.name for f in recorded.families}
    for rank in (0, 1):
        tokens = page.labelled("generation_tokens_total", engine=str(rank))
        assert tokens == node.truth.work(0, rank).generation_tokens > 0
        labels = next(
            s.labels for s in page.samples if s.name.endswith("info") and s.labels["engine"] == str(rank)
        )
        assert labels["num_gpu_blocks"] == "52000"
        assert labels["kv_cache_size_tokens"] == str(26000 * 16)
    of_histogram = [s.name for s in page.samples if s.name.startswith("vllm:request_params_n")]
    assert of_histogram[0].endswith("_sum")
    assert of_histogram[-1].endswith("_count")
