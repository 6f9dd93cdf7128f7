"""The agent beside a real vLLM server, on this CPU: what it says against what the client knows.

One story is played and recorded: the agent starts before its engine; a counted load, then one that hits
the prefix cache; requests that are held while the engine is killed; the engine again, on the same port,
and a last load. Then each test judges one claim on the record.

Run by ``make e2e-vllm``. It needs the vLLM that ``install_vllm.sh`` puts into ``$VLLM_DIR``.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import pytest

from tests.e2e.agent_process import AgentProcess, Page, Series, Watcher, wait_until
from tests.e2e.vllm_costs import causal_flops
from tests.e2e.vllm_load import Held, Request, random_requests
from tests.e2e.vllm_models import DENSE
from tests.e2e.vllm_process import BLOCK_TOKENS, VllmServer
from tests.e2e.vllm_record import (
    AGENT_FLOPS,
    INTERVAL_SECONDS,
    TOKENS,
    Figures,
    Load,
    Mark,
    Recorder,
    stage,
    tokens_and_flops,
)
from tests.promtool import promtool

STALE_SECONDS = 3 * INTERVAL_SECONDS
HELD_SECONDS = 12.0
SLACK_TOKENS = 3
"""Of a stream, around the moment of a page: the engine schedules ahead, and streams are read in turn."""

LOAD = random_requests(100, seed=1, prompt_tokens=(300, 900), max_tokens=(64, 256))
SHARED = random_requests(1, seed=2, prompt_tokens=(512, 512), max_tokens=(1, 1))[0].prompt
SHARING = [
    Request(prompt=SHARED + own.prompt, max_tokens=own.max_tokens)
    for own in random_requests(12, seed=3, prompt_tokens=(50, 200), max_tokens=(16, 64))
]
HELD = random_requests(6, seed=4, prompt_tokens=(150, 1400), max_tokens=(2600, 2600))
LATE = random_requests(24, seed=5, prompt_tokens=(300, 900), max_tokens=(64, 256))


# --- the record ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A page of the agent, and what the client held when the engine wrote its own."""

    page: Page
    context_tokens: tuple[int, ...]
    """Of each request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What happened."""

    pages: Sequence[Page]
    """The agent's, four a second, from its start to the end."""
    failures: Sequence[str]
    """Scrapes that got none."""
    load: Load
    sharing: Load
    holdings: Sequence[Holding]
    killed_at_unix_seconds: float
    restarted: Mark
    late: Load

    @property
    def restarted_at_unix_seconds(self) -> float:
        """When the second engine started."""
        return self.restarted.agent.value("roofline_engine_start_time_seconds")

    @property
    def last_alive(self) -> Page:
        """The last one that still shows the engine that was killed."""
        until = self.restarted_at_unix_seconds
        return [page for page in self.pages if page.engine_is_up and page.at_unix_seconds < until][-1]

    @property
    def killed(self) -> list[Page]:
        """Those of the time when the engine was dead for longer than the agent may take to say so."""
        since, until = self.killed_at_unix_seconds + STALE_SECONDS, self.restarted_at_unix_seconds
        return [p for p in self.pages if since < p.assessed_at_unix_seconds and p.at_unix_seconds < until]


# --- the story -------------------------------------------------------------------------------------


def match(pages: Sequence[Page], held: Sequence[Held], before: Mark) -> list[Holding]:
    """By the tokens that a page counts, what was held: for each count of a page on which all of them run."""
    name = TOKENS["generated"][0]
    found: dict[float, Holding] = {}
    for page in pages:
        if page.engine_is_up and page.value("roofline_engine_requests_running") == len(held):
            generated = page.value(name) - before.agent.value(name)
            contexts = Held.contexts(held, int(generated))
            if contexts is not None:
                found[generated] = Holding(page=page, context_tokens=contexts)
    return list(found.values())


def play(agent: AgentProcess, vllm: VllmServer, watcher: Watcher) -> Record:
    """From an agent that finds no engine to one that has seen two."""
    wait_until(lambda: len(watcher.pages) > 4, "the watcher found no pages", seconds=20)
    vllm.start()
    first = Recorder(DENSE, vllm, agent)
    load = first.play(LOAD, concurrency=12)
    sharing = first.play(SHARING, concurrency=1)

    held = [Held(vllm.url, request) for request in HELD]
    wait_until(lambda: all(stream.runs for stream in held), "the held requests do not run", seconds=30)
    time.sleep(HELD_SECONDS)
    killed_at = time.time()
    vllm.kill()
    for stream in held:
        stream.wait()
    time.sleep(2 * STALE_SECONDS)

    vllm.start()
    second = Recorder(DENSE, vllm, agent)
    restarted = second.mark
    late = second.play(LATE, concurrency=12)
    watcher.close()
    return Record(
        pages=watcher.pages,
        failures=watcher.failures,
        load=load,
        sharing=sharing,
        holdings=match(watcher.pages, held, sharing.after),
        killed_at_unix_seconds=killed_at,
        restarted=restarted,
        late=late,
    )


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Record:
    with stage(DENSE) as (vllm, agent), closing(Watcher(agent.url)) as watcher:
        played = play(agent, vllm, watcher)
    request.config.pluginmanager.register(Figures("dense", lambda: figures(played)))
    return played


# --- the claims ------------------------------------------------------------------------------------


def test_an_engine_that_is_not_there_yet_is_down_and_nothing_else(record: Record) -> None:
    first = record.pages[0]
    assert not first.engine_is_up
    assert first.engine_families == {"roofline_engine_up"}


def test_tokens_are_those_that_the_client_was_billed_for(record: Record) -> None:
    assert all(record.load.before.agent.value(series) == 0 for series, _, _ in TOKENS.values())
    assert record.load.agent_tokens() == record.load.client_tokens()
    assert record.load.vllm_tokens() == record.load.client_tokens()


def test_tokens_from_the_prefix_cache_are_counted_apart(record: Record) -> None:
    billed = record.sharing.client_tokens()
    assert billed["cached"] == (len(SHARING) - 1) * len(SHARED)
    assert record.sharing.agent_tokens() == billed


def test_vllm_counts_a_prompts_attention_as_a_square(record: Record) -> None:
    # To the last FLOP: so without the excess, what it counts is what the client asked for.
    causal = causal_flops(DENSE, record.load.answers).total
    assert record.load.vllm_causal_flops() == pytest.approx(causal, rel=1e-9)
    assert record.load.vllm_flops() > 1.1 * causal


def test_flops_are_vllms_within_2_per_cent_where_attention_is_causal_in_both(record: Record) -> None:
    assert record.load.agent_flops() == pytest.approx(record.load.vllm_causal_flops(), rel=0.02)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_flops_of_each_phase_are_the_clients_within_2_per_cent(record: Record, phase: str) -> None:
    asked_for = getattr(causal_flops(DENSE, record.load.answers), phase)
    assert record.load.agent_flops(phase=phase) == pytest.approx(asked_for, rel=0.02)


def test_the_kv_cache_is_used_block_by_block_as_the_client_knows(record: Record) -> None:
    assert len(record.holdings) >= HELD_SECONDS / INTERVAL_SECONDS / 4
    for holding in record.holdings:
        least = sum(blocks(tokens - SLACK_TOKENS) for tokens in holding.context_tokens)
        most = sum(blocks(tokens + SLACK_TOKENS) for tokens in holding.context_tokens)
        assert least <= used_blocks(holding.page) <= most


def test_used_and_free_kv_cache_make_the_whole(record: Record) -> None:
    families = record.restarted.vllm.families
    (facts,) = (f.samples[0].labels for f in families if f.name == "vllm:cache_config_info")
    for page in (holding.page for holding in record.holdings):
        capacity = page.value("roofline_engine_kv_cache_capacity_tokens")
        assert capacity == int(facts["kv_cache_size_tokens"])
        free_tokens = page.value("roofline_engine_kv_cache_free_tokens")
        assert used_tokens(page) + free_tokens == pytest.approx(capacity)
        used, free = (page.value(f"roofline_engine_kv_cache_{part}_ratio") for part in ("used", "headroom"))
        assert used + free == pytest.approx(1)


def test_on_every_page_the_times_of_the_parts_make_the_whole(record: Record) -> None:
    pages = [page for page in record.pages if "roofline_engine_observed_seconds" in page.engine_families]
    assert len(pages) > 100
    for page in pages:
        prefill, decode, neither = (
            page.value("roofline_engine_phase_seconds_total", phase=phase)
            for phase in ("prefill", "decode", "neither")
        )
        assert page.value("roofline_engine_step_seconds_total") == pytest.approx(prefill + decode)
        observed = page.value("roofline_engine_observed_seconds_total")
        assert observed == pytest.approx(prefill + decode + neither)
    assert pages[-1].value("roofline_engine_step_seconds_total") > HELD_SECONDS


def test_the_series_of_a_killed_engine_are_gone_within_three_intervals(record: Record) -> None:
    assert len(record.killed) > 4
    for page in record.killed:
        assert not page.engine_is_up
        assert page.engine_families == {"roofline_engine_up"}


def test_an_engine_has_series_exactly_while_it_is_up(record: Record) -> None:
    for page in record.pages:
        assert page.engine_is_up == (page.engine_families > {"roofline_engine_up"})


def test_the_agent_answers_throughout(record: Record) -> None:
    assert not record.failures
    assert len({page.assessed_at_unix_seconds for page in record.killed}) > 2, "its assessments stand still"


def test_no_counter_ever_falls(record: Record) -> None:
    highest: dict[Series, float] = {}
    for page in record.pages:
        for series, value in page.counters().items():
            assert value >= highest.get(series, 0), series
            highest[series] = value


def test_a_restarted_engine_adds_what_it_does_and_no_more(record: Record) -> None:
    assert record.restarted_at_unix_seconds > record.killed_at_unix_seconds
    for counter in (*(series for series, _, _ in TOKENS.values()), AGENT_FLOPS):
        assert record.restarted.agent.value(counter) == record.last_alive.value(counter), counter
    assert record.late.agent_tokens() == record.late.client_tokens()
    assert record.late.vllm_tokens() == record.late.client_tokens()
    # Coarse, since it lasts a few seconds only, and each page samples the contexts once.
    asked_for = causal_flops(DENSE, record.late.answers).total
    assert record.late.agent_flops() == pytest.approx(asked_for, rel=0.1)


def test_promtool_finds_nothing_wrong_with_a_live_page(record: Record) -> None:
    judged = promtool("check", "metrics", text=record.holdings[-1].page.text)
    assert (judged.returncode, judged.stdout, judged.stderr) == (0, "", "")


# --- the KV cache ----------------------------------------------------------------------------------


def blocks(tokens: int) -> int:
    """That so many tokens of one sequence take."""
    return -(-tokens // BLOCK_TOKENS)


def used_blocks(page: Page) -> int:
    """Whole ones: vLLM's ratio leaves out one block, which it keeps for itself."""
    usable = page.value("roofline_engine_kv_cache_capacity_tokens") / BLOCK_TOKENS - 1
    used = page.value("roofline_engine_kv_cache_used_ratio") * usable
    assert used == pytest.approx(round(used), abs=1e-6)
    return round(used)


def used_tokens(page: Page) -> float:
    """By the agent's ratio and capacity."""
    capacity = page.value("roofline_engine_kv_cache_capacity_tokens")
    return page.value("roofline_engine_kv_cache_used_ratio") * capacity


# --- figures ---------------------------------------------------------------------------------------


def figures(record: Record) -> Iterator[str]:
    """A table, and what follows from it."""
    load, holdings = record.load, record.holdings
    causal, ours = causal_flops(DENSE, load.answers), load.agent_flops()
    yield from tokens_and_flops(
        {"load": load, "prefix shared": record.sharing, "after the restart": record.late},
        {
            "load: GFLOP as each counts": (causal.total, ours, load.vllm_flops()),
            "load: GFLOP, causal in all three": (causal.total, ours, load.vllm_causal_flops()),
        },
    )
    raw, corrected = ours / load.vllm_flops(), ours / load.vllm_causal_flops()
    yield f"FLOPs, agent / vLLM: {raw:.4f} as each counts, {corrected:.4f} with attention causal in both"
    prefill, decode = (load.agent_flops(phase=p) / getattr(causal, p) for p in ("prefill", "decode"))
    yield f"FLOPs, agent / client: {prefill:.4f} of prefill, {decode:.4f} of decode"
    over = [used_tokens(holding.page) - sum(holding.context_tokens) for holding in holdings]
    yield (
        f"KV cache, agent - client: {min(over):.0f} to {max(over):.0f} tokens on {len(over)} pages; "
        f"{len(HELD)} sequences in whole blocks take up to {len(HELD) * (BLOCK_TOKENS - 1)} more"
    )
    killed_at = record.killed_at_unix_seconds
    gone = next(
        page.assessed_at_unix_seconds
        for page in record.pages
        if page.assessed_at_unix_seconds > killed_at and not page.engine_is_up
    )
    yield f"killed engine off the page after {gone - killed_at:.1f} s"
