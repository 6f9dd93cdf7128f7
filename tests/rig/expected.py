"""Which alerts each scenario must raise, and no others. One line a scenario: edit here."""

from __future__ import annotations

from collections.abc import Mapping

EXPECTED: Mapping[str, frozenset[str]] = {
    scenario: frozenset(alerts.split())
    for scenario, alerts in {
        "node": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic GpuHostBound",
        "idle": "GpuIdleHeld",
        "memory-bound-decode": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic",
        "single-user": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic",
        "compute-bound-prefill": "",
        "sparse-prefill": "",
        "mixed": "",
        "interference": "EnginePrefillInterference EngineInterTokenBudgetBurn",
        "host-bound": "GpuHostBound GpuOversizedForTraffic",
        "speculative-decoding": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic",
        "interconnect": "EngineInterconnectBound EngineInterTokenBudgetBurn GpuUtilizationMisleading",
        "kernel-latency": "GpuUtilizationMisleading GpuOversizedForTraffic",
        "kv-nearly-full": "",
        "kv-filling": "EngineKvCacheExhaustionPredicted",
        "preempting": "GpuMemoryBoundUnderutilizedByKvCache EnginePreempting EngineTtftBudgetBurn",
        "max-num-seqs": "GpuMemoryBoundUnderutilizedByMaxNumSeqs EngineTtftBudgetBurn",
        "overloaded": "GpuMemoryBoundUnderutilizedByMaxNumSeqs EngineTtftBudgetBurn",
        "traffic-fell": "GpuMemoryBoundUnderutilizedByTraffic EngineCostPerTokenRegressed",
        "throttled": "GpuRoofLoweredByPower",
        "overheated": "GpuRoofLoweredByHeat EngineInterTokenBudgetBurn",
        "hung-engine": "EngineStalled GpuUtilizationMisleading",
        "shared-gpu": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic",
        "data-parallel": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic",
        "contradicting-evidence": "GpuOversizedForTraffic",
        "measured-by-dcgm": "GpuMemoryBoundUnderutilizedByTraffic GpuHostBound",
        "dcgm-down": "GpuMemoryBoundUnderutilizedByTraffic SourceDown",
        "driver-down": "SourceDown",
        "wrong-model": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic EngineModelDisagrees",
        "failing-memory": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic "
        "GpuEccUncorrected GpuXidError GpuRecoveryActionNeeded",
        "gpu-lost": "GpuMemoryBoundUnderutilizedByTraffic GpuOversizedForTraffic "
        "GpuLost GpuXidError EngineDown",
        "engine-down": "EngineDown",
        # The agent's own.
        "agent-down": "AgentDown GpuEccUncorrected GpuXidError",
        "agent-removed": "",
        "agent-stuck": "AgentStale",
        "agent-restarted": "",
        "agent-misconfigured": "AgentConfigurationRefused",
        "agent-over-budget": "AgentOverBudget",
    }.items()
}
"""By the name of the scenario, which is that of its cluster and node."""

SILENCED: Mapping[str, frozenset[str]] = {
    scenario: frozenset(alerts.split())
    for scenario, alerts in {
        "gpu-lost": "GpuXidError",
        "agent-down": "GpuEccUncorrected",
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
