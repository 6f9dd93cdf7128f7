"""The lesson's simplified arithmetic, kept to be compared with the exact model.

Source: "GPU Inference vs Training Requirements" (EngineersOfAI, 2026). It takes attention as 4·d², a
feed-forward of two matrices and no traffic but weights, so that intensity is the batch size itself; for
prices it rounds the model to 70·10⁹ parameters. Its GPU figures are its own, not the catalogue's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from agent.roofline.cost import usd_per_million_tokens
from agent.roofline.planner import Plan, Point, plan
from agent.roofline.roof import Roof
from agent.units import KIBI, MEBI, render_number, render_percent

LAYERS, HIDDEN, FFN = 80, 8192, 28672
PARAMETERS = LAYERS * (4 * HIDDEN**2 + 2 * HIDDEN * FFN)
"""59.06·10⁹: of the decode rows."""
PRICED_PARAMETERS = 70.0e9
PRICED_BATCH = 32
EFFICIENCY = 0.7
"""Of the bandwidth, in the prices."""
BYTES_PER_WEIGHT = 2
BATCHES = (1, 8, 32, 128)

ROOFS = {
    "H100": Roof(flops_per_second=989.4e12, dram_bytes_per_second=3.35e12),
    "A100": Roof(flops_per_second=312e12, dram_bytes_per_second=2.0e12),
    "L40S": Roof(flops_per_second=362e12, dram_bytes_per_second=0.864e12),
    "A10G": Roof(flops_per_second=125e12, dram_bytes_per_second=0.600e12),
}
DECODED_ON = ("H100", "A100", "L40S")
PRICED = (("H100", 2, 8.00), ("A100", 2, 3.50), ("L40S", 4, 2.20), ("A10G", 8, 1.50))
"""GPU, how many, and the price of one an hour."""

EXACT_MODEL = "llama-3.1-70b"
EXACT_CONTEXT = 2048
MULTI_HEAD_KV_BYTES = LAYERS * 4 * HIDDEN
"""Of one token if every head had its own key and value, in 16 bit: the lesson's 2.5 MB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimplifiedRow:
    """One of the lesson's rows, and the exact model at the same place."""

    gpu: str
    gpus: int
    batch: int
    intensity_flops_per_byte: float
    ridge_flops_per_byte: float
    bottleneck: Literal["memory_bandwidth", "compute"]
    utilization_ratio: float
    """Of the compute peak."""
    step_seconds: float
    tokens_per_second: float
    """Of the whole replica."""
    usd_per_million_tokens: float | None
    """With every GPU paid; `None` where the lesson names no price."""
    exact: Plan


def decode_rows() -> Iterator[SimplifiedRow]:
    """One GPU at the roof, whether the model fits or not."""
    for gpu in DECODED_ON:
        for batch in BATCHES:
            yield _row(gpu, gpus=1, batch=batch, parameters=PARAMETERS, efficiency=1.0, usd_per_hour=None)


def cost_rows() -> Iterator[SimplifiedRow]:
    """A 70 B model at batch 32 and 0.7 of the bandwidth, by the price of all the GPUs."""
    for gpu, gpus, usd_per_hour in PRICED:
        yield _row(
            gpu,
            gpus=gpus,
            batch=PRICED_BATCH,
            parameters=PRICED_PARAMETERS,
            efficiency=EFFICIENCY,
            usd_per_hour=usd_per_hour,
        )


def _row(
    gpu: str, *, gpus: int, batch: int, parameters: float, efficiency: float, usd_per_hour: float | None
) -> SimplifiedRow:
    roof = ROOFS[gpu]
    flops, weight_bytes = 2 * parameters * batch, BYTES_PER_WEIGHT * parameters
    memory_seconds = weight_bytes / gpus / (roof.dram_bytes_per_second * efficiency)
    compute_seconds = flops / gpus / roof.flops_per_second
    step_seconds = max(memory_seconds, compute_seconds)
    tokens_per_second = batch / step_seconds
    return SimplifiedRow(
        gpu=gpu,
        gpus=gpus,
        batch=batch,
        intensity_flops_per_byte=flops / weight_bytes,
        ridge_flops_per_byte=roof.ridge_flops_per_byte,
        bottleneck="memory_bandwidth" if memory_seconds >= compute_seconds else "compute",
        utilization_ratio=compute_seconds / step_seconds,
        step_seconds=step_seconds,
        tokens_per_second=tokens_per_second,
        usd_per_million_tokens=None
        if usd_per_hour is None
        else usd_per_million_tokens(
            gpus=gpus, usd_per_hour=usd_per_hour, tokens_per_second=tokens_per_second
        ),
        exact=plan(
            Point(
                model=EXACT_MODEL,
                gpu=gpu,
                tensor_parallel=gpus,
                batch=batch,
                context=EXACT_CONTEXT,
                usd_per_hour=usd_per_hour,
            )
        ),
    )


def differences() -> tuple[str, ...]:
    """Why the exact model says something else, each reason with its size."""
    exact = plan(
        Point(model=EXACT_MODEL, gpu="H100", tensor_parallel=2, batch=PRICED_BATCH, context=EXACT_CONTEXT)
    )
    long = plan(Point(model=EXACT_MODEL, gpu="H100", batch=128, context=8192))
    architecture, kv_bytes = exact.model.architecture, exact.model.kv_bytes_per_token
    weights = exact.model.step_weight_bytes(1)
    cache = PRICED_BATCH * EXACT_CONTEXT * kv_bytes
    return (
        f"Parameters: {architecture.total_parameters / 1e9:.2f}·10⁹, not {PARAMETERS / 1e9:.2f}·10⁹: "
        "the feed-forward has three matrices, not two; attention is grouped-query (8 of 64 heads), not "
        "4·d²; the embedding and the LM head count too.",
        f"KV cache: {kv_bytes / KIBI:.0f} KiB a token, not {MULTI_HEAD_KV_BYTES / MEBI:.1f} MB: 8 key-value "
        "heads, not 64.",
        f"KV traffic: at batch {PRICED_BATCH} and context {EXACT_CONTEXT} each step also reads "
        f"{cache / 1e9:.1f} GB of cache, {render_percent(cache / weights)} of the weights; at batch 128 and "
        f"context 8192 the intensity is {render_number(long.arithmetic_intensity_flops_per_byte)}, not 128.",
        f"Memory: {exact.model.weight_bytes / 1e9:.0f} GB of weights fill two GPUs of 80 GB: beside them the "
        f"cache of {exact.kv_limited_batch or 'no'} sequence has room, so H100×2 and A100×2 need fp8 or four "
        "GPUs; and no single GPU of the decode table holds the model.",
        f"Time: the exact model adds each layer's small kernels, and collectives: of the step "
        f"{_collective_shares()}.",
        "GPU figures: the catalogue has 2039 GB/s for the A100 80GB, and 70 dense TFLOP/s for the A10G, "
        "not the A10's 125.",
    )


def _collective_shares() -> str:
    rows = {row.gpu: row for row in cost_rows()}
    return ", ".join(
        f"{render_percent(row.exact.step.interconnect / row.exact.step.expected)} on {gpu}×{row.gpus}"
        for gpu, row in rows.items()
    )
