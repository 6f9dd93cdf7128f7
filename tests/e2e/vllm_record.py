"""The agent beside a vLLM server: both on a stage, both pages marked before and after each load."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.agent_process import AgentProcess, Page, wait_until
from tests.e2e.vllm_costs import router_flops, square_excess_flops
from tests.e2e.vllm_load import Answer, Request, send
from tests.e2e.vllm_models import TinyModel
from tests.e2e.vllm_process import VLLM_DIR, VllmServer

INTERVAL_SECONDS = 1.0
"""Of the agent's ticks, and of its reads of the engine."""

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
AGENT_BYTES = "roofline_engine_dram_bytes_total"
VLLM_FLOPS = "vllm:estimated_flops_per_gpu_total"
VLLM_READ_BYTES = "vllm:estimated_read_bytes_per_gpu_total"


# --- the stage -------------------------------------------------------------------------------------


@contextmanager
def stage(model: TinyModel) -> Iterator[tuple[VllmServer, AgentProcess]]:
    """A server that is not started yet, and an agent that waits for it."""
    assert (VLLM_DIR / "bin" / "vllm").exists(), f"no vLLM there: tests/e2e/install_vllm.sh {VLLM_DIR}"
    with ExitStack() as cleanup:
        directory = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="vllm-")))
        vllm = VllmServer(directory, model)
        cleanup.callback(vllm.kill)
        agent = AgentProcess(directory, configuration(vllm))
        cleanup.callback(agent.close)
        yield vllm, agent


def configuration(vllm: VllmServer) -> dict[str, object]:
    """The agent's: this engine and this model, no GPU, and no looking for what others run here."""
    return {
        "interval_seconds": INTERVAL_SECONDS,
        "engines_interval_seconds": INTERVAL_SECONDS,
        "window_seconds": 10,
        "nvml": {"enabled": False},
        "discovery": {"processes": {"enabled": False}},
        "engines": [
            {
                "url": f"{vllm.url}/metrics",
                "engine": "vllm",
                "model": {"config_json": str(vllm.config_json)},
            }
        ],
    }


# --- the record ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Both pages at a moment at which nothing runs, and the agent has read what was done before."""

    agent: Page
    vllm: Page


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A load, and the marks around it."""

    model: TinyModel
    answers: Sequence[Answer]
    before: Mark
    after: Mark

    def _agent(self, series: str, **labels: str) -> float:
        return self.after.agent.value(series, **labels) - self.before.agent.value(series, **labels)

    def _vllm(self, series: str, **labels: str) -> float:
        return self.after.vllm.value(series, **labels) - self.before.vllm.value(series, **labels)

    def client_tokens(self) -> dict[str, float]:
        """What the client was billed for."""
        return {
            "computed": sum(answer.computed_tokens for answer in self.answers),
            "cached": sum(answer.cached_tokens for answer in self.answers),
            "generated": sum(answer.generated_tokens for answer in self.answers),
        }

    def agent_tokens(self) -> dict[str, float]:
        """What the agent counted."""
        return {name: self._agent(series) for name, (series, _, _) in TOKENS.items()}

    def vllm_tokens(self) -> dict[str, float]:
        """What vLLM counted."""
        return {name: self._vllm(series, **labels) for name, (_, series, labels) in TOKENS.items()}

    def agent_flops(self, **labels: str) -> float:
        """By the agent; of both phases unless one is given."""
        return self._agent(AGENT_FLOPS, **labels)

    def vllm_flops(self) -> float:
        """By vLLM's own estimate, each prompt's attention counted as a square, and no router."""
        return self._vllm(VLLM_FLOPS)

    def vllm_causal_flops(self) -> float:
        """The same without what lies above the diagonal, and with the router."""
        excess, missing = square_excess_flops(self.answers), router_flops(self.model, self.answers)
        return self.vllm_flops() - excess + missing

    def agent_weight_bytes(self, **labels: str) -> float:
        """By the agent; of both phases unless one is given."""
        return self._agent(AGENT_BYTES, traffic="weights", **labels)

    def vllm_read_bytes(self) -> float:
        """By vLLM's own estimate: weights, activations and cache."""
        return self._vllm(VLLM_READ_BYTES)


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


class Recorder:
    """Plays loads one after the other; each begins where the last one ended."""

    def __init__(self, model: TinyModel, vllm: VllmServer, agent: AgentProcess) -> None:
        self._model, self._vllm, self._agent = model, vllm, agent
        self.mark = settle(agent, vllm)
        """The last one."""

    def play(self, asked: Sequence[Request], *, concurrency: int) -> Load:
        """Send them, so many at a time, and wait until the agent has seen them done."""
        before = self.mark
        answers = send(self._vllm.url, asked, concurrency=concurrency)
        self.mark = settle(self._agent, self._vllm)
        return Load(model=self._model, answers=answers, before=before, after=self.mark)


# --- figures ---------------------------------------------------------------------------------------


class Figures:
    """What was measured, printed after the tests: for the documentation."""

    def __init__(self, title: str, lines: Callable[[], Iterable[str]]) -> None:
        self._title, self._lines = title, lines

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        terminalreporter.section(f"measured: {self._title}")
        for line in self._lines():
            terminalreporter.write_line(line)


def tokens_and_flops(
    loads: Mapping[str, Load], flops: Mapping[str, tuple[float, float, float]]
) -> Iterator[str]:
    """A table: the tokens of each load, then FLOPs as given; the client's, the agent's and vLLM's."""
    yield f"{'':36}{'client':>10}{'agent':>10}{'vLLM':>10}"
    for title, load in loads.items():
        agent, vllm = load.agent_tokens(), load.vllm_tokens()
        for name, client in load.client_tokens().items():
            yield f"{f'{title}: {name} tokens':36}{client:10.0f}{agent[name]:10.0f}{vllm[name]:10.0f}"
    for title, three in flops.items():
        yield f"{title:36}" + "".join(f"{each / 1e9:10.1f}" for each in three)
