"""PyTorch as the device. Here are the only calls of it.

It is imported when a device is opened, after the process was told to see one GPU alone: by its UUID, since
CUDA and NVML may count GPUs in different orders. Kernels are timed by CUDA events around many of them in one
CUDA graph, so that the host's launches take no part in it.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import math
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from agent.calibration.device import ARRAYS, Traffic, UnsupportedError, format_of
from agent.calibration.timings import Timed
from agent.errors import AgentError
from agent.units import MEBI

LACKING = (
    "calibrate needs PyTorch: pip install 'roofline-agent[calibrate]'; for NVIDIA GPUs a build with CUDA, "
    "for other machines see https://pytorch.org"
)
BATCH_SECONDS = 0.02
"""What is timed at once: far longer than an event's grain of 0.5 µs, and short enough to repeat often."""
MOST_CALLS = 2000
WARM_UPS = 3
CACHE_COPIES = 4
"""Matrices are taken in turn from a set that is so many times the L2: each comes from DRAM."""
ANY_CACHE_BYTES = 64 * MEBI
FP32_BYTES = 4

LEAST_CAPABILITY: Mapping[str, tuple[int, int]] = {
    "bf16": (8, 0),
    "fp16": (7, 0),
    "fp8": (8, 9),
    "int8": (7, 5),
    "tf32": (8, 0),
    "fp32": (0, 0),
}
"""From which compute capability on tensor cores have the format: what is emulated below it is no roof."""

NEEDED_NAMES: Mapping[str, tuple[str, ...]] = {"fp8": ("float8_e4m3fn", "_scaled_mm"), "int8": ("_int_mm",)}
"""What older versions of PyTorch lack."""

OF_GPUS = ("fp8", "tf32")
"""A CPU computes these one number after another, or not at all."""


def is_installed() -> bool:
    """Whether PyTorch can be imported."""
    return importlib.util.find_spec("torch") is not None


def open_gpu(uuid: str, name: str) -> TorchDevice:
    """The GPU of that UUID, as the only one this process sees. Raises `AgentError` where CUDA has none."""
    os.environ["CUDA_VISIBLE_DEVICES"] = uuid
    torch = _torch()
    if not torch.cuda.is_available():
        built = torch.version.cuda
        problem = (
            "is built without CUDA: install a build with it (https://pytorch.org)"
            if built is None
            else f"for CUDA {built} finds no GPU: is the driver new enough, and are /dev/nvidia* readable?"
        )
        raise AgentError(f"PyTorch {torch.__version__} {problem}")
    return TorchDevice(torch, "cuda", name)


def open_cpu() -> TorchDevice:
    """The CPU of this machine, so that all but CUDA can be tried without a GPU."""
    return TorchDevice(_torch(), "cpu", "CPU")


def _torch() -> Any:
    warnings.filterwarnings("ignore", message="Failed to initialize NumPy")  # nothing here needs it
    try:
        return importlib.import_module("torch")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise AgentError(LACKING) from None


class TorchDevice:
    """One GPU, or the CPU."""

    def __init__(self, torch: Any, device: str, name: str) -> None:
        self.name = name
        self._torch, self._device = torch, device
        self._is_gpu = device == "cuda"
        self._properties = torch.cuda.get_device_properties(0) if self._is_gpu else None

    @property
    def library(self) -> str:
        """PyTorch's version, and that of its CUDA."""
        cuda = f", CUDA {self._torch.version.cuda}" if self._is_gpu else ""
        return f"PyTorch {self._torch.__version__}{cuda}"

    @property
    def free_bytes(self) -> int:
        """What the driver still has, and what PyTorch keeps of what was given back."""
        if not self._is_gpu:
            return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        self._torch.cuda.empty_cache()
        free, _ = self._torch.cuda.mem_get_info()
        return int(free)

    @property
    def l2_bytes(self) -> int | None:
        """The L2; older PyTorch does not tell, and a CPU is taken to have no larger cache than most have."""
        if not self._is_gpu:
            return ANY_CACHE_BYTES
        found = getattr(self._properties, "L2_cache_size", None)
        return int(found) if found else None

    def traffic(self, kind: Traffic, moved_bytes: int) -> Timed:
        """A kernel over fp32 arrays, which move so many bytes together."""
        torch = self._torch
        count = moved_bytes // ARRAYS[kind] // FP32_BYTES
        with self._translated(AgentError):
            # Random data: zeros toggle no bits, take less power, and leave the clocks higher than work does.
            arrays = [torch.rand(count, device=self._device) for _ in range(ARRAYS[kind])]
            if kind == "copy":
                a, b = arrays
                return self._timed([lambda: b.copy_(a)])
            if kind == "triad":
                a, b, c = arrays
                return self._timed([lambda: torch.add(a, b, alpha=1.5, out=c)])
            (a,) = arrays
            return self._timed([lambda: torch.sum(a)])

    def product(self, m: int, k: int, n: int, dtype: str) -> Timed:
        """As a layer computes it: weights as [n, k], used transposed."""
        self._require(dtype)
        self._torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
        # A large product reads each matrix many times, and its operands may as well lie in the cache.
        copies = 1
        if m < n:
            weight_bytes = k * n * format_of(dtype).bytes_per_element
            copies = math.ceil(CACHE_COPIES * (self.l2_bytes or ANY_CACHE_BYTES) / weight_bytes)
        with self._translated(UnsupportedError):
            return self._timed([_MAKERS[dtype](self, m, k, n) for _ in range(copies)])

    def _require(self, dtype: str) -> None:
        if dtype in OF_GPUS and not self._is_gpu:
            raise UnsupportedError("a format of GPUs")
        for name in NEEDED_NAMES.get(dtype, ()):
            if not hasattr(self._torch, name):
                raise UnsupportedError(f"{self.library} has no {name}")
        if self._properties is None:
            return
        capability = (self._properties.major, self._properties.minor)
        if capability < LEAST_CAPABILITY[dtype]:
            needed, has = (".".join(map(str, each)) for each in (LEAST_CAPABILITY[dtype], capability))
            raise UnsupportedError(f"needs compute capability {needed}; this GPU has {has}")

    @contextmanager
    def _translated(self, error_type: type[AgentError]) -> Iterator[None]:
        try:
            yield
        except self._torch.cuda.OutOfMemoryError:
            raise AgentError(
                f"{self.name}: its memory does not suffice; does another process take it meanwhile?"
            ) from None
        except (RuntimeError, TypeError) as error:  # TypeError: a call that other versions make otherwise
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise error_type(f"{self.library} cannot: {reason[0][:200]}") from None

    # --- what is multiplied --------------------------------------------------------------------

    def _plain(self, m: int, k: int, n: int, dtype: Any) -> Callable[[], object]:
        torch = self._torch
        a, b = self._normal(m, k).to(dtype), self._normal(n, k).to(dtype).t()
        out = torch.empty(m, n, device=self._device, dtype=dtype)
        return lambda: torch.mm(a, b, out=out)

    def _normal(self, rows: int, columns: int) -> Any:
        return self._torch.randn(rows, columns, device=self._device)

    def _fp8(self, m: int, k: int, n: int) -> Callable[[], object]:
        torch = self._torch
        a, b = (self._normal(rows, k).to(torch.float8_e4m3fn) for rows in (m, n))
        one = torch.ones((), device=self._device)
        weights = b.t()
        return lambda: torch._scaled_mm(a, weights, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    def _int8(self, m: int, k: int, n: int) -> Callable[[], object]:
        torch = self._torch
        a, b = (torch.randint(-127, 128, (rows, k), device=self._device, dtype=torch.int8) for rows in (m, n))
        weights = b.t()
        return lambda: torch._int_mm(a, weights)

    # --- timing --------------------------------------------------------------------------------

    def _timed(self, calls: Sequence[Callable[[], object]]) -> Timed:
        """Gives the mean over as many of the calls, in turn, as fill `BATCH_SECONDS`."""
        for call in itertools.islice(itertools.cycle(calls), max(WARM_UPS, len(calls))):
            call()
        once = self._measured(calls) / len(calls)
        rounds = max(1, math.ceil(BATCH_SECONDS / max(once, 1e-9) / len(calls)))
        rounds = min(rounds, max(1, MOST_CALLS // len(calls)))
        batch = [call for _ in range(rounds) for call in calls]
        if not self._is_gpu:
            return lambda: self._measured(batch) / len(batch)
        torch = self._torch
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            for call in batch:
                call()
        return lambda: self._measured([graph.replay]) / len(batch)

    def _measured(self, calls: Sequence[Callable[[], object]]) -> float:
        with self._translated(AgentError):
            return self._seconds_of(calls)

    def _seconds_of(self, calls: Sequence[Callable[[], object]]) -> float:
        if not self._is_gpu:
            begin = time.perf_counter()
            for call in calls:
                call()
            return time.perf_counter() - begin
        torch = self._torch
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        first.record()
        for call in calls:
            call()
        last.record()
        last.synchronize()
        return float(first.elapsed_time(last)) / 1e3


_Maker = Callable[[TorchDevice, int, int, int], Callable[[], object]]


def _of_torch(name: str) -> _Maker:
    return lambda device, m, k, n: device._plain(m, k, n, getattr(device._torch, name))


_MAKERS: Mapping[str, _Maker] = {
    "bf16": _of_torch("bfloat16"),
    "fp16": _of_torch("float16"),
    "tf32": _of_torch("float32"),
    "fp32": _of_torch("float32"),
    "fp8": lambda device, m, k, n: device._fp8(m, k, n),
    "int8": lambda device, m, k, n: device._int8(m, k, n),
}
