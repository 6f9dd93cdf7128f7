"""A month of forty nodes in two clusters, made of tiles: what rules would have recorded, and the truth of it.

By day chat is busy, at night nobody asks. On the 12th half of it gets another model; documents are throttled
for a week; agents are replaced; the samples of one node, and once of everything, are missing; on one day an
objective is missed. Every level is the sum over its nodes, as the rules make it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache, cached_property

from tests.report.raw_span import JOB, OBJECTIVE, STEP_SECONDS, Recorded, Span, Tile
from tests.report.truth import Gap, GpuTruth, Node, Service, ServiceTruth, Truth

START = datetime(2026, 9, 1, tzinfo=UTC)
END = datetime(2026, 10, 1, tzinfo=UTC)
PREVIOUS_DAYS = 4
"""Of the month before, its last."""

PHASE_SECONDS = {"node": 37.017, "model": 222.25, "cluster": 37.017}
"""When in a step each level is evaluated. Both levels of GPUs are one group's."""

HOUR_STEPS = 3600 // STEP_SECONDS
DAY_STEPS = 24 * HOUR_STEPS

OTHER_MODEL = "Qwen/Qwen3-8B"
"""To which half of the chat is switched."""
AGENTS_MODEL = "Qwen/Qwen2.5-7B-Instruct"
"""Of the namespace that is always short of KV cache."""
SWITCH_DAY, BAD_DAY, MIG_DAY, ROLLOUT_DAY = 12, 20, 8, 10
THROTTLED_DAYS = range(15, 22)
REMOTE_DAYS = range(5, 10)

Piece = tuple[Tile, float]
"""A tile, and how much of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """A node of the month."""

    node: Node
    kind: str
    namespace: str

    @property
    def number(self) -> int:
        return int(self.node.instance.removeprefix("node-"))


def _hosts() -> Iterator[Host]:
    fleets = {
        "a": (("chat", 8), ("documents", 4), ("sharded", 4), ("half-used", 4), ("host-bound", 4)),
        "b": (("experts", 4), ("preempting", 4), ("chat", 4), ("documents", 4)),
    }
    for cluster, fleet in fleets.items():
        kinds = [kind for kind, count in fleet for _ in range(count)]
        for number, kind in enumerate(kinds, start=1):
            yield Host(
                node=Node(cluster, f"node-{number:02}"), kind=kind, namespace=NAMESPACES.get(kind, kind)
            )


NAMESPACES = {"sharded": "research", "experts": "research", "preempting": "agents", "host-bound": "tools"}
HOSTS: tuple[Host, ...] = tuple(_hosts())

BUSY_HOURS: Mapping[str, range] = {
    "chat": range(7, 22),
    "sharded": range(6, 23),
    "experts": range(8, 20),
    "preempting": range(9, 18),
}
"""Others are busy all the time."""
PREVIOUS_BUSY_HOURS = range(9, 18)


class Tiles:
    """All that nodes of the month can be doing, and what can be added to it."""

    def __init__(self, span: Span) -> None:
        self._span = span
        # Each is made once: what is the same is the same object.
        self.doing = cache(self._doing)
        self.remote = cache(self._remote)
        self.mig = cache(self._mig)
        self.unseen = cache(self._unseen)
        self.broken = cache(self._broken)

    def _doing(self, kind: str, state: str, turn: int, model: str = "") -> Tile:
        """One of a kind, in turn; what is served may be called otherwise."""
        if state == "idle" and kind in ("preempting", "documents", "host-bound"):
            kind = "chat"  # the same model on the same part, which nobody asks
        tiles = self._span.tiles(kind, state)
        tile = _sound(tiles[turn % len(tiles)])
        return _renamed(tile, model) if model else tile

    def _remote(self, tile: Tile) -> Tile:
        """As many GPUs as its own on another node, at the same price."""
        name = "roofline:model:engine_cost_usd:increase5m"
        return _addition(
            tile,
            model={
                (series, tuple(sorted({**dict(labels), "location": "remote"}.items()))): usd
                for (series, labels), usd in tile.model.items()
                if series == name
            },
            engines={
                key: ServiceTruth({("remote_usd", phase): usd for phase, usd in engine.usd_by_phase.items()})
                for key, engine in tile.engines.items()
            },
        )

    def _mig(self, tile: Tile) -> Tile:
        """What the instances of a board beside it leave."""
        usd = 1.5 * STEP_SECONDS / 3600
        part = ("part", tile.part)
        return _addition(
            tile,
            node={
                _increase("gpu_cost_usd", part): usd,
                _increase("gpu_unattributed_cost_usd", part): usd,
                _increase("gpu_bottleneck_cost_usd", ("bottleneck", "unallocated"), part): usd,
            },
            gpus=GpuTruth({("usd", "unallocated"): usd, ("unattributed_usd",): usd}),
        )

    def _unseen(self, tile: Tile) -> Tile:
        """The agent runs, and no GPU can be read."""
        seconds = float(STEP_SECONDS * tile.gpu_count)
        return replace(
            _addition(
                tile,
                node={
                    **dict.fromkeys(tile.node, 0.0),
                    _increase("gpu_unobserved_seconds", ("part", tile.part)): seconds,
                },
                gpus=GpuTruth({("unobserved_seconds",): seconds}),
            ),
            kind="unseen",
        )

    def _broken(self, tile: Tile, *faults: tuple[str, str]) -> Tile:
        """Its GPUs report what broke."""
        node = {}
        gpus = GpuTruth()
        for what, which in faults:
            label = "xid" if what == "xid" else "severity"
            node[_increase(f"gpu_{what}_errors", ("part", tile.part), (label, which))] = 1.0
            gpus.add({("faults", f"{what} {which}"): 1.0})
        return _addition(tile, node=node, gpus=gpus)


def _increase(name: str, *labels: tuple[str, str]) -> Recorded:
    return f"roofline:node:{name}:increase5m", tuple(sorted(labels))


def _addition(
    tile: Tile,
    *,
    node: Mapping[Recorded, float] | None = None,
    model: Mapping[Recorded, float] | None = None,
    gpus: GpuTruth | None = None,
    engines: Mapping[tuple[str, str, str], ServiceTruth] | None = None,
) -> Tile:
    return replace(
        tile,
        state="added",
        node=node or {},
        model=model or {},
        gpus=gpus or GpuTruth(),
        engines=engines or {},
    )


def _sound(tile: Tile) -> Tile:
    """The same without faults, which would be there again and again."""
    counts = "roofline:node:gpu_xid_errors:increase5m", "roofline:node:gpu_ecc_errors:increase5m"
    return replace(
        tile,
        node={series: 0.0 if series[0] in counts else value for series, value in tile.node.items()},
        gpus=GpuTruth({key: amount for key, amount in tile.gpus.items() if key[0] != "faults"}),
    )


def _renamed(tile: Tile, model: str) -> Tile:
    return replace(
        tile,
        model={
            (name, tuple(("model", model) if label[0] == "model" else label for label in labels)): value
            for (name, labels), value in tile.model.items()
        },
        engines={(model, engine, part): truth for (_, engine, part), truth in tile.engines.items()},
    )


# --- what each node does, and when -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """A step of the month, or of the days before it."""

    index: int
    """Since the first of the month; negative before it."""

    @property
    def day(self) -> int:
        """Of the month; not above 0 before it."""
        return self.index // DAY_STEPS + 1

    @property
    def hour(self) -> int:
        return self.index % DAY_STEPS // HOUR_STEPS

    @property
    def step(self) -> int:
        """Of the day."""
        return self.index % DAY_STEPS


def pieces(host: Host, now: Moment, tiles: Tiles) -> tuple[Piece, ...]:
    """What one node does in a step; nothing where nothing is recorded of it."""
    cluster, instance = host.node
    if now.day == 24 and now.hour in (3, 4):
        return ()  # nothing is recorded of anything
    if (cluster, instance, now.day) == ("a", "node-05", 7) and 10 <= now.hour < 15:
        return ()  # nobody scrapes it
    tile = _tile(host, now, tiles)
    if (cluster, instance, now.day) == ("a", "node-21", 3) and now.hour < 3:
        return ((tiles.unseen(tile), 1.0),)
    given: list[Piece] = [(tile, _share(host, now))]
    if host.kind == "experts" and now.day in REMOTE_DAYS:
        given.append((tiles.remote(tile), _share(host, now)))
    if (cluster, instance, now.day) == ("b", "node-16", MIG_DAY):
        given.append((tiles.mig(tile), 1.0))
    if (cluster, instance, now.day, now.step) == ("a", "node-17", 13, 100):
        given.append((tiles.broken(tile, ("xid", "79")), 1.0))
    if (cluster, instance, now.day, now.step) == ("b", "node-02", 22, 7):
        given.append((tiles.broken(tile, ("xid", "48"), ("ecc", "uncorrected")), 2.0))
    return tuple(given)


def _tile(host: Host, now: Moment, tiles: Tiles) -> Tile:
    in_month = now.day >= 1
    kind = host.kind
    if kind == "documents" and host.node.cluster == "a" and now.day in THROTTLED_DAYS:
        kind = "throttled"
    if kind == "chat" and host.node.cluster == "b" and now.day == BAD_DAY:
        kind = "preempting"
    hours = BUSY_HOURS.get(kind, range(24))
    if not in_month and host.kind in BUSY_HOURS:
        hours = PREVIOUS_BUSY_HOURS
    return tiles.doing(kind, "busy" if now.hour in hours else "idle", now.index % 2, _model(host, now))


def _model(host: Host, now: Moment) -> str:
    """What is served, where it is not what its tile served."""
    if host.kind == "preempting":
        return AGENTS_MODEL
    switched = host.kind == "chat" and host.node.cluster == "a" and host.number <= 4
    return OTHER_MODEL if switched and now.day >= SWITCH_DAY else ""


def _share(host: Host, now: Moment) -> float:
    """How much of a step's work was counted: an agent that is replaced misses some."""
    if host.node.cluster == "a" and now.day == ROLLOUT_DAY and now.step == 10 * HOUR_STEPS + 6:
        return 0.8
    return 0.75 if (now.index + 97 * host.number) % (7 * DAY_STEPS) == 0 else 1.0


# --- the month ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One recorded series: at each step of the month, the value that stands at that place of the table."""

    name: str
    labels: Mapping[str, str]
    level: str
    places: Sequence[int]
    table: Sequence[str]
    """Values as written; empty where there is no sample."""


State = tuple[int, ...]
"""What each node of a group does."""

ADDS_UP = ":increase5m", ":count"


class Month:
    """All of it, from tiles; nothing is kept that can be summed again."""

    def __init__(self, span: Span) -> None:
        tiles = Tiles(span)
        self.indexes = range(-PREVIOUS_DAYS * DAY_STEPS, (END - START).days * DAY_STEPS)
        self._doings: list[tuple[Piece, ...]] = []
        self._recorded = cache(self._record)
        numbers: dict[tuple[tuple[int, float], ...], int] = {}
        self._of_host: dict[Node, list[int]] = {host.node: [] for host in HOSTS}
        """What each node does at each step, by its place in `_doings`."""
        for index in self.indexes:
            now = Moment(index=index)
            for host in HOSTS:
                given = pieces(host, now, tiles)
                key = tuple((id(tile), share) for tile, share in given)
                if key not in numbers:
                    numbers[key] = len(self._doings)
                    self._doings.append(given)
                self._of_host[host.node].append(numbers[key])

    # --- what is recorded ---

    def instants(self, level: str) -> list[float]:
        """When the samples of a level are, in Unix time, step by step."""
        begin = START.timestamp() + PHASE_SECONDS[level]
        return [begin + index * STEP_SECONDS for index in self.indexes]

    def series(self, *, every_node_series: bool = False) -> Iterator[Series]:
        """All that is recorded; of nodes, what a review asks for, without what is always 0."""
        for host in HOSTS:
            cluster, instance = host.node
            labels = {"cluster": cluster, "job": JOB, "instance": instance}
            for series in self._summed("node", (host,), labels, lambda name: name):
                asked = series.name in NODE_SERIES and any(value not in ("", "0") for value in series.table)
                if every_node_series or asked:
                    yield series
        for cluster in sorted({host.node.cluster for host in HOSTS}):
            hosts = tuple(host for host in HOSTS if host.node.cluster == cluster)
            labels = {"cluster": cluster, "job": JOB}
            yield from self._summed(
                "cluster", hosts, labels, lambda name: name.replace(":node:", ":cluster:")
            )
            yield from self._summed("model", hosts, labels, lambda name: name if name == OBJECTIVE else "")
            for namespace in sorted({host.namespace for host in hosts}):
                yield from self._summed(
                    "model",
                    tuple(host for host in hosts if host.namespace == namespace),
                    {**labels, "workload_namespace": namespace},
                    lambda name: name if name != OBJECTIVE else "",
                )

    def _summed(
        self,
        level: str,
        hosts: Sequence[Host],
        labels: Mapping[str, str],
        name_of: Callable[[str], str],
    ) -> Iterator[Series]:
        """Over some nodes, as `sum by` and `max by` do; what has no name is left out."""
        source = "model" if level == "model" else "node"
        states: dict[State, int] = {}
        places = [
            states.setdefault(state, len(states))
            for state in zip(*(self._of_host[host.node] for host in hosts), strict=True)
        ]
        sums = [self._sum(source, state) for state in states]
        for series in sorted({series for one in sums for series in one}):
            name = name_of(series[0])
            if name:
                yield Series(
                    name=name,
                    labels={**labels, **dict(series[1])},
                    level=level,
                    places=places,
                    table=[_written(one.get(series)) for one in sums],
                )

    def _sum(self, source: str, state: State) -> dict[Recorded, float]:
        total: dict[Recorded, float] = {}
        for doing in state:
            for series, value in self._recorded(source, doing).items():
                before = total.get(series)
                if before is None:
                    total[series] = value
                elif series[0].endswith(ADDS_UP):
                    total[series] = before + value
                else:
                    total[series] = max(before, value)
        return total

    def _record(self, source: str, doing: int) -> Mapping[Recorded, float]:
        """Of one node, in one step."""
        total: dict[Recorded, float] = {}
        for tile, share in self._doings[doing]:
            for series, value in (tile.node if source == "node" else tile.model).items():
                times = share if series[0].endswith(":increase5m") else 1.0
                total[series] = total.get(series, 0.0) + value * times
        return total

    # --- what it really was ---

    @cached_property
    def truth(self) -> Truth:
        """Of the month."""
        return self._truth(START, END)

    @cached_property
    def previous_truth(self) -> Truth:
        """Of the month before, of which only the last days were recorded."""
        return self._truth(datetime(2026, 8, 1, tzinfo=UTC), START)

    def _truth(self, start: datetime, end: datetime) -> Truth:
        low, high = (int((at - START).total_seconds()) // STEP_SECONDS for at in (start, end))
        gpus: defaultdict[tuple[Node, str, date], GpuTruth] = defaultdict(GpuTruth)
        services: defaultdict[tuple[Service, date], ServiceTruth] = defaultdict(ServiceTruth)
        recorded: Counter[Node] = Counter()
        anything: set[int] = set()
        counts: defaultdict[tuple[Host, date], Counter[int]] = defaultdict(Counter)
        for host in HOSTS:
            for index, doing in zip(self.indexes, self._of_host[host.node], strict=True):
                if low <= index < high and self._doings[doing]:
                    recorded[host.node] += 1
                    anything.add(index)
                    counts[host, (START + timedelta(days=index // DAY_STEPS)).date()][doing] += 1
        for (host, day), doings in counts.items():
            for doing, times in doings.items():
                for tile, share in self._doings[doing]:
                    gpus[host.node, tile.part, day].add(tile.gpus, share * times)
                    for (model, engine, part), truth in tile.engines.items():
                        service = Service(host.node.cluster, model, engine, part, host.namespace)
                        services[service, day].add(truth, share * times)
        return Truth(
            start=start,
            end=end,
            gpus_by_day=gpus,
            services_by_day=services,
            steps=high - low,
            recorded_steps=len(anything),
            recorded_steps_by_node=recorded,
            gpus_by_node={
                host.node: float(
                    next(d for d in map(self._doing, self._of_host[host.node]) if d)[0][0].gpu_count
                )
                for host in HOSTS
            },
            gaps=tuple(_gaps(range(low, high), anything)),
        )

    def _doing(self, number: int) -> tuple[Piece, ...]:
        return self._doings[number]


NODE_SERIES = frozenset(
    f"roofline:node:{name}:increase5m"
    for name in (
        "gpu_observed_seconds",
        "gpu_unobserved_seconds",
        "gpu_bottleneck_seconds",
        "gpu_bottleneck_cost_usd",
        "gpu_clock_limited_seconds",
        "gpu_idle_held_seconds",
        "gpu_cost_usd",
        "gpu_idle_cost_usd",
        "gpu_unattributed_cost_usd",
        "gpu_xid_errors",
        "gpu_ecc_errors",
    )
)
"""What a review asks of each node."""


def _gaps(steps: Iterable[int], recorded: set[int]) -> Iterator[Gap]:
    begun: int | None = None
    last = 0
    for step in steps:
        if step in recorded and begun is not None:
            yield Gap(start=_instant(begun), end=_instant(step))
            begun = None
        elif step not in recorded and begun is None:
            begun = step
        last = step
    if begun is not None:
        yield Gap(start=_instant(begun), end=_instant(last + 1))


def _instant(step: int) -> datetime:
    return START + timedelta(seconds=step * STEP_SECONDS)


def _written(value: float | None) -> str:
    return "" if value is None else f"{value:.10g}"


# --- as databases take it ----------------------------------------------------------------------------


def openmetrics_lines(month: Month, series: Iterable[Series]) -> Iterator[str]:
    """Of one series after the other, a text each."""
    instants = {level: [f" {at:.3f}\n" for at in month.instants(level)] for level in PHASE_SECONDS}
    for one in series:
        labels = ",".join(f'{name}="{value}"' for name, value in one.labels.items())
        head = [f"{one.name}{{{labels}}} {value}" if value else "" for value in one.table]
        yield "".join(
            [
                head[place] + at
                for place, at in zip(one.places, instants[one.level], strict=True)
                if head[place]
            ]
        )


def json_lines(month: Month, series: Iterable[Series]) -> Iterator[str]:
    """As VictoriaMetrics imports them."""
    instants = {level: [f"{at * 1000:.0f}" for at in month.instants(level)] for level in PHASE_SECONDS}
    for one in series:
        labels = ",".join(
            f'"{name}":"{value}"' for name, value in {"__name__": one.name, **one.labels}.items()
        )
        present = [
            (one.table[place], at)
            for place, at in zip(one.places, instants[one.level], strict=True)
            if one.table[place]
        ]
        values = ",".join([value for value, _ in present])
        times = ",".join([at for _, at in present])
        yield f'{{"metric":{{{labels}}},"values":[{values}],"timestamps":[{times}]}}\n'
