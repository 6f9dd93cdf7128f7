"""Which alerts each scenario must raise, and no others. One line a scenario: edit here."""

from __future__ import annotations

from collections.abc import Mapping

EXPECTED: Mapping[str, frozenset[str]] = {
    scenario: frozenset(alerts.split())
    for scenario, alerts in {
        "node": "GpuMemoryBoundUnderutilizedByTraffic GpuUtilizationMisleading GpuHostBound",
        "idle": "GpuIdleHeld",
        "memory-bound-decode": "GpuMemoryBoundUnderutilizedByTraffic GpuUtilizationMisleading",
        "compute-bound-prefill": "",
        "sparse-prefill": "",
        "mixed": "",
        "host-bound": "GpuHostBound",
        "speculative-decoding": "GpuMemoryBoundUnderutilizedByTraffic GpuUtilizationMisleading",
        "interconnect": "EngineInterconnectBound",
        "kernel-latency": "GpuUtilizationMisleading",
        "kv-nearly-full": "",
        "preempting": "EnginePreempting GpuMemoryBoundUnderutilizedByKvCache",
        "max-num-seqs": "GpuMemoryBoundUnderutilizedByMaxNumSeqs",
        "throttled": "GpuRoofLoweredByPower",
        "hung-engine": "EngineStalled",
        "shared-gpu": "GpuMemoryBoundUnderutilizedByTraffic",
        "data-parallel": "GpuMemoryBoundUnderutilizedByTraffic",
        "contradicting-evidence": "",
        "measured-by-dcgm": "GpuHostBound GpuIdleHeld GpuMemoryBoundUnderutilizedByTraffic",
        "gpu-lost": "GpuLost EngineDown GpuXidError GpuMemoryBoundUnderutilizedByTraffic",
        "engine-down": "EngineDown",
        # The agent's own.
        "agent-down": "AgentDown",
        "agent-absent": "AgentAbsent",
        "agent-stuck": "AgentStale",
        "agent-restarted": "",
        "agent-over-budget": "AgentOverBudget",
    }.items()
}
"""By the name of the scenario, which is that of its cluster and node."""

SILENCED: Mapping[str, frozenset[str]] = {
    scenario: frozenset(alerts.split())
    for scenario, alerts in {
        "gpu-lost": "GpuXidError",
    }.items()
}
"""Of them, those that another one must silence at some time, so that nobody is told of them."""

ROOTS: Mapping[str, frozenset[str]] = {
    scenario: frozenset(alerts.split())
    for scenario, alerts in {
        "gpu-lost": "GpuLost EngineDown",
        "agent-down": "AgentDown",
    }.items()
}
"""And those that nothing may silence."""
