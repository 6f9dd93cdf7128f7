"""What a month really was, by plain addition of what its tiles really were. Nothing here asks a database."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from typing import NamedTuple, TypeVar

HOUR_SECONDS = 3600.0

Key = tuple[str, ...]


class Amounts(dict[Key, float]):
    """Named amounts that add up."""

    def add(self, other: Mapping[Key, float], times: float = 1.0) -> None:
        """So many times the other's."""
        for key, amount in other.items():
            self[key] = self.get(key, 0.0) + amount * times

    def of(self, *key: str) -> float:
        """One of them; what was never added is 0."""
        return self.get(key, 0.0)

    def by(self, *first: str) -> dict[str, float]:
        """Those whose names begin so, by the word that follows."""
        return {key[-1]: amount for key, amount in self.items() if key[:-1] == first}


_T = TypeVar("_T", bound=Amounts)


class GpuTruth(Amounts):
    """Of GPUs."""

    @property
    def seconds_by_class(self) -> dict[str, float]:
        """GPU seconds by what bounded them."""
        return self.by("seconds")

    @property
    def gpu_hours(self) -> float:
        """Observed."""
        return sum(self.seconds_by_class.values()) / HOUR_SECONDS

    @property
    def unobserved_hours(self) -> float:
        """An agent ran, and could not see the GPU."""
        return self.of("unobserved_seconds") / HOUR_SECONDS

    @property
    def usd_by_class(self) -> dict[str, float]:
        """What these seconds cost, and what of MIG boards is `unallocated`."""
        return self.by("usd")

    @property
    def paid_usd(self) -> float:
        return sum(self.usd_by_class.values())

    @property
    def unattributed_usd(self) -> float:
        """Held by no engine."""
        return self.of("unattributed_usd")

    @property
    def idle_held_seconds(self) -> float:
        """Idle, in the hands of an engine or another process."""
        return self.of("idle_held_seconds")

    @property
    def energy_joules(self) -> float:
        return self.of("energy_joules")

    @property
    def clock_limited_seconds(self) -> dict[str, float]:
        """By reason, those that are not 0."""
        return {reason: seconds for reason, seconds in self.by("clock_limited_seconds").items() if seconds}

    @property
    def faults(self) -> dict[str, float]:
        """`xid 79`, `ecc uncorrected`: how often, those that are not 0."""
        return {kind: count for kind, count in self.by("faults").items() if count}


class ServiceTruth(Amounts):
    """Of engines that serve one model for one namespace on one part."""

    @property
    def seconds_by_class(self) -> dict[str, float]:
        """Seconds of the GPUs that it held."""
        return self.by("seconds")

    @property
    def gpu_hours(self) -> float:
        return sum(self.seconds_by_class.values()) / HOUR_SECONDS

    @property
    def usd_by_phase(self) -> dict[str, float]:
        """Of GPUs on its own nodes: `prefill`, `decode`, `idle`."""
        return self.by("usd")

    @property
    def usd(self) -> float:
        return sum(self.usd_by_phase.values())

    @property
    def remote_usd(self) -> float:
        """Of its GPUs on other nodes."""
        return sum(self.by("remote_usd").values())

    @property
    def generation_tokens(self) -> float:
        return self.of("generation_tokens")

    @property
    def prefill_tokens(self) -> float:
        return self.of("prefill_tokens")

    @property
    def cached_prompt_tokens(self) -> float:
        return self.of("cached_prompt_tokens")

    @property
    def requests(self) -> float:
        return self.of("requests")

    @property
    def steps(self) -> float:
        return self.of("steps")

    @property
    def preemptions(self) -> float:
        return self.of("preemptions")

    @property
    def energy_joules(self) -> float:
        return sum(self.by("energy_joules").values())

    @property
    def flops(self) -> float:
        return sum(self.by("flops").values())

    @property
    def dram_bytes(self) -> float:
        return sum(amount for key, amount in self.items() if key[0] == "dram_bytes")

    @property
    def slo_events(self) -> dict[str, float]:
        return self.by("slo_events")

    @property
    def slo_good_events(self) -> dict[str, float]:
        return self.by("slo_good_events")


class Service(NamedTuple):
    """What tells services apart."""

    cluster: str
    model: str
    engine: str
    part: str
    namespace: str


class Objective(NamedTuple):
    """Of a model in a cluster."""

    cluster: str
    model: str
    slo: str


class Node(NamedTuple):
    """Of a cluster."""

    cluster: str
    instance: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Time in which nothing was recorded of anything."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """Of one period: what was recorded in it, as it really was."""

    start: datetime
    end: datetime
    gpus_by_day: Mapping[tuple[Node, str, date], GpuTruth]
    """By node, part and day."""
    services_by_day: Mapping[tuple[Service, date], ServiceTruth]
    steps: int
    """Of five minutes, in the period."""
    recorded_steps: int
    """Those in which anything was recorded."""
    recorded_steps_by_node: Mapping[Node, int]
    gpus_by_node: Mapping[Node, float]
    gaps: tuple[Gap, ...]

    @property
    def coverage_ratio(self) -> float:
        return self.recorded_steps / self.steps

    # --- GPUs ---

    def gpus(
        self, *, cluster: str | None = None, part: str | None = None, day: date | None = None
    ) -> GpuTruth:
        """All of them, or those of a cluster, of a part, on a day."""
        return _sum(
            GpuTruth(),
            (
                truth
                for (node, of_part, on), truth in self.gpus_by_day.items()
                if cluster in (None, node.cluster) and part in (None, of_part) and day in (None, on)
            ),
        )

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(sorted({part for _, part, _ in self.gpus_by_day}))

    @property
    def days(self) -> tuple[date, ...]:
        return tuple(sorted({day for _, _, day in self.gpus_by_day}))

    @property
    def nodes(self) -> Mapping[Node, GpuTruth]:
        found: defaultdict[Node, GpuTruth] = defaultdict(GpuTruth)
        for (node, _, _), truth in self.gpus_by_day.items():
            found[node].add(truth)
        return found

    # --- what they did ---

    def work(self, *, cluster: str | None = None, day: date | None = None) -> ServiceTruth:
        """Of all services, or those of a cluster, on a day."""
        return _sum(
            ServiceTruth(),
            (
                truth
                for (service, on), truth in self.services_by_day.items()
                if cluster in (None, service.cluster) and day in (None, on)
            ),
        )

    @property
    def services(self) -> Mapping[Service, ServiceTruth]:
        found: defaultdict[Service, ServiceTruth] = defaultdict(ServiceTruth)
        for (service, _), truth in self.services_by_day.items():
            found[service].add(truth)
        return found

    def objectives(self, *, day: date | None = None) -> Mapping[Objective, tuple[float, float]]:
        """Events, and those of them that were good; of a month or of a day of it."""
        found: dict[Objective, tuple[float, float]] = {}
        for (service, on), truth in self.services_by_day.items():
            if day not in (None, on):
                continue
            good = truth.slo_good_events
            for slo, events in truth.slo_events.items():
                objective = Objective(service.cluster, service.model, slo)
                before = found.get(objective, (0.0, 0.0))
                found[objective] = (before[0] + events, before[1] + good.get(slo, 0.0))
        return found


def _sum(into: _T, amounts: Iterable[Mapping[Key, float]]) -> _T:
    for one in amounts:
        into.add(one)
    return into
