"""What a month of recorded increases costs to ask for: `make bench-scale`.

Recorded series as the rules write them are back-filled into a real Prometheus: of a cluster and of models
for thirty days, of nodes for as long as is said. Each query is asked with Prometheus' own statistics, so
that what it touches can be scaled on paper to any number of nodes; docs/scale.md does so.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.roofline.bottleneck import BOTTLENECKS
from tests.promtool import back_fill
from tests.rig.programs import Program, stored_prometheus

STEP_SECONDS = 300
DAY_SECONDS = 86400
PARTS = ("H100-SXM5-80GB", "H200-SXM", "L40S")
PHASES = ("prefill", "decode", "idle")
LABELS = 'cluster="a",job="roofline-agent"'


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """Series of one recording, over some days."""

    name: str
    labels: tuple[str, ...]
    days: float

    def instants(self, end: int) -> range:
        """Of its samples, in Unix time."""
        return range(end - int(self.days * DAY_SECONDS), end, STEP_SECONDS)

    def lines(self, end: int) -> Iterator[str]:
        """Series by series; values differ, so that nothing compresses better than it would."""
        yield f"# TYPE {self.name} gauge\n"
        for position, labels in enumerate(self.labels):
            for at in self.instants(end):
                value = 100 + (at // STEP_SECONDS * 37 + position * 101) % 1000 / 7
                yield f"{self.name}{{{LABELS},{labels}}} {value:.6g} {at}\n"


def histories(nodes: int, models: int, node_days: float) -> tuple[History, ...]:
    """What the longest boards and the monthly review ask for."""
    of_models = [
        f'engine="vllm",model="org/model-{model}",workload_namespace="team-{model % 7}",part="{part}"'
        for model in range(models)
        for part in PARTS[:2]
    ]
    return (
        History(
            name=CLUSTER,
            labels=tuple(f'part="{part}",bottleneck="{name}"' for part in PARTS for name in BOTTLENECKS),
            days=30,
        ),
        History(
            name=COST,
            labels=tuple(
                f'{model},phase="{phase}",location="local"' for model in of_models for phase in PHASES
            ),
            days=30,
        ),
        History(name=TOKENS, labels=tuple(of_models), days=30),
        History(
            name=NODE,
            labels=tuple(
                f'instance="node-{node}",part="{PARTS[node % 3]}",bottleneck="{name}"'
                for node in range(nodes)
                for name in BOTTLENECKS
            ),
            days=node_days,
        ),
    )


CLUSTER = "roofline:cluster:gpu_bottleneck_seconds:increase5m"
COST = "roofline:model:engine_cost_usd:increase5m"
TOKENS = "roofline:model:engine_generation_tokens:increase5m"
NODE = "roofline:node:gpu_bottleneck_seconds:increase5m"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What somebody asks."""

    what: str
    expr: str
    daily: bool = False
    """A point a day over the month, else one answer."""


QUESTIONS = (
    Question(
        what="a month of a cluster, by class",
        expr=f"sum by (bottleneck) (sum_over_time({CLUSTER}[30d]))",
    ),
    Question(
        what="a month's $ for a token, by model",
        expr=f"sum by (model) (sum_over_time({COST}[30d])) / sum by (model) (sum_over_time({TOKENS}[30d]))",
    ),
    Question(
        what="its chart, a point a day",
        expr=f"sum by (model) (sum_over_time({COST}[1d])) / sum by (model) (sum_over_time({TOKENS}[1d]))",
        daily=True,
    ),
    Question(what="a day of all nodes, by class", expr=f"sum by (bottleneck) (sum_over_time({NODE}[1d]))"),
    Question(
        what="a day of one node",
        expr=f'sum by (bottleneck) (sum_over_time({NODE}{{instance="node-7"}}[1d]))',
    ),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-scale", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--models", type=int, default=50)
    parser.add_argument("--node-days", type=float, default=1, help="how long a history of each node")
    options = parser.parse_args()
    given = histories(options.nodes, options.models, options.node_days)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        end = int(time.time()) // STEP_SECONDS * STEP_SECONDS
        back_fill(lines(given, end), directory)
        samples = sum(len(history.labels) * len(history.instants(end)) for history in given)
        size = sum(path.stat().st_size for path in (directory / "data").rglob("*") if path.is_file())
        series = sum(len(history.labels) for history in given)
        print(f"{series:,} recorded series, {samples:,} samples, {size / samples:.2f} bytes each on disk")
        with stored_prometheus(directory) as program:
            print(f"{'':36}{'samples':>14}{'at once':>12}{'seconds':>10}")
            for question in QUESTIONS:
                ask(program, question, end)


def lines(given: tuple[History, ...], end: int) -> Iterator[str]:
    """Of all histories."""
    for history in given:
        yield from history.lines(end)


def ask(program: Program, question: Question, end: int) -> None:
    """One row: as of the end of the history, the second time, when its blocks are in memory."""
    path, timing = "query", {"time": str(end)}
    if question.daily:
        path = "query_range"
        timing = {"start": str(end - 30 * DAY_SECONDS), "end": str(end), "step": str(DAY_SECONDS)}
    for _ in range(2):
        answer = program.get(f"/api/v1/{path}", query=question.expr, stats="all", **timing).json()
    assert answer["data"]["result"], f"{question.what}: no answer"
    samples, timings = answer["data"]["stats"]["samples"], answer["data"]["stats"]["timings"]
    print(
        f"{question.what:36}{samples['totalQueryableSamples']:>14,}{samples['peakSamples']:>12,}"
        f"{timings['evalTotalTime']:>10.3f}"
    )


if __name__ == "__main__":
    main()
