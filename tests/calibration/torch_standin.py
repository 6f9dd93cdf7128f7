"""A torch for machines without one, whose GPU has a roof that is known and a time of its own.

It says what the arithmetic of a roofline says, so that the calls that are made of PyTorch can be tried in
their order: one GPU chosen by its UUID, graphs captured and replayed, events around them. Of a real GPU it
says nothing.
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

DRAM, LAUNCH = 4.4e12, 5e-7
PEAKS = {"bfloat16": 7.2e14, "float16": 7.0e14, "float8_e4m3fn": 1.3e15, "int8": 1.2e15, "float32": 5.1e13}
TF32 = 3.8e14
MAJOR, MINOR = map(int, os.environ.get("TORCH_STANDIN_CAPABILITY", "9.0").split("."))
L2_BYTES = 60 * 1024**2
REAL_SECONDS = 0.001
"""What waiting for an event takes here, so that somebody can watch meanwhile."""


@dataclass(frozen=True)
class Dtype:
    name: str
    itemsize: int


bfloat16, float16, float32 = Dtype("bfloat16", 2), Dtype("float16", 2), Dtype("float32", 4)
float8_e4m3fn, int8, int32 = Dtype("float8_e4m3fn", 1), Dtype("int8", 1), Dtype("int32", 4)
version = SimpleNamespace(cuda="13.0")


class OutOfMemoryError(RuntimeError):
    pass


class Gpu:
    def __init__(self) -> None:
        assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["TORCH_STANDIN_UUID"]
        self.now = 0.0
        self.captured: float | None = None
        self.precision = "highest"

    def kernel(self, moved: float, flops: float = 0.0, peak: float = 1.0) -> None:
        seconds = max(moved / DRAM, flops / peak) + LAUNCH
        if self.captured is not None:
            self.captured += seconds
        else:
            self.now += seconds


_gpus: list[Gpu] = []


def gpu() -> Gpu:
    if not _gpus:
        _gpus.append(Gpu())
    return _gpus[0]


@dataclass(frozen=True)
class Tensor:
    shape: tuple[int, ...]
    dtype: Dtype
    transposed: bool = False

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def to(self, dtype: Dtype) -> Tensor:
        return replace(self, dtype=dtype)

    def t(self) -> Tensor:
        return replace(self, shape=self.shape[::-1], transposed=not self.transposed)

    def copy_(self, source: Tensor) -> Tensor:
        assert source.shape == self.shape
        gpu().kernel(source.nbytes + self.nbytes)
        return self


def rand(*shape: int, device: str, dtype: Dtype | None = None) -> Tensor:
    assert device == "cuda"
    gpu()
    if os.environ.get("TORCH_STANDIN_FULL"):
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate")
    return Tensor(shape, dtype or float32)


randn = rand


def empty(*shape: int, device: str, dtype: Dtype) -> Tensor:
    return rand(*shape, device=device, dtype=dtype)


def ones(shape: tuple[int, ...], *, device: str) -> Tensor:
    return rand(*shape, device=device)


def randint(low: int, high: int, shape: tuple[int, ...], *, device: str, dtype: Dtype) -> Tensor:
    assert (low, high) == (-127, 128)
    return rand(*shape, device=device, dtype=dtype)


def add(a: Tensor, b: Tensor, *, alpha: float, out: Tensor) -> Tensor:
    assert a.shape == b.shape == out.shape
    assert alpha
    gpu().kernel(a.nbytes + b.nbytes + out.nbytes)
    return out


def sum(a: Tensor) -> Tensor:  # noqa: A001 - torch's own name
    gpu().kernel(a.nbytes)
    return Tensor((), float32)


def _product(a: Tensor, b: Tensor, output: Dtype) -> Tensor:
    (m, k), (inner, n) = a.shape, b.shape
    assert k == inner
    assert a.dtype == b.dtype
    assert b.transposed, "as a layer keeps its weights, and as cuBLASLt wants them for 8 bit"
    out = Tensor((m, n), output)
    tf32 = a.dtype == float32 and gpu().precision == "high"
    peak = TF32 if tf32 else PEAKS[a.dtype.name]
    gpu().kernel(a.nbytes + b.nbytes + out.nbytes, 2 * m * k * n, peak)
    return out


def mm(a: Tensor, b: Tensor, *, out: Tensor) -> Tensor:
    made = _product(a, b, a.dtype)
    assert (made.shape, made.dtype) == (out.shape, out.dtype)
    return out


def _scaled_mm(a: Tensor, b: Tensor, *, scale_a: Tensor, scale_b: Tensor, out_dtype: Dtype) -> Tensor:
    assert scale_a.dtype == scale_b.dtype == float32
    return _product(a, b, out_dtype)


def _int_mm(a: Tensor, b: Tensor) -> Tensor:
    if os.environ.get("TORCH_STANDIN_NO_INT8"):
        raise RuntimeError("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED\nwith a long story")
    return _product(a, b, int32)


def set_float32_matmul_precision(precision: str) -> None:
    gpu().precision = precision


class Event:
    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at = 0.0

    def record(self) -> None:
        self.at = gpu().now

    def synchronize(self) -> None:
        if begun := os.environ.get("TORCH_STANDIN_BEGUN"):
            Path(begun).touch()
        time.sleep(REAL_SECONDS)

    def elapsed_time(self, other: Event) -> float:
        return (other.at - self.at) * 1e3


class CUDAGraph:
    def __init__(self) -> None:
        self.seconds = 0.0

    def replay(self) -> None:
        if os.environ.get("TORCH_STANDIN_BROKEN"):
            raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with")
        gpu().now += self.seconds


@contextmanager
def capture(graph: CUDAGraph) -> Iterator[None]:
    gpu().captured = 0.0
    yield
    graph.seconds, gpu().captured = gpu().captured or 0.0, None


def mem_get_info() -> tuple[int, int]:
    return int(os.environ.get("TORCH_STANDIN_FREE", 140 * 10**9)), 141 * 10**9


cuda = SimpleNamespace(
    is_available=lambda: os.environ.get("TORCH_STANDIN_CUDA", "1") == "1",
    get_device_properties=lambda index: SimpleNamespace(major=MAJOR, minor=MINOR, L2_cache_size=L2_BYTES),
    mem_get_info=mem_get_info,
    empty_cache=lambda: None,
    synchronize=lambda: None,
    OutOfMemoryError=OutOfMemoryError,
    Event=Event,
    CUDAGraph=CUDAGraph,
    graph=capture,
)
