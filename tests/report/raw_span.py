"""A raw span: eight nodes of two clusters, each the real agent on the event simulator in virtual time.

Their pages are back-filled as Prometheus would have scraped them, and the real rules are evaluated over
them. What was recorded in five minutes of a steady state is a tile; beside it stands what really happened
in these five minutes, by the simulator wherever it knows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from agent.config import Configuration
from agent.simulate.engine import WorkDone
from agent.simulate.parts import H100, H200, L40S
from agent.simulate.scenario import Engine, Fault, Gpu, Scenario, Traffic, TrafficChange
from agent.simulate.scenarios import SCENARIOS
from tests.promtool import back_fill, promtool
from tests.report.truth import GpuTruth, ServiceTruth
from tests.rig.programs import Program, stored_prometheus
from tests.simulated import Watched, watch_scenario

ROOT = Path(__file__).parents[2]
RULES = ROOT / "rules" / "generated" / "recordings.yaml"

JOB = "roofline-agent"
START = 1_780_272_000
"""1 June 2026, midnight UTC: nodes begin in the minutes after it."""
SCRAPE_SECONDS = 15
"""As our monitors ask for."""
STEP_SECONDS = 300
"""What a recorded increase covers."""

USD_PER_HOUR: Mapping[str, float] = {H100.name: 2.99, H200.name: 3.79, L40S.name: 0.97}
CONFIGURATION = Configuration.model_validate(
    {
        "prices": [{"gpu": name, "usd_per_hour": usd} for name, usd in USD_PER_HOUR.items()],
        "slo": {"ttft_seconds": 2, "inter_token_seconds": 0.1, "objective": 0.99},
    }
)

WARM_SECONDS = 60
"""After which a class is in force: a window, and the patience of the agent."""

Labels = tuple[tuple[str, str], ...]
"""Sorted."""
Recorded = tuple[str, Labels]
"""The name of a recorded series, and those of its labels that say nothing of node or cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RawNode:
    """A node, and what its agent is asked to watch."""

    cluster: str
    instance: str
    namespace: str
    """Of its engines."""
    kind: str
    """What its tiles are called."""
    scenario: Scenario
    seconds: int
    idle_after_seconds: int | None = None
    """Nobody asks anything any more."""
    origin: float
    """Unix time at which it began: scrapes of different nodes are not at the same instant."""

    @property
    def steady(self) -> Mapping[str, tuple[float, float]]:
        """When it does the same all the time, by what that is called; seconds since its start."""
        quiet = self.idle_after_seconds
        spans = {"busy": (float(WARM_SECONDS), float(quiet or self.seconds))}
        if quiet is not None:
            spans["idle"] = (float(quiet + WARM_SECONDS), float(self.seconds))
        return spans

    def state(self, start: float, end: float) -> str | None:
        """What it did all that time."""
        return next((name for name, (low, high) in self.steady.items() if low <= start and end <= high), None)


# Which evaluations fall into a steady state follows from when nodes begin; these give most for least.
SECONDS = 810
"""Two whole steps after the warm-up."""
IDLE_AFTER_SECONDS = 495
"""One; then answers under way are finished, and the agent has time to see it."""
QUIET_SECONDS = 1110
"""And one while idle."""
FAULT_SECONDS = 470
"""Between the last scrape of one step and the first of the next, at 465 and 480."""


def _then_idle(scenario: Scenario, after: int) -> Scenario:
    """All clients leave."""

    def changed(engine: Engine) -> Engine:
        nothing = Traffic(shared_prefix_tokens=engine.traffic.shared_prefix_tokens)
        return replace(engine, traffic_changes=(TrafficChange(at_seconds=after, traffic=nothing),))

    servers = tuple(
        replace(server, engines=tuple(changed(engine) for engine in server.engines))
        for server in scenario.servers
    )
    return replace(scenario, servers=servers)


def _half_used() -> Scenario:
    """Traffic of the mixed kind on one GPU; nobody has the other, whose memory fails."""
    mixed = SCENARIOS["mixed"]
    fault = Fault(gpu=1, at_seconds=FAULT_SECONDS, xids=(48,), ecc_uncorrected_errors=1)
    return replace(mixed, name="half-used", gpus=(Gpu(), Gpu()), faults=(fault,))


def _nodes() -> Iterator[RawNode]:
    quiet = {"chat": "memory-bound-decode", "sharded": "interconnect", "experts": "kernel-latency"}
    rows = (
        ("a", "node-1", "chat"),
        ("a", "node-2", "documents"),
        ("a", "node-3", "sharded"),
        ("a", "node-4", "half-used"),
        ("b", "node-1", "experts"),
        ("b", "node-2", "preempting"),
        ("b", "node-3", "throttled"),
        ("b", "node-4", "host-bound"),
    )
    for position, (cluster, instance, kind) in enumerate(rows):
        scenario = (
            _half_used()
            if kind == "half-used"
            else SCENARIOS[quiet.get(kind) or {"documents": "compute-bound-prefill"}.get(kind, kind)]
        )
        is_quiet = kind in quiet
        yield RawNode(
            cluster=cluster,
            instance=instance,
            namespace=f"team-{position}",
            kind=kind,
            scenario=_then_idle(scenario, IDLE_AFTER_SECONDS) if is_quiet else scenario,
            seconds=QUIET_SECONDS if is_quiet else SECONDS,
            idle_after_seconds=IDLE_AFTER_SECONDS if is_quiet else None,
            origin=START + 160 - 0.4 * position,
        )


NODES: tuple[RawNode, ...] = tuple(_nodes())


# --- pages, as scraped ------------------------------------------------------------------------------


def scraped(node: RawNode, watched: Watched) -> Iterator[str]:
    """Lines of a history in OpenMetrics: page by page, with the labels that scraping and discovery give."""
    target = f'cluster="{node.cluster}",job="{JOB}",instance="{node.instance}"'
    servers = {name: f"{node.namespace}/engine-{rank}/vllm" for rank, name in enumerate(watched.servers)}
    known = re.compile("|".join(map(re.escape, servers)))
    for at, page in watched.pages.items():
        when = f" {node.origin + at:.3f}\n"
        text = known.sub(lambda found: servers[found[0]], page.openmetrics)
        text = text.replace('workload_namespace=""', f'workload_namespace="{node.namespace}"')
        for line in text.splitlines():
            if line[0] == "#" or line.startswith("process_"):
                continue
            series, _, value = line.rpartition(" ")
            name, brace, labels = series.partition("{")
            yield f"{name}{{{target}{',' if brace else ''}{labels or '}'} {value}{when}"
        yield f"up{{{target}}} 1{when}"


# --- what really happened ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What really happened on a node in five minutes."""

    node: RawNode
    start: float
    """Seconds since its start."""
    end: float
    gpus: GpuTruth
    engines: Mapping[tuple[str, str, str], ServiceTruth]
    """By model, engine and part."""


class Witness:
    """A node that was watched: tells what happened between any two instants."""

    def __init__(self, node: RawNode, watched: Watched) -> None:
        self._node = node
        self._watched = watched
        self._counters = {at: _counters(page.openmetrics) for at, page in watched.pages.items()}

    def window(self, start: float, end: float) -> Window:
        """Between two instants, in seconds since its start."""
        return Window(
            node=self._node,
            start=start,
            end=end,
            gpus=self._gpus(start, end),
            engines=dict(self._engines(start, end)),
        )

    def _gpus(self, start: float, end: float) -> GpuTruth:
        truth = GpuTruth()
        held = {gpu for server in self._node.scenario.servers for e in server.engines for gpu in e.gpus}
        for index, gpu in enumerate(self._node.scenario.gpus):
            seconds = end - start
            usd = USD_PER_HOUR[gpu.part.name] * seconds / 3600
            cause = self._watched.truth.bottleneck(index, start, end)
            truth.add({("seconds", cause): seconds, ("usd", cause): usd})
            if index not in held:
                truth.add({("unattributed_usd",): usd})
            elif cause == "idle":
                truth.add({("idle_held_seconds",): seconds})
        # The simulator's own counters, as the agent passed them on.
        for name, series in self._increases(start, end):
            if name == "roofline_gpu_energy_joules_total":
                truth.add({("energy_joules",): series[1]})
            if name == "roofline_gpu_clock_limited_seconds_total":
                truth.add({("clock_limited_seconds", series[0]["reason"]): series[1]})
        for fault in self._node.scenario.faults:
            if start < fault.at_seconds <= end:
                truth.add({("faults", f"xid {xid}"): 1.0 for xid in fault.xids})
                truth.add({("faults", "ecc uncorrected"): float(fault.ecc_uncorrected_errors)})
        return truth

    def _engines(self, start: float, end: float) -> Iterator[tuple[tuple[str, str, str], ServiceTruth]]:
        found: defaultdict[tuple[str, str, str], ServiceTruth] = defaultdict(ServiceTruth)
        for place, server in enumerate(self._node.scenario.servers):
            for rank, engine in enumerate(server.engines):
                part = self._part(engine.gpus[0])
                truth = found[engine.model.served_name, "vllm", part]
                truth.add(self._work(place, rank, start, end))
                for index in engine.gpus:
                    truth.add({("seconds", self._watched.truth.bottleneck(index, start, end)): end - start})
        # What only the agent knows, by its own counters: no rule has touched them.
        for name, (labels, increase) in self._increases(start, end):
            if name in FROM_COUNTERS:
                what, *by = FROM_COUNTERS[name]
                key = (labels["model"], labels["engine"], self._part_of_server(labels["server"]))
                found[key].add({(what, *(labels[label] for label in by)): increase})
        yield from found.items()

    def _work(self, place: int, rank: int, start: float, end: float) -> Mapping[tuple[str, ...], float]:
        return {
            (name,): self._work_until(place, rank, name, end) - self._work_until(place, rank, name, start)
            for name in FROM_WORK
        }

    def _work_until(self, place: int, rank: int, name: str, at: float) -> float:
        second = int(at)

        def done(second: int) -> float:
            work: WorkDone = self._watched.work[second][place, rank]
            return float(getattr(work, name))

        return done(second) + (done(second + 1) - done(second)) * (at - second)

    def _part(self, index: int) -> str:
        return PARTS[self._node.scenario.gpus[index].part.name]

    def _part_of_server(self, server: str) -> str:
        place = self._watched.servers.index(server)
        return self._part(self._node.scenario.servers[place].engines[0].gpus[0])

    def _increases(self, start: float, end: float) -> Iterator[tuple[str, tuple[dict[str, str], float]]]:
        for (name, labels), value in self._at(end).items():
            yield name, (dict(labels), value - self._at(start).get((name, labels), 0.0))

    def _at(self, at: float) -> Mapping[Recorded, float]:
        """Counters at an instant, between two pages on the line through them."""
        pages = sorted(self._counters)
        before = max(page for page in pages if page <= at)
        after = min((page for page in pages if page > at), default=before)
        if after == before:
            return self._counters[before]
        weight = (at - before) / (after - before)
        later = self._counters[after]
        return {
            series: value + (later[series] - value) * weight
            for series, value in self._counters[before].items()
        }


PARTS = {H100.name: "H100-SXM5-80GB", H200.name: "H200-SXM", L40S.name: "L40S"}
"""As the agent's catalogue has them."""

FROM_WORK = (
    "generation_tokens",
    "cached_prompt_tokens",
    "requests",
    "steps",
    "preemptions",
)

FROM_COUNTERS: Mapping[str, tuple[str, ...]] = {
    "roofline_engine_prefill_tokens_total": ("prefill_tokens",),
    "roofline_engine_cost_usd_total": ("usd", "phase"),
    "roofline_engine_energy_joules_total": ("energy_joules", "phase"),
    "roofline_engine_flops_total": ("flops", "phase"),
    "roofline_engine_dram_bytes_total": ("dram_bytes", "phase", "traffic"),
    "roofline_engine_slo_events_total": ("slo_events", "slo"),
    "roofline_engine_slo_good_events_total": ("slo_good_events", "slo"),
}
"""What a counter of the agent's is called here, and its further labels."""

_OF_GPUS = (
    "roofline_gpu_energy_joules_total",
    "roofline_gpu_clock_limited_seconds_total",
)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


def _counters(page: str) -> dict[Recorded, float]:
    wanted = (*_OF_GPUS, *FROM_COUNTERS)
    found = {}
    for line in page.splitlines():
        name, _, rest = line.partition("{")
        if name in wanted:
            labels, _, value = rest.rpartition(" ")
            found[name, tuple(_LABEL.findall(labels))] = float(value)
    return found


# --- rules over pages -------------------------------------------------------------------------------


def evaluate_rules(directory: Path, *, start: float, end: float) -> None:
    """Into blocks beside the pages. What reads a recorded series is evaluated when that is there."""
    for stage in _stages():
        # A group's evaluations are at instants that follow from its name and its file's, so it keeps both.
        (directory / "recordings.yaml").write_text(yaml.safe_dump({"groups": stage}))
        with stored_prometheus(directory) as program:
            made = promtool(
                *("tsdb", "create-blocks-from", "rules", "--quiet", f"--url={program.url}"),
                *(f"--start={start:.0f}", f"--end={end:.0f}", "--output-dir=made", "recordings.yaml"),
                directory=directory,
            )
        assert made.returncode == 0, made.stderr
        assert "level=error" not in made.stderr, made.stderr  # it goes on, and ends as if nothing were
        for block in (directory / "made").iterdir():
            block.rename(directory / "data" / block.name)


def _stages() -> Iterator[list[dict[str, Any]]]:
    """Groups of recorded increases, by what their rules read: pages, then what was recorded before."""
    groups = [
        group
        for group in yaml.safe_load(RULES.read_text())["groups"]
        if group["name"] in ("roofline.recorded.node", "roofline.recorded.model")
    ]
    waiting = {id(rule): rule for group in groups for rule in group["rules"]}
    while waiting:
        awaited = {rule["record"] for rule in waiting.values()}
        ready = {key for key, rule in waiting.items() if not any(name in rule["expr"] for name in awaited)}
        assert ready, "rules that wait for each other"
        yield [
            {**group, "rules": [rule for rule in group["rules"] if id(rule) in ready]}
            for group in groups
            if any(id(rule) in ready for rule in group["rules"])
        ]
        waiting = {key: rule for key, rule in waiting.items() if key not in ready}


# --- what was recorded ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One recorded value."""

    name: str
    labels: Mapping[str, str]
    at: float
    """Unix time."""
    value: float

    @property
    def level(self) -> str:
        """`node`, `model`, `cluster` or `engine`."""
        return self.name.split(":")[1]


def recorded(program: Program, *, start: float, end: float) -> tuple[Sample, ...]:
    """All that the rules have recorded."""
    answer = program.get(
        "/api/v1/query",
        query=f'{{__name__=~"roofline:.+"}}[{end - start:.0f}s]',
        time=f"{end:.0f}",
    ).json()
    assert answer["status"] == "success", answer
    return tuple(
        Sample(
            name=series["metric"]["__name__"],
            labels={name: value for name, value in series["metric"].items() if name != "__name__"},
            at=float(at),
            value=float(value),
        )
        for series in answer["data"]["result"]
        for at, value in series["values"]
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Tile:
    """Five minutes of a node in a steady state: what was recorded, and what really happened."""

    kind: str
    state: str
    """`busy`, or `idle`."""
    node: Mapping[Recorded, float]
    """Of its GPUs; the labels are those beyond `cluster`, `job` and `instance`."""
    model: Mapping[Recorded, float]
    """Of its engines; the labels are those beyond `cluster`, `job` and `workload_namespace`."""
    gpus: GpuTruth
    engines: Mapping[tuple[str, str, str], ServiceTruth]
    """By model, engine and part."""
    part: str
    """Of its GPUs."""
    gpu_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """All of it: what was recorded, and what happened meanwhile."""

    samples: tuple[Sample, ...]
    windows: Mapping[str, Mapping[tuple[str, str], Mapping[float, Window]]]
    """By level, by cluster and instance, by the instant at which the five minutes were recorded."""

    def evaluations(self, level: str) -> tuple[float, ...]:
        """When a level was recorded."""
        return tuple(sorted({sample.at for sample in self.samples if sample.level == level}))

    def tiles(self, kind: str, state: str) -> tuple[Tile, ...]:
        """Those of a kind of node, in the order of time."""
        node = next(node for node in NODES if node.kind == kind)
        steps = [self._steady(node, state, level) for level in ("node", "model")]
        assert all(steps), f"no step in which {kind} was {state} all the time: when are rules evaluated?"
        return tuple(
            self._tile(node, state, at_node, at_model) for at_node, at_model in zip(*steps, strict=False)
        )

    def _steady(self, node: RawNode, state: str, level: str) -> list[float]:
        windows = self.windows[level][node.cluster, node.instance]
        return [at for at, one in windows.items() if node.state(one.start, one.end) == state]

    def _tile(self, node: RawNode, state: str, at_node: float, at_model: float) -> Tile:
        of_node = self.windows["node"][node.cluster, node.instance][at_node]
        of_model = self.windows["model"][node.cluster, node.instance][at_model]
        return Tile(
            kind=node.kind,
            state=state,
            node=self._values("node", at_node, cluster=node.cluster, instance=node.instance),
            # In this span a namespace is of one node.
            model=self._values("model", at_model, cluster=node.cluster, workload_namespace=node.namespace)
            | self._objectives(node, at_model),
            gpus=of_node.gpus,
            engines=of_model.engines,
            part=PARTS[node.scenario.gpus[0].part.name],
            gpu_count=len(node.scenario.gpus),
        )

    def _values(self, level: str, at: float, **of: str) -> dict[Recorded, float]:
        return {
            (
                sample.name,
                tuple(sorted((k, v) for k, v in sample.labels.items() if k not in of and k != "job")),
            ): sample.value
            for sample in self.samples
            if sample.at == at and sample.level == level and of.items() <= sample.labels.items()
        }

    def _objectives(self, node: RawNode, at: float) -> dict[Recorded, float]:
        """These are of models, whoever they are for."""
        models = {engine.model.served_name for server in node.scenario.servers for engine in server.engines}
        return {
            series: value
            for series, value in self._values("model", at, cluster=node.cluster).items()
            if series[0] == OBJECTIVE and dict(series[1])["model"] in models
        }


OBJECTIVE = "roofline:model:slo_objective:max"


def make_span(directory: Path) -> Span:
    """Let the agents watch, scrape them, evaluate the rules; the blocks are then in the folder `data`."""
    lines: list[str] = []
    witnesses: dict[RawNode, Witness] = {}
    for node in NODES:
        watched = watch_scenario(
            node.scenario,
            node.seconds,
            pages_at=range(0, node.seconds + 1, SCRAPE_SECONDS),
            configuration=CONFIGURATION,
        )
        lines += scraped(node, watched)
        witnesses[node] = Witness(node, watched)
    end = max(node.origin + node.seconds for node in NODES)
    back_fill(lines, directory)
    evaluate_rules(directory, start=START, end=end)
    with stored_prometheus(directory) as program:
        samples = recorded(program, start=START, end=end)
    instants = {
        level: sorted({sample.at for sample in samples if sample.level == level})
        for level in ("node", "model")
    }
    return Span(
        samples=samples,
        windows={
            level: {
                (node.cluster, node.instance): dict(_windows(node, witness, instants[level]))
                for node, witness in witnesses.items()
            }
            for level in instants
        },
    )


def _windows(node: RawNode, witness: Witness, instants: Sequence[float]) -> Iterator[tuple[float, Window]]:
    for at in instants:
        end = at - node.origin
        if STEP_SECONDS <= end <= node.seconds - 1:
            yield at, witness.window(end - STEP_SECONDS, end)
