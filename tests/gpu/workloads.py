"""What the GPU is given to do, and what must then be seen: one row a workload.

The truth is known because it is counted on paper: a call of each kind moves so many bytes and computes
so many FLOPs, and its data is far larger than any L2 (126 MB at most), so that no cache can help.
Only the standard library here: the worker imports this under the interpreter that has PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.roofline.bottleneck import Bottleneck

GIBI = 1024**3
BF16_BYTES, FP32_BYTES = 2, 4

ADD_ELEMENTS = GIBI // FP32_BYTES
GEMV_INPUTS, GEMV_OUTPUTS, GEMV_LAYERS = 8192, 28672, 4
MATMUL_SIZE = 8192
TINY_ELEMENTS, TINY_KERNELS = 1024, 1000

CONTEXT_BYTES = GIBI
"""What CUDA's context, cuBLAS and the kernels themselves take of the memory, at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One kind of call, as the worker knows it by its name."""

    name: str
    flops: int
    dram_bytes: int | None
    """What DRAM must move for it; `None` where a cache has a say in it."""
    held_bytes: int
    """Memory that its data takes."""


ADD = Call(
    name="add",  # out = a + b: two are read, one is written
    flops=ADD_ELEMENTS,
    dram_bytes=3 * ADD_ELEMENTS * FP32_BYTES,
    held_bytes=3 * ADD_ELEMENTS * FP32_BYTES,
)
GEMV = Call(
    name="gemv",  # the MLP's matrices of some layers, for one token: each weight is read once
    flops=GEMV_LAYERS * 2 * GEMV_INPUTS * GEMV_OUTPUTS,
    dram_bytes=GEMV_LAYERS * (GEMV_INPUTS * GEMV_OUTPUTS + GEMV_INPUTS + GEMV_OUTPUTS) * BF16_BYTES,
    held_bytes=GEMV_LAYERS * GEMV_INPUTS * GEMV_OUTPUTS * BF16_BYTES,
)
MATMUL = Call(
    name="matmul",
    flops=2 * MATMUL_SIZE**3,
    dram_bytes=None,  # at least each matrix once; how often again is up to the tiling and the L2
    held_bytes=3 * MATMUL_SIZE**2 * BF16_BYTES,
)
TINY_GRAPH = Call(
    name="tiny_graph",  # one CUDA graph: the GPU goes from kernel to kernel without the host
    flops=TINY_KERNELS * TINY_ELEMENTS,
    dram_bytes=None,  # the data stays in the L2
    held_bytes=TINY_ELEMENTS * FP32_BYTES,
)
TINY_EAGER = Call(
    name="tiny_eager",  # the same kernels, each launched from Python
    flops=TINY_KERNELS * TINY_ELEMENTS,
    dram_bytes=None,
    held_bytes=TINY_ELEMENTS * FP32_BYTES,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What is run, and what the agent may say of it."""

    name: str
    says: str
    shares: tuple[tuple[Call, float], ...] = ()
    """Kinds of call, with the share of the GPU's time that each gets; none is a GPU with nothing to do."""
    pause_ratio: float = 0.0
    """After each call the host sleeps for so many times as long as the call took."""
    accepted: tuple[Bottleneck, ...]
    """The classes that are right when no engine is known to run on the GPU."""
    accepted_with_requests: tuple[Bottleneck, ...] | None = None
    """Those that are right when an engine has requests in flight; `None` where that adds nothing."""
    because: str
    resident: bool | None
    """Whether NVML must see kernels nearly all of the time, or none; `None` where neither is sure."""

    @property
    def dram_is_known(self) -> bool:
        """Whether the bytes that DRAM moves can be counted."""
        return bool(self.shares) and all(call.dram_bytes is not None for call, _ in self.shares)

    @property
    def held_bytes(self) -> int:
        """Memory that it needs at once."""
        return sum(call.held_bytes for call, _ in self.shares)

    def dram_bytes(self, calls: Mapping[str, float]) -> float:
        """What DRAM moved in so many calls of each kind, of those that can be counted."""
        return sum((call.dram_bytes or 0) * calls.get(call.name, 0.0) for call, _ in self.shares)

    def flops(self, calls: Mapping[str, float]) -> float:
        """What was computed in so many calls of each kind."""
        return sum(call.flops * calls.get(call.name, 0.0) for call, _ in self.shares)


# The shares of the two mixtures lie clear of the borders at 0.6 and 0.5: with DRAM at its ceiling and the
# tensor pipes at 0.9, three quarters of the time show as 0.75 and 0.68, one quarter as 0.25 and 0.23.
WORKLOADS: tuple[Workload, ...] = (
    Workload(
        name="idle",
        says="a CUDA context, and nothing to do",
        accepted=("idle",),
        because="nothing runs; if this fails, is somebody else using the GPU?",
        resident=False,
    ),
    Workload(
        name="add",
        says="out = a + b over 3 GiB",
        shares=((ADD, 1.0),),
        accepted=("memory_bandwidth",),
        because="1 FLOP for 12 bytes",
        resident=True,
    ),
    Workload(
        name="gemv",
        says="bf16 weights times one token, as in decode",
        shares=((GEMV, 1.0),),
        accepted=("memory_bandwidth",),
        because="1 FLOP a byte",
        resident=True,
    ),
    Workload(
        name="matmul",
        says="8192 x 8192 x 8192 in bf16, as in prefill",
        shares=((MATMUL, 1.0),),
        accepted=("compute",),
        because="2731 FLOPs a byte if each matrix is moved once",
        resident=True,
    ),
    Workload(
        name="mostly_memory",
        says="3/4 of the time add, 1/4 matmul",
        shares=((ADD, 0.75), (MATMUL, 0.25)),
        accepted=("memory_bandwidth",),
        because="memory bounds three quarters of the time",
        resident=True,
    ),
    Workload(
        name="mostly_compute",
        says="1/4 of the time add, 3/4 matmul",
        shares=((ADD, 0.25), (MATMUL, 0.75)),
        accepted=("compute",),
        because="compute bounds three quarters of the time",
        resident=True,
    ),
    Workload(
        name="halves",
        says="half of the time add, half matmul",
        shares=((ADD, 0.5), (MATMUL, 0.5)),
        accepted=("memory_bandwidth", "compute", "unknown"),
        because="either bounds half of the time, and means over both may show neither near its roof",
        resident=True,
    ),
    Workload(
        name="tiny_graph",
        says="tiny kernels back to back in a CUDA graph",
        shares=((TINY_GRAPH, 1.0),),
        accepted=("kernel_latency",),
        because="kernels run all the time, and no roof is near",
        resident=True,
    ),
    Workload(
        name="tiny_eager",
        says="tiny kernels, each launched from Python",
        shares=((TINY_EAGER, 1.0),),
        accepted=("kernel_latency", "unknown"),
        accepted_with_requests=("kernel_latency", "host"),
        because="the host's launches and the kernels overlap; how much the GPU waits depends on the CPU",
        resident=None,
    ),
    Workload(
        name="tiny_paused",
        says="tiny kernels for 1/5 of the time, the host asleep for 4/5",
        shares=((TINY_GRAPH, 1.0),),
        pause_ratio=4.0,
        accepted=("unknown",),
        accepted_with_requests=("host",),
        because="too busy to be idle, and only an engine's requests show that the GPU waits for its host",
        resident=None,
    ),
)

NEEDED_BYTES = max(workload.held_bytes for workload in WORKLOADS) + CONTEXT_BYTES
