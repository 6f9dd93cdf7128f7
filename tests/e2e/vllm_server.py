"""The agent beside a real vLLM server, on this CPU: what it says against what the client knows.

One story is played and recorded: the agent starts before its engine; a counted load, then one that hits
the prefix cache; requests that are held while the engine is killed; the engine again, on the same port,
and a last load. Then each test judges one claim on the record.

Run by ``make e2e-vllm``. It needs the vLLM that ``install_vllm.sh`` puts into ``$VLLM_DIR``.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.agent_process import AgentProcess, Page, Series, Watcher, wait_until
from tests.e2e.vllm_load import (
    Answer,
    Held,
    Request,
    causal_flops,
    random_requests,
    send,
    square_excess_flops,
)
from tests.e2e.vllm_process import BLOCK_TOKENS, VLLM_DIR, VllmServer

INTERVAL_SECONDS = 1.0
"""Of the agent's ticks, and of its reads of the engine."""
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

# Of each count of tokens: the agent's name, and vLLM's with its labels.
TOKENS: Mapping[str, tuple[str, str, Mapping[str, str]]] = {
    "computed": (
        "roofline_engine_prefill_tokens_total",
        "vllm:prompt_tokens_by_source_total",
        {"source": "local_compute"},
    ),
    "cached": ("roofline_engine_cached_prompt_tokens_total", "vllm:prompt_tokens_cached_total", {}),
    "generated": ("roofline_engine_generation_tokens_total", "vllm:generation_tokens_total", {}),
}
AGENT_FLOPS = "roofline_engine_flops_total"
VLLM_FLOPS = "vllm:estimated_flops_per_gpu_total"


# --- the record ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Both pages at a moment at which nothing runs, and the agent has read what was done before."""

    agent: Page
    vllm: Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load, and the marks around it."""

    answers: Sequence[Answer]
    before: Mark
    after: Mark

    def client_tokens(self) -> dict[str, float]:
        """What the client was billed for."""
        return {
            "computed": sum(answer.computed_tokens for answer in self.answers),
            "cached": sum(answer.cached_tokens for answer in self.answers),
            "generated": sum(answer.generated_tokens for answer in self.answers),
        }

    def agent_tokens(self) -> dict[str, float]:
        """What the agent counted."""
        return {
            name: self.after.agent.value(series) - self.before.agent.value(series)
            for name, (series, _, _) in TOKENS.items()
        }

    def vllm_tokens(self) -> dict[str, float]:
        """What vLLM counted."""
        return {
            name: self.after.vllm.value(series, **labels) - self.before.vllm.value(series, **labels)
            for name, (_, series, labels) in TOKENS.items()
        }

    def agent_flops(self, **labels: str) -> float:
        """By the agent; of both phases unless one is given."""
        return self.after.agent.value(AGENT_FLOPS, **labels) - self.before.agent.value(AGENT_FLOPS, **labels)

    def vllm_flops(self) -> float:
        """By vLLM's own estimate, each prompt's attention counted as a square."""
        return self.after.vllm.value(VLLM_FLOPS) - self.before.vllm.value(VLLM_FLOPS)

    def vllm_causal_flops(self) -> float:
        """The same without what lies above the diagonal."""
        return self.vllm_flops() - square_excess_flops(self.answers)


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


def configuration(vllm: VllmServer) -> dict[str, object]:
    """The agent's: this engine and this model, and no GPU."""
    return {
        "interval_seconds": INTERVAL_SECONDS,
        "engines_interval_seconds": INTERVAL_SECONDS,
        "window_seconds": 10,
        "nvml": {"enabled": False},
        "engines": [
            {
                "url": f"{vllm.url}/metrics",
                "engine": "vllm",
                "model": {"config_json": str(vllm.config_json)},
            }
        ],
    }


def settle(agent: AgentProcess, vllm: VllmServer) -> Mark:
    """Wait until the agent has taken in a page of the engine that has all that was done so far."""
    # The engine's front end answers the client first, and counts after that.
    due = time.time() + 0.5
    wait_until(
        lambda: (page := Page(agent.url)).engine_is_up and page.read_at_unix_seconds > due,
        "the agent did not read the engine's page",
        seconds=20,
    )
    return Mark(agent=Page(agent.url), vllm=vllm.page())


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
    empty = settle(agent, vllm)
    answers = send(vllm.url, LOAD, concurrency=12)
    loaded = settle(agent, vllm)
    sharing = send(vllm.url, SHARING, concurrency=1)
    shared = settle(agent, vllm)

    held = [Held(vllm.url, request) for request in HELD]
    wait_until(lambda: all(stream.runs for stream in held), "the held requests do not run", seconds=30)
    time.sleep(HELD_SECONDS)
    killed_at = time.time()
    vllm.kill()
    for stream in held:
        stream.wait()
    time.sleep(2 * STALE_SECONDS)

    vllm.start()
    restarted = settle(agent, vllm)
    late_answers = send(vllm.url, LATE, concurrency=12)
    late = settle(agent, vllm)
    watcher.close()
    return Record(
        pages=watcher.pages,
        failures=watcher.failures,
        load=Load(answers=answers, before=empty, after=loaded),
        sharing=Load(answers=sharing, before=loaded, after=shared),
        holdings=match(watcher.pages, held, shared),
        killed_at_unix_seconds=killed_at,
        restarted=restarted,
        late=Load(answers=late_answers, before=restarted, after=late),
    )


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Record:
    assert (VLLM_DIR / "bin" / "vllm").exists(), f"no vLLM there: tests/e2e/install_vllm.sh {VLLM_DIR}"
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vllm-")))
        vllm = VllmServer(directory)
        cleanup.callback(vllm.kill)
        agent = AgentProcess(directory, configuration(vllm))
        cleanup.callback(agent.close)
        watcher = Watcher(agent.url)
        cleanup.callback(watcher.close)
        played = play(agent, vllm, watcher)
    request.config.pluginmanager.register(Figures(played))
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
    causal = causal_flops(record.load.answers).total
    assert record.load.vllm_causal_flops() == pytest.approx(causal, rel=1e-9)
    assert record.load.vllm_flops() > 1.1 * causal


def test_flops_are_vllms_within_2_per_cent_where_attention_is_causal_in_both(record: Record) -> None:
    assert record.load.agent_flops() == pytest.approx(record.load.vllm_causal_flops(), rel=0.02)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_flops_of_each_phase_are_the_clients_within_2_per_cent(record: Record, phase: str) -> None:
    asked_for = getattr(causal_flops(record.load.answers), phase)
    assert record.load.agent_flops(phase=phase) == pytest.approx(asked_for, rel=0.02)


def test_the_kv_cache_is_used_block_by_block_as_the_client_knows(record: Record) -> None:
    assert len(record.holdings) >= HELD_SECONDS / INTERVAL_SECONDS / 2
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
    asked_for = causal_flops(record.late.answers).total
    assert record.late.agent_flops() == pytest.approx(asked_for, rel=0.1)


def test_promtool_finds_nothing_wrong_with_a_live_page(record: Record) -> None:
    promtool = shutil.which("promtool")
    assert promtool, "promtool is missing: make tools installs it"
    judged = subprocess.run(
        [promtool, "check", "metrics"],
        input=record.holdings[-1].page.text,
        capture_output=True,
        text=True,
        check=False,
    )
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


class Figures:
    """What was measured, printed after the tests: for the documentation."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section("measured")
        for line in (*self._table(), *self._remarks()):
            terminalreporter.write_line(line)

    def _table(self) -> Iterator[str]:
        record = self._record
        yield f"{'':36}{'client':>10}{'agent':>10}{'vLLM':>10}"
        for title, load in (
            ("load", record.load),
            ("prefix shared", record.sharing),
            ("after the restart", record.late),
        ):
            agent, vllm = load.agent_tokens(), load.vllm_tokens()
            for name, client in load.client_tokens().items():
                yield f"{f'{title}: {name} tokens':36}{client:10.0f}{agent[name]:10.0f}{vllm[name]:10.0f}"
        causal, ours = causal_flops(record.load.answers).total, record.load.agent_flops()
        for title, theirs in (
            ("load: GFLOP as each counts", record.load.vllm_flops()),
            ("load: GFLOP, causal in all three", record.load.vllm_causal_flops()),
        ):
            yield f"{title:36}" + "".join(f"{flops / 1e9:10.1f}" for flops in (causal, ours, theirs))

    def _remarks(self) -> Iterator[str]:
        load, holdings = self._record.load, self._record.holdings
        raw, causal = (load.agent_flops() / flops for flops in (load.vllm_flops(), load.vllm_causal_flops()))
        yield f"FLOPs, agent / vLLM: {raw:.4f} as each counts, {causal:.4f} with attention causal in both"
        prefill, decode = (
            load.agent_flops(phase=phase) / getattr(causal_flops(load.answers), phase)
            for phase in ("prefill", "decode")
        )
        yield f"FLOPs, agent / client: {prefill:.4f} of prefill, {decode:.4f} of decode"
        over = [used_tokens(holding.page) - sum(holding.context_tokens) for holding in holdings]
        yield (
            f"KV cache, agent - client: {min(over):.0f} to {max(over):.0f} tokens on {len(over)} pages; "
            f"{len(HELD)} sequences in whole blocks take up to {len(HELD) * (BLOCK_TOKENS - 1)} more"
        )
        killed_at = self._record.killed_at_unix_seconds
        gone = next(
            page.assessed_at_unix_seconds
            for page in self._record.pages
            if page.assessed_at_unix_seconds > killed_at and not page.engine_is_up
        )
        yield f"killed engine off the page after {gone - killed_at:.1f} s"
