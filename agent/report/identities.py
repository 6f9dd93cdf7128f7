"""Two ways to one number: what the rules record is conserved, and a review says whether it is."""

from __future__ import annotations

from collections.abc import Iterator

from agent.report.document import Identity, Service, Totals
from agent.report.measured import Measured, hours, together

NEAR = 0.01


def identities(measured: Measured, totals: Totals, services: tuple[Service, ...]) -> tuple[Identity, ...]:
    """Those whose both sides are known: recorded, and answered for the whole period."""
    return tuple(_identities(measured, totals, services))


def _identities(measured: Measured, totals: Totals, services: tuple[Service, ...]) -> Iterator[Identity]:
    now = measured.now
    observed = now["gpu_observed_seconds"].total
    if observed is not None and not now.lack("gpu_observed_seconds"):
        for name, question, labels in (
            ("GPU hours by what bounded them = observed hours", "gpu_bottleneck_seconds", {}),
            ("GPU hours of all nodes = observed hours", "node_gpu_bottleneck_seconds", {}),
            (
                "GPU hours by evidence of DRAM bytes = observed hours",
                "gpu_evidence_seconds",
                {"quantity": "dram_bytes"},
            ),
        ):
            seconds = now[question].value(**labels)
            if seconds is not None and not now.lack(question):
                yield _identity(name, hours(seconds), hours(observed))
    if totals.paid_usd is None or now.lack("gpu_cost_usd"):
        return
    spent = together(totals.used_usd, totals.idle_usd, totals.unallocated_usd)
    if spent is not None and not now.lack("gpu_bottleneck_cost_usd", "gpu_idle_cost_usd"):
        yield _identity("used + idle + unallocated = paid", spent, totals.paid_usd)
    if totals.unattributed_usd is not None and not now.lack("gpu_unattributed_cost_usd", "engine_cost_usd"):
        of_services = sum(row.usd or 0.0 for row in services)
        yield _identity(
            "models + held by no engine = paid", of_services + totals.unattributed_usd, totals.paid_usd
        )


def _identity(name: str, left: float, right: float) -> Identity:
    larger = max(abs(left), abs(right))
    error = abs(left - right) / larger if larger else 0.0
    return Identity(name=name, left=left, right=right, error_ratio=error, holds=error <= NEAR)
