"""What is summed up over time: every second, byte, FLOP and dollar goes to exactly one place.

The sums are the agent's own and only rise. Time is kept in whole nanoseconds, so that the parts add up
to the whole for years. `totals()` gives a frozen copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.readings import Activity, Evidence
from agent.roofline.bottleneck import BOTTLENECKS, Bottleneck
from agent.roofline.step import COMPONENTS, Attribution, Component
from agent.roofline.workload import Workload

NANOSECONDS = 1_000_000_000

ACTIVITIES: tuple[str, ...] = ("dram_active", "tensor_active", "sm_active")
QUANTITIES: tuple[str, ...] = (*ACTIVITIES, "dram_bytes", "flops")
MEASURED: tuple[Evidence, ...] = ("gpm",)
"""Evidence that can be measured here."""
BYTES_AND_FLOPS: tuple[Evidence, ...] = ("gpm", "modelled")


def evidence_of(quantity: str) -> tuple[Evidence, ...]:
    """The kinds of evidence that a quantity can have, `none` included."""
    return (*(MEASURED if quantity in ACTIVITIES else BYTES_AND_FLOPS), "none")


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
    cost_usd: float = 0.0
    idle_cost_usd: float = 0.0
    unattributed_cost_usd: float = 0.0
    """What no engine holds; with the engines' cost it is what was paid."""


class GpuAccount:
    """The running sums of one GPU."""

    def __init__(self) -> None:
        self._bottleneck: Counter[Bottleneck] = Counter(dict.fromkeys(BOTTLENECKS, 0))
        self._unobserved = 0
        self._evidence: Counter[tuple[str, Evidence]] = Counter(
            {(quantity, evidence): 0 for quantity in QUANTITIES for evidence in evidence_of(quantity)}
        )
        self._active: dict[tuple[str, Evidence], float] = {
            (quantity, evidence): 0.0 for quantity in ACTIVITIES for evidence in MEASURED
        }
        self._bytes: dict[Evidence, float] = dict.fromkeys(BYTES_AND_FLOPS, 0.0)
        self._flops: dict[Evidence, float] = dict.fromkeys(BYTES_AND_FLOPS, 0.0)
        self._cost_usd = 0.0
        self._idle_cost_usd = 0.0
        self._unattributed_cost_usd = 0.0

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

    def credit_activity(self, seconds: float, activity: Activity | None) -> None:
        """Active seconds, each to its evidence, or the time to `none`."""
        for quantity, ratio in (
            ("dram_active", activity.dram_ratio if activity else None),
            ("tensor_active", activity.tensor_ratio if activity else None),
            ("sm_active", activity.sm_ratio if activity else None),
        ):
            evidence: Evidence = activity.evidence if activity and ratio is not None else "none"
            self.credit_evidence(quantity, seconds, evidence)
            if ratio is not None:
                self._active[(quantity, evidence)] += ratio * seconds

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
            cost_usd=self._cost_usd,
            idle_cost_usd=self._idle_cost_usd,
            unattributed_cost_usd=self._unattributed_cost_usd,
        )


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
            energy_joules=dict(self._energy_joules),
        )

    def credit_share(self, share: Mapping[str, float], *, usd: float, joules: float) -> None:
        """Its part of what one GPU cost and drew; `share` is by prefill, decode and idle."""
        for name, part in share.items():
            self._cost_usd[name] += part * usd
            self._energy_joules[name] += part * joules
