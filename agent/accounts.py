"""What is summed up over time: every second, byte, FLOP and dollar goes to exactly one place.

The sums are the agent's own and only rise. Time is kept in whole nanoseconds, so that the parts add up
to the whole for years. `totals()` gives a frozen copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.ladder import Measured
from agent.readings import CLOCK_LIMITS, Evidence, GpuReading
from agent.roofline.bottleneck import BOTTLENECKS, Bottleneck
from agent.roofline.step import COMPONENTS, Attribution, Component
from agent.roofline.workload import Workload

NANOSECONDS = 1_000_000_000

ACTIVITIES: tuple[str, ...] = ("dram_active", "tensor_active", "sm_active")
QUANTITIES: tuple[str, ...] = (*ACTIVITIES, "dram_bytes", "flops")
LINK_COUNTERS: tuple[str, ...] = (
    "pcie_receive_bytes",
    "pcie_transmit_bytes",
    "nvlink_receive_bytes",
    "nvlink_transmit_bytes",
)
"""By the names of `GpuCounters`."""

# --- GPUs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuTotals:
    """Sums of one GPU since the agent first saw it, in seconds, bytes, FLOPs and dollars."""

    observed_seconds: float = 0.0
    unobserved_seconds: float = 0.0
    bottleneck_seconds: Mapping[Bottleneck, float] = field(default_factory=dict)
    """They sum to `observed_seconds`."""
    evidence_seconds: Mapping[tuple[str, Evidence], float] = field(default_factory=dict)
    """By quantity and evidence; for each quantity they sum to `observed_seconds`."""
    active_seconds: Mapping[tuple[str, Evidence], float] = field(default_factory=dict)
    dram_bytes: Mapping[Evidence, float] = field(default_factory=dict)
    flops: Mapping[Evidence, float] = field(default_factory=dict)
    contradicted_seconds: float = 0.0
    """In which profiling read 0 while kernels ran; they count as without evidence."""
    link_bytes: Mapping[str, float] = field(default_factory=dict)
    """By the names in `LINK_COUNTERS`, those that the GPU counts."""
    clock_limited_seconds: Mapping[str, float] = field(default_factory=dict)
    """By reason, those that the GPU tells of."""
    cost_usd: float = 0.0
    idle_cost_usd: float = 0.0
    unattributed_cost_usd: float = 0.0
    """What no engine holds; with the engines' cost it is what was paid."""


class GpuAccount:
    """The running sums of one GPU."""

    def __init__(self, *, measured: tuple[Evidence, ...] = ("gpm",)) -> None:
        """`measured` are the kinds of evidence that its node can have, so that each begins at 0."""
        self._bottleneck: Counter[Bottleneck] = Counter(dict.fromkeys(BOTTLENECKS, 0))
        self._unobserved = 0
        self._evidence: Counter[tuple[str, Evidence]] = Counter()
        self._active: dict[tuple[str, Evidence], float] = {}
        self._bytes: dict[Evidence, float] = {}
        self._flops: dict[Evidence, float] = {}
        self.admit(measured)
        self._contradicted = 0
        self._links: dict[str, float] = {}
        self._limited: dict[str, float] = {}
        self._cost_usd = 0.0
        self._idle_cost_usd = 0.0
        self._unattributed_cost_usd = 0.0

    def admit(self, measured: tuple[Evidence, ...]) -> None:
        """Begin at 0 with each of these kinds of evidence that is new; what was counted of others stays."""
        rungs: tuple[Evidence, ...] = (*measured, "modelled")
        for quantity in QUANTITIES:
            for evidence in (*(measured if quantity in ACTIVITIES else rungs), "none"):
                self._evidence.setdefault((quantity, evidence), 0)
        for quantity in ACTIVITIES:
            for evidence in measured:
                self._active.setdefault((quantity, evidence), 0.0)
        for rung in rungs:
            self._bytes.setdefault(rung, 0.0)
            self._flops.setdefault(rung, 0.0)

    def credit_unobserved(self, seconds: float) -> None:
        """A gap: the GPU was there, and nobody looked."""
        self._unobserved += round(seconds * NANOSECONDS)

    def credit(self, seconds: float, *, bottleneck: Bottleneck) -> None:
        """Time observed, to the class in force."""
        self._bottleneck[bottleneck] += round(seconds * NANOSECONDS)

    def credit_cost(self, usd: float, *, idle: bool, unattributed_usd: float) -> None:
        """What that time cost, and the part of it that no engine holds."""
        self._cost_usd += usd
        self._idle_cost_usd += usd if idle else 0.0
        self._unattributed_cost_usd += unattributed_usd

    def credit_activity(self, seconds: float, measured: Mapping[str, Measured]) -> None:
        """Active seconds, each to its evidence, or the time to `none`."""
        for quantity in ACTIVITIES:
            one = measured.get(quantity.replace("_active", "_ratio"))
            self.credit_evidence(quantity, seconds, one.evidence if one is not None else "none")
            if one is not None:
                self._active[(quantity, one.evidence)] += one.ratio * seconds

    def credit_contradiction(self, seconds: float) -> None:
        """Time in which the profiling counters could not be believed."""
        self._contradicted += round(seconds * NANOSECONDS)

    def credit_counters(self, seconds: float, before: GpuReading | None, after: GpuReading) -> None:
        """What the GPU has counted between two readings; a counter that fell began anew."""
        old = before.counters if before is not None else after.counters
        for name in LINK_COUNTERS:
            increase = _increase(getattr(old, name), getattr(after.counters, name))
            if increase is not None:
                self._links[name] = self._links.get(name, 0.0) + increase
        counted, sampled = after.counters.clock_limited_seconds, after.clock_limit_reasons
        told = {*counted, *(CLOCK_LIMITS if sampled is not None else ())}
        for reason in CLOCK_LIMITS:
            if reason not in told:
                continue
            # The driver's own count, to the nanosecond; without one, whether it held when we looked.
            limited = _increase(old.clock_limited_seconds.get(reason), counted.get(reason))
            if reason not in counted:
                limited = seconds if reason in (sampled or ()) else 0.0
            self._limited[reason] = self._limited.get(reason, 0.0) + (limited or 0.0)

    def credit_evidence(self, quantity: str, seconds: float, evidence: Evidence) -> None:
        """Time for which a quantity had that evidence."""
        self._evidence[(quantity, evidence)] += round(seconds * NANOSECONDS)

    def add_bytes(self, amount: float, evidence: Evidence) -> None:
        """DRAM traffic, on one rung of the ladder."""
        self._bytes[evidence] += amount

    def add_flops(self, amount: float, evidence: Evidence) -> None:
        """FLOPs, on one rung of the ladder."""
        self._flops[evidence] += amount

    def totals(self) -> GpuTotals:
        """The sums as they stand."""
        return GpuTotals(
            observed_seconds=sum(self._bottleneck.values()) / NANOSECONDS,
            unobserved_seconds=self._unobserved / NANOSECONDS,
            bottleneck_seconds={name: count / NANOSECONDS for name, count in self._bottleneck.items()},
            evidence_seconds={key: count / NANOSECONDS for key, count in self._evidence.items()},
            active_seconds=dict(self._active),
            dram_bytes=dict(self._bytes),
            flops=dict(self._flops),
            contradicted_seconds=self._contradicted / NANOSECONDS,
            link_bytes=dict(self._links),
            clock_limited_seconds=dict(self._limited),
            cost_usd=self._cost_usd,
            idle_cost_usd=self._idle_cost_usd,
            unattributed_cost_usd=self._unattributed_cost_usd,
        )


def _increase(old: float | None, new: float | None) -> float | None:
    """What was added; all of it after a fall; nothing yet where it was not known before."""
    if new is None:
        return None
    if old is None:
        return 0.0
    return new - old if new >= old else new


# --- engines -------------------------------------------------------------------------------------

PHASES = ("prefill", "decode")
SHARES = (*PHASES, "idle")
TRAFFIC = ("weights", "kv_cache", "activations")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkTotals:
    """Sums of one engine's modelled work, over all its GPUs."""

    flops: Mapping[str, float] = field(default_factory=dict)
    """By phase."""
    dram_bytes: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By phase and kind of traffic."""
    step_seconds: Mapping[Component, float] = field(default_factory=dict)
    """By component; they sum to the seconds of prefill and decode."""
    phase_seconds: Mapping[str, float] = field(default_factory=dict)
    """prefill, decode, neither; they sum to `observed_seconds`."""
    observed_seconds: float = 0.0
    cost_usd: Mapping[str, float] = field(default_factory=dict)
    """prefill, decode, idle: the engine's part of its local GPUs' cost."""
    remote_cost_usd: Mapping[str, float] = field(default_factory=dict)
    """Likewise, of its GPUs on other nodes: an estimate, and none of this node's money."""
    energy_joules: Mapping[str, float] = field(default_factory=dict)
    """Likewise."""


class EngineAccount:
    """The running sums of one engine; empty until its model is known."""

    def __init__(self) -> None:
        self._flops = dict.fromkeys(PHASES, 0.0)
        self._bytes = {(phase, traffic): 0.0 for phase in PHASES for traffic in TRAFFIC}
        self._steps: dict[Component, float] = dict.fromkeys(COMPONENTS, 0.0)
        self._phases = dict.fromkeys((*PHASES, "neither"), 0.0)
        self._observed_seconds = 0.0
        self._cost_usd = dict.fromkeys(SHARES, 0.0)
        self._remote_cost_usd = dict.fromkeys(SHARES, 0.0)
        self._energy_joules = dict.fromkeys(SHARES, 0.0)

    def credit_work(self, work: Workload) -> None:
        """FLOPs and bytes of one interval."""
        for phase, part in (("prefill", work.prefill), ("decode", work.decode)):
            self._flops[phase] += part.flops
            self._bytes[(phase, "weights")] += part.weight_bytes
            self._bytes[(phase, "kv_cache")] += part.kv_cache_bytes
            self._bytes[(phase, "activations")] += part.activation_bytes

    def credit_time(self, seconds: float, attribution: Attribution) -> None:
        """Time of one interval, as it was divided."""
        for component, spent in attribution.components.items():
            self._steps[component] += spent
        self._phases["prefill"] += attribution.prefill_seconds
        self._phases["decode"] += attribution.decode_seconds
        self._phases["neither"] += max(seconds - attribution.busy_seconds, 0.0)
        self._observed_seconds += seconds

    def totals(self) -> WorkTotals:
        """The sums as they stand."""
        return WorkTotals(
            flops=dict(self._flops),
            dram_bytes=dict(self._bytes),
            step_seconds=dict(self._steps),
            phase_seconds=dict(self._phases),
            observed_seconds=self._observed_seconds,
            cost_usd=dict(self._cost_usd),
            remote_cost_usd=dict(self._remote_cost_usd),
            energy_joules=dict(self._energy_joules),
        )

    def credit_share(
        self, share: Mapping[str, float], *, usd: float, joules: float, remote_usd: float = 0.0
    ) -> None:
        """Its part of what one GPU cost and drew; `share` is by prefill, decode and idle."""
        for name, part in share.items():
            self._cost_usd[name] += part * usd
            self._remote_cost_usd[name] += part * remote_usd
            self._energy_joules[name] += part * joules
