"""``--simplified``: the lesson's table beside the exact model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.planning.text import wrapped
from agent.roofline.simplified import SimplifiedRow, cost_rows, decode_rows, differences
from agent.units import render_seconds


def lesson_record(row: SimplifiedRow) -> dict[str, Any]:
    """One of its rows, with the exact numbers."""
    exact = row.exact
    return {
        "gpu": row.gpu,
        "gpus": row.gpus,
        "batch": row.batch,
        "arithmetic_intensity_flops_per_byte": row.intensity_flops_per_byte,
        "ridge_flops_per_byte": row.ridge_flops_per_byte,
        "bottleneck": row.bottleneck,
        "utilization_ratio": row.utilization_ratio,
        "step_seconds_bound": row.step_seconds,
        "tokens_per_second": row.tokens_per_second,
        "usd_per_million_tokens": row.usd_per_million_tokens,
        "exact_arithmetic_intensity_flops_per_byte": exact.arithmetic_intensity_flops_per_byte,
        "exact_bottleneck": exact.bottleneck,
        "exact_step_seconds_bound": exact.step_seconds_bound,
        "exact_step_seconds_expected": exact.step_seconds_expected,
        "exact_tokens_per_second": exact.tokens_per_second,
        "exact_usd_per_million_tokens": (
            None if row.usd_per_million_tokens is None else exact.usd_per_million_tokens
        ),
        "exact_kv_limited_batch": exact.kv_limited_batch,
        "exact_fits": exact.fits,
    }


def lesson_report() -> Iterator[str]:
    """Its two tables, and why the exact model says something else."""
    yield "A 70B model in 16 bit: the lesson's simplified arithmetic | the exact model"
    yield ""
    yield "Decode on one GPU at the roof                  | exact, context 2048"
    yield "GPU   batch  FLOP/B  bound   of peak  tokens/s | FLOP/B  at the roof  expected"
    for row in decode_rows():
        exact = row.exact
        yield (
            f"{row.gpu:<5}{row.batch:>6}{row.intensity_flops_per_byte:>8.1f}  "
            f"{row.bottleneck.removesuffix('_bandwidth'):<6}{row.utilization_ratio * 100:>7.2f} %"
            f"{row.tokens_per_second:>10.1f} |{exact.arithmetic_intensity_flops_per_byte:>7.1f}"
            f"{row.batch / exact.step_seconds_bound:>13.1f}{exact.tokens_per_second:>10.1f}"
        )
    yield ""
    yield "Cost at batch 32, 0.7 of the bandwidth, all paid | exact, context 2048"
    yield "GPUs    $/h each      step  tokens/s  $/M tokens | expected tokens/s   $/M"
    for row in cost_rows():
        exact = row.exact
        yield (
            f"{row.gpu}×{row.gpus}{exact.usd_per_hour:>10.2f}{render_seconds(row.step_seconds):>10}"
            f"{row.tokens_per_second:>10.0f}{row.usd_per_million_tokens:>12.2f} |"
            f"{render_seconds(exact.step_seconds_expected):>9}{exact.tokens_per_second:>9.0f}"
            f"{exact.usd_per_million_tokens:>6.2f}{'' if exact.fits else ' !'}"
        )
    yield "! does not fit in memory: what it would do if it did (so every decode row)"
    yield ""
    yield "Why they differ"
    for reason in differences():
        yield from wrapped(" · ", reason)
