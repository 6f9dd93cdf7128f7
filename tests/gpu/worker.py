"""The process that keeps the GPU busy: `python -m tests.gpu.worker WORKLOAD`, until its input ends.

It says when it is ready, works, and then tells when each batch of calls was complete, on the clock that
all processes share: so that what was done between any two instants can be counted from outside.
A process of its own, because launching kernels from Python would hold up the thread that reads NVML.
"""

from __future__ import annotations

import importlib
import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from tests.gpu.workloads import (
    ADD_ELEMENTS,
    GEMV_INPUTS,
    GEMV_LAYERS,
    GEMV_OUTPUTS,
    MATMUL_SIZE,
    TINY_ELEMENTS,
    TINY_KERNELS,
    WORKLOADS,
    Workload,
)

BATCH_SECONDS = 0.1
"""The grain in which progress is told; two batches are always in the queue, so the GPU never waits."""
CALIBRATION_SECONDS = 0.1


def main(arguments: list[str]) -> None:
    if arguments == ["--describe"]:
        print(json.dumps(describe()))
        return
    (workload,) = (workload for workload in WORKLOADS if workload.name == arguments[0])
    torch: Any = importlib.import_module("torch")
    torch.zeros(1, device="cuda")
    torch.cuda.synchronize()

    calls = {call.name: BUILDERS[call.name](torch) for call, _ in workload.shares}
    seconds = {name: seconds_of(torch, call) for name, call in calls.items()}
    counts = calls_of_a_batch(workload, seconds)

    stop = threading.Event()
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    print(json.dumps({"batch": counts, "call_seconds": seconds}), flush=True)
    print(json.dumps({"points": run(torch, _batch(torch, workload, calls, counts, seconds), stop)}))


def _stop_at_end_of_input(stop: threading.Event) -> None:
    # It also ends when whoever started us dies: no GPU is left burning.
    sys.stdin.read()
    stop.set()


def describe() -> dict[str, object]:
    """What PyTorch there is, and which GPU it would use."""
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        return {"torch": None, "problem": str(error)}
    about: dict[str, object] = {"torch": torch.__version__, "cuda": torch.version.cuda}
    if not torch.cuda.is_available():
        return about
    properties = torch.cuda.get_device_properties(0)
    free_bytes, _ = torch.cuda.mem_get_info()
    # Before PyTorch 2.4 the properties have no UUID.
    return {
        **about,
        "device": properties.name,
        "uuid": str(getattr(properties, "uuid", "")),
        "free_bytes": free_bytes,
    }


# --- the calls -----------------------------------------------------------------------------------


def _add(torch: Any) -> Callable[[], object]:
    a, b = (torch.rand(ADD_ELEMENTS, device="cuda") for _ in range(2))
    out = torch.empty_like(a)
    return lambda: torch.add(a, b, out=out)


def _gemv(torch: Any) -> Callable[[], object]:
    def random(*shape: int) -> Any:
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16)

    layers = [random(GEMV_OUTPUTS, GEMV_INPUTS).t() for _ in range(GEMV_LAYERS)]
    token = random(1, GEMV_INPUTS)
    out = random(1, GEMV_OUTPUTS)

    def call() -> None:
        for weights in layers:
            torch.mm(token, weights, out=out)

    return call


def _matmul(torch: Any) -> Callable[[], object]:
    # Random data: zeros toggle no bits, take less power, and leave the clocks higher than real work does.
    a, b, out = (torch.randn(MATMUL_SIZE, MATMUL_SIZE, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    return lambda: torch.mm(a, b, out=out)


def _tiny_eager(torch: Any) -> Callable[[], object]:
    x = torch.zeros(TINY_ELEMENTS, device="cuda")

    def call() -> None:
        for _ in range(TINY_KERNELS):
            x.add_(1.0)

    return call


def _tiny_graph(torch: Any) -> Callable[[], object]:
    eager = _tiny_eager(torch)
    eager()  # what is initialised at the first launch must not fall into the capture
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        eager()

    def call() -> None:
        graph.replay()

    return call


BUILDERS: dict[str, Callable[[Any], Callable[[], object]]] = {
    "add": _add,
    "gemv": _gemv,
    "matmul": _matmul,
    "tiny_graph": _tiny_graph,
    "tiny_eager": _tiny_eager,
}


# --- running them --------------------------------------------------------------------------------


def seconds_of(torch: Any, call: Callable[[], object]) -> float:
    """What one call takes, after the first ones, which choose kernels and raise the clocks."""
    for _ in range(3):
        call()
    calls = 1
    while True:
        begin = _mark(torch)
        for _ in range(calls):
            call()
        end = _mark(torch)
        end.synchronize()
        seconds = begin.elapsed_time(end) / 1e3
        if seconds >= CALIBRATION_SECONDS:
            return float(seconds / calls)
        calls *= 2


def calls_of_a_batch(workload: Workload, seconds: dict[str, float]) -> dict[str, int]:
    """How many calls of each kind fill a batch, each kind with its share of the time."""
    if not workload.shares:
        return {}
    # Long enough that rounding to whole calls leaves the shares what they are.
    whole = max(BATCH_SECONDS, *(4 * seconds[call.name] / share for call, share in workload.shares))
    return {call.name: max(1, round(share * whole / seconds[call.name])) for call, share in workload.shares}


def _batch(
    torch: Any,
    workload: Workload,
    calls: dict[str, Callable[[], object]],
    counts: dict[str, int],
    seconds: dict[str, float],
) -> Callable[[], None]:
    def batch() -> None:
        for name, count in counts.items():
            for _ in range(count):
                calls[name]()
                if workload.pause_ratio:
                    torch.cuda.synchronize()
                    time.sleep(workload.pause_ratio * seconds[name])

    return batch


def run(torch: Any, batch: Callable[[], None], stop: threading.Event) -> list[tuple[float, int]]:
    """Batch after batch until told to stop; gives when each was complete, and how many then were."""
    torch.cuda.synchronize()
    points = [(time.monotonic(), 0)]
    queued: deque[Any] = deque()

    def complete_one() -> None:
        queued.popleft().synchronize()
        points.append((time.monotonic(), len(points)))

    while not stop.is_set():
        batch()
        queued.append(_mark(torch))
        if len(queued) > 1:
            complete_one()
    while queued:
        complete_one()
    return points


def _mark(torch: Any) -> Any:
    # Blocking: the host sleeps until the GPU is there, instead of burning a core beside the reader.
    event = torch.cuda.Event(enable_timing=True, blocking=True)
    event.record()
    return event


if __name__ == "__main__":
    main(sys.argv[1:])
