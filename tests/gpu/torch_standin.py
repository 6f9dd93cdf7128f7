"""A `torch` for machines without a GPU, so that the command itself is exercised; tests copy it as torch.py.

It computes nothing. Each kernel takes the time that its bytes and FLOPs would take on a part of the given
speed, and the control file of the stand-in NVML beside it is told how active that made the GPU. What it
shows is that the parts of gpu-check fit together; of a real GPU it says nothing.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

__version__ = "0.0+standin"

DRAM_PEAK, DRAM_SPEED = 2 * 3201e6 * 6144 / 8, 4.4e12
TENSOR_SPEED, TENSOR_ACTIVE = 700e12, 0.9
KERNEL_SECONDS = 2e-6
SKEW = float(os.environ.get("TORCH_STANDIN_SKEW", "1"))
"""What the counters say of DRAM ÷ what is true."""

bfloat16 = SimpleNamespace(itemsize=2)
version = SimpleNamespace(cuda="13.0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Seconds: of the GPU, of DRAM at its peak, of the tensor pipes."""

    busy: float = 0.0
    dram: float = 0.0
    tensor: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(
            busy=self.busy + other.busy, dram=self.dram + other.dram, tensor=self.tensor + other.tensor
        )


class Gpu:
    """The queue of kernels: when it will be empty, and what was put into it since the last event."""

    def __init__(self) -> None:
        self.empty_at = self.told_at = time.monotonic()
        self.since = Work()
        self.drained = True
        self.captured: Work | None = None
        tell(Work(), 1.0)

    def enqueue(self, work: Work) -> None:
        if self.captured is not None:
            self.captured += work
            return
        if self.drained:
            self.empty_at, self.drained = max(self.empty_at, time.monotonic()), False
        # Otherwise without a gap: a busy test machine that comes late with the next kernel is no idle GPU.
        self.empty_at += work.busy
        self.since += work

    def kernel(self, *, moved: float = 0.0, flops: float = 0.0) -> None:
        compute = flops / TENSOR_SPEED
        busy = max(moved / DRAM_SPEED, compute, KERNEL_SECONDS)
        self.enqueue(Work(busy=busy, dram=moved / DRAM_PEAK, tensor=compute * TENSOR_ACTIVE))

    def event(self) -> float:
        elapsed = self.empty_at - self.told_at
        if elapsed > 0:
            tell(self.since, elapsed)
        self.told_at, self.since = self.empty_at, Work()
        return self.empty_at


def tell(work: Work, elapsed: float) -> None:
    """Write it where the stand-in NVML looks."""
    busy, dram, tensor = (100 * part / elapsed for part in (work.busy, work.dram, work.tensor))
    control = Path(os.environ["TORCH_STANDIN_CONTROL"])
    said = {
        "gpm.1": busy,
        "gpm.2": busy,
        "gpm.5": tensor,
        "gpm.10": dram * SKEW,
        "utilization_gpu_percent": round(busy),
    }
    kept = [line for line in control.read_text().splitlines() if line.partition("=")[0] not in said]
    written = control.with_name("control.torch")
    written.write_text("\n".join([*kept, *(f"{key}={value}" for key, value in said.items()), ""]))
    written.rename(control)


@dataclass(frozen=True)
class Tensor:
    """A shape and the bytes of an element."""

    shape: tuple[int, ...]
    itemsize: int

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.itemsize

    def t(self) -> Tensor:
        return replace(self, shape=self.shape[::-1])

    def add_(self, _: float) -> Tensor:
        gpu().kernel()
        return self


def rand(*shape: int, device: str, dtype: SimpleNamespace | None = None) -> Tensor:
    assert device == "cuda"
    gpu()
    return Tensor(shape, dtype.itemsize if dtype is not None else 4)


randn = zeros = rand


def empty_like(tensor: Tensor) -> Tensor:
    return tensor


def add(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    assert a.shape == b.shape == out.shape
    gpu().kernel(moved=a.nbytes + b.nbytes + out.nbytes)
    return out


def mm(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    (m, k), (inner, n) = a.shape, b.shape
    assert k == inner
    assert out.shape == (m, n)
    gpu().kernel(moved=a.nbytes + b.nbytes + out.nbytes, flops=2 * m * k * n)
    return out


_gpus: list[Gpu] = []


def gpu() -> Gpu:
    """The one GPU, from the first use on."""
    if not _gpus:
        _gpus.append(Gpu())
    return _gpus[0]


class Event:
    """The moment at which all that was enqueued before it is complete."""

    def __init__(self, *, enable_timing: bool, blocking: bool) -> None:
        assert enable_timing
        assert blocking
        self.at = 0.0

    def record(self) -> None:
        self.at = gpu().event()

    def synchronize(self) -> None:
        time.sleep(max(self.at - time.monotonic(), 0.0))

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1e3


class CUDAGraph:
    """Kernels that were captured, as one."""

    def __init__(self) -> None:
        self.work = Work()

    def replay(self) -> None:
        gpu().enqueue(self.work)


@contextmanager
def capture(graph: CUDAGraph) -> Iterator[None]:
    gpu().captured = Work()
    yield
    graph.work, gpu().captured = gpu().captured or Work(), None


def synchronize() -> None:
    time.sleep(max(gpu().empty_at - time.monotonic(), 0.0))
    gpu().drained = True


cuda = SimpleNamespace(
    is_available=lambda: os.environ.get("TORCH_STANDIN_CUDA", "1") == "1",
    get_device_properties=lambda _: SimpleNamespace(
        name="NVIDIA H200", uuid="00000000-0000-0000-0000-000000000000"
    ),
    mem_get_info=lambda: (int(os.environ.get("TORCH_STANDIN_FREE", 140 * 10**9)), 141 * 10**9),
    synchronize=synchronize,
    Event=Event,
    CUDAGraph=CUDAGraph,
    graph=capture,
)
