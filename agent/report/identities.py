"""Two ways to one number: what the rules record is conserved, and a review says whether it is."""

from __future__ import annotations

from collections.abc import Iterator

from agent.report.document import Identity, Service, Totals
from agent.report.measured import Measured, hours, together

NEAR = 0.01


def identities(measured: Measured, totals: Totals, services: tuple[Service, ...]) -> tuple[Identity, ...]:
    """Those whose both sides are known."""
    return tuple(_identities(measured, totals, services))


def _identities(measured: Measured, totals: Totals, services: tuple[Service, ...]) -> Iterator[Identity]:
    now = measured.now
    observed = totals.gpu_hours
    yield _identity(
        "GPU hours by what bounded them = observed hours",
        hours(now["gpu_bottleneck_seconds"].amount()),
        observed,
    )
    by_node = now["node_gpu_bottleneck_seconds"].total
    if by_node is not None:
        yield _identity("GPU hours of all nodes = observed hours", hours(by_node), observed)
    evidence = now["gpu_evidence_seconds"].value(quantity="dram_bytes")
    if evidence is not None:
        yield _identity("GPU hours by evidence of DRAM bytes = observed hours", hours(evidence), observed)
    if totals.paid_usd is None:
        return
    spent = together(totals.used_usd, totals.idle_usd, totals.unallocated_usd) or 0.0
    yield _identity("used + idle + unallocated = paid", spent, totals.paid_usd)
    of_services = sum(row.usd or 0.0 for row in services)
    yield _identity(
        "models + held by no engine = paid", of_services + (totals.unattributed_usd or 0.0), totals.paid_usd
    )


def _identity(name: str, left: float, right: float) -> Identity:
    larger = max(abs(left), abs(right))
    error = abs(left - right) / larger if larger else 0.0
    return Identity(name=name, left=left, right=right, error_ratio=error, holds=error <= NEAR)
