"""What a GPU does, as a handful of kinds of time, and how each kind shows on its counters.

The ratios are this package's own table, chosen from what is reported of H100s: they are not computed
from FLOPs or bytes, so that the agent's arithmetic can disagree with them. Other parts show the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Literal

from agent.readings import Activity
from agent.simulate.parts import H100, Part

Cause = Literal[
    "memory_bandwidth", "compute", "interconnect", "kernel_latency", "host", "idle", "unknown"
]  # fmt: skip
CAUSES: tuple[Cause, ...] = (
    "memory_bandwidth", "compute", "interconnect", "kernel_latency", "host", "idle", "unknown",
)  # fmt: skip


class Kind(IntEnum):
    """A kind of GPU time; at any instant exactly one is in force. The values index a ledger."""

    DECODE_GEMM = 0
    DECODE_ATTENTION = 1
    PREFILL_GEMM = 2
    PREFILL_ATTENTION = 3
    COMM = 4
    ELEMENTWISE = 5
    LATENCY = 6
    """Kernels too small for the GPU: launch, ramp, one wave, and DRAM's latency instead of its bandwidth."""
    HOST = 7
    """No kernel, while requests are in flight."""
    IDLE = 8
    HUNG = 9
    """A kernel that never ends."""
    LOST = 10
    """The GPU is off the bus."""


KERNEL_KINDS = 7
"""The first so many kinds are the kernels of an engine step, in the order of `StepTimes`."""

BATCH_SECONDS = len(Kind)
"""The ledger's last entry: seconds of decode GEMM × sequences in its batch."""

LEDGER_ENTRIES = len(Kind) + 1

Ledger = tuple[float, ...]
"""Seconds since the start, one entry a `Kind`, and `BATCH_SECONDS`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """How one kind of time shows: ratios while it lasts, and the power drawn."""

    cause: Cause
    dram: float = 0.0
    tensor: float = 0.0
    sm: float = 0.0
    resident: bool = True
    watts: float
    """Of an H100; another part draws in proportion to its power limit."""
    follows_sm_clock: bool = False
    """Whether a lower SM clock makes it last longer."""


SIGNATURES: dict[Kind, Signature] = {
    Kind.DECODE_GEMM: Signature(cause="memory_bandwidth", dram=0.82, tensor=0.01, sm=0.90, watts=430),
    Kind.DECODE_ATTENTION: Signature(cause="memory_bandwidth", dram=0.78, tensor=0.05, sm=0.85, watts=400),
    Kind.PREFILL_GEMM: Signature(
        cause="compute", dram=0.15, tensor=0.80, sm=0.96, watts=690, follows_sm_clock=True
    ),
    Kind.PREFILL_ATTENTION: Signature(
        cause="compute", dram=0.10, tensor=0.55, sm=0.92, watts=620, follows_sm_clock=True
    ),
    Kind.COMM: Signature(cause="interconnect", dram=0.10, sm=0.20, watts=260),
    Kind.ELEMENTWISE: Signature(cause="kernel_latency", dram=0.40, sm=0.75, watts=330),
    # The bytes that such kernels move are all in the time that they would need at full bandwidth.
    Kind.LATENCY: Signature(cause="kernel_latency", sm=0.45, watts=240),
    Kind.HOST: Signature(cause="host", resident=False, watts=125),
    Kind.IDLE: Signature(cause="idle", resident=False, watts=75),
    Kind.HUNG: Signature(cause="unknown", sm=0.05, watts=140),
    Kind.LOST: Signature(cause="unknown", resident=False, watts=0),
}

# A batch-128 decode GEMM keeps the tensor pipes about a third busy; a batch of one pads to a whole tile.
DECODE_TENSOR_PER_SEQUENCE = 0.0024


def activity_between(before: Ledger, after: Ledger, seconds: float) -> Activity:
    """What profiling counters would say of the time between two ledgers of one GPU."""
    dram = sm = resident = 0.0
    tensor = DECODE_TENSOR_PER_SEQUENCE * (after[BATCH_SECONDS] - before[BATCH_SECONDS])
    for kind, signature in SIGNATURES.items():
        spent = after[kind] - before[kind]
        dram += spent * signature.dram
        tensor += spent * signature.tensor
        sm += spent * signature.sm
        resident += spent * signature.resident
    return Activity(
        evidence="gpm",
        seconds=seconds,
        dram_ratio=min(dram / seconds, 1.0),
        tensor_ratio=min(tensor / seconds, 1.0),
        sm_ratio=min(sm / seconds, 1.0),
        graphics_ratio=min(resident / seconds, 1.0),
    )


def watts(kind: Kind, part: Part, limit_watts: float) -> float:
    """Power drawn while this lasts, on a GPU held to this power limit."""
    return min(SIGNATURES[kind].watts * part.power_limit_watts / H100.power_limit_watts, limit_watts)


def joules(ledger: Ledger, part: Part, limit_watts: float) -> float:
    """Energy drawn since the start, on a GPU held to this power limit."""
    return sum(ledger[kind] * watts(kind, part, limit_watts) for kind in SIGNATURES)


def seconds_by_cause(before: Ledger, after: Ledger) -> dict[Cause, float]:
    """The time between two ledgers by its cause; the values sum to that time."""
    seconds = dict.fromkeys(CAUSES, 0.0)
    for kind, signature in SIGNATURES.items():
        seconds[signature.cause] += after[kind] - before[kind]
    return seconds
